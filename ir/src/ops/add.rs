//! `llm.add`: `y = lhs + rhs`.

use crate::entity::ValueId;

/// Elementwise sum of two tensors of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Add {
    /// Any shape.
    pub lhs: ValueId,
    /// The same shape.
    pub rhs: ValueId,
}
