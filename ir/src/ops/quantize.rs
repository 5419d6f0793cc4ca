//! `llm.quantize`: each row of x, all dimensions but the first flattened, in the quantised type of the result.
//!
//! ```mlir
//! %q = llm.quantize %n : tensor<Tx4096x!quant<f8E4M3FN:f32, token>>
//! ```

use super::{OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;

/// A cast of floats to a quantised type.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantize {
    /// `(rows, ...)`.
    pub x: ValueId,
}

impl OpDef for Quantize {
    const NAME: &'static str = "quantize";
    const ATTRS: &'static [&'static str] = &[];

    fn parts(&self) -> Parts {
        Parts { operands: vec![self.x], ..Parts::default() }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = Quantize { x: r.operand("x")? };
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
        if y.elem.plain().is_some() {
            return Err(format!("the result must be quantised, found {y}"));
        }
        check::same_rows(y, "the result", x, "x")?;
        check::width_is(y, "the result", check::width(x, "x")?, "a row of x")
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let x = cx.float(self.x)?;
        Ok(vec![cx.finish(0, x.rows(), x.data.clone())?])
    }
}
