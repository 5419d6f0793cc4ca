//! `llm.linear`: `y = x w^T + bias + residual`, all dimensions of x but the first flattened.

use crate::entity::{ValueId, WeightId};

/// Matrix product with a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `(rows, in)`, rows symbolic.
    pub x: ValueId,
    /// `(out, in)`.
    pub weight: WeightId,
    /// `(out)`.
    pub bias: Option<WeightId>,
    /// `(rows, out)`, added in the epilogue.
    pub residual: Option<ValueId>,
}
