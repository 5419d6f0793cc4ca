//! One segment of positions for one unit of queries: scores, softmax, weighted values.

use super::{Dot, Job, SEGMENT, Unit, keys, softmax, values};
use crate::device::host::elem::{Elem, Floats, typed};
use crate::device::host::linear::{LANES, fma};
use crate::device::host::scratch::Local;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::device::host::{linear::dp, scratch::bytes};

/// Panels of 16 keys that are turned at once.
const PANELS: usize = 2;

/// Values that lie one after the other, and their weights.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// First element of the first value.
    pub value: usize,
    /// Weight of the first value for the tile's first row; the next row's is 16 further on.
    pub weight: usize,
    /// Values, at most 16.
    pub count: usize,
}

impl Job<'_> {
    /// Packs the query rows of a unit for the kernels: `[tile][element or pair][row]`.
    pub(super) fn pack_q(&self, unit: &Unit, local: &mut Local) {
        let (rows, dim) = (self.rows(unit), self.cache.head_dim);
        let tiles = self.tiles(rows);
        for (from, count) in (0..tiles.count()).map(|i| tiles.get(i)) {
            for row in from..from + count {
                let head = unit.head * self.group + row % self.group;
                let at = ((unit.tokens.start + row / self.group) * self.heads + head) * dim;
                match (self.dot, self.q) {
                    #[cfg(target_arch = "x86_64")]
                    (Dot::Bf16, Floats::Bf16(q)) => {
                        let out = &mut local.x.u32(rows * dim / 2)[from * dim / 2..];
                        for (pair, out) in q[at..at + dim].chunks_exact(2).zip(out.chunks_mut(count)) {
                            out[row - from] =
                                u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16;
                        }
                    }
                    (_, q) => {
                        let out = &mut local.x.f32(rows * dim)[from * dim..];
                        typed!(q = q => {
                            let row_of_q = q[at..at + dim].iter();
                            row_of_q.zip(out.chunks_mut(count)).for_each(|(v, out)| out[row - from] = v.get());
                        });
                    }
                }
            }
        }
    }

    /// What rows of a unit see of a segment, counted from the segment's first position.
    fn seen(&self, unit: &Unit, segment: usize, rows: Range<usize>) -> Range<usize> {
        let base = segment * SEGMENT;
        let position = |row: usize| unit.position + row / self.group;
        let from = self.cache.first_seen(position(rows.start)).saturating_sub(base);
        let to = (position(rows.end - 1) + 1).saturating_sub(base).min(SEGMENT);
        from.min(to)..to
    }

    /// First element of the key (`which` 0) or value (1) at a position.
    fn place(&self, unit: &Unit, which: usize, position: usize) -> usize {
        let page = self.batch.page(unit.request, position, self.cache.page_tokens);
        self.cache
            .at(page, which, unit.head, position % self.cache.page_tokens)
    }

    /// The result of one segment: `[greatest score | sum of probabilities | weighted values]` of the rows, the
    /// values as `[tile][panel][row][16]`. The queries have been packed.
    pub(super) fn segment(&self, unit: &Unit, segment: usize, local: &mut Local, part: &mut [f32]) {
        let rows = self.rows(unit);
        self.scores(unit, segment, local);
        let tiles = self.tiles(rows);
        let scores = local.sums.f32(rows * SEGMENT);
        let (state, sums) = part.split_at_mut(2 * rows);
        let (greatest, total) = state.split_at_mut(rows);
        for (from, count) in (0..tiles.count()).map(|i| tiles.get(i)) {
            let seen = self.seen(unit, segment, from..from + count);
            let scores = &mut scores[from * SEGMENT..(from + count) * SEGMENT];
            for row in from..from + count {
                let place = softmax::Row {
                    row: row - from,
                    rows: count,
                    panels: panels_of(&seen),
                    seen: self.seen(unit, segment, row..row + 1),
                };
                (greatest[row], total[row]) =
                    softmax::softmax(self.isa, scores, &place, self.scale, self.softcap);
            }
            let width = self.panels() * LANES;
            self.runs(unit, segment, seen, count, &mut local.runs);
            let sums = &mut sums[from * width..(from + count) * width];
            values::weigh(
                self.isa,
                self.pages,
                self.cache.head_dim,
                &local.runs,
                scores,
                count,
                sums,
            );
        }
    }

    /// Scores before scaling, `[tile][panel][row][16]`, 16 panels a segment, where any row of the tile sees any
    /// position of the panel; other places are not written.
    fn scores(&self, unit: &Unit, segment: usize, local: &mut Local) {
        let (rows, dim) = (self.rows(unit), self.cache.head_dim);
        let tiles = self.tiles(rows);
        let all = self.seen(unit, segment, 0..rows);
        let panels = panels_of(&all);
        let scores = local.sums.f32(rows * SEGMENT);
        for first in panels.clone().step_by(PANELS) {
            let last = (first + PANELS).min(panels.end);
            let mut places = [[None; LANES]; PANELS];
            for (p, places) in places.iter_mut().enumerate() {
                for (r, place) in places.iter_mut().enumerate() {
                    let at = (first + p) * LANES + r;
                    *place = all
                        .contains(&at)
                        .then(|| self.place(unit, 0, segment * SEGMENT + at));
                }
            }
            let places = &places[..last - first];
            // Elements of f32 or pairs of bf16 of a panel's key block.
            let words = if self.dot == Dot::F32 { dim } else { dim / 2 };
            let stride = words * LANES;
            for (places, block) in places
                .iter()
                .zip(local.block.u32(PANELS * stride).chunks_exact_mut(stride))
            {
                keys::turn(self.isa, self.pages, self.dot, dim, places, block);
            }
            for (from, count) in (0..tiles.count()).map(|i| tiles.get(i)) {
                let own = panels_of(&self.seen(unit, segment, from..from + count));
                let (a, b) = (own.start.max(first), own.end.min(last));
                if a >= b {
                    continue;
                }
                let scores = &mut scores[from * SEGMENT + a * count * LANES..][..(b - a) * count * LANES];
                match self.dot {
                    #[cfg(target_arch = "x86_64")]
                    Dot::Bf16 => {
                        let tile = dp::Tile {
                            kind: dp::Kind::Bf16,
                            weights: bytes(&local.block.u32(PANELS * stride)[(a - first) * stride..]),
                            stride: stride * size_of::<u32>(),
                            x: &local.x.u32(rows * words)[from * words..],
                            pairs: words,
                            groups: None,
                            fresh: true,
                        };
                        // SAFETY: this way is taken only with AVX-512 BF16.
                        unsafe { dp::tile(&tile, b - a, count, scores) };
                    }
                    Dot::F32 => {
                        let tile = fma::Tile {
                            weights: &local.block.f32(PANELS * stride)[(a - first) * stride..],
                            stride,
                            x: &local.x.f32(rows * words)[from * words..],
                            inputs: words,
                            fresh: true,
                        };
                        fma::tile(self.isa, &tile, b - a, count, scores);
                    }
                }
            }
        }
    }

    /// The values that a tile of `rows` rows sees, as runs that cross neither a page nor a panel of scores.
    fn runs(&self, unit: &Unit, segment: usize, seen: Range<usize>, rows: usize, runs: &mut Vec<Run>) {
        runs.clear();
        let mut at = seen.start;
        while at < seen.end {
            let position = segment * SEGMENT + at;
            let page_end = at + self.cache.page_tokens - position % self.cache.page_tokens;
            let end = page_end.min((at / LANES + 1) * LANES).min(seen.end);
            let weight = at / LANES * rows * LANES + at % LANES;
            runs.push(Run {
                value: self.place(unit, 1, position),
                weight,
                count: end - at,
            });
            at = end;
        }
    }
}

/// The panels of 16 that hold a range of positions.
fn panels_of(seen: &Range<usize>) -> Range<usize> {
    if seen.is_empty() {
        0..0
    } else {
        seen.start / LANES..seen.end.div_ceil(LANES)
    }
}
