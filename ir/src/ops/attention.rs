//! `llm.attention`: causal softmax attention of each query over its request's cache.

use crate::entity::ValueId;

/// `softmax(scale * q k^T) v`, grouped-query, causal, within the window of the cache's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// `(T, heads, head_dim)`.
    pub q: ValueId,
    /// The cache, this step's tokens included.
    pub kv: ValueId,
    /// Which request each token belongs to.
    pub batch: ValueId,
    /// Factor on the scores.
    pub scale: f32,
    /// If set, scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}
