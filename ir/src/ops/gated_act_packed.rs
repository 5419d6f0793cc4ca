//! `llm.gated_act_packed`: `y = act(x[:, :w]) * x[:, w:]`, the fused form of `llm.gated_act`.
//!
//! ```mlir
//! %s = llm.gated_act_packed %gate_up {act = silu} : tensor<Tx14336xbf16>
//! ```

use super::math::gated;
use super::{Attr, OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::ops::Act;
use crate::types::Type;

/// Gated activation of the two halves of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedActPacked {
    /// `(T, 2 width)`: gate, then up.
    pub x: ValueId,
    /// The function.
    pub act: Act,
}

impl OpDef for GatedActPacked {
    const NAME: &'static str = "gated_act_packed";
    const ATTRS: &'static [&'static str] = &["act"];

    fn parts(&self) -> Parts {
        let attrs = vec![("act", Attr::Word(self.act.name().to_owned()))];
        Parts { operands: vec![self.x], weights: Vec::new(), attrs }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = GatedActPacked { x: r.operand("x")?, act: Act::parse(&r.word("act")?)? };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.x]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        Vec::new()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let x = check::float_operand(cx, self.x, "x")?;
        let y = check::stored_result(y, "the result")?;
        check::same_rows(y, "the result", x, "x")?;
        let width = check::width(x, "x")?;
        if width % 2 != 0 {
            return Err(format!("x is {x}, which does not split into two halves"));
        }
        check::width_is(y, "the result", width / 2, "half of x")
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let x = cx.float(self.x)?;
        let half = x.width() / 2;
        let mut out = Vec::with_capacity(x.data.len() / 2);
        for row in x.chunks(x.width()) {
            let (gate, up) = row.split_at(half);
            out.extend(gate.iter().zip(up).map(|(g, u)| gated(self.act, *g, *u)));
        }
        Ok(vec![cx.finish(0, x.rows(), out)?])
    }
}
