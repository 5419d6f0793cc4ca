//! `llm.kv_append`: the cache with this step's keys and values stored at their positions.

use crate::entity::ValueId;

/// Stores keys and values; the cache is threaded as a value, so readers are ordered after it.
#[derive(Clone, Debug, PartialEq)]
pub struct KvAppend {
    /// The cache before.
    pub kv: ValueId,
    /// `(T, kv_heads, head_dim)`.
    pub k: ValueId,
    /// `(T, kv_heads, head_dim)`.
    pub v: ValueId,
    /// Which request each token belongs to.
    pub batch: ValueId,
}
