//! `llm.rms_norm`: `y = x / sqrt(mean(x^2) + eps) * (w + offset)` over the last dimension.

use crate::entity::{ValueId, WeightId};

/// The learned part of a norm: what fused ops carry of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNormWeight {
    /// `(width)`.
    pub weight: WeightId,
    /// Added to the mean of squares.
    pub eps: f32,
    /// Added to the weight: 0, or 1 where the model stores `w - 1`.
    pub offset: f32,
}

/// Root-mean-square norm over the last dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// `(T, ..., width)`.
    pub x: ValueId,
    /// The learned part.
    pub norm: RmsNormWeight,
}
