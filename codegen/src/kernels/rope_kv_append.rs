//! Splits a merged q/k/v, norms query and key heads if asked, rotates them, stores queries densely and keys and values
//! into the paged cache.
//!
//! Heads and their units are those of [`super::rope`], the cache is that of [`super::kv_append`]. One block a token.

use super::kv_append::{Batch, Pages};
use super::rope::{Half, Heads, Unit};
use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Bf16, Builder, F32, FloatPtr, GlobalPtr, I1, I8, I32, Ptr, Space, Special, Val};
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

/// The parameters before the batch.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'b> {
    qkv: FloatPtr<'b>,
    pub(super) by: Turns<'b>,
}

/// What heads are normed and turned by.
#[derive(Clone, Copy)]
pub(super) struct Turns<'b> {
    pub(super) positions: GlobalPtr<'b, I32>,
    pub(super) freqs: GlobalPtr<'b, F32>,
    /// Of queries, of keys.
    pub(super) norms: [Option<(HeadNorm, FloatPtr<'b>)>; 2],
}

/// The parameters behind qkv.
#[derive(Clone, Copy)]
pub(super) struct Behind<'b> {
    pub(super) rope: RopeKvAppend,
    pub(super) by: Turns<'b>,
    pub(super) batch: Batch<'b>,
    pub(super) cache: GlobalPtr<'b, I8>,
    /// `(T, heads * head_dim)`.
    pub(super) q: FloatPtr<'b>,
}

/// What a head of a row of qkv is.
#[derive(Clone, Copy)]
pub(super) struct Kind<'b> {
    /// Whether it is a query.
    pub(super) is_query: Val<'b, I1>,
    /// Whether it is a value; what is neither is a key.
    pub(super) is_value: Val<'b, I1>,
}

/// A unit of a head on its way to where it is stored, unrounded.
pub(super) struct Turned<'b> {
    pub(super) halves: [Half<'b>; 2],
    pub(super) kind: Kind<'b>,
}

impl RopeKvAppend {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        if self.out != DType::Bf16 {
            return Some(format!("q of {}: only bf16 is served", self.out));
        }
        self.pages().unsupported().or_else(|| self.all_heads().unsupported())
    }

    pub(super) fn pages(&self) -> Pages {
        let RopeKvAppend { kv_heads, head_dim, page_tokens, kv, .. } = *self;
        Pages { kv_heads, head_dim, page_tokens, kv }
    }

    /// Heads of a row of qkv.
    pub(super) fn all_heads(&self) -> Heads {
        let count = self.heads.saturating_add(self.kv_heads.saturating_mul(2));
        Heads { count, head_dim: self.head_dim, dim: self.dim }
    }

    /// Arguments: `[qkv, positions, freqs, q_norm?, k_norm?, batch, kv, q]`; the batch is four parameters.
    pub(super) fn args(&self) -> Vec<ArgKind> {
        [vec![ArgKind::Pointer], self.args_behind()].concat()
    }

    /// Those behind qkv.
    pub(super) fn args_behind(&self) -> Vec<ArgKind> {
        let norms = usize::from(self.q_norm.is_some()) + usize::from(self.k_norm.is_some());
        let mut args = vec![ArgKind::Pointer; 2 + norms];
        args.extend([ArgKind::Batch, ArgKind::Pointer, ArgKind::Pointer]);
        args
    }

    /// The parameters before the batch.
    pub(super) fn inputs<'b>(&self, b: &'b Builder) -> Inputs<'b> {
        Inputs { qkv: b.param_floats(self.x), by: self.turns(b) }
    }

    fn turns<'b>(&self, b: &'b Builder) -> Turns<'b> {
        Turns {
            positions: b.param_ptr(),
            freqs: b.param_const(),
            norms: [self.q_norm, self.k_norm].map(|n| n.map(|n| (n, b.param_const_floats(n.weight)))),
        }
    }

    /// The parameters behind qkv.
    pub(super) fn behind<'b>(&self, b: &'b Builder) -> Behind<'b> {
        Behind {
            rope: *self,
            by: self.turns(b),
            batch: Batch::param(b),
            cache: b.param_ptr(),
            q: b.param_floats(self.out),
        }
    }

    /// Geometry. Arguments: [`RopeKvAppend::args`].
    pub fn launch(&self) -> Launch {
        let grid = grid_of(Extent { of: Count::Tokens, div: 1, plus: None, mul: 1 });
        Launch::new(grid, self.all_heads().threads(), self.args())
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let qkv = b.param_floats(self.x);
        let Behind { by, batch, cache, q, .. } = self.behind(b);
        let inputs = Inputs { qkv, by };
        let dims = b.param_dims_early();

        // Positions and tables are there before a step's first launch, and no launch writes them.
        let token = b.special(Special::BlockX);
        let position = by.positions.at(token).load();
        let seq = batch.request(b, token, dims);
        let head_dim = self.head_dim;
        let slot = batch.slot(self.pages(), seq, position);

        let heads = self.all_heads();
        let unit = heads.unit(b);
        let rotation = unit.rotation(by.freqs, position);
        b.after_grids();

        let qkv = self.row(&inputs, token);
        let q = q.at64(token.to_i64() * i64::from(self.heads * head_dim));
        // Every lane takes part in the reductions.
        for group in heads.rounds(b) {
            let head = group.number;
            let Turned { halves, kind } = self.turned(b, &inputs, qkv, unit, rotation, head);
            let Kind { is_query, is_value } = kind;
            let (in_cache, scale) = slot.of(cache, is_value, self.kv_head(head, kind));
            let stores = unit.active & group.exists;
            let query = q.at(head * head_dim).bytes();
            if !self.pages().scaled() {
                b.if_(stores, || store_head(b, is_query.select(query, in_cache), unit.at, halves, None));
                continue;
            }
            let by = self.scale(b, halves);
            b.if_(stores & is_query, || store_head(b, query, unit.at, halves, None));
            b.if_(stores & !is_query, || {
                store_head(b, in_cache, unit.at, halves, Some(by));
                b.if_(unit.at[0].eq(0), || scale.store(by[0]));
            });
        }
    }

    /// What head `head` of a row of qkv is.
    pub(super) fn kind<'b>(&self, b: &'b Builder, head: Val<'b, I32>) -> Kind<'b> {
        Kind { is_query: head.lt(self.heads), is_value: b.value(self.heads + self.kv_heads).le(head) }
    }

    /// Its number among keys or among values, if it is one.
    pub(super) fn kv_head<'b>(&self, head: Val<'b, I32>, kind: Kind<'b>) -> Val<'b, I32> {
        kind.is_value.select(head - (self.heads + self.kv_heads), head - self.heads)
    }

    /// The row of a token.
    pub(super) fn row<'b>(&self, inputs: &Inputs<'b>, token: Val<'b, I32>) -> FloatPtr<'b> {
        inputs.qkv.at64(token.to_i64() * i64::from(self.all_heads().count * self.head_dim))
    }

    /// This lane's unit of head `head` of a row of qkv: a query or key after norm and rotation, or a value as it is. All
    /// lanes of the head take part.
    pub(super) fn turned<'b>(
        &self,
        b: &'b Builder,
        inputs: &Inputs<'b>,
        qkv: FloatPtr<'b>,
        unit: Unit<'b>,
        rotation: [Half<'b>; 2],
        head: Val<'b, I32>,
    ) -> Turned<'b> {
        let kind = self.kind(b, head);
        let Kind { is_query, is_value } = kind;
        let source = qkv.at(head * self.head_dim);
        let given = unit.at.map(|at| source.at(at).load());
        let normed = self.norm(b, given, unit.at, unit.active, is_query, inputs.by.norms);
        let turned = unit.turn(rotation, normed);
        let halves = [0, 1].map(|h: usize| -> Half<'b> {
            std::array::from_fn(|i| is_value.select(given[h][i], turned[h][i]))
        });
        Turned { halves, kind }
    }

    /// The scale of a head in e4m3, and its inverse. All lanes of the head take part.
    pub(super) fn scale<'b>(&self, b: &'b Builder, [lo, hi]: [Half<'b>; 2]) -> [Val<'b, F32>; 2] {
        let amax = lo.iter().chain(&hi).fold(b.value(0.0f32), |max, v| max.max(v.abs()));
        b.e4m3_scale(b.max_lanes(amax, self.all_heads().lanes()))
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

/// Stores a lane's unit of a head that begins at `to`: bf16, or codes where there is a scale with its inverse.
pub(super) fn store_head<'b, S: Space>(
    b: &'b Builder,
    to: Val<'b, Ptr<S, I8>>,
    at: [Val<'b, I32>; 2],
    halves: [Half<'b>; 2],
    by: Option<[Val<'b, F32>; 2]>,
) {
    for (at, half) in at.into_iter().zip(halves) {
        match by {
            None => to.cast::<Bf16>().at(at).store_vector(b.vector(half).to_bf16()),
            Some(by) => to.at_bytes(at).cast().store_vector(b.e4m3_codes(half, by)),
        }
    }
}
