//! Comparison with reference outputs: the arithmetic, apart from engines and files.
//!
//! Greedy tokens must equal the reference's up to the first step where its best two tokens are closer than the
//! precision can tell. Log-probabilities of the reference's own tokens are compared at every step.

use serde::Deserialize;

/// A file of reference outputs.
#[derive(Deserialize, Debug)]
pub struct Golden {
    /// How the reference was made.
    #[serde(default)]
    pub reference: String,
    /// What was asked.
    pub cases: Vec<Case>,
}

/// One prompt and what the reference made of it. Lists over the answer have one entry a step.
#[derive(Deserialize, Debug, Default)]
pub struct Case {
    /// The text, where the reference had a tokenizer.
    pub prompt: Option<String>,
    /// Its tokens.
    pub prompt_ids: Vec<u32>,
    /// Greedy answer.
    pub greedy_ids: Vec<u32>,
    /// Log-probability of each token of the answer.
    pub greedy_logprobs: Vec<f32>,
    /// Margin between the best and the second token's logit.
    pub top2_gap: Vec<f32>,
    /// Log-probability of each token of the prompt but the first.
    #[serde(default)]
    pub prompt_logprobs: Vec<f32>,
    /// Best tokens after the prompt, with log-probabilities.
    #[serde(default)]
    pub first_top8: Vec<(u32, f32)>,
    /// Logits of the whole vocabulary after the prompt.
    #[serde(default)]
    pub last_prompt_logits: Vec<f32>,
}

impl Case {
    /// What is wrong with the case's shape, if anything.
    pub fn malformed(&self) -> Option<&'static str> {
        let steps = self.greedy_ids.len();
        if self.prompt_ids.is_empty() || steps == 0 {
            Some("it has no prompt or no answer")
        } else if self.greedy_logprobs.len() != steps || self.top2_gap.len() != steps {
            Some("greedy_ids, greedy_logprobs and top2_gap differ in length")
        } else if !self.prompt_logprobs.is_empty() && self.prompt_logprobs.len() + 1 != self.prompt_ids.len()
        {
            Some("prompt_logprobs has not one entry for each token of the prompt but the first")
        } else {
            None
        }
    }

    /// Prompt and answer: what is fed to compare log-probabilities.
    pub fn whole(&self) -> Vec<u32> {
        self.prompt_ids.iter().chain(&self.greedy_ids).copied().collect()
    }

    /// The reference's best tokens after the prompt, best first, with log-probabilities.
    pub fn first_top(&self) -> Vec<(u32, f32)> {
        if self.last_prompt_logits.is_empty() {
            return self.first_top8.clone();
        }
        let logits = &self.last_prompt_logits;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
        let log_sum = max + sum.ln() as f32;
        let mut top: Vec<(u32, f32)> = (0..).zip(logits.iter().map(|x| x - log_sum)).collect();
        top.sort_by(|a, b| b.1.total_cmp(&a.1));
        top.truncate(8);
        top
    }
}

/// What a precision is held to. Log-probabilities, natural logarithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Bound on the mean absolute difference over all cases.
    pub mean: f64,
    /// Bound on every absolute difference.
    pub max: f64,
    /// Greedy tokens must be equal while the reference's margin is at least this; `None` does not compare them.
    pub gap: Option<f32>,
}

/// The table: name of the precision, what it is held to. One that is not here is measured and reported only.
const TOLERANCES: [(&str, Tolerance); 3] = [
    ("fp32", Tolerance { mean: 0.0005, max: 0.005, gap: Some(0.001) }),
    ("bf16", Tolerance { mean: 0.02, max: 0.15, gap: Some(0.1) }),
    ("fp8", Tolerance { mean: 0.06, max: 0.5, gap: None }),
];

/// The row of a precision.
pub fn tolerance(precision: &str) -> Option<Tolerance> {
    TOLERANCES.iter().find(|(name, _)| *name == precision).map(|(_, t)| *t)
}

/// Absolute differences, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Differences {
    /// How many.
    pub count: usize,
    /// Their sum.
    pub sum: f64,
    /// The greatest.
    pub max: f64,
}

impl Differences {
    /// One more pair. A value that is not finite counts as infinitely far.
    pub fn add(&mut self, got: f32, want: f32) {
        let d = (f64::from(got) - f64::from(want)).abs();
        let d = if d.is_nan() { f64::INFINITY } else { d };
        self.count += 1;
        self.sum += d;
        self.max = self.max.max(d);
    }

    /// Pairs of two lists, as far as both go.
    pub fn add_all<'a>(
        &mut self,
        got: impl IntoIterator<Item = &'a f32>,
        want: impl IntoIterator<Item = &'a f32>,
    ) {
        got.into_iter().zip(want).for_each(|(g, w)| self.add(*g, *w));
    }

    /// All of another.
    pub fn merge(&mut self, other: &Differences) {
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// Mean, 0 for none.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }
}

/// Greedy tokens beside the reference's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Greedy {
    /// Steps whose token is the reference's, from the first on.
    pub equal: usize,
    /// Steps that had to be equal.
    pub required: usize,
}

impl Greedy {
    /// Compares tokens; `gap` as in [`Tolerance::gap`].
    pub fn compare(got: &[u32], case: &Case, gap: Option<f32>) -> Greedy {
        let equal = got.iter().zip(&case.greedy_ids).take_while(|(a, b)| a == b).count();
        let required = match gap {
            Some(gap) => case.top2_gap.iter().take_while(|g| **g >= gap).count(),
            None => 0,
        };
        Greedy { equal, required }
    }

    /// True if every step that had to be equal was.
    pub fn holds(&self) -> bool {
        self.equal >= self.required
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> Case {
        Case {
            prompt_ids: vec![1, 2],
            greedy_ids: vec![5, 6, 7],
            greedy_logprobs: vec![-1.0, -2.0, -3.0],
            top2_gap: vec![0.5, 0.05, 0.5],
            ..Case::default()
        }
    }

    #[test]
    fn tokens_after_a_close_step_may_differ() {
        let g = Greedy::compare(&[5, 9, 9], &case(), Some(0.1));
        assert_eq!(g, Greedy { equal: 1, required: 1 });
        assert!(g.holds());
        assert!(!Greedy::compare(&[4, 6, 7], &case(), Some(0.1)).holds());
        assert!(!Greedy::compare(&[5, 9, 7], &case(), Some(0.01)).holds());
    }

    #[test]
    fn a_short_answer_does_not_pass() {
        assert!(!Greedy::compare(&[5, 6], &case(), Some(0.01)).holds());
    }

    #[test]
    fn quantised_tokens_are_not_compared() {
        assert!(Greedy::compare(&[], &case(), None).holds());
    }

    #[test]
    fn mean_and_maximum_of_differences() {
        let mut d = Differences::default();
        assert_eq!((d.mean(), d.max), (0.0, 0.0));
        d.add(1.0, 1.25);
        d.add_all(&[1.0, 2.0, 3.0], &[1.0, 1.5]);
        assert_eq!((d.count, d.mean(), d.max), (3, 0.25, 0.5));
        let mut all = d;
        all.merge(&d);
        assert_eq!((all.count, all.mean(), all.max), (6, 0.25, 0.5));
    }

    #[test]
    fn nan_is_infinitely_far() {
        let mut d = Differences::default();
        d.add(f32::NAN, 0.0);
        assert_eq!((d.mean(), d.max), (f64::INFINITY, f64::INFINITY));
    }

    #[test]
    fn first_top_of_logits_is_log_softmax() {
        let c = Case { last_prompt_logits: vec![0.0, 3f32.ln()], ..case() };
        let top = c.first_top();
        assert_eq!(top[0].0, 1);
        assert!((top[0].1 - 0.75f32.ln()).abs() < 1e-6);
        assert!((top[1].1 - 0.25f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn malformed_cases_are_named() {
        assert_eq!(case().malformed(), None);
        assert!(Case { top2_gap: vec![], ..case() }.malformed().is_some());
        assert!(Case { prompt_ids: vec![], ..case() }.malformed().is_some());
        assert!(Case { prompt_logprobs: vec![1.0, 2.0], ..case() }.malformed().is_some());
    }
}
