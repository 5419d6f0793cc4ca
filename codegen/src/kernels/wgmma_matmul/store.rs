//! From the sums of a warpgroup to y. Of bf16, four lanes that hold two columns each of four tiles of eight exchange
//! them, so that each has eight columns of one tile: 16 bytes to read of the residual, and 16 to store.

use super::super::epilogue::Epilogue;
use super::super::gated_act::activate;
use super::{Block, WgmmaMatmul};
use crate::builder::{Builder, F32, I1, I32, I64, Special, Val};
use std::ops::Range;
use trtc_ir::DType;

/// Columns of a tile of the accumulators.
pub(super) const TILE: u32 = 8;
/// Tiles whose columns lanes exchange.
pub(super) const TILES: usize = 4;
/// Groups of tiles whose residual is under way at once: 32 registers.
const AHEAD: usize = 4;

/// A lane's sums of a tile.
pub(super) type Four<'b> = [Val<'b, F32>; 4];

/// Eight columns of bf16 in four registers.
type Chunk<'b> = [Val<'b, I32>; TILES];

/// What is the same for all rows: the scale of each of two columns of a tile, and their bias.
pub(super) type Columns<'b> = (Option<[Val<'b, F32>; 2]>, Option<[Val<'b, F32>; 2]>);

/// What a lane stores to.
pub(super) struct Lane<'b> {
    pub(super) b: &'b Builder,
    pub(super) epilogue: Epilogue<'b>,
    /// `lane % 4`.
    pub(super) q: Val<'b, I32>,
    /// The two rows, and whether they exist.
    pub(super) rows: [(Val<'b, I32>, Val<'b, I1>); 2],
    /// First column of the warpgroup.
    pub(super) column: Val<'b, I32>,
}

impl WgmmaMatmul {
    /// Stores a warpgroup's tile at `[row, column]`, of which this warp has 16 rows of every 64.
    pub(super) fn store<'b>(
        &self,
        block: Block<'b>,
        warp: Val<'b, I32>,
        epilogue: Epilogue<'b>,
        [row, column]: [Val<'b, I32>; 2],
        sums: &[Vec<Val<'b, F32>>],
    ) {
        let b = block.b;
        let row = row + warp % 4 * 16;
        let lane = b.special(Special::Lane);
        let exchanged = self.of.out == DType::Bf16 && self.of.residual.is_none_or(|r| r == DType::Bf16);
        for (i, sums) in sums.iter().enumerate() {
            let row = row + i as u32 * 64;
            let tiles: Vec<_> = sums.chunks(4).map(|c| [c[0], c[1], c[2], c[3]]).collect();
            let outputs = tiles.len() / self.of.halves() as usize;
            let groups = if exchanged { outputs / TILES } else { 0 };
            let place = |half: u32| {
                let row = row + (lane >> 2) + half * 8;
                (row, row.lt(epilogue.m))
            };
            let to = Lane { b, epilogue, q: lane & 3, rows: [place(0), place(1)], column };
            let ahead = AHEAD / self.of.halves() as usize;
            for first in (0..groups).step_by(ahead) {
                let (own, ups) = tiles.split_at(outputs);
                to.store([own, ups], first..groups.min(first + ahead));
            }
            // What is left of a tile whose columns are no multiple of 32, or of f32.
            let done = groups * TILES;
            let halves = tiles.chunks(outputs.max(1));
            let rest: Vec<_> = halves.flat_map(|half| &half[done..]).copied().collect();
            if !rest.is_empty() {
                epilogue.store(b, &vec![rest], [row, column + done as u32 * TILE]);
            }
        }
    }
}

impl<'b> Lane<'b> {
    /// Stores some groups of tiles, and of those of up if y is gated.
    fn store(&self, [tiles, ups]: [&[Four<'b>]; 2], groups: Range<usize>) {
        // Everything is read before anything is stored: the reads are under way together.
        let scales = [0, 1].map(|row| self.row_scale(row));
        let (gate, n) = (self.epilogue.gate, self.epilogue.n);
        let of_up = |group| gate.map(|_| self.columns(group, n));
        let read: Vec<_> = groups.map(|g| (g, self.residual(g), self.columns(g, 0), of_up(g))).collect();
        for (group, residual, columns, of_up) in read {
            for row in 0..2 {
                let residual = residual.map(|chunks| self.b.exchange(self.q, chunks[row]));
                let packed = std::array::from_fn(|t| {
                    let value = |tile, of| self.value(tile, row, of, scales[row]);
                    let at = group * TILES + t;
                    let pair = value(tiles[at], columns[t]);
                    let pair = match (gate, of_up) {
                        (Some(act), Some(of_up)) => {
                            let up = value(ups[at], of_up[t]);
                            [0, 1].map(|i| activate(act, pair[i]) * up[i])
                        }
                        _ => pair,
                    };
                    let pair = sum(pair, residual.map(|words| self.b.unpack_bf16(words[t])));
                    self.b.pack_bf16(pair[0], pair[1])
                });
                let words = self.b.exchange(self.q, packed);
                let (at, exists) = self.chunk(row, group);
                self.b.if_(exists, || self.epilogue.y.at64(at).store_words(words));
            }
        }
    }

    /// The scale of a row.
    pub(super) fn row_scale(&self, row: usize) -> Option<Val<'b, F32>> {
        let (row, exists) = self.rows[row];
        self.epilogue.scales.map(|scales| scales.rows.of(exists.select(row, 0)))
    }

    /// Two columns of a row from their sums, with their scales and bias.
    pub(super) fn value(
        &self,
        tile: Four<'b>,
        row: usize,
        (columns, bias): Columns<'b>,
        scale: Option<Val<'b, F32>>,
    ) -> [Val<'b, F32>; 2] {
        let pair = [tile[2 * row], tile[2 * row + 1]];
        let pair = match (columns, scale) {
            (Some(columns), Some(row)) => [0, 1].map(|i| pair[i] * (row * columns[i])),
            _ => pair,
        };
        sum(pair, bias)
    }

    /// Place of this lane's chunk of a group in a row, and whether it exists.
    fn chunk(&self, row: usize, group: usize) -> (Val<'b, I64>, Val<'b, I1>) {
        let (n, (row, exists)) = (self.epilogue.n, self.rows[row]);
        let column = self.column + (self.q + (group * TILES) as u32) * TILE;
        let exists = if self.epilogue.ragged { exists & column.lt(n) } else { exists };
        (row.to_i64() * i64::from(n) + column.to_i64(), exists)
    }

    /// The residual of a group, a chunk for each row; where there is none, something.
    fn residual(&self, group: usize) -> Option<[Chunk<'b>; 2]> {
        let residual = self.epilogue.residual?;
        Some(std::array::from_fn(|row| {
            let (at, exists) = self.chunk(row, group);
            residual.at64(exists.select(at, 0i64)).load_words()
        }))
    }

    /// Scales and bias of this lane's two columns of each tile of a group, `beyond` columns further on.
    pub(super) fn columns(&self, group: usize, beyond: u32) -> [Columns<'b>; TILES] {
        std::array::from_fn(|t| {
            let column = self.column + (self.q * 2 + (group * TILES + t) as u32 * TILE);
            let column = if self.epilogue.ragged { column.min(self.epilogue.n - 2) } else { column };
            let column = column + beyond;
            let scale = self.epilogue.scales.map(|s| s.columns.at(column).load_vector().elements());
            (scale, self.epilogue.bias.map(|bias| bias.at(column).load()))
        })
    }
}

/// A pair, and what is added to it.
fn sum<'b>(a: [Val<'b, F32>; 2], more: Option<[Val<'b, F32>; 2]>) -> [Val<'b, F32>; 2] {
    more.map_or(a, |more| [a[0] + more[0], a[1] + more[1]])
}
