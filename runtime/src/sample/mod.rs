//! From a row of logits to a token: penalties, bias, filters, choice, log-probabilities.
//!
//! Pure functions: the row, the tokens so far and the seed decide. Order: repetition, presence and frequency
//! penalties, bias, bans; then, above temperature 0: temperature, top-k, top-p, min-p, choice.

mod random;

use crate::request::{Sampling, TokenLogprob};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The next token. `logits` is changed on the way; a NaN counts as minus infinity. `prompt` and `answer` are the
/// tokens so far, and the answer's length is the position that the random choice depends on. Tokens in `banned`
/// are not chosen while there is another.
pub fn choose(logits: &mut [f32], how: &Sampling, seed: u64, prompt: &[u32], answer: &[u32], banned: &[u32]) -> u32 {
    penalise(logits, how, prompt, answer);
    for &(token, bias) in &how.logit_bias {
        if let Some(x) = logits.get_mut(token as usize) {
            *x += bias;
        }
    }
    for &token in banned {
        if let Some(x) = logits.get_mut(token as usize) {
            *x = f32::NEG_INFINITY;
        }
    }
    if how.temperature == 0.0 {
        return best(logits);
    }
    draw(logits, how, random::uniform(seed, answer.len() as u64))
}

/// The most likely token; of several, the first.
fn best(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &x) in logits.iter().enumerate() {
        if x > best.1 {
            best = (i, x);
        }
    }
    best.0 as u32
}

fn penalise(logits: &mut [f32], how: &Sampling, prompt: &[u32], answer: &[u32]) {
    if how.repetition_penalty != 1.0 {
        let mut seen: Vec<u32> = prompt.iter().chain(answer).copied().collect();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            if let Some(x) = logits.get_mut(token as usize) {
                *x = if *x > 0.0 { *x / how.repetition_penalty } else { *x * how.repetition_penalty };
            }
        }
    }
    if how.presence_penalty != 0.0 || how.frequency_penalty != 0.0 {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for &token in answer {
            *counts.entry(token).or_default() += 1;
        }
        for (token, n) in counts {
            if let Some(x) = logits.get_mut(token as usize) {
                *x -= how.presence_penalty + how.frequency_penalty * n as f32;
            }
        }
    }
}

/// A random token of what the filters leave; `at` in 0..1 says where in the cumulated probabilities.
fn draw(logits: &[f32], how: &Sampling, at: f64) -> u32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !max.is_finite() {
        return best(logits);
    }
    // Weights relative to the best token: 1 for it, less for the others; NaN and minus infinity fall away.
    let scale = 1.0 / f64::from(how.temperature);
    let mut left: Vec<(u32, f64)> = (0..)
        .zip(logits)
        .map(|(i, &x)| (i, (f64::from(x - max) * scale).exp()))
        .filter(|&(_, w)| w > 0.0)
        .collect();
    let order = |a: &(u32, f64), b: &(u32, f64)| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0));
    let k = how.top_k as usize;
    if k > 0 && k < left.len() {
        left.select_nth_unstable_by(k - 1, order);
        left.truncate(k);
    }
    if how.top_p < 1.0 {
        left.sort_unstable_by(order);
        let wanted = f64::from(how.top_p) * left.iter().map(|(_, w)| w).sum::<f64>();
        let mut sum = 0.0;
        // The token that reaches the mass is kept.
        let keep = left.iter().take_while(|(_, w)| {
            let before = sum;
            sum += w;
            before < wanted
        });
        let keep = keep.count().max(1);
        left.truncate(keep);
    }
    if how.min_p > 0.0 {
        left.retain(|&(_, w)| w >= f64::from(how.min_p));
    }
    // One order for the cumulated sum, whatever the filters did to it.
    left.sort_unstable_by_key(|&(token, _)| token);
    let mut rest = at * left.iter().map(|(_, w)| w).sum::<f64>();
    for &(token, w) in &left {
        rest -= w;
        if rest < 0.0 {
            return token;
        }
    }
    left.last().map_or_else(|| best(logits), |&(token, _)| token)
}

/// Log-probability of `token` and of the `top` best tokens under softmax of the row as it is.
pub fn logprob(logits: &[f32], token: u32, top: u32) -> TokenLogprob {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).filter(|e| !e.is_nan()).sum();
    let log_sum = f64::from(max) + sum.ln();
    let of = |i: usize| logits.get(i).map_or(f32::NEG_INFINITY, |&x| (f64::from(x) - log_sum) as f32);
    let mut ids: Vec<u32> = Vec::new();
    let top = (top as usize).min(logits.len());
    if top > 0 {
        ids = (0..logits.len() as u32).collect();
        let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        ids.select_nth_unstable_by(top - 1, order);
        ids.truncate(top);
        ids.sort_unstable_by(order);
    }
    TokenLogprob { token, logprob: of(token as usize), top: ids.into_iter().map(|i| (i, of(i as usize))).collect() }
}

#[cfg(test)]
mod tests;
