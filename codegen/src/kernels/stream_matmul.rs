//! `y = x w^T + bias + residual` for few tokens on Hopper: weights pass through shared memory once, at memory's speed.
//! Or `y = act(x wg^T + bg) * (x wu^T + bu)`, with wg above wu in w: a warpgroup's tile is then half of either.
//!
//! x `(M, K)` with M at most [`StreamMatmul::tokens`], w `(N, K)`, row-major, bf16 or e4m3 with scales. Weights are the first
//! operand of `wgmma`, `(64, k) x (k, tokens)`, so that few tokens make narrow products. One thread brings weights and x by
//! tensor copies into a ring; one or two warpgroups multiply. The tiles of w, cut into *units* along K, are dealt out to
//! [`MULTIPROCESSORS`] blocks in equal runs, whatever the shape: a block's run may end inside of a tile. Parts of one tile go through
//! scratch memory, and the last block to arrive adds them in the order of K, so that a result does not depend on which
//! block that is. Weights are asked for before the launch waits for those before it, and a block takes less than half of a
//! multiprocessor's shared memory: the next product fills its ring while this one ends.

mod store;

use super::epilogue::Epilogue;
use super::operands::{Operands, Product};
use super::{Count, Extent, Launch, MULTIPROCESSORS, Scratch, grid_of, last_of, param_scratch};
use crate::builder::{
    Barrier, Bf16, Builder, Evict, F32, GlobalPtr, I32, SharedPtr, Smem, Special, TensorMap, Val, WgmmaA,
};

/// Bytes along K of a tensor copy and of a row in shared memory.
const CHUNK: u32 = 128;
/// Most bytes of the ring: two blocks, of this launch and the next, fit a multiprocessor.
const RING: u32 = 100 << 10;
/// Outputs of a warpgroup.
const ROWS: u32 = 64;
/// Threads of a warpgroup.
const GROUP: u32 = 128;
/// Elements that a thread stores at once.
const VEC: u32 = 8;
/// Floats between the rows of the buffer that turns sums: banks of neighbouring tokens differ.
const PITCH: u32 = ROWS + 4;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamMatmul {
    /// What is computed.
    pub of: Product,
    /// Most tokens: 8, 16, 32 or 64.
    pub tokens: u32,
}

/// What the threads of a block share.
struct Stage<'b> {
    full: Barrier<'b>,
    empty: Barrier<'b>,
    ring: SharedPtr<'b, Bf16>,
    maps: [Val<'b, TensorMap>; 2],
    /// This block's units: first, number.
    run: [Val<'b, I32>; 2],
}

impl StreamMatmul {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        self.of.unsupported()
    }

    /// Warpgroups that multiply: x is read once for both.
    fn groups(&self) -> u32 {
        if self.tokens > 16 { 2 } else { 1 }
    }

    /// Threads that multiply.
    fn workers(&self) -> u32 {
        self.groups() * GROUP
    }

    /// Rows of w in a tile.
    fn tile(&self) -> u32 {
        self.groups() * ROWS
    }

    /// Chunks of a unit.
    fn chunks(&self) -> u32 {
        2 / self.groups()
    }

    /// Units of a tile.
    fn units(&self) -> u32 {
        (self.of.k * self.of.operands.bytes()).div_ceil(self.chunks() * CHUNK)
    }

    fn tiles(&self) -> u32 {
        self.of.outputs().div_ceil(self.tile() / self.of.halves())
    }

    /// Units of all tiles.
    fn all(&self) -> u32 {
        self.units() * self.tiles()
    }

    fn blocks(&self) -> u32 {
        self.all().min(MULTIPROCESSORS)
    }

    fn stage_bytes(&self) -> u32 {
        self.chunks() * CHUNK * (self.tile() + self.tokens)
    }

    fn stages(&self) -> u32 {
        RING / self.stage_bytes()
    }

    /// Sums of a tile.
    fn sums(&self) -> u32 {
        self.tile() * self.tokens
    }

    /// Geometry. Arguments: `[x, weight, bias?, residual?, y]`.
    pub fn launch(&self) -> Launch {
        // Of w all rows of a tile, or half of a warpgroup's.
        let w_rows = if self.of.gate.is_some() { ROWS / 2 } else { self.tile() };
        let maps = vec![self.of.map_x(self.tokens, CHUNK), self.of.map_w(w_rows, CHUNK)];
        // A block begins and ends at most one tile that is not its own alone.
        let bytes = 4 * 2 * u64::from(self.blocks()) * u64::from(self.sums());
        let scratch = Some(Scratch { of: Count::One, bytes, counters: self.tiles() });
        let grid = grid_of(Extent { mul: self.blocks(), ..Extent::ONE });
        Launch { maps, scratch, ..Launch::new(grid, self.workers() + 32, self.of.args()) }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let params = self.of.params(b);
        let maps = [b.param_tensor_map(), b.param_tensor_map()];
        let (parts, counters) = param_scratch(b);
        let dims = b.param_dims_early();
        let ragged = !self.of.outputs().is_multiple_of(self.tile() / self.of.halves());
        let m = self.of.rows.of(dims);
        let epilogue = self.of.epilogue(params, m, ragged);

        let stages = self.stages();
        let (full, empty) = (b.barriers(stages), b.barriers(stages));
        let ring = b.shared::<Bf16>(stages * self.stage_bytes() / 2, 1024);
        let (thread, block) = (b.special(Special::ThreadX), b.special(Special::BlockX));
        let leader = thread.eq(self.workers());
        b.if_(leader, || {
            maps.iter().for_each(|&map| b.prefetch_tensor_map(map));
            for s in 0..stages {
                full.at(s).init(1);
                empty.at(s).init(self.groups());
            }
            b.fence_barriers();
        });
        b.sync();
        let first = self.begin(block);
        let stage = Stage { full, empty, ring, maps, run: [first, self.begin(block + 1) - first] };
        b.if_(leader, || self.bring(b, &stage));
        b.if_(thread.lt(self.workers()), || {
            b.after_grids();
            self.multiply(b, &stage, parts.cast(), counters, epilogue);
        });
    }

    /// The first unit of a block.
    fn begin<'b>(&self, block: Val<'b, I32>) -> Val<'b, I32> {
        block * self.all() / self.blocks()
    }

    /// The block that has a unit: the greatest whose first unit is not after it.
    fn owner<'b>(&self, unit: Val<'b, I32>) -> Val<'b, I32> {
        ((unit + 1) * self.blocks() - 1) / self.all()
    }

    /// Brings the block's units into the ring, one thread.
    fn bring<'b>(&self, b: &'b Builder, stage: &Stage<'b>) {
        let [first, count] = stage.run;
        let stages = self.stages();
        let columns = CHUNK / self.of.operands.bytes();
        let (once, often) = (b.cache_policy(Evict::First), b.cache_policy(Evict::Last));
        // Tile of w and column of unit i.
        let place = |i: Val<'b, I32>| {
            let unit = first + i;
            let outputs = self.tile() / self.of.halves();
            (unit / self.units() * outputs, unit % self.units() * (self.chunks() * columns))
        };
        let begin = |s: Val<'b, I32>| stage.full.at(s).arrive_expect(self.stage_bytes());
        let load_w = |i: Val<'b, I32>, s: Val<'b, I32>| {
            let (row, column) = place(i);
            for c in 0..self.chunks() {
                let to = self.slot(stage.ring, s).at_bytes(c * self.tile() * CHUNK);
                let load = |rows: u32, row: Val<'b, I32>| {
                    let (to, at) = (to.at_bytes(rows * CHUNK), [column + c * columns, row]);
                    b.tensor_load(to, stage.maps[1], &at, stage.full.at(s), Some(once));
                };
                match self.of.gate {
                    None => load(0, row),
                    // Of each warpgroup's rows the first half is gate, the second up.
                    Some(_) => (0..self.groups()).for_each(|g| {
                        load(g * ROWS, row + g * (ROWS / 2));
                        load(g * ROWS + ROWS / 2, row + (self.of.outputs() + g * (ROWS / 2)));
                    }),
                }
            }
        };
        let load_x = |i: Val<'b, I32>, s: Val<'b, I32>| {
            let (_, column) = place(i);
            for c in 0..self.chunks() {
                let at = self.chunks() * self.tile() * CHUNK + c * self.tokens * CHUNK;
                let (to, zero) = (self.slot(stage.ring, s).at_bytes(at), b.value(0));
                b.tensor_load(
                    to,
                    stage.maps[0],
                    &[column + c * columns, zero],
                    stage.full.at(s),
                    Some(often),
                );
            }
        };
        // No launch writes weights: they are asked for while the launch before this one ends.
        b.for_(0, count.min(stages), 1, (), |i, ()| {
            begin(i);
            load_w(i, i);
        });
        b.after_grids();
        b.for_(0, count.min(stages), 1, (), |i, ()| load_x(i, i));
        b.for_(stages, count, 1, (), |i, ()| {
            let (s, round) = (i % stages, i / stages);
            stage.empty.at(s).wait((round + 1) & 1);
            begin(s);
            load_w(i, s);
            load_x(i, s);
        });
    }

    fn slot<'b>(&self, ring: SharedPtr<'b, Bf16>, stage: Val<'b, I32>) -> SharedPtr<'b, Bf16> {
        ring.at_bytes(stage * self.stage_bytes())
    }

    /// Multiplies what comes, tile by tile, and stores it.
    fn multiply<'b>(
        &self,
        b: &'b Builder,
        stage: &Stage<'b>,
        parts: GlobalPtr<'b, F32>,
        counters: GlobalPtr<'b, I32>,
        epilogue: Epilogue<'b>,
    ) {
        let [first, count] = stage.run;
        let end = first + count;
        let turn = b.shared::<F32>(self.groups() * self.together() * PITCH, 16);
        let thread = b.special(Special::ThreadX);
        let (units, tile_units) = (self.units(), |tile: Val<'b, I32>| tile * self.units());
        b.for_(first / units, end.div_ceil(units), 1, (), |tile, ()| {
            // Units of this tile that are this block's.
            let from = first.max(tile_units(tile));
            let to = end.min(tile_units(tile + 1));
            let zero = vec![b.value(0.0f32); self.tokens as usize / 2];
            let sums = b.for_(from, to, 1, zero, |unit, sums| {
                let (s, round) = ((unit - first) % self.stages(), (unit - first) / self.stages());
                stage.full.at(s).wait(round & 1);
                let sums = self.product(b, self.slot(stage.ring, s), sums, unit.ne(from));
                b.if_((thread & (GROUP as i32 - 1)).eq(0), || stage.empty.at(s).arrive());
                sums
            });
            let whole = (to - from).eq(units);
            b.if_(whole, || self.store(b, &sums, tile, turn, epilogue));
            b.if_(!whole, || {
                let block = b.special(Special::BlockX);
                let mine = self.part(b, parts, block, tile);
                sums.iter().enumerate().for_each(|(j, &v)| mine.at(j as u32 * self.workers()).store(v));
                let (begin, last) = (self.owner(tile_units(tile)), self.owner(tile_units(tile + 1) - 1));
                let sync = || b.sync_some(1, self.workers());
                let arrived = last_of(b, counters.at(tile), last - begin + 1, &sync);
                b.if_(arrived, || {
                    let zero = vec![b.value(0.0f32); sums.len()];
                    let all = b.for_(begin, last + 1, 1, zero, |block, all| {
                        let part = self.part(b, parts, block, tile);
                        let add =
                            |(j, &v): (usize, &Val<'b, F32>)| v + part.at(j as u32 * self.workers()).load();
                        all.iter().enumerate().map(add).collect()
                    });
                    self.store(b, &all, tile, turn, epilogue);
                });
            });
        });
    }

    /// This thread's sums in a block's part of a tile: a block has two, of the tile that it begins in and of the one that
    /// it ends in.
    fn part<'b>(
        &self,
        b: &'b Builder,
        parts: GlobalPtr<'b, F32>,
        block: Val<'b, I32>,
        tile: Val<'b, I32>,
    ) -> GlobalPtr<'b, F32> {
        let begins_before = self.begin(block).le(tile * self.units());
        let part = block * 2 + begins_before.to_i32();
        parts.at(part * self.sums()).at(b.special(Special::ThreadX))
    }

    /// `sums` (or nothing, if it is not `more`) and the product of the unit at `at`, a warpgroup.
    fn product<'b>(
        &self,
        b: &'b Builder,
        at: SharedPtr<'b, Bf16>,
        sums: Vec<Val<'b, F32>>,
        more: Val<'b, crate::builder::I1>,
    ) -> Vec<Val<'b, F32>> {
        let group = b.special(Special::ThreadX) / GROUP;
        let x = at.at_bytes(self.chunks() * self.tile() * CHUNK);
        // The hardware adds e4m3 products in some 14 bits: units are added here, in f32.
        let alone = self.of.operands == Operands::E4m3;
        let d = if alone { vec![b.value(0.0f32); sums.len()] } else { sums.clone() };
        let mut d = b.wgmma_fence_on(&d);
        for c in 0..self.chunks() {
            let rows = at.at_bytes(c * self.tile() * CHUNK).at_bytes(group * (ROWS * CHUNK));
            let a = b.wgmma_descriptor(rows, Smem::Rows128);
            let columns = b.wgmma_descriptor(x.at_bytes(c * self.tokens * CHUNK), Smem::Rows128);
            for step in 0..i64::from(CHUNK / 32) {
                let begins = c == 0 && step == 0;
                let keep = match (begins, alone) {
                    (true, true) => b.value(false),
                    (true, false) => more,
                    (false, _) => b.value(true),
                };
                d = b.wgmma(
                    self.of.operands.wgmma(),
                    &d,
                    WgmmaA::Shared(a + step * 2),
                    columns + step * 2,
                    keep,
                );
            }
        }
        b.wgmma_commit();
        let d = b.wgmma_wait(0, &d);
        if alone { sums.iter().zip(&d).map(|(&s, &d)| s + d).collect() } else { d }
    }
}
