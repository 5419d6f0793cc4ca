//! Maximum, exponentials and the best k of a row: the parts of sampling that read the whole vocabulary.
//!
//! Written so that the compiler makes vector code of it; results depend on the row alone, never on the machine.

use std::cmp::Ordering;

/// Values added side by side.
const LANES: usize = 16;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Not NaN.
    pub logit: f32,
    pub token: u32,
}

impl Candidate {
    /// Better first: by logit, then by id.
    pub fn order(&self, other: &Candidate) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// -0 and 0 compare equal in a row, but not in `total_cmp`; NaN counts as minus infinity.
fn clean(x: f32) -> f32 {
    if x.is_nan() { f32::NEG_INFINITY } else { x + 0.0 }
}

/// The best token; token 0 at minus infinity if there is none.
pub fn best(row: &[f32]) -> Candidate {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (m, &x) in most.iter_mut().zip(chunk) {
            // False for NaN.
            *m = if x > *m { x } else { *m };
        }
    }
    let most = most.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let token = row.iter().position(|&x| x == most).unwrap_or(0);
    Candidate { logit: clean(most), token: token as u32 }
}

/// `e^x` for `x <= 0` with a relative error under 2e-7; 0 below -87 and for NaN.
///
/// `e^x = 2^n e^r`, `n = round(x / ln 2)`, `|r| <= ln(2) / 2`; `e^r` by its Taylor polynomial of degree 7.
pub fn exp_neg(x: f32) -> f32 {
    // ln 2 in two parts, so that n times the first is exact.
    const HI: f32 = 0.693_359_4;
    const LO: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5 * 2^23 rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let inside = x >= -87.0;
    let x = if inside { x } else { 0.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * HI) - n * LO;
    let p = 1.0 / 5040.0 * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = ((p * r + 0.5) * r + 1.0) * r + 1.0;
    // The lowest bits of `rounded` are those of n, which is in -126..=0.
    let scale = f32::from_bits(rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if inside { p * scale } else { 0.0 }
}

/// Weight of a logit against the best one: `e^((x - most) / temperature)`, 1 for the best itself.
pub fn weight(x: f32, most: f32, temperature: f32) -> f32 {
    // The difference of two infinities is NaN: they are equal.
    let d = if x == most { 0.0 } else { (x - most) / temperature };
    exp_neg(d)
}

/// Sum of the weights of a row.
pub fn sum_weights(row: &[f32], most: f32, temperature: f32) -> f64 {
    // Short runs in f32, which vectorises, and the runs in f64.
    row.chunks(64 * LANES)
        .map(|run| {
            let (chunks, rest) = run.as_chunks::<LANES>();
            let mut sums = [0f32; LANES];
            for chunk in chunks {
                for (s, &x) in sums.iter_mut().zip(chunk) {
                    *s += weight(x, most, temperature);
                }
            }
            let tail: f64 = rest.iter().map(|&x| f64::from(weight(x, most, temperature))).sum();
            sums.iter().map(|&s| f64::from(s)).sum::<f64>() + tail
        })
        .sum()
}

/// `ln(sum e^x)`; minus infinity for a row without a probability.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let most = best(row).logit;
    if most == f32::NEG_INFINITY {
        return most;
    }
    (f64::from(most) + sum_weights(row, most, 1.0).ln()) as f32
}

/// Puts the best `k` tokens of a row into `out`, best first; fewer if the row has fewer above minus infinity.
pub fn top(row: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let k = k.min(row.len());
    if k == 0 {
        return;
    }
    // Collects what beats the worst of the best k so far; a later token needs more than equality to be better.
    let room = (4 * k).max(256);
    let mut bar = f32::NEG_INFINITY;
    for (token, &x) in row.iter().enumerate() {
        if x > bar {
            out.push(Candidate { logit: clean(x), token: token as u32 });
            if out.len() == room {
                out.select_nth_unstable_by(k - 1, Candidate::order);
                out.truncate(k);
                bar = out[k - 1].logit;
            }
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, Candidate::order);
        out.truncate(k);
    }
    out.sort_unstable_by(Candidate::order);
}
