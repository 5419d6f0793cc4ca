//! `llm.rope`: rotary position embedding on split halves (GPT-NeoX order).

use crate::entity::{ValueId, WeightId};

/// Rotates pairs `(i, i + dim/2)` of each head by `pos * freq[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `(T, heads, head_dim)`.
    pub x: ValueId,
    /// `(T)` i32.
    pub pos: ValueId,
    /// `(dim / 2)` f32 inverse frequencies; elements from `dim` on pass through.
    pub freqs: WeightId,
}
