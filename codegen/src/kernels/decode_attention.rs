//! Attention of decode steps: one token a request, whose context is split over blocks.
//!
//! A block takes the query heads that share a key/value head as the rows of one m16 tile, and a share of the context;
//! its warps go over tiles of keys in turn, each with its own stages and softmax (`flash_softmax.rs`). The warps are
//! merged at the end; if the context has several shares, their parts go to scratch memory and the last block to arrive
//! merges them. Shares depend on the context alone and are merged in order, so a result depends on neither the other
//! requests nor on which block is the last.
//!
//! With a prologue the kernel is that of a chain: norm, rotation and append of the step's token (`rope_kv_append.rs`) are its
//! own work, and queries and the new key never go through memory.
//!
//! Keys and values of earlier steps are copied before the launches before this one are waited for. Only launches that follow
//! each other directly overlap, and between those of two steps the device's one queue has a copy: of what a step chose, or
//! of a table that changed. When a launch of a step begins, on whatever else it has to wait, all launches of earlier steps are done.
//! Of this step there is the key at the end of each context, and what lies before it was not appended by this step for
//! another request either: pages are shared from the step after the one that fills them on. So the tile that has the last
//! key, and the queries, alone are loaded after the wait; with a prologue, which has that key itself, the row of qkv.

mod merge;
mod prologue;

use self::merge::Part;
use self::prologue::{Block, Prologue};
use super::attention::{Attention, Paged};
use super::flash_softmax::{State, WarpRows};
use super::flash_tiles::{Keys, Tiles};
use super::rope_kv_append::RopeKvAppend;
use super::{Count, Extent, Launch, Scratch, Shared, last_to_arrive};
use crate::builder::{Bf16, Builder, I1, I32, Special, Val};

/// Rows of a tile: most query heads of a block.
const ROWS: u32 = 16;
/// Most shares of a context.
const SHARES: u32 = 16;
/// Blocks that are so few that those without a share are launched too.
const FEW: u32 = 2048;
/// Keys of a share, of bf16, unless there would be more than [`SHARES`]; of e4m3 as many bytes.
const SHARE_KEYS: u32 = 256;

/// The kernel for these constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeAttention {
    /// The attention.
    pub attention: Attention,
    /// What makes its queries and appends to the cache, if the kernel does that too.
    pub prologue: Option<RopeKvAppend>,
}

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

impl DecodeAttention {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        self.attention.unsupported_by_tiles().or_else(|| self.prologue?.unsupported())
    }

    /// Two stages of tiles for each warp take 64 KiB.
    fn tiling(&self) -> Tiling {
        let (warps, keys) = match self.attention.head_dim {
            0..=64 => (4, 32),
            65..=128 => (4, 16),
            _ => (2, 16),
        };
        Tiling { warps, keys: if self.attention.pages().scaled() { 2 * keys } else { keys } }
    }

    /// Blocks among which the query heads of a key/value head are shared out.
    fn blocks_of_head(&self) -> u32 {
        self.attention.group().div_ceil(ROWS).max(1)
    }

    /// Query heads of a block; the last block of a key/value head may have fewer.
    fn rows(&self) -> u32 {
        self.attention.group().div_ceil(self.blocks_of_head())
    }

    /// Blocks of a request and share.
    fn units(&self) -> u32 {
        self.attention.kv_heads * self.blocks_of_head()
    }

    /// Geometry. Arguments: [`Attention::args`]; with a prologue its own, with y in place of q.
    pub fn launch(&self) -> Launch {
        let one = |mul: u32| Extent { of: Count::One, div: 1, plus: None, mul: mul.max(1) };
        let seqs = Extent { of: Count::Seqs, div: 1, plus: None, mul: 1 };
        let bytes = 4 * self.scratch().iter().sum::<u64>();
        Launch {
            grid: [seqs, one(self.units()), Extent::ONE],
            block: [self.tiling().warps * 32, 1, 1],
            args: self.prologue.map_or_else(Attention::args, |rope| rope.args()),
            maps: Vec::new(),
            scratch: Some(Scratch { of: Count::Seqs, bytes, counters: self.units() }),
            shares: Some(Shared { keys: self.share_keys(), most: SHARES, few: FEW }),
        }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let inputs = self.prologue.map(|rope| (rope, rope.inputs(b)));
        let q = self.prologue.is_none().then(|| b.param_ptr::<Bf16>());
        let paged = Paged::params(b);
        let y = b.param_floats(self.attention.out);
        let (scratch, counters) = b.param_scratch();
        b.param_dims_early();
        // Shared memory bounds the blocks of a multiprocessor; ptxas would save registers for more, and spill.
        b.min_blocks(2);
        let Attention { heads, head_dim, .. } = self.attention;
        let Tiling { warps, keys: step } = self.tiling();
        let tiles = Tiles::new(b, &self.attention, ROWS, step, warps);

        // The token of request s is token s of the step.
        let (seq, unit) = (b.special(Special::BlockX), b.special(Special::BlockY));
        let share = b.special(Special::BlockZ);
        let to = paged.context.at(seq).load();
        let shares = self.shares(b, to);
        let memory = tiles.memory(self.values_at() + warps * self.rows() * head_dim);
        let (head, part) = (unit / self.blocks_of_head(), unit % self.blocks_of_head());
        let first_head = head * self.attention.group() + part * self.rows();
        let all = b.value(self.attention.group()) - part * self.rows();
        // Keys that are in memory: with a prologue all but the last.
        let (there, last) = match self.prologue {
            None => (to, to - 1),
            Some(_) => (to - 1, (to - 2).max(0)),
        };
        let keys = Keys { table: paged.table(seq), cache: paged.cache, head, to: there, last };
        let own = self.own(b, &shares, share);
        let block = Block { seq, head, part, first_head, queries: all.min(self.rows()), position: to - 1 };
        // A block without a share waits and is done. What comes before the wait stands in the branch of the others: LLVM would
        // move it there, behind the wait.
        let works = share.lt(shares.count);
        b.if_(!works, || b.after_grids());
        b.if_(works, || {
            self.load_early(b, &tiles, &keys, &own);
            // Those of the tiles that are loaded while the first ones are gone over.
            let pages = self.look_up(&tiles, &keys, own.first + 2 * warps);
            let prologue = inputs.map(|given| Prologue::new(b, given, &tiles, &keys, self.rows(), block));
            b.after_grids();
            let at = (seq.to_i64() * i64::from(heads) + first_head.to_i64()) * i64::from(head_dim);
            if let Some(q) = q {
                let q = q.at64(at);
                self.load_late(b, &tiles, &keys, &own);
                tiles.put_queries(block.queries, |row| q.at(row * head_dim));
            }
            if let Some(prologue) = &prologue {
                prologue.make(b, &tiles, share.eq(shares.count - 1));
            }
            b.sync();
            let state = self.over_keys(b, &tiles, &keys, (&own, pages), (to, prologue.as_ref()));
            self.exchange(b, memory, state);
            b.sync();

            let y = y.at64(at);
            let store = |at: Val<'_, I32>, (_, sum, values): Part<'_>| {
                let whole = b.value(1.0f32).div_approx(sum);
                let store = || y.at(at).store(values.map(|v| v * whole));
                if self.attention.group().is_multiple_of(self.rows()) {
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

    /// Keys of a share, unless there would be too many shares.
    fn share_keys(&self) -> u32 {
        if self.attention.pages().scaled() { 2 * SHARE_KEYS } else { SHARE_KEYS }
    }

    /// How the keys before `to` are shared out.
    fn shares<'b>(&self, b: &'b Builder, to: Val<'b, I32>) -> Shares<'b> {
        let Tiling { warps, keys } = self.tiling();
        let first = match self.attention.window {
            None => b.value(0),
            Some(w) => to.lt(w).select(0, to - w) / keys,
        };
        let end = to.div_ceil(keys);
        let tiles = end - first;
        let wanted = tiles.div_ceil(self.share_keys() / keys).min(SHARES);
        let each = ((tiles + wanted - 1) / wanted).div_ceil(warps) * warps;
        Shares { tiles: [first, end], each, count: (tiles + each - 1) / each }
    }

    /// This warp's tiles of share `share`; none if there is no such share.
    fn own<'b>(&self, b: &'b Builder, shares: &Shares<'b>, share: Val<'b, I32>) -> Own<'b> {
        let (_, warp) = b.lane_and_warp();
        let begin = shares.tiles[0] + share * shares.each;
        Own { first: begin + warp, end: (begin + shares.each).min(shares.tiles[1]) }
    }

    /// Starts to copy those of this warp's first two tiles that earlier steps have filled, each a group of copies; without
    /// a prologue the second one is left open for [`DecodeAttention::load_late`].
    fn load_early<'b>(&self, b: &'b Builder, tiles: &Tiles<'b>, keys: &Keys<'b>, own: &Own<'b>) {
        // A loop, for few registers.
        b.for_(0, 2, 1, (), |i, ()| {
            let tile = own.first + i * self.tiling().warps;
            let there = match self.prologue {
                None => !self.is_late(keys.to, tile),
                Some(_) => b.value(true),
            };
            b.if_(tile.lt(own.end) & there, || self.load(tiles, keys, i, tile));
            match self.prologue {
                None => b.if_(i.eq(0), || b.cp_async_commit()),
                Some(_) => b.cp_async_commit(),
            }
        });
    }

    /// Starts to copy that of the first two tiles which has this step's key; it ends the warp's tiles.
    fn load_late<'b>(&self, b: &'b Builder, tiles: &Tiles<'b>, keys: &Keys<'b>, own: &Own<'b>) {
        let only = self.is_late(keys.to, own.first);
        let i = only.select(0, 1);
        let tile = own.first + i * self.tiling().warps;
        b.if_(tile.lt(own.end) & self.is_late(keys.to, tile), || self.load(tiles, keys, i, tile));
        b.cp_async_commit();
        b.if_(only, || b.cp_async_wait(0));
    }

    /// Whether a tile has the last of the keys before `to`, or would lie behind it.
    fn is_late<'b>(&self, to: Val<'b, I32>, tile: Val<'b, I32>) -> Val<'b, I1> {
        to.le((tile + 1) * self.tiling().keys)
    }

    /// Starts to copy a tile to stage 0 or 1.
    fn load<'b>(&self, tiles: &Tiles<'b>, keys: &Keys<'b>, stage: Val<'b, I32>, tile: Val<'b, I32>) {
        let pages = self.look_up(tiles, keys, tile);
        let first = tile * self.tiling().keys;
        tiles.load_keys(&self.attention, keys, stage * tiles.stage_bytes(), (first, &pages));
    }

    /// Looks up the pages of a tile, of another one if it is not there.
    fn look_up<'b>(&self, tiles: &Tiles<'b>, keys: &Keys<'b>, tile: Val<'b, I32>) -> Vec<Val<'b, I32>> {
        tiles.look_up(&self.attention, keys, tile * self.tiling().keys)
    }

    /// Goes over this warp's tiles, of which the first two are under way, and the next one's pages are looked up; the context
    /// has the keys before `to`, of which a prologue has the last.
    fn over_keys<'b>(
        &self,
        b: &'b Builder,
        tiles: &Tiles<'b>,
        keys: &Keys<'b>,
        (own, pages): (&Own<'b>, Vec<Val<'b, I32>>),
        (to, prologue): (Val<'b, I32>, Option<&Prologue<'b>>),
    ) -> State<'b> {
        let Tiling { warps, keys: step } = self.tiling();
        let (lane, _) = b.lane_and_warp();
        let last = to - 1;
        let sees = last - (lane & 3) * 2;
        let rows = WarpRows { first: b.value(0), sees: vec![[sees; 2]], positions: [last; 2] };
        let init = (b.value(0), pages, self.attention.nothing_seen(b, 1));
        let (.., state) = b.for_(own.first, own.end, warps, init, |tile, (stage, pages, state)| {
            // Copies begin as soon as there is room: where their pages are is known by then.
            let further = self.look_up(tiles, keys, tile + 3 * warps);
            // This tile is there, the next one may be under way.
            b.cp_async_wait(1);
            b.sync_warp();
            if let Some(prologue) = prologue {
                // The zeros that were copied to the new key's place are there in all lanes.
                b.if_(self.is_late(to, tile), || prologue.put(b, tiles, stage, last - tile * step));
            }
            let state = self.attention.see(state, tiles, stage, tile * step, &rows);
            // The stage is left by all lanes.
            b.sync_warp();
            let after = tile + 2 * warps;
            b.if_(after.lt(own.end), || {
                tiles.load_keys(&self.attention, keys, stage, (after * step, &pages));
            });
            b.cp_async_commit();
            (stage ^ tiles.stage_bytes(), further, state)
        });
        // Nothing is under way into memory that the warps' states are put into.
        b.sync();
        state
    }
}
