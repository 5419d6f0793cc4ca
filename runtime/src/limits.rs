//! What an engine can answer at all: bounds that a request is held to before anything is done for it.
//!
//! Plain numbers, so that another thread than the engine's can refuse a request at once.

use crate::error::Error;
use crate::request::Request;
use trtc_engine::manifest::Dims;

/// Bounds of a loaded engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of the vocabulary: token ids are below it.
    pub vocab: u32,
    /// Lengths and counts that were fixed when the engine was built.
    pub dims: Dims,
    /// Pages of the KV cache.
    pub pages: u32,
    /// Tokens of a page.
    pub page_tokens: u32,
    /// True if the engine takes and gives text.
    pub text: bool,
}

impl Limits {
    /// Refuses what the engine could never answer.
    pub fn check(&self, request: &Request) -> Result<(), Error> {
        request.check(self.vocab, &self.dims, self.text)?;
        let prompt = request.prompt.len() as u32;
        check_fits(prompt, self.max_len(prompt, request.max_tokens), self.pages, self.page_tokens)
    }

    /// Most tokens of a sequence, prompt and answer together.
    pub fn max_len(&self, prompt: u32, max_tokens: u32) -> u32 {
        prompt.saturating_add(max_tokens).min(self.dims.max_seq_len)
    }

    /// Room for an answer to a prompt of so many tokens: what sequences and the cache leave.
    pub fn room(&self, prompt: u32) -> u32 {
        // The last token of an answer is never computed.
        let cache = u64::from(self.pages) * u64::from(self.page_tokens) + 1;
        let longest = cache.min(u64::from(self.dims.max_seq_len)) as u32;
        longest.saturating_sub(prompt)
    }
}

/// Refuses a sequence that needs more pages than there are; `max_len` counts prompt and answer.
pub(crate) fn check_fits(prompt: u32, max_len: u32, pages: u32, page_tokens: u32) -> Result<(), Error> {
    // The last token of an answer is never computed.
    let cached = prompt.max(max_len.saturating_sub(1));
    if cached.div_ceil(page_tokens) <= pages {
        return Ok(());
    }
    let tokens = u64::from(pages) * u64::from(page_tokens);
    Err(Error::user(format!(
        "the request needs {cached} tokens of KV cache (prompt {prompt}), the cache holds {tokens}"
    ))
    .help("ask for fewer tokens, or load the engine with a larger KV cache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        vocab: 10,
        dims: Dims { max_batch: 2, max_seq_len: 64, max_step_tokens: 16, max_logit_rows: 16 },
        pages: 3,
        page_tokens: 16,
        text: false,
    };

    #[test]
    fn the_room_is_what_fits_and_one_more_does_not() {
        for prompt in [1, 17, 48] {
            let request = |max_tokens| Request { max_tokens, ..Request::new(vec![1; prompt as usize]) };
            let room = LIMITS.room(prompt);
            assert_eq!(room, 49 - prompt);
            assert!(LIMITS.check(&request(room)).is_ok());
            assert!(LIMITS.check(&request(room + 1)).is_err_and(|e| e.message.contains("KV cache")));
        }
        assert_eq!(Limits { pages: 100, ..LIMITS }.room(60), 4);
        assert!(LIMITS.check(&Request::new(vec![10])).is_err_and(|e| e.message.contains("vocabulary")));
    }
}
