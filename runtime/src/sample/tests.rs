//! Tests of sampling: filters keep what they say, frequencies follow probabilities, odd rows do no harm.

use super::*;
use proptest::prelude::*;

fn rows() -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(-10.0f32..10.0, 2..60)
}

fn pick(row: &[f32], how: &Sampling, seed: u64) -> u32 {
    choose(&mut row.to_vec(), how, seed, &[], &[], &[])
}

#[test]
fn greedy_takes_the_first_of_the_best() {
    assert_eq!(pick(&[1.0, 3.0, 3.0, f32::NAN], &Sampling::greedy(), 0), 1);
    assert_eq!(pick(&[f32::NAN, f32::NEG_INFINITY], &Sampling::greedy(), 0), 0);
}

#[test]
fn frequencies_follow_probabilities() {
    let p = [0.5f64, 0.3, 0.15, 0.05];
    let row: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
    let n = 20_000;
    let mut counts = [0f64; 4];
    for position in 0..n {
        let answer = vec![0; position % 200];
        let token = choose(&mut row.clone(), &Sampling::default(), (position / 200) as u64, &[], &answer, &[]);
        counts[token as usize] += 1.0;
    }
    // Chi-square with 3 degrees of freedom: 30 is far beyond one in a hundred thousand.
    let chi: f64 = p.iter().zip(counts).map(|(p, c)| (c - p * n as f64).powi(2) / (p * n as f64)).sum();
    assert!(chi < 30.0, "chi-square {chi}, counts {counts:?}");
}

#[test]
fn penalties_are_those_of_the_documentation() {
    let row = [2.0, -2.0, 1.0];
    let repetition = Sampling { repetition_penalty: 2.0, ..Sampling::greedy() };
    let mut logits = row;
    choose(&mut logits, &repetition, 0, &[0], &[1], &[]);
    assert_eq!(logits, [1.0, -4.0, 1.0]);
    let counted = Sampling { presence_penalty: 0.5, frequency_penalty: 0.25, ..Sampling::greedy() };
    let mut logits = row;
    choose(&mut logits, &counted, 0, &[2], &[0, 0], &[]);
    assert_eq!(logits, [1.0, -2.0, 1.0], "the prompt does not count");
}

#[test]
fn biased_and_banned_tokens() {
    let how = Sampling { logit_bias: vec![(2, 5.0), (99, 1.0)], ..Sampling::greedy() };
    assert_eq!(pick(&[1.0, 2.0, 0.0], &how, 0), 2);
    assert_eq!(choose(&mut [1.0, 2.0, 0.0], &how, 0, &[], &[], &[2]), 1);
}

#[test]
fn log_probabilities_sum_to_one_and_top_is_sorted() {
    let all = logprob(&[0.5, 2.0, -1.0, 2.0], 2, 4);
    let sum: f32 = all.top.iter().map(|(_, l)| l.exp()).sum();
    assert!((sum - 1.0).abs() < 1e-6);
    assert_eq!(all.top.iter().map(|(t, _)| *t).collect::<Vec<_>>(), [1, 3, 0, 2]);
    assert_eq!(all.logprob, all.top[3].1);
    assert_eq!(logprob(&[1.0, 1.0], 0, 9).top.len(), 2);
}

proptest! {
    #[test]
    fn narrow_filters_are_greedy(row in rows(), seed: u64) {
        let best = pick(&row, &Sampling::greedy(), 0);
        let one = Sampling { top_k: 1, ..Sampling::default() };
        prop_assert_eq!(pick(&row, &one, seed), best);
        let tiny = Sampling { top_p: 1e-6, ..Sampling::default() };
        prop_assert_eq!(row[pick(&row, &tiny, seed) as usize], row[best as usize]);
        let strict = Sampling { min_p: 1.0, ..Sampling::default() };
        prop_assert_eq!(row[pick(&row, &strict, seed) as usize], row[best as usize]);
    }

    #[test]
    fn what_a_filter_drops_is_never_chosen(row in rows(), seed: u64, k in 1u32..8, p in 0.05f32..1.0, m in 0.0f32..1.0) {
        let how = Sampling { top_k: k, top_p: p, min_p: m, ..Sampling::default() };
        let token = pick(&row, &how, seed) as usize;
        let better = row.iter().filter(|x| **x > row[token]).count();
        prop_assert!(better < k as usize);
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        prop_assert!((row[token] - max).exp() >= m * 0.999);
    }

    #[test]
    fn odd_rows_do_no_harm(bits in proptest::collection::vec(any::<u32>(), 1..40), seed: u64, t in 0.0f32..3.0) {
        let row: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let how = Sampling { temperature: t, top_k: 5, top_p: 0.9, min_p: 0.01, ..Sampling::default() };
        prop_assert!((pick(&row, &how, seed) as usize) < row.len());
        logprob(&row, 0, 3);
    }

    #[test]
    fn seed_and_position_decide(row in rows(), seed: u64) {
        prop_assert_eq!(pick(&row, &Sampling::default(), seed), pick(&row, &Sampling::default(), seed));
    }
}
