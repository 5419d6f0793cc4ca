//! What the attention kernels compute, and what they have in common: constants, parameters, the scores' scale.
//!
//! `y = sum_p softmax_p(score(q . k_p)) v_p` over the positions that the token sees, `score(s) = scale s`, or
//! `cap tanh(scale s / cap)`. The cache is as in [`super::kv_append`]. Scores are in units of ln 2: powers of two
//! replace exponentials.

use super::ArgKind;
use super::kv_append::Pages;
use crate::builder::{Builder, F32, GlobalPtr, I8, I32, Val};
use std::f32::consts::LOG2_E;
use trtc_ir::DType;

/// Stands for no score: below all others, and finite, so that differences of it are no NaN.
pub(super) const NONE: f32 = -1e30;

/// Most query heads that share a key/value head, for kernels that count rows of heads in 32 bits.
const GROUP: u32 = 1024;

/// Constants of the op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Tokens in a page.
    pub page_tokens: u32,
    /// Positions that a token sees, itself included.
    pub window: Option<u32>,
    /// Factor on the scores.
    pub scale: f32,
    /// Bound of the scores.
    pub softcap: Option<f32>,
    /// What each head of q is rounded to before it is multiplied, times a power of two, and weights may be: e4m3.
    pub products: Option<DType>,
    /// Element type of q.
    pub q: DType,
    /// Element type of the cache.
    pub kv: DType,
    /// Element type of y.
    pub out: DType,
}

/// The batch and the cache, as parameters.
#[derive(Clone, Copy)]
pub(super) struct Paged<'b> {
    /// `(S + 1)`: first token of each request.
    pub(super) query_start: GlobalPtr<'b, I32>,
    /// `(S)`: tokens of each request, this step's included.
    pub(super) context: GlobalPtr<'b, I32>,
    /// `(S, table_width)`.
    block_table: GlobalPtr<'b, I32>,
    table_width: Val<'b, I32>,
    /// The pages.
    pub(super) cache: GlobalPtr<'b, I8>,
}

impl<'b> Paged<'b> {
    /// The next five parameters.
    pub(super) fn params(b: &'b Builder) -> Paged<'b> {
        Paged {
            query_start: b.param_ptr(),
            context: b.param_ptr(),
            block_table: b.param_ptr(),
            table_width: b.param(),
            cache: b.param_ptr(),
        }
    }

    /// The pages of a request.
    pub(super) fn table(&self, seq: Val<'b, I32>) -> GlobalPtr<'b, I32> {
        self.block_table.at64(seq.to_i64() * self.table_width.to_i64())
    }
}

impl Attention {
    /// Why no kernel serves these constants.
    pub(super) fn unsupported(&self) -> Option<String> {
        let Attention { heads, kv_heads, products, .. } = *self;
        if let Some(other) = products.filter(|dtype| *dtype != DType::F8E4M3) {
            return Some(format!("products of {other}: only e4m3 is served"));
        }
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Some(format!("{heads} query heads do not share {kv_heads} key/value heads evenly"));
        }
        if self.window == Some(0) {
            return Some("the window has no tokens".to_owned());
        }
        self.pages().unsupported()
    }

    /// The cache.
    pub(super) fn pages(&self) -> Pages {
        let Attention { kv_heads, head_dim, page_tokens, kv, .. } = *self;
        Pages { kv_heads, head_dim, page_tokens, kv }
    }

    /// Why kernels that multiply tiles on tensor cores do not serve these constants.
    pub(super) fn unsupported_by_tiles(&self) -> Option<String> {
        let Attention { head_dim, q, scale, .. } = *self;
        if head_dim == 0 || !head_dim.is_multiple_of(16) || head_dim > 256 {
            return Some(format!("heads of {head_dim} elements are not multiples of 16 up to 256"));
        }
        if q != DType::Bf16 {
            return Some(format!("queries of {q}: only bf16 is served"));
        }
        // The greatest score has to come from the greatest product.
        if scale.is_nan() || scale <= 0.0 {
            return Some(format!("scores are scaled by {scale}, which is not positive"));
        }
        if self.group() > GROUP {
            return Some(format!("{} query heads share a key/value head, above {GROUP}", self.group()));
        }
        self.unsupported()
    }

    /// Arguments: `[q, batch, kv, y]`; the batch is four parameters.
    pub(super) fn args() -> Vec<ArgKind> {
        vec![ArgKind::Pointer, ArgKind::Batch, ArgKind::Pointer, ArgKind::Pointer]
    }

    /// Whether queries are rounded.
    pub(super) fn rounds(&self) -> bool {
        self.products.is_some()
    }

    /// Query heads that share a key/value head.
    pub(super) fn group(&self) -> u32 {
        self.heads / self.kv_heads.max(1)
    }

    /// What `q . k` is multiplied by to become a score, or what [`Attention::capped`] makes a score of.
    pub(super) fn factor(&self) -> f32 {
        match self.softcap {
            None => self.scale * LOG2_E,
            Some(cap) => self.scale / cap,
        }
    }

    /// `cap tanh(s)` in units of ln 2, `tanh(s) = 1 - 2 / (1 + e^2s)`; without a cap the score as it is.
    pub(super) fn capped<'b>(&self, score: Val<'b, F32>) -> Val<'b, F32> {
        let Some(cap) = self.softcap else { return score };
        let b = score.builder();
        let e = (score * (2.0 * LOG2_E)).exp2();
        let tanh = b.value(1.0f32) - b.value(2.0f32).div_approx(e + 1.0f32);
        tanh * (cap * LOG2_E)
    }
}
