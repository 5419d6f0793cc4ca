//! What is random about a check of `llm.sample`, and how its results are compared: a token is right if the draw falls
//! into its share of the weights, give or take what another order of additions makes of it.

use trtc_ir::interp::Tensor;
use trtc_ir::ops::sample::{DRAW, distance, logprob};
use trtc_ir::random::Random;

/// Largest distance of a draw from the token's share, as a part of all weights.
const SHARE: f32 = 1e-4;
/// Largest error of a log-probability.
const LOGPROB: f32 = 1e-4;

/// Draws for some rows: every combination of bounds comes up, the first row takes the best token.
pub fn draws(rows: usize, random: &mut Random) -> Vec<f32> {
    let mut pick =
        |of: &[f32], first: bool| if first { of[0] } else { of[random.below(of.len() as u64) as usize] };
    let mut all = Vec::with_capacity(rows * DRAW as usize);
    for row in 0..rows {
        let first = row == 0;
        let temperature = pick(&[0.0, 0.5, 1.0, 1.7], first);
        let top_k = pick(&[0.0, 1.0, 7.0, 50.0], first);
        let top_p = pick(&[1.0, 0.95, 0.5], first);
        let min_p = pick(&[0.0, 0.0, 0.05], first);
        all.extend([temperature, top_k, top_p, min_p, 0.0, 0.0, 0.0, 0.0]);
    }
    for draw in all.chunks_exact_mut(DRAW as usize) {
        (draw[4], draw[5]) = (random.below(1 << 16) as f32, random.below(1 << 16) as f32);
    }
    all
}

/// The greatest error of tokens and log-probabilities, as a part of what is allowed.
pub fn worst(logits: &Tensor, draws: &[f32], tokens: &[i32], logprobs: &[f32]) -> f32 {
    let width = logits.width().max(1);
    let mut worst = 0f32;
    let rows = logits.data.chunks_exact(width).zip(draws.chunks_exact(DRAW as usize));
    for ((x, draw), (&token, &got)) in rows.zip(tokens.iter().zip(logprobs)) {
        let Some(token) = usize::try_from(token).ok().filter(|t| *t < width) else {
            return f32::INFINITY;
        };
        let off = (got - logprob(x, token)).abs() / LOGPROB;
        worst =
            if off.is_nan() { f32::INFINITY } else { worst.max(off).max(distance(x, draw, token) / SHARE) };
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_ir::random::Random;

    #[test]
    fn wrong_tokens_and_wrong_probabilities_are_told() {
        let logits = Tensor { dims: vec![2, 3], data: vec![0.0, 2.0, 1.0, 3.0, 0.0, 0.0] };
        let draws: Vec<f32> = draws(1, &mut Random::new(1)).repeat(2);
        let right: Vec<f32> = [(0, 1), (1, 0)].map(|(r, t)| logprob(&logits.data[3 * r..][..3], t)).into();
        assert!(worst(&logits, &draws, &[1, 0], &right) < 1e-3);
        assert!(worst(&logits, &draws, &[2, 0], &right) > 1.0);
        assert!(worst(&logits, &draws, &[1, 0], &[right[0], right[1] + 0.01]) > 1.0);
        assert_eq!(worst(&logits, &draws, &[-1, 0], &right), f32::INFINITY);
        assert_eq!(worst(&logits, &draws, &[1, 0], &[f32::NAN, right[1]]), f32::INFINITY);
    }
}
