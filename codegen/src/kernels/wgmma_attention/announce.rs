//! What the warps of a filling warpgroup of [`super::WgmmaAttention`] have in common where each has a share of every tile: the first
//! warp takes the items, copies queries and tells the others. What they do for an item is in `wgmma_attention/converter.rs` and
//! `wgmma_attention/transposer.rs`.

use super::work::Item;
use super::{Params, Smem, WgmmaAttention};
use crate::builder::{Barrier, Builder, I32, Special, Val};

impl WgmmaAttention {
    /// Calls `fill(item, [first, end, count])` of each item: tiles `first..end` of keys, the `count`-th ones of all and those that
    /// follow. The whole warpgroup.
    pub(super) fn for_items<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        announced: Barrier<'b>,
        fill: impl Fn(&Item<'b>, [Val<'b, I32>; 3]),
    ) {
        let (lane, warp) = b.lane_and_warp();
        b.if_((lane + warp).eq(0), || {
            b.prefetch_tensor_map(params.queries);
            params.cache.into_iter().for_each(|cache| b.prefetch_tensor_map(cache));
        });
        // The next item's number, in the first lane of the first warp; how many tiles of queries and of keys there were.
        let init = ([b.special(Special::BlockX), b.value(0), b.value(0)], b.value(true));
        b.while_(
            init,
            |(_, more)| *more,
            |([next, filled, keys], _)| {
                let announce = || self.announce(b, params, smem, announced, next, filled);
                let next = b.if_else(warp.eq(0), announce, || next);
                let stage = smem.queries.stage(filled);
                announced.at(filled & (smem.queries.stages as i32 - 1)).wait(stage.parity);
                let item = Item::load(self.place_of_item(smem, filled));
                let more = b.value(0).lt(item.count);
                let [first, end] = self.tiles_of(b, &item);
                b.if_(more, || fill(&item, [first, end, keys]));
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
        announced: Barrier<'b>,
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
            announced.at(filled & (smem.queries.stages as i32 - 1)).arrive();
        });
        b.sync_warp();
        next
    }
}
