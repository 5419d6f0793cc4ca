//! Weights of any encoding and layout as f32: one row for embeddings, one block of a panel for the f32 kernels.

use super::{LANES, Source};
use crate::device::host::e4m3;
use crate::device::host::elem::Elem;
use crate::device::host::isa::per_isa;
use half::bf16;

per_isa! {
    /// Writes inputs `from..from + inputs` of a panel as f32 `[input][row]`; `from` is a multiple of 8. Scales of i8 and e4m3
    /// are left out (they are applied to the sums), i4 values are complete. Rows beyond `n` are 0.
    pub fn unpack<>(source: &Source<'_>, n: usize, k: usize, panel: usize, from: usize, inputs: usize, out: &mut [f32])
        = unpack_body
}

#[inline(always)]
fn unpack_body<const FMA: bool>(
    source: &Source<'_>,
    n: usize,
    k: usize,
    panel: usize,
    from: usize,
    inputs: usize,
    out: &mut [f32],
) {
    let pairs = k.div_ceil(2);
    let out = &mut out[..inputs * LANES];
    match *source {
        Source::RowsF32(w) => rows(w, n, k, panel, from, out),
        Source::RowsBf16(w) => rows(w, n, k, panel, from, out),
        Source::F32(w) => out.copy_from_slice(&w[(panel * k + from) * LANES..][..out.len()]),
        Source::Bf16(w) => {
            let w = &w[(panel * pairs * 2 + from) * LANES..];
            for (out, w) in out.chunks_mut(2 * LANES).zip(w.chunks_exact(2 * LANES)) {
                for (e, out) in out.chunks_exact_mut(LANES).enumerate() {
                    for r in 0..LANES {
                        out[r] = w[2 * r + e].get();
                    }
                }
            }
        }
        Source::I8 { q, .. } => {
            pair_bytes(&q[(panel * pairs * 2 + from) * LANES..], out, |q| f32::from(q as i8));
        }
        Source::F8 { q, .. } => pair_bytes(&q[(panel * pairs * 2 + from) * LANES..], out, e4m3::value),
        Source::I4 { q, scale, zero, group } => {
            let (chunks, groups) = (k.div_ceil(8), k.div_ceil(group));
            for (i, out) in out.chunks_exact_mut(LANES).enumerate() {
                let at = from + i;
                let words = &q[(panel * chunks + at / 8) * 64..][..64];
                let g = (panel * groups + at / group) * LANES;
                let (shift, odd) = (4 * (at % 8 / 2), at % 2);
                let scale = &scale[g..g + LANES];
                let zero = zero.map(|z| &z[g..g + LANES]);
                for r in 0..LANES {
                    let word = 2 * (2 * r + odd);
                    let word = u16::from_le_bytes([words[word], words[word + 1]]);
                    let q = f32::from(word >> shift & 15) - 8.0;
                    let z = zero.map_or(0.0, |z| f32::from(z[r]));
                    out[r] = (q - z) * scale[r].get();
                }
            }
        }
    }
}

/// Pairs of bytes.
#[inline(always)]
fn pair_bytes(w: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    for (out, w) in out.chunks_mut(2 * LANES).zip(w.chunks_exact(2 * LANES)) {
        for (e, out) in out.chunks_exact_mut(LANES).enumerate() {
            for r in 0..LANES {
                out[r] = value(w[2 * r + e]);
            }
        }
    }
}

/// Rows as they are, turned.
#[inline(always)]
fn rows<W: Elem>(w: &[W], n: usize, k: usize, panel: usize, from: usize, out: &mut [f32]) {
    for r in 0..LANES {
        let row = panel * LANES + r;
        let column = out.iter_mut().skip(r).step_by(LANES);
        if row < n {
            column.zip(&w[row * k + from..]).for_each(|(o, v)| *o = v.get());
        } else {
            column.for_each(|o| *o = 0.0);
        }
    }
}

per_isa! {
    /// Writes `scale` times one row of a weight, complete, rounded once.
    pub fn gather_row<O: Elem>(source: &Source<'_>, k: usize, row: usize, scale: f32, out: &mut [O]) = gather_body
}

#[inline(always)]
fn gather_body<const FMA: bool, O: Elem>(
    source: &Source<'_>,
    k: usize,
    row: usize,
    scale: f32,
    out: &mut [O],
) {
    let (panel, r) = (row / LANES, row % LANES);
    let pairs = k.div_ceil(2);
    match *source {
        Source::RowsF32(w) => whole_row(&w[row * k..][..k], scale, out),
        Source::RowsBf16(w) => whole_row(&w[row * k..][..k], scale, out),
        Source::F32(w) => {
            let w = &w[panel * k * LANES..];
            out.iter_mut().enumerate().for_each(|(i, o)| *o = O::put(scale * w[i * LANES + r]));
        }
        Source::Bf16(w) => {
            let w: &[bf16] = &w[panel * 2 * pairs * LANES..];
            pair_row(
                out,
                |at| O::put(scale * w[at + 2 * r].get()),
                |at| O::put(scale * w[at + 2 * r + 1].get()),
            );
        }
        Source::I8 { q, scale: channel } => {
            let (w, c) = (&q[panel * 2 * pairs * LANES..], channel[row]);
            let value = |q: u8| O::put(scale * (f32::from(q as i8) * c));
            pair_row(out, |at| value(w[at + 2 * r]), |at| value(w[at + 2 * r + 1]));
        }
        Source::F8 { q, scale: channel } => {
            let (w, c) = (&q[panel * 2 * pairs * LANES..], channel[row]);
            let value = |q: u8| O::put(scale * (e4m3::value(q) * c));
            pair_row(out, |at| value(w[at + 2 * r]), |at| value(w[at + 2 * r + 1]));
        }
        Source::I4 { q, scale: scales, zero, group } => {
            let words = &q[panel * k.div_ceil(8) * 64..];
            let groups = k.div_ceil(group);
            for (g, out) in out.chunks_mut(group).enumerate() {
                let at = (panel * groups + g) * LANES + r;
                let (s, z) = (scales[at].get(), zero.map_or(0.0, |z| f32::from(z[at])));
                for (i, o) in out.iter_mut().enumerate() {
                    let i = g * group + i;
                    let word = i / 8 * 64 + 2 * (2 * r + i % 2);
                    let word = u16::from_le_bytes([words[word], words[word + 1]]);
                    let q = f32::from(word >> (4 * (i % 8 / 2)) & 15) - 8.0;
                    *o = O::put(scale * ((q - z) * s));
                }
            }
        }
    }
}

#[inline(always)]
fn whole_row<W: Elem, O: Elem>(row: &[W], scale: f32, out: &mut [O]) {
    out.iter_mut().zip(row).for_each(|(o, v)| *o = O::put(scale * v.get()));
}

/// Fills a row from functions of the pair's first element: for the even input, for the odd one.
#[inline(always)]
fn pair_row<O: Elem>(out: &mut [O], even: impl Fn(usize) -> O, odd: impl Fn(usize) -> O) {
    for (pair, out) in out.chunks_mut(2).enumerate() {
        let at = pair * 2 * LANES;
        out[0] = even(at);
        if let Some(o) = out.get_mut(1) {
            *o = odd(at);
        }
    }
}
