//! `llm.gated_act`: `y = act(gate) * up`.

use crate::entity::ValueId;

/// The activation function of a gated feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`.
    GeluTanh,
}

/// Gated activation of two tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedAct {
    /// `(T, width)`.
    pub gate: ValueId,
    /// `(T, width)`.
    pub up: ValueId,
    /// The function.
    pub act: Act,
}
