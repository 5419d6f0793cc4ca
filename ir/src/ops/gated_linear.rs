//! `llm.gated_linear`: `y = act(x Wg^T + bg) * (x Wu^T + bu)`, the matrix `(2 width, in)` being Wg above Wu.
//!
//! The fused form of a linear and `llm.gated_act_packed`, rounded once.
//!
//! ```mlir
//! %s = llm.gated_linear %n, @l0.mlp.gate_up {act = silu} : tensor<Tx14336xbf16>
//! ```

use super::math::{dot, gated};
use super::{Attr, OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::ops::Act;
use crate::types::Type;

/// Matrix product whose two halves make a gated activation.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedLinear {
    /// `(rows, in)`, rows symbolic.
    pub x: ValueId,
    /// `(2 width, in)`: gate, then up.
    pub weight: WeightId,
    /// `(2 width)`.
    pub bias: Option<WeightId>,
    /// The function.
    pub act: Act,
}

impl OpDef for GatedLinear {
    const NAME: &'static str = "gated_linear";
    const ATTRS: &'static [&'static str] = &["act", "bias"];

    fn parts(&self) -> Parts {
        let mut attrs = vec![("act", Attr::Word(self.act.name().to_owned()))];
        attrs.extend(self.bias.map(|b| ("bias", Attr::Weight(b))));
        Parts { operands: vec![self.x], weights: vec![self.weight], attrs }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = GatedLinear {
            x: r.operand("x")?,
            weight: r.weight("the matrix")?,
            bias: r.optional_weight_attr("bias")?,
            act: Act::parse(&r.word("act")?)?,
        };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.x]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        std::iter::once(&mut self.weight).chain(&mut self.bias).collect()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let (x, out) = check::product(cx, self.x, self.weight, self.bias)?;
        let y = check::float_result(y, "the result")?;
        check::same_rows(y, "the result", x, "x")?;
        if out % 2 != 0 {
            return Err(format!("the matrix has {out} outputs, which do not split into two halves"));
        }
        check::width_is(y, "the result", out / 2, "half of the matrix's outputs")
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let x = cx.float(self.x)?;
        let weight = cx.weight(self.weight)?;
        let bias = self.bias.map(|b| cx.weight(b)).transpose()?;
        let half = weight.rows() / 2;
        let rows: Vec<&[f32]> = weight.chunks(weight.width()).collect();
        let mut out = Vec::with_capacity(x.rows() * half);
        for x in x.chunks(x.width()) {
            let output = |o: usize| dot(x, rows[o]) + bias.as_ref().map_or(0.0, |b| b.data[o]);
            out.extend((0..half).map(|o| gated(self.act, output(o), output(o + half))));
        }
        Ok(vec![cx.finish(0, x.rows(), out)?])
    }
}
