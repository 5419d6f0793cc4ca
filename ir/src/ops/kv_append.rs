//! `llm.kv_append`: the cache with this step's keys and values stored at their positions.
//!
//! Keys and values are rounded to the cache's element type; in an e4m3 cache each head's are quantised.
//!
//! ```mlir
//! %kv0_1 = llm.kv_append %kv0, %k, %v, %batch : !llm.kv<layer 0, 8 heads, 128, bf16>
//! ```

use super::math::{append, cached};
use super::{OpDef, Parts, TypeCx, check, reader::Reader};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::types::Type;
use std::rc::Rc;

/// Stores keys and values; the cache is threaded as a value, so readers are ordered after it.
#[derive(Clone, Debug, PartialEq)]
pub struct KvAppend {
    /// The cache before.
    pub kv: ValueId,
    /// `(T, kv_heads, head_dim)`.
    pub k: ValueId,
    /// `(T, kv_heads, head_dim)`.
    pub v: ValueId,
    /// Which request each token belongs to.
    pub batch: ValueId,
}

impl OpDef for KvAppend {
    const NAME: &'static str = "kv_append";
    const ATTRS: &'static [&'static str] = &[];

    fn parts(&self) -> Parts {
        Parts { operands: vec![self.kv, self.k, self.v, self.batch], ..Parts::default() }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = KvAppend {
            kv: r.operand("the cache")?,
            k: r.operand("k")?,
            v: r.operand("v")?,
            batch: r.operand("the batch")?,
        };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.kv, &mut self.k, &mut self.v, &mut self.batch]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        Vec::new()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let kv = check::kv(cx, self.kv)?;
        check::batch(cx, self.batch)?;
        let k = check::float_operand(cx, self.k, "k")?;
        let v = check::float_operand(cx, self.v, "v")?;
        check::token_rows(k, "k")?;
        check::same_rows(k, "k", v, "v")?;
        check::same_elem(k, "k", v, "v")?;
        let width = u64::from(kv.heads) * u64::from(kv.head_dim);
        check::width_is(k, "k", width, &format!("the cache {kv}"))?;
        check::width_is(v, "v", width, &format!("the cache {kv}"))?;
        if y.kv() != Some(kv) {
            return Err(format!("the result is {y} but the cache is {kv}"));
        }
        Ok(())
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let (before, kv) = cx.kv(self.kv)?;
        let (k, v) = (cx.float(self.k)?, cx.float(self.v)?);
        let batch = cx.batch(self.batch, k.rows())?;
        let stored = |row: &[f32]| cached(row.to_vec(), kv);
        let rows = k.chunks(k.width()).zip(v.chunks(v.width()));
        let rows: Vec<_> =
            rows.map(|(k, v)| Ok::<_, String>((stored(k)?, stored(v)?))).collect::<Result<_, _>>()?;
        Ok(vec![Data::Kv(Rc::new(append(before, batch, rows.into_iter())?))])
    }
}
