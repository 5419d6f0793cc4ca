//! `llm.slice`: columns `start..start + width` of a tensor whose inner dimensions are flattened.

use crate::entity::ValueId;

/// A run of columns; the result type says how many, and how they split into dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// `(rows, ...)`.
    pub x: ValueId,
    /// First column.
    pub start: u64,
}
