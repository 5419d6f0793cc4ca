//! `llm.add_rms_norm`: `h = x + r; n = rms_norm(h)`, the fused form of `llm.add` and `llm.rms_norm`.
//!
//! `h` is rounded to its type before the norm reads it.
//!
//! ```mlir
//! %h, %n = llm.add_rms_norm %x, %o, @l0.mlp.norm {eps = 1e-5} : tensor<Tx4096xbf16>, tensor<Tx4096xbf16>
//! ```

use super::math::Norm;
use super::reader::{Reader, push_offset};
use super::{Attr, OpDef, Parts, TypeCx, check};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::ops::RmsNormWeight;
use crate::types::Type;

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

impl OpDef for AddRmsNorm {
    const NAME: &'static str = "add_rms_norm";
    const ATTRS: &'static [&'static str] = &["eps", "offset"];

    fn parts(&self) -> Parts {
        let mut attrs = vec![("eps", Attr::F32(self.norm.eps))];
        push_offset(&mut attrs, "offset", self.norm.offset);
        Parts { operands: vec![self.x, self.residual], weights: vec![self.norm.weight], attrs }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = AddRmsNorm { x: r.operand("x")?, residual: r.operand("the residual")?, norm: r.norm()? };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.x, &mut self.residual]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        vec![&mut self.norm.weight]
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [h, n] = check::results(results)?;
        let x = check::float_operand(cx, self.x, "x")?;
        let residual = check::float_operand(cx, self.residual, "the residual")?;
        check::same_dims(x, "x", residual, "the residual")?;
        check::same_dims(check::float_result(h, "the sum")?, "the sum", x, "x")?;
        check::same_dims(check::stored_result(n, "the norm's result")?, "the norm's result", x, "x")?;
        check::norm(cx, &self.norm, check::last(x, "x")?, "x")
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let (x, residual) = (cx.float(self.x)?, cx.float(self.residual)?);
        let norm = Norm::load(cx, &self.norm)?;
        let sum = x.data.iter().zip(&residual.data).map(|(a, b)| a + b).collect();
        let h = cx.finish(0, x.rows(), sum)?;
        let Data::Float(rounded) = &h else {
            return Err("the sum is not a tensor".into());
        };
        let width = rounded.dims.last().copied().unwrap_or(1);
        let n = rounded.chunks(width).flat_map(|row| norm.row(row)).collect();
        let n = cx.finish(1, x.rows(), n)?;
        Ok(vec![h, n])
    }
}
