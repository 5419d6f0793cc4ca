//! Attention of runs of tokens, a tile of rows a block: what prompts need. Any step is served.
//!
//! A row is a token of the request's run and one of the query heads that share a key/value head, so that short runs
//! fill tiles too. A block goes over the keys that its rows see, a tile at a time: scores and weighted values are
//! matrix products on tensor cores (`mma.sync`), the softmax is kept up as it goes (`flash_softmax.rs`).
//!
//! Tiles of keys begin at multiples of their length, so a row's result depends on its position alone, not on where a
//! prompt was cut.

use super::attention::{Attention, Paged};
use super::flash_softmax::{State, WarpRows};
use super::flash_tiles::{Keys, Tiles};
use super::{Count, Extent, Launch, request_where};
use crate::builder::{Bf16, Builder, FloatPtr, GlobalPtr, I1, I32, I64, Special, StepDims, Val};

/// Warps of a block.
const WARPS: u32 = 4;

/// The kernel for these constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlashAttention(pub Attention);

/// Shape of a block's work.
#[derive(Clone, Copy)]
struct Tiling {
    /// Tiles of 16 rows of a warp.
    row_tiles: u32,
    /// Keys of a tile.
    keys: u32,
}

/// The parameters.
struct Params<'b> {
    q: GlobalPtr<'b, Bf16>,
    paged: Paged<'b>,
    y: FloatPtr<'b>,
    dims: StepDims<'b>,
}

/// A block's tile of rows. Rows are numbered in the request: `(token - start) * group + head`.
#[derive(Clone, Copy)]
struct Rows<'b> {
    /// First row.
    first: Val<'b, I32>,
    /// Rows of the request.
    all: Val<'b, I32>,
    /// First token of the request in the step, and its position.
    start: Val<'b, I32>,
    position: Val<'b, I32>,
}

impl FlashAttention {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        self.0.unsupported_by_tiles()
    }

    /// Sums and scores of a warp have to fit into 255 registers a thread, tiles into 99 KiB.
    fn tiling(&self) -> Tiling {
        match self.0.head_dim {
            0..=64 => Tiling { row_tiles: 2, keys: 64 },
            65..=128 => Tiling { row_tiles: 2, keys: 32 },
            _ => Tiling { row_tiles: 1, keys: 32 },
        }
    }

    /// Rows of a block.
    fn rows(&self) -> u32 {
        WARPS * 16 * self.tiling().row_tiles
    }

    /// Geometry. Arguments: [`Attention::args`].
    ///
    /// Request s has the blocks from `floor((query_start[s] - query_start[0]) * group / rows) + s` on, up to those of
    /// the next one: at least as many as it has tiles, since `floor(b) - floor(a) + 1 >= ceil(b - a)`. Those left over do nothing.
    pub fn launch(&self) -> Launch {
        let (group, rows) = (self.0.group().max(1), self.rows());
        let tiles = Extent {
            of: Count::Tokens,
            div: (rows / group).max(1),
            plus: Some(Count::Seqs),
            mul: group.div_ceil(rows),
        };
        let heads = Extent { of: Count::One, div: 1, plus: None, mul: self.0.kv_heads.max(1) };
        let grid = [tiles, heads, Extent::ONE];
        Launch::new(grid, WARPS * 32, Attention::args())
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let q = b.param_ptr::<Bf16>();
        let paged = Paged::params(b);
        let params = Params { q, paged, y: b.param_floats(self.0.out), dims: b.param_dims() };
        if self.0.pages().scaled() {
            // Shared memory lets more blocks in than registers should be saved for.
            b.min_blocks(2);
        }
        let (group, rows) = (self.0.group(), self.rows());
        let tiles = Tiles::new(b, &self.0, rows, self.tiling().keys, 1);
        let block = b.special(Special::BlockX);
        let dims = params.dims;
        b.if_(block.lt(dims.tokens * group / rows + dims.seqs), || {
            let first = |s| self.first_block(paged.query_start, s);
            let seq = request_where(b, dims.seqs, |s| first(s).le(block) & block.lt(first(s + 1)));
            let start = paged.query_start.at(seq).load();
            let tokens = paged.query_start.at(seq + 1).load() - start;
            let all = tokens * group;
            // The last tiles see the most keys: they come first.
            let tile = all.div_ceil(rows) - 1 - (block - first(seq));
            b.if_(b.value(0).le(tile), || {
                // The last token of a request is at `context - 1`.
                let position = paged.context.at(seq).load() - tokens;
                self.tile(b, &params, &tiles, seq, Rows { first: tile * rows, all, start, position });
            });
        });
    }

    /// The first block of request `seq`, see [`FlashAttention::launch`].
    fn first_block<'b>(&self, query_start: GlobalPtr<'b, I32>, seq: Val<'b, I32>) -> Val<'b, I32> {
        (query_start.at(seq).load() - query_start.load()) * self.0.group() / self.rows() + seq
    }

    /// One tile of rows of request `seq`.
    fn tile<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        tiles: &Tiles<'b>,
        seq: Val<'b, I32>,
        rows: Rows<'b>,
    ) {
        let Tiling { row_tiles, keys: step } = self.tiling();
        let group = self.0.group();
        let head = b.special(Special::BlockY);
        let row_of = |row: Val<'b, I32>| self.row(head, rows.start, row);
        // Positions of the tile's first and last token.
        let first = rows.position + rows.first / group;
        let last = rows.position + ((rows.first + self.rows()).min(rows.all) - 1) / group;
        let keys =
            Keys { table: params.paged.table(seq), cache: params.paged.cache, head, to: last + 1, last };
        let from = match self.0.window {
            None => b.value(0),
            Some(w) => (first + 1).lt(w).select(0, first + 1 - w) / step * step,
        };

        let load = |stage: Val<'b, I32>, first: Val<'b, I32>| {
            let pages = tiles.look_up(&self.0, &keys, first);
            tiles.load_keys(&self.0, &keys, stage, (first, &pages));
        };
        tiles.load_queries(rows.all - rows.first, |row| params.q.at64(row_of(rows.first + row)));
        load(b.value(0), from);
        b.cp_async_commit();
        if self.0.pages().scaled() || self.0.rounds() {
            b.cp_async_wait(0);
            b.sync();
            // The first round has a barrier.
            tiles.arrange_queries();
        }

        let (lane, warp) = b.lane_and_warp();
        let first_row = warp * (16 * row_tiles);
        // This lane's rows of each m16 tile, and the last key that they see less the lane's first column.
        let own: Vec<[Val<'b, I32>; 2]> = (0..row_tiles)
            .map(|m| [0, 8].map(|h| rows.first + first_row + (lane >> 2) + (m * 16 + h)))
            .collect();
        let sees: Vec<[Val<'b, I32>; 2]> =
            own.iter().map(|r| r.map(|r| rows.position + r / group - (lane & 3) * 2)).collect();

        let rows_of_warp = WarpRows { first: first_row, sees, positions: [first, last] };
        let init = (b.value(0), self.0.nothing_seen(b, row_tiles));
        let (_, state) = b.for_(from, keys.to, step, init, |key, (stage, state)| {
            // This tile is there; the other stage, which the next one is copied to, is left by all warps.
            b.cp_async_wait(0);
            b.sync();
            let other = stage ^ tiles.stage_bytes();
            b.if_((key + step).lt(keys.to), || load(other, key + step));
            b.cp_async_commit();
            (other, self.0.see(state, tiles, stage, key, &rows_of_warp))
        });
        self.store(b, params.y, state, |r| (row_of(r), r.lt(rows.all)), &own);
    }

    /// Where row `row` of a request, whose first token is `start`, lies in q and y, elements.
    fn row<'b>(&self, head: Val<'b, I32>, start: Val<'b, I32>, row: Val<'b, I32>) -> Val<'b, I64> {
        let group = self.0.group();
        let token = (start + row / group).to_i64() * i64::from(self.0.heads);
        (token + (head * group + row % group).to_i64()) * i64::from(self.0.head_dim)
    }

    /// Divides the weighted values by the sums of weights, and stores the rows that exist.
    fn store<'b>(
        &self,
        b: &'b Builder,
        y: FloatPtr<'b>,
        (softmax, values): State<'b>,
        row: impl Fn(Val<'b, I32>) -> (Val<'b, I64>, Val<'b, I1>),
        own: &[[Val<'b, I32>; 2]],
    ) {
        for ((softmax, values), own) in softmax.iter().zip(&values).zip(own) {
            for h in 0..2 {
                let whole = b.value(1.0f32).div_approx(b.sum_lanes(softmax[h][1], 4));
                let (at, exists) = row(own[h]);
                let (column, pairs) = self.0.pairs(values, h);
                let y = y.at64(at).at(column);
                b.if_(exists, || pairs.iter().for_each(|&(on, v)| y.at(on).store(v.map(|v| v * whole))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_ir::DType;

    #[test]
    fn every_tile_of_every_request_has_a_block() {
        for (heads, kv_heads, head_dim) in [(32, 8, 128), (9, 3, 64), (128, 1, 256), (8, 8, 64), (21, 3, 96)]
        {
            let a = Attention {
                heads,
                kv_heads,
                head_dim,
                page_tokens: 16,
                window: None,
                scale: 1.0,
                softcap: None,
                products: None,
                q: DType::Bf16,
                kv: DType::Bf16,
                out: DType::Bf16,
            };
            let flash = FlashAttention(a);
            let (group, rows) = (a.group(), flash.rows());
            let Extent { div, mul, .. } = flash.launch().grid[0];
            for runs in [&[1, 1, 1][..], &[130], &[7, 1, 300, 1, 1, 64, 63, 65], &[1; 100], &[2, 43, 42, 41]]
            {
                let (tokens, seqs) = (runs.iter().sum::<u32>(), runs.len() as u32);
                let blocks = (tokens.div_ceil(div) + seqs) * mul;
                let mut start = 0;
                for (s, run) in (0u32..).zip(runs) {
                    let first = |token: u32, s: u32| token * group / rows + s;
                    let (own, next) = (first(start, s), first(start + run, s + 1));
                    assert!((run * group).div_ceil(rows) <= next - own && next <= blocks, "{a:?} {runs:?}");
                    start += run;
                }
            }
        }
    }
}
