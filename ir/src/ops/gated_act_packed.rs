//! `llm.gated_act_packed`: `y = act(x[:, :w]) * x[:, w:]`, the fused form of `llm.gated_act`.

use crate::entity::ValueId;
use crate::ops::Act;

/// Gated activation of the two halves of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedActPacked {
    /// `(T, 2 width)`: gate, then up.
    pub x: ValueId,
    /// The function.
    pub act: Act,
}
