//! f32 products: a tile of f32 or bf16 panels times a tile of tokens, for AVX-512, AVX2 and portable code.
//!
//! As in `dp.rs` a lane is an output row with a single accumulator, inputs in ascending order. bf16 is widened in
//! registers, which is exact.

use super::LANES;
use crate::device::host::isa::Isa;
use half::bf16;

/// Panels as the kernels read them.
#[derive(Clone, Copy)]
pub enum Panels<'a> {
    /// `[input][row]`.
    F32(&'a [f32]),
    /// `[pair][row][2]`.
    Bf16(&'a [bf16]),
}

/// One tile of the product.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// From the first panel on.
    pub weights: Panels<'a>,
    /// Elements from one panel to the next.
    pub stride: usize,
    /// `[input][token]`.
    pub x: &'a [f32],
    /// Inputs; even for bf16.
    pub inputs: usize,
    /// True if sums start from 0, not from what is in `sums`.
    pub fresh: bool,
}

/// Most tokens of a tile.
pub fn max_tokens(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => 12,
        Isa::Avx2 => 6,
        Isa::Scalar => 4,
    }
}

/// `sums[panel][token][row] += weights x`, for up to [`max_tokens`] tokens and any number of panels.
pub fn tile(isa: Isa, t: &Tile<'_>, panels: usize, tokens: usize, sums: &mut [f32]) {
    assert!((1..=max_tokens(isa)).contains(&tokens));
    if panels == 0 {
        return;
    }
    let (weights, len, elem, narrow) = match t.weights {
        Panels::F32(w) => (w.as_ptr().cast::<u8>(), w.len(), size_of::<f32>(), false),
        Panels::Bf16(w) => (w.as_ptr().cast::<u8>(), w.len(), size_of::<bf16>(), true),
    };
    assert!(len >= (panels - 1) * t.stride + t.inputs * LANES && (!narrow || t.inputs.is_multiple_of(2)));
    assert!(t.x.len() >= t.inputs * tokens && sums.len() >= panels * tokens * LANES);
    let mut raw = Raw {
        weights,
        stride: t.stride * elem,
        x: t.x.as_ptr(),
        inputs: t.inputs,
        fresh: t.fresh,
        sums: sums.as_mut_ptr(),
    };
    let mut left = panels;
    while left > 0 {
        let (p, kernel) =
            if narrow { kernel::<true>(isa, left, tokens) } else { kernel::<false>(isa, left, tokens) };
        // SAFETY: the slices hold what `p` panels and `tokens` tokens touch, and the device admits only an
        // instruction set that the processor has.
        unsafe { kernel(&raw) };
        // Past the end only when nothing is left, and then not read.
        raw.weights = raw.weights.wrapping_add(p * raw.stride);
        raw.sums = raw.sums.wrapping_add(p * tokens * LANES);
        left -= p;
    }
}

/// A tile as the kernels see it.
struct Raw {
    weights: *const u8,
    /// Bytes from one panel to the next.
    stride: usize,
    x: *const f32,
    inputs: usize,
    fresh: bool,
    sums: *mut f32,
}

type Kernel = unsafe fn(&Raw);

/// The kernel for at most `left` panels, and how many it takes.
fn kernel<const NARROW: bool>(isa: Isa, left: usize, tokens: usize) -> (usize, Kernel) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => match (left, tokens) {
            (1, _) => (1, x86::avx512::<NARROW, 1>(tokens)),
            (2 | 3, _) | (_, 6..) => (2, x86::avx512::<NARROW, 2>(tokens)),
            (_, 1) => (4, x86::with_avx512::<NARROW, 4, 1>),
            (_, 2) => (4, x86::with_avx512::<NARROW, 4, 2>),
            (_, 3) => (4, x86::with_avx512::<NARROW, 4, 3>),
            (_, 4) => (4, x86::with_avx512::<NARROW, 4, 4>),
            (_, _) => (4, x86::with_avx512::<NARROW, 4, 5>),
        },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => match (left, tokens) {
            (2.., 1) => (2, x86::with_avx2::<NARROW, 2, 1>),
            (2.., 2) => (2, x86::with_avx2::<NARROW, 2, 2>),
            (_, 1) => (1, x86::with_avx2::<NARROW, 1, 1>),
            (_, 2) => (1, x86::with_avx2::<NARROW, 1, 2>),
            (_, 3) => (1, x86::with_avx2::<NARROW, 1, 3>),
            (_, 4) => (1, x86::with_avx2::<NARROW, 1, 4>),
            (_, 5) => (1, x86::with_avx2::<NARROW, 1, 5>),
            (_, _) => (1, x86::with_avx2::<NARROW, 1, 6>),
        },
        _ => match tokens {
            1 => (1, portable::<NARROW, 1>),
            2 => (1, portable::<NARROW, 2>),
            3 => (1, portable::<NARROW, 3>),
            _ => (1, portable::<NARROW, 4>),
        },
    }
}

/// One panel and `T` tokens in portable code.
unsafe fn portable<const NARROW: bool, const T: usize>(a: &Raw) {
    let (mut acc, per_step) = ([[0f32; LANES]; T], 1 + usize::from(NARROW));
    // SAFETY: the weights hold `inputs` inputs of the panel, x of each token, `sums` T * 16 elements.
    let (x, sums) = unsafe {
        (std::slice::from_raw_parts(a.x, a.inputs * T), std::slice::from_raw_parts_mut(a.sums, T * LANES))
    };
    if !a.fresh {
        acc.as_flattened_mut().copy_from_slice(sums);
    }
    for (step, x) in x.chunks_exact(T * per_step).enumerate() {
        for (odd, x) in x.chunks_exact(T).enumerate() {
            let mut rows = [0f32; LANES];
            for (r, row) in rows.iter_mut().enumerate() {
                // SAFETY: as above.
                *row = unsafe {
                    if NARROW {
                        let bits = a.weights.cast::<u16>().add((step * LANES + r) * 2 + odd).read();
                        f32::from_bits(u32::from(bits) << 16)
                    } else {
                        a.weights.cast::<f32>().add(step * LANES + r).read()
                    }
                };
            }
            for t in 0..T {
                for r in 0..LANES {
                    acc[t][r] += rows[r] * x[t];
                }
            }
        }
    }
    sums.copy_from_slice(acc.as_flattened());
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The same with registers: one (AVX-512) or two (AVX2) for each panel and token.

    use super::{Kernel, LANES, Raw};
    use crate::device::host::simd::spread;
    use std::arch::x86_64::*;

    /// Bytes of a panel by which its weights are fetched before they are used.
    const AHEAD: usize = 2048;

    /// The kernel for one or two panels.
    pub fn avx512<const NARROW: bool, const P: usize>(tokens: usize) -> Kernel {
        match tokens {
            1 => with_avx512::<NARROW, P, 1>,
            2 => with_avx512::<NARROW, P, 2>,
            3 => with_avx512::<NARROW, P, 3>,
            4 => with_avx512::<NARROW, P, 4>,
            5 => with_avx512::<NARROW, P, 5>,
            6 => with_avx512::<NARROW, P, 6>,
            7 => with_avx512::<NARROW, P, 7>,
            8 => with_avx512::<NARROW, P, 8>,
            9 => with_avx512::<NARROW, P, 9>,
            10 => with_avx512::<NARROW, P, 10>,
            11 => with_avx512::<NARROW, P, 11>,
            _ => with_avx512::<NARROW, P, 12>,
        }
    }

    /// One tile of `P` panels and `T` tokens.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn with_avx512<const NARROW: bool, const P: usize, const T: usize>(a: &Raw) {
        let mut acc = [[_mm512_setzero_ps(); T]; P];
        let steps = if NARROW { a.inputs / 2 } else { a.inputs };
        let end = 64 * steps;
        // SAFETY: `sums` holds P * T * 16 elements, the weights `inputs` inputs of each panel, x of each token;
        // prefetches may go anywhere.
        unsafe {
            if !a.fresh {
                for p in 0..P {
                    for t in 0..T {
                        acc[p][t] = _mm512_loadu_ps(a.sums.add((p * T + t) * LANES));
                    }
                }
            }
            let mut x = a.x;
            for at in (0..end).step_by(64) {
                // Beyond the end of these panels come the ones that this thread works on next.
                let next = at + AHEAD;
                let next = if next < end { next } else { next - end + P * a.stride };
                let mut words = [_mm512_setzero_ps(); P];
                for p in 0..P {
                    _mm_prefetch::<_MM_HINT_T1>(a.weights.wrapping_add(next + p * a.stride).cast());
                    words[p] = _mm512_loadu_ps(a.weights.add(at + p * a.stride).cast());
                }
                if NARROW {
                    let mut low = words;
                    for p in 0..P {
                        low[p] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(words[p])));
                    }
                    add_input(&low, x, &mut acc);
                    x = x.wrapping_add(T);
                    let upper = _mm512_castsi512_ps(_mm512_set1_epi32(0xffff_0000_u32 as i32));
                    for p in 0..P {
                        words[p] = _mm512_and_ps(words[p], upper);
                    }
                }
                add_input(&words, x, &mut acc);
                x = x.wrapping_add(T);
            }
            for p in 0..P {
                for t in 0..T {
                    _mm512_storeu_ps(a.sums.add((p * T + t) * LANES), acc[p][t]);
                }
            }
        }
    }

    /// Adds one input. A token's value is used for all panels at once: one register for it is enough.
    #[inline(always)]
    unsafe fn add_input<const P: usize, const T: usize>(
        rows: &[__m512; P],
        x: *const f32,
        acc: &mut [[__m512; T]; P],
    ) {
        for t in 0..T {
            // SAFETY: the caller's word for x and the instructions.
            unsafe {
                let x = _mm512_castsi512_ps(spread(x.add(t)));
                for p in 0..P {
                    acc[p][t] = _mm512_fmadd_ps(rows[p], x, acc[p][t]);
                }
            }
        }
    }

    /// One tile of `P` panels and `T` tokens.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn with_avx2<const NARROW: bool, const P: usize, const T: usize>(a: &Raw) {
        let mut acc = [[[_mm256_setzero_ps(); 2]; T]; P];
        let steps = if NARROW { a.inputs / 2 } else { a.inputs };
        // SAFETY: as in `with_avx512`.
        unsafe {
            if !a.fresh {
                for p in 0..P {
                    for t in 0..T {
                        for h in 0..2 {
                            acc[p][t][h] = _mm256_loadu_ps(a.sums.add((p * T + t) * LANES + 8 * h));
                        }
                    }
                }
            }
            let mut x = a.x;
            for step in 0..steps {
                let mut words = [[_mm256_setzero_ps(); 2]; P];
                for p in 0..P {
                    for h in 0..2 {
                        let at = a.weights.add(step * 64 + p * a.stride + 32 * h);
                        words[p][h] = _mm256_loadu_ps(at.cast());
                    }
                }
                if NARROW {
                    let mut low = words;
                    for half in low.as_flattened_mut() {
                        *half = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(*half)));
                    }
                    add_halves(&low, x, &mut acc);
                    x = x.wrapping_add(T);
                    let upper = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32));
                    for half in words.as_flattened_mut() {
                        *half = _mm256_and_ps(*half, upper);
                    }
                }
                add_halves(&words, x, &mut acc);
                x = x.wrapping_add(T);
            }
            for p in 0..P {
                for t in 0..T {
                    for h in 0..2 {
                        _mm256_storeu_ps(a.sums.add((p * T + t) * LANES + 8 * h), acc[p][t][h]);
                    }
                }
            }
        }
    }

    /// Adds one input.
    #[inline(always)]
    unsafe fn add_halves<const P: usize, const T: usize>(
        rows: &[[__m256; 2]; P],
        x: *const f32,
        acc: &mut [[[__m256; 2]; T]; P],
    ) {
        for t in 0..T {
            // SAFETY: the caller's word for x and the instructions.
            unsafe {
                let x = _mm256_set1_ps(*x.add(t));
                for p in 0..P {
                    for h in 0..2 {
                        acc[p][t][h] = _mm256_fmadd_ps(rows[p][h], x, acc[p][t][h]);
                    }
                }
            }
        }
    }
}
