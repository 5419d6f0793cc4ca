//! Calibration: what quantising does to log-probabilities, and which products to keep. No engine in here.
//!
//! Perplexity is a noisy measure: the loss of one product is a small difference of two sums of large numbers. With the
//! difference `d = log q - log p` of one token's log-probability, quantised less unquantised, `e^d - 1 - d` has the
//! Kullback-Leibler divergence of `q` from `p` as its mean over tokens drawn from `p` (that of `e^d - 1` is 0), is never
//! negative and hardly varies. Divergences of products add up, nearly, for their errors are independent. So products
//! are ranked by divergence, and the whole is held to perplexity.

use std::ops::Range;

/// What quantising does to the tokens of a text: sums over them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shift {
    /// Tokens.
    pub tokens: u64,
    divergence: f64,
    loss: f64,
    squares: f64,
    /// Greatest difference of a log-probability.
    pub greatest: f64,
}

impl Shift {
    /// From log-probabilities of the same tokens, unquantised and quantised. One that is not finite counts as impossible.
    pub fn between(unquantised: &[f32], quantised: &[f32]) -> Shift {
        let mut shift = Shift::default();
        for (p, q) in unquantised.iter().zip(quantised) {
            let d = f64::from(*q) - f64::from(*p);
            let d = if d.is_finite() { d } else { -1e9 };
            shift.tokens += 1;
            shift.divergence += d.exp_m1() - d;
            shift.loss -= d;
            shift.squares += d * d;
            shift.greatest = shift.greatest.max(d.abs());
        }
        shift
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.tokens.max(1) as f64
    }

    /// Mean divergence, nats a token.
    pub fn divergence(&self) -> f64 {
        self.mean(self.divergence)
    }

    /// What quantising adds to the perplexity, as a fraction of it.
    pub fn loss(&self) -> f64 {
        self.mean(self.loss).exp_m1()
    }

    /// Standard error of [`Shift::loss`].
    pub fn error(&self) -> f64 {
        let mean = self.mean(self.loss);
        let variance = (self.mean(self.squares) - mean * mean).max(0.0);
        (variance / self.tokens.max(1) as f64).sqrt()
    }

    /// True if the loss is within `bound` even if it is a standard error greater than was measured.
    pub fn within(&self, bound: f64) -> bool {
        self.loss() + self.error() <= bound
    }
}

/// Which products to keep so that the divergences of the others sum to at most `most`: the greatest divergence for each
/// element first. `products` are (divergence, elements).
pub fn choose(products: &[(f64, u64)], most: f64) -> Vec<bool> {
    let worth = |i: usize| products[i].0 / products[i].1.max(1) as f64;
    let mut order: Vec<usize> = (0..products.len()).collect();
    order.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)));
    let mut left: f64 = products.iter().map(|p| p.0).sum();
    let mut keep = vec![false; products.len()];
    for i in order {
        if left <= most {
            break;
        }
        keep[i] = true;
        left -= products[i].0;
    }
    keep
}

/// The sum of divergences to allow next, after `allowed` gave `found`, which is outside of `bound`: in proportion, and
/// at least three tenths less: what is close to the bound, or beyond it by chance alone, must not take a build for each
/// product.
pub fn tighter(allowed: f64, found: &Shift, bound: f64) -> f64 {
    allowed * (bound / (found.loss() + found.error())).clamp(0.25, 0.7)
}

/// How a text of `count` tokens is cut: windows of equal width that share a token with their neighbours, so that each
/// token but the first is scored once. Every fourth, from the first, is for measuring products one by one, until they have
/// [`PROBE`] tokens: divergences vary little, and there are many products. The others are held out.
#[derive(Debug, PartialEq)]
pub struct Split {
    /// Windows for measuring products.
    pub probe: Vec<Range<usize>>,
    /// Windows for measuring the whole.
    pub held_out: Vec<Range<usize>>,
}

/// Tokens for measuring products one by one, about.
const PROBE: usize = 1024;

/// Least tokens of a text.
pub const LEAST: usize = 64;

/// Cuts a text; `widest` is the most tokens of a window. `None` if the text, or the window, is too short.
pub fn split(count: usize, widest: usize) -> Option<Split> {
    // At least eight windows: two for products.
    let width = widest.min(count / 8);
    if count < LEAST || width < 2 {
        return None;
    }
    let all = (0..count - 1).step_by(width - 1).map(|at| at..count.min(at + width)).filter(|w| w.len() > 1);
    let mut split = Split { probe: Vec::new(), held_out: Vec::new() };
    for (i, window) in all.enumerate() {
        let probes = i % 4 == 0 && (i / 4) * width < PROBE;
        if probes { split.probe.push(window) } else { split.held_out.push(window) }
    }
    Some(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_distributions() {
        // Tokens in proportion to p: the mean is the sum over p, exactly.
        let (p, q) = ([0.5f64, 0.25, 0.25], [0.25f64, 0.25, 0.5]);
        let times = [2, 1, 1];
        let list = |of: &[f64; 3]| -> Vec<f32> {
            times.iter().zip(of).flat_map(|(n, x)| vec![x.ln() as f32; *n]).collect()
        };
        let shift = Shift::between(&list(&p), &list(&q));
        let want: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        assert!((shift.divergence() - want).abs() < 1e-6, "{shift:?}");
        // On such a text the loss of perplexity is the same number.
        assert!((shift.loss().ln_1p() - want).abs() < 1e-6);
        assert!((shift.greatest - 2f64.ln()).abs() < 1e-6);
        assert_eq!(Shift::between(&list(&p), &list(&p)), Shift { tokens: 4, ..Shift::default() });
    }

    #[test]
    fn a_loss_is_within_a_bound_with_its_error() {
        let p = [-1f32; 100];
        let q: Vec<f32> = (0..100).map(|i| if i % 2 == 0 { -1.2 } else { -0.8 }).collect();
        let shift = Shift::between(&p, &q);
        assert!(shift.loss().abs() < 1e-6 && (shift.error() - 0.02).abs() < 1e-3, "{shift:?}");
        assert!(shift.within(0.021) && !shift.within(0.019));
        let broken = Shift::between(&[-1.0], &[f32::NAN]);
        assert!(!broken.within(1.0) && broken.divergence() > 1e8, "{broken:?}");
    }

    #[test]
    fn what_costs_most_for_its_size_is_kept() {
        let products = [(0.01, 100), (0.02, 1000), (0.03, 100), (0.0, 1)];
        assert_eq!(choose(&products, 1.0), [false; 4]);
        assert_eq!(choose(&products, 0.035), [false, false, true, false]);
        assert_eq!(choose(&products, 0.025), [true, false, true, false]);
        assert_eq!(choose(&products, 0.001), [true, true, true, false]);
        let found = Shift::between(&[-1.0; 4], &[-1.02; 4]);
        assert!((tighter(0.01, &found, 0.0101) - 0.005).abs() < 1e-4);
        assert!(tighter(0.01, &found, 0.0201) <= 0.007_001 && tighter(0.01, &found, 0.0001) >= 0.002_499);
    }

    #[test]
    fn every_token_but_the_first_is_in_one_window() {
        for (count, widest) in [(64, 512), (65, 3), (1000, 64), (8192, 512), (999, 2)] {
            let split = split(count, widest).expect("long enough");
            let mut scored: Vec<usize> =
                split.probe.iter().chain(&split.held_out).flat_map(|w| w.start + 1..w.end).collect();
            scored.sort_unstable();
            assert_eq!(scored, (1..count).collect::<Vec<_>>(), "{count} {widest}");
            assert!(split.probe.iter().chain(&split.held_out).all(|w| w.len() <= widest));
            let probed: usize = split.probe.iter().map(Range::len).sum();
            assert!(probed < PROBE + widest, "{count} {widest}");
            assert!(split.probe.len() >= 2 && split.held_out.len() > split.probe.len());
        }
        assert_eq!(split(63, 512), None);
        assert_eq!(split(1000, 1), None);
    }
}
