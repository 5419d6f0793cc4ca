//! The tokenizer of an engine: a `tokenizer.json`, read by the `tokenizers` crate; decoding is `decode.rs`.

use super::decode::{Detokenizer, Pieces};
use crate::error::Error;

/// Tokens of a text, and text of tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Pieces,
    /// The token that begins prompts, if they do begin with one.
    bos: Option<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab", &self.vocab()).field("bos", &self.bos).finish()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Truncation, padding and templates for special tokens that it may contain are not
    /// used: `bos` says what prompts begin with.
    pub fn new(json: &[u8], bos: Option<u32>) -> Result<Tokenizer, Error> {
        let bad = |what: String| Error::user(format!("the tokenizer cannot be read: {what}"));
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| bad(e.to_string()))?;
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        inner.with_padding(None);
        let pieces = Pieces::new(&inner)?;
        Ok(Tokenizer { inner, pieces, bos })
    }

    /// Tokens of a text. With `bos` they begin with the BOS token if this model's prompts do; give false for text
    /// from a chat template, which writes its own. Special tokens that the text spells out are recognised, and a
    /// BOS token among them is not doubled.
    pub fn encode(&self, text: &str, bos: bool) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|e| Error::user(format!("the text cannot be tokenized: {e}")))?;
        let ids = encoding.get_ids();
        let begin = self.bos.filter(|b| bos && ids.first() != Some(b));
        Ok(begin.into_iter().chain(ids.iter().copied()).collect())
    }

    /// Text of tokens, special tokens left out. Bytes that are no UTF-8 become U+FFFD; unknown ids become nothing.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut stream = Detokenizer::default();
        let mut text = String::new();
        for &token in tokens {
            stream.push(self, token, &mut text);
        }
        stream.finish(&mut text);
        text
    }

    /// Reads a little of each token. A vocabulary does not fit the processor's nearest caches, and these reads wait for
    /// memory all at once, where decoding one token after the other waits for each.
    pub(crate) fn touch(&self, tokens: &[i32]) {
        let first = |&token: &i32| self.pieces.get(token as u32).first().map_or(0, |&b| u32::from(b));
        std::hint::black_box(tokens.iter().map(first).sum::<u32>());
    }

    /// Ids are below this.
    pub fn vocab(&self) -> u32 {
        self.pieces.vocab()
    }

    /// The id of a token by its spelling in the vocabulary: `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token's spelling in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// What a token adds to a text, which may be a part of a character; nothing for special tokens.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.pieces.get(id)
    }

    /// True if every token but the first of a text has a space before it, which is not among its bytes.
    pub(crate) fn puts_spaces(&self) -> bool {
        self.pieces.puts_spaces()
    }

    /// True for tokens that are no text: begin and end of sequence, turns of a chat.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|t| t.special)
    }

    pub(super) fn pieces(&self) -> &Pieces {
        &self.pieces
    }
}
