//! `llm.attention`: causal softmax attention of each query over its request's cache.
//!
//! A query at position `p` sees the keys at `0..=p`, or with a window `w` those at `p - w + 1..=p`. Query head `h`
//! reads key/value head `h / (heads / kv_heads)`. The result is `(T, heads, head_dim)` or `(T, heads * head_dim)`. With `products`
//! each head of each token's q is rounded before it is multiplied: to e4m3 times a power of two that its elements share, as
//! `quant/power.rs` defines it. Weights of values of an e4m3 cache may be rounded to e4m3 then, so that a product is one of codes: each,
//! by itself or times its value's scale, by 2^-4 of that or 2^-18 of the greatest of its row, at most. Evaluation does not round them.
//!
//! ```mlir
//! %a = llm.attention %q, %kv, %batch {scale = 0.088388346} : tensor<Tx4096xbf16>
//! ```

use super::math::dot;
use super::{Attr, OpDef, Parts, TypeCx, check, reader::Reader};
use crate::dtype::DType;
use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::quant::round_row;
use crate::types::Type;

/// `softmax(scale * q k^T) v`, grouped-query, causal, within the window of the cache's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// `(T, heads, head_dim)`.
    pub q: ValueId,
    /// The cache, this step's tokens included.
    pub kv: ValueId,
    /// Which request each token belongs to.
    pub batch: ValueId,
    /// Factor on the scores.
    pub scale: f32,
    /// If set, scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// If set, what each head of q is rounded to, times a power of two, and weights may be: e4m3.
    pub products: Option<DType>,
}

impl OpDef for Attention {
    const NAME: &'static str = "attention";
    const ATTRS: &'static [&'static str] = &["scale", "softcap", "products"];

    fn parts(&self) -> Parts {
        let mut attrs = vec![("scale", Attr::F32(self.scale))];
        attrs.extend(self.softcap.map(|cap| ("softcap", Attr::F32(cap))));
        attrs.extend(self.products.map(|dtype| ("products", Attr::Word(dtype.name().to_owned()))));
        Parts { operands: vec![self.q, self.kv, self.batch], weights: Vec::new(), attrs }
    }

    fn from_parts(parts: Parts) -> Result<Self, String> {
        let mut r = Reader::new(Self::NAME, parts);
        let op = Attention {
            q: r.operand("q")?,
            kv: r.operand("the cache")?,
            batch: r.operand("the batch")?,
            scale: r.f32("scale")?,
            softcap: r.optional_f32("softcap")?,
            products: r.optional_dtype("products")?,
        };
        r.finish().map(|()| op)
    }

    fn operands_mut(&mut self) -> Vec<&mut ValueId> {
        vec![&mut self.q, &mut self.kv, &mut self.batch]
    }

    fn weights_mut(&mut self) -> Vec<&mut WeightId> {
        Vec::new()
    }

    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
        let [y] = check::results(results)?;
        let q = check::float_operand(cx, self.q, "q")?;
        check::token_rows(q, "q")?;
        let kv = check::kv(cx, self.kv)?;
        check::batch(cx, self.batch)?;
        let (heads, head_dim) = check::heads(q, "q")?;
        if head_dim != u64::from(kv.head_dim) {
            return Err(format!("q is {q} but the cache {kv} has heads of {}", kv.head_dim));
        }
        if kv.heads == 0 || heads == 0 || !heads.is_multiple_of(u64::from(kv.heads)) {
            return Err(format!("q is {q}, whose heads are not a multiple of those of the cache {kv}"));
        }
        let y = check::stored_result(y, "the result")?;
        check::same_rows(y, "the result", q, "q")?;
        let flat = y.dims.len() == 2 && y.width() == q.width();
        if !flat && y.dims != q.dims {
            return Err(format!(
                "q is {q}, so the result must have its dimensions or be flattened, found {y}"
            ));
        }
        check::finite(self.scale, "scale")?;
        if let Some(other) = self.products.filter(|dtype| *dtype != DType::F8E4M3) {
            return Err(format!("attribute 'products' must be {}, found {other}", DType::F8E4M3));
        }
        match self.softcap {
            Some(cap) if !(cap > 0.0 && cap.is_finite()) => {
                Err(format!("attribute 'softcap' must be positive and finite, found {cap}"))
            }
            _ => Ok(()),
        }
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
        let q = cx.float(self.q)?;
        let (cache, kv) = cx.kv(self.kv)?;
        let batch = cx.batch(self.batch, q.rows())?;
        let (kv_heads, dim) = (kv.heads as usize, kv.head_dim as usize);
        let group = (q.width() / dim.max(1) / kv_heads.max(1)).max(1);
        let mut out = Vec::with_capacity(q.data.len());
        let mut tokens = q.chunks(q.width());
        for s in &batch.segments {
            let seq = cache.seqs.get(&s.seq).map(Vec::as_slice).unwrap_or_default();
            for (i, token) in tokens.by_ref().take(s.len).enumerate() {
                let position = s.start + i;
                let first = kv.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
                let Some(seen) = seq.get(first..=position) else {
                    let held = seq.len();
                    return Err(format!(
                        "request {} is at position {position} but its cache holds {held} tokens",
                        s.seq
                    ));
                };
                for (h, q) in token.chunks_exact(dim.max(1)).enumerate() {
                    let mut q = q.to_vec();
                    if self.products.is_some() {
                        round_row(&mut q);
                    }
                    let columns = (h / group) * dim..(h / group + 1) * dim;
                    out.extend(self.head(
                        &q,
                        seen.iter().map(|(k, v)| (&k[columns.clone()], &v[columns.clone()])),
                        dim,
                    ));
                }
            }
        }
        Ok(vec![cx.finish(0, q.rows(), out)?])
    }
}

impl Attention {
    /// `sum_j softmax_j(scale * q k_j) v_j` over the keys and values that a query sees.
    fn head<'k>(
        &self,
        q: &[f32],
        seen: impl Iterator<Item = (&'k [f32], &'k [f32])> + Clone,
        dim: usize,
    ) -> Vec<f32> {
        let score = |k: &[f32]| {
            let s = self.scale * dot(q, k);
            self.softcap.map_or(s, |cap| cap * (s / cap).tanh())
        };
        let scores: Vec<f32> = seen.clone().map(|(k, _)| score(k)).collect();
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        let mut sum = vec![0f32; dim];
        for (s, (_, v)) in scores.iter().zip(seen) {
            let p = (s - max).exp();
            total += p;
            for (sum, v) in sum.iter_mut().zip(v) {
                *sum += p * v;
            }
        }
        sum.iter().map(|x| x / total).collect()
    }
}
