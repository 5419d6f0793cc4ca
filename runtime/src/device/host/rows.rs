//! Kernels that work row by row: embedding, norms, sums, gated activations, slices and picked rows.
//!
//! A row's result depends on that row alone. Few rows are done on the caller's thread.

use super::elem::{Elem, fma, gelu_tanh, silu, sum_by};
use super::isa::{Isa, per_isa};
use super::linear::{Source, unpack::gather_row};
use super::memory::Shards;
use super::pool::Pool;
use crate::error::Error;
use trtc_engine::manifest::Act;

/// Elements for which a second thread is worth its wake-up.
const GRAIN: usize = 8192;

/// Calls `f(row)` for every row, on several threads if there is enough to do.
fn each_row(pool: &mut Pool, rows: usize, width: usize, f: impl Fn(usize) + Sync) -> Result<(), Error> {
    pool.split(rows, (GRAIN / width.max(1)).max(1), &|_, range| range.for_each(&f))
}

/// Calls `f(row, out's row)` for every row of `out`.
fn fill_rows<O: Elem>(
    pool: &mut Pool,
    width: usize,
    out: &mut [O],
    f: impl Fn(usize, &mut [O]) + Sync,
) -> Result<(), Error> {
    let rows = out.len() / width.max(1);
    let out = Shards::new(out);
    // SAFETY: rows do not overlap.
    each_row(pool, rows, width, |i| {
        // SAFETY: each row is given to one call, and rows do not overlap.
        let row = unsafe { out.part(i * width..(i + 1) * width) };
        f(i, row)
    })
}

/// `out[t] = scale * table[tokens[t]]`; the tokens have been checked.
pub fn embedding<O: Elem>(
    pool: &mut Pool,
    isa: Isa,
    tokens: &[i32],
    table: &Source<'_>,
    width: usize,
    scale: f32,
    out: &mut [O],
) -> Result<(), Error> {
    fill_rows(pool, width, out, |t, out| gather_row(isa, table, width, tokens[t] as usize, scale, out))
}

/// The learned part of a norm.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// `(width)`.
    pub weight: &'a [f32],
    /// Added to the mean of squares.
    pub eps: f32,
    /// Added to the weight.
    pub offset: f32,
}

impl Norm<'_> {
    /// `1 / sqrt(mean(x^2) + eps)`.
    #[inline(always)]
    pub fn inverse<const FMA: bool, X: Elem>(&self, x: &[X]) -> f32 {
        let squares = sum_by(x, |sum, v| fma::<FMA>(v, v, sum));
        1.0 / (squares / x.len() as f32 + self.eps).sqrt()
    }

    /// The `i`-th factor.
    #[inline(always)]
    pub fn factor(&self, i: usize) -> f32 {
        self.weight[i] + self.offset
    }
}

per_isa! {
    /// `out = x / sqrt(mean(x^2) + eps) * (w + offset)` of one row.
    fn norm_row<X: Elem, O: Elem>(x: &[X], norm: &Norm<'_>, out: &mut [O]) = norm_body
}

#[inline(always)]
fn norm_body<const FMA: bool, X: Elem, O: Elem>(x: &[X], norm: &Norm<'_>, out: &mut [O]) {
    let inverse = norm.inverse::<FMA, X>(x);
    for ((o, v), w) in out.iter_mut().zip(x).zip(norm.weight) {
        *o = O::put(v.get() * inverse * (w + norm.offset));
    }
}

/// Root-mean-square norm of rows as long as the weight.
pub fn rms_norm<X: Elem, O: Elem>(
    pool: &mut Pool,
    isa: Isa,
    x: &[X],
    norm: Norm<'_>,
    out: &mut [O],
) -> Result<(), Error> {
    let width = norm.weight.len();
    fill_rows(pool, width, out, |i, out| norm_row(isa, &x[i * width..(i + 1) * width], &norm, out))
}

per_isa! {
    /// `out = lhs + rhs`.
    fn add_row<L: Elem, R: Elem, O: Elem>(lhs: &[L], rhs: &[R], out: &mut [O]) = add_body
}

#[inline(always)]
fn add_body<const FMA: bool, L: Elem, R: Elem, O: Elem>(lhs: &[L], rhs: &[R], out: &mut [O]) {
    for ((o, l), r) in out.iter_mut().zip(lhs).zip(rhs) {
        *o = O::put(l.get() + r.get());
    }
}

/// Elementwise sum.
pub fn add<L: Elem, R: Elem, O: Elem>(
    pool: &mut Pool,
    isa: Isa,
    width: usize,
    lhs: &[L],
    rhs: &[R],
    out: &mut [O],
) -> Result<(), Error> {
    fill_rows(pool, width, out, |i, out| {
        let row = i * width..(i + 1) * width;
        add_row(isa, &lhs[row.clone()], &rhs[row], out);
    })
}

/// `h = x + residual`, rounded; `out = rms_norm(h)`.
#[allow(clippy::too_many_arguments, reason = "the kernel's operands one by one")]
pub fn add_rms_norm<X: Elem, R: Elem, H: Elem, O: Elem>(
    pool: &mut Pool,
    isa: Isa,
    x: &[X],
    residual: &[R],
    norm: Norm<'_>,
    h: &mut [H],
    out: &mut [O],
) -> Result<(), Error> {
    let width = norm.weight.len();
    let h = Shards::new(h);
    fill_rows(pool, width, out, |i, out| {
        let row = i * width..(i + 1) * width;
        // SAFETY: rows do not overlap.
        let h = unsafe { h.part(row.clone()) };
        add_row(isa, &x[row.clone()], &residual[row], h);
        norm_row(isa, h, &norm, out);
    })
}

per_isa! {
    /// `out = act(gate) * up` of one row.
    fn gated_row<X: Elem, O: Elem>(act: Act, gate: &[X], up: &[X], out: &mut [O]) = gated_body
}

#[inline(always)]
fn gated_body<const FMA: bool, X: Elem, O: Elem>(act: Act, gate: &[X], up: &[X], out: &mut [O]) {
    let rows = out.iter_mut().zip(gate).zip(up);
    match act {
        Act::Silu => rows.for_each(|((o, g), u)| *o = O::put(silu::<FMA>(g.get()) * u.get())),
        Act::GeluTanh => rows.for_each(|((o, g), u)| *o = O::put(gelu_tanh::<FMA>(g.get()) * u.get())),
    }
}

/// Gated activation of two tensors, or of the halves of one if `up` is absent.
pub fn gated_act<X: Elem, O: Elem>(
    pool: &mut Pool,
    isa: Isa,
    act: Act,
    width: usize,
    gate: &[X],
    up: Option<&[X]>,
    out: &mut [O],
) -> Result<(), Error> {
    fill_rows(pool, width, out, |i, out| match up {
        Some(up) => {
            let row = i * width..(i + 1) * width;
            gated_row(isa, act, &gate[row.clone()], &up[row], out);
        }
        None => {
            let (gate, up) = gate[2 * i * width..2 * (i + 1) * width].split_at(width);
            gated_row(isa, act, gate, up, out);
        }
    })
}

/// `out[i] = x[rows(i)][start..start + width]`, rows of `of` elements; the rows have been checked.
pub fn copy_rows<X: Elem>(
    pool: &mut Pool,
    x: &[X],
    of: usize,
    start: usize,
    width: usize,
    rows: impl Fn(usize) -> usize + Sync,
    out: &mut [X],
) -> Result<(), Error> {
    fill_rows(pool, width, out, |i, out| {
        let from = rows(i) * of + start;
        out.copy_from_slice(&x[from..from + width]);
    })
}
