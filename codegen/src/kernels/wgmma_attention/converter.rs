//! The warpgroup that fills shared memory for [`super::WgmmaAttention`] where keys and values are e4m3: it makes tiles of
//! f16 of them, which products read. Where queries are codes too, keys stay as they are: the first warp starts their copies, and f16
//! is made of values alone.
//!
//! Each warp has a share of the rows of every tile. It copies their codes to a place of its own, those of the next tile as
//! soon as it has read this one's, so the warps wait for each other only where they tell the others of a whole tile. The first
//! warp takes the items and copies queries besides.
//!
//! An f16 has seven bits more than a code, so it holds the product with the scale: `code * 2^e * m`, with the scale
//! `m 2^e` in two factors, for an f16 has fewer exponents than scales need. The first product is exact, the second is rounded to
//! 2^-12 of itself, as m is. [`KEYS`] and [`VALUES`] put what keys and values are like in the middle of what an f16 can
//! be: up to 2^18 and 2^12; below 2^-17 and 2^-23 of the greatest element of a row there are fewer bits. Rows behind the end of the
//! context hold anything: such values become 0, so that their weights of 0 count for nothing.

use super::producer;
use super::work::Item;
use super::{COLUMNS, PAGE, Params, ROW_BYTES, Ring, Smem, Stage, Tiling, WARPS, WgmmaAttention};
use crate::builder::{Barrier, Builder, F32, GlobalPtr, I8, I32, SharedPtr, Special, Val};
use crate::tile::Tile;

/// What keys in shared memory are multiplied by.
pub(super) const KEYS: f32 = 0.25;
/// What values in shared memory are multiplied by.
pub(super) const VALUES: f32 = 16.0;
/// The greatest scale with which every code is an f16.
const MOST: f32 = 65504.0 / 448.0;
/// Codes that a lane reads at once.
const VEC: u32 = 8;
/// Reads of a lane that are under way together.
const READS: u32 = 4;
/// Tiles of keys whose copies are started before values of the first of them are made. Their ring has twice the places of that of
/// values, so that a place there is always left before the one of values that is waited for next.
const AHEAD: u32 = 2;

/// What codes go through on their way to the tiles.
#[derive(Clone, Copy)]
pub(super) struct Codes<'b> {
    /// Codes, `(keys and values or values alone, warps, rows of a warp, head_dim)`.
    staged: SharedPtr<'b, I8>,
    /// What each warp waits for there, `(keys and values or values alone, warps)`.
    copied: Barrier<'b>,
    /// Number of both.
    places: u32,
    /// The item of each tile of queries is known.
    announced: Barrier<'b>,
    /// Tiles of queries.
    queries: u32,
}

impl<'b> Codes<'b> {
    /// All barriers.
    pub(super) fn barriers(self) -> impl Iterator<Item = Barrier<'b>> {
        let announced = (0..self.queries).map(move |i| self.announced.at(i));
        (0..self.places).map(move |i| self.copied.at(i)).chain(announced)
    }
}

/// A warp's share of the tiles of an item.
struct Share<'b> {
    /// First row in a tile, and in a page.
    row: Val<'b, I32>,
    slot: Val<'b, I32>,
    /// What f16 is made of.
    made: Vec<Made<'b>>,
}

/// Keys or values that a warp makes f16 of.
#[derive(Clone, Copy)]
struct Made<'b> {
    /// 0 of keys, 1 of values.
    which: u32,
    ring: Ring<'b>,
    /// Where codes of this warp go, and what it waits for.
    staged: SharedPtr<'b, I8>,
    copied: Barrier<'b>,
}

impl WgmmaAttention {
    /// Takes shared memory.
    pub(super) fn staged_codes<'b>(&self, b: &'b Builder) -> Codes<'b> {
        let Tiling { keys, queries, .. } = self.tiling();
        let made = (0..2).filter(|&which| self.halves(which)).count() as u32;
        let staged = b.shared(made * keys * self.0.head_dim, 128);
        let (copied, announced) = (b.barriers(made * WARPS), b.barriers(queries));
        Codes { staged, copied, places: made * WARPS, announced, queries }
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
        codes: &Codes<'b>,
    ) {
        let (lane, warp) = b.lane_and_warp();
        b.if_((lane + warp).eq(0), || {
            b.prefetch_tensor_map(params.queries);
            params.cache.into_iter().for_each(|cache| b.prefetch_tensor_map(cache));
        });
        let bytes = self.rows_of_warp() * self.0.head_dim;
        let row = warp * self.rows_of_warp();
        let which = [(0, smem.keys), (1, smem.values)].into_iter().filter(|(which, _)| self.halves(*which));
        let made = (0u32..).zip(which).map(|(i, (which, ring))| {
            let at = warp + i * WARPS;
            Made { which, ring, staged: codes.staged.at_bytes(at * bytes), copied: codes.copied.at(at) }
        });
        let share = Share { row, slot: row % PAGE, made: made.collect() };
        // The next item's number, in the first lane of the first warp; how many tiles of queries and of keys there were.
        let init = ([b.special(Special::BlockX), b.value(0), b.value(0)], b.value(true));
        b.while_(
            init,
            |(_, more)| *more,
            |([next, filled, keys], _)| {
                let announce = || self.announce(b, params, smem, codes, next, filled);
                let next = b.if_else(warp.eq(0), announce, || next);
                let stage = smem.queries.stage(filled);
                codes.announced.at(filled & (codes.queries as i32 - 1)).wait(stage.parity);
                let item = Item::load(self.place_of_item(smem, filled));
                let more = b.value(0).lt(item.count);
                let [first, end] = self.tiles_of(b, &item);
                b.if_(more, || self.make_keys(b, params, smem, &share, &item, [first, end, keys]));
                ([next, filled + 1, keys + end - first], more)
            },
        );
    }

    /// Finds the next item from number `next` on that is not empty, as the `filled`-th tile of queries, starts to copy its
    /// queries and tells the other warps. Gives the number after that, in the first lane. The first warp.
    fn announce<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        codes: &Codes<'b>,
        next: Val<'b, I32>,
        filled: Val<'b, I32>,
    ) -> Val<'b, I32> {
        let (lane, _) = b.lane_and_warp();
        let all = self.items(params);
        let init = (next, Item::end(b), b.value(true));
        let (next, item, _) = b.while_(
            init,
            |(.., more)| *more,
            |(next, ..)| {
                let index = b.broadcast(next, 0);
                let inside = index.lt(all);
                let take = || {
                    // The next number is under way while this item is worked on.
                    let next = b.if_else(lane.eq(0), || self.take(b, params), || b.value(0));
                    (next, self.item(b, params, index))
                };
                let (next, item) = b.if_else(inside, take, || (next, Item::end(b)));
                (next, item, inside & item.count.lt(1))
            },
        );
        let some = b.value(0).lt(item.count);
        b.if_(some, || self.fill_queries(b, params, smem, &item, filled));
        b.if_(lane.eq(0), || {
            b.if_(!some, || self.fill_end(b, params, smem, filled));
            codes.announced.at(filled & (codes.queries as i32 - 1)).arrive();
        });
        b.sync_warp();
        next
    }

    /// Makes this warp's share of the tiles of keys and values from `end - 1` down to `first`, the `count`-th ones of all
    /// and those that follow; of keys that stay codes the first warp starts the copies.
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
        let (lane, warp) = b.lane_and_warp();
        let one = lane.eq(0);
        let pages = self.0.pages();
        let (table, head) = (params.paged.table(item.seq), self.head(item));
        let last_page = (item.context - 1) / PAGE;
        let within = |tile: Val<'b, I32>| tile.lt(first).select(first, tile);
        // Keys behind the last page are hidden; those of the last page stand for them.
        let page =
            |tile: Val<'b, I32>| table.at(((within(tile) * keys + share.row) / PAGE).min(last_page)).load();
        // The first of this warp's rows in a page.
        let row = |which: u32| (head + which * self.0.kv_heads) * PAGE + share.slot;
        let start_of = |page: Val<'b, I32>| params.paged.cache.at64(page.to_i64() * pages.bytes());
        let copy = |made: &Made<'b>, page: GlobalPtr<'b, I8>| {
            let bytes = self.rows_of_warp() * self.0.head_dim;
            made.copied.arrive_expect(bytes);
            let from = page.at(row(made.which) * self.0.head_dim);
            b.bulk_load(made.staged, from, bytes, made.copied, None);
        };
        let own = lane % self.rows_of_warp();
        let scale = |made: &Made<'b>, page: GlobalPtr<'b, I8>| {
            let scales: GlobalPtr<'b, F32> = page.at64(b.value(pages.scales_at())).cast();
            scales.at(row(made.which) + own).load()
        };
        // The pages of the `i`-th tile of keys that stay codes, and the start of their copies.
        let pages_of = |i: Val<'b, I32>| match self.codes() {
            true => self.pages_of(params, item, within(end - 1 - i)),
            false => producer::Pages::new(),
        };
        let fill = |i: Val<'b, I32>, pages: &producer::Pages<'b>| {
            if self.codes() {
                let fill = || self.fill_tile(b, params, (smem.keys, count + i), pages, (head, 0));
                b.if_(one & warp.eq(0) & i.lt(end - first), fill);
            }
        };
        let begin = start_of(page(end - 1));
        b.if_(one, || share.made.iter().for_each(|made| copy(made, begin)));
        (0..AHEAD).map(|i| b.value(i)).for_each(|i| fill(i, &pages_of(i)));
        let scales: Vec<_> = share.made.iter().map(|made| scale(made, begin)).collect();
        let init = (page(end - 2), scales, pages_of(b.value(AHEAD)));
        b.for_(0, end - first, 1, init, |i, (next, scales, ahead)| {
            // The page of the tile after the next one is looked up meanwhile.
            let (after, next) = (page(end - 3 - i), start_of(next));
            fill(i + AHEAD, &ahead);
            let ahead = pages_of(i + (AHEAD + 1));
            let more = (i + 1).lt(end - first);
            // How many of this warp's rows are in the context.
            let there = item.context - ((end - 1 - i) * keys + share.row);
            let scales = share.made.iter().zip(scales).map(|(made, own)| {
                let stage = made.ring.stage(count + i);
                stage.wait_empty();
                made.copied.wait((count + i) & 1);
                if made.which == 1 {
                    self.clear_codes(b, made.staged, there);
                }
                let raised = own * [KEYS, VALUES][made.which as usize];
                let raised = raised.lt(MOST).select(raised, MOST);
                self.make_rows(b, share.row, made, factors(b, raised), stage);
                b.fence_async();
                b.sync_warp();
                b.if_(one, || {
                    stage.full.arrive();
                    b.if_(more, || copy(made, next));
                });
                scale(made, next)
            });
            (after, scales.collect(), ahead)
        });
    }

    /// Makes this warp's codes of values 0 from row `from` on: they are no numbers perhaps.
    fn clear_codes<'b>(&self, b: &'b Builder, staged: SharedPtr<'b, I8>, from: Val<'b, I32>) {
        let (lane, _) = b.lane_and_warp();
        let chunks = self.0.head_dim / 16;
        let all = self.rows_of_warp() * chunks;
        b.if_(from.lt(self.rows_of_warp()), || {
            b.for_(from.max(0) * chunks + lane, all, 32, (), |i, ()| {
                let at = staged.at_bytes(i * 16).cast::<I32>();
                at.store_vector(b.vector([b.value(0); 4]));
            });
            b.sync_warp();
        });
    }

    /// Makes the rows of the tile in `stage` from `first` on of this warp's codes, with each lane's factors of a row.
    fn make_rows<'b>(
        &self,
        b: &'b Builder,
        first: Val<'b, I32>,
        made: &Made<'b>,
        factors: Val<'b, I32>,
        stage: Stage<'b>,
    ) {
        let (lane, _) = b.lane_and_warp();
        // Lanes of a row, and rows that a warp reads at once: 8 codes of each lane make one chunk.
        let lanes = self.0.head_dim / VEC;
        let rows = 32 / lanes;
        let (row, column) = (lane / lanes, lane % lanes);
        let tile = Tile { rows: self.tiling().keys, row_bytes: ROW_BYTES };
        debug_assert_eq!(made.ring.bytes, self.parts() * tile.bytes());
        let (part, chunk) = (column / (COLUMNS / VEC), column % (COLUMNS / VEC));
        let to = part * tile.bytes() + tile.offset(first + row, chunk);
        let from = made.staged.cast::<I32>().at(lane * 2);
        for begin in (0..self.rows_of_warp() / rows).step_by(READS as usize) {
            let reads = begin..(begin + READS).min(self.rows_of_warp() / rows);
            let words: Vec<_> =
                reads.clone().map(|i| from.at_bytes(i * 32 * VEC).load_vector::<2>().elements()).collect();
            for (i, [left, right]) in reads.zip(words) {
                // Chunks are exchanged by the row's last bits, of which these rows add those that the lane's lack.
                let on = i * rows;
                let both = b.broadcast(factors, row + on);
                let [power, part] = [0x3232, 0x1010].map(|half| b.permute_bytes(both, both, half));
                let pairs = [(left, false), (left, true), (right, false), (right, true)];
                let pairs = pairs
                    .map(|(word, upper)| b.mul_f16x2(b.mul_f16x2(b.e4m3_as_f16(word, upper), power), part));
                let to = (to ^ (on % 8 * 16)) + on * ROW_BYTES;
                stage.tile.at_bytes(to).cast::<I32>().store_vector(b.vector(pairs));
            }
        }
    }
}

/// The factors of a scale, `m` in `1..2` and `2^e`, in the lower and the upper half; 0 is `1 * 0`.
fn factors<'b>(b: &'b Builder, scale: Val<'b, F32>) -> Val<'b, I32> {
    let bits = scale.bitcast::<I32>();
    let part = b.and_or(bits, 0x007f_ffff, 0x3f80_0000);
    b.pack_f16(part.bitcast(), (bits & 0x7f80_0000).bitcast())
}
