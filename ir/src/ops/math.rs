//! Row functions that several ops' reference semantics share. All in f32; only [`cached`] rounds.

use crate::interp::{Batch, EvalCx, KvRow, KvState, Tensor};
use crate::numerics::round;
use crate::ops::{Act, RmsNormWeight};
use crate::quant::round_rows;
use crate::types::KvType;
use std::rc::Rc;

/// Sum of products, in 16 interleaved partial sums: as obvious as one sum, more exact, and it vectorises.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a.zip(b) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// A norm with its weight loaded.
pub(super) struct Norm {
    weight: Rc<Tensor>,
    eps: f32,
    offset: f32,
}

impl Norm {
    pub(super) fn load(cx: &EvalCx<'_>, norm: &RmsNormWeight) -> Result<Norm, String> {
        Ok(Norm { weight: cx.weight(norm.weight)?, eps: norm.eps, offset: norm.offset })
    }

    /// `x / sqrt(mean(x^2) + eps) * (w + offset)`.
    pub(super) fn row(&self, x: &[f32]) -> Vec<f32> {
        let mean = dot(x, x) / x.len() as f32;
        let inverse = 1.0 / (mean + self.eps).sqrt();
        x.iter().zip(&self.weight.data).map(|(x, w)| x * inverse * (w + self.offset)).collect()
    }
}

/// Rotates the pairs `(i, i + dim/2)` of one head by `pos * freq[i]`, `dim` twice the table's length.
pub(super) fn rotate(head: &mut [f32], pos: i32, freqs: &[f32]) {
    let half = freqs.len();
    for (i, &freq) in freqs.iter().enumerate() {
        // The angle is an f32, as in the reference implementations; its sine and cosine are rounded once.
        let (sin, cos) = f64::from(pos as f32 * freq).sin_cos();
        let (sin, cos) = (sin as f32, cos as f32);
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos - b * sin;
        head[i + half] = b * cos + a * sin;
    }
}

/// `act(gate) * up`.
pub(super) fn gated(act: Act, gate: f32, up: f32) -> f32 {
    let activated = match act {
        Act::Silu => gate / (1.0 + (-gate).exp()),
        Act::GeluTanh => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (gate + 0.044715 * gate * gate * gate);
            0.5 * gate * (1.0 + inner.tanh())
        }
    };
    activated * up
}

/// What is left of a row of keys or values, `(heads, head_dim)`, in a cache: rounded, or each head quantised.
pub(super) fn cached(mut row: Vec<f32>, kv: &KvType) -> Result<Vec<f32>, String> {
    match kv.scheme() {
        Some(scheme) => round_rows(&mut row, kv.head_dim as usize, scheme).map_err(|e| e.to_string())?,
        None => row.iter_mut().for_each(|x| *x = round(*x, kv.dtype)),
    }
    Ok(row)
}

/// The cache with one more row of keys and values for each token of the batch.
pub(super) fn append<'r>(
    before: &KvState,
    batch: &Batch,
    mut rows: impl Iterator<Item = KvRow> + 'r,
) -> Result<KvState, String> {
    let mut kv = before.clone();
    for s in &batch.segments {
        let seq = kv.seqs.entry(s.seq).or_default();
        if seq.len() != s.start {
            return Err(format!(
                "request {} continues at position {} but its cache holds {} tokens",
                s.seq,
                s.start,
                seq.len()
            ));
        }
        seq.extend(rows.by_ref().take(s.len));
    }
    Ok(kv)
}
