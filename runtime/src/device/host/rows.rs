//! Kernels that work row by row: embedding, norms, sums, gated activations, slices and picked rows.
//!
//! A row's result depends on that row alone. Few rows are done on the caller's thread.

use super::cache::copy_row;
use super::e4m3;
use super::elem::{Elem, FloatsMut, RowsMut, fma, gelu_tanh, silu, sum_by};
use super::isa::{Isa, per_isa};
use super::linear::{Source, unpack::gather_row};
use super::memory::Shards;
use super::pool::Pool;
use super::scratch::Cx;
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

/// What makes the rows of a result.
trait Maker: Sync {
    /// Writes row `i`.
    fn make<O: Elem>(&self, isa: Isa, i: usize, out: &mut [O]);
}

/// Makes all rows of a result of any type. Rows of e4m3 are quantised as they come, from f32.
fn make_rows(cx: &mut Cx<'_>, width: usize, out: RowsMut<'_>, maker: &impl Maker) -> Result<(), Error> {
    let Cx { pool, isa, scratch } = cx;
    let isa = *isa;
    match out {
        RowsMut::Floats(FloatsMut::F32(out)) => fill_rows(pool, width, out, |i, out| maker.make(isa, i, out)),
        RowsMut::Floats(FloatsMut::Bf16(out)) => {
            fill_rows(pool, width, out, |i, out| maker.make(isa, i, out))
        }
        RowsMut::E4m3(codes, scales) => {
            let rows = scales.len();
            let (codes, scales) = (Shards::new(codes), Shards::new(scales));
            let locals = Shards::new(&mut scratch.local);
            pool.split(rows, (GRAIN / width.max(1)).max(1), &|thread, range| {
                // SAFETY: each thread has an index of its own.
                let [local] = (unsafe { locals.part(thread..thread + 1) }) else {
                    return;
                };
                let row = local.x.f32(width);
                for i in range {
                    maker.make(isa, i, row);
                    // SAFETY: each row is given to one call, and rows do not overlap.
                    let (codes, scale) =
                        unsafe { (codes.part(i * width..(i + 1) * width), scales.part(i..i + 1)) };
                    scale[0] = e4m3::quantize(isa, row, codes);
                }
            })
        }
    }
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

struct RmsNorm<'a, X> {
    x: &'a [X],
    norm: Norm<'a>,
}

impl<X: Elem> Maker for RmsNorm<'_, X> {
    fn make<O: Elem>(&self, isa: Isa, i: usize, out: &mut [O]) {
        norm_row(isa, &self.x[i * out.len()..(i + 1) * out.len()], &self.norm, out);
    }
}

/// Root-mean-square norm of rows as long as the weight.
pub fn rms_norm<X: Elem>(cx: &mut Cx<'_>, x: &[X], norm: Norm<'_>, out: RowsMut<'_>) -> Result<(), Error> {
    make_rows(cx, norm.weight.len(), out, &RmsNorm { x, norm })
}

struct Quantize<'a, X>(&'a [X]);

impl<X: Elem> Maker for Quantize<'_, X> {
    fn make<O: Elem>(&self, isa: Isa, i: usize, out: &mut [O]) {
        copy_row(isa, &self.0[i * out.len()..(i + 1) * out.len()], out);
    }
}

/// Rows of `width` in another type.
pub fn quantize<X: Elem>(cx: &mut Cx<'_>, width: usize, x: &[X], out: RowsMut<'_>) -> Result<(), Error> {
    make_rows(cx, width, out, &Quantize(x))
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

struct AddRmsNorm<'a, X, R, H> {
    x: &'a [X],
    residual: &'a [R],
    norm: Norm<'a>,
    h: Shards<'a, H>,
}

impl<X: Elem, R: Elem, H: Elem> Maker for AddRmsNorm<'_, X, R, H> {
    fn make<O: Elem>(&self, isa: Isa, i: usize, out: &mut [O]) {
        let row = i * out.len()..(i + 1) * out.len();
        // SAFETY: rows do not overlap, and each is made once.
        let h = unsafe { self.h.part(row.clone()) };
        add_row(isa, &self.x[row.clone()], &self.residual[row], h);
        norm_row(isa, h, &self.norm, out);
    }
}

/// `h = x + residual`, rounded; `out = rms_norm(h)`.
pub fn add_rms_norm<X: Elem, R: Elem, H: Elem>(
    cx: &mut Cx<'_>,
    (x, residual): (&[X], &[R]),
    norm: Norm<'_>,
    h: &mut [H],
    out: RowsMut<'_>,
) -> Result<(), Error> {
    make_rows(cx, norm.weight.len(), out, &AddRmsNorm { x, residual, norm, h: Shards::new(h) })
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

struct GatedAct<'a, X> {
    act: Act,
    gate: &'a [X],
    up: Option<&'a [X]>,
}

impl<X: Elem> Maker for GatedAct<'_, X> {
    fn make<O: Elem>(&self, isa: Isa, i: usize, out: &mut [O]) {
        let width = out.len();
        let row = i * width..(i + 1) * width;
        let (gate, up) = match self.up {
            Some(up) => (&self.gate[row.clone()], &up[row]),
            None => self.gate[2 * i * width..2 * (i + 1) * width].split_at(width),
        };
        gated_row(isa, self.act, gate, up, out);
    }
}

/// Gated activation of two tensors, or of the halves of one if `up` is absent.
pub fn gated_act<X: Elem>(
    cx: &mut Cx<'_>,
    act: Act,
    width: usize,
    (gate, up): (&[X], Option<&[X]>),
    out: RowsMut<'_>,
) -> Result<(), Error> {
    make_rows(cx, width, out, &GatedAct { act, gate, up })
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
