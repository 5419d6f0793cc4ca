//! `llm.linear`: `y = x w^T + bias + residual`, all dimensions of x but the first flattened.
//!
//! The result's inner dimensions may split the outputs: `(rows, heads, head_dim)` with `heads * head_dim = out`.
//! Bias and residual are added before the one rounding.
//!
//! ```mlir
//! %q = llm.linear %n, @l0.attn.q {bias = @l0.attn.q.bias} : tensor<Tx32x128xbf16>
//! %h = llm.linear %a, %x, @l0.attn.o : tensor<Tx4096xbf16>  // %x is the residual
//! ```

use super::math::dot;
use super::{Attr, OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;

/// Matrix product with a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `(rows, in)`, rows symbolic; floats, or quantised.
    pub x: ValueId,
    /// `(out, in)`.
    pub weight: WeightId,
    /// `(out)`.
    pub bias: Option<WeightId>,
    /// `(rows, out)`, added in the epilogue.
    pub residual: Option<ValueId>,
}

impl OpDef for Linear {
    const NAME: &'static str = "linear";
    const ATTRS: &'static [&'static str] = &["bias"];

    fn parts(&self) -> Parts {
        Parts {
            operands: std::iter::once(self.x).chain(self.residual).collect(),
            weights: vec![self.weight],
            attrs: self.bias.map(|b| ("bias", Attr::Weight(b))).into_iter().collect(),
        }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = Linear {
            x: r.operand("x")?,
            residual: r.optional_operand(),
            weight: r.weight("the matrix")?,
            bias: r.optional_weight_attr("bias")?,
        };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        std::iter::once(&mut self.x).chain(&mut self.residual).collect()
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        std::iter::once(&mut self.weight).chain(&mut self.bias).collect()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let (x, out) = check::product(cx, self.x, self.weight, self.bias)?;
        let w = cx.weight(self.weight);
        let weight = format!("weight @{} ({})", w.name, w.ty);
        let y = check::float_result(y, "the result")?;
        check::same_rows(y, "the result", x, "x")?;
        check::width_is(y, "the result", out, &weight)?;
        if let Some(residual) = self.residual {
            let residual = check::float_operand(cx, residual, "the residual")?;
            check::same_rows(residual, "the residual", x, "x")?;
            check::width_is(residual, "the residual", out, &weight)?;
        }
        Ok(())
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let x = cx.float(self.x)?;
        let weight = cx.weight(self.weight)?;
        let bias = self.bias.map(|b| cx.weight(b)).transpose()?;
        let residual = self.residual.map(|r| cx.float(r)).transpose()?;
        let (rows, n) = (x.rows(), weight.rows());
        let mut out = vec![0f32; rows * n];
        // Weight rows outermost: each is read once, and the activations stay near.
        for (o, w) in weight.chunks(weight.width()).enumerate() {
            for (r, x) in x.chunks(x.width()).enumerate() {
                let at = r * n + o;
                let y = dot(x, w) + bias.as_ref().map_or(0.0, |b| b.data[o]);
                out[at] = y + residual.map_or(0.0, |r| r.data[at]);
            }
        }
        Ok(vec![cx.finish(0, rows, out)?])
    }
}
