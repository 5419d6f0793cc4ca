//! Stop strings in text that comes in pieces.

/// Lets text through up to the first stop string. What may be the beginning of a stop string is held back until it
/// is clear. The result does not depend on where the pieces are cut.
///
/// Of several stop strings the one that is complete first counts; of two that are complete at once, the longer.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The bytes with which a stop string begins, one bit each.
    firsts: [u64; 4],
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// Empty stop strings are ignored. Pieces of up to `room` bytes need no more memory than is taken here.
    pub fn new(stops: Vec<String>, room: usize) -> StopMatcher {
        let stops: Vec<String> = stops.into_iter().filter(|s| !s.is_empty()).collect();
        let mut firsts = [0; 4];
        for first in stops.iter().filter_map(|s| s.bytes().next()) {
            firsts[usize::from(first / 64)] |= 1 << (first % 64);
        }
        let longest = stops.iter().map(String::len).max().map_or(0, |longest| longest + room);
        StopMatcher { stops, firsts, held: String::with_capacity(longest), stopped: false }
    }

    /// Takes the text of `out` from `begin` on, which is new, and leaves there what is clear. True if a stop string is
    /// complete: then the text before it has been given, and nothing more will be. With `may_stop` false a stop string
    /// that this piece completes is ordinary text.
    pub fn filter(&mut self, out: &mut String, begin: usize, may_stop: bool) -> bool {
        if self.stopped || out.len() == begin {
            out.truncate(begin);
            return self.stopped;
        }
        if self.held.is_empty() && !out.as_bytes()[begin..].iter().any(|&b| self.begins(b)) {
            return false;
        }
        self.held.push_str(&out[begin..]);
        out.truncate(begin);
        if may_stop && let Some(begin) = self.first_match() {
            out.push_str(&self.held[..begin]);
            self.held.clear();
            self.stopped = true;
            return true;
        }
        let clear = self.clear();
        out.push_str(&self.held[..clear]);
        self.held.drain(..clear);
        false
    }

    /// Appends what was held back, at the end of the text.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&std::mem::take(&mut self.held));
    }

    /// True if a stop string begins with this byte.
    fn begins(&self, byte: u8) -> bool {
        self.firsts[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
    }

    /// Places of the held text at which a stop string may begin, with the text from there on. Bytes suffice: a stop
    /// string begins with a whole character, and so does what is held.
    fn candidates(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let held = self.held.as_bytes();
        (0..held.len()).filter(|&begin| self.begins(held[begin])).map(|begin| (begin, &held[begin..]))
    }

    /// Where the stop string begins that is complete first.
    fn first_match(&self) -> Option<usize> {
        let ends = self.candidates().flat_map(|(begin, rest)| {
            let here = self.stops.iter().filter(|s| rest.starts_with(s.as_bytes()));
            here.map(move |s| (begin + s.len(), begin))
        });
        ends.min().map(|(_, begin)| begin)
    }

    /// Bytes of the held text before the first place where it ends within a stop string.
    fn clear(&self) -> usize {
        let within =
            |rest: &[u8]| self.stops.iter().any(|s| s.len() > rest.len() && s.as_bytes().starts_with(rest));
        self.candidates().find(|(_, rest)| within(rest)).map_or(self.held.len(), |(begin, _)| begin)
    }
}
