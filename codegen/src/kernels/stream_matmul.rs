//! `y = x w^T + bias + residual` for few tokens on Hopper: weights pass through shared memory once, at memory's speed.
//! Or `y = act(x wg^T + bg) * (x wu^T + bu)`, with wg above wu in w: a warpgroup's tile is then half of either.
//!
//! x `(M, K)` with M at most [`StreamMatmul::tokens`], w `(N, K)`, row-major, bf16 or e4m3 with scales. Weights are the first
//! operand of `wgmma`, `(64, k) x (k, tokens)`, so that few tokens make narrow products. Two threads bring weights and x by
//! tensor copies into a ring; two warpgroups multiply, a tile each by turns or one tile together.
//!
//! The tiles of w, cut into *units* along K, are dealt out to [`MULTIPROCESSORS`] blocks in equal runs, which may end inside of a
//! tile. Parts of one tile go through scratch memory; the last block to arrive adds them in the order of K, whichever it is.
//! For sums that do not depend on the kernel ([`StreamMatmul::order`]) runs end between shares of K, each one chain of products.
//! Weights are asked for before the launch waits for those before it.

mod feed;
mod store;

use super::epilogue::Epilogue;
use super::operands::{Order, Params, Product};
use super::ring::{Cursor, Ring};
use super::{Count, Extent, Launch, MULTIPROCESSORS, Scratch, grid_of, last_of};
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I1, I32, SharedPtr, Special, Val};
use feed::Run;

/// Bytes along K of a tensor copy and of a row in shared memory.
pub(super) const CHUNK: u32 = 128;
/// Most bytes of the ring: more than half of a multiprocessor's shared memory (see [`super::narrow_matmul`]).
const MEMORY: u32 = 132 << 10;
/// Outputs of a warpgroup.
const ROWS: u32 = 64;
/// Threads of a warpgroup.
const GROUP: u32 = 128;
/// Elements that a thread stores at once.
const VEC: u32 = 8;
/// Named barriers: of warpgroups that turn sums, of teams that meet, of teams that wait for their turn.
const TURNED: u32 = 2;
const MEETINGS: u32 = 4;
const TURNS: u32 = 6;
/// Floats between the rows of the buffer that turns sums: banks of neighbouring tokens differ.
const PITCH: u32 = ROWS + 4;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamMatmul {
    /// What is computed.
    pub of: Product,
    /// Most tokens: 8, 16, 32 or 64.
    pub tokens: u32,
    /// The order of sums. Its shares divide the units of K.
    pub order: Order,
}

/// A team, as one of its threads sees it.
struct Team<'b> {
    number: Val<'b, I32>,
    /// The thread within the team.
    thread: Val<'b, I32>,
    /// Memory in which sums are turned, of all teams.
    turn: SharedPtr<'b, F32>,
}

impl StreamMatmul {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let uneven = || {
            let shares = self.shares().filter(|&shares| !self.units().is_multiple_of(shares))?;
            Some(format!("{} units along K are not {shares} equal shares", self.units()))
        };
        self.of.unsupported().or_else(uneven)
    }

    /// Shares of K, if the order of sums is prescribed.
    fn shares(&self) -> Option<u32> {
        match self.order {
            Order::Free => None,
            Order::Shares(shares) => Some(shares),
        }
    }

    /// Warpgroups that share a tile: x is read once for both.
    fn groups(&self) -> u32 {
        if self.tokens > 16 && self.shares().is_none() { 2 } else { 1 }
    }

    /// Teams of warpgroups, which take tiles by turns: one ends its tile while the other multiplies.
    fn teams(&self) -> u32 {
        2 / self.groups()
    }

    /// Threads of a team.
    fn team(&self) -> u32 {
        self.groups() * GROUP
    }

    /// Threads that multiply, the first of the block.
    const WORKERS: u32 = 2 * GROUP;

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

    /// Units that are not dealt out to several blocks.
    fn grain(&self) -> u32 {
        self.shares().map_or(1, |shares| self.units() / shares)
    }

    /// Such runs of units, of all tiles.
    fn grains(&self) -> u32 {
        self.units() / self.grain() * self.tiles()
    }

    fn blocks(&self) -> u32 {
        self.grains().min(MULTIPROCESSORS)
    }

    /// Places for parts of tiles: for each share, or two for each block, which begins and ends at most one tile that is
    /// not its own alone.
    fn parts(&self) -> u32 {
        if self.shares().is_some() { self.grains() } else { 2 * self.blocks() }
    }

    fn stage_bytes(&self) -> u32 {
        self.chunks() * CHUNK * (self.tile() + self.tokens)
    }

    /// Sums of a tile.
    fn sums(&self) -> u32 {
        self.tile() * self.tokens
    }

    /// Geometry. Arguments: `[x, weight, bias?, residual?, y]`.
    pub fn launch(&self) -> Launch {
        // Of w all rows of a tile, or half of a warpgroup's.
        let w_rows = if self.of.gate.is_some() { ROWS / 2 } else { self.tile() };
        let w = self.of.map_w(w_rows, CHUNK);
        let bytes = 4 * u64::from(self.parts()) * u64::from(self.sums());
        let scratch = Some(Scratch { of: Count::One, bytes, counters: self.tiles() });
        let grid = grid_of(Extent { mul: self.blocks(), ..Extent::ONE });
        let maps = vec![self.of.map_x(self.tokens, CHUNK), w];
        Launch { maps, scratch, ..Launch::new(grid, Self::WORKERS + 2 * 32, self.of.args()) }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let (_, params) = self.of.params(b);
        let [x, w] = [b.param_tensor_map(), b.param_tensor_map()];
        let (parts, counters) = b.param_scratch();
        let m = self.of.rows.of(b.param_dims_early());
        let ring = Ring::new(b, MEMORY / self.stage_bytes(), self.stage_bytes());
        let thread = b.special(Special::ThreadX);
        // Warps of which one thread brings something: weights, and x.
        let leads = |i: u32| thread.eq(Self::WORKERS + 32 * i);
        b.if_(leads(0), || {
            [x, w].into_iter().for_each(|map| b.prefetch_tensor_map(map));
            ring.begin(b, self.groups());
        });
        b.sync();
        let block = b.special(Special::BlockX);
        let first = self.begin(block);
        let run = Run { ring, first, count: self.begin(block + 1) - first };
        b.if_(leads(0), || self.bring_weights(b, &run, w));
        b.if_(leads(1), || {
            b.after_grids();
            self.bring_x(b, &run, x);
        });
        b.if_(thread.lt(Self::WORKERS), || {
            b.after_grids();
            self.multiply(b, &run, (parts.cast(), counters), self.epilogue(params, m));
        });
    }

    /// The end of the product.
    fn epilogue<'b>(&self, params: Params<'b>, m: Val<'b, I32>) -> Epilogue<'b> {
        let ragged = !self.of.outputs().is_multiple_of(self.tile() / self.of.halves());
        self.of.epilogue(params, m, ragged)
    }

    /// The first unit of a block.
    fn begin<'b>(&self, block: Val<'b, I32>) -> Val<'b, I32> {
        block * self.grains() / self.blocks() * self.grain()
    }

    /// The block that has a unit: the greatest whose first unit is not after it.
    fn owner<'b>(&self, unit: Val<'b, I32>) -> Val<'b, I32> {
        ((unit / self.grain() + 1) * self.blocks() - 1) / self.grains()
    }

    /// Multiplies what comes, tile by tile, and stores it.
    fn multiply<'b>(
        &self,
        b: &'b Builder,
        run: &Run<'b>,
        (parts, counters): (GlobalPtr<'b, F32>, GlobalPtr<'b, I32>),
        epilogue: Epilogue<'b>,
    ) {
        let Run { ring, first, count, .. } = *run;
        let end = first + count;
        let thread = b.special(Special::ThreadX);
        let team = Team { number: thread / self.team(), thread: thread % self.team(), turn: self.turn(b) };
        let meeting = b.shared::<I32>(self.teams(), 4).at(team.number);
        let (units, tile_units) = (self.units(), |tile: Val<'b, I32>| tile * self.units());
        let (begin, behind) = (first / units, end.div_ceil(units));
        // The number of a barrier at which a team waits for its turn.
        let turn_of = |team: Val<'b, I32>| team + TURNS;
        b.for_(begin + team.number, behind, self.teams(), (), |tile, ()| {
            // Units of this tile that are this block's.
            let from = first.max(tile_units(tile));
            let to = end.min(tile_units(tile + 1));
            if self.teams() > 1 {
                b.if_(tile.ne(begin), || b.sync_some(turn_of(team.number), Self::WORKERS));
            }
            let zero = vec![b.value(0.0f32); self.tokens as usize / 2];
            let whole = (to - from).eq(units);
            // The sum of some units, which begins with nothing.
            let chain = |from: Val<'b, I32>, to: Val<'b, I32>, cursor: Cursor<'b>| {
                b.for_(from, to, 1, (zero.clone(), cursor), |unit, (sums, cursor)| {
                    ring.wait_full(cursor);
                    let weights = ring.slot(cursor);
                    let x = weights.at_bytes(self.chunks() * self.tile() * CHUNK);
                    let sums = self.product(b, [weights, x], sums, unit.ne(from));
                    b.if_((thread & (GROUP as i32 - 1)).eq(0), || ring.leave(cursor));
                    (sums, ring.next(cursor))
                })
            };
            let put = |unit: Val<'b, I32>, sums: &[Val<'b, F32>]| {
                let mine = self.part(parts, b.special(Special::BlockX), unit, tile, &team);
                sums.iter().enumerate().for_each(|(j, &v)| mine.at(j as u32 * self.team()).store(v));
            };
            let cursor = ring.cursor_of(from - first);
            let sums = if self.shares().is_none() {
                chain(from, to, cursor).0
            } else {
                let init = (zero.clone(), cursor);
                let shares = b.for_(from, to, self.grain(), init, |unit, (all, cursor)| {
                    let (sums, cursor) = chain(unit, unit + self.grain(), cursor);
                    b.if_(!whole, || put(unit, &sums));
                    (all.iter().zip(&sums).map(|(&all, &sum)| all + sum).collect(), cursor)
                });
                shares.0
            };
            if self.teams() > 1 {
                // All before the next tile is done: its team finds the ring where it expects it.
                b.if_((tile + 1).lt(behind), || b.arrive_some(turn_of(team.number ^ 1), Self::WORKERS));
            }
            b.if_(whole, || self.store(b, &sums, tile, &team, epilogue));
            b.if_(!whole, || {
                if self.shares().is_none() {
                    put(from, &sums);
                }
                let (begin, last) = (self.owner(tile_units(tile)), self.owner(tile_units(tile + 1) - 1));
                let sync = || b.sync_some(team.number + MEETINGS, self.team());
                let leads = team.thread.eq(0);
                let arrived = last_of(b, counters.at(tile), last - begin + 1, (meeting, leads), &sync);
                b.if_(arrived, || {
                    let zero = vec![b.value(0.0f32); sums.len()];
                    // Of each share, or of each block.
                    let (begin, last) = match self.shares() {
                        Some(shares) => (b.value(0), b.value(shares - 1)),
                        None => (begin, last),
                    };
                    let part = |i: Val<'b, I32>| {
                        let unit = tile_units(tile) + i * self.grain();
                        self.part(parts, i, unit, tile, &team)
                    };
                    // Two at once, so that their loads are under way together; behind the last there are zeros.
                    let all = b.for_(begin, last + 1, 2, zero, |i, all| {
                        let pair = [i, i + 1].map(|i| {
                            let part = part(i.min(last));
                            let load = |j: usize| {
                                let sum = part.at(j as u32 * self.team()).load();
                                i.le(last).select(sum, 0.0f32)
                            };
                            (0..all.len()).map(load).collect::<Vec<_>>()
                        });
                        (0..all.len()).map(|j| all[j] + pair[0][j] + pair[1][j]).collect()
                    });
                    self.store(b, &all, tile, &team, epilogue);
                });
            });
        });
    }

    /// This thread's sums in a part of a tile: of the share that begins with `unit`, or of a block. A block has two, of the
    /// tile that it begins in and of the one that it ends in.
    fn part<'b>(
        &self,
        parts: GlobalPtr<'b, F32>,
        block: Val<'b, I32>,
        unit: Val<'b, I32>,
        tile: Val<'b, I32>,
        team: &Team<'b>,
    ) -> GlobalPtr<'b, F32> {
        let part = match self.shares() {
            Some(_) => unit / self.grain(),
            None => block * 2 + self.begin(block).le(tile * self.units()).to_i32(),
        };
        parts.at(part * self.sums()).at(team.thread)
    }

    /// `sums` (or nothing, if it is not `more`) and the product of a unit of weights and one of x, a warpgroup.
    fn product<'b>(
        &self,
        b: &'b Builder,
        [weights, x]: [SharedPtr<'b, Bf16>; 2],
        sums: Vec<Val<'b, F32>>,
        more: Val<'b, I1>,
    ) -> Vec<Val<'b, F32>> {
        let group = b.special(Special::ThreadX) % self.team() / GROUP;
        let chunk = |c: u32| {
            let rows = weights.at_bytes(c * self.tile() * CHUNK).at_bytes(group * (ROWS * CHUNK));
            [rows, x.at_bytes(c * self.tokens * CHUNK)]
        };
        let chunks: Vec<_> = (0..self.chunks()).map(chunk).collect();
        self.of.add_unit(b, &chunks, sums, (more, self.order))
    }
}
