//! Splits a merged q/k/v, norms query and key heads if asked, rotates them, stores queries densely and keys and values
//! into the paged cache.
//!
//! For a head `h` of `head_dim` elements, rotated in its first `dim`, and `a = pos * freq[i]`, `i < dim / 2`:
//! `lo' = lo cos a - hi sin a`, `hi' = hi cos a + lo sin a` with `lo = h[i]`, `hi = h[i + dim / 2]`.
//!
//! The cache is `(pages, 2, kv_heads, page_tokens, head_dim)` bf16, keys first. Token t of request s at position p lies
//! in page `block_table[s, p / page_tokens]`, slot `p % page_tokens`.
//!
//! One block a token. A head is cut into units of 16 elements: 8 and their 8 partners half a rotation on, or 16
//! elements behind the rotated ones. A group of adjacent lanes, one for each unit, serves one head.

use super::{ArgKind, Count, Extent, Launch, grid_of, request_of};
use crate::builder::{Bf16, Builder, F32, FloatPtr, GlobalPtr, I1, I32, Special, Val};
use trtc_ir::DType;

/// Elements of a vector access.
const VEC: u32 = 8;
/// Elements of a unit.
const UNIT: u32 = 2 * VEC;
/// Most threads of a block.
const THREADS: u32 = 512;
/// Most heads, queries, keys and values together: rounds over them are unrolled.
const HEADS: u32 = 1024;

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

/// Half a unit.
type Half<'b> = [Val<'b, F32>; VEC as usize];

impl RopeKvAppend {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let RopeKvAppend { head_dim, dim, .. } = *self;
        if dim == 0 || !head_dim.is_multiple_of(UNIT) || !dim.is_multiple_of(UNIT) || dim > head_dim {
            return Some(format!(
                "heads of {head_dim} elements with {dim} rotated are not positive multiples of {UNIT}"
            ));
        }
        if self.all_heads() > HEADS {
            return Some(format!("{} heads are above {HEADS}", self.all_heads()));
        }
        if head_dim > UNIT * 32 {
            return Some(format!("heads of {head_dim} elements are above {}", UNIT * 32));
        }
        if self.page_tokens == 0 {
            return Some("pages have no tokens".to_owned());
        }
        if (self.x, self.kv, self.out) != (DType::Bf16, DType::Bf16, DType::Bf16) {
            return Some(format!("qkv {}, cache {}, q {}: only bf16 is served", self.x, self.kv, self.out));
        }
        None
    }

    fn units(&self) -> u32 {
        self.head_dim / UNIT
    }

    /// Lanes that serve a head.
    fn lanes(&self) -> u32 {
        self.units().next_power_of_two()
    }

    /// Heads of a row of qkv.
    fn all_heads(&self) -> u32 {
        self.heads.saturating_add(self.kv_heads.saturating_mul(2))
    }

    fn threads(&self) -> u32 {
        (self.all_heads() * self.lanes()).next_multiple_of(32).min(THREADS)
    }

    /// Geometry. Arguments: `[qkv, positions, freqs, q_norm?, k_norm?, batch, kv, q]`; the batch is four parameters.
    pub fn launch(&self) -> Launch {
        let norms = usize::from(self.q_norm.is_some()) + usize::from(self.k_norm.is_some());
        let mut args = vec![ArgKind::Pointer; 3 + norms];
        args.extend([ArgKind::Batch, ArgKind::Pointer, ArgKind::Pointer]);
        let grid = grid_of(Extent { of: Count::Tokens, div: 1, mul: 1 });
        Launch { grid, block: [self.threads(), 1, 1], args, scratch: None }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let qkv = b.param_floats(self.x);
        let positions = b.param_ptr::<I32>();
        let freqs = b.param_const::<F32>();
        let q_norm = self.q_norm.map(|n| (n, b.param_const_floats(n.weight)));
        let k_norm = self.k_norm.map(|n| (n, b.param_const_floats(n.weight)));
        let query_start = b.param_ptr::<I32>();
        let _context = b.param_ptr::<I32>();
        let block_table = b.param_ptr::<I32>();
        let table_width = b.param::<I32>();
        let cache = b.param_ptr::<Bf16>();
        let q = b.param_ptr::<Bf16>();
        let dims = b.param_dims();

        let token = b.special(Special::BlockX);
        let thread = b.special(Special::ThreadX);
        let position = positions.at(token).load();
        let seq = request_of(b, token, query_start, dims.seqs);
        let table = block_table.at64(seq.to_i64() * table_width.to_i64());
        let page = table.at(position / self.page_tokens).load();
        let slot = position % self.page_tokens;

        // Lane -> unit: where its halves lie in a head, and whether they are rotated.
        let lane = thread & (self.lanes() as i32 - 1);
        let unit = lane.min(self.units() - 1);
        let active_lane = if self.lanes() == self.units() { b.value(true) } else { lane.lt(self.units()) };
        let turning = self.dim / UNIT;
        let turns = if turning == self.units() { b.value(true) } else { unit.lt(turning) };
        // unit * 8 and its partner dim / 2 on, or 16 elements behind the rotated ones.
        let behind = (unit - turning) * UNIT + self.dim;
        let low = turns.select(unit * VEC, behind);
        let high = turns.select(unit * VEC + self.dim / 2, behind + VEC);

        let (cos, sin) = self.rotation(freqs, turns.select(unit * VEC, 0), position);

        let qkv = qkv.at64(token.to_i64() * i64::from(self.all_heads() * self.head_dim));
        let q = q.at64(token.to_i64() * i64::from(self.heads * self.head_dim));
        let groups = self.threads() / self.lanes();
        for round in 0..self.all_heads().div_ceil(groups) {
            // Every lane takes part in the reduction; a group without a head reads the last one and stores nothing.
            let wanted = thread / self.lanes() + round * groups;
            let head = wanted.min(self.all_heads() - 1);
            let active = active_lane & wanted.lt(self.all_heads());
            let is_query = head.lt(self.heads);
            let is_value = b.value(self.heads + self.kv_heads).le(head);

            let source = qkv.at(head * self.head_dim);
            let lo: Half<'_> = source.at(low).load();
            let hi: Half<'_> = source.at(high).load();
            let (nlo, nhi) = self.norm(b, [lo, hi], [low, high], active_lane, is_query, [q_norm, k_norm]);
            let turned_lo = |i: usize| nlo[i].fma(cos[i], -(nhi[i] * sin[i]));
            let turned_hi = |i: usize| nhi[i].fma(cos[i], nlo[i] * sin[i]);
            let rlo: Half<'_> = std::array::from_fn(|i| turns.select(turned_lo(i), nlo[i]));
            let rhi: Half<'_> = std::array::from_fn(|i| turns.select(turned_hi(i), nhi[i]));
            let out_lo: Half<'_> = std::array::from_fn(|i| is_value.select(lo[i], rlo[i]));
            let out_hi: Half<'_> = std::array::from_fn(|i| is_value.select(hi[i], rhi[i]));

            // ((page * 2 + is_value) * kv_heads + kv_head) * page_tokens + slot, in rows of head_dim.
            let kv_head = is_value.select(head - (self.heads + self.kv_heads), head - self.heads);
            let plane = page.to_i64() * 2i64 + is_value.select(1i64, 0i64);
            let row = (plane * i64::from(self.kv_heads) + kv_head.to_i64()) * i64::from(self.page_tokens)
                + slot.to_i64();
            let in_cache = cache.at64(row * i64::from(self.head_dim));
            let to: GlobalPtr<'_, Bf16> = is_query.select(q.at(head * self.head_dim), in_cache);
            b.if_(active, || {
                to.at(low).store_vector(b.vector(out_lo).to_bf16());
                to.at(high).store_vector(b.vector(out_hi).to_bf16());
            });
        }
    }

    /// Cosines and sines of `position * freqs[i]`, `i` from `first` on.
    ///
    /// `sin.approx` and `cos.approx` are good to 2^-20.5 in -pi..pi only. The angle is brought there by subtracting
    /// `n = round(angle / 2 pi)` turns, 2 pi in three parts: `n * TURN[0]` is cancelled exactly by the first fma, the
    /// others add what f32 lacks, so the error stays below 2^-22 for angles up to 10^6.
    fn rotation<'b>(
        &self,
        freqs: GlobalPtr<'b, F32>,
        first: Val<'b, I32>,
        position: Val<'b, I32>,
    ) -> (Half<'b>, Half<'b>) {
        /// 2 pi = 6.2831855 - 1.7484555e-7 - ...
        const TURN: [f32; 2] = [6.283_185_5, -1.748_455_5e-7];
        let position = position.to_f32();
        let frequency = freqs.at(first).load_vector::<{ VEC as usize }>().elements();
        let angle = frequency.map(|f| {
            let angle = position * f;
            let turns = -(angle * (1.0 / std::f32::consts::TAU)).round_even();
            turns.fma(TURN[1], turns.fma(TURN[0], angle))
        });
        (angle.map(Val::cos_approx), angle.map(Val::sin_approx))
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
    ) -> (Half<'b>, Half<'b>) {
        if norms.iter().all(Option::is_none) {
            return (lo, hi);
        }
        let squares = lo.iter().chain(&hi).fold(b.value(0.0f32), |s, &e| e.fma(e, s));
        let squares = active_lane.select(squares, 0.0f32);
        let mean = b.sum_lanes(squares, self.lanes()) * (1.0 / self.head_dim as f32);
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
        (scaled(0, lo), scaled(1, hi))
    }
}
