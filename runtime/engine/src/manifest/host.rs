//! Functions of the host device: part of the manifest.
//!
//! Plain data; the arguments that each takes are a table in `check/signature.rs`.

use super::{Count, Dtype};
use serde::{Deserialize, Serialize};

/// Functions of the host device, with their constants. Arguments are listed in the order of [`Launch::args`]. One in
/// [`Dtype::F8E4M3`] is two: elements `(count, width)`, then an f32 scale for each row, `(count)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HostKernel {
    /// `[Tokens, table, out]`: `out = scale * table[token]`.
    Embedding {
        /// Row width.
        width: u32,
        /// Factor.
        scale: f32,
        /// Element type of the result.
        out: Dtype,
    },
    /// `[x, weight, out]`: rows of `width`, `per_token` of them for each row of the step.
    RmsNorm {
        /// Row width.
        width: u32,
        /// Rows for each token.
        per_token: u32,
        /// Added to the mean of squares.
        eps: f32,
        /// Added to the weight.
        offset: f32,
        /// Counts rows.
        rows: Count,
        /// Element type of x.
        x: Dtype,
        /// Element type of the result.
        out: Dtype,
    },
    /// `[x, out]`: `out = x / scale` in e4m3, with `scale = max |x| / 448` of each row.
    Quantize {
        /// Row width.
        width: u32,
        /// Counts rows.
        rows: Count,
        /// Element type of x.
        x: Dtype,
    },
    /// `[x, residual, weight, h, n]`: `h = x + residual`, rounded to `h`'s type; `n = rms_norm(h)`.
    AddRmsNorm {
        /// Row width.
        width: u32,
        /// Added to the mean of squares.
        eps: f32,
        /// Added to the weight.
        offset: f32,
        /// Counts rows.
        rows: Count,
        /// Element type of x.
        x: Dtype,
        /// Element type of the residual.
        residual: Dtype,
        /// Element type of h.
        h: Dtype,
        /// Element type of n.
        out: Dtype,
    },
    /// `[x, weight, bias?, residual?, out]`: `out = x w^T + bias + residual`.
    Linear {
        /// Outputs.
        n: u32,
        /// Inputs.
        k: u32,
        /// Counts rows of x.
        rows: Count,
        /// True if there is a bias argument, f32.
        bias: bool,
        /// Element type of the residual argument, if there is one.
        residual: Option<Dtype>,
        /// Element type of x.
        x: Dtype,
        /// Element type of the result.
        out: Dtype,
    },
    /// `[x, out]`: columns `start..start + width` of rows of `of`.
    Slice {
        /// Width of a row of x.
        of: u32,
        /// First column.
        start: u32,
        /// Columns.
        width: u32,
        /// Element type.
        x: Dtype,
    },
    /// `[lhs, rhs, out]`.
    Add {
        /// Elements of a row.
        width: u32,
        /// Counts rows.
        rows: Count,
        /// Element type of lhs.
        lhs: Dtype,
        /// Element type of rhs.
        rhs: Dtype,
        /// Element type of the result.
        out: Dtype,
    },
    /// `[x, Positions, freqs, out]`.
    Rope {
        /// Heads.
        heads: u32,
        /// Elements of a head.
        head_dim: u32,
        /// Rotated elements of a head.
        dim: u32,
        /// Element type of x.
        x: Dtype,
        /// Element type of the result.
        out: Dtype,
    },
    /// `[k, v, Batch, Kv]`.
    KvAppend {
        /// Element type of k and v.
        x: Dtype,
    },
    /// `[qkv, Positions, freqs, q_norm?, k_norm?, Batch, Kv, q]`.
    RopeKvAppend {
        /// Query heads.
        heads: u32,
        /// Rotated elements of a head.
        dim: u32,
        /// Epsilon and offset of the query norm, if there is one.
        q_norm: Option<(f32, f32)>,
        /// Epsilon and offset of the key norm, if there is one.
        k_norm: Option<(f32, f32)>,
        /// Element type of qkv.
        x: Dtype,
        /// Element type of q.
        out: Dtype,
    },
    /// `[q, Batch, Kv, out]`.
    Attention {
        /// Query heads.
        heads: u32,
        /// Factor on the scores.
        scale: f32,
        /// `cap * tanh(score / cap)`.
        softcap: Option<f32>,
        /// What each head of q is rounded to before it is multiplied, times a power of two, and weights of an e4m3 cache's values:
        /// e4m3.
        products: Option<Dtype>,
        /// Element type of q.
        x: Dtype,
        /// Element type of the result.
        out: Dtype,
    },
    /// `[gate, up, out]`, or `[x, out]` with both halves in x.
    GatedAct {
        /// Elements of a row of the result.
        width: u32,
        /// The function.
        act: Act,
        /// True if gate and up are the halves of one argument.
        packed: bool,
        /// Counts rows.
        rows: Count,
        /// Element type of the arguments.
        x: Dtype,
        /// Element type of the result.
        out: Dtype,
    },
    /// `[tokens, last, out]`: `out = tokens`, or where one is negative `last[-1 - token]`.
    Feed {
        /// Entries of `last`.
        last: u32,
    },
    /// `[logits, Draws, Masks, token, logprob]`: a token for each row.
    Sample {
        /// Logits of a row.
        vocab: u32,
    },
    /// `[x, Rows, out]`.
    GatherRows {
        /// Elements of a row.
        width: u32,
        /// Element type.
        x: Dtype,
    },
}

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// Tanh form of GELU.
    GeluTanh,
}
