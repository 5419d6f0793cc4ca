//! Attention of decode steps: one token a request, whose context is split over blocks.
//!
//! A block takes the query heads that share a key/value head as the rows of one m16 tile, and a share of the context;
//! its warps go over tiles of keys in turn, each with its own stages and softmax (`flash_softmax.rs`). The warps are
//! merged at the end; if the context has several shares, their parts go to scratch memory and the last block to arrive
//! merges them. Shares depend on the context alone and are merged in order, so a result depends on neither the other
//! requests nor on which block is the last.
//!
//! Keys and values of earlier steps are copied before the launches before this one are waited for. Only launches that follow
//! each other directly overlap, and between those of two steps the device's one queue has a copy: of what a step chose, or
//! of a table that changed. When a launch of a step begins, on whatever else it has to wait, all launches of earlier steps are done.
//! Of this step there is the key at the end of each context, and what lies before it was not appended by this step for
//! another request either: pages are shared from the step after the one that fills them on. So the tile that has the last
//! key, and the queries, alone are loaded after the wait.

use super::attention::{Attention, NONE, Paged};
use super::flash_softmax::{State, WarpRows};
use super::flash_tiles::{Keys, Tiles};
use super::{Count, Extent, Launch, Scratch, last_to_arrive};
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I1, I32, SharedPtr, Special, Val};

/// Rows of a tile: most query heads of a block.
const ROWS: u32 = 16;
/// Most shares of a context.
const SHARES: u32 = 16;
/// Keys of a share, of bf16, unless there would be more than [`SHARES`]; of e4m3 as many bytes.
const SHARE_KEYS: u32 = 256;
/// Elements that a thread merges at once.
const VEC: u32 = 4;

/// The kernel for these constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeAttention(pub Attention);

/// Shape of a block's work.
#[derive(Clone, Copy)]
struct Tiling {
    warps: u32,
    /// Keys of a warp's tile.
    keys: u32,
}

/// Tiles of keys of a request, in the order of positions.
#[derive(Clone, Copy)]
struct Shares<'b> {
    /// The first tile that is seen, and the one behind the last.
    tiles: [Val<'b, I32>; 2],
    /// Tiles of a share.
    each: Val<'b, I32>,
    /// How many shares there are.
    count: Val<'b, I32>,
}

/// Tiles of a warp: the first one, and the one that they end before.
#[derive(Clone, Copy)]
struct Own<'b> {
    first: Val<'b, I32>,
    end: Val<'b, I32>,
}

/// A softmax and weighted values of some keys: m, l and O of a row in four columns.
type Part<'b> = (Val<'b, F32>, Val<'b, F32>, [Val<'b, F32>; VEC as usize]);

/// Where parts lie: m and l `[part][row][2]`, O `[part][row][head_dim]`.
struct Parts<'b> {
    softmax: GlobalPtr<'b, F32>,
    values: GlobalPtr<'b, F32>,
}

impl DecodeAttention {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        self.0.unsupported_by_tiles()
    }

    /// Two stages of tiles for each warp take 64 KiB.
    fn tiling(&self) -> Tiling {
        let (warps, keys) = match self.0.head_dim {
            0..=64 => (4, 32),
            65..=128 => (4, 16),
            _ => (2, 16),
        };
        Tiling { warps, keys: if self.0.pages().scaled() { 2 * keys } else { keys } }
    }

    /// Blocks among which the query heads of a key/value head are shared out.
    fn blocks_of_head(&self) -> u32 {
        self.0.group().div_ceil(ROWS).max(1)
    }

    /// Query heads of a block; the last block of a key/value head may have fewer.
    fn rows(&self) -> u32 {
        self.0.group().div_ceil(self.blocks_of_head())
    }

    /// Blocks of a request and share.
    fn units(&self) -> u32 {
        self.0.kv_heads * self.blocks_of_head()
    }

    /// Elements of the scratch memory of a request: m and l of all units and shares, then O.
    fn scratch(&self) -> [u64; 2] {
        let rows = u64::from(self.units()) * u64::from(SHARES * self.rows());
        [rows * 2, rows * u64::from(self.0.head_dim)]
    }

    /// Geometry. Arguments: [`Attention::args`].
    pub fn launch(&self) -> Launch {
        let one = |mul: u32| Extent { of: Count::One, div: 1, plus: None, mul: mul.max(1) };
        let seqs = Extent { of: Count::Seqs, div: 1, plus: None, mul: 1 };
        let bytes = 4 * self.scratch().iter().sum::<u64>();
        Launch {
            grid: [seqs, one(self.units()), one(SHARES)],
            block: [self.tiling().warps * 32, 1, 1],
            args: Attention::args(),
            maps: Vec::new(),
            scratch: Some(Scratch { of: Count::Seqs, bytes, counters: self.units() }),
        }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let q = b.param_ptr::<Bf16>();
        let paged = Paged::params(b);
        let y = b.param_floats(self.0.out);
        let (scratch, counters) = b.param_scratch();
        b.param_dims_early();
        // Shared memory bounds the blocks of a multiprocessor; ptxas would save registers for more, and spill.
        b.min_blocks(2);
        let Attention { heads, head_dim, .. } = self.0;
        let Tiling { warps, keys: step } = self.tiling();
        let tiles = Tiles::new(b, &self.0, ROWS, step, warps);

        // The token of request s is token s of the step.
        let (seq, unit) = (b.special(Special::BlockX), b.special(Special::BlockY));
        let share = b.special(Special::BlockZ);
        let to = paged.context.at(seq).load();
        let shares = self.shares(b, to);
        let memory = tiles.memory(self.values_at() + warps * self.rows() * head_dim);
        let (head, part) = (unit / self.blocks_of_head(), unit % self.blocks_of_head());
        let keys = Keys { table: paged.table(seq), cache: paged.cache, head, to };
        let own = self.own(b, &shares, share);
        self.load_early(b, &tiles, &keys, &own);
        b.after_grids();
        b.if_(share.lt(shares.count), || {
            let first_head = head * self.0.group() + part * self.rows();
            let all = b.value(self.0.group()) - part * self.rows();
            let at = (seq.to_i64() * i64::from(heads) + first_head.to_i64()) * i64::from(head_dim);
            let q = q.at64(at);
            self.load_late(b, &tiles, &keys, &own);
            tiles.put_queries(all.min(self.rows()), |row| q.at(row * head_dim));
            b.sync();
            let state = self.over_keys(b, &tiles, &keys, &own);
            self.exchange(b, memory, state);
            b.sync();

            let y = y.at64(at);
            let store = |at: Val<'_, I32>, (_, sum, values): Part<'_>| {
                let whole = b.value(1.0f32).div_approx(sum);
                let store = || y.at(at).store(values.map(|v| v * whole));
                if self.0.group().is_multiple_of(self.rows()) {
                    store();
                } else {
                    b.if_((at / head_dim).lt(all), store);
                }
            };
            let of_warps = |at| self.merged(b, (0..warps).map(|w| self.part_of_warp(memory, w, at)));
            b.if_(shares.count.eq(1), || self.for_elements(b, |at| store(at, of_warps(at))));
            b.if_(b.value(1).lt(shares.count), || {
                let parts = self.parts(scratch.cast(), seq, unit);
                self.for_elements(b, |at| self.put(b, &parts, share, at, of_warps(at)));
                let counter = counters.at(seq * self.units() + unit);
                b.if_(last_to_arrive(b, counter, shares.count), || {
                    self.for_elements(b, |at| {
                        let all = (0..SHARES).map(|s| self.part_of_share(b, &parts, &shares, s, at));
                        store(at, self.merged(b, all));
                    });
                });
            });
        });
    }

    /// How the keys before `to` are shared out.
    fn shares<'b>(&self, b: &'b Builder, to: Val<'b, I32>) -> Shares<'b> {
        let Tiling { warps, keys } = self.tiling();
        let first = match self.0.window {
            None => b.value(0),
            Some(w) => to.lt(w).select(0, to - w) / keys,
        };
        let end = to.div_ceil(keys);
        let tiles = end - first;
        let share = if self.0.pages().scaled() { 2 * SHARE_KEYS } else { SHARE_KEYS };
        let wanted = tiles.div_ceil(share / keys).min(SHARES);
        let each = ((tiles + wanted - 1) / wanted).div_ceil(warps) * warps;
        Shares { tiles: [first, end], each, count: (tiles + each - 1) / each }
    }

    /// This warp's tiles of share `share`; none if there is no such share.
    fn own<'b>(&self, b: &'b Builder, shares: &Shares<'b>, share: Val<'b, I32>) -> Own<'b> {
        let (_, warp) = b.lane_and_warp();
        let begin = shares.tiles[0] + share * shares.each;
        Own { first: begin + warp, end: (begin + shares.each).min(shares.tiles[1]) }
    }

    /// Starts to copy those of this warp's first two tiles that earlier steps have filled: the first one is a group of
    /// copies, the second one is left open for [`DecodeAttention::load_late`].
    fn load_early<'b>(&self, b: &'b Builder, tiles: &Tiles<'b>, keys: &Keys<'b>, own: &Own<'b>) {
        // A loop, for few registers.
        b.for_(0, 2, 1, (), |i, ()| {
            let tile = own.first + i * self.tiling().warps;
            b.if_(tile.lt(own.end) & !self.is_late(keys, tile), || self.load(tiles, keys, i, tile));
            b.if_(i.eq(0), || b.cp_async_commit());
        });
    }

    /// Starts to copy that of the first two tiles which has this step's key; it ends the warp's tiles.
    fn load_late<'b>(&self, b: &'b Builder, tiles: &Tiles<'b>, keys: &Keys<'b>, own: &Own<'b>) {
        let only = self.is_late(keys, own.first);
        let i = only.select(0, 1);
        let tile = own.first + i * self.tiling().warps;
        b.if_(tile.lt(own.end) & self.is_late(keys, tile), || self.load(tiles, keys, i, tile));
        b.cp_async_commit();
        b.if_(only, || b.cp_async_wait(0));
    }

    /// Whether a tile has the last key, or would lie behind it.
    fn is_late<'b>(&self, keys: &Keys<'b>, tile: Val<'b, I32>) -> Val<'b, I1> {
        keys.to.le((tile + 1) * self.tiling().keys)
    }

    /// Starts to copy a tile to stage 0 or 1.
    fn load<'b>(&self, tiles: &Tiles<'b>, keys: &Keys<'b>, stage: Val<'b, I32>, tile: Val<'b, I32>) {
        tiles.load_keys(&self.0, keys, stage * tiles.stage_bytes(), tile * self.tiling().keys);
    }

    /// Goes over this warp's tiles, of which the first two are under way.
    fn over_keys<'b>(&self, b: &'b Builder, tiles: &Tiles<'b>, keys: &Keys<'b>, own: &Own<'b>) -> State<'b> {
        let Tiling { warps, keys: step } = self.tiling();
        let (lane, _) = b.lane_and_warp();
        let last = keys.to - 1;
        let sees = last - (lane & 3) * 2;
        let rows = WarpRows { first: b.value(0), sees: vec![[sees; 2]], positions: [last; 2] };
        let init = (b.value(0), self.0.nothing_seen(b, 1));
        let (_, state) = b.for_(own.first, own.end, warps, init, |tile, (stage, state)| {
            // This tile is there, the next one may be under way.
            b.cp_async_wait(1);
            b.sync_warp();
            let state = self.0.see(state, tiles, stage, tile * step, &rows);
            // The stage is left by all lanes.
            b.sync_warp();
            let after = tile + 2 * warps;
            b.if_(after.lt(own.end), || tiles.load_keys(&self.0, keys, stage, after * step));
            b.cp_async_commit();
            (stage ^ tiles.stage_bytes(), state)
        });
        // Nothing is under way into memory that the warps' states are put into.
        b.sync();
        state
    }

    /// Puts this warp's state into shared memory: m and l `[warp][row][2]`, then O `[warp][row][head_dim]`.
    fn exchange<'b>(&self, b: &'b Builder, memory: SharedPtr<'b, F32>, (softmax, values): State<'b>) {
        let (lane, warp) = b.lane_and_warp();
        let rows = self.rows();
        for (h, &[most, sum]) in softmax[0].iter().enumerate().take(rows.div_ceil(8) as usize) {
            let sum = b.sum_lanes(sum, 4);
            let row = (lane >> 2) + h as u32 * 8;
            let put = || {
                let at = warp * rows + row;
                // All lanes of a row have the same.
                memory.at(at * 2).store_vector(b.vector([most, sum]));
                let (column, pairs) = self.0.pairs(&values[0], h);
                let to = memory.at(self.values_at()).at(at * self.0.head_dim + column);
                pairs.into_iter().for_each(|(on, v)| to.at(on).store_vector(b.vector(v)));
            };
            if rows.is_multiple_of(8) {
                put();
            } else {
                b.if_(row.lt(rows), put);
            }
        }
    }

    /// Where O begins in shared memory, a multiple of four elements.
    fn values_at(&self) -> u32 {
        (self.tiling().warps * self.rows() * 2).next_multiple_of(VEC)
    }

    /// `work(at)` for each four elements of the block's rows, at `row * head_dim + column`.
    fn for_elements<'b>(&self, b: &'b Builder, work: impl Fn(Val<'b, I32>)) {
        let all = self.rows() * self.0.head_dim / VEC;
        for round in 0..all.div_ceil(b.threads()) {
            let at = (b.special(Special::ThreadX) + round * b.threads()) * VEC;
            if (round + 1) * b.threads() <= all {
                work(at);
            } else {
                b.if_(at.lt(all * VEC), || work(at));
            }
        }
    }

    /// What warp `warp` has put into shared memory.
    fn part_of_warp<'b>(&self, memory: SharedPtr<'b, F32>, warp: u32, at: Val<'b, I32>) -> Part<'b> {
        let (rows, head_dim) = (self.rows(), self.0.head_dim);
        let [most, sum] = memory.at((at / head_dim + warp * rows) * 2).load_vector::<2>().elements();
        let values = memory.at(self.values_at()).at(at + warp * rows * head_dim);
        (most, sum, values.load_vector::<{ VEC as usize }>().elements())
    }

    /// Where the shares of a request's unit leave their parts.
    fn parts<'b>(&self, scratch: GlobalPtr<'b, F32>, seq: Val<'b, I32>, unit: Val<'b, I32>) -> Parts<'b> {
        let [softmax, values] = self.scratch().map(|n| n as i64);
        let own = scratch.at64(seq.to_i64() * (softmax + values));
        let row = unit * (SHARES * self.rows());
        let behind = own.at64(own.builder().value(softmax));
        Parts { softmax: own.at(row * 2), values: behind.at64(row.to_i64() * i64::from(self.0.head_dim)) }
    }

    /// Leaves the part of share `share`.
    fn put<'b>(
        &self,
        b: &'b Builder,
        parts: &Parts<'b>,
        share: Val<'b, I32>,
        at: Val<'b, I32>,
        (most, sum, values): Part<'b>,
    ) {
        let (rows, head_dim) = (self.rows(), self.0.head_dim);
        // All threads of a row have the same.
        parts.softmax.at((share * rows + at / head_dim) * 2).store_vector(b.vector([most, sum]));
        parts.values.at(share * (rows * head_dim) + at).store_vector(b.vector(values));
    }

    /// The part of share `share`, or, if there are not so many, the last one's as if it had seen nothing.
    fn part_of_share<'b>(
        &self,
        b: &'b Builder,
        parts: &Parts<'b>,
        shares: &Shares<'b>,
        share: u32,
        at: Val<'b, I32>,
    ) -> Part<'b> {
        let (rows, head_dim) = (self.rows(), self.0.head_dim);
        let there = b.value(share).lt(shares.count);
        let share = (shares.count - 1).min(share);
        let softmax = parts.softmax.at((share * rows + at / head_dim) * 2).load_vector::<2>().elements();
        let values = parts.values.at(share * (rows * head_dim) + at).load_vector::<{ VEC as usize }>();
        (there.select(softmax[0], NONE), softmax[1], values.elements())
    }

    /// One part of several, in order.
    fn merged<'b>(&self, b: &'b Builder, parts: impl Iterator<Item = Part<'b>>) -> Part<'b> {
        let parts: Vec<Part<'b>> = parts.collect();
        let most = parts.iter().fold(b.value(NONE), |m, p| m.max(p.0));
        let zero = b.value(0.0f32);
        parts.iter().fold((most, zero, [zero; VEC as usize]), |(_, sum, values), (m, l, o)| {
            let weight = ((*m - most) * self.0.factor_after()).exp2_flush();
            (most, l.fma(weight, sum), std::array::from_fn(|i| o[i].fma(weight, values[i])))
        })
    }
}
