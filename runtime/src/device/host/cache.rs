//! Where keys and values lie in a layer's cache.
//!
//! A page holds the keys of all its heads, then the values. The values of a head are rows, one a token. Its keys lie as
//! weights do, in panels of 16 tokens, so that the kernels of linears compute scores from the cache as it is:
//! `(page_tokens / 16, head_dim, 16)`, elements of bf16 in pairs `(page_tokens / 16, head_dim / 2, 16, 2)`.

use super::elem::Elem;
use super::linear::LANES;
use crate::error::Error;
use trtc_engine::manifest::{Dtype, Kv};

/// One layer's cache, `(pages, 2, heads, page_tokens * head_dim)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Key/value heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens of a page, a multiple of 16.
    pub page_tokens: usize,
    /// Tokens that a query sees, itself included.
    pub window: Option<usize>,
    /// Pages that the buffer holds.
    pub pages: usize,
}

impl Geometry {
    /// Elements of a page.
    pub fn page_elems(&self) -> usize {
        2 * self.heads * self.page_tokens * self.head_dim
    }

    /// First element of the keys of a head (`which` 0) or its values (1) in a page.
    fn head(&self, page: usize, which: usize, head: usize) -> usize {
        ((page * 2 + which) * self.heads + head) * self.page_tokens * self.head_dim
    }

    /// Elements of a panel of keys.
    pub fn panel_elems(&self) -> usize {
        LANES * self.head_dim
    }

    /// First element of the panel with the key of the token in `slot`.
    pub fn panel(&self, page: usize, head: usize, slot: usize) -> usize {
        self.head(page, 0, head) + slot / LANES * self.panel_elems()
    }

    /// First element of the value of the token in `slot`.
    pub fn value(&self, page: usize, head: usize, slot: usize) -> usize {
        self.head(page, 1, head) + slot * self.head_dim
    }

    /// First position that the query at `position` sees.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }
}

/// Refuses caches that do not lie in whole panels.
pub fn check(kv: &Kv) -> Result<(), Error> {
    if !kv.layers.is_empty() && (kv.page_tokens == 0 || !(kv.page_tokens as usize).is_multiple_of(LANES)) {
        return Err(Error::unsupported(format!(
            "pages of the cache hold {} tokens; this device takes multiples of {LANES}",
            kv.page_tokens
        )));
    }
    match kv.layers.iter().find(|l| kv.dtype == Dtype::Bf16 && !l.head_dim.is_multiple_of(2)) {
        Some(odd) => Err(Error::unsupported(format!(
            "a bf16 cache of heads of {} elements; this device takes even numbers",
            odd.head_dim
        ))),
        None => Ok(()),
    }
}

/// Stores the key of a token in its panel, elements rounded. Portable code: AVX-512 would make scatters of it, which
/// are slower.
pub fn put_key<K: Elem>(key: &[f32], slot: usize, panel: &mut [K]) {
    let lane = slot % LANES;
    if K::PAIRS {
        for (pair, row) in key.as_chunks::<2>().0.iter().zip(panel.chunks_exact_mut(2 * LANES)) {
            (row[2 * lane], row[2 * lane + 1]) = (K::put(pair[0]), K::put(pair[1]));
        }
    } else {
        for (k, row) in key.iter().zip(panel.chunks_exact_mut(LANES)) {
            row[lane] = K::put(*k);
        }
    }
}
