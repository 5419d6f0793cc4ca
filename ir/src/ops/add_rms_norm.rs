//! `llm.add_rms_norm`: `h = x + r; n = rms_norm(h)`, the fused form of `llm.add` and `llm.rms_norm`.

use crate::entity::ValueId;
use crate::ops::RmsNormWeight;

/// Residual sum and its norm; results are `(h, n)`.
#[derive(Clone, Debug, PartialEq)]
pub struct AddRmsNorm {
    /// `(T, width)`.
    pub x: ValueId,
    /// `(T, width)`.
    pub residual: ValueId,
    /// The learned part of the norm.
    pub norm: RmsNormWeight,
}
