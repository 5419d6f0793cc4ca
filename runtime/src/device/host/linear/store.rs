//! The end of a linear: channel scale, bias and residual on the sums of a tile, rounding, and the store.

use super::LANES;
use crate::device::host::elem::{Elem, Floats, typed};
use crate::device::host::isa::per_isa;
use crate::device::host::memory::Shards;
use crate::device::host::simd::prefetch;

/// Where a tile's sums go and what is added to them.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Outputs.
    pub n: usize,
    /// `[panel][row]`, for i8 weights.
    pub scale: Option<&'a [f32]>,
    /// `(n)`.
    pub bias: Option<&'a [f32]>,
    /// `(tokens, n)`.
    pub residual: Option<Floats<'a>>,
}

/// The part of the product that a tile covers.
#[derive(Clone, Copy)]
pub struct Place {
    /// First panel.
    pub panel: usize,
    /// Panels.
    pub panels: usize,
    /// First token.
    pub token: usize,
    /// Tokens.
    pub tokens: usize,
}

/// Asks for the memory that [`store`] will write and add, as long as there is something else to do: what a launch
/// before this one wrote or read lies in the caches of other cores.
pub fn expect<O: Elem>(place: Place, e: &Epilogue<'_>, out: &Shards<'_, O>) {
    let (first, end) = (place.panel * LANES, ((place.panel + place.panels) * LANES).min(e.n));
    for token in place.token..place.token + place.tokens {
        let range = token * e.n + first..token * e.n + end;
        out.prefetch(range.clone());
        if let Some(residual) = e.residual {
            typed!(r = residual => prefetch(&r[range]));
        }
    }
}

per_isa! {
    /// `out = round(sums * scale + bias + residual)`, sums being `[panel][token][row]`.
    pub fn store<O: Elem>(sums: &[f32], place: Place, e: &Epilogue<'_>, out: &Shards<'_, O>) = body
}

#[inline(always)]
fn body<const FMA: bool, O: Elem>(sums: &[f32], place: Place, e: &Epilogue<'_>, out: &Shards<'_, O>) {
    let tiles = sums.chunks_exact(place.tokens * LANES).take(place.panels);
    for (p, sums) in tiles.enumerate() {
        let row = (place.panel + p) * LANES;
        if row >= e.n {
            return;
        }
        let rows = (e.n - row).min(LANES);
        let scale = lanes(e.scale.map(|s| &s[row..]), 1.0, LANES);
        let bias = lanes(e.bias.map(|b| &b[row..]), 0.0, rows);
        for (t, sums) in sums.chunks_exact(LANES).enumerate() {
            let at = (place.token + t) * e.n + row;
            let mut y = [0f32; LANES];
            y.copy_from_slice(sums);
            if e.scale.is_some() {
                y.iter_mut().zip(&scale).for_each(|(y, s)| *y *= s);
            }
            if e.bias.is_some() {
                y.iter_mut().zip(&bias).for_each(|(y, b)| *y += b);
            }
            match e.residual {
                None => {}
                Some(Floats::F32(r)) => add(&mut y, &r[at..at + rows]),
                Some(Floats::Bf16(r)) => add(&mut y, &r[at..at + rows]),
            }
            // SAFETY: tiles of different panels or tokens have different places.
            let out = unsafe { out.part(at..at + rows) };
            if let Ok(out) = <&mut [O; LANES]>::try_from(&mut *out) {
                for (o, y) in out.iter_mut().zip(y) {
                    *o = O::put(y);
                }
            } else {
                for (o, y) in out.iter_mut().zip(y) {
                    *o = O::put(y);
                }
            }
        }
    }
}

/// The first `count` elements, padded.
#[inline(always)]
fn lanes(from: Option<&[f32]>, pad: f32, count: usize) -> [f32; LANES] {
    let mut lanes = [pad; LANES];
    if let Some(from) = from {
        lanes[..count].copy_from_slice(&from[..count]);
    }
    lanes
}

#[inline(always)]
fn add<R: Elem>(y: &mut [f32; LANES], r: &[R]) {
    if let Ok(r) = <&[R; LANES]>::try_from(r) {
        y.iter_mut().zip(r).for_each(|(y, r)| *y += r.get());
    } else {
        y.iter_mut().zip(r).for_each(|(y, r)| *y += r.get());
    }
}
