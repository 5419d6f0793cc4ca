//! The paged pool of the key/value cache: who holds which page, and which full pages can be used again.
//!
//! Bookkeeping only. A page number indexes the buffer of every layer; the bytes are the device's.

mod key;

pub use key::PageKey;

use rustc_hash::FxHashMap;

/// End of a list of pages.
const NONE: u32 = u32::MAX;

/// One page.
#[derive(Clone, Debug)]
struct Page {
    /// Sequences that hold it.
    refs: u32,
    /// What it is found by, once it is full and computed.
    key: Option<PageKey>,
    /// Neighbours in the list of idle pages; meaningful while `refs` is 0 and `key` is set.
    older: u32,
    newer: u32,
}

/// Reference-counted pages with reuse of full ones by the tokens that led to them.
///
/// A page is free, held (by one or more sequences), or idle: held by nobody and kept for its content until
/// somebody needs the room. Idle pages are given up least recently used first.
#[derive(Debug)]
pub struct KvPool {
    page_tokens: u32,
    prefix_cache: bool,
    pages: Vec<Page>,
    free: Vec<u32>,
    index: FxHashMap<PageKey, u32>,
    /// Tokens of published pages, `(pages, page_tokens)`: a key alone is not proof.
    tokens: Vec<u32>,
    oldest: u32,
    newest: u32,
    idle: u32,
}

impl KvPool {
    /// A pool of `pages` pages of `page_tokens` tokens, all free. Without `prefix_cache` nothing is ever shared.
    pub fn new(pages: u32, page_tokens: u32, prefix_cache: bool) -> KvPool {
        let page = Page { refs: 0, key: None, older: NONE, newer: NONE };
        let mut index = FxHashMap::default();
        let mut tokens = Vec::new();
        if prefix_cache {
            // Twice the entries: the table then cleans itself in place and never grows.
            index.reserve(2 * pages as usize);
            tokens = vec![0; pages as usize * page_tokens as usize];
        }
        KvPool {
            page_tokens,
            prefix_cache,
            pages: vec![page; pages as usize],
            free: (0..pages).rev().collect(),
            index,
            tokens,
            oldest: NONE,
            newest: NONE,
            idle: 0,
        }
    }

    /// Tokens of a page.
    pub fn page_tokens(&self) -> u32 {
        self.page_tokens
    }

    /// True if full pages are kept and shared.
    pub fn prefix_cache(&self) -> bool {
        self.prefix_cache
    }

    /// Pages that `tokens` tokens take.
    pub fn pages_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.page_tokens)
    }

    /// Pages in all.
    pub fn total(&self) -> u32 {
        self.pages.len() as u32
    }

    /// Pages that [`KvPool::take`] can give: free and idle.
    pub fn available(&self) -> u32 {
        self.free.len() as u32 + self.idle
    }

    /// Pages held by sequences.
    pub fn held(&self) -> u32 {
        self.total() - self.available()
    }

    /// Pages held by nobody and kept for their content.
    pub fn idle(&self) -> u32 {
        self.idle
    }

    /// Sequences that hold a page.
    pub fn refs(&self, page: u32) -> u32 {
        self.pages[page as usize].refs
    }

    /// A page for new content, held once; gives up the least recently used idle page if none is free.
    pub fn take(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.oldest != NONE => {
                let page = self.oldest;
                self.unlink(page);
                if let Some(key) = self.pages[page as usize].key.take() {
                    self.index.remove(&key);
                }
                page
            }
            None => return None,
        };
        self.pages[page as usize].refs = 1;
        Some(page)
    }

    /// The page with this content, if there is one; it is not held by asking.
    pub fn find(&self, key: PageKey, tokens: &[u32]) -> Option<u32> {
        let page = *self.index.get(&key)?;
        (self.published(page) == tokens).then_some(page)
    }

    /// Holds a page once more.
    pub fn retain(&mut self, page: u32) {
        if self.pages[page as usize].refs == 0 {
            self.unlink(page);
        }
        self.pages[page as usize].refs += 1;
    }

    /// Holds a page once less. The last release makes it idle if it was published, free otherwise.
    pub fn release(&mut self, page: u32) {
        let p = &mut self.pages[page as usize];
        debug_assert!(p.refs > 0, "page {page} is released more often than held");
        p.refs -= 1;
        if p.refs > 0 {
            return;
        }
        if p.key.is_none() {
            self.free.push(page);
            return;
        }
        p.older = self.newest;
        p.newer = NONE;
        match self.newest {
            NONE => self.oldest = page,
            newest => self.pages[newest as usize].newer = page,
        }
        self.newest = page;
        self.idle += 1;
    }

    /// Makes a held page that is full and computed available to others. Of two pages with the same content the
    /// first stays.
    pub fn publish(&mut self, page: u32, key: PageKey, tokens: &[u32]) {
        debug_assert!(self.pages[page as usize].refs > 0, "page {page} is published by nobody");
        if !self.prefix_cache || self.pages[page as usize].key.is_some() || self.index.contains_key(&key) {
            return;
        }
        self.index.insert(key, page);
        self.pages[page as usize].key = Some(key);
        let at = page as usize * self.page_tokens as usize;
        self.tokens[at..at + tokens.len()].copy_from_slice(tokens);
    }

    fn published(&self, page: u32) -> &[u32] {
        let n = self.page_tokens as usize;
        &self.tokens[page as usize * n..][..n]
    }

    /// Takes a page out of the list of idle pages.
    fn unlink(&mut self, page: u32) {
        let Page { older, newer, .. } = self.pages[page as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.pages[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.pages[newer as usize].older = older,
        }
        self.idle -= 1;
    }

    /// Checks every invariant: each page is in exactly one of free, held and idle, and the index agrees.
    ///
    /// # Panics
    /// If one is broken. For tests: it looks at every page.
    pub fn assert_consistent(&self) {
        let mut seen = vec![0u32; self.pages.len()];
        for &page in &self.free {
            seen[page as usize] += 1;
            let p = &self.pages[page as usize];
            assert!(p.refs == 0 && p.key.is_none(), "free page {page}: {p:?}");
        }
        let (mut at, mut before, mut idle) = (self.oldest, NONE, 0);
        while at != NONE {
            let p = &self.pages[at as usize];
            assert!(p.refs == 0 && p.key.is_some() && p.older == before, "idle page {at}: {p:?}");
            seen[at as usize] += 1;
            (before, at, idle) = (at, p.newer, idle + 1);
        }
        assert_eq!((before, idle), (self.newest, self.idle), "list of idle pages");
        let mut keys = 0;
        for (page, p) in self.pages.iter().enumerate() {
            assert_eq!(seen[page], u32::from(p.refs == 0), "page {page}: {p:?}");
            if let Some(key) = p.key {
                assert_eq!(self.index.get(&key), Some(&(page as u32)), "index of page {page}");
                keys += 1;
            }
        }
        assert_eq!(keys, self.index.len(), "entries of the index");
    }
}

#[cfg(test)]
mod tests;
