//! What a full page is found by: a hash of its tokens and of everything before them.
//!
//! Not a proof of equality: the pool compares the page's own tokens too.

use xxhash_rust::xxh3::Xxh3;

/// Chain hash of a prefix that ends with a full page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageKey(u128);

impl PageKey {
    /// The empty prefix.
    pub const ROOT: PageKey = PageKey(0);

    /// The prefix that goes on with `tokens`: `xxh3_128(self ++ tokens)`, little-endian.
    pub fn then(self, tokens: &[u32]) -> PageKey {
        let mut hash = Xxh3::new();
        hash.update(&self.0.to_le_bytes());
        for token in tokens {
            hash.update(&token.to_le_bytes());
        }
        PageKey(hash.digest128())
    }
}
