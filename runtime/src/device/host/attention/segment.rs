//! One segment of positions for one unit of queries: scores, softmax, weighted values. Keys and values in e4m3 become
//! f32 here, those of a unit's segment at a time.

use super::{Dot, Job, SEGMENT, Unit, softmax, values};
use crate::device::host::cache::{self, Pages, Slot};
use crate::device::host::e4m3::Power;
use crate::device::host::elem::{Elem, Floats, typed};
use crate::device::host::linear::{
    LANES,
    fma::{self, Panels},
};
use crate::device::host::scratch::{Aligned, Local};
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
    /// Packs the query rows of a unit for the kernels, rounded if they are to be: `[tile][element or pair][row]`.
    pub(super) fn pack_q(&self, unit: &Unit, local: &mut Local) {
        match (self.dot, self.q) {
            #[cfg(target_arch = "x86_64")]
            (Dot::Bf16, Floats::Bf16(q)) => {
                let words = self.cache.head_dim / 2;
                self.pack_rows(unit, q, local.x.u32(self.rows(unit) * words), words, |q, power, out| {
                    // Rounded values are numbers of bf16.
                    let value = |v: bf16| power.map_or(v, |p| bf16::from_f32(p.nearest(v.to_f32())));
                    for (pair, out) in q.chunks_exact(2).zip(out) {
                        let [low, high] = [pair[0], pair[1]].map(|v| u32::from(value(v).to_bits()));
                        *out = low | high << 16;
                    }
                });
            }
            (_, q) => {
                let dim = self.cache.head_dim;
                let out = local.x.f32(self.rows(unit) * dim);
                typed!(q = q => self.pack_rows(unit, q, out, dim, |q, power, out| {
                    let value = |v: f32| power.map_or(v, |p| p.nearest(v));
                    q.iter().zip(out).for_each(|(v, out)| *out = value(v.get()));
                }));
            }
        }
    }

    /// Calls `pack(row of q, what it is rounded by, its places)` for every row, `words` places each.
    fn pack_rows<Q: Elem, W>(
        &self,
        unit: &Unit,
        q: &[Q],
        out: &mut [W],
        words: usize,
        pack: impl Fn(&[Q], Option<Power>, std::iter::StepBy<std::slice::IterMut<'_, W>>),
    ) {
        let (rows, dim) = (self.rows(unit), self.cache.head_dim);
        let tiles = self.tiles(rows);
        for (from, count) in (0..tiles.count()).map(|i| tiles.get(i)) {
            let tile = &mut out[from * words..(from + count) * words];
            for row in from..from + count {
                let head = unit.head * self.group + row % self.group;
                let at = ((unit.tokens.start + row / self.group) * self.heads + head) * dim;
                let q = &q[at..at + dim];
                pack(q, self.rounds.then(|| Power::of(q)), tile[row - from..].iter_mut().step_by(count));
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
        let Local { sums, block, runs, .. } = local;
        let scores = sums.f32(rows * SEGMENT);
        let (values, first) = self.values(unit, segment, block);
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
                if self.rounds && matches!(self.pages, Pages::E4m3(_)) {
                    softmax::round(scores, &place);
                }
            }
            let width = self.panels() * LANES;
            self.runs(unit, segment, seen, first, count, runs);
            let sums = &mut sums[from * width..(from + count) * width];
            values::weigh(self.isa, values, self.cache.head_dim, runs, scores, count, sums);
        }
    }

    /// The values that any row of a unit sees of a segment: the cache as it is, or rows one after the other from a position
    /// of the segment on, which is given too.
    fn values<'b>(
        &'b self,
        unit: &Unit,
        segment: usize,
        block: &'b mut Aligned,
    ) -> (Floats<'b>, Option<usize>) {
        let pages = match self.pages {
            Pages::Floats(pages) => return (pages, None),
            Pages::E4m3(pages) => pages,
        };
        let (seen, dim) = (self.seen(unit, segment, 0..self.rows(unit)), self.cache.head_dim);
        let out = block.f32(seen.len() * dim);
        let mut at = seen.start;
        while at < seen.end {
            let (page, slot) = self.slot(unit, segment * SEGMENT + at);
            let count = (self.cache.page_tokens - slot).min(seen.end - at);
            let out = &mut out[(at - seen.start) * dim..][..count * dim];
            cache::read_values(self.isa, &self.cache, pages, Slot { page, head: unit.head, slot }, out);
            at += count;
        }
        (Floats::F32(out), Some(seen.start))
    }

    /// Scores before scaling, `[tile][panel][row][16]`, 16 panels a segment, where any row of the tile sees any
    /// position of the panel; other places are not written. Asks for the values on the way.
    fn scores(&self, unit: &Unit, segment: usize, local: &mut Local) {
        let rows = self.rows(unit);
        let tiles = self.tiles(rows);
        let panels = panels_of(&self.seen(unit, segment, 0..rows));
        let Local { sums, x, block, .. } = local;
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
            self.pages.prefetch(values..values + some);
            if last < panels.end {
                let (page, slot) = self.slot(unit, segment * SEGMENT + last * LANES);
                let next = self.cache.panel(page, unit.head, slot);
                self.pages.prefetch(next..next + some.min((panels.end - last) * self.cache.panel_elems()));
            }
            let keys = match self.pages {
                Pages::Floats(Floats::F32(pages)) => Floats::F32(&pages[keys..keys + some]),
                Pages::Floats(Floats::Bf16(pages)) => Floats::Bf16(&pages[keys..keys + some]),
                Pages::E4m3(pages) => {
                    let out = block.f32(some);
                    cache::read_keys(self.isa, &self.cache, pages, Slot { page, head: unit.head, slot }, out);
                    Floats::F32(out)
                }
            };
            for (from, count) in (0..tiles.count()).map(|i| tiles.get(i)) {
                let own = panels_of(&self.seen(unit, segment, from..from + count));
                let (a, b) = (own.start.max(first), own.end.min(last));
                if a < b {
                    let keys = (keys, a - first..b - first);
                    let at = from * SEGMENT + a * count * LANES;
                    self.dots(keys, x, (from, count), &mut scores[at..at + (b - a) * count * LANES]);
                }
            }
            first = last;
        }
    }

    /// Products of a tile of queries, `count` rows from `from` on, and some panels of keys.
    fn dots(
        &self,
        (keys, panels): (Floats<'_>, Range<usize>),
        x: &mut Aligned,
        (from, count): (usize, usize),
        scores: &mut [f32],
    ) {
        let (dim, stride) = (self.cache.head_dim, self.cache.panel_elems());
        let (range, panels) = (panels.start * stride..panels.end * stride, panels.len());
        match (self.dot, keys) {
            #[cfg(target_arch = "x86_64")]
            (Dot::Bf16, Floats::Bf16(keys)) => {
                let words = dim / 2;
                let tile = dp::Tile {
                    kind: dp::Kind::Bf16,
                    weights: bytes(&keys[range]),
                    stride: stride * size_of::<bf16>(),
                    x: &x.u32((from + count) * words)[from * words..],
                    pairs: words,
                    groups: None,
                    fresh: true,
                };
                // SAFETY: this way is taken only with AVX-512 BF16.
                unsafe { dp::tile(&tile, panels, count, scores) };
            }
            (_, keys) => {
                let weights = match keys {
                    Floats::F32(keys) => Panels::F32(&keys[range]),
                    Floats::Bf16(keys) => Panels::Bf16(&keys[range]),
                };
                let x = &x.f32((from + count) * dim)[from * dim..];
                let tile = fma::Tile { weights, stride, x, inputs: dim, fresh: true };
                fma::tile(self.isa, &tile, panels, count, scores);
            }
        }
    }

    /// The values that a tile of `rows` rows sees: one run for each panel of scores. They are in the cache, or one after
    /// the other from position `first` of the segment on.
    fn runs(
        &self,
        unit: &Unit,
        segment: usize,
        seen: Range<usize>,
        first: Option<usize>,
        rows: usize,
        runs: &mut Vec<Run>,
    ) {
        runs.clear();
        for panel in panels_of(&seen) {
            let at = seen.start.max(panel * LANES);
            let count = seen.end.min((panel + 1) * LANES) - at;
            let value = match first {
                Some(first) => (at - first) * self.cache.head_dim,
                None => {
                    let (page, slot) = self.slot(unit, segment * SEGMENT + at);
                    self.cache.value(page, unit.head, slot)
                }
            };
            runs.push(Run { value, weight: panel * rows * LANES + at % LANES, count });
        }
    }
}

/// The panels of 16 that hold a range of positions.
fn panels_of(seen: &Range<usize>) -> Range<usize> {
    if seen.is_empty() { 0..0 } else { seen.start / LANES..seen.end.div_ceil(LANES) }
}
