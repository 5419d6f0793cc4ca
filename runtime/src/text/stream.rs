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
    /// Text on its way from one to the other.
    piece: String,
}

impl TextStream {
    /// An answer that ends before any of `stops`.
    pub fn new(tokenizer: Arc<Tokenizer>, stops: Vec<String>) -> TextStream {
        let (detokenizer, stops) = (Detokenizer::default(), StopMatcher::new(stops));
        TextStream { tokenizer, detokenizer, stops, piece: String::new() }
    }

    /// Text that is complete and clear with this token, and whether a stop string has ended the answer. With
    /// `may_stop` false stop strings that this token completes are ordinary text.
    pub fn push(&mut self, token: u32, may_stop: bool) -> (String, bool) {
        let mut out = String::new();
        self.piece.clear();
        self.detokenizer.push(&self.tokenizer, token, &mut self.piece);
        let stopped = self.stops.push(&self.piece, may_stop, &mut out);
        (out, stopped)
    }

    /// Text that was held back, at the end of the answer; nothing after a stop string.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.piece.clear();
        self.detokenizer.finish(&mut self.piece);
        // The answer is over: a stop string that this completes can no longer end it.
        self.stops.push(&self.piece, false, &mut out);
        self.stops.finish(&mut out);
        out
    }
}
