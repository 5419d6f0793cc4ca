//! `llm.embedding`: rows of a table, `y[t] = scale * w[tokens[t]]`.
//!
//! ```mlir
//! %x = llm.embedding %tokens, @embed : tensor<Tx4096xbf16>
//! %x = llm.embedding %tokens, @embed {scale = 25.298222} : tensor<Tx640xbf16>
//! ```

use super::{Attr, OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;

/// Looks tokens up in the embedding table.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `(T)` i32.
    pub tokens: ValueId,
    /// `(vocab, hidden)`.
    pub table: WeightId,
    /// Factor on every element; 1 for most models.
    pub scale: f32,
}

impl OpDef for Embedding {
    const NAME: &'static str = "embedding";
    const ATTRS: &'static [&'static str] = &["scale"];

    fn parts(&self) -> Parts {
        let attrs = if self.scale == 1.0 { Vec::new() } else { vec![("scale", Attr::F32(self.scale))] };
        Parts { operands: vec![self.tokens], weights: vec![self.table], attrs }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = Embedding {
            tokens: r.operand("the tokens")?,
            table: r.weight("the table")?,
            scale: r.optional_f32("scale")?.unwrap_or(1.0),
        };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.tokens]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        vec![&mut self.table]
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let tokens = check::ints(cx, self.tokens, "tokens")?;
        let (_, hidden) = check::matrix(cx, self.table)?;
        let y = check::float_result(y, "the result")?;
        if check::rows(y, "the result")? != tokens {
            return Err(format!("the result is {y} but there are {tokens} tokens"));
        }
        check::width_is(y, "the result", hidden, &format!("weight @{}", cx.weight(self.table).name))?;
        check::finite(self.scale, "scale")
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let tokens = cx.ints(self.tokens)?;
        let table = cx.weight(self.table)?;
        let (vocab, width) = (table.rows(), table.width());
        let mut out = Vec::with_capacity(tokens.len() * width);
        for &token in tokens {
            let Some(row) = usize::try_from(token).ok().filter(|t| *t < vocab) else {
                return Err(format!("token {token} is not below the {vocab} rows of the table"));
            };
            out.extend(table.data[row * width..(row + 1) * width].iter().map(|w| w * self.scale));
        }
        Ok(vec![cx.finish(0, tokens.len(), out)?])
    }
}
