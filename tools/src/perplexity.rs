//! Perplexity: how a text is cut into windows, and the sum over what they score. No engine in here.

use std::ops::Range;

/// One window.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Tokens of the text that it holds.
    pub tokens: Range<usize>,
    /// The first of them that it scores; all after are scored too.
    pub score_from: usize,
}

/// Cuts `count` tokens into windows of at most `width` tokens that begin `stride` apart. With `bos`, one place of
/// each window is for the BOS token, and the window's first token can be scored.
///
/// `None` if some token would be in no window.
pub fn windows(count: usize, width: usize, stride: usize, bos: bool) -> Option<Vec<Window>> {
    let width = width.checked_sub(usize::from(bos)).filter(|w| *w > 0)?;
    if stride == 0 || stride > width {
        return None;
    }
    let mut out = Vec::new();
    let (mut start, mut scored) = (0, 0);
    while scored < count {
        let end = count.min(start + width);
        // Without BOS there is nothing before a window's first token.
        let score_from = scored.max(start + usize::from(!bos));
        if score_from < end {
            out.push(Window { tokens: start..end, score_from });
        }
        scored = end;
        start += stride;
    }
    Some(out)
}

/// Sum of negative log-probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// Tokens scored.
    pub tokens: u64,
    /// Sum over them, nats.
    pub nll: f64,
}

impl Sum {
    /// One window's log-probabilities: of each token that was fed but the first.
    pub fn add(&mut self, window: &Window, logprobs: &[f32], bos: bool) -> Result<(), String> {
        let fed = window.tokens.len() + usize::from(bos);
        if logprobs.len() + 1 != fed {
            return Err(format!("{} log-probabilities for {fed} tokens", logprobs.len()));
        }
        let skip = window.score_from - window.tokens.start - usize::from(!bos);
        self.tokens += (logprobs.len() - skip) as u64;
        self.nll -= logprobs[skip..].iter().map(|&x| f64::from(x)).sum::<f64>();
        Ok(())
    }

    /// Nats a token.
    pub fn mean(&self) -> f64 {
        self.nll / self.tokens.max(1) as f64
    }

    /// `exp` of the mean.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which tokens are scored, in order.
    fn scored(windows: &[Window]) -> Vec<usize> {
        windows.iter().flat_map(|w| w.score_from..w.tokens.end).collect()
    }

    #[test]
    fn overlapping_windows_score_each_token_once() {
        for count in 2..40 {
            for width in 2..12 {
                for stride in 1..width {
                    let w = windows(count, width, stride, false).expect("stride below width");
                    assert_eq!(scored(&w), (1..count).collect::<Vec<_>>(), "{count} {width} {stride}");
                    assert!(w.iter().all(|w| w.tokens.len() <= width));
                    let w = windows(count, width, stride, true).expect("stride below width");
                    assert_eq!(
                        scored(&w),
                        (0..count).collect::<Vec<_>>(),
                        "{count} {width} {stride} with BOS"
                    );
                }
            }
        }
    }

    #[test]
    fn adjoining_windows_cannot_score_their_first_token() {
        let w = windows(6, 3, 3, false).expect("stride is the width");
        assert_eq!(scored(&w), [1, 2, 4, 5]);
    }

    #[test]
    fn gaps_are_refused() {
        assert_eq!(windows(10, 4, 5, false), None);
        assert_eq!(windows(10, 4, 4, true), None);
        assert_eq!(windows(10, 4, 0, false), None);
        assert_eq!(windows(10, 1, 1, true), None);
    }

    #[test]
    fn a_uniform_model_has_the_perplexity_of_its_vocabulary() {
        let mut sum = Sum::default();
        for w in windows(10, 5, 2, false).expect("stride below width") {
            sum.add(&w, &vec![-(384f32.ln()); w.tokens.len() - 1], false).expect("lengths agree");
        }
        assert_eq!(sum.tokens, 9);
        assert!((sum.perplexity() - 384.0).abs() < 1e-3);
    }

    #[test]
    fn a_missing_log_probability_is_told() {
        let w = Window { tokens: 0..4, score_from: 1 };
        assert!(Sum::default().add(&w, &[0.0; 4], false).is_err());
        assert!(Sum::default().add(&w, &[0.0; 4], true).is_ok());
    }
}
