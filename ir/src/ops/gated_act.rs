//! `llm.gated_act`: `y = act(gate) * up`.
//!
//! ```mlir
//! %s = llm.gated_act %gate, %up {act = silu} : tensor<Tx14336xbf16>
//! ```

use super::math::gated;
use super::{Attr, OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;

/// The activation function of a gated feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`.
    GeluTanh,
}

/// Gated activation of two tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedAct {
    /// `(T, width)`.
    pub gate: ValueId,
    /// `(T, width)`.
    pub up: ValueId,
    /// The function.
    pub act: Act,
}

impl Act {
    /// Names in the text form.
    const NAMES: [(Act, &'static str); 2] = [(Act::Silu, "silu"), (Act::GeluTanh, "gelu_tanh")];

    /// Name in the text form: `silu`, `gelu_tanh`.
    pub fn name(self) -> &'static str {
        Act::NAMES[self as usize].1
    }

    /// The function that is called `name`; the error lists them all.
    pub fn parse(name: &str) -> Result<Act, String> {
        Act::NAMES.iter().find(|(_, n)| *n == name).map(|(a, _)| *a).ok_or_else(|| {
            let known: Vec<_> = Act::NAMES.iter().map(|(_, n)| *n).collect();
            format!("there is no activation '{name}'; there are {}", known.join(", "))
        })
    }
}

impl OpDef for GatedAct {
    const NAME: &'static str = "gated_act";
    const ATTRS: &'static [&'static str] = &["act"];

    fn parts(&self) -> Parts {
        let attrs = vec![("act", Attr::Word(self.act.name().to_owned()))];
        Parts { operands: vec![self.gate, self.up], weights: Vec::new(), attrs }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op =
            GatedAct { gate: r.operand("gate")?, up: r.operand("up")?, act: Act::parse(&r.word("act")?)? };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.gate, &mut self.up]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        Vec::new()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let gate = check::float_operand(cx, self.gate, "gate")?;
        let up = check::float_operand(cx, self.up, "up")?;
        check::same_dims(gate, "gate", up, "up")?;
        check::same_elem(gate, "gate", up, "up")?;
        check::same_dims(check::stored_result(y, "the result")?, "the result", gate, "gate")
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let (gate, up) = (cx.float(self.gate)?, cx.float(self.up)?);
        let out = gate.data.iter().zip(&up.data).map(|(g, u)| gated(self.act, *g, *u)).collect();
        Ok(vec![cx.finish(0, gate.rows(), out)?])
    }
}
