//! `llm.slice`: columns `start..start + width` of a tensor whose inner dimensions are flattened.
//!
//! ```mlir
//! %k = llm.slice %qkv {start = 4096} : tensor<Tx8x128xbf16>
//! ```

use super::{Attr, OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;

/// A run of columns; the result type says how many, and how they split into dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// `(rows, ...)`.
    pub x: ValueId,
    /// First column.
    pub start: u64,
}

impl OpDef for Slice {
    const NAME: &'static str = "slice";
    const ATTRS: &'static [&'static str] = &["start"];

    fn parts(&self) -> Parts {
        let start = i64::try_from(self.start).unwrap_or(i64::MAX);
        Parts { operands: vec![self.x], weights: Vec::new(), attrs: vec![("start", Attr::Int(start))] }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = Slice { x: r.operand("x")?, start: r.int("start")? };
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
        let y = check::float_result(y, "the result")?;
        check::same_rows(y, "the result", x, "x")?;
        check::same_elem(y, "the result", x, "x")?;
        let (of, width) = (check::width(x, "x")?, check::width(y, "the result")?);
        match self.start.checked_add(width) {
            Some(end) if end <= of => Ok(()),
            _ => Err(format!("{width} columns from {} on do not lie in x, which is {x}", self.start)),
        }
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let x = cx.float(self.x)?;
        let width =
            cx.result_type(0)?.tensor().and_then(|t| t.width()).ok_or("the result must be a tensor")?;
        let columns = self.start as usize..self.start as usize + width as usize;
        let mut out = Vec::with_capacity(x.rows() * width as usize);
        for row in x.chunks(x.width()) {
            out.extend_from_slice(row.get(columns.clone()).ok_or("the columns do not lie in x")?);
        }
        Ok(vec![cx.finish(0, x.rows(), out)?])
    }
}
