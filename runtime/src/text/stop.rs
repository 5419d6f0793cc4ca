//! Stop strings in text that comes in pieces.

/// Lets text through up to the first stop string. What may be the beginning of a stop string is held back until it
/// is clear. The result does not depend on where the pieces are cut.
///
/// Of several stop strings the one that is complete first counts; of two that are complete at once, the longer.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// Empty stop strings are ignored.
    pub fn new(stops: Vec<String>) -> StopMatcher {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).collect();
        StopMatcher { stops, held: String::new(), stopped: false }
    }

    /// Takes a piece of text and appends what is clear. True if a stop string is complete: then the text before it
    /// has been given, and nothing more will be. With `may_stop` false a stop string that this piece completes is
    /// ordinary text.
    pub fn push(&mut self, piece: &str, may_stop: bool, out: &mut String) -> bool {
        if self.stopped || piece.is_empty() {
            return self.stopped;
        }
        if self.stops.is_empty() {
            out.push_str(piece);
            return false;
        }
        self.held.push_str(piece);
        if may_stop && let Some(begin) = self.first_match() {
            out.push_str(&self.held[..begin]);
            self.held.clear();
            self.stopped = true;
            return true;
        }
        let clear = self.held.len() - self.beginning();
        out.push_str(&self.held[..clear]);
        self.held.drain(..clear);
        false
    }

    /// Appends what was held back, at the end of the text.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&std::mem::take(&mut self.held));
    }

    /// Where the stop string begins that is complete first.
    fn first_match(&self) -> Option<usize> {
        let found = self
            .stops
            .iter()
            .filter_map(|s| self.held.find(s.as_str()).map(|begin| (begin + s.len(), begin)));
        found.min().map(|(_, begin)| begin)
    }

    /// Bytes at the end of the held text with which a stop string may begin: the most that do.
    fn beginning(&self) -> usize {
        let of = |stop: &String| {
            let most = (stop.len() - 1).min(self.held.len());
            // Bytes suffice: a stop string begins with a whole character, and so does what is held.
            (1..=most).rev().find(|&n| self.held.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
        };
        self.stops.iter().map(of).max().unwrap_or(0)
    }
}
