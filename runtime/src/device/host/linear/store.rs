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
    /// `[panel][row]`, for i8 and e4m3 weights.
    pub scale: Option<&'a [f32]>,
    /// `(tokens)`, for e4m3 activations.
    pub tokens: Option<&'a [f32]>,
    /// By which the sums are too small: a power of two.
    pub factor: f32,
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

impl Epilogue<'_> {
    /// What a token's sums are multiplied with besides the rows' scales, if not with 1.
    #[inline(always)]
    fn token(&self, token: usize) -> Option<f32> {
        let scale = self.tokens.map_or(1.0, |scales| scales[token]) * self.factor;
        (self.tokens.is_some() || scale != 1.0).then_some(scale)
    }
}

per_isa! {
    /// `out = round(sums * scale * token + bias + residual)`, sums being `[panel][token][row]`.
    pub fn store<O: Elem>(sums: &[f32], place: Place, e: &Epilogue<'_>, out: &Shards<'_, O>) = body
}

#[inline(always)]
fn body<const FMA: bool, O: Elem>(sums: &[f32], place: Place, e: &Epilogue<'_>, out: &Shards<'_, O>) {
    let tiles = sums.chunks_exact(place.tokens * LANES).take(place.panels);
    for (panel, sums) in (place.panel..).zip(tiles) {
        let row = panel * LANES;
        if row + LANES > e.n {
            return part(sums, place.token, row, e, out);
        }
        let scale: Option<&[f32; LANES]> = e.scale.and_then(|s| s[row..].first_chunk());
        let bias: Option<&[f32; LANES]> = e.bias.and_then(|b| b[row..].first_chunk());
        for (token, sums) in (place.token..).zip(sums.as_chunks::<LANES>().0) {
            let at = token * e.n + row;
            // Arrays of one register, so that nothing goes through memory.
            let mut y = *sums;
            if let Some(scale) = scale {
                y = std::array::from_fn(|i| y[i] * scale[i]);
            }
            if let Some(scale) = e.token(token) {
                y = y.map(|y| y * scale);
            }
            if let Some(bias) = bias {
                y = std::array::from_fn(|i| y[i] + bias[i]);
            }
            match e.residual {
                None => {}
                Some(Floats::F32(r)) => y = add(y, &r[at..at + LANES]),
                Some(Floats::Bf16(r)) => y = add(y, &r[at..at + LANES]),
            }
            // SAFETY: tiles of different panels or tokens have different places.
            let out = unsafe { out.part(at..at + LANES) };
            if let Some(out) = out.first_chunk_mut::<LANES>() {
                *out = y.map(O::put);
            }
        }
    }
}

#[inline(always)]
fn add<R: Elem>(y: [f32; LANES], r: &[R]) -> [f32; LANES] {
    let Some(r) = r.first_chunk::<LANES>() else { return y };
    std::array::from_fn(|i| y[i] + r[i].get())
}

/// The last panel, if it has less than 16 rows: one by one.
#[cold]
fn part<O: Elem>(sums: &[f32], first: usize, row: usize, e: &Epilogue<'_>, out: &Shards<'_, O>) {
    for (token, sums) in (first..).zip(sums.as_chunks::<LANES>().0) {
        let range = token * e.n + row.min(e.n)..(token + 1) * e.n;
        // SAFETY: as in `body`.
        let out = unsafe { out.part(range.clone()) };
        for (i, (o, &sum)) in out.iter_mut().zip(sums).enumerate() {
            let mut y = sum;
            if let Some(scale) = e.scale {
                y *= scale[row + i];
            }
            if let Some(scale) = e.token(token) {
                y *= scale;
            }
            if let Some(bias) = e.bias {
                y += bias[row + i];
            }
            if let Some(residual) = e.residual {
                y += typed!(r = residual => r[range.start + i].get());
            }
            *o = O::put(y);
        }
    }
}
