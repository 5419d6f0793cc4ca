//! Stop strings in streamed text: a small state machine that holds back what may be the beginning of one.

/// Looks for stop strings in text that comes in pieces.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    stops: Vec<String>,
    held: String,
}

impl Stops {
    /// Empty stop strings are left out: they would stop everything.
    pub fn new(stops: Vec<String>) -> Stops {
        Stops { stops: stops.into_iter().filter(|s| !s.is_empty()).collect(), held: String::new() }
    }

    /// Takes a piece; gives the text that is certain, and true if a stop string is complete: the text before it
    /// was the last.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let hold = self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - hold);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Takes a piece in which nothing stops; gives all text so far.
    pub fn pass(&mut self, text: &str) -> String {
        self.held.push_str(text);
        std::mem::take(&mut self.held)
    }

    /// The text held back, at the end.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len()).rev().find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stop_over_several_pieces() {
        let mut s = Stops::new(vec!["END".into(), String::new()]);
        assert_eq!(s.push("a E"), ("a ".into(), false));
        assert_eq!(s.push("N"), (String::new(), false));
        assert_eq!(s.push("D b"), (String::new(), true));
        assert_eq!(s.finish(), "");
    }

    #[test]
    fn a_beginning_that_was_none_comes_out() {
        let mut s = Stops::new(vec!["END".into()]);
        assert_eq!(s.push("EN"), (String::new(), false));
        assert_eq!(s.push("x"), ("ENx".into(), false));
        assert_eq!(s.push("E"), (String::new(), false));
        assert_eq!(s.finish(), "E");
    }

    proptest! {
        #[test]
        fn pieces_are_as_good_as_the_whole(
            pieces in proptest::collection::vec("[abé]{0,3}", 0..12),
            stops in proptest::collection::vec("[abé]{1,4}", 0..3),
        ) {
            let whole: String = pieces.concat();
            let mut s = Stops::new(stops.clone());
            let (mut out, mut stopped) = (String::new(), false);
            for piece in &pieces {
                let (text, stop) = s.push(piece);
                out += &text;
                if stop {
                    stopped = true;
                    break;
                }
            }
            if !stopped {
                out += &s.finish();
            }
            // The stop that is complete first decides, and it is the one that ends first.
            let ends = |s: &String| whole.find(s.as_str()).map(|at| at + s.len());
            prop_assert_eq!(stopped, stops.iter().any(|s| ends(s).is_some()));
            prop_assert!(whole.starts_with(&out));
            prop_assert!(stops.iter().all(|s| !out.contains(s.as_str())));
            if !stopped {
                prop_assert_eq!(out, whole);
            }
        }
    }
}
