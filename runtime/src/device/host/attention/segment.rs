//! One segment of positions for one unit of queries: scores, softmax, weighted values.

use super::{Dot, Job, SEGMENT, Unit, softmax, values};
use crate::device::host::elem::{Elem, Floats, typed};
use crate::device::host::linear::{
    LANES,
    fma::{self, Panels},
};
use crate::device::host::scratch::{Aligned, Local};
use crate::device::host::simd::prefetch;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::device::host::{linear::dp, scratch::bytes};
#[cfg(target_arch = "x86_64")]
use half::bf16;

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
        match (self.dot, self.q) {
            #[cfg(target_arch = "x86_64")]
            (Dot::Bf16, Floats::Bf16(q)) => {
                let words = self.cache.head_dim / 2;
                self.pack_rows(unit, q, local.x.u32(self.rows(unit) * words), words, |q, out| {
                    for (pair, out) in q.chunks_exact(2).zip(out) {
                        *out = u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16;
                    }
                });
            }
            (_, q) => {
                let dim = self.cache.head_dim;
                let out = local.x.f32(self.rows(unit) * dim);
                typed!(q = q => self.pack_rows(unit, q, out, dim, |q, out| {
                    q.iter().zip(out).for_each(|(v, out)| *out = v.get());
                }));
            }
        }
    }

    /// Calls `pack(row of q, its places)` for every row, `words` places each.
    fn pack_rows<Q, W>(
        &self,
        unit: &Unit,
        q: &[Q],
        out: &mut [W],
        words: usize,
        pack: impl Fn(&[Q], std::iter::StepBy<std::slice::IterMut<'_, W>>),
    ) {
        let (rows, dim) = (self.rows(unit), self.cache.head_dim);
        let tiles = self.tiles(rows);
        for (from, count) in (0..tiles.count()).map(|i| tiles.get(i)) {
            let tile = &mut out[from * words..(from + count) * words];
            for row in from..from + count {
                let head = unit.head * self.group + row % self.group;
                let at = ((unit.tokens.start + row / self.group) * self.heads + head) * dim;
                pack(&q[at..at + dim], tile[row - from..].iter_mut().step_by(count));
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

    /// The page of a unit's request that holds a position, and the slot in it.
    fn slot(&self, unit: &Unit, position: usize) -> (usize, usize) {
        let page_tokens = self.cache.page_tokens;
        (self.batch.page(unit.request, position, page_tokens), position % page_tokens)
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
            values::weigh(self.isa, self.pages, self.cache.head_dim, &local.runs, scores, count, sums);
        }
    }

    /// Scores before scaling, `[tile][panel][row][16]`, 16 panels a segment, where any row of the tile sees any
    /// position of the panel; other places are not written. Asks for the values on the way.
    fn scores(&self, unit: &Unit, segment: usize, local: &mut Local) {
        let rows = self.rows(unit);
        let tiles = self.tiles(rows);
        let panels = panels_of(&self.seen(unit, segment, 0..rows));
        let Local { sums, x, .. } = local;
        let scores = sums.f32(rows * SEGMENT);
        let of_page = self.cache.page_tokens / LANES;
        let mut first = panels.start;
        while first < panels.end {
            // The panels of a page lie one after the other, and a page begins at a multiple of its panels.
            let position = segment * SEGMENT + first * LANES;
            let (page, slot) = self.slot(unit, position);
            let last = (first + of_page - slot / LANES).min(panels.end);
            let keys = self.cache.panel(page, unit.head, slot);
            let values = self.cache.value(page, unit.head, slot);
            let some = (last - first) * self.cache.panel_elems();
            typed!(pages = self.pages => {
                prefetch(&pages[values..values + some]);
                if last < panels.end {
                    let (page, slot) = self.slot(unit, segment * SEGMENT + last * LANES);
                    let next = self.cache.panel(page, unit.head, slot);
                    prefetch(&pages[next..next + some.min((panels.end - last) * self.cache.panel_elems())]);
                }
            });
            for (from, count) in (0..tiles.count()).map(|i| tiles.get(i)) {
                let own = panels_of(&self.seen(unit, segment, from..from + count));
                let (a, b) = (own.start.max(first), own.end.min(last));
                if a < b {
                    let keys = keys + (a - first) * self.cache.panel_elems();
                    let at = from * SEGMENT + a * count * LANES;
                    self.dots(keys, b - a, x, (from, count), &mut scores[at..at + (b - a) * count * LANES]);
                }
            }
            first = last;
        }
    }

    /// Products of a tile of queries, `count` rows from `from` on, and panels of keys, from element `keys` on.
    fn dots(
        &self,
        keys: usize,
        panels: usize,
        x: &mut Aligned,
        (from, count): (usize, usize),
        scores: &mut [f32],
    ) {
        let (dim, stride) = (self.cache.head_dim, self.cache.panel_elems());
        let end = keys + panels * stride;
        match (self.dot, self.pages) {
            #[cfg(target_arch = "x86_64")]
            (Dot::Bf16, Floats::Bf16(pages)) => {
                let words = dim / 2;
                let tile = dp::Tile {
                    kind: dp::Kind::Bf16,
                    weights: bytes(&pages[keys..end]),
                    stride: stride * size_of::<bf16>(),
                    x: &x.u32((from + count) * words)[from * words..],
                    pairs: words,
                    groups: None,
                    fresh: true,
                };
                // SAFETY: this way is taken only with AVX-512 BF16.
                unsafe { dp::tile(&tile, panels, count, scores) };
            }
            (_, pages) => {
                let weights = match pages {
                    Floats::F32(pages) => Panels::F32(&pages[keys..end]),
                    Floats::Bf16(pages) => Panels::Bf16(&pages[keys..end]),
                };
                let x = &x.f32((from + count) * dim)[from * dim..];
                let tile = fma::Tile { weights, stride, x, inputs: dim, fresh: true };
                fma::tile(self.isa, &tile, panels, count, scores);
            }
        }
    }

    /// The values that a tile of `rows` rows sees: one run for each panel of scores.
    fn runs(&self, unit: &Unit, segment: usize, seen: Range<usize>, rows: usize, runs: &mut Vec<Run>) {
        runs.clear();
        for panel in panels_of(&seen) {
            let at = seen.start.max(panel * LANES);
            let count = seen.end.min((panel + 1) * LANES) - at;
            let (page, slot) = self.slot(unit, segment * SEGMENT + at);
            let value = self.cache.value(page, unit.head, slot);
            runs.push(Run { value, weight: panel * rows * LANES + at % LANES, count });
        }
    }
}

/// The panels of 16 that hold a range of positions.
fn panels_of(seen: &Range<usize>) -> Range<usize> {
    if seen.is_empty() { 0..0 } else { seen.start / LANES..seen.end.div_ceil(LANES) }
}
