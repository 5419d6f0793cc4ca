//! One sequence as the scheduler sees it: its tokens, how far they are computed, and its pages.

use super::Chunk;
use crate::kv::{KvPool, PageKey};
use std::cmp::Reverse;

/// A live sequence, by number; numbers are used again after the sequence ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u32);

impl SeqId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is asked of the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSequence {
    /// Prompt.
    pub tokens: Vec<u32>,
    /// Most tokens, prompt and answer together.
    pub max_len: u32,
    /// Higher goes first.
    pub priority: i32,
    /// Logits for every token of the prompt, not only the last: nothing of it is taken from the cache.
    pub all_logits: bool,
    /// A live sequence with the same prompt: this one waits until that is computed, to find its pages in the cache.
    pub leader: Option<SeqId>,
}

/// A live sequence.
#[derive(Debug)]
pub struct Sequence {
    pub(super) tokens: Vec<u32>,
    /// Tokens after those that the device has chosen or will have when it comes to them; not known here yet.
    pub(super) pending: u32,
    prompt: u32,
    pub(super) max_len: u32,
    /// Tokens whose keys and values are in the cache.
    pub(super) computed: u32,
    /// First position whose logits are still wanted.
    pub(super) logits_from: u32,
    pub(super) pages: Vec<u32>,
    /// Which admission gave it its pages.
    pub(super) admission: u64,
    /// Keys of full pages, as far as they were needed.
    keys: Vec<PageKey>,
    /// Tokens whose pages may be another's too.
    shared: u32,
    /// Pages that were published or found.
    pub(super) published: u32,
    pub(super) priority: i32,
    arrival: u64,
    pub(super) leader: Option<SeqId>,
    pub(super) followers: u32,
}

impl Sequence {
    /// With `prompts_only` no page with tokens of the answer is shared: those of prompts are not the same to the bit.
    pub(super) fn new(
        new: NewSequence,
        leader: Option<SeqId>,
        arrival: u64,
        pool: &KvPool,
        prompts_only: bool,
    ) -> Sequence {
        let prompt = new.tokens.len() as u32;
        let mut tokens = new.tokens;
        // All the room it can ever need: steps do not allocate.
        tokens.reserve_exact((new.max_len - prompt) as usize);
        let pages = pool.pages_for(new.max_len) as usize;
        Sequence {
            tokens,
            pending: 0,
            prompt,
            max_len: new.max_len,
            computed: 0,
            logits_from: if new.all_logits { 0 } else { prompt - 1 },
            pages: Vec::with_capacity(pages),
            admission: 0,
            keys: Vec::with_capacity(if pool.prefix_cache() { pages } else { 0 }),
            shared: if prompts_only { prompt } else { u32::MAX },
            published: 0,
            priority: new.priority,
            arrival,
            leader,
            followers: 0,
        }
    }

    /// Prompt and answer so far, as far as they are known.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Position after the last token, those that are not known yet included.
    pub fn end(&self) -> u32 {
        self.tokens.len() as u32 + self.pending
    }

    /// True if one more token can follow and be computed.
    pub fn goes_on(&self) -> bool {
        self.end() + 1 < self.max_len
    }

    /// Tokens of the prompt.
    pub fn prompt_len(&self) -> u32 {
        self.prompt
    }

    /// Tokens whose keys and values are in the cache.
    pub fn computed(&self) -> u32 {
        self.computed
    }

    /// Pages, in the order of the tokens.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Which admission gave it its pages, of all that ever were; from 1. As long as it stays the same, pages are only
    /// added behind those that are there.
    pub fn admission(&self) -> u64 {
        self.admission
    }

    /// True if every token is computed: the next one can be chosen.
    pub fn complete(&self) -> bool {
        self.remaining() == 0
    }

    pub(super) fn remaining(&self) -> u32 {
        self.end() - self.computed
    }

    pub(super) fn prompt_computed(&self) -> bool {
        self.computed >= self.prompt
    }

    /// Order of everything: smaller goes first.
    pub(super) fn rank(&self) -> (Reverse<i32>, u64) {
        (Reverse(self.priority), self.arrival)
    }

    /// Hashes all full pages of the tokens.
    pub(super) fn hash_pages(&mut self, pool: &KvPool) {
        if !pool.prefix_cache() {
            return;
        }
        let n = pool.page_tokens() as usize;
        for page in self.tokens.chunks_exact(n).skip(self.keys.len()) {
            let parent = self.keys.last().copied().unwrap_or(PageKey::ROOT);
            self.keys.push(parent.then(page));
        }
    }

    /// Page `i` of the tokens, if the cache has it and no logits of it are wanted.
    pub(super) fn cached_page(&self, i: usize, pool: &KvPool) -> Option<u32> {
        let n = pool.page_tokens() as usize;
        if (i + 1) * n > self.logits_from.min(self.shared) as usize {
            return None;
        }
        pool.find(*self.keys.get(i)?, &self.tokens[i * n..][..n])
    }

    /// The longest prefix that the cache has, page by page.
    pub(super) fn cached_pages<'a>(&'a self, pool: &'a KvPool) -> impl Iterator<Item = u32> + 'a {
        (0..).map_while(|i| self.cached_page(i, pool))
    }

    /// Takes note that a chunk was computed, or will be before anything that is started later.
    pub(super) fn advance(&mut self, chunk: &Chunk, pool: &mut KvPool) {
        debug_assert_eq!(chunk.start, self.computed);
        self.computed = chunk.start + chunk.len;
        self.logits_from = self.logits_from.max(if chunk.rows > 0 { self.computed } else { 0 });
        self.publish(pool);
    }

    /// Full pages of known tokens become available to others.
    pub(super) fn publish(&mut self, pool: &mut KvPool) {
        if !pool.prefix_cache() {
            return;
        }
        let n = pool.page_tokens();
        let full = self.computed.min(self.tokens.len() as u32).min(self.shared) / n;
        if full <= self.published {
            return;
        }
        self.hash_pages(pool);
        for i in self.published..full {
            let (at, i) = ((i * n) as usize, i as usize);
            pool.publish(self.pages[i], self.keys[i], &self.tokens[at..at + n as usize]);
        }
        self.published = full;
    }
}
