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
        // Some at a time: an update costs more than the bytes of one token.
        let mut bytes = [0; 256];
        for some in tokens.chunks(bytes.len() / 4) {
            for (four, token) in bytes.chunks_exact_mut(4).zip(some) {
                four.copy_from_slice(&token.to_le_bytes());
            }
            hash.update(&bytes[..4 * some.len()]);
        }
        PageKey(hash.digest128())
    }
}
