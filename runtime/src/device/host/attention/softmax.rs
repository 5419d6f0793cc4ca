//! The softmax of one segment's scores, and the merging of segments.
//!
//! Where a row sees nothing its greatest score is minus infinity, and merging it changes nothing.

use crate::device::host::e4m3::Power;
use crate::device::host::elem::{exp_of_negative, fma, tanh};
use crate::device::host::isa::per_isa;
use crate::device::host::linear::LANES;
use std::ops::Range;

/// One row of a tile's scores, `[panel][row][16]`.
pub struct Row {
    /// Which row.
    pub row: usize,
    /// Rows of the tile.
    pub rows: usize,
    /// Panels that have scores.
    pub panels: Range<usize>,
    /// Positions that the row sees, all within these panels.
    pub seen: Range<usize>,
}

per_isa! {
    /// Turns a row's scores into `exp(score - greatest)`, 0 where it does not see; gives the greatest score and the
    /// sum.
    pub fn softmax<>(scores: &mut [f32], row: &Row, scale: f32, softcap: Option<f32>) -> (f32, f32) = softmax_body
}

#[inline(always)]
fn softmax_body<const FMA: bool>(
    scores: &mut [f32],
    row: &Row,
    scale: f32,
    softcap: Option<f32>,
) -> (f32, f32) {
    let mut greatest = [f32::NEG_INFINITY; LANES];
    for panel in row.panels.clone() {
        let Some(x) = lanes(scores, row, panel) else {
            continue;
        };
        for v in x.iter_mut() {
            *v *= scale;
        }
        if let Some(cap) = softcap {
            for v in x.iter_mut() {
                *v = cap * tanh::<FMA>(*v / cap);
            }
        }
        if row.seen.start > panel * LANES || row.seen.end < (panel + 1) * LANES {
            for (i, v) in x.iter_mut().enumerate() {
                let at = panel * LANES + i;
                *v = if at >= row.seen.start && at < row.seen.end { *v } else { f32::NEG_INFINITY };
            }
        }
        for (m, v) in greatest.iter_mut().zip(x) {
            *m = if *v > *m { *v } else { *m };
        }
    }
    let greatest = greatest.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    // Where nothing is seen every score is minus infinity, and so is every difference from 0.
    let base = if greatest == f32::NEG_INFINITY { 0.0 } else { greatest };
    let mut sums = [0f32; LANES];
    for panel in row.panels.clone() {
        let Some(x) = lanes(scores, row, panel) else {
            continue;
        };
        for (s, v) in sums.iter_mut().zip(x) {
            *v = exp_of_negative::<FMA>(*v - base);
            *s += *v;
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    (greatest, sums[0])
}

/// Rounds a row's weights to e4m3 times 2^-8: 1, the greatest of a segment, lies in the widest octave. The sum stays that of weights that
/// are not rounded.
pub fn round(weights: &mut [f32], row: &Row) {
    let power = Power::of(&[1.0f32]);
    for panel in row.panels.clone() {
        if let Some(x) = lanes(weights, row, panel) {
            x.iter_mut().for_each(|v| *v = power.nearest(*v));
        }
    }
}

/// The row's 16 scores of a panel.
#[inline(always)]
fn lanes<'a>(scores: &'a mut [f32], row: &Row, panel: usize) -> Option<&'a mut [f32; LANES]> {
    scores[(panel * row.rows + row.row) * LANES..].first_chunk_mut()
}

/// Makes the result of no segment at all.
pub fn clear(total: &mut [f32], rows: usize) {
    total.fill(0.0);
    total[..rows].fill(f32::NEG_INFINITY);
}

per_isa! {
    /// Adds a segment's result to that of the segments before it, for rows `from..from + count`, one tile, of
    /// results `[greatest | sum | values]` of `rows` rows.
    pub fn merge<>(rows: usize, from: usize, count: usize, panels: usize, total: &mut [f32], part: &[f32]) = merge_body
}

#[inline(always)]
fn merge_body<const FMA: bool>(
    rows: usize,
    from: usize,
    count: usize,
    panels: usize,
    total: &mut [f32],
    part: &[f32],
) {
    let (state, total) = total.split_at_mut(2 * rows);
    let (part_state, part) = part.split_at(2 * rows);
    let tile = from * panels * LANES;
    for row in 0..count {
        let (m, new) = (state[from + row], part_state[from + row]);
        if new == f32::NEG_INFINITY {
            continue;
        }
        let greatest = if new > m { new } else { m };
        let (old_factor, new_factor) =
            (exp_of_negative::<FMA>(m - greatest), exp_of_negative::<FMA>(new - greatest));
        state[from + row] = greatest;
        let sum = &mut state[rows + from + row];
        *sum = fma::<FMA>(*sum, old_factor, part_state[rows + from + row] * new_factor);
        for panel in 0..panels {
            let at = tile + (panel * count + row) * LANES;
            for (t, p) in total[at..at + LANES].iter_mut().zip(&part[at..at + LANES]) {
                *t = fma::<FMA>(*t, old_factor, p * new_factor);
            }
        }
    }
}
