//! Which tiles of queries there are, and which block takes which.
//!
//! Request s has the tiles from `floor((query_start[s] - query_start[0]) / tokens) + s` on, up to those of the
//! next one: at least as many as it needs, since `floor(b) - floor(a) + 1 >= ceil(b - a)`. Those left over are empty. An item is a tile and a unit, a
//! group of query heads; units follow each other, so that blocks which run together read the same keys. The last tiles of
//! a request see the most keys and come first. A block begins with the item of its number and takes the next one from a
//! counter: whoever is done first takes more.

use super::{Params, WgmmaAttention};
use crate::builder::{Builder, Carried, GlobalPtr, I32, Raw, SharedPtr, Special, Val};

/// Words of an item in shared memory, of 4 bytes.
pub(super) const WORDS: u32 = 8;

/// A tile of queries of a unit.
#[derive(Clone, Copy)]
pub(super) struct Item<'b> {
    /// First token in the step.
    pub(super) token: Val<'b, I32>,
    /// Tokens, at least 1; 0 says that there is no more work.
    pub(super) count: Val<'b, I32>,
    /// Position of the first token.
    pub(super) position: Val<'b, I32>,
    /// Tokens of the request so far, this step's included.
    pub(super) context: Val<'b, I32>,
    /// The group of query heads.
    pub(super) unit: Val<'b, I32>,
    /// The request.
    pub(super) seq: Val<'b, I32>,
}

impl<'b> Item<'b> {
    fn words(&self) -> [Val<'b, I32>; 6] {
        [self.token, self.count, self.position, self.context, self.unit, self.seq]
    }

    fn of([token, count, position, context, unit, seq]: [Val<'b, I32>; 6]) -> Item<'b> {
        Item { token, count, position, context, unit, seq }
    }

    /// The item that says that there is no more.
    pub(super) fn end(b: &'b Builder) -> Item<'b> {
        Item::of([b.value(0); 6])
    }

    /// Leaves the item for other warps.
    pub(super) fn store(&self, at: SharedPtr<'b, I32>) {
        (0u32..).zip(self.words()).for_each(|(i, word)| at.at(i).store(word));
    }

    /// Reads an item.
    pub(super) fn load(at: SharedPtr<'b, I32>) -> Item<'b> {
        Item::of(std::array::from_fn(|i| at.at(i as u32).load()))
    }

    /// Position of the last token.
    pub(super) fn last(&self) -> Val<'b, I32> {
        self.position + self.count - 1
    }
}

impl<'b> Carried<'b> for Item<'b> {
    fn flatten(&self, out: &mut Vec<Raw>) {
        self.words().flatten(out);
    }
    fn rebuild(&self, b: &'b Builder, ids: &mut dyn Iterator<Item = u32>) -> Self {
        Item::of(self.words().rebuild(b, ids))
    }
}

impl WgmmaAttention {
    /// Items of the step, empty ones too.
    pub(super) fn items<'b>(&self, params: &Params<'b>) -> Val<'b, I32> {
        (params.dims.tokens / self.tokens() + params.dims.seqs) * self.units()
    }

    /// Item `index`; its count is below 1 if it is empty. All lanes of a warp take part.
    pub(super) fn item<'b>(&self, b: &'b Builder, params: &Params<'b>, index: Val<'b, I32>) -> Item<'b> {
        let query_start = params.paged.query_start;
        let (tile, unit) = (index / self.units(), index % self.units());
        let seq = self.request(b, params, tile);
        let start = query_start.at(seq).load();
        let tokens = query_start.at(seq + 1).load() - start;
        let tiles = tokens.div_ceil(self.tokens());
        // Tiles are counted from the last one on.
        let tile = tiles - 1 - (tile - self.first_tile(query_start, seq));
        let first = tile * self.tokens();
        let count = tile.lt(0).select(0, (tokens - first).min(self.tokens()));
        let context = params.paged.context.at(seq).load();
        // The last token of a request is at `context - 1`.
        Item { token: start + first, count, position: context - tokens + first, context, unit, seq }
    }

    /// The first tile of request `seq`.
    fn first_tile<'b>(&self, query_start: GlobalPtr<'b, I32>, seq: Val<'b, I32>) -> Val<'b, I32> {
        (query_start.at(seq).load() - query_start.load()) / self.tokens() + seq
    }

    /// The request that `tile` belongs to: each lane looks at others, and one of all finds it.
    fn request<'b>(&self, b: &'b Builder, params: &Params<'b>, tile: Val<'b, I32>) -> Val<'b, I32> {
        let (lane, _) = b.lane_and_warp();
        let seqs = params.dims.seqs;
        let first = |s| self.first_tile(params.paged.query_start, s);
        let found = b.for_(0, seqs, 32, b.value(0), |s, found| {
            let s = s + lane;
            let own = s.min(seqs - 1);
            let here = s.lt(seqs) & first(own).le(tile) & tile.lt(first(own + 1));
            here.select(own, found)
        });
        b.sum_lanes_int(found)
    }

    /// Takes the number of this block's next item, in one lane. Others have to be told.
    pub(super) fn take<'b>(&self, b: &'b Builder, params: &Params<'b>) -> Val<'b, I32> {
        b.add_relaxed(params.counters, 1) + b.special(Special::GridX)
    }

    /// This block takes no more, in one lane: the last one to say so makes the counters 0 again.
    pub(super) fn done<'b>(&self, b: &'b Builder, params: &Params<'b>) {
        let done = params.counters.at(1);
        let before = b.add_acquire_release(done, 1);
        b.if_(before.eq(b.special(Special::GridX) - 1), || {
            params.counters.store(b.value(0));
            done.store(b.value(0));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::attention::Attention;
    use super::*;
    use trtc_ir::DType;

    #[test]
    fn every_token_of_every_request_has_a_tile() {
        for (heads, kv_heads, head_dim) in [(32, 8, 128), (9, 3, 64), (16, 1, 256), (8, 8, 64)] {
            let a = WgmmaAttention(Attention {
                heads,
                kv_heads,
                head_dim,
                page_tokens: 64,
                window: None,
                scale: 1.0,
                softcap: None,
                products: None,
                q: DType::Bf16,
                kv: DType::Bf16,
                out: DType::Bf16,
            });
            let tokens = a.tokens();
            for runs in [&[1, 1, 1][..], &[130], &[7, 1, 300, 1, 1, 64, 63, 65], &[1; 100], &[2, 43, 42, 41]]
            {
                let all = runs.iter().sum::<u32>() / tokens + runs.len() as u32;
                let mut start = 0;
                for (s, run) in (0u32..).zip(runs) {
                    let first = |token: u32, s: u32| token / tokens + s;
                    let (own, next) = (first(start, s), first(start + run, s + 1));
                    assert!(run.div_ceil(tokens) <= next - own && next <= all, "{a:?} {runs:?}");
                    start += run;
                }
            }
        }
    }
}
