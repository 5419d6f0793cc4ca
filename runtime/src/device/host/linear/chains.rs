//! The products of `amx.rs` for few rows of x, in vector registers, with the same result to the bit.
//!
//! There a panel's tile takes as long for one row of x as for sixteen, and weights have to be widened in memory; here
//! they are widened in registers, to f32. A lane is an output row. Its even inputs are added up by fused
//! multiply-adds, its odd ones beside them, both from 0 every 32 inputs, and then the sum of the two to what was there.
//! That is the order of `tdpbf16ps`; its treatment of denormals never comes up: see [`LEAST`].

use super::LANES;
use super::dp::Kind;
use super::widen::f8_upper;
use crate::device::host::elem::{Elem, sum_by};
use crate::device::host::isa::per_isa;
use half::bf16;
use std::arch::x86_64::*;

/// Most rows of x.
pub const MAX_TOKENS: usize = 3;

/// Pairs of inputs after which the chains begin again.
const PAIRS: usize = super::amx::INPUTS / 2;

/// Bytes of a panel by which its weights are fetched before they are used.
const AHEAD: usize = 4096;

/// Activations that are less in size count as 0, here as in tile registers. Weights are multiples of 2^-17, as
/// e4m3 is widened, so a sum of products is a multiple of a product's last place, 2^-114 at least, and denormal only if it
/// is 0.
const LEAST: f32 = f32::from_bits((127 - 90) << 23);

per_isa! {
    /// Writes a row with small values as 0, and 0 beyond its end.
    pub fn flush<>(x: &[bf16], out: &mut [bf16]) = flush_body
}

#[inline(always)]
fn flush_body<const FMA: bool>(x: &[bf16], out: &mut [bf16]) {
    let (out, rest) = out.split_at_mut(x.len());
    let least = (LEAST.to_bits() >> 16) as u16;
    for (out, x) in out.iter_mut().zip(x) {
        *out = if x.to_bits() & 0x7fff < least { bf16::ZERO } else { *x };
    }
    rest.fill(bf16::ZERO);
}

per_isa! {
    /// The same in f32, for i8 divided by [`I8_FACTORS`].
    pub fn flush_wide<>(x: &[bf16], kind: Kind, out: &mut [f32]) = flush_wide_body
}

#[inline(always)]
fn flush_wide_body<const FMA: bool>(x: &[bf16], kind: Kind, out: &mut [f32]) {
    let factors = if kind == Kind::I8 { I8_FACTORS.map(f32::recip) } else { [1.0; 2] };
    let (out, rest) = out.split_at_mut(x.len());
    let wide = |x: bf16, factor: f32| if x.get().abs() < LEAST { 0.0 } else { x.get() * factor };
    for (out, x) in out.chunks_mut(2).zip(x.chunks(2)) {
        for i in 0..x.len() {
            out[i] = wide(x[i], factors[i]);
        }
    }
    rest.fill(0.0);
}

per_isa! {
    /// The sums of a row's groups, small values as 0.
    pub fn sum_groups<>(x: &[bf16], group: usize, sums: &mut [f32]) = sum_groups_body
}

#[inline(always)]
fn sum_groups_body<const FMA: bool>(x: &[bf16], group: usize, sums: &mut [f32]) {
    for (sum, x) in sums.iter_mut().zip(x.chunks(group)) {
        *sum = sum_by(x, |sum, v| sum + if v.abs() < LEAST { 0.0 } else { v });
    }
}

/// The factors by which i8 weights are too large as they are widened here, for even and odd inputs. Activations are
/// multiplied by the inverse, which is exact.
const I8_FACTORS: [f32; 2] = [(1 << 24) as f32, (1 << 8) as f32];

/// Scales and zero points of i4 weights: `sum += scale * (acc - zero * xsum)` for each group.
#[derive(Clone, Copy)]
pub struct Groups<'a> {
    /// Pairs of inputs in a group, a multiple of 16.
    pub pairs: usize,
    /// `[panel][group][row]`, from the tile's first panel.
    pub scale: &'a [bf16],
    /// The same order.
    pub zero: Option<&'a [i8]>,
    /// `[token][group]`: sums of the tokens' inputs.
    pub xsum: &'a [f32],
}

/// One product.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// From the first panel on: e4m3, i8 or i4.
    pub weights: &'a [u8],
    /// How they are stored.
    pub kind: Kind,
    /// Bytes from one panel to the next.
    pub stride: usize,
    /// `[token][pair][2]`, for i8 divided by [`I8_FACTORS`].
    pub x: &'a [f32],
    /// Pairs of inputs; for i4 a multiple of 4.
    pub pairs: usize,
    /// For i4.
    pub groups: Option<Groups<'a>>,
}

/// `sums[panel][token][row] = weights x`, for up to [`MAX_TOKENS`] tokens and any number of panels.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and DQ.
pub unsafe fn tile(t: &Tile<'_>, panels: usize, tokens: usize, sums: &mut [f32]) {
    assert!((1..=MAX_TOKENS).contains(&tokens) && t.groups.is_some() == (t.kind == Kind::I4));
    assert!(matches!(t.kind, Kind::I4 | Kind::I8 | Kind::F8));
    if panels == 0 {
        return;
    }
    assert!(t.weights.len() >= (panels - 1) * t.stride + t.pairs * t.kind.pair_bytes());
    assert!(t.x.len() >= 2 * t.pairs * tokens && sums.len() >= panels * tokens * LANES);
    let mut raw = Raw {
        weights: t.weights.as_ptr(),
        stride: t.stride,
        x: t.x.as_ptr(),
        x_stride: 2 * t.pairs,
        pairs: t.pairs,
        group_pairs: t.pairs,
        groups: 0,
        scale: std::ptr::null(),
        zero: std::ptr::null(),
        xsum: std::ptr::null(),
        sums: sums.as_mut_ptr(),
    };
    if let Some(g) = t.groups {
        let groups = t.pairs.div_ceil(g.pairs.max(1));
        let scales = panels * groups * LANES;
        assert!(t.pairs.is_multiple_of(4) && g.pairs.is_multiple_of(PAIRS) && g.pairs > 0);
        assert!(g.scale.len() >= scales && g.zero.is_none_or(|z| z.len() >= scales));
        assert!(g.xsum.len() >= groups * tokens);
        raw.group_pairs = g.pairs;
        raw.groups = groups;
        raw.scale = g.scale.as_ptr().cast();
        raw.zero = g.zero.map_or(std::ptr::null(), <[i8]>::as_ptr);
        raw.xsum = g.xsum.as_ptr();
    }
    let mut left = panels;
    while left > 0 {
        let p = if left >= 4 && tokens == 1 { 4 } else { left.min(2) };
        let kernel = match t.kind {
            Kind::I4 => shape::<I4>(p, tokens),
            Kind::F8 => shape::<F8>(p, tokens),
            _ => shape::<I8>(p, tokens),
        };
        // SAFETY: the slices hold what `p` panels and `tokens` tokens touch, which was checked above.
        unsafe { kernel(&raw) };
        // Past the end only when nothing is left, and then not read.
        raw.weights = raw.weights.wrapping_add(p * raw.stride);
        raw.scale = raw.scale.wrapping_add(p * raw.groups * LANES);
        if !raw.zero.is_null() {
            raw.zero = raw.zero.wrapping_add(p * raw.groups * LANES);
        }
        raw.sums = raw.sums.wrapping_add(p * tokens * LANES);
        left -= p;
    }
}

/// A product as the kernels see it.
struct Raw {
    weights: *const u8,
    stride: usize,
    x: *const f32,
    /// Elements from one token to the next.
    x_stride: usize,
    pairs: usize,
    group_pairs: usize,
    groups: usize,
    scale: *const u16,
    /// Null if all are 0.
    zero: *const i8,
    xsum: *const f32,
    sums: *mut f32,
}

type Kernel = unsafe fn(&Raw);

const I8: u8 = 0;
const F8: u8 = 1;
const I4: u8 = 2;

/// The kernel for a tile's shape.
fn shape<const KIND: u8>(panels: usize, tokens: usize) -> Kernel {
    match (panels, tokens) {
        (1, 1) => product::<KIND, 1, 1>,
        (1, 2) => product::<KIND, 1, 2>,
        (1, _) => product::<KIND, 1, 3>,
        (2, 1) => product::<KIND, 2, 1>,
        (2, 2) => product::<KIND, 2, 2>,
        (2, _) => product::<KIND, 2, 3>,
        (_, _) => product::<KIND, 4, 1>,
    }
}

/// `P` panels and `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn product<const KIND: u8, const P: usize, const T: usize>(a: &Raw) {
    let none = [[_mm512_setzero_ps(); T]; P];
    let (mut sums, mut pair, mut group) = (none, 0, 0);
    while pair < a.pairs {
        let end = (pair + a.group_pairs).min(a.pairs);
        let mut acc = none;
        while pair < end {
            let n = PAIRS.min(end - pair);
            let mut chains = [none; 2];
            // SAFETY: the weights hold `pairs` pairs for each panel, x for each token.
            unsafe { add_pairs::<KIND, P, T>(a, pair, n, &mut chains) };
            for p in 0..P {
                for t in 0..T {
                    acc[p][t] = _mm512_add_ps(acc[p][t], _mm512_add_ps(chains[0][p][t], chains[1][p][t]));
                }
            }
            pair += n;
        }
        for p in 0..P {
            if KIND != I4 {
                sums[p] = acc[p];
                continue;
            }
            let at = (p * a.groups + group) * LANES;
            // SAFETY: scales and zeros hold every group of every panel, xsum every group of every token.
            unsafe {
                let scale = _mm512_cvtepu16_epi32(_mm256_loadu_si256(a.scale.add(at).cast()));
                let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(scale));
                let zero = if a.zero.is_null() {
                    _mm512_setzero_ps()
                } else {
                    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(a.zero.add(at).cast())))
                };
                for t in 0..T {
                    let xsum = _mm512_set1_ps(*a.xsum.add(t * a.groups + group));
                    let part = _mm512_fnmadd_ps(zero, xsum, acc[p][t]);
                    sums[p][t] = _mm512_fmadd_ps(scale, part, sums[p][t]);
                }
            }
        }
        group += 1;
    }
    for p in 0..P {
        for t in 0..T {
            // SAFETY: `sums` holds P * T * 16 elements.
            unsafe { _mm512_storeu_ps(a.sums.add((p * T + t) * LANES), sums[p][t]) };
        }
    }
}

/// Adds `n` pairs from `from` on to the chains.
///
/// # Safety
/// Weights and x hold these pairs, the processor has the instructions.
#[inline(always)]
unsafe fn add_pairs<const KIND: u8, const P: usize, const T: usize>(
    a: &Raw,
    from: usize,
    n: usize,
    chains: &mut [[[__m512; T]; P]; 2],
) {
    // SAFETY: the caller's word for pointers and instructions; prefetches may go anywhere.
    unsafe {
        let (pair_bytes, per_line) = if KIND == I4 { (16, 4) } else { (32, 2) };
        let nibbles = _mm512_add_ps(
            _mm512_cvtepi32_ps(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)),
            _mm512_set1_ps(-8.0),
        );
        let mut x = a.x.add(2 * from);
        let mut at = from * pair_bytes;
        let end = a.pairs * pair_bytes;
        for _ in 0..n / per_line {
            // Beyond the end of these panels come the ones that this thread works on next.
            let next = at + AHEAD;
            let next = if next < end { next } else { next - end + P * a.stride };
            for p in 0..P {
                _mm_prefetch::<_MM_HINT_T1>(a.weights.wrapping_add(next + p * a.stride).cast());
            }
            let line = a.weights.add(at);
            if KIND == I4 {
                let mut words = [[_mm512_setzero_si512(); P]; 2];
                for p in 0..P {
                    words[0][p] = _mm512_loadu_si512(line.add(p * a.stride).cast());
                    words[1][p] = _mm512_ror_epi32::<16>(words[0][p]);
                }
                for j in 0..4 {
                    // A shift by a product: shifts and tables would wait for one another.
                    let up = _mm512_set1_epi16(((1u32 << (16 - 4 * j)) & 0xffff) as i16);
                    for odd in 0..2 {
                        let mut w = [_mm512_setzero_ps(); P];
                        for p in 0..P {
                            let words = words[odd][p];
                            let index = if j == 0 { words } else { _mm512_mulhi_epu16(words, up) };
                            // The index is the low 4 bits.
                            w[p] = _mm512_permutexvar_ps(index, nibbles);
                        }
                        add(a, &w, x, &mut chains[odd]);
                        x = x.add(1);
                    }
                }
            } else {
                for i in 0..per_line {
                    add_bytes::<KIND, P, T>(a, line.add(i * pair_bytes), x, chains);
                    x = x.add(2);
                }
            }
            at += 64;
        }
        if KIND != I4 && !n.is_multiple_of(per_line) {
            add_bytes::<KIND, P, T>(a, a.weights.add(at), x, chains);
        }
    }
}

/// Adds one pair of e4m3 or i8.
#[inline(always)]
unsafe fn add_bytes<const KIND: u8, const P: usize, const T: usize>(
    a: &Raw,
    at: *const u8,
    x: *const f32,
    chains: &mut [[[__m512; T]; P]; 2],
) {
    // SAFETY: the caller's word for the places and the instructions.
    unsafe {
        let (mut even, mut odd) = ([_mm512_setzero_ps(); P], [_mm512_setzero_ps(); P]);
        for p in 0..P {
            let words = _mm256_loadu_si256(at.add(p * a.stride).cast());
            if KIND == F8 {
                even[p] = _mm512_cvtph_ps(f8_upper(_mm256_slli_epi16::<8>(words)));
                odd[p] = _mm512_cvtph_ps(f8_upper(words));
                continue;
            }
            let both = _mm512_cvtepi16_epi32(words);
            even[p] = _mm512_cvtepi32_ps(_mm512_slli_epi32::<24>(both));
            odd[p] = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(!0xff)));
        }
        add(a, &even, x, &mut chains[0]);
        add(a, &odd, x.add(1), &mut chains[1]);
    }
}

/// Adds one input.
#[inline(always)]
unsafe fn add<const P: usize, const T: usize>(
    a: &Raw,
    w: &[__m512; P],
    x: *const f32,
    chain: &mut [[__m512; T]; P],
) {
    for t in 0..T {
        // SAFETY: the caller's word for x and the instructions.
        unsafe {
            let x = _mm512_set1_ps(*x.add(t * a.x_stride));
            for p in 0..P {
                chain[p][t] = _mm512_fmadd_ps(w[p], x, chain[p][t]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::host::isa::Isa;
    use crate::device::host::linear::widen::F8_FACTOR;

    /// Bytes of any number in e4m3, and in i8 too.
    fn byte(i: usize) -> u8 {
        let byte = (i.wrapping_mul(2_654_435_761) >> 13) as u8;
        if byte & 0x7f == 0x7f { 3 } else { byte }
    }

    #[test]
    fn bytes_are_added_in_the_order_of_tile_registers() {
        if !Isa::Avx512.available() {
            return;
        }
        for (kind, tokens, panels, pairs) in [
            (Kind::F8, 1, 5, 40),
            (Kind::F8, 2, 1, 7),
            (Kind::F8, 3, 3, 33),
            (Kind::I8, 1, 4, 40),
            (Kind::I8, 3, 2, 17),
        ] {
            let stride = pairs * kind.pair_bytes();
            let weights: Vec<u8> = (0..panels * stride).map(byte).collect();
            let x: Vec<bf16> =
                (0..tokens * 2 * pairs).map(|i| bf16::from_f32((byte(i + 7) as i8).into())).collect();
            let mut wide = vec![0.0; x.len()];
            for (x, wide) in x.chunks_exact(2 * pairs).zip(wide.chunks_exact_mut(2 * pairs)) {
                flush_wide(Isa::Avx512, x, kind, wide);
            }
            let mut sums = vec![f32::NAN; panels * tokens * LANES];
            let tile = Tile { weights: &weights, kind, stride, x: &wide, pairs, groups: None };
            // SAFETY: the instructions are there.
            unsafe { super::tile(&tile, panels, tokens, &mut sums) };
            for (i, &sum) in sums.iter().enumerate() {
                let (panel, token, row) = (i / (tokens * LANES), i / LANES % tokens, i % LANES);
                let mut want = 0f32;
                for from in (0..pairs).step_by(PAIRS) {
                    let mut chains = [0f32; 2];
                    for input in 2 * from..2 * (from + PAIRS).min(pairs) {
                        let q = weights[panel * stride + (input / 2 * LANES + row) * 2 + input % 2];
                        let w = match kind {
                            Kind::F8 => trtc_engine::layout::e4m3(q) / F8_FACTOR,
                            _ => f32::from(q as i8),
                        };
                        let x = x[token * 2 * pairs + input].to_f32();
                        chains[input % 2] = x.mul_add(w, chains[input % 2]);
                    }
                    want += chains[0] + chains[1];
                }
                assert_eq!(sum.to_bits(), want.to_bits(), "{kind:?} {tokens} {panels} {pairs}: {i}");
            }
        }
    }
}
