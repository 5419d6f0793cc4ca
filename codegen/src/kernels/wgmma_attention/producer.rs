//! The warp that fills shared memory for [`super::WgmmaAttention`].

use super::work::{Item, WORDS};
use super::{COLUMNS, PAGE, Params, ROW_BYTES, Ring, Smem, WgmmaAttention};
use crate::builder::{Builder, F32, I32, Special, Val};

/// Where the pages of a tile of keys are.
pub(super) type Pages<'b> = Vec<Val<'b, I32>>;

impl WgmmaAttention {
    /// The tiles of keys that an item's queries see: the first, and the one behind the last.
    pub(super) fn tiles_of<'b>(&self, b: &'b Builder, item: &Item<'b>) -> [Val<'b, I32>; 2] {
        let keys = self.tiling().keys;
        let first = match self.0.window {
            None => b.value(0),
            Some(w) => (item.position + 1).lt(w).select(0, item.position + 1 - w) / keys,
        };
        [first, item.last() / keys + 1]
    }

    /// Takes items until there are no more. One warp.
    pub(super) fn produce(&self, b: &Builder, params: &Params<'_>, smem: &Smem<'_>) {
        let (lane, _) = b.lane_and_warp();
        let one = lane.eq(0);
        b.if_(one, || {
            b.prefetch_tensor_map(params.queries);
            params.cache.into_iter().for_each(|cache| b.prefetch_tensor_map(cache));
        });
        let all = self.items(params);
        // The item, how many tiles of queries were filled, and how many of keys.
        let init = [b.special(Special::BlockX), b.value(0), b.value(0)];
        let [_, filled, _] = b.while_(
            init,
            |[index, ..]| index.lt(all),
            |[index, filled, keys]| {
                // The next number is under way while this item is worked on.
                let next = b.if_else(one, || self.take(b, params), || b.value(0));
                let item = self.item(b, params, index);
                let some = b.value(0).lt(item.count);
                let [first, end] = self.tiles_of(b, &item);
                b.if_(some, || {
                    self.fill_queries(b, params, smem, &item, filled);
                    b.if_(one, || self.fill_keys(b, params, smem, &item, (first, end), keys));
                });
                b.sync_warp();
                let (filled, keys) = (some.select(filled + 1, filled), some.select(keys + end - first, keys));
                [b.broadcast(next, 0), filled, keys]
            },
        );
        b.if_(one, || self.fill_end(b, params, smem, filled));
    }

    /// Says that there are no more items after `count` tiles of queries. One lane.
    pub(super) fn fill_end<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        count: Val<'b, I32>,
    ) {
        self.done(b, params);
        let stage = smem.queries.stage(count);
        stage.wait_empty();
        Item::end(b).store(self.place_of_item(smem, count));
        stage.full.arrive();
    }

    /// The key/value head of an item.
    pub(super) fn head<'b>(&self, item: &Item<'b>) -> Val<'b, I32> {
        item.unit / (self.0.group() / self.heads_of_tile())
    }

    /// Where the item of the `count`-th tile of queries is.
    pub(super) fn place_of_item<'b>(
        &self,
        smem: &Smem<'b>,
        count: Val<'b, I32>,
    ) -> crate::builder::SharedPtr<'b, I32> {
        smem.items.at((count & (self.tiling().queries as i32 - 1)) * WORDS)
    }

    /// Starts to copy the `count`-th tile of queries, `[warpgroup][part][head][token]`. Rows behind the request's are
    /// copied too. All lanes take part.
    pub(super) fn fill_queries<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        item: &Item<'b>,
        count: Val<'b, I32>,
    ) {
        let (heads, tokens) = (self.heads_of_tile(), self.tokens_of_group());
        let (lane, _) = b.lane_and_warp();
        let stage = smem.queries.stage(count);
        stage.wait_empty();
        b.if_(lane.eq(0), || {
            item.store(self.place_of_item(smem, count));
            stage.full.arrive_expect(smem.queries.bytes);
        });
        b.sync_warp();
        // Each lane copies boxes of its own, which follow each other in shared memory by their numbers.
        let boxes = self.tiling().groups * self.parts() * heads;
        b.for_(lane, boxes, 32, (), |i, ()| {
            let (group, part, head) = (i / (self.parts() * heads), i / heads % self.parts(), i % heads);
            let column = (item.unit * heads + head) * self.0.head_dim + part * COLUMNS;
            let at = [column, item.token + group * tokens];
            let to = stage.tile.at_bytes(i * (tokens * ROW_BYTES));
            b.tensor_load(to, params.queries, &at, stage.full, None);
        });
    }

    /// The pages of tile `tile` of keys. Keys behind the last page are hidden; those of the last page stand for them.
    pub(super) fn pages_of<'b>(&self, params: &Params<'b>, item: &Item<'b>, tile: Val<'b, I32>) -> Pages<'b> {
        let table = params.paged.table(item.seq);
        let last_page = (item.context - 1) / PAGE;
        let pages_of_tile = self.tiling().keys / PAGE;
        (0..pages_of_tile).map(|p| table.at((tile * pages_of_tile + p).min(last_page)).load()).collect()
    }

    /// Starts to copy a tile of a head's keys, or of its values where `which` is 1, to a stage of `ring` when that is left, as they lie
    /// in pages; of codes the scales too. One lane.
    pub(super) fn fill_tile<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        (ring, count): (Ring<'b>, Val<'b, I32>),
        pages: &Pages<'b>,
        (head, which): (Val<'b, I32>, u32),
    ) {
        let Some(cache) = params.cache else { return };
        let (cached, stage) = (self.0.pages(), ring.stage(count));
        // Columns of a copy, all of a row's or as many as a swizzled row has, and their bytes.
        let columns = if self.codes() { self.0.head_dim } else { COLUMNS };
        let row_bytes = self.key_bytes();
        let parts = self.0.head_dim / columns;
        stage.wait_empty();
        stage.full.arrive_expect(ring.bytes + ring.scale_bytes);
        // The head's first row in a page, where a key of a head is a row, and in all of the cache.
        let in_page = (head + which * self.0.kv_heads) * PAGE;
        for (p, &page) in (0u32..).zip(pages) {
            let row = page * self.rows_of_page() + in_page;
            b.for_(0, parts, 1, (), |part, ()| {
                let to = stage.tile.at_bytes((part * self.tiling().keys + p * PAGE) * row_bytes);
                b.tensor_load(to, cache, &[part * columns, row], stage.full, None);
            });
            // Those of keys and of values.
            if ring.scale_bytes > 0 {
                let page = params.paged.cache.at64(page.to_i64() * cached.bytes());
                let from = page.at64(b.value(cached.scales_at())).cast::<F32>().at(head * PAGE);
                for which in 0..2 {
                    let to = stage.scales.at(which * self.tiling().keys + p * PAGE);
                    b.bulk_load(to, from.at(which * self.0.kv_heads * PAGE), 4 * PAGE, stage.full, None);
                }
            }
        }
    }

    /// Starts to copy the tiles of keys and values from `end - 1` down to `first`, the `count`-th ones of all and
    /// those that follow.
    fn fill_keys<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        item: &Item<'b>,
        (first, end): (Val<'b, I32>, Val<'b, I32>),
        count: Val<'b, I32>,
    ) {
        let head = self.head(item);
        // The pages of a tile are looked up while the one before is copied.
        let ahead = |tile: Val<'b, I32>| self.pages_of(params, item, tile.lt(first).select(first, tile));
        b.for_(0, end - first, 1, self.pages_of(params, item, end - 1), |i, own| {
            let next = ahead(end - 2 - i);
            for (which, ring) in [(0, smem.keys), (1, smem.values)] {
                self.fill_tile(b, params, (ring, count + i), &own, (head, which));
            }
            next
        });
    }
}
