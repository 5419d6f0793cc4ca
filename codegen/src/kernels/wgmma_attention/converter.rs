//! The warpgroup that fills shared memory for [`super::WgmmaAttention`] where keys and values are e4m3: it makes tiles of
//! bf16 of them, which products read.
//!
//! Each warp has a share of the rows of every tile. It copies their codes to a place of its own, those of the next tile as
//! soon as it has read this one's, so the warps wait for each other only where they tell the others of a whole tile. The first
//! warp takes the items and copies queries besides.
//!
//! Codes become bf16 exactly ([`Builder::e4m3_as_bf16`]): keys as they are, values times 2^-120, which weights that are
//! multiplied by [`LIFT`] and results by `LOWER` make up for. Scales stay f32: those of keys go to the scores, those of
//! values to the weights. Rows behind the end of the context hold anything; their codes are numbers whatever they are, and
//! the scales of such values become 0, so that their weights of 0 count for nothing.

use super::super::flash_codes::{LIFT, NOTHING};
use super::work::Item;
use super::{COLUMNS, PAGE, Params, ROW_BYTES, Ring, Smem, Stage, Tiling, WARPS, WgmmaAttention};
use crate::builder::{Barrier, Builder, F32, GlobalPtr, I8, I32, SharedPtr, Special, Val};
use crate::tile::Tile;

/// 2^120, two bf16.
const RAISE: i32 = 0x7b80_7b80;
/// Codes that a lane reads at once.
const VEC: u32 = 8;
/// Reads of a lane that are under way together.
const READS: u32 = 4;

/// What codes go through on their way to the tiles.
#[derive(Clone, Copy)]
pub(super) struct Codes<'b> {
    /// Codes, `(keys and values, warps, rows of a warp, head_dim)`.
    staged: SharedPtr<'b, I8>,
    /// What each warp waits for there, `(keys and values, warps)`.
    copied: Barrier<'b>,
    /// The item of each tile of queries is known.
    announced: Barrier<'b>,
    /// Tiles of queries.
    queries: u32,
}

impl<'b> Codes<'b> {
    /// All barriers.
    pub(super) fn barriers(self) -> impl Iterator<Item = Barrier<'b>> {
        let announced = (0..self.queries).map(move |i| self.announced.at(i));
        (0..2 * WARPS).map(move |i| self.copied.at(i)).chain(announced)
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
    pub(super) fn codes<'b>(&self, b: &'b Builder) -> Codes<'b> {
        let Tiling { keys, queries, .. } = self.tiling();
        let staged = b.shared(2 * keys * self.0.head_dim, 128);
        Codes { staged, copied: b.barriers(2 * WARPS), announced: b.barriers(queries), queries }
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
        b.if_((lane + warp).eq(0), || b.prefetch_tensor_map(params.queries));
        let bytes = self.rows_of_warp() * self.0.head_dim;
        let row = warp * self.rows_of_warp();
        let share = Share {
            row,
            slot: row % PAGE,
            staged: [0, WARPS].map(|which| codes.staged.at_bytes((warp + which) * bytes)),
            copied: [0, WARPS].map(|which| codes.copied.at(warp + which)),
        };
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
            let hidden = item.context.le((end - 1 - i) * keys + share.row + own);
            let rings = [smem.keys, smem.values];
            let scales = std::array::from_fn(|which: usize| {
                let stage = rings[which].stage(count + i);
                stage.wait_empty();
                share.copied[which].wait((count + i) & 1);
                self.make_rows(b, share, which, rings[which], stage);
                let scale_of = match which {
                    0 => scales[0],
                    _ => hidden.select(0.0f32, scales[1] * LIFT),
                };
                if let Some(at) = stage.scales {
                    let at = at.at(self.place_of_scale(share.row + own));
                    b.if_(lane.lt(self.rows_of_warp()), || at.store(scale_of));
                }
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

    /// Makes rows of the tile in `stage` of this warp's codes of keys or values.
    fn make_rows<'b>(
        &self,
        b: &'b Builder,
        share: &Share<'b>,
        which: usize,
        ring: Ring<'b>,
        stage: Stage<'b>,
    ) {
        let (lane, _) = b.lane_and_warp();
        // Lanes of a row, and rows that a warp reads at once: 8 codes of each lane make one chunk.
        let lanes = self.0.head_dim / VEC;
        let rows = 32 / lanes;
        let (row, column) = (lane / lanes, lane % lanes);
        let tile = Tile { rows: ring.bytes / ring.row_bytes, row_bytes: ROW_BYTES };
        let (part, chunk) = (column / (COLUMNS / VEC), column % (COLUMNS / VEC));
        let to = part * tile.bytes() + tile.offset(share.row + row, chunk);
        let from = share.staged[which].cast::<I32>().at(lane * 2);
        for first in (0..self.rows_of_warp() / rows).step_by(READS as usize) {
            let reads = first..(first + READS).min(self.rows_of_warp() / rows);
            let words: Vec<_> =
                reads.clone().map(|i| from.at_bytes(i * 32 * VEC).load_vector::<2>().elements()).collect();
            for (i, [left, right]) in reads.zip(words) {
                let pairs = [(left, [0, 1]), (left, [2, 3]), (right, [0, 1]), (right, [2, 3])];
                let pairs = pairs.map(|(word, codes)| {
                    let lowered = b.e4m3_as_bf16(word, codes);
                    if which == 0 { b.fma_bf16x2(lowered, RAISE, b.value(NOTHING)) } else { lowered }
                });
                // Chunks are exchanged by the row's last bits, of which these rows add those that the lane's lack.
                let on = i * rows;
                let to = (to ^ (on % 8 * 16)) + on * ROW_BYTES;
                stage.tile.at_bytes(to).cast::<I32>().store_vector(b.vector(pairs));
            }
        }
    }
}
