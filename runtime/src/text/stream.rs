//! Text of an answer as its tokens come: never half a character, never the beginning of a stop string.

use super::{Stops, Tokenizer};
use std::sync::Arc;

/// Tokens in, pieces of text out. All pieces together are the text of all tokens.
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    stops: Stops,
    tokens: Vec<u32>,
    /// Tokens before this are only there so that the next ones are decoded in their company.
    context: usize,
    /// Tokens before this have given their text.
    done: usize,
}

impl TextStream {
    /// A stream that ends at any of `stops`.
    pub fn new(tokenizer: Arc<Tokenizer>, stops: Vec<String>) -> TextStream {
        TextStream { tokenizer, stops: Stops::new(stops), tokens: Vec::new(), context: 0, done: 0 }
    }

    /// Takes a token; gives the text that is complete with it, and true if a stop string is. Without `stopping`
    /// stop strings are ordinary text.
    pub fn push(&mut self, token: u32, stopping: bool) -> (String, bool) {
        self.tokens.push(token);
        let fresh = self.fresh(false);
        if stopping { self.stops.push(&fresh) } else { (self.stops.pass(&fresh), false) }
    }

    /// The text that was held back, at the end.
    pub fn finish(&mut self) -> String {
        let fresh = self.fresh(true);
        self.stops.pass(&fresh)
    }

    /// Text of the tokens that have not given theirs; nothing while it ends within a character, unless `all`.
    fn fresh(&mut self, all: bool) -> String {
        // Decoders treat the first token on its own (a leading space goes away), so the tokens are decoded with some
        // that came before, and what those give is taken off.
        let decode = |tokens: &[u32]| self.tokenizer.decode(tokens).unwrap_or_default();
        let whole = decode(&self.tokens[self.context..]);
        if whole.ends_with('\u{fffd}') && !all {
            return String::new();
        }
        let known = decode(&self.tokens[self.context..self.done]);
        let fresh = whole.strip_prefix(known.as_str()).unwrap_or_default().to_owned();
        if !fresh.is_empty() || all {
            self.context = self.done;
            self.done = self.tokens.len();
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::{bytes, pieces};
    use super::*;
    use proptest::prelude::*;

    fn streamed(tokenizer: Tokenizer, tokens: &[u32], stops: &[&str]) -> (Vec<String>, bool) {
        let stops = stops.iter().map(|s| s.to_string()).collect();
        let mut stream = TextStream::new(Arc::new(tokenizer), stops);
        let mut out = Vec::new();
        for &token in tokens {
            let (text, stopped) = stream.push(token, true);
            out.push(text);
            if stopped {
                return (out, true);
            }
        }
        out.push(stream.finish());
        (out, false)
    }

    #[test]
    fn a_character_comes_whole() {
        let (out, _) = streamed(bytes(), &[0x61, 0xe2, 0x82, 0xac, 0x62], &[]);
        assert_eq!(out, ["a", "", "", "€", "b", ""]);
    }

    #[test]
    fn half_a_character_at_the_end_shows() {
        assert_eq!(streamed(bytes(), &[0x61, 0xe2], &[]).0.concat(), "a\u{fffd}");
    }

    #[test]
    fn spaces_between_words_stay_and_the_first_goes() {
        assert_eq!(streamed(pieces(None), &[3, 4, 3], &[]).0, ["a", " b", " a", ""]);
        // é as two bytes.
        assert_eq!(streamed(pieces(None), &[3, 8 + 0xc3, 8 + 0xa9, 4], &[]).0.concat(), "aé b");
    }

    #[test]
    fn a_stop_over_two_tokens_ends_it() {
        assert_eq!(streamed(bytes(), &[0x61, 0x62, 0x63, 0x64], &["bc"]), (vec!["a".into(), "".into(), "".into()], true));
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_whole(tokens in proptest::collection::vec(0u32..257, 0..40)) {
            let whole = bytes().decode(&tokens).unwrap();
            prop_assert_eq!(streamed(bytes(), &tokens, &[]).0.concat(), whole);
        }

        #[test]
        fn text_survives(text in "[ab é€😀]{0,30}") {
            let tokens = bytes().encode(&text).unwrap();
            prop_assert_eq!(streamed(bytes(), &tokens, &[]).0.concat(), text);
        }
    }
}
