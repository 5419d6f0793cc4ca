//! What is random about a check of `llm.sample`, and how its results are compared: a token is right if the draw falls
//! into its share of the weights, give or take what another order of additions makes of it.

use trtc_ir::interp::Tensor;
use trtc_ir::ops::sample::{DRAW, MASK, WORD, distance, logprob, mask_of};
use trtc_ir::random::Random;

/// Largest distance of a draw from the token's share, as a part of all weights.
const SHARE: f32 = 1e-4;
/// Largest error of a log-probability.
const LOGPROB: f32 = 1e-4;

/// Makes logits of rows as they must be survived: of some, the second half is minus infinity, which is all that their masks have.
pub fn without_probability(logits: &mut [f32], width: usize) {
    for row in logits.chunks_exact_mut(width.max(1)).skip(3).step_by(8) {
        row.iter_mut().skip(width.div_ceil(2)).for_each(|x| *x = f32::NEG_INFINITY);
    }
}

/// As many masks as rows, of rows of `width` logits; every second row names one. There are those of about half of the tokens, of
/// a few in the second half, of a single one, and of none.
pub fn masks(rows: usize, width: usize, random: &mut Random) -> Vec<i32> {
    let words = width.div_ceil(WORD as usize);
    let mut all = vec![0; rows * words];
    for (i, mask) in all.chunks_exact_mut(words.max(1)).enumerate() {
        let (first, number) = match i % 4 {
            0 => (0, width / 2),
            1 => (width.div_ceil(2), 5),
            2 => (0, 1),
            _ => (0, 0),
        };
        for _ in 0..number {
            let token = first + random.below((width - first) as u64) as usize;
            mask[token / WORD as usize] |= 1 << (token % WORD as usize);
        }
    }
    all
}

/// Draws for some rows: every combination of bounds comes up, the first row takes the best token, every second one has a mask.
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
    for (row, draw) in all.chunks_exact_mut(DRAW as usize).enumerate() {
        draw[MASK] = if row % 2 == 1 { (row / 2 + 1) as f32 } else { 0.0 };
        (draw[4], draw[5]) = (random.below(1 << 16) as f32, random.below(1 << 16) as f32);
    }
    all
}

/// The greatest error of tokens and log-probabilities, as a part of what is allowed.
pub fn worst(logits: &Tensor, (draws, masks): (&[f32], &[i32]), tokens: &[i32], logprobs: &[f32]) -> f32 {
    let width = logits.width().max(1);
    let mut worst = 0f32;
    let rows = logits.data.chunks_exact(width).zip(draws.chunks_exact(DRAW as usize));
    for ((x, draw), (&token, &got)) in rows.zip(tokens.iter().zip(logprobs)) {
        let Some(token) = usize::try_from(token).ok().filter(|t| *t < width) else {
            return f32::INFINITY;
        };
        let Some(mask) = mask_of(draw, masks, width) else {
            return f32::INFINITY;
        };
        let want = logprob(x, token);
        let off = if got == want { 0.0 } else { (got - want).abs() / LOGPROB };
        let far = distance(x, draw, mask, token) / SHARE;
        worst = if off.is_nan() { f32::INFINITY } else { worst.max(off).max(far) };
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
        assert!(worst(&logits, (&draws, &[]), &[1, 0], &right) < 1e-3);
        assert!(worst(&logits, (&draws, &[]), &[2, 0], &right) > 1.0);
        assert!(worst(&logits, (&draws, &[]), &[1, 0], &[right[0], right[1] + 0.01]) > 1.0);
        assert_eq!(worst(&logits, (&draws, &[]), &[-1, 0], &right), f32::INFINITY);
        assert_eq!(worst(&logits, (&draws, &[]), &[1, 0], &[f32::NAN, right[1]]), f32::INFINITY);
    }

    #[test]
    fn tokens_that_a_mask_does_not_have_are_wrong() {
        let mut logits = Tensor { dims: vec![8, 40], data: (0..320).map(|i| (i % 7) as f32).collect() };
        without_probability(&mut logits.data, 40);
        let random = &mut Random::new(3);
        let masks = masks(8, 40, random);
        let mut draws = draws(8, random);
        draws.chunks_exact_mut(8).for_each(|draw| draw[0] = 0.0);
        let rows: Vec<&[f32]> = logits.data.chunks(40).collect();
        let best = |row: usize, may: &dyn Fn(usize) -> bool| {
            (0..40)
                .rev()
                .filter(|&t| may(t))
                .max_by(|&a, &b| rows[row][a].total_cmp(&rows[row][b]))
                .unwrap_or(0)
        };
        let has =
            |row: usize, t: usize| row.is_multiple_of(2) || masks[row / 2 * 2 + t / 32] >> (t % 32) & 1 == 1;
        let right: Vec<i32> = (0..8).map(|r| best(r, &|t| has(r, t)) as i32).collect();
        let logprobs: Vec<f32> = (0..8).map(|r| logprob(rows[r], right[r] as usize)).collect();
        assert_eq!((right[7], logprobs[3]), (0, f32::NEG_INFINITY));
        assert!(worst(&logits, (&draws, &masks), &right, &logprobs) < 1e-3);
        // The best of the row, for which there is no bit.
        let wrong = (0..40).find(|&t| !has(5, t)).unwrap();
        let mut tokens = right.clone();
        tokens[5] = wrong as i32;
        let mut others = logprobs.clone();
        others[5] = logprob(rows[5], wrong);
        assert!(worst(&logits, (&draws, &masks), &tokens, &others) > 1.0);
    }
}
