//! `llm.rope_kv_append`: splits a merged q/k/v, norms and rotates q and k, stores k and v in the cache.
//!
//! Nothing is rounded between the parts: q is rounded to its result's type, k and v to the cache's, each once;
//! in an e4m3 cache each head's key and value is quantised.
//!
//! ```mlir
//! %q, %kv0_1 = llm.rope_kv_append %qkv, %positions, %kv0, %batch, @rope
//!     {heads = 32, q_norm = @l0.attn.q_norm, q_eps = 1e-6, k_norm = @l0.attn.k_norm, k_eps = 1e-6}
//!     : tensor<Tx32x128xbf16>, !llm.kv<layer 0, 8 heads, 128, bf16>
//! ```

use super::math::{Norm, append, cached, rotate};
use super::reader::{Reader, push_offset};
use super::{Attr, OpDef, Parts, TypeCx, check};
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::ops::RmsNormWeight;
use crate::types::{Dim, Type};
use std::rc::Rc;

/// The fused form of slices, per-head norms, `llm.rope` and `llm.kv_append`; results are `(q, kv)`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeKvAppend {
    /// `(T, (heads + 2 kv_heads) * head_dim)`: queries, keys, values.
    pub qkv: ValueId,
    /// `(T)` i32.
    pub pos: ValueId,
    /// The cache before; its type has kv_heads and head_dim.
    pub kv: ValueId,
    /// Which request each token belongs to.
    pub batch: ValueId,
    /// Query heads.
    pub heads: u32,
    /// `(dim / 2)` f32 inverse frequencies.
    pub freqs: WeightId,
    /// Norm of each query head.
    pub q_norm: Option<RmsNormWeight>,
    /// Norm of each key head.
    pub k_norm: Option<RmsNormWeight>,
}

/// Names of the norms' attributes: weight, epsilon, offset.
const Q_NORM: [&str; 3] = ["q_norm", "q_eps", "q_offset"];
const K_NORM: [&str; 3] = ["k_norm", "k_eps", "k_offset"];

impl OpDef for RopeKvAppend {
    const NAME: &'static str = "rope_kv_append";
    const ATTRS: &'static [&'static str] =
        &["heads", Q_NORM[0], Q_NORM[1], Q_NORM[2], K_NORM[0], K_NORM[1], K_NORM[2]];

    fn parts(&self) -> Parts {
        let mut attrs = vec![("heads", Attr::Int(i64::from(self.heads)))];
        for (norm, [weight, eps, offset]) in [(&self.q_norm, Q_NORM), (&self.k_norm, K_NORM)] {
            if let Some(norm) = norm {
                attrs.extend([(weight, Attr::Weight(norm.weight)), (eps, Attr::F32(norm.eps))]);
                push_offset(&mut attrs, offset, norm.offset);
            }
        }
        Parts { operands: vec![self.qkv, self.pos, self.kv, self.batch], weights: vec![self.freqs], attrs }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = RopeKvAppend {
            qkv: r.operand("qkv")?,
            pos: r.operand("the positions")?,
            kv: r.operand("the cache")?,
            batch: r.operand("the batch")?,
            heads: r.int("heads")?,
            freqs: r.weight("the frequencies")?,
            q_norm: r.optional_norm(Q_NORM)?,
            k_norm: r.optional_norm(K_NORM)?,
        };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.qkv, &mut self.pos, &mut self.kv, &mut self.batch]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        let norms = self.q_norm.iter_mut().chain(&mut self.k_norm).map(|n| &mut n.weight);
        std::iter::once(&mut self.freqs).chain(norms).collect()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [q, kv_after] = check::results(results)?;
        let qkv = check::float_operand(cx, self.qkv, "qkv")?;
        check::token_rows(qkv, "qkv")?;
        let kv = check::kv(cx, self.kv)?;
        check::batch(cx, self.batch)?;
        let (heads, head_dim) = (u64::from(self.heads), u64::from(kv.head_dim));
        if heads == 0 || kv.heads == 0 || !heads.is_multiple_of(u64::from(kv.heads)) {
            return Err(format!("{heads} query heads are not a multiple of those of the cache {kv}"));
        }
        let width = (u128::from(heads) + 2 * u128::from(kv.heads)) * u128::from(head_dim);
        let width = u64::try_from(width).map_err(|_| format!("the heads of {kv} are too large"))?;
        check::width_is(qkv, "qkv", width, &format!("{heads} query heads over the cache {kv}"))?;
        let pos = check::ints(cx, self.pos, "positions")?;
        if check::rows(qkv, "qkv")? != pos {
            return Err(format!("qkv is {qkv} but there are {pos} positions"));
        }
        let q = check::float_result(q, "q")?;
        check::same_rows(q, "q", qkv, "qkv")?;
        if q.dims.get(1..) != Some(&[Dim::Const(heads), Dim::Const(head_dim)]) {
            return Err(format!("q must be (tokens, {heads}, {head_dim}), found {q}"));
        }
        if kv_after.kv() != Some(kv) {
            return Err(format!("the second result is {kv_after} but the cache is {kv}"));
        }
        check::freqs(cx, self.freqs, head_dim)?;
        for (norm, what) in [(&self.q_norm, "q"), (&self.k_norm, "k")] {
            if let Some(norm) = norm {
                check::norm(cx, norm, head_dim, what)?;
            }
        }
        Ok(())
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let (qkv, pos) = (cx.float(self.qkv)?, cx.ints(self.pos)?);
        let (before, kv) = cx.kv(self.kv)?;
        let batch = cx.batch(self.batch, qkv.rows())?;
        let freqs = cx.weight(self.freqs)?;
        let q_norm = self.q_norm.as_ref().map(|n| Norm::load(cx, n)).transpose()?;
        let k_norm = self.k_norm.as_ref().map(|n| Norm::load(cx, n)).transpose()?;
        let head_dim = kv.head_dim as usize;
        let (q_width, kv_width) = (self.heads as usize * head_dim, kv.heads as usize * head_dim);

        let turned = |row: &[f32], norm: &Option<Norm>, pos: i32| -> Vec<f32> {
            let mut out = Vec::with_capacity(row.len());
            for head in row.chunks_exact(head_dim.max(1)) {
                let mut head = norm.as_ref().map_or_else(|| head.to_vec(), |n| n.row(head));
                rotate(&mut head, pos, &freqs.data);
                out.extend(head);
            }
            out
        };

        let mut q_out = Vec::with_capacity(qkv.rows() * q_width);
        let mut rows = Vec::with_capacity(qkv.rows());
        for (row, &pos) in qkv.chunks(qkv.width()).zip(pos) {
            let (q, rest) = row.split_at(q_width);
            let (k, v) = rest.split_at(kv_width);
            q_out.extend(turned(q, &q_norm, pos));
            rows.push((cached(turned(k, &k_norm, pos), kv)?, cached(v.to_vec(), kv)?));
        }
        let q = cx.finish(0, qkv.rows(), q_out)?;
        Ok(vec![q, Data::Kv(Rc::new(append(before, batch, rows.into_iter())?))])
    }
}
