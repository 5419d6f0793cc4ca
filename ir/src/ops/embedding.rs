//! `llm.embedding`: rows of a table, `y[t] = scale * w[tokens[t]]`.

use crate::entity::{ValueId, WeightId};

/// Looks tokens up in the embedding table.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `(T)` i32.
    pub tokens: ValueId,
    /// `(vocab, hidden)`.
    pub table: WeightId,
    /// Factor on every element; 1 for most models.
    pub scale: f32,
}
