//! Attention of runs of tokens, a tile of rows a block: what prompts need. Any step is served.
//!
//! A row is a token of the request's run and one of the query heads that share a key/value head, so that short runs
//! fill tiles too. A block goes over the keys that its rows see, a tile at a time: scores and weighted values are
//! matrix products on tensor cores (`mma.sync`), the softmax is kept up as it goes. With S the scores of a tile in units
//! of ln 2, m the greatest score of a row so far, l its sum of weights and O its weighted values:
//!
//! ```text
//! m' = max(m, max S)   P = 2^(S - m')   l' = l 2^(m - m') + sum P   O' = O 2^(m - m') + P V
//! ```
//!
//! Tiles of keys begin at multiples of their length, so a row's result depends on its position alone, not on where a
//! prompt was cut.

use super::attention::{Attention, NONE, Paged};
use super::flash_tiles::{Keys, Tiles};
use super::fragments::Sums;
use super::{Count, Extent, Launch, request_where};
use crate::builder::{Bf16, Builder, F32, FloatPtr, GlobalPtr, I1, I32, I64, Special, StepDims, Val};
use trtc_ir::DType;

/// Warps of a block.
const WARPS: u32 = 4;
/// Most query heads that share a key/value head: numbers of rows stay in 32 bits.
const GROUP: u32 = 1024;

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

/// A row's greatest score and its sum of weights, for the two rows of a lane in an m16 tile.
type Softmax<'b> = [[Val<'b, F32>; 2]; 2];
/// What a warp carries from one tile of keys to the next: softmax and weighted values of its m16 tiles.
type State<'b> = (Vec<Softmax<'b>>, Sums<'b>);

impl FlashAttention {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let Attention { head_dim, q, scale, .. } = self.0;
        if head_dim == 0 || !head_dim.is_multiple_of(16) || head_dim > 256 {
            return Some(format!("heads of {head_dim} elements are not multiples of 16 up to 256"));
        }
        if q != DType::Bf16 {
            return Some(format!("queries of {q}: only bf16 is served"));
        }
        // The greatest score has to come from the greatest product.
        if scale.is_nan() || scale <= 0.0 {
            return Some(format!("scores are scaled by {scale}, which is not positive"));
        }
        if self.0.group() > GROUP {
            return Some(format!("{} query heads share a key/value head, above {GROUP}", self.0.group()));
        }
        self.0.unsupported()
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
    /// Request s has the blocks from `floor(query_start[s] * group / rows) + s` on, up to those of the next one: at
    /// least as many as it has tiles, since `floor(b) - floor(a) + 1 >= ceil(b - a)`. Those left over do nothing.
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
        Launch { grid, block: [WARPS * 32, 1, 1], args: Attention::args(), scratch: None }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let q = b.param_ptr::<Bf16>();
        let paged = Paged::params(b);
        let params = Params { q, paged, y: b.param_floats(self.0.out), dims: b.param_dims() };
        let (group, rows) = (self.0.group(), self.rows());
        let tiles = Tiles::new(b, self.0.head_dim, rows, self.tiling().keys);
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
        query_start.at(seq).load() * self.0.group() / self.rows() + seq
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
        let keys = Keys { table: params.paged.table(seq), cache: params.paged.cache, head, to: last + 1 };
        let from = match self.0.window {
            None => b.value(0),
            Some(w) => (first + 1).lt(w).select(0, first + 1 - w) / step * step,
        };

        tiles.load_queries(rows.all - rows.first, |row| params.q.at64(row_of(rows.first + row)));
        tiles.load_keys(&self.0, &keys, b.value(0), from);
        b.cp_async_commit();

        let (lane, warp) = b.lane_and_warp();
        let first_row = warp * (16 * row_tiles);
        // This lane's rows of each m16 tile, and the last key that they see less the lane's first column.
        let own: Vec<[Val<'b, I32>; 2]> = (0..row_tiles)
            .map(|m| [0, 8].map(|h| rows.first + first_row + (lane >> 2) + (m * 16 + h)))
            .collect();
        let sees: Vec<[Val<'b, I32>; 2]> =
            own.iter().map(|r| r.map(|r| rows.position + r / group - (lane & 3) * 2)).collect();

        let zero = b.value(0.0f32);
        let init: State<'b> = (
            vec![[[b.value(NONE), zero]; 2]; row_tiles as usize],
            vec![vec![[zero; 4]; (self.0.head_dim / 8) as usize]; row_tiles as usize],
        );
        let (_, state) =
            b.for_(from, keys.to, step, (b.value(0), init), |key, (stage, (softmax, values))| {
                // This tile is there; the other stage, which the next one is copied to, is left by all warps.
                b.cp_async_wait(0);
                b.sync();
                let other = stage ^ tiles.stage_bytes();
                b.if_((key + step).lt(keys.to), || tiles.load_keys(&self.0, &keys, other, key + step));
                b.cp_async_commit();
                let scores = self.capped(tiles.scores(first_row, row_tiles, stage));
                let scores = self.masked(b, scores, key, [first, last], &sees);
                let (softmax, weights, values) = self.softmax(b, softmax, scores, values);
                (other, (softmax, tiles.weigh(&weights, values, stage)))
            });
        self.store(b, params.y, state, |r| (row_of(r), r.lt(rows.all)), &own);
    }

    /// Where row `row` of a request, whose first token is `start`, lies in q and y, elements.
    fn row<'b>(&self, head: Val<'b, I32>, start: Val<'b, I32>, row: Val<'b, I32>) -> Val<'b, I64> {
        let group = self.0.group();
        let token = (start + row / group).to_i64() * i64::from(self.0.heads);
        (token + (head * group + row % group).to_i64()) * i64::from(self.0.head_dim)
    }

    /// Scores after the cap, if there is one.
    fn capped<'b>(&self, mut scores: Sums<'b>) -> Sums<'b> {
        if self.0.softcap.is_some() {
            let all = scores.iter_mut().flatten().flatten();
            all.for_each(|s| *s = self.0.capped(*s * self.0.factor()));
        }
        scores
    }

    /// Scores with those of keys that a row does not see below all others. `first` and `last` are the positions of the
    /// tile's rows: where every row sees every key, nothing is done.
    fn masked<'b>(
        &self,
        b: &'b Builder,
        scores: Sums<'b>,
        key: Val<'b, I32>,
        [first, last]: [Val<'b, I32>; 2],
        sees: &[[Val<'b, I32>; 2]],
    ) -> Sums<'b> {
        let mut edge = first.lt(key + (self.tiling().keys - 1));
        if let Some(w) = self.0.window {
            edge = edge | (key + w).le(last);
        }
        let mask = || {
            let mut masked = scores.clone();
            for (tiles, sees) in masked.iter_mut().zip(sees) {
                let sees = sees.map(|s| s - key);
                for (n, sums) in (0u32..).zip(tiles) {
                    for (i, s) in (0u32..).zip(sums) {
                        // Column 8 n + 2 (lane % 4) + i % 2 of row i / 2.
                        let (column, sees) = (8 * n + i % 2, sees[(i / 2) as usize]);
                        let mut hidden = sees.lt(column);
                        if let Some(w) = self.0.window {
                            hidden = hidden | b.value(column).le(sees - w);
                        }
                        *s = hidden.select(f32::NEG_INFINITY, *s);
                    }
                }
            }
            masked
        };
        b.if_else(edge, mask, || scores.clone())
    }

    /// Takes a tile's scores into the softmax: the new one, the weights, and the values so far in its units.
    fn softmax<'b>(
        &self,
        b: &'b Builder,
        softmax: Vec<Softmax<'b>>,
        mut scores: Sums<'b>,
        mut values: Sums<'b>,
    ) -> (Vec<Softmax<'b>>, Sums<'b>, Sums<'b>) {
        // Without a cap the products become scores in the fma that the exponent takes anyway.
        let factor = if self.0.softcap.is_some() { 1.0 } else { self.0.factor() };
        let mut next = Vec::with_capacity(softmax.len());
        for ((softmax, scores), values) in softmax.into_iter().zip(&mut scores).zip(&mut values) {
            next.push([0, 1].map(|h: usize| {
                let [most, sum] = softmax[h];
                let own = scores.iter().flat_map(|s| &s[2 * h..2 * h + 2]);
                let new = most.max(b.max_lanes(own.fold(b.value(NONE), |m, &s| m.max(s)), 4));
                let old = ((most - new) * factor).exp2_flush();
                let base = -(new * factor);
                let mut sum = sum * old;
                for s in scores.iter_mut().flat_map(|s| &mut s[2 * h..2 * h + 2]) {
                    *s = s.fma(factor, base).exp2_flush();
                    sum = sum + *s;
                }
                for v in values.iter_mut().flat_map(|v| &mut v[2 * h..2 * h + 2]) {
                    *v = *v * old;
                }
                [new, sum]
            }));
        }
        (next, scores, values)
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
        let (lane, _) = b.lane_and_warp();
        let column = (lane & 3) * 2;
        for ((softmax, values), own) in softmax.iter().zip(&values).zip(own) {
            for h in 0..2 {
                let whole = b.value(1.0f32).div_approx(b.sum_lanes(softmax[h][1], 4));
                let (at, exists) = row(own[h]);
                let y = y.at64(at).at(column);
                b.if_(exists, || {
                    for (n, v) in (0u32..).zip(values) {
                        y.at(8 * n).store([v[2 * h] * whole, v[2 * h + 1] * whole]);
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
