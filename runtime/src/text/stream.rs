//! The text of one answer as its tokens come: detokenizer, then stop strings.

use super::decode::Detokenizer;
use super::stop::StopMatcher;
use super::tokenizer::Tokenizer;
use std::sync::Arc;

/// The text of one answer.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    stops: StopMatcher,
}

impl TextStream {
    /// An answer that ends before any of `stops`. Takes all memory that its tokens will need.
    pub fn new(tokenizer: Arc<Tokenizer>, stops: Vec<String>) -> TextStream {
        let longest = tokenizer.pieces().longest();
        let detokenizer = Detokenizer::with_room(longest);
        // A byte that is no UTF-8 becomes a character of three.
        TextStream { tokenizer, detokenizer, stops: StopMatcher::new(stops, 3 * (longest + 4)) }
    }

    /// Appends the text that is complete and clear with this token; true if a stop string has ended the answer. With
    /// `may_stop` false stop strings that this token completes are ordinary text.
    pub fn push(&mut self, token: u32, may_stop: bool, out: &mut String) -> bool {
        let begin = out.len();
        self.detokenizer.push(&self.tokenizer, token, out);
        self.stops.filter(out, begin, may_stop)
    }

    /// Appends the text that was held back, at the end of the answer; nothing after a stop string.
    pub fn finish(&mut self, out: &mut String) {
        let begin = out.len();
        self.detokenizer.finish(out);
        // The answer is over: a stop string that this completes can no longer end it.
        self.stops.filter(out, begin, false);
        self.stops.finish(out);
    }
}
