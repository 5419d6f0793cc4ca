//! Penalties on tokens that have been seen.

use crate::request::Sampling;
use rustc_hash::FxHashMap;

/// How often tokens are in prompt and answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Token -> times in the answer; 0 for one that is in the prompt alone.
    seen: FxHashMap<u32, u32>,
}

impl Counts {
    /// True if the parameters look at what was seen.
    pub fn wanted(sampling: &Sampling) -> bool {
        sampling.repetition_penalty != 1.0
            || sampling.presence_penalty != 0.0
            || sampling.frequency_penalty != 0.0
    }

    /// The prompt's tokens, and no answer.
    pub fn new(prompt: &[u32]) -> Counts {
        Counts { seen: prompt.iter().map(|&t| (t, 0)).collect() }
    }

    /// One more token of the answer.
    pub fn push(&mut self, token: u32) {
        *self.seen.entry(token).or_insert(0) += 1;
    }

    /// For each token seen: `x / repetition` if positive, else `x * repetition`; then for each in the answer
    /// `x - presence - frequency * times`.
    pub fn apply(&self, sampling: &Sampling, logits: &mut [f32]) {
        let repetition = sampling.repetition_penalty;
        for (&token, &times) in &self.seen {
            let Some(x) = logits.get_mut(token as usize) else {
                continue;
            };
            *x = if *x > 0.0 { *x / repetition } else { *x * repetition };
            if times > 0 {
                *x -= sampling.presence_penalty + sampling.frequency_penalty * times as f32;
            }
        }
    }
}
