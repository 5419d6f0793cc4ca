//! A draw from what temperature, top-k, top-p and min-p leave of a row.

use super::math::{Candidate, sum_weights, top, weight};
use crate::request::Sampling;

/// Tokens whose weights are added up before the draw over a whole row.
const RUN: usize = 512;

/// Memory that draws use again; one for each thread that samples.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    candidates: Vec<Candidate>,
    sums: Vec<f64>,
}

/// A number from (seed, position): SplitMix64's finaliser over both, the upper 32 bits.
pub fn uniform(seed: u64, position: u64) -> u32 {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let step = 0x9e37_79b9_7f4a_7c15u64;
    let bits = mix(mix(seed.wrapping_add(step)).wrapping_add(position.wrapping_add(1).wrapping_mul(step)));
    (bits >> 32) as u32
}

/// Draws with `u / 2^32`; kept tokens take their shares by id. `best` is the row's best token and above minus infinity.
pub fn draw(row: &[f32], best: Candidate, sampling: &Sampling, u: u32, scratch: &mut Scratch) -> u32 {
    let u = f64::from(u) / 4_294_967_296.0;
    let w = |x: f32| weight(x, best.logit, sampling.temperature);
    let k = sampling.top_k as usize;
    let Scratch { candidates, sums } = scratch;
    if (1..row.len()).contains(&k) {
        top(row, k, candidates);
        if sampling.top_p < 1.0 {
            let total: f64 = candidates.iter().map(|c| f64::from(w(c.logit))).sum();
            let kept = nucleus(candidates, f64::from(sampling.top_p) * total, &w);
            candidates.truncate(kept);
        }
    } else if sampling.top_p < 1.0 {
        let total = sum_weights(row, best.logit, sampling.temperature);
        let p = f64::from(sampling.top_p);
        // All tokens under this weight have less than 1 - p together: the nucleus needs none of them. Half of it
        // leaves room for rounding.
        let floor = (0.5 * (1.0 - p) * total / row.len() as f64) as f32;
        candidates.clear();
        candidates.extend(above(row, best.logit, sampling.temperature, floor));
        let kept = nucleus(candidates, p * total, &w);
        candidates.truncate(kept);
    } else if sampling.min_p > 0.0 {
        candidates.clear();
        candidates.extend(above(row, best.logit, sampling.temperature, sampling.min_p));
    } else {
        sums.clear();
        sums.extend(row.chunks(RUN).map(|run| sum_weights(run, best.logit, sampling.temperature)));
        return from_row(row, &w, u, sums).unwrap_or(best.token);
    }
    candidates.retain(|c| w(c.logit) >= sampling.min_p);
    candidates.sort_unstable_by_key(|c| c.token);
    let total: f64 = candidates.iter().map(|c| f64::from(w(c.logit))).sum();
    let mut left = u * total;
    let possible = candidates.iter().filter(|c| w(c.logit) > 0.0);
    let mut last = best.token;
    for c in possible {
        last = c.token;
        left -= f64::from(w(c.logit));
        if left < 0.0 {
            break;
        }
    }
    // Rounding can leave a rest: it belongs to the last token that is possible.
    last
}

/// Tokens of at least about this weight, by id: some of slightly less are among them.
fn above(row: &[f32], most: f32, temperature: f32, floor: f32) -> impl Iterator<Item = Candidate> {
    // e^((x - most) / temperature) >= floor, with room for rounding.
    let bar = most + temperature * (floor.ln() - 1e-3);
    // False for NaN. The sum turns -0 into 0, so that equal logits are equal in every order.
    let keep = move |(token, &x): (usize, &f32)| {
        (x >= bar && x > f32::NEG_INFINITY).then_some(Candidate { logit: x + 0.0, token: token as u32 })
    };
    row.iter().enumerate().filter_map(keep)
}

/// Brings the best candidates whose weights reach `mass` to the front, in any order, and tells how many that are:
/// the fewest that do, at least 1. Halves the candidates and goes on with the half in which the mass is reached.
fn nucleus(candidates: &mut [Candidate], mass: f64, w: &impl Fn(f32) -> f32) -> usize {
    // The candidates before `from` are in, those from `to` on are out.
    let (mut from, mut to, mut sum) = (0, candidates.len(), 0.0);
    while to - from > 1 {
        let half = (to - from) / 2;
        candidates[from..to].select_nth_unstable_by(half, Candidate::order);
        let more: f64 = candidates[from..from + half].iter().map(|c| f64::from(w(c.logit))).sum();
        if sum + more >= mass {
            to = from + half;
        } else {
            (from, sum) = (from + half, sum + more);
        }
    }
    to
}

/// A draw from the whole row with the sums of its runs: first the run that the draw falls into, then the token.
fn from_row(row: &[f32], w: &impl Fn(f32) -> f32, u: f64, sums: &[f64]) -> Option<u32> {
    let mut left = u * sums.iter().sum::<f64>();
    let mut last = None;
    for (i, (run, &sum)) in row.chunks(RUN).zip(sums.iter()).enumerate() {
        if sum <= left {
            left -= sum;
            // Only what can be chosen may take a rest that rounding leaves.
            last = if sum > 0.0 { Some(i) } else { last };
            continue;
        }
        for (j, &x) in run.iter().enumerate() {
            left -= f64::from(w(x));
            if left < 0.0 {
                return Some((i * RUN + j) as u32);
            }
        }
        last = Some(i);
        break;
    }
    let run = last?;
    let j = row[run * RUN..].iter().take(RUN).rposition(|&x| w(x) > 0.0)?;
    Some((run * RUN + j) as u32)
}
