//! Choices against a plain reference, frequencies against probabilities, and rows that are out of order.

use super::math::exp_neg;
use super::*;
use proptest::prelude::*;

fn pick(row: &[f32], sampling: &Sampling, seed: u64, position: u64) -> u32 {
    let sampler = Sampler::new(sampling.clone(), seed, &[]);
    sampler.choose(&mut row.to_vec(), position, &[], None, &mut Scratch::default())
}

/// Probabilities of a row by the definition: f64, full sort.
fn reference(row: &[f32], s: &Sampling) -> Vec<f64> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap().then(a.cmp(&b)));
    let most = f64::from(row[order[0]]);
    let w = |i: usize| ((f64::from(row[i]) - most) / f64::from(s.temperature)).exp();
    if s.top_k > 0 {
        order.truncate(s.top_k as usize);
    }
    let total: f64 = order.iter().map(|&i| w(i)).sum();
    let mut sum = 0.0;
    let kept = order.iter().take_while(|&&i| {
        let before = sum;
        sum += w(i);
        before < f64::from(s.top_p) * total || s.top_p == 1.0
    });
    let kept: Vec<usize> = kept.copied().filter(|&i| w(i) >= f64::from(s.min_p)).collect();
    let total: f64 = kept.iter().map(|&i| w(i)).sum();
    let mut p = vec![0.0; row.len()];
    kept.iter().for_each(|&i| p[i] = w(i) / total);
    p
}

fn number(seed: u64, position: u64) -> f64 {
    f64::from(draw::uniform(seed, position)) / 4_294_967_296.0
}

/// A row that looks random, with clear differences between logits.
fn row(n: usize, salt: u64) -> Vec<f32> {
    (0..n).map(|i| (number(salt, i as u64) * 12.0 - 6.0) as f32).collect()
}

#[test]
fn exponentials_are_exact_enough() {
    for i in 0..=870_000 {
        let x = -(i as f32) / 10_000.0;
        let (want, got) = (f64::from(x).exp(), f64::from(exp_neg(x)));
        assert!((got - want).abs() <= want * 2.5e-7, "e^{x}: {got} {want}");
    }
    assert_eq!(
        (exp_neg(0.0), exp_neg(-88.0), exp_neg(f32::NEG_INFINITY), exp_neg(f32::NAN)),
        (1.0, 0.0, 0.0, 0.0)
    );
}

#[test]
fn frequencies_follow_probabilities() {
    let base = Sampling::default();
    let settings = [
        base.clone(),
        Sampling { temperature: 0.7, ..base.clone() },
        Sampling { top_k: 5, ..base.clone() },
        Sampling { top_p: 0.8, ..base.clone() },
        Sampling { min_p: 0.1, ..base.clone() },
        Sampling { temperature: 2.0, top_k: 12, top_p: 0.9, min_p: 0.05, ..base.clone() },
    ];
    let draws = 40_000;
    for (which, s) in settings.iter().enumerate() {
        // More than one run of the draw over a whole row.
        let row = row(if which == 0 { 1300 } else { 40 }, which as u64);
        let p = reference(&row, s);
        let mut counts = vec![0u32; row.len()];
        let mut scratch = Scratch::default();
        let sampler = Sampler::new(s.clone(), 99, &[]);
        for i in 0..draws {
            counts[sampler.choose(&mut row.clone(), i, &[], None, &mut scratch) as usize] += 1;
        }
        let mut chi2 = 0.0;
        for (i, &p) in p.iter().enumerate() {
            assert!(p > 0.0 || counts[i] == 0, "setting {which}: token {i} has no probability");
            if p > 0.0 {
                let want = p * draws as f64;
                chi2 += (f64::from(counts[i]) - want).powi(2) / want;
            }
        }
        // Mean f, variance 2 f for f degrees of freedom: six standard deviations.
        let f = p.iter().filter(|&&p| p > 0.0).count() as f64 - 1.0;
        assert!(
            chi2 < f + 6.0 * (2.0 * f).sqrt() + 6.0,
            "setting {which}: chi-square {chi2} with {f} degrees"
        );
    }
}

#[test]
fn uniform_numbers_are_uniform_and_independent() {
    let n = 100_000;
    for (label, f) in [
        ("position", (|i| number(0, i)) as fn(u64) -> f64),
        ("seed", |i| number(i, 0)),
        ("both", |i| number(i, i)),
    ] {
        let mean = (0..n).map(f).sum::<f64>() / n as f64;
        let pairs = (0..n).map(|i| (f(i) - 0.5) * (f(i + 1) - 0.5)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.005, "{label}: {mean}");
        assert!(pairs.abs() < 0.002, "{label}: {pairs}");
        assert!((0..n).map(f).all(|u| (0.0..1.0).contains(&u)));
    }
}

#[test]
fn penalties_and_biases() {
    let s = Sampling {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        logit_bias: vec![(3, -1.0), (9, 5.0)],
        ..Sampling::greedy()
    };
    let mut sampler = Sampler::new(s.clone(), 0, &[0, 1]);
    sampler.accept(1);
    sampler.accept(2);
    sampler.accept(2);
    let mut row = [4.0, -4.0, 4.0, 4.0, 2.5];
    // 0 is in the prompt, 1 in both, 2 twice in the answer, 3 has a bias, 9 is out of the row.
    assert_eq!(sampler.choose(&mut row, 0, &[], None, &mut Scratch::default()), 3);
    assert_eq!(row, [2.0, -8.75, 1.0, 3.0, 2.5]);
    assert_eq!(choose(&mut [4.0, -4.0, 4.0, 4.0, 2.5], &s, 0, &[0, 1], &[1, 2, 2], &[]), 3);
    assert_eq!(choose(&mut [4.0, -4.0, 4.0, 4.0, 2.5], &s, 0, &[0, 1], &[1, 2, 2], &[3]), 4);
}

#[test]
fn odd_rows_have_an_answer() {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN, 1e-40];
    let settings = [
        Sampling::greedy(),
        Sampling::default(),
        Sampling { top_k: 2, ..Sampling::default() },
        Sampling { top_p: 0.5, ..Sampling::default() },
        Sampling { min_p: 0.5, ..Sampling::default() },
        Sampling { temperature: 1e-40, repetition_penalty: 1.5, ..Sampling::default() },
        Sampling { top_k: 3, top_p: 0.1, min_p: 1.0, presence_penalty: 1.0, ..Sampling::default() },
    ];
    for a in odd {
        for b in odd {
            for c in odd {
                for s in &settings {
                    // Penalties can make a logit infinite: what counts is the row as it is then.
                    let mut row = [a, b, c];
                    let t = choose(&mut row, s, 1, &[0, 7], &[1], &[]) as usize;
                    let possible = row.iter().any(|x| *x > f32::NEG_INFINITY);
                    assert!(t < 3 && (!possible || row[t] > f32::NEG_INFINITY), "{row:?} {s:?} gives {t}");
                    let lp = logprob(&row, 1, 5);
                    assert!(!lp.logprob.is_nan() && lp.top.iter().all(|t| !t.1.is_nan()), "{row:?} {lp:?}");
                }
            }
        }
    }
    assert_eq!(choose(&mut [f32::NAN, f32::NAN], &Sampling::default(), 0, &[], &[], &[0]), 1);
}

#[test]
fn log_probabilities() {
    let lp = logprob(&[1.0, 3.0, 2.0, 3.0], 2, 3);
    let norm = (1f32.exp() + 2f32.exp() + 2.0 * 3f32.exp()).ln();
    assert!((lp.logprob - (2.0 - norm)).abs() < 1e-6);
    assert_eq!(lp.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2]);
    assert!((lp.top[0].1 - (3.0 - norm)).abs() < 1e-6);
    assert_eq!(logprob(&[0.0; 4], 0, 0).top, []);
    assert_eq!(logprob(&[0.0; 4], 9, 9).top.len(), 4);
    assert_eq!(logprob(&[0.0; 4], 9, 9).logprob, f32::NEG_INFINITY);
    // A row in which one token is sure.
    assert_eq!(logprob(&[-1000.0, 1000.0], 1, 0).logprob, 0.0);
    assert_eq!(logprob(&[-1000.0, 1000.0], 0, 0).logprob, -2000.0);
}

proptest! {
    #[test]
    fn narrow_settings_are_greedy(n in 1usize..700, salt in any::<u64>(), seed in any::<u64>(), quant in any::<bool>()) {
        // Rounded rows have ties: the lowest id wins.
        let row: Vec<f32> = row(n, salt).iter().map(|x| if quant { x.round() } else { *x }).collect();
        let want = pick(&row, &Sampling::greedy(), seed, 0);
        prop_assert_eq!(want as usize, (0..n).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap());
        let base = Sampling::default();
        prop_assert_eq!(pick(&row, &Sampling { top_k: 1, ..base.clone() }, seed, 1), want);
        prop_assert_eq!(pick(&row, &Sampling { top_p: 1e-6, ..base.clone() }, seed, 2), want);
        prop_assert_eq!(pick(&row, &Sampling { top_p: 1e-6, top_k: 40, ..base.clone() }, seed, 2), want);
        if !quant {
            prop_assert_eq!(pick(&row, &Sampling { temperature: 1e-7, ..base.clone() }, seed, 3), want);
            prop_assert_eq!(pick(&row, &Sampling { min_p: 1.0, ..base }, seed, 4), want);
        }
    }

    #[test]
    fn only_what_is_kept_is_chosen(
        n in 1usize..600, salt in any::<u64>(), seed in any::<u64>(),
        temperature in 0.2f32..3.0, top_k in 0u32..60, top_p in 0.05f32..1.0, min_p in 0.0f32..0.5,
    ) {
        let row = row(n, salt);
        let s = Sampling { temperature, top_k, top_p, min_p, ..Sampling::default() };
        // A little wider, for rounding at the edges.
        let wide = Sampling { top_p: (top_p * 1.0001).min(1.0), min_p: min_p * 0.9999, ..s.clone() };
        let p = reference(&row, &wide);
        for position in 0..20 {
            let t = pick(&row, &s, seed, position);
            prop_assert!(p[t as usize] > 0.0);
            prop_assert_eq!(t, pick(&row, &s, seed, position));
        }
    }

    #[test]
    fn the_best_k_are_the_best_k(n in 1usize..3000, k in 0usize..400, salt in any::<u64>()) {
        let row: Vec<f32> = row(n, salt).iter().map(|x| (x * 20.0).round()).collect();
        let mut got = Vec::new();
        top(&row, k, &mut got);
        let mut want: Vec<usize> = (0..n).collect();
        want.sort_by(|&a, &b| (row[b] + 0.0).total_cmp(&(row[a] + 0.0)).then(a.cmp(&b)));
        want.truncate(k);
        prop_assert_eq!(got.iter().map(|c| c.token as usize).collect::<Vec<_>>(), want);
    }

    #[test]
    fn log_probabilities_sum_to_one(n in 1usize..300, salt in any::<u64>()) {
        let row = row(n, salt);
        let sum: f64 = (0..n as u32).map(|t| f64::from(logprob(&row, t, 0).logprob).exp()).sum();
        prop_assert!((sum - 1.0).abs() < 1e-4, "{}", sum);
    }
}
