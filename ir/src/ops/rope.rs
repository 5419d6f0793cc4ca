//! `llm.rope`: rotary position embedding on split halves (GPT-NeoX order).
//!
//! `y[i] = x[i] cos a - x[i + dim/2] sin a`, `y[i + dim/2] = x[i + dim/2] cos a + x[i] sin a`, `a = pos * freq[i]`.
//!
//! ```mlir
//! %qr = llm.rope %q, %positions, @rope : tensor<Tx32x128xbf16>
//! ```

use super::math::rotate;
use super::{OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;

/// Rotates pairs `(i, i + dim/2)` of each head by `pos * freq[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `(T, heads, head_dim)`.
    pub x: ValueId,
    /// `(T)` i32.
    pub pos: ValueId,
    /// `(dim / 2)` f32 inverse frequencies; elements from `dim` on pass through.
    pub freqs: WeightId,
}

impl OpDef for Rope {
    const NAME: &'static str = "rope";
    const ATTRS: &'static [&'static str] = &[];

    fn parts(&self) -> Parts {
        Parts { operands: vec![self.x, self.pos], weights: vec![self.freqs], ..Parts::default() }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = Rope {
            x: r.operand("x")?,
            pos: r.operand("the positions")?,
            freqs: r.weight("the frequencies")?,
        };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.x, &mut self.pos]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        vec![&mut self.freqs]
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let x = check::float_operand(cx, self.x, "x")?;
        let (_, head_dim) = check::heads(x, "x")?;
        let pos = check::ints(cx, self.pos, "positions")?;
        if check::rows(x, "x")? != pos {
            return Err(format!("x is {x} but there are {pos} positions"));
        }
        check::freqs(cx, self.freqs, head_dim)?;
        let y = check::float_result(y, "the result")?;
        check::same_dims(y, "the result", x, "x")
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let (x, pos) = (cx.float(self.x)?, cx.ints(self.pos)?);
        let freqs = cx.weight(self.freqs)?;
        let head_dim = x.dims.last().copied().unwrap_or(1).max(1);
        let mut out = x.data.clone();
        for (token, &pos) in out.chunks_exact_mut(x.width().max(1)).zip(pos) {
            for head in token.chunks_exact_mut(head_dim) {
                rotate(head, pos, &freqs.data);
            }
        }
        Ok(vec![cx.finish(0, x.rows(), out)?])
    }
}
