//! `llm.gather_rows`: `y[l] = x[rows[l]]`, the rows for which logits are wanted.
//!
//! ```mlir
//! %last = llm.gather_rows %x, %rows : tensor<Lx4096xbf16>
//! ```

use super::{OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;

/// Picks rows.
#[derive(Clone, Debug, PartialEq)]
pub struct GatherRows {
    /// `(T, ...)`.
    pub x: ValueId,
    /// `(L)` i32, each below the number of rows.
    pub rows: ValueId,
}

impl OpDef for GatherRows {
    const NAME: &'static str = "gather_rows";
    const ATTRS: &'static [&'static str] = &[];

    fn parts(&self) -> Parts {
        Parts { operands: vec![self.x, self.rows], ..Parts::default() }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = GatherRows { x: r.operand("x")?, rows: r.operand("the rows")? };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.x, &mut self.rows]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        Vec::new()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let x = check::float_operand(cx, self.x, "x")?;
        let rows = check::ints(cx, self.rows, "rows")?;
        let y = check::float_result(y, "the result")?;
        check::same_elem(y, "the result", x, "x")?;
        if check::rows(y, "the result")? != rows || y.dims[1..] != x.dims[1..] {
            return Err(format!("x is {x}, so {rows} rows of it cannot be {y}"));
        }
        Ok(())
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let (x, rows) = (cx.float(self.x)?, cx.ints(self.rows)?);
        let mut out = Vec::with_capacity(rows.len() * x.width());
        for &row in rows {
            let Some(r) = usize::try_from(row).ok().filter(|r| *r < x.rows()) else {
                return Err(format!("row {row} is not below the {} rows of x", x.rows()));
            };
            out.extend_from_slice(&x.data[r * x.width()..(r + 1) * x.width()]);
        }
        Ok(vec![cx.finish(0, rows.len(), out)?])
    }
}
