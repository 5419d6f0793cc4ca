//! Chooses tokens from rows of logits, and tells their log-probabilities.
//!
//! Pure functions of a row, the parameters, and (seed, position): what else is in the batch plays no part. Which
//! rows there are and when an answer ends is decided elsewhere.
//!
//! A choice goes: penalties, biases and bans; if the temperature is 0 the best token; otherwise
//! temperature, `top_k`, `top_p` (of what `top_k` left), `min_p`, and a draw from what remains. Of equal logits the
//! token with the lower id is the better one. NaN counts as minus infinity.

mod draw;
mod math;
mod penalty;

pub use draw::Scratch;
pub use penalty::Counts;

use crate::request::{Sampling, TokenLogprob};
use math::{Candidate, best, log_sum_exp, top};

/// How the tokens of one answer are chosen: the parameters, the seed and what the penalties look at.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
    /// Tokens seen, if a penalty is on.
    counts: Option<Counts>,
}

impl Sampler {
    /// For an answer to `prompt`. The parameters have passed [`Sampling::check`].
    pub fn new(sampling: Sampling, seed: u64, prompt: &[u32]) -> Sampler {
        let counts = Counts::wanted(&sampling).then(|| Counts::new(prompt));
        Sampler { sampling, seed, counts }
    }

    /// Chooses the token at `position` (tokens of prompt and answer before it), changing the row on the way.
    /// `banned` tokens are not chosen as long as there is another. The row is not empty.
    pub fn choose(&self, logits: &mut [f32], position: u64, banned: &[u32], scratch: &mut Scratch) -> u32 {
        if let Some(counts) = &self.counts {
            counts.apply(&self.sampling, logits);
        }
        for &(token, bias) in &self.sampling.logit_bias {
            if let Some(x) = logits.get_mut(token as usize) {
                *x += bias;
            }
        }
        for &token in banned {
            if let Some(x) = logits.get_mut(token as usize) {
                *x = f32::NEG_INFINITY;
            }
        }
        let top = best(logits);
        if top.logit == f32::NEG_INFINITY {
            // Nothing has a probability: the first token that is allowed.
            return (0..logits.len() as u32).find(|t| !banned.contains(t)).unwrap_or(0);
        }
        if self.sampling.temperature == 0.0 || self.sampling.top_k == 1 {
            return top.token;
        }
        draw::draw(logits, top, &self.sampling, draw::uniform(self.seed, position), scratch)
    }

    /// Tells that the answer went on with a token.
    pub fn accept(&mut self, token: u32) {
        if let Some(counts) = &mut self.counts {
            counts.push(token);
        }
    }
}

/// One choice without a [`Sampler`]: `prompt` and `answer` are the tokens before it. With penalties it counts them
/// all again, which a `Sampler` does once.
pub fn choose(
    logits: &mut [f32],
    sampling: &Sampling,
    seed: u64,
    prompt: &[u32],
    answer: &[u32],
    banned: &[u32],
) -> u32 {
    let mut sampler = Sampler::new(sampling.clone(), seed, prompt);
    answer.iter().for_each(|&t| sampler.accept(t));
    sampler.choose(logits, (prompt.len() + answer.len()) as u64, banned, &mut Scratch::default())
}

/// Log-probability of `token` under the row as it is, and of the `alternatives` most likely tokens, best first.
/// What cannot be (a token outside the row, a row of NaN) has minus infinity.
pub fn logprob(row: &[f32], token: u32, alternatives: u32) -> TokenLogprob {
    let norm = log_sum_exp(row);
    let of = |x: f32| {
        // Minus infinity from a finite or an infinite norm, and an infinite logit from itself.
        let lp = if x == norm { 0.0 } else { x - norm };
        if lp.is_nan() || x == f32::NEG_INFINITY { f32::NEG_INFINITY } else { lp.min(0.0) }
    };
    let mut candidates: Vec<Candidate> = Vec::new();
    if alternatives > 0 {
        top(row, alternatives as usize, &mut candidates);
    }
    TokenLogprob {
        token,
        logprob: row.get(token as usize).map_or(f32::NEG_INFINITY, |&x| of(x)),
        top: candidates.iter().map(|c| (c.token, of(c.logit))).collect(),
    }
}

#[cfg(test)]
mod tests;
