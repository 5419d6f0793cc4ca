//! `x w^T + bias + residual`: chooses between bf16 dot products and f32 products, packs x, shares panels out.
//!
//! bf16 activations times bf16, e4m3, i8 or i4 weights use the processor's bf16 dot products where it has them; all but
//! bf16 use those of tile registers where there are such. Activations in e4m3 become bf16 first, which holds them exactly; their
//! scales are applied to the sums. All else is done in f32 on weights that are f32 or are widened
//! block by block. A few tokens read each weight once, straight from its stored form; many tokens widen a block of
//! panels once and run over all tokens.

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_path;
#[cfg(target_arch = "x86_64")]
mod bf16_path;
#[cfg(target_arch = "x86_64")]
mod chains;
#[cfg(target_arch = "x86_64")]
pub mod dp;
pub mod fma;
pub mod pack;
mod store;
pub mod unpack;
#[cfg(target_arch = "x86_64")]
mod widen;

use super::e4m3;
use super::elem::{Floats, FloatsMut, Rows};
use super::isa::Isa;
use super::memory::Shards;
use super::pool::Pool;
use super::scratch::{Aligned, Cx};
use crate::error::Error;
use fma::Panels;
use half::bf16;
use pack::Tiles;
use store::{Epilogue, Place, store};

/// Rows of a panel.
pub const LANES: usize = 16;

/// Panels that are worked on at once where each is widened first.
const PANELS: usize = 2;

/// Panels that a thread takes at once where the weights are read as they are.
const GRAIN: usize = 4;

/// Bytes of a block of two panels that serves all tokens before the next: three quarters of a first-level cache.
const BLOCK_BYTES: usize = 24 << 10;

/// A weight matrix `(n, k)`: encoding and layout, as `trtc_engine::layout` defines them. The slices hold exactly
/// what the shape needs.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// `(n, k)`.
    RowsF32(&'a [f32]),
    /// `(n, k)`.
    RowsBf16(&'a [bf16]),
    /// Panels.
    F32(&'a [f32]),
    /// Panels.
    Bf16(&'a [bf16]),
    /// Panels.
    I8 {
        /// Bytes of i8.
        q: &'a [u8],
        /// `[panel][row]`.
        scale: &'a [f32],
    },
    /// Panels.
    F8 {
        /// Codes of e4m3.
        q: &'a [u8],
        /// `[panel][row]`.
        scale: &'a [f32],
    },
    /// Panels.
    I4 {
        /// 64 bytes for each panel and 8 inputs.
        q: &'a [u8],
        /// `[panel][group][row]`.
        scale: &'a [bf16],
        /// The same order; all 0 if absent.
        zero: Option<&'a [i8]>,
        /// Inputs of a group, a multiple of 8.
        group: usize,
    },
}

/// One linear; the slices hold exactly what the shape needs.
pub struct Linear<'a> {
    /// Rows of x.
    pub rows: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// `(rows, k)`.
    pub x: Rows<'a>,
    /// `(n, k)`.
    pub weight: Source<'a>,
    /// `(n)`.
    pub bias: Option<&'a [f32]>,
    /// `(rows, n)`.
    pub residual: Option<Floats<'a>>,
    /// `(rows, n)`.
    pub out: FloatsMut<'a>,
}

/// Where results go, by type.
enum Out<'a> {
    F32(Shards<'a, f32>),
    Bf16(Shards<'a, bf16>),
}

/// Finishes a tile.
fn finish(isa: Isa, sums: &[f32], place: Place, e: &Epilogue<'_>, out: &Out<'_>) {
    match out {
        Out::F32(out) => store(isa, sums, place, e, out),
        Out::Bf16(out) => store(isa, sums, place, e, out),
    }
}

/// Asks for the memory that [`finish`] will touch.
fn expect(place: Place, e: &Epilogue<'_>, out: &Out<'_>) {
    match out {
        Out::F32(out) => store::expect(place, e, out),
        Out::Bf16(out) => store::expect(place, e, out),
    }
}

/// Computes a linear.
pub fn linear(cx: &mut Cx<'_>, job: Linear<'_>) -> Result<(), Error> {
    if job.rows == 0 || job.n == 0 {
        return Ok(());
    }
    // Taken out, so that the kernels may use the rest.
    let mut wide = std::mem::take(&mut cx.scratch.wide);
    let (x, tokens) = match job.x {
        Rows::Floats(x) => (x, None),
        Rows::E4m3(codes, scales) => (Floats::Bf16(widen(cx.pool, codes, job.k, &mut wide)?), Some(scales)),
    };
    let done = product(cx, x, tokens, job);
    cx.scratch.wide = wide;
    done
}

/// Rows of codes as bf16.
fn widen<'a>(pool: &mut Pool, codes: &[u8], k: usize, wide: &'a mut Aligned) -> Result<&'a [bf16], Error> {
    let out = wide.bf16(codes.len());
    let shards = Shards::new(&mut *out);
    pool.split(codes.len() / k.max(1), (8192 / k.max(1)).max(1), &|_, rows| {
        let range = rows.start * k..rows.end * k;
        // SAFETY: rows do not overlap.
        e4m3::widen(&codes[range.clone()], unsafe { shards.part(range) });
    })?;
    Ok(out)
}

/// Computes a linear of `x`, whose rows have the scales `tokens`.
fn product(cx: &mut Cx<'_>, x: Floats<'_>, tokens: Option<&[f32]>, job: Linear<'_>) -> Result<(), Error> {
    let scale = match job.weight {
        Source::I8 { scale, .. } | Source::F8 { scale, .. } => Some(scale),
        _ => None,
    };
    let epilogue = Epilogue { n: job.n, scale, tokens, factor: 1.0, bias: job.bias, residual: job.residual };
    let out = match job.out {
        FloatsMut::F32(out) => Out::F32(Shards::new(out)),
        FloatsMut::Bf16(out) => Out::Bf16(Shards::new(out)),
    };
    let shape = Shape { rows: job.rows, n: job.n, k: job.k };
    #[cfg(target_arch = "x86_64")]
    if cx.isa >= Isa::Avx512Bf16
        && let Floats::Bf16(x) = x
        && let Some(weights) = bf16_path::Weights::of(job.weight)
    {
        let epilogue = Epilogue { factor: weights.factor(), ..epilogue };
        let run = if amx_path::takes(cx.isa, &weights) { amx_path::run } else { bf16_path::run };
        return run(cx, shape, x, &weights, &epilogue, &out);
    }
    in_f32(cx, shape, x, &job.weight, &epilogue, &out)
}

/// Sizes of a linear.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    n: usize,
    k: usize,
}

/// The product in f32.
fn in_f32(
    cx: &mut Cx<'_>,
    Shape { rows, n, k }: Shape,
    x: Floats<'_>,
    weight: &Source<'_>,
    epilogue: &Epilogue<'_>,
    out: &Out<'_>,
) -> Result<(), Error> {
    let Cx { pool, isa, scratch } = cx;
    let (isa, scratch) = (*isa, &mut **scratch);
    let tiles = Tiles::new(rows, fma::max_tokens(isa));
    // Weights that the kernels read as they are: elements of an input of a panel, inputs with padding.
    let (plain, bytes, inputs) = match *weight {
        Source::F32(w) => (Some(Panels::F32(w)), size_of::<f32>(), k),
        Source::Bf16(w) => (Some(Panels::Bf16(w)), size_of::<bf16>(), k.next_multiple_of(2)),
        _ => (None, size_of::<f32>(), k),
    };
    let packed: &[f32] = match x {
        Floats::F32(x) if rows == 1 && inputs == k => x,
        _ => pack_x(pool, &mut scratch.x, tiles, x, k, inputs, rows)?,
    };
    // For few tokens plain weights are read through once; otherwise a block serves all tokens before the next.
    let once = plain.is_some() && tiles.count() == 1;
    let block = if once { inputs } else { BLOCK_BYTES / (PANELS * LANES * bytes) };
    let locals = Shards::new(&mut scratch.local);
    pool.split(n.div_ceil(LANES), if once { GRAIN } else { PANELS }, &|thread, range| {
        // SAFETY: each thread has an index of its own.
        let [local] = (unsafe { locals.part(thread..thread + 1) }) else {
            return;
        };
        let count = range.len();
        let sums = local.sums.f32(count * rows * LANES);
        for from in (0..inputs).step_by(block) {
            let some = block.min(inputs - from);
            let at = (range.start * inputs + from) * LANES;
            let (weights, stride) = match plain {
                Some(Panels::F32(w)) => (Panels::F32(&w[at..]), inputs * LANES),
                Some(Panels::Bf16(w)) => (Panels::Bf16(&w[at..]), inputs * LANES),
                None => {
                    let wide = local.block.f32(count * some * LANES);
                    for (panel, wide) in range.clone().zip(wide.chunks_exact_mut(some * LANES)) {
                        unpack::unpack(isa, weight, n, k, panel, from, some, wide);
                    }
                    (Panels::F32(wide), some * LANES)
                }
            };
            for (token, tokens) in (0..tiles.count()).map(|i| tiles.get(i)) {
                let x = &packed[token * inputs + from * tokens..][..some * tokens];
                let tile = fma::Tile { weights, stride, x, inputs: some, fresh: from == 0 };
                if from + some == inputs {
                    expect(Place { panel: range.start, panels: count, token, tokens }, epilogue, out);
                }
                fma::tile(isa, &tile, count, tokens, &mut sums[token * count * LANES..]);
            }
        }
        for (token, tokens) in (0..tiles.count()).map(|i| tiles.get(i)) {
            let place = Place { panel: range.start, panels: count, token, tokens };
            finish(isa, &sums[token * count * LANES..], place, epilogue, out);
        }
    })
}

/// Packs x as f32: `[tile][input][token]`, inputs from `k` on 0.
fn pack_x<'a>(
    pool: &mut Pool,
    into: &'a mut Aligned,
    tiles: Tiles,
    x: Floats<'_>,
    k: usize,
    inputs: usize,
    rows: usize,
) -> Result<&'a [f32], Error> {
    let packed = into.f32(rows * inputs);
    let shards = Shards::new(&mut *packed);
    pool.split(tiles.count(), (8192 / k).max(1), &|_, range| {
        for (from, tokens) in range.map(|i| tiles.get(i)) {
            // SAFETY: tiles do not overlap.
            let out = unsafe { shards.part(from * inputs..(from + tokens) * inputs) };
            pack::pack_f32(x, from, tokens, k, out);
        }
    })?;
    Ok(packed)
}
