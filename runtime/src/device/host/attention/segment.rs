//! One segment of positions for one unit of queries: scores, softmax, weighted values.

use super::{Dot, Job, SEGMENT, Unit, keys, softmax, values};
use crate::device::host::batch::Geometry;
use crate::device::host::elem::{Elem, Floats, typed};
use crate::device::host::linear::{
    LANES,
    fma::{self, Panels},
};
use crate::device::host::scratch::Local;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::device::host::{linear::dp, scratch::bytes};

/// Panels of 16 keys that are turned at once.
const PANELS: usize = 4;

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

    /// First elements of the keys at positions of a segment.
    fn places(&self, unit: &Unit, segment: usize, seen: Range<usize>, places: &mut Vec<usize>) {
        let Geometry { page_tokens, head_dim, .. } = self.cache;
        places.clear();
        let mut position = segment * SEGMENT + seen.start;
        while places.len() < seen.len() {
            let slot = position % page_tokens;
            let count = (page_tokens - slot).min(seen.len() - places.len());
            let page = self.batch.page(unit.request, position, page_tokens);
            let first = self.cache.at(page, 0, unit.head, slot);
            places.extend((0..count).map(|i| first + i * head_dim));
            position += count;
        }
    }

    /// The result of one segment: `[greatest score | sum of probabilities | weighted values]` of the rows, the
    /// values as `[tile][panel][row][16]`. The queries have been packed.
    pub(super) fn segment(&self, unit: &Unit, segment: usize, local: &mut Local, part: &mut [f32]) {
        let rows = self.rows(unit);
        let all = self.seen(unit, segment, 0..rows);
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
            self.runs(&local.places, all.start, seen, count, &mut local.runs);
            let sums = &mut sums[from * width..(from + count) * width];
            values::weigh(self.isa, self.pages, self.cache.head_dim, &local.runs, scores, count, sums);
        }
    }

    /// Scores before scaling, `[tile][panel][row][16]`, 16 panels a segment, where any row of the tile sees any
    /// position of the panel; other places are not written.
    fn scores(&self, unit: &Unit, segment: usize, local: &mut Local) {
        let (rows, dim) = (self.rows(unit), self.cache.head_dim);
        let tiles = self.tiles(rows);
        let all = self.seen(unit, segment, 0..rows);
        let panels = panels_of(&all);
        self.places(unit, segment, all.clone(), &mut local.places);
        let scores = local.sums.f32(rows * SEGMENT);
        // Elements of f32 or pairs of bf16 of a panel's key block.
        let words = if self.dot == Dot::F32 { dim } else { dim / 2 };
        let stride = words * LANES;
        for first in panels.clone().step_by(PANELS) {
            let last = (first + PANELS).min(panels.end);
            let blocks = local.block.u32(PANELS * stride).chunks_exact_mut(stride);
            for (panel, block) in (first..last).zip(blocks) {
                let base = panel * LANES;
                let lanes = all.start.max(base) - base..all.end.min(base + LANES) - base;
                let from = base + lanes.start - all.start;
                let places = &local.places[from..from + lanes.len()];
                keys::turn(self.isa, self.pages, self.dot, dim, lanes.start, places, block);
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
                            weights: Panels::F32(&local.block.f32(PANELS * stride)[(a - first) * stride..]),
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

    /// The values that a tile of `rows` rows sees, `keys` being the keys' places from `first` on: runs that cross
    /// neither a page nor a panel of scores.
    fn runs(&self, keys: &[usize], first: usize, seen: Range<usize>, rows: usize, runs: &mut Vec<Run>) {
        let dim = self.cache.head_dim;
        let to_value = self.cache.heads * self.cache.page_tokens * dim;
        runs.clear();
        let mut at = seen.start;
        while at < seen.end {
            let key = keys[at - first];
            let most = ((at / LANES + 1) * LANES).min(seen.end);
            let next = keys[at - first..].iter().zip(0..);
            let count = next.take_while(|&(k, i)| at + i < most && *k == key + i * dim).count();
            let weight = at / LANES * rows * LANES + at % LANES;
            runs.push(Run { value: key + to_value, weight, count });
            at += count;
        }
    }
}

/// The panels of 16 that hold a range of positions.
fn panels_of(seen: &Range<usize>) -> Range<usize> {
    if seen.is_empty() { 0..0 } else { seen.start / LANES..seen.end.div_ceil(LANES) }
}
