//! `y = x w^T + bias + residual` in bf16 or e4m3 with f32 accumulators: x `(M, K)`, w `(N, K)` row-major, y `(M, N)`.
//! K and steps along it are counted in units of 16 bits (`operands.rs`).
//!
//! A block computes a `(bm, bn)` tile of y in steps of `bk` along K. Tiles of x and w come by `cp.async` into a ring of
//! stages in swizzled shared memory, from there by `ldmatrix` into `mma.sync`. Warps split the tile along M
//! and N and, where there are few tokens, along K: their partial sums are added in shared memory in a fixed order.
//! M is the number of tokens or rows, known at launch: rows past it are read as zeros and not stored. Where tiles are
//! too few to keep memory busy, several blocks share out the K of a tile: each leaves its sums in scratch memory, and
//! the last to arrive adds them in the order of shares, so a result does not depend on which block that is.

use super::epilogue::Epilogue;
use super::fragments::{Fragments, Ring, Sums};
use super::operands::{Operands, Product};
use super::{Count, Extent, Launch, Scratch, last_to_arrive};
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I1, I32, SharedPtr, Special, Val};
use crate::tile::{CHUNK, Tile};

/// Units of a chunk.
const CHUNK_UNITS: u32 = CHUNK / 2;
/// Column tiles that neighbouring blocks walk through before the next row tile: their weights stay in the L2 cache.
const GROUP: u32 = 8;
/// Elements of a share's sums that a thread reads at once.
const VEC: u32 = 4;
/// Most shares of a tile: a thread has that many such reads under way, of one row or of several.
pub const MOST_SPLITS: u32 = 16;

/// Shape of a block's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of y (tokens) of a block.
    pub bm: u32,
    /// Columns of y (outputs) of a block.
    pub bn: u32,
    /// Step along K, units of 16 bits.
    pub bk: u32,
    /// Warps along M, N and K.
    pub warps: [u32; 3],
    /// Stages of the ring.
    pub stages: u32,
    /// Blocks that share out the K of a tile. Several only where there are at most `bm` rows.
    pub splits: u32,
}

/// Up to 16 tokens: narrow columns so that many blocks stream weights, four warps share a step along K.
pub const FEW: Tiling = Tiling { bm: 16, bn: 32, bk: 128, warps: [1, 1, 4], stages: 5, splits: 1 };
/// Up to 64 tokens: 48 KiB of weights under way a block, for each byte of which half a byte of x is read; two blocks
/// fit a multiprocessor. Two groups of warps share a step along K.
pub const SOME: Tiling = Tiling { bm: 64, bn: 128, bk: 64, warps: [2, 2, 2], stages: 4, splits: 1 };
/// More: 64x64 a warp.
pub const MANY: Tiling = Tiling { bm: 128, bn: 128, bk: 32, warps: [2, 2, 1], stages: 4, splits: 1 };

/// The same for e4m3, which some chips widen in registers: half as wide.
pub const MANY_E4M3: Tiling = Tiling { bn: 64, ..MANY };
/// Up to 64 tokens of e4m3.
pub const SOME_E4M3: Tiling = Tiling { bn: 64, ..SOME };

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matmul {
    /// What is computed.
    pub of: Product,
    /// Shape of a block's work.
    pub tiling: Tiling,
}

/// What this thread copies of one operand, one chunk a round, the same column of rows `step` apart.
struct Copy<'b> {
    /// Its first chunk in device memory, in step 0.
    from: GlobalPtr<'b, Bf16>,
    /// The same in shared memory, within the operand's tile.
    to: Val<'b, I32>,
    /// Column of the chunk in a step, units.
    column: Val<'b, I32>,
    /// Whether row of round i exists; `None`: always.
    rows: Vec<Option<Val<'b, I1>>>,
    /// Rows from one round to the next.
    step: u32,
}

impl Matmul {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let gated = self.of.gate.is_some().then(|| "no gated product is made by warps".to_owned());
        self.of.unsupported().or(gated)
    }

    /// Units of 16 bits in a row of x or w.
    fn units(&self) -> u32 {
        self.of.operands.units(self.of.k)
    }

    fn threads(&self) -> u32 {
        self.tiling.warps.iter().product::<u32>() * 32
    }

    fn tiles_n(&self) -> u32 {
        self.of.n.div_ceil(self.tiling.bn)
    }

    /// Rows and columns of y of a warp.
    fn warp_tile(&self) -> (u32, u32) {
        (self.tiling.bm / self.tiling.warps[0], self.tiling.bn / self.tiling.warps[1])
    }

    /// Geometry. Arguments: `[x, weight, bias?, residual?, y]`.
    pub fn launch(&self) -> Launch {
        let Tiling { bm, splits, .. } = self.tiling;
        let (of, div) = if splits == 1 { (self.of.rows, bm) } else { (Count::One, 1) };
        let tiles = Extent { of, div, plus: None, mul: self.tiles_n() };
        let bytes = 4 * u64::from(splits * bm) * u64::from(self.of.n);
        let grid = [tiles, Extent { mul: splits, ..Extent::ONE }, Extent::ONE];
        let scratch = (splits > 1).then(|| Scratch { of: Count::One, bytes, counters: self.tiles_n() });
        Launch { scratch, ..Launch::new(grid, self.threads(), self.of.args()) }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let (x, params) = self.of.params(b);
        let Tiling { bm, bn, bk, stages, splits, .. } = self.tiling;
        let scratch = (splits > 1).then(|| b.param_scratch());
        if self.threads() > 128 && self.of.operands == Operands::Bf16 {
            // Of those that have eight warps, two blocks should fit. Where e4m3 is widened first that takes too many registers.
            b.min_blocks(2);
        }
        let dims = b.param_dims_early();
        let m = self.of.rows.of(dims);

        let ring = {
            let (x, w) = (Tile { rows: bm, row_bytes: bk * 2 }, Tile { rows: bn, row_bytes: bk * 2 });
            Ring { base: b.shared(stages * (x.bytes() + w.bytes()) / 2, 1024), x, w }
        };
        let (tile_m, tile_n) = self.tile_of_block(b, m);
        let (m0, n0) = (tile_m * bm, tile_n * bn);
        let copy_x = self.copy(b, x.data, ring.x, m0, Some(m));
        let copy_w = self.copy(
            b,
            params.w.data,
            ring.w,
            n0,
            (!self.of.n.is_multiple_of(bn)).then(|| b.value(self.of.n)),
        );
        let load_x = |step: Val<'_, I32>, stage: Val<'_, I32>| {
            self.load(b, &copy_x, ring.base.at_bytes(stage), step);
        };
        let load_w = |step: Val<'_, I32>, stage: Val<'_, I32>| {
            self.load(b, &copy_w, ring.base.at_bytes(stage).at_bytes(ring.x.bytes()), step);
        };

        // This block's steps of K: `steps` from `begin` on.
        let all = self.units().div_ceil(bk);
        let each = all.div_ceil(splits);
        let split = if splits == 1 { b.value(0) } else { b.special(Special::BlockY) };
        let begin = split * each;
        let steps = if all.is_multiple_of(splits) { b.value(each) } else { (b.value(all) - begin).min(each) };
        // Fill all stages but one: weights while the launch before this one ends, for no launch writes them. A group is
        // closed for each stage, full or empty, so that waiting can count them; the first has all of these weights.
        let filled: Vec<(u32, Val<'_, I32>)> =
            (0..(stages - 1).min(each)).map(|s| (s, b.value(s * ring.stage_bytes()))).collect();
        for &(s, stage) in &filled {
            b.if_(b.value(s).lt(steps), || load_w(begin + s, stage));
        }
        b.after_grids();
        for &(s, stage) in &filled {
            b.if_(b.value(s).lt(steps), || load_x(begin + s, stage));
            b.cp_async_commit();
        }
        (each..stages - 1).for_each(|_| b.cp_async_commit());

        let warp = self.warp(b);
        let fragments = Fragments::new(b, ring, self.of.operands, self.tiling, warp);
        let zero = b.value(0.0f32);
        let (wm, wn) = self.warp_tile();
        let sums: Sums<'_> = vec![vec![[zero; 4]; (wn / 8) as usize]; (wm / 16) as usize];
        let last = (stages - 1) * ring.stage_bytes();
        // read: stage of this step; write: stage of step + stages - 1, which every warp has left behind at the barrier.
        let init = (b.value(0), b.value(last), sums);
        let (_, _, sums) = b.for_(0, steps, 1, init, |step, (read, write, sums)| {
            b.cp_async_wait(stages - 2);
            b.sync();
            let ahead = step + (stages - 1);
            b.if_(ahead.lt(steps), || {
                load_x(begin + ahead, write);
                load_w(begin + ahead, write);
            });
            b.cp_async_commit();
            let sums = fragments.multiply(ring.base.at_bytes(read), sums);
            (ring.next(read, last), ring.next(write, last), sums)
        });
        b.cp_async_wait(0);

        let row = m0 + warp[0] * wm;
        let column = n0 + warp[1] * wn;
        let ragged = !self.of.n.is_multiple_of(bn);
        let epilogue = self.of.epilogue(params, m, ragged);
        // Share s is a product of its own, whose y is rows `s * bm..` of the scratch memory.
        let parts = scratch.map(|(bytes, _)| bytes.cast::<F32>());
        let target = parts.map_or(epilogue, |parts| {
            let part = parts.at64((split * bm).to_i64() * i64::from(self.of.n));
            Epilogue { scales: None, bias: None, residual: None, y: part.into(), ..epilogue }
        });
        let store = |sums: Sums<'_>| target.store(b, &sums, [row, column]);
        if self.tiling.warps[2] == 1 {
            store(sums);
        } else {
            self.add_along_k(b, ring, warp, sums, store);
        }
        if let (Some(parts), Some((_, counters))) = (parts, scratch) {
            let last = last_to_arrive(b, counters.at(tile_n), b.value(splits));
            b.if_(last, || self.add_splits(b, parts, n0, epilogue));
        }
    }

    /// Adds what the shares of the tile at column `n0` have left in `parts`, and stores the result.
    fn add_splits<'b>(
        &self,
        b: &'b Builder,
        parts: GlobalPtr<'b, F32>,
        n0: Val<'b, I32>,
        epilogue: Epilogue<'b>,
    ) {
        let Tiling { bm, bn, splits, .. } = self.tiling;
        let thread = b.special(Special::ThreadX);
        let (first, column) = (thread / (bn / VEC), n0 + thread % (bn / VEC) * VEC);
        let step = self.threads() * VEC / bn;
        debug_assert!(bm.is_multiple_of(step) && splits <= MOST_SPLITS);
        let rows: Vec<_> = (0..bm / step).map(|i| first + i * step).collect();
        let part = |split: u32, row: Val<'b, I32>| -> [Val<'b, F32>; VEC as usize] {
            let (row, column) = epilogue.nearest([row, column], VEC);
            let at = (row + split * bm).to_i64() * i64::from(self.of.n) + column.to_i64();
            parts.at64(at).load_vector().elements()
        };
        for rows in rows.chunks((MOST_SPLITS / splits) as usize) {
            b.if_(rows[0].lt(epilogue.m), || {
                let sum = |&row: &Val<'b, I32>| {
                    let add = |sum: [Val<'b, F32>; VEC as usize], split| {
                        let more = part(split, row);
                        std::array::from_fn(|i| sum[i] + more[i])
                    };
                    (1..splits).fold(part(0, row), add)
                };
                epilogue.store_rows(b, rows, column, rows.iter().map(|row| (sum(row), None)).collect());
            });
        }
    }

    /// Row and column tile of this block. Blocks are numbered in groups of [`GROUP`] columns, within a group row
    /// tile by row tile.
    fn tile_of_block<'b>(&self, b: &'b Builder, m: Val<'b, I32>) -> (Val<'b, I32>, Val<'b, I32>) {
        let block = b.special(Special::BlockX);
        let tiles_m = m.div_ceil(self.tiling.bm);
        let per_group = tiles_m * GROUP;
        let first = block / per_group * GROUP;
        let within = block % per_group;
        let width = if self.tiles_n().is_multiple_of(GROUP) {
            b.value(GROUP)
        } else {
            (b.value(self.tiles_n()) - first).min(GROUP)
        };
        (within / width, first + within % width)
    }

    /// `[along M, along N, along K]` of this thread's warp.
    fn warp<'b>(&self, b: &'b Builder) -> [Val<'b, I32>; 3] {
        let (_, warp) = b.lane_and_warp();
        let [wm, wn, _] = self.tiling.warps;
        [warp % wm, warp / wm % wn, warp / (wm * wn)]
    }

    /// What this thread copies of rows `first..` of `matrix` `(limit, K)`.
    fn copy<'b>(
        &self,
        b: &'b Builder,
        matrix: GlobalPtr<'b, Bf16>,
        tile: Tile,
        first: Val<'b, I32>,
        limit: Option<Val<'b, I32>>,
    ) -> Copy<'b> {
        let thread = b.special(Special::ThreadX);
        let (row, chunk) = (thread / tile.chunks(), thread % tile.chunks());
        let step = self.threads() / tile.chunks();
        // Rounds are whole: a warp's threads cover rows of a power of two.
        let rounds = tile.rows / step;
        debug_assert!(rounds * step == tile.rows && step.is_multiple_of(8));
        let column = chunk * CHUNK_UNITS;
        let from = matrix.at64((first + row).to_i64() * i64::from(self.units())).at(column);
        let rows = (0..rounds).map(|i| limit.map(|limit| (first + row + i * step).lt(limit))).collect();
        Copy { from, to: tile.offset(row, chunk), column, rows, step }
    }

    /// Starts this thread's copies of step `step` into the operand's tile at `to`. What lies outside of the matrix
    /// becomes zero; its address is formed and not read.
    fn load<'b>(&self, b: &'b Builder, copy: &Copy<'b>, to: SharedPtr<'b, Bf16>, step: Val<'b, I32>) {
        let k0 = step * self.tiling.bk;
        let (from, to) = (copy.from.at(k0), to.at_bytes(copy.to));
        let in_k =
            (!self.units().is_multiple_of(self.tiling.bk)).then(|| (k0 + copy.column).lt(self.units()));
        for (i, &in_rows) in copy.rows.iter().enumerate() {
            let rows = i as u32 * copy.step;
            let from = from.at(rows * self.units());
            let to = to.at_bytes(rows * self.tiling.bk * 2);
            let inside = match (in_rows, in_k) {
                (Some(r), Some(k)) => Some(r & k),
                (one, other) => one.or(other),
            };
            match inside {
                None => b.cp_async(to, from),
                Some(inside) => b.cp_async_or_zero(to, from, inside),
            }
        }
    }

    /// Adds the sums of warps along K in shared memory; the first of them goes on with `store`.
    fn add_along_k<'b>(
        &self,
        b: &'b Builder,
        ring: Ring<'b>,
        [wm, wn, wk]: [Val<'b, I32>; 3],
        sums: Sums<'b>,
        store: impl FnOnce(Sums<'b>),
    ) {
        let [warps_m, warps_n, warps_k] = self.tiling.warps;
        let (lane, _) = b.lane_and_warp();
        let each = (sums.len() * sums[0].len() * 4) as u32;
        let flat: Vec<Val<'b, F32>> = sums.iter().flatten().flatten().copied().collect();
        // Sum j of a lane of warp (m, n, k > 0) lies at (((k - 1) * warps_n + n) * warps_m + m) * each + j, lane.
        debug_assert!(
            (warps_k - 1) * warps_n * warps_m * each * 32 * 4 <= self.tiling.stages * ring.stage_bytes()
        );
        let place = |k: Val<'b, I32>| {
            let warp = (k * warps_n + wn) * warps_m + wm;
            ring.base.cast::<F32>().at(warp * (each * 32) + lane)
        };
        // The ring is free once every warp has done its last step.
        b.sync();
        let first = wk.eq(0);
        b.if_(!first, || {
            let to = place(wk - 1);
            flat.iter().enumerate().for_each(|(j, &s)| to.at(j as u32 * 32).store(s));
        });
        b.sync();
        b.if_(first, || {
            let mut all = flat.clone();
            for k in 0..warps_k - 1 {
                let from = place(b.value(k));
                for (j, s) in all.iter_mut().enumerate() {
                    *s = *s + from.at(j as u32 * 32).load();
                }
            }
            let columns = sums[0].len() * 4;
            let rows = all.chunks(columns);
            store(rows.map(|r| r.chunks(4).map(|c| [c[0], c[1], c[2], c[3]]).collect()).collect());
        });
    }
}
