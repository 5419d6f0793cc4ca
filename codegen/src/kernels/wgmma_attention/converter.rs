//! The warpgroup that fills shared memory for [`super::WgmmaAttention`] where keys and values are e4m3: it makes tiles of
//! f16 of them, which products read.
//!
//! Each warp has a share of the rows of every tile. It copies their codes to a place of its own, those of the next tile as
//! soon as it has read this one's, so the warps wait for each other only where they tell the others of a whole tile.
//!
//! An f16 has seven bits more than a code, so it holds the product with the scale, rounded to 2^-12 of itself, as the scale is.
//! An f16 has fewer exponents than scales need: where that of a row is below [`LEAST`], the scale `m 2^e` comes in two factors,
//! `code * 2^e * m`, of which the first product is exact, so that both ways give the same bits. [`KEYS`] and [`VALUES`] put what keys and values are like in the middle of what an f16 can
//! be: up to 2^18 and 2^12; below 2^-17 and 2^-23 of the greatest element of a row there are fewer bits. Rows behind the end of the
//! context hold anything: such values become 0, so that their weights of 0 count for nothing.

use super::work::Item;
use super::{COLUMNS, PAGE, Params, ROW_BYTES, Ring, Smem, Stage, Tiling, WARPS, WgmmaAttention};
use crate::builder::{Barrier, Builder, F32, GlobalPtr, I8, I32, SharedPtr, Val};
use crate::tile::Tile;

/// What keys in shared memory are multiplied by.
pub(super) const KEYS: f32 = 0.25;
/// What values in shared memory are multiplied by.
pub(super) const VALUES: f32 = 16.0;
/// The greatest scale with which every code is an f16.
const MOST: f32 = 65504.0 / 448.0;
/// The least scale that an f16 has all bits of.
const LEAST: f32 = 1.0 / 16384.0;
/// Codes that a lane reads at once.
const VEC: u32 = 8;
/// Reads of a lane that are under way together.
const READS: u32 = 4;

/// What codes go through on their way to the tiles.
#[derive(Clone, Copy)]
pub(super) struct Halves<'b> {
    /// Codes, `(keys and values, warps, rows of a warp, head_dim)`.
    staged: SharedPtr<'b, I8>,
    /// What each warp waits for there, `(keys and values, warps)`.
    copied: Barrier<'b>,
}

impl<'b> Halves<'b> {
    /// Its barriers, for one arrival each.
    pub(super) fn barriers(self) -> impl Iterator<Item = Barrier<'b>> {
        (0..2 * WARPS).map(move |i| self.copied.at(i))
    }
}

/// A warp's share of the tiles of an item.
struct Share<'b> {
    /// First row in a tile, and in a page.
    row: Val<'b, I32>,
    slot: Val<'b, I32>,
    /// Where keys and values of this warp go, and what it waits for.
    staged: [SharedPtr<'b, I8>; 2],
    copied: [Barrier<'b>; 2],
}

impl WgmmaAttention {
    /// Takes shared memory.
    pub(super) fn staged_codes<'b>(&self, b: &'b Builder) -> Halves<'b> {
        let staged = b.shared(2 * self.tiling().keys * self.0.head_dim, 128);
        Halves { staged, copied: b.barriers(2 * WARPS) }
    }

    /// Rows of a tile that a warp makes.
    fn rows_of_warp(&self) -> u32 {
        self.tiling().keys / WARPS
    }

    /// Fills shared memory until there are no more items. The whole warpgroup.
    pub(super) fn convert<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        announced: Barrier<'b>,
        halves: Halves<'b>,
    ) {
        let (_, warp) = b.lane_and_warp();
        let bytes = self.rows_of_warp() * self.0.head_dim;
        let row = warp * self.rows_of_warp();
        let share = Share {
            row,
            slot: row % PAGE,
            staged: [0, WARPS].map(|which| halves.staged.at_bytes((warp + which) * bytes)),
            copied: [0, WARPS].map(|which| halves.copied.at(warp + which)),
        };
        self.for_items(b, params, smem, announced, |item, tiles| {
            self.make_keys(b, params, smem, &share, item, tiles);
        });
    }

    /// Makes this warp's share of the tiles of keys and values from `end - 1` down to `first`, the `count`-th ones of all
    /// and those that follow.
    fn make_keys<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        share: &Share<'b>,
        item: &Item<'b>,
        [first, end, count]: [Val<'b, I32>; 3],
    ) {
        let Tiling { keys, .. } = self.tiling();
        let (lane, _) = b.lane_and_warp();
        let one = lane.eq(0);
        let pages = self.0.pages();
        let (table, head) = (params.paged.table(item.seq), self.head(item));
        let last_page = (item.context - 1) / PAGE;
        // Keys behind the last page are hidden; those of the last page stand for them.
        let page = |tile: Val<'b, I32>| {
            let tile = tile.lt(first).select(first, tile);
            table.at(((tile * keys + share.row) / PAGE).min(last_page)).load()
        };
        // The first of this warp's rows in a page.
        let row = |which: u32| (head + which * self.0.kv_heads) * PAGE + share.slot;
        let start_of = |page: Val<'b, I32>| params.paged.cache.at64(page.to_i64() * pages.bytes());
        let copy = |which: usize, page: GlobalPtr<'b, I8>| {
            let bytes = self.rows_of_warp() * self.0.head_dim;
            share.copied[which].arrive_expect(bytes);
            let from = page.at(row(which as u32) * self.0.head_dim);
            b.bulk_load(share.staged[which], from, bytes, share.copied[which], None);
        };
        let own = lane % self.rows_of_warp();
        let scale = |which: usize, page: GlobalPtr<'b, I8>| {
            let scales: GlobalPtr<'b, F32> = page.at64(b.value(pages.scales_at())).cast();
            scales.at(row(which as u32) + own).load()
        };
        let begin = start_of(page(end - 1));
        b.if_(one, || [0, 1].into_iter().for_each(|which| copy(which, begin)));
        let init = (page(end - 2), [0, 1].map(|which| scale(which, begin)));
        b.for_(0, end - first, 1, init, |i, (next, scales)| {
            // The page of the tile after the next one is looked up meanwhile.
            let (after, next) = (page(end - 3 - i), start_of(next));
            let more = (i + 1).lt(end - first);
            // How many of this warp's rows are in the context.
            let there = item.context - ((end - 1 - i) * keys + share.row);
            let rings = [smem.keys, smem.values];
            let scales = std::array::from_fn(|which: usize| {
                let stage = rings[which].stage(count + i);
                stage.wait_empty();
                share.copied[which].wait((count + i) & 1);
                if which == 1 {
                    self.clear_codes(b, share, there);
                }
                let raised = scales[which] * [KEYS, VALUES][which];
                let raised = raised.lt(MOST).select(raised, MOST);
                let (ring, apart) = (rings[which], b.any(raised.lt(LEAST)));
                let make = |factors| self.make_rows(b, share, which, factors, ring, stage);
                b.if_else(apart, || make(Factors::two(b, raised)), || make(Factors::one(b, raised)));
                b.fence_async();
                b.sync_warp();
                b.if_(one, || {
                    stage.full.arrive();
                    b.if_(more, || copy(which, next));
                });
                scale(which, next)
            });
            (after, scales)
        });
    }

    /// Makes this warp's codes of values 0 from row `from` on: they are no numbers perhaps.
    fn clear_codes<'b>(&self, b: &'b Builder, share: &Share<'b>, from: Val<'b, I32>) {
        let (lane, _) = b.lane_and_warp();
        let chunks = self.0.head_dim / 16;
        let all = self.rows_of_warp() * chunks;
        b.if_(from.lt(self.rows_of_warp()), || {
            b.for_(from.max(0) * chunks + lane, all, 32, (), |i, ()| {
                let at = share.staged[1].at_bytes(i * 16).cast::<I32>();
                at.store_vector(b.vector([b.value(0); 4]));
            });
            b.sync_warp();
        });
    }

    /// Makes rows of the tile in `stage` of this warp's codes of keys or values, with each lane's factors of a row.
    fn make_rows<'b>(
        &self,
        b: &'b Builder,
        share: &Share<'b>,
        which: usize,
        factors: Factors<'b>,
        ring: Ring<'b>,
        stage: Stage<'b>,
    ) {
        let (lane, _) = b.lane_and_warp();
        // Lanes of a row, and rows that a warp reads at once: 8 codes of each lane make one chunk.
        let lanes = self.0.head_dim / VEC;
        let rows = 32 / lanes;
        let (row, column) = (lane / lanes, lane % lanes);
        let tile = Tile { rows: self.tiling().keys, row_bytes: ROW_BYTES };
        debug_assert_eq!(ring.bytes, self.parts() * tile.bytes());
        let (part, chunk) = (column / (COLUMNS / VEC), column % (COLUMNS / VEC));
        let to = part * tile.bytes() + tile.offset(share.row + row, chunk);
        let from = share.staged[which].cast::<I32>().at(lane * 2);
        for first in (0..self.rows_of_warp() / rows).step_by(READS as usize) {
            let reads = first..(first + READS).min(self.rows_of_warp() / rows);
            let words: Vec<_> =
                reads.clone().map(|i| from.at_bytes(i * 32 * VEC).load_vector::<2>().elements()).collect();
            for (i, [left, right]) in reads.zip(words) {
                // Chunks are exchanged by the row's last bits, of which these rows add those that the lane's lack.
                let on = i * rows;
                let factors = factors.of_row(b, row + on);
                let pairs =
                    [(left, false), (left, true), (right, false), (right, true)].map(|(word, upper)| {
                        factors
                            .iter()
                            .fold(b.e4m3_as_f16(word, upper), |pair, &factor| b.mul_f16x2(pair, factor))
                    });
                let to = (to ^ (on % 8 * 16)) + on * ROW_BYTES;
                stage.tile.at_bytes(to).cast::<I32>().store_vector(b.vector(pairs));
            }
        }
    }
}

/// What codes are multiplied by, each lane's of a row.
#[derive(Clone, Copy)]
enum Factors<'b> {
    /// The scale, in both halves of a word.
    One(Val<'b, I32>),
    /// `m` in `1..2` in the lower half, `2^e` in the upper one.
    Two(Val<'b, I32>),
}

impl<'b> Factors<'b> {
    fn one(b: &'b Builder, scale: Val<'b, F32>) -> Self {
        Self::One(b.pack_f16(scale, scale))
    }

    /// Of a scale `m 2^e`; 0 is `1 * 0`.
    fn two(b: &'b Builder, scale: Val<'b, F32>) -> Self {
        let bits = scale.bitcast::<I32>();
        let part = b.and_or(bits, 0x007f_ffff, 0x3f80_0000);
        Self::Two(b.pack_f16(part.bitcast(), (bits & 0x7f80_0000).bitcast()))
    }

    /// Those of the lane `row`, in the order of the products, each in both halves of a word. All lanes take part.
    fn of_row(self, b: &'b Builder, row: Val<'b, I32>) -> Vec<Val<'b, I32>> {
        match self {
            Self::One(scale) => vec![b.broadcast(scale, row)],
            Self::Two(both) => {
                let both = b.broadcast(both, row);
                [0x3232, 0x1010].map(|half| b.permute_bytes(both, both, half)).to_vec()
            }
        }
    }
}
