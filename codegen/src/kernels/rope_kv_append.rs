//! Splits a merged q/k/v, norms query and key heads if asked, rotates them, stores queries densely and keys and values
//! into the paged cache.
//!
//! Heads and their units are those of [`super::rope`], the cache is that of [`super::kv_append`]. One block a token.

use super::kv_append::{Batch, Pages};
use super::rope::{Half, Heads};
use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Bf16, Builder, F32, FloatPtr, GlobalPtr, I1, I8, I32, Special, Val};
use trtc_ir::DType;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeKvAppend {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Rotated elements of a head.
    pub dim: u32,
    /// Tokens in a page.
    pub page_tokens: u32,
    /// Norm of query heads.
    pub q_norm: Option<HeadNorm>,
    /// Norm of key heads.
    pub k_norm: Option<HeadNorm>,
    /// Element type of qkv.
    pub x: DType,
    /// Element type of the cache.
    pub kv: DType,
    /// Element type of q.
    pub out: DType,
}

/// Norm of a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNorm {
    /// Element type of the weight.
    pub weight: DType,
    /// Added to the mean of squares.
    pub eps: f32,
    /// Added to the weight.
    pub offset: f32,
}

impl RopeKvAppend {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        if self.out != DType::Bf16 {
            return Some(format!("q of {}: only bf16 is served", self.out));
        }
        self.pages().unsupported().or_else(|| self.all_heads().unsupported())
    }

    fn pages(&self) -> Pages {
        let RopeKvAppend { kv_heads, head_dim, page_tokens, kv, .. } = *self;
        Pages { kv_heads, head_dim, page_tokens, kv }
    }

    /// Heads of a row of qkv.
    fn all_heads(&self) -> Heads {
        let count = self.heads.saturating_add(self.kv_heads.saturating_mul(2));
        Heads { count, head_dim: self.head_dim, dim: self.dim }
    }

    /// Geometry. Arguments: `[qkv, positions, freqs, q_norm?, k_norm?, batch, kv, q]`; the batch is four parameters.
    pub fn launch(&self) -> Launch {
        let norms = usize::from(self.q_norm.is_some()) + usize::from(self.k_norm.is_some());
        let mut args = vec![ArgKind::Pointer; 3 + norms];
        args.extend([ArgKind::Batch, ArgKind::Pointer, ArgKind::Pointer]);
        let grid = grid_of(Extent { of: Count::Tokens, div: 1, plus: None, mul: 1 });
        Launch::new(grid, self.all_heads().threads(), args)
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let qkv = b.param_floats(self.x);
        let positions = b.param_ptr::<I32>();
        let freqs = b.param_const::<F32>();
        let q_norm = self.q_norm.map(|n| (n, b.param_const_floats(n.weight)));
        let k_norm = self.k_norm.map(|n| (n, b.param_const_floats(n.weight)));
        let batch = Batch::param(b);
        let cache = b.param_ptr::<I8>();
        let q = b.param_ptr::<Bf16>();
        let dims = b.param_dims_early();

        // Positions and tables are there before a step's first launch, and no launch writes them.
        let token = b.special(Special::BlockX);
        let position = positions.at(token).load();
        let seq = batch.request(b, token, dims);
        let RopeKvAppend { kv_heads, head_dim, .. } = *self;
        let slot = batch.slot(self.pages(), seq, position);

        let heads = self.all_heads();
        let unit = heads.unit(b);
        let rotation = unit.rotation(freqs, position);
        let [low, high] = unit.at;
        b.after_grids();

        let qkv = qkv.at64(token.to_i64() * i64::from(heads.count * head_dim));
        let q = q.at64(token.to_i64() * i64::from(self.heads * head_dim));
        // Every lane takes part in the reductions.
        for group in heads.rounds(b) {
            let head = group.number;
            let is_query = head.lt(self.heads);
            let is_value = b.value(self.heads + kv_heads).le(head);

            let source = qkv.at(head * head_dim);
            let (lo, hi) = (source.at(low).load(), source.at(high).load());
            let normed = self.norm(b, [lo, hi], unit.at, unit.active, is_query, [q_norm, k_norm]);
            let [rlo, rhi] = unit.turn(rotation, normed);
            let out_lo: Half<'_> = std::array::from_fn(|i| is_value.select(lo[i], rlo[i]));
            let out_hi: Half<'_> = std::array::from_fn(|i| is_value.select(hi[i], rhi[i]));

            let kv_head = is_value.select(head - (self.heads + kv_heads), head - self.heads);
            let (in_cache, scale) = slot.of(cache, is_value, kv_head);
            let stores = unit.active & group.exists;
            let query = q.at(head * head_dim);
            let store = |to: GlobalPtr<'_, Bf16>| {
                to.at(low).store_vector(b.vector(out_lo).to_bf16());
                to.at(high).store_vector(b.vector(out_hi).to_bf16());
            };
            if !self.pages().scaled() {
                b.if_(stores, || store(is_query.select(query, in_cache.cast())));
                continue;
            }
            let amax = out_lo.iter().chain(&out_hi).fold(b.value(0.0f32), |max, v| max.max(v.abs()));
            let by = b.e4m3_scale(b.max_lanes(amax, heads.lanes()));
            b.if_(stores & is_query, || store(query));
            b.if_(stores & !is_query, || {
                in_cache.at_bytes(low).cast().store_vector(b.e4m3_codes(out_lo, by));
                in_cache.at_bytes(high).cast().store_vector(b.e4m3_codes(out_hi, by));
                b.if_(low.eq(0), || scale.store(by[0]));
            });
        }
    }

    /// The halves after the norm of their head, if it has one. All lanes take part.
    fn norm<'b>(
        &self,
        b: &'b Builder,
        [lo, hi]: [Half<'b>; 2],
        at: [Val<'b, I32>; 2],
        active_lane: Val<'b, I1>,
        is_query: Val<'b, I1>,
        norms: [Option<(HeadNorm, FloatPtr<'b>)>; 2],
    ) -> [Half<'b>; 2] {
        if norms.iter().all(Option::is_none) {
            return [lo, hi];
        }
        let squares = lo.iter().chain(&hi).fold(b.value(0.0f32), |s, &e| e.fma(e, s));
        let squares = active_lane.select(squares, 0.0f32);
        let mean = b.sum_lanes(squares, self.all_heads().lanes()) * (1.0 / self.head_dim as f32);
        // Factors of each element: 1 for heads without a norm.
        let factors = norms.map(|norm| {
            let (n, weight) = norm?;
            let scale = (mean + n.eps).rsqrt();
            Some(at.map(|a| {
                let w: Half<'b> = weight.at(a).load();
                w.map(|w| if n.offset == 0.0 { w * scale } else { (w + n.offset) * scale })
            }))
        });
        let of = |norm: Option<[Half<'b>; 2]>, half: usize, i: usize| match norm {
            Some(f) => f[half][i],
            None => b.value(1.0f32),
        };
        let scaled = |half: usize, v: Half<'b>| -> Half<'b> {
            std::array::from_fn(|i| v[i] * is_query.select(of(factors[0], half, i), of(factors[1], half, i)))
        };
        [scaled(0, lo), scaled(1, hi)]
    }
}
