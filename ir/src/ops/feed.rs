//! `llm.feed`: `y[t] = tokens[t]`, or where that is negative `last[-1 - tokens[t]]`: tokens that the step before has
//! chosen and the host has not seen yet.
//!
//! ```mlir
//! %ids = llm.feed %tokens, %last : tensor<Txi32>
//! ```

use super::{OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::{Dim, Type};

/// Token ids of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Feed {
    /// `(T)` i32: ids, or -1 less the row of `last` that has the id.
    pub tokens: ValueId,
    /// i32, as many as a step has rows of logits at most.
    pub last: ValueId,
}

impl OpDef for Feed {
    const NAME: &'static str = "feed";
    const ATTRS: &'static [&'static str] = &[];

    fn parts(&self) -> Parts {
        Parts { operands: vec![self.tokens, self.last], ..Parts::default() }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = Feed { tokens: r.operand("the tokens")?, last: r.operand("the last tokens")? };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.tokens, &mut self.last]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        Vec::new()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let tokens = check::ints(cx, self.tokens, "tokens")?;
        match check::ints(cx, self.last, "the last tokens")? {
            Dim::Const(_) => {}
            Dim::Sym(s) => return Err(format!("the last tokens must be a known number, found {s}")),
        }
        check::ints_result(y, "the result", tokens)
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let last = cx.ints(self.last)?;
        let one = |&id: &i32| match usize::try_from(-1 - i64::from(id)) {
            Err(_) => Ok(id),
            Ok(row) => last.get(row).copied().ok_or_else(|| {
                format!("token {id} stands for row {row}, the step before had {}", last.len())
            }),
        };
        Ok(vec![Data::Int(cx.ints(self.tokens)?.iter().map(one).collect::<Result<_, String>>()?)])
    }
}
