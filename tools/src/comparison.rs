//! The verdict on an engine beside reference outputs: what is outside the bounds, in words.

use crate::golden::{Differences, Greedy, Tolerance};

/// What one case came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether the prompt's text gave the reference's tokens; `None` where there is no tokenizer or no text.
    pub tokenizer: Option<bool>,
    /// Tokens that were generated.
    pub greedy: Greedy,
    /// Log-probabilities of tokens that were generated, while they were the reference's.
    pub generated: Differences,
    /// Log-probabilities of the reference's tokens, fed as a prompt.
    pub fed: Differences,
    /// Log-probabilities of the reference's best tokens after the prompt.
    pub first: Differences,
}

impl Outcome {
    /// What is outside the bounds, a phrase each.
    pub fn faults(&self, bound: Option<&Tolerance>) -> Vec<String> {
        let mut out = Vec::new();
        if self.tokenizer == Some(false) {
            out.push("the tokenizer gives other tokens for the prompt".to_owned());
        }
        if !self.greedy.holds() {
            let Greedy { equal, required } = self.greedy;
            out.push(format!("greedy token {} differs, the first {required} must not", equal + 1));
        }
        let mut check = |what: &str, d: &Differences, most: f64| {
            if d.max > most {
                out.push(format!("a log-probability of {what} differs by {:.5}, more than {most}", d.max));
            }
        };
        if let Some(t) = bound {
            check("tokens that are fed", &self.fed, t.max);
            // Where greedy tokens are not compared, neither is what was generated.
            if t.gap.is_some() {
                check("tokens that are generated", &self.generated, t.max);
                check("the best tokens after the prompt", &self.first, t.max);
            }
        }
        out
    }
}

/// All cases.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// One a case.
    pub outcomes: Vec<Outcome>,
    /// What they are held to; `None` measures only.
    pub bound: Option<Tolerance>,
}

impl Comparison {
    /// Differences of all cases: of tokens that were fed, and of those that were generated.
    pub fn totals(&self) -> (Differences, Differences) {
        let mut totals = (Differences::default(), Differences::default());
        for o in &self.outcomes {
            totals.0.merge(&o.fed);
            totals.1.merge(&o.generated);
        }
        totals
    }

    /// Everything that is outside the bounds, a phrase each.
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (i, o) in self.outcomes.iter().enumerate() {
            out.extend(
                o.faults(self.bound.as_ref()).into_iter().map(|fault| format!("case {}: {fault}", i + 1)),
            );
        }
        let Some(t) = &self.bound else { return out };
        let (fed, generated) = self.totals();
        let generated = t.gap.map(|_| ("generated", generated));
        for (what, d) in [("fed", fed)].into_iter().chain(generated) {
            if d.mean() > t.mean {
                let mean = d.mean();
                out.push(format!("log-probabilities of tokens that are {what} differ by {mean:.5} in the mean, more than {}", t.mean));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::tolerance;

    fn comparison(max: f32) -> Comparison {
        let mut d = Differences::default();
        d.add_all(&[0.0; 9], &[0.0; 9]);
        d.add(0.0, max);
        let none = Differences::default();
        let greedy = Greedy { equal: 3, required: 3 };
        let outcome = Outcome { tokenizer: None, greedy, generated: none, fed: d, first: none };
        Comparison { outcomes: vec![outcome], bound: tolerance("bf16") }
    }

    #[test]
    fn every_kind_of_fault_is_found() {
        assert!(comparison(0.1).faults().is_empty());
        // 0.16 is above the greatest difference, and 0.016 below the mean.
        assert_eq!(comparison(0.16).faults().len(), 1);
        assert_eq!(comparison(0.3).faults().len(), 2);
        let with = |change: &dyn Fn(&mut Outcome)| {
            let mut c = comparison(0.0);
            change(&mut c.outcomes[0]);
            c.faults().len()
        };
        let far = comparison(0.16).outcomes[0].fed;
        assert_eq!(with(&|o| o.tokenizer = Some(false)), 1);
        assert_eq!(with(&|o| o.greedy.equal = 2), 1);
        assert_eq!(with(&|o| o.generated = far), 1);
        assert_eq!(with(&|o| o.first = far), 1);
        let measured = Comparison { bound: None, ..comparison(9.0) };
        assert!(measured.faults().is_empty());
    }
}
