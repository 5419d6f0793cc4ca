//! `y = x w^T + bias + residual` with weights of 8 or 4 bits: x `(M, K)` bf16, y `(M, N)`, f32 accumulators.
//!
//! Weights lie in panels of 16 outputs, as `trtc_engine::layout` defines them, so that the bytes of a step along K
//! are contiguous and come by `cp.async` into a ring of stages beside the tile of x. Each warp has one panel. It widens
//! its operand of `mma.sync.m16n8k16` in registers: every integer is exact in bf16, so nothing is rounded before the
//! product. int4: a step is one group; its sum is multiplied by the group's scale and added. int8: the channel's scale
//! comes at the end.

use super::epilogue::Epilogue;
use super::fragments::Sums;
use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I8, I32, SharedPtr, Special, Val};
use crate::tile::{CHUNK, Tile};
use trtc_ir::DType;

/// Outputs of a panel.
const PANEL: u32 = 16;
/// Warps of a block, a panel each.
const WARPS: u32 = 4;
/// Threads of a block.
const THREADS: u32 = WARPS * 32;
/// Outputs of a block.
const BN: u32 = WARPS * PANEL;

/// How the weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// i8 with an f32 scale for each output.
    I8,
    /// i4 with a bf16 scale and an i8 zero point for each group of so many inputs.
    I4(u32),
}

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantMatmul {
    /// Outputs.
    pub n: u32,
    /// Inputs.
    pub k: u32,
    /// Weights.
    pub payload: Payload,
    /// Counts M.
    pub rows: Count,
    /// Element type of the bias, if there is one.
    pub bias: Option<DType>,
    /// Element type of the residual, if there is one.
    pub residual: Option<DType>,
    /// Element type of y.
    pub out: DType,
    /// Rows of y of a block: 16 or 64.
    pub bm: u32,
}

/// The parameters that are weights.
#[derive(Clone, Copy)]
struct Weights<'b> {
    payload: GlobalPtr<'b, I8>,
    /// f32 or bf16.
    scale: GlobalPtr<'b, I8>,
    zero: Option<GlobalPtr<'b, I32>>,
}

/// Where this thread's part of a fragment lies.
#[derive(Clone, Copy)]
struct Lane<'b> {
    /// Column of B, `lane / 4`.
    g: Val<'b, I32>,
    /// Pair along K, `lane % 4`.
    q: Val<'b, I32>,
    /// Row of x for `ldmatrix`.
    row: Val<'b, I32>,
    /// Half of 16 inputs for `ldmatrix`.
    half: Val<'b, I32>,
}

impl QuantMatmul {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let QuantMatmul { n, k, payload, .. } = *self;
        if n == 0 || k == 0 || !n.is_multiple_of(8) || !k.is_multiple_of(32) {
            return Some(format!("{n} outputs by {k} inputs are not positive multiples of 8 and 32"));
        }
        match payload {
            Payload::I4(group) if ![32, 64, 128].contains(&group) || !k.is_multiple_of(group) => {
                Some(format!("groups of {group} of {k} inputs are not 32, 64 or 128 that divide them"))
            }
            _ => None,
        }
    }

    /// Inputs of a step.
    fn bk(&self) -> u32 {
        match self.payload {
            Payload::I4(group) => group,
            Payload::I8 => [128, 64, 32].into_iter().find(|b| self.k.is_multiple_of(*b)).unwrap_or(32),
        }
    }

    /// Bytes of `inputs` inputs of a panel.
    fn panel_bytes(&self, inputs: u32) -> u32 {
        match self.payload {
            Payload::I8 => inputs * PANEL,
            Payload::I4(_) => inputs * PANEL / 2,
        }
    }

    fn tile_x(&self) -> Tile {
        Tile { rows: self.bm, row_bytes: self.bk() * 2 }
    }

    fn stage_bytes(&self) -> u32 {
        self.tile_x().bytes() + WARPS * self.panel_bytes(self.bk())
    }

    fn stages(&self) -> u32 {
        if self.bm == 16 { 5 } else { 3 }
    }

    /// The stage after the one at `stage`.
    fn next<'b>(&self, stage: Val<'b, I32>) -> Val<'b, I32> {
        let last = (self.stages() - 1) * self.stage_bytes();
        stage.eq(last).select(0, stage + self.stage_bytes())
    }

    fn tiles_n(&self) -> u32 {
        self.n.div_ceil(BN)
    }

    /// Geometry. Arguments: `[x, weight, bias?, residual?, y]`; the weight is two or three parameters.
    pub fn launch(&self) -> Launch {
        let weight = match self.payload {
            Payload::I8 => ArgKind::Scaled,
            Payload::I4(_) => ArgKind::ScaledZero,
        };
        let more = 1 + usize::from(self.bias.is_some()) + usize::from(self.residual.is_some());
        let mut args = vec![ArgKind::Pointer, weight];
        args.extend(vec![ArgKind::Pointer; more]);
        let grid = grid_of(Extent { of: self.rows, div: self.bm, mul: self.tiles_n() });
        Launch { grid, block: [THREADS, 1, 1], args, scratch: None }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let x = b.param_ptr::<Bf16>();
        let w = Weights {
            payload: b.param_const::<I8>(),
            scale: b.param_const::<I8>(),
            zero: matches!(self.payload, Payload::I4(_)).then(|| b.param_const::<I32>()),
        };
        let bias = self.bias.map(|d| b.param_const_floats(d));
        let residual = self.residual.map(|d| b.param_floats(d));
        let y = b.param_floats(self.out);
        let m = self.rows.of(b.param_dims());
        let ragged = !self.n.is_multiple_of(PANEL);
        let epilogue =
            Epilogue { n: self.n, ragged: ragged || !self.n.is_multiple_of(BN), m, bias, residual, y };

        let block = b.special(Special::BlockX);
        let (m0, tile_n) = (block / self.tiles_n() * self.bm, block % self.tiles_n());
        let (lane, warp) = b.lane_and_warp();
        let panel = tile_n * WARPS + warp;
        let ring = b.shared::<I8>(self.stages() * self.stage_bytes(), 1024);
        let load = |step: Val<'_, I32>, stage: Val<'_, I32>| {
            self.load_x(b, x, ring.at_bytes(stage), (m0, m), step);
            self.load_w(b, w.payload, ring.at_bytes(stage).at_bytes(self.tile_x().bytes()), tile_n, step);
        };

        let (steps, stages) = (self.k / self.bk(), self.stages());
        for s in 0..stages - 1 {
            if s < steps {
                load(b.value(s), b.value(s * self.stage_bytes()));
            }
            b.cp_async_commit();
        }
        let at = Lane { g: lane >> 2, q: lane & 3, row: lane & 15, half: lane >> 4 };
        let zero = b.value(0.0f32);
        let sums: Sums<'_> = vec![vec![[zero; 4]; 2]; (self.bm / 16) as usize];
        let last = (stages - 1) * self.stage_bytes();
        // A panel that does not exist reads the last one's scales; its sums are not stored.
        let scales = panel.min(self.n.div_ceil(PANEL) - 1);
        // read: stage of this step; write: stage of step + stages - 1, which every warp has left behind at the barrier.
        let init = (b.value(0), b.value(last), sums);
        let (_, _, sums) = b.for_(0, steps, 1, init, |step, (read, write, sums)| {
            b.cp_async_wait(stages - 2);
            b.sync();
            let ahead = step + (stages - 1);
            b.if_(ahead.lt(steps), || load(ahead, write));
            b.cp_async_commit();
            let stage = ring.at_bytes(read);
            let own = stage.at_bytes(self.tile_x().bytes()).at_bytes(warp * self.panel_bytes(self.bk()));
            let sums = match self.payload {
                Payload::I8 => self.multiply(b, stage, own, at, None, sums),
                Payload::I4(_) => self.multiply_group(b, (stage, own), at, w, (scales, step), sums),
            };
            (self.next(read), self.next(write), sums)
        });
        b.cp_async_wait(0);
        let sums = match self.payload {
            Payload::I8 => {
                let scale = w.scale.cast::<F32>();
                let of = |t: u32| scale.at(scales * PANEL + t * 8 + at.q * 2).load_vector::<2>().elements();
                scaled(&sums, [of(0), of(1)], None)
            }
            Payload::I4(_) => sums,
        };
        epilogue.store(b, &sums, [m0, panel * PANEL]);
    }

    /// Starts this thread's copies of x; rows past M become zero.
    fn load_x<'b>(
        &self,
        b: &'b Builder,
        x: GlobalPtr<'b, Bf16>,
        to: SharedPtr<'b, I8>,
        (m0, m): (Val<'b, I32>, Val<'b, I32>),
        step: Val<'b, I32>,
    ) {
        let tile = self.tile_x();
        let thread = b.special(Special::ThreadX);
        let (row, chunk) = (thread / tile.chunks(), thread % tile.chunks());
        let each = THREADS / tile.chunks();
        for round in 0..self.bm.div_ceil(each) {
            let row = row + round * each;
            let copy = || {
                let at = (m0 + row).to_i64() * i64::from(self.k);
                let from = x.at64(at).at(step * self.bk() + chunk * (CHUNK / 2));
                b.cp_async_or_zero(to.at_bytes(tile.offset(row, chunk)).cast(), from, (m0 + row).lt(m));
            };
            if each > self.bm { b.if_(row.lt(self.bm), copy) } else { copy() }
        }
    }

    /// Starts this thread's copies of the block's panels; panels past N become zero.
    fn load_w<'b>(
        &self,
        b: &'b Builder,
        w: GlobalPtr<'b, I8>,
        to: SharedPtr<'b, I8>,
        tile_n: Val<'b, I32>,
        step: Val<'b, I32>,
    ) {
        let bytes = self.panel_bytes(self.bk());
        let (chunks, panels) = (WARPS * bytes / CHUNK, self.n.div_ceil(PANEL));
        let thread = b.special(Special::ThreadX);
        for round in 0..chunks.div_ceil(THREADS) {
            let chunk = thread + round * THREADS;
            let copy = || {
                let panel = tile_n * WARPS + chunk / (bytes / CHUNK);
                let within = step * bytes + chunk % (bytes / CHUNK) * CHUNK;
                let from = w.at64(panel.to_i64() * i64::from(self.panel_bytes(self.k))).at(within);
                let to = to.at_bytes(chunk * CHUNK);
                if panels.is_multiple_of(WARPS) {
                    b.cp_async(to, from);
                } else {
                    b.cp_async_or_zero(to, from, panel.lt(panels));
                }
            };
            if (round + 1) * THREADS <= chunks { copy() } else { b.if_(chunk.lt(chunks), copy) }
        }
    }

    /// `sums + scale * (x w^T)` over one group.
    fn multiply_group<'b>(
        &self,
        b: &'b Builder,
        (stage, own): (SharedPtr<'b, I8>, SharedPtr<'b, I8>),
        at: Lane<'b>,
        w: Weights<'b>,
        (panel, group): (Val<'b, I32>, Val<'b, I32>),
        sums: Sums<'b>,
    ) -> Sums<'b> {
        // `[panel][group][row]`.
        let first = (panel * (self.k / self.bk()) + group) * PANEL;
        let scale = w.scale.cast::<Bf16>();
        let scales = [0, 8].map(|t| scale.at(first + t + at.q * 2).load_vector::<2>().to_f32().elements());
        // Zero points of this lane's two columns: bytes of words.
        let offsets = w.zero.map(|zero| {
            [0, 8].map(|t| {
                let row = at.g + t;
                let word = zero.cast::<I8>().at(first + (row & -4)).cast::<I32>().load();
                let byte = (word >> ((row & 3) * 8)) & 0xff;
                // Signed, then the bias of the nibbles: q + 8 stands for q, and 128 for 0.
                let offset = -((byte ^ 0x80) - 128 + 136).to_f32();
                b.pack_bf16(offset, offset)
            })
        });
        let none = vec![vec![[b.value(0.0f32); 4]; 2]; sums.len()];
        let part = self.multiply(b, stage, own, at, offsets, none);
        scaled(&part, scales, Some(&sums))
    }

    /// `sums + x w^T` over the stage, w without scales.
    fn multiply<'b>(
        &self,
        b: &'b Builder,
        stage: SharedPtr<'b, I8>,
        own: SharedPtr<'b, I8>,
        at: Lane<'b>,
        offsets: Option<[Val<'b, I32>; 2]>,
        mut sums: Sums<'b>,
    ) -> Sums<'b> {
        let tile = self.tile_x();
        let key = tile.key(at.row);
        for step in 0..self.bk() / 16 {
            let columns = [0u32, 8].map(|t| match (self.payload, offsets) {
                (Payload::I4(_), Some(offsets)) => {
                    self.nibbles(b, own, at, step, (t, offsets[(t / 8) as usize]))
                }
                _ => self.bytes(b, own, at, step, t),
            });
            let chunk = ((at.half + step * 2) ^ key) * CHUNK;
            for (mi, sums) in sums.iter_mut().enumerate() {
                let row = stage.at_bytes(at.row * tile.row_bytes + mi as u32 * 16 * tile.row_bytes);
                let a = b.ldmatrix(row.at_bytes(chunk), false);
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = b.mma_bf16(a, column, *sum);
                }
            }
        }
        sums
    }

    /// This lane's part of B from i8: pairs q and q + 4 of column `g + t`.
    fn bytes<'b>(
        &self,
        b: &'b Builder,
        own: SharedPtr<'b, I8>,
        at: Lane<'b>,
        step: u32,
        t: u32,
    ) -> [Val<'b, I32>; 2] {
        let row = at.g + t;
        [0u32, 4].map(|on| {
            // `[pair][row][2]`, a word holds two rows.
            let pair = at.q + (step * 8 + on);
            let word = own.at_bytes(pair * (PANEL * 2) + (row & -2) * 2).cast::<I32>().load();
            let both = word >> ((row & 1) * 16);
            // 2^23 + (v + 128), less 2^23 + 128.
            let wide =
                |byte: Val<'b, I32>| ((byte & 0xff) ^ 0x80 | 0x4b00_0000).bitcast::<F32>() - 8_388_736.0f32;
            b.pack_bf16(wide(both), wide(both >> 8))
        })
    }

    /// This lane's part of B from i4, zero points taken off.
    fn nibbles<'b>(
        &self,
        b: &'b Builder,
        own: SharedPtr<'b, I8>,
        at: Lane<'b>,
        step: u32,
        (t, offset): (u32, Val<'b, I32>),
    ) -> [Val<'b, I32>; 2] {
        let row = at.g + t;
        [0u32, 1].map(|eight| {
            // 64 bytes for 8 inputs: a word a row, even inputs in its lower half, the q-th nibble of each.
            let word = own.at_bytes(row * 4 + (step * 2 + eight) * 64).cast::<I32>().load();
            let biased = (word >> (at.q * 4)) & 0x000f_000f | 0x4300_4300;
            // Both halves are bf16 of 128 + nibble; times 1, plus -(136 + zero): exact.
            b.fma_bf16x2(biased, 0x3f80_3f80, offset)
        })
    }
}

/// `part * scale`, on top of `sums`. A lane has columns 2q and 2q + 1 of each tile of 8.
fn scaled<'b>(part: &Sums<'b>, scale: [[Val<'b, F32>; 2]; 2], sums: Option<&Sums<'b>>) -> Sums<'b> {
    let one = |mi: usize, ni: usize, i: usize| {
        let (p, s) = (part[mi][ni][i], scale[ni][i % 2]);
        match sums {
            Some(sums) => p.fma(s, sums[mi][ni][i]),
            None => p * s,
        }
    };
    (0..part.len()).map(|mi| (0..2).map(|ni| std::array::from_fn(|i| one(mi, ni, i))).collect()).collect()
}
