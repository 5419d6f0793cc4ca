//! `llm.rope_kv_append`: splits a merged q/k/v, norms and rotates q and k, stores k and v in the cache.

use crate::entity::{ValueId, WeightId};
use crate::ops::RmsNormWeight;

/// The fused form of slices, per-head norms, `llm.rope` and `llm.kv_append`; results are `(q, kv)`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeKvAppend {
    /// `(T, (heads + 2 kv_heads) * head_dim)`: queries, keys, values.
    pub qkv: ValueId,
    /// `(T)` i32.
    pub pos: ValueId,
    /// The cache before; its type has kv_heads and head_dim.
    pub kv: ValueId,
    /// Which request each token belongs to.
    pub batch: ValueId,
    /// Query heads.
    pub heads: u32,
    /// `(dim / 2)` f32 inverse frequencies.
    pub freqs: WeightId,
    /// Norm of each query head.
    pub q_norm: Option<RmsNormWeight>,
    /// Norm of each key head.
    pub k_norm: Option<RmsNormWeight>,
}
