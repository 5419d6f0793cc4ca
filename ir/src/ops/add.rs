//! `llm.add`: `y = lhs + rhs`.
//!
//! ```mlir
//! %h = llm.add %x, %o : tensor<Tx4096xbf16>
//! ```

use super::{OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;

/// Elementwise sum of two tensors of the same dimensions. Element types may differ: a residual stream can be wider.
#[derive(Clone, Debug, PartialEq)]
pub struct Add {
    /// Any shape.
    pub lhs: ValueId,
    /// The same shape.
    pub rhs: ValueId,
}

impl OpDef for Add {
    const NAME: &'static str = "add";
    const ATTRS: &'static [&'static str] = &[];

    fn parts(&self) -> Parts {
        Parts { operands: vec![self.lhs, self.rhs], ..Parts::default() }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = Add { lhs: r.operand("lhs")?, rhs: r.operand("rhs")? };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.lhs, &mut self.rhs]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        Vec::new()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let lhs = check::float_operand(cx, self.lhs, "lhs")?;
        let rhs = check::float_operand(cx, self.rhs, "rhs")?;
        check::same_dims(lhs, "lhs", rhs, "rhs")?;
        check::same_dims(check::float_result(y, "the result")?, "the result", lhs, "lhs")
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let (lhs, rhs) = (cx.float(self.lhs)?, cx.float(self.rhs)?);
        let sum = lhs.data.iter().zip(&rhs.data).map(|(a, b)| a + b).collect();
        Ok(vec![cx.finish(0, lhs.rows(), sum)?])
    }
}
