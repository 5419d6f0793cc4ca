//! Dot products of bf16 pairs (AVX-512 BF16): a tile of panels times a tile of tokens.
//!
//! A lane is an output row, so nothing is ever summed across lanes. One `vdpbf16ps` adds two inputs to sixteen rows;
//! each (row, token) has a single accumulator that takes the inputs in ascending order, whatever the tile's shape,
//! which is what makes a result independent of the batch. e4m3, i8 and i4 are widened in registers
//! ([`super::widen`]).

use super::LANES;
use super::widen::{Tables, as_bf16};
use crate::device::host::simd::spread;
use std::arch::x86_64::*;

/// Most tokens of a tile.
pub const MAX_TOKENS: usize = 12;

/// How the weights of a tile are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[pair][row][2]` bf16.
    Bf16,
    /// `[pair][row][2]` i8.
    I8,
    /// `[pair][row][2]` e4m3; the sums are too small by [`super::widen::F8_FACTOR`].
    F8,
    /// 16-bit words of four nibbles, in groups.
    I4,
    /// The same values widened to `[pair][row][2]` bf16, in groups.
    I4Wide,
}

impl Kind {
    /// Bytes of one pair of inputs in a panel.
    pub const fn pair_bytes(self) -> usize {
        match self {
            Kind::Bf16 | Kind::I4Wide => 64,
            Kind::I8 | Kind::F8 => 32,
            Kind::I4 => 16,
        }
    }
}

/// Scales and zero points of i4 weights: `sum += scale * (acc - zero * xsum)` for each group.
#[derive(Clone, Copy)]
pub struct Groups<'a> {
    /// Pairs of inputs in a group, a multiple of 4.
    pub pairs: usize,
    /// `[panel][group][row]` bf16 bits, from the tile's first panel and group.
    pub scale: &'a [half::bf16],
    /// The same order.
    pub zero: Option<&'a [i8]>,
    /// Elements from one panel's scales to the next's.
    pub stride: usize,
    /// `[group][token]`: sums of the tokens' inputs.
    pub xsum: &'a [f32],
}

/// One tile of the product.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// How the weights are stored.
    pub kind: Kind,
    /// From the first panel on.
    pub weights: &'a [u8],
    /// Bytes from one panel to the next.
    pub stride: usize,
    /// `[pair][token]`.
    pub x: &'a [u32],
    /// Pairs of inputs; for i4 a multiple of 4.
    pub pairs: usize,
    /// For i4.
    pub groups: Option<Groups<'a>>,
    /// True if sums start from 0, not from what is in `sums`.
    pub fresh: bool,
}

/// `sums[panel][token][row] += weights x`, for up to [`MAX_TOKENS`] tokens and any number of panels.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ and BF16.
pub unsafe fn tile(t: &Tile<'_>, panels: usize, tokens: usize, sums: &mut [f32]) {
    let grouped = matches!(t.kind, Kind::I4 | Kind::I4Wide);
    assert!((1..=MAX_TOKENS).contains(&tokens) && t.groups.is_some() == grouped);
    if panels == 0 {
        return;
    }
    assert!(t.weights.len() >= (panels - 1) * t.stride + t.pairs * t.kind.pair_bytes());
    assert!(t.x.len() >= t.pairs * tokens && sums.len() >= panels * tokens * LANES);
    let mut raw = Raw {
        weights: t.weights.as_ptr(),
        stride: t.stride,
        x: t.x.as_ptr(),
        pairs: t.pairs,
        group_pairs: 0,
        scale: std::ptr::null(),
        zero: std::ptr::null(),
        scale_stride: 0,
        xsum: std::ptr::null(),
        fresh: t.fresh,
        sums: sums.as_mut_ptr(),
    };
    if let Some(g) = t.groups {
        let groups = t.pairs.div_ceil(g.pairs.max(1));
        let scales = (panels - 1) * g.stride + groups * LANES;
        assert!(t.pairs.is_multiple_of(4) && g.pairs.is_multiple_of(4) && g.pairs > 0);
        assert!(g.scale.len() >= scales && g.zero.is_none_or(|z| z.len() >= scales));
        assert!(g.xsum.len() >= groups * tokens);
        raw.group_pairs = g.pairs;
        raw.scale = g.scale.as_ptr().cast();
        raw.zero = g.zero.map_or(std::ptr::null(), <[i8]>::as_ptr);
        raw.scale_stride = g.stride;
        raw.xsum = g.xsum.as_ptr();
    }
    let mut left = panels;
    while left > 0 {
        let p = if left >= 4 && tokens <= 5 { 4 } else { left.min(2) };
        // SAFETY: the slices hold what `p` panels and `tokens` tokens touch, which was checked above.
        unsafe { kernel(t.kind, p, tokens)(&raw) };
        // Past the end only when nothing is left, and then not read.
        raw.weights = raw.weights.wrapping_add(p * raw.stride);
        raw.scale = raw.scale.wrapping_add(p * raw.scale_stride);
        if !raw.zero.is_null() {
            raw.zero = raw.zero.wrapping_add(p * raw.scale_stride);
        }
        raw.sums = raw.sums.wrapping_add(p * tokens * LANES);
        left -= p;
    }
}

/// A tile as the kernels see it.
struct Raw {
    weights: *const u8,
    stride: usize,
    x: *const u32,
    pairs: usize,
    group_pairs: usize,
    scale: *const u16,
    /// Null if all are 0.
    zero: *const i8,
    scale_stride: usize,
    xsum: *const f32,
    fresh: bool,
    sums: *mut f32,
}

type Kernel = unsafe fn(&Raw);

/// Bytes of a panel by which its weights are fetched before they are used, into the second-level cache: measured, the
/// best of 512 to 4096.
const fn ahead(kind: u8) -> usize {
    if kind == BF16 { 2048 } else { 4096 }
}

const BF16: u8 = 0;
const I8: u8 = 1;
const I4: u8 = 2;
const I4_WIDE: u8 = 3;
const F8: u8 = 4;

fn kernel(kind: Kind, panels: usize, tokens: usize) -> Kernel {
    match kind {
        Kind::Bf16 => shape::<BF16>(panels, tokens),
        Kind::I8 => shape::<I8>(panels, tokens),
        Kind::F8 => shape::<F8>(panels, tokens),
        Kind::I4 => shape::<I4>(panels, tokens),
        Kind::I4Wide => shape::<I4_WIDE>(panels, tokens),
    }
}

/// The kernel for a tile's shape: at most 24 accumulators.
fn shape<const KIND: u8>(panels: usize, tokens: usize) -> Kernel {
    match (panels, tokens) {
        (1, 1) => product::<KIND, 1, 1>,
        (1, 2) => product::<KIND, 1, 2>,
        (1, 3) => product::<KIND, 1, 3>,
        (1, 4) => product::<KIND, 1, 4>,
        (1, 5) => product::<KIND, 1, 5>,
        (1, 6) => product::<KIND, 1, 6>,
        (1, 7) => product::<KIND, 1, 7>,
        (1, 8) => product::<KIND, 1, 8>,
        (1, 9) => product::<KIND, 1, 9>,
        (1, 10) => product::<KIND, 1, 10>,
        (1, 11) => product::<KIND, 1, 11>,
        (1, _) => product::<KIND, 1, 12>,
        (2, 1) => product::<KIND, 2, 1>,
        (2, 2) => product::<KIND, 2, 2>,
        (2, 3) => product::<KIND, 2, 3>,
        (2, 4) => product::<KIND, 2, 4>,
        (2, 5) => product::<KIND, 2, 5>,
        (2, 6) => product::<KIND, 2, 6>,
        (2, 7) => product::<KIND, 2, 7>,
        (2, 8) => product::<KIND, 2, 8>,
        (2, 9) => product::<KIND, 2, 9>,
        (2, 10) => product::<KIND, 2, 10>,
        (2, 11) => product::<KIND, 2, 11>,
        (2, _) => product::<KIND, 2, 12>,
        (_, 1) => product::<KIND, 4, 1>,
        (_, 2) => product::<KIND, 4, 2>,
        (_, 3) => product::<KIND, 4, 3>,
        (_, 4) => product::<KIND, 4, 4>,
        (_, _) => product::<KIND, 4, 5>,
    }
}

/// One tile of `P` panels and `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn product<const KIND: u8, const P: usize, const T: usize>(a: &Raw) {
    let mut acc = [[_mm512_setzero_ps(); T]; P];
    if KIND == BF16 || KIND == I8 || KIND == F8 {
        if !a.fresh {
            for p in 0..P {
                for t in 0..T {
                    // SAFETY: `sums` holds P * T * 16 elements.
                    acc[p][t] = unsafe { _mm512_loadu_ps(a.sums.add((p * T + t) * LANES)) };
                }
            }
        }
        // SAFETY: the weights hold `pairs` pairs for each panel, x for each token.
        unsafe { add_pairs::<KIND, P, T>(a, 0, a.pairs, &mut acc) };
        for p in 0..P {
            for t in 0..T {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(a.sums.add((p * T + t) * LANES), acc[p][t]) };
            }
        }
        return;
    }
    let (mut pair, mut group) = (0, 0);
    while pair < a.pairs {
        let n = a.group_pairs.min(a.pairs - pair);
        acc = [[_mm512_setzero_ps(); T]; P];
        // SAFETY: `pair + n <= pairs`.
        unsafe { add_pairs::<KIND, P, T>(a, pair, n, &mut acc) };
        for p in 0..P {
            let at = p * a.scale_stride + group * LANES;
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
                    let sum = a.sums.add((p * T + t) * LANES);
                    let xsum = _mm512_castsi512_ps(spread(a.xsum.add(group * T + t)));
                    let old = if a.fresh && group == 0 { _mm512_setzero_ps() } else { _mm512_loadu_ps(sum) };
                    let part = _mm512_fnmadd_ps(zero, xsum, acc[p][t]);
                    _mm512_storeu_ps(sum, _mm512_fmadd_ps(scale, part, old));
                }
            }
        }
        pair += n;
        group += 1;
    }
}

/// Adds `n` pairs from `from` on to the accumulators.
///
/// # Safety
/// Weights and x hold these pairs, the processor has the instructions.
#[inline(always)]
unsafe fn add_pairs<const KIND: u8, const P: usize, const T: usize>(
    a: &Raw,
    from: usize,
    n: usize,
    acc: &mut [[__m512; T]; P],
) {
    // SAFETY: the caller's word for pointers and instructions; prefetches may go anywhere.
    unsafe {
        let (pair_bytes, per_line) = match KIND {
            I4 => (16, 4),
            I8 | F8 => (32, 2),
            _ => (64, 1),
        };
        let tables = Tables::new();
        let mut x = a.x.add(from * T);
        let mut at = from * pair_bytes;
        let end = a.pairs * pair_bytes;
        for _ in 0..n / per_line {
            if KIND != I4_WIDE {
                // Beyond the end of these panels come the ones that this thread works on next.
                let next = at + ahead(KIND);
                let next = if next < end { next } else { next - end + P * a.stride };
                for p in 0..P {
                    _mm_prefetch::<_MM_HINT_T1>(a.weights.wrapping_add(next + p * a.stride).cast());
                }
            }
            let line = a.weights.add(at);
            let mut pairs = [as_bf16(_mm512_setzero_si512()); P];
            if KIND == I4 {
                let mut words = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    words[p] = _mm512_loadu_si512(line.add(p * a.stride).cast());
                }
                for _ in 0..per_line {
                    for p in 0..P {
                        pairs[p] = tables.i4(words[p]);
                        words[p] = _mm512_srli_epi16::<4>(words[p]);
                    }
                    add_pair(&pairs, x, acc);
                    x = x.add(T);
                }
            } else {
                for i in 0..per_line {
                    for p in 0..P {
                        let at = line.add(i * pair_bytes + p * a.stride);
                        pairs[p] = match KIND {
                            I8 => tables.i8(at),
                            F8 => tables.f8(at),
                            _ => as_bf16(_mm512_loadu_si512(at.cast())),
                        };
                    }
                    add_pair(&pairs, x, acc);
                    x = x.add(T);
                }
            }
            at += 64;
        }
        if (KIND == I8 || KIND == F8) && !n.is_multiple_of(per_line) {
            let mut pairs = [as_bf16(_mm512_setzero_si512()); P];
            for p in 0..P {
                let at = a.weights.add(at + p * a.stride);
                pairs[p] = if KIND == I8 { tables.i8(at) } else { tables.f8(at) };
            }
            add_pair(&pairs, x, acc);
        }
    }
}

/// Adds one pair of inputs. A token's inputs are used for all panels at once: one register for them is enough.
#[inline(always)]
unsafe fn add_pair<const P: usize, const T: usize>(
    pairs: &[__m512bh; P],
    x: *const u32,
    acc: &mut [[__m512; T]; P],
) {
    for t in 0..T {
        // SAFETY: the caller's word for x and the instructions.
        unsafe {
            let x = as_bf16(spread(x.add(t)));
            for p in 0..P {
                acc[p][t] = _mm512_dpbf16_ps(acc[p][t], pairs[p], x);
            }
        }
    }
}
