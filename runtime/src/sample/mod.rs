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

use crate::error::Error;
use crate::grammar::allows;
use crate::request::{Sampling, TokenLogprob};
use math::{Candidate, best, log_sum_exp, top};
use trtc_engine::manifest::{DRAW, DRAW_MASK};

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
    /// `banned` tokens are not chosen as long as there is another; of an `allowed` mask, a bit a token, only its tokens
    /// are, and one of them is not banned. The row is not empty.
    pub fn choose(
        &self,
        logits: &mut [f32],
        position: u64,
        banned: &[u32],
        allowed: Option<&[u32]>,
        scratch: &mut Scratch,
    ) -> u32 {
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
        if let Some(allowed) = allowed {
            mask(logits, allowed);
        }
        let top = best(logits);
        if top.logit == f32::NEG_INFINITY {
            return first(logits.len(), banned, allowed);
        }
        if self.sampling.temperature == 0.0 || self.sampling.top_k == 1 {
            return top.token;
        }
        draw::draw(logits, top, &self.sampling, draw::uniform(self.seed, position), scratch)
    }

    /// True if a choice depends on the tokens before it.
    pub fn has_penalties(&self) -> bool {
        self.counts.is_some()
    }

    /// What the device is told of the choice at `position`, if no penalty, bias or ban is on: the parameters and the
    /// number that (seed, position) gives. Of a mask it is told by who has it.
    pub fn draw(&self, position: u64) -> [f32; DRAW as usize] {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        // Who takes the best token draws nothing, and is told the same at every position.
        let u = if temperature == 0.0 { 0 } else { draw::uniform(self.seed, position) };
        // A bound above 2^24 keeps every token, as 0 does; all others are exact.
        let top_k = if top_k < 1 << 24 { top_k as f32 } else { 0.0 };
        [temperature, top_k, top_p, min_p, (u >> 16) as f32, (u & 0xffff) as f32, 0.0, 0.0]
    }

    /// Tells that the answer went on with a token.
    pub fn accept(&mut self, token: u32) {
        if let Some(counts) = &mut self.counts {
            counts.push(token);
        }
    }
}

/// Where nothing has a probability: the first token that may be chosen, token 0 if there is none.
fn first(vocab: usize, banned: &[u32], allowed: Option<&[u32]>) -> u32 {
    let may = |t: &u32| !banned.contains(t) && allowed.is_none_or(|mask| allows(mask, *t));
    (0..vocab as u32).find(may).unwrap_or(0)
}

/// The choice that [`Sampler::draw`] describes, and its log-probability: what a device makes of it, with the masks that it
/// has. The row is not empty.
///
/// # Errors
/// The draw is not one, or names a mask that is not there.
pub(crate) fn device_draw(row: &[f32], numbers: &[f32], masks: &[u32]) -> Result<(i32, f32), Error> {
    let &[temperature, top_k, top_p, min_p, high, low, ..] = numbers else {
        return Err(Error::bug(format!("a draw of {} numbers", numbers.len())));
    };
    let named = numbers.get(DRAW_MASK).map_or(0, |&n| n as usize);
    let mut masks = masks.chunks_exact(row.len().div_ceil(32));
    let allowed = match named.checked_sub(1) {
        None => None,
        Some(at) => {
            let there = masks.len();
            let none = || Error::bug(format!("a draw names mask {named}, there are {there}"));
            Some(masks.nth(at).ok_or_else(none)?)
        }
    };
    let mut masked = Vec::new();
    let may = match allowed {
        None => row,
        Some(allowed) => {
            masked.extend_from_slice(row);
            mask(&mut masked, allowed);
            &masked
        }
    };
    let best = best(may);
    let sampling = Sampling { temperature, top_k: top_k as u32, top_p, min_p, ..Sampling::default() };
    let token = if best.logit == f32::NEG_INFINITY {
        first(row.len(), &[], allowed)
    } else if temperature == 0.0 || top_k == 1.0 {
        best.token
    } else {
        let u = ((high as u32) << 16) | low as u32;
        draw::draw(may, best, &sampling, u, &mut Scratch::default())
    };
    Ok((token as i32, logprob(row, token, 0).logprob))
}

/// Takes the probability from every token whose bit is not set.
fn mask(logits: &mut [f32], allowed: &[u32]) {
    for (i, row) in logits.chunks_mut(32).enumerate() {
        let word = allowed.get(i).copied().unwrap_or(0);
        if word != u32::MAX {
            row.iter_mut()
                .zip(0..)
                .filter(|(_, bit)| word >> bit & 1 == 0)
                .for_each(|(x, _)| *x = f32::NEG_INFINITY);
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
    sampler.choose(logits, (prompt.len() + answer.len()) as u64, banned, None, &mut Scratch::default())
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
