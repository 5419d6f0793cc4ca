//! A ring of operand tiles in shared memory, and how a warp multiplies what lies in one stage of it: `ldmatrix` into
//! `mma.sync`. Elements are counted in units of 16 bits, for 8-bit ones lie in pairs where bf16 ones lie alone.

use super::matmul::Tiling;
use super::operands::Operands;
use crate::builder::{Bf16, Builder, F32, I32, SharedPtr, Val};
use crate::tile::{CHUNK, Tile};

/// Accumulators of a warp: `[m16 tile][n8 tile]`, four a lane.
pub(super) type Sums<'b> = Vec<Vec<[Val<'b, F32>; 4]>>;

/// The ring in shared memory and what is the same in every stage.
#[derive(Clone, Copy)]
pub(super) struct Ring<'b> {
    pub(super) base: SharedPtr<'b, Bf16>,
    pub(super) x: Tile,
    pub(super) w: Tile,
}

impl<'b> Ring<'b> {
    /// Bytes of a stage: the tile of x, then that of w.
    pub(super) fn stage_bytes(self) -> u32 {
        self.x.bytes() + self.w.bytes()
    }

    /// The stage after the one at `stage`; the one at `last` is followed by the first.
    pub(super) fn next(self, stage: Val<'b, I32>, last: u32) -> Val<'b, I32> {
        stage.eq(last).select(0, stage + self.stage_bytes())
    }
}

/// How a warp reads its operands from a stage.
pub(super) struct Fragments<'b> {
    b: &'b Builder,
    /// Byte offset of this lane's row in the tile of x and of w, for `ldmatrix`.
    row_x: Val<'b, I32>,
    row_w: Val<'b, I32>,
    /// Byte offset of its chunk in the row, for each k16 step of this warp.
    chunk_x: Vec<Val<'b, I32>>,
    chunk_w: Vec<Val<'b, I32>>,
    ring: Ring<'b>,
    operands: Operands,
}

impl<'b> Fragments<'b> {
    /// `warp`: the warp's place along M, N and K.
    pub(super) fn new(
        b: &'b Builder,
        ring: Ring<'b>,
        operands: Operands,
        t: Tiling,
        [wm, wn, wk]: [Val<'b, I32>; 3],
    ) -> Fragments<'b> {
        let (lane, _) = b.lane_and_warp();
        // x: matrices (rows 0-7, k 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (rows 8-15, k 8-15).
        let row_x = wm * (t.bm / t.warps[0]) + (lane & 15);
        let half_x = lane >> 4;
        // w: matrices (columns 0-7, k 0-7), (columns 0-7, k 8-15), (columns 8-15, k 0-7), (columns 8-15, k 8-15).
        let row_w = wn * (t.bn / t.warps[1]) + (lane & 7) + ((lane >> 4) << 3);
        let half_w = (lane >> 3) & 1;
        let own = t.bk / 16 / t.warps[2];
        let chunks = |tile: Tile, row: Val<'b, I32>, half: Val<'b, I32>| -> Vec<Val<'b, I32>> {
            let key = tile.key(row);
            (0..own).map(|ks| (((wk * own + ks) * 2 + half) ^ key) * CHUNK).collect()
        };
        Fragments {
            b,
            row_x: row_x * ring.x.row_bytes,
            row_w: row_w * ring.w.row_bytes,
            chunk_x: chunks(ring.x, row_x, half_x),
            chunk_w: chunks(ring.w, row_w, half_w),
            ring,
            operands,
        }
    }

    /// `sums + x w^T` over the stage at `stage`.
    pub(super) fn multiply(&self, stage: SharedPtr<'b, Bf16>, mut sums: Sums<'b>) -> Sums<'b> {
        let x = stage.at_bytes(self.row_x);
        let w = stage.at_bytes(self.row_w);
        for (&cx, &cw) in self.chunk_x.iter().zip(&self.chunk_w) {
            let (x, w) = (x.at_bytes(cx), w.at_bytes(cw));
            let rows: Vec<_> = (0..sums.len() as u32)
                .map(|mi| self.b.ldmatrix(x.at_bytes(mi * 16 * self.ring.x.row_bytes), false))
                .collect();
            for pair in 0..sums[0].len() / 2 {
                let offset = self.ring.x.bytes() + pair as u32 * 16 * self.ring.w.row_bytes;
                let [w0, w1, w2, w3] = self.b.ldmatrix(w.at_bytes(offset), false);
                for (mi, &a) in rows.iter().enumerate() {
                    for (ni, columns) in [(2 * pair, [w0, w1]), (2 * pair + 1, [w2, w3])] {
                        sums[mi][ni] = self.operands.mma(self.b, a, columns, sums[mi][ni]);
                    }
                }
            }
        }
        sums
    }
}
