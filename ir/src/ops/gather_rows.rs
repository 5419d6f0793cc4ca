//! `llm.gather_rows`: `y[l] = x[rows[l]]`, the rows for which logits are wanted.

use crate::entity::ValueId;

/// Picks rows.
#[derive(Clone, Debug, PartialEq)]
pub struct GatherRows {
    /// `(T, ...)`.
    pub x: ValueId,
    /// `(L)` i32, each below the number of rows.
    pub rows: ValueId,
}
