//! `llm.rms_norm`: `y = x / sqrt(mean(x^2) + eps) * (w + offset)` over the last dimension.
//!
//! ```mlir
//! %n = llm.rms_norm %x, @l0.attn.norm {eps = 1e-5} : tensor<Tx4096xbf16>
//! %n = llm.rms_norm %q, @l0.attn.q_norm {eps = 1e-6, offset = 1.0} : tensor<Tx4x256xbf16>
//! ```

use super::math::Norm;
use super::reader::{Reader, push_offset};
use super::{Attr, OpDef, Parts, TypeCx, check};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;

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

impl OpDef for RmsNorm {
    const NAME: &'static str = "rms_norm";
    const ATTRS: &'static [&'static str] = &["eps", "offset"];

    fn parts(&self) -> Parts {
        let mut attrs = vec![("eps", Attr::F32(self.norm.eps))];
        push_offset(&mut attrs, "offset", self.norm.offset);
        Parts { operands: vec![self.x], weights: vec![self.norm.weight], attrs }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = RmsNorm { x: r.operand("x")?, norm: r.norm()? };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.x]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        vec![&mut self.norm.weight]
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let x = check::float_operand(cx, self.x, "x")?;
        check::same_dims(check::stored_result(y, "the result")?, "the result", x, "x")?;
        check::norm(cx, &self.norm, check::last(x, "x")?, "x")
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let x = cx.float(self.x)?;
        let norm = Norm::load(cx, &self.norm)?;
        let width = x.dims.last().copied().unwrap_or(1);
        let out = x.chunks(width).flat_map(|row| norm.row(row)).collect();
        Ok(vec![cx.finish(0, x.rows(), out)?])
    }
}
