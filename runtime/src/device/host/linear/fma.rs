//! f32 products: a tile of panels `[input][row]` times a tile of tokens, for AVX-512, AVX2 and portable code.
//!
//! As in `dp.rs` a lane is an output row with a single accumulator, inputs in ascending order.

use super::LANES;
use crate::device::host::isa::Isa;

/// One tile of the product.
#[derive(Clone, Copy)]
pub struct Tile<'a> {
    /// `[input][row]`, from the first panel on.
    pub weights: &'a [f32],
    /// Elements from one panel to the next.
    pub stride: usize,
    /// `[input][token]`.
    pub x: &'a [f32],
    /// Inputs.
    pub inputs: usize,
    /// True if sums start from 0, not from what is in `sums`.
    pub fresh: bool,
}

/// Most tokens of a tile.
pub fn max_tokens(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 | Isa::Avx512Bf16 => 12,
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
    assert!(t.weights.len() >= (panels - 1) * t.stride + t.inputs * LANES);
    assert!(t.x.len() >= t.inputs * tokens && sums.len() >= panels * tokens * LANES);
    let mut raw = Raw {
        weights: t.weights.as_ptr(),
        stride: t.stride,
        x: t.x.as_ptr(),
        inputs: t.inputs,
        fresh: t.fresh,
        sums: sums.as_mut_ptr(),
    };
    let mut left = panels;
    while left > 0 {
        let (p, kernel) = kernel(isa, left, tokens);
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
    weights: *const f32,
    stride: usize,
    x: *const f32,
    inputs: usize,
    fresh: bool,
    sums: *mut f32,
}

type Kernel = unsafe fn(&Raw);

/// The kernel for at most `left` panels, and how many it takes.
fn kernel(isa: Isa, left: usize, tokens: usize) -> (usize, Kernel) {
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512 | Isa::Avx512Bf16 if tokens <= 6 => {
            return match left {
                0 | 1 => (1, few!(avx512, 1, tokens)),
                2 | 3 => (2, few!(avx512, 2, tokens)),
                _ => (4, few!(avx512, 4, tokens)),
            };
        }
        Isa::Avx512 | Isa::Avx512Bf16 => {
            return if left == 1 {
                (1, many!(avx512, 1, tokens))
            } else {
                (2, many!(avx512, 2, tokens))
            };
        }
        Isa::Avx2 if tokens <= 1 && left >= 4 => return (4, avx2::<4, 1>),
        Isa::Avx2 if tokens <= 3 && left >= 2 => {
            return match tokens {
                1 => (2, avx2::<2, 1>),
                2 => (2, avx2::<2, 2>),
                _ => (2, avx2::<2, 3>),
            };
        }
        Isa::Avx2 => return (1, few!(avx2, 1, tokens)),
        Isa::Scalar => {}
    }
    let _ = (isa, left);
    match tokens {
        1 => (1, portable::<1, 1>),
        2 => (1, portable::<1, 2>),
        3 => (1, portable::<1, 3>),
        _ => (1, portable::<1, 4>),
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! few {
    ($f:ident, $p:literal, $tokens:expr) => {
        match $tokens {
            1 => $f::<$p, 1> as Kernel,
            2 => $f::<$p, 2>,
            3 => $f::<$p, 3>,
            4 => $f::<$p, 4>,
            5 => $f::<$p, 5>,
            _ => $f::<$p, 6>,
        }
    };
}
#[cfg(target_arch = "x86_64")]
macro_rules! many {
    ($f:ident, $p:literal, $tokens:expr) => {
        match $tokens {
            7 => $f::<$p, 7> as Kernel,
            8 => $f::<$p, 8>,
            9 => $f::<$p, 9>,
            10 => $f::<$p, 10>,
            11 => $f::<$p, 11>,
            _ => $f::<$p, 12>,
        }
    };
}
#[cfg(target_arch = "x86_64")]
use {few, many};

/// One tile of `P` panels and `T` tokens, a register for each (panel, token).
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn avx512<const P: usize, const T: usize>(a: &Raw) {
    use std::arch::x86_64::*;
    let mut acc = [[_mm512_setzero_ps(); T]; P];
    // SAFETY: `sums` holds P * T * 16 elements, the weights `inputs` rows of each panel, x of each token.
    unsafe {
        if !a.fresh {
            for p in 0..P {
                for t in 0..T {
                    acc[p][t] = _mm512_loadu_ps(a.sums.add((p * T + t) * LANES));
                }
            }
        }
        let (mut w, mut x) = (a.weights, a.x);
        for _ in 0..a.inputs {
            let mut rows = [_mm512_setzero_ps(); P];
            for p in 0..P {
                rows[p] = _mm512_loadu_ps(w.wrapping_add(p * a.stride));
            }
            for t in 0..T {
                let x = _mm512_set1_ps(*x.add(t));
                for p in 0..P {
                    acc[p][t] = _mm512_fmadd_ps(rows[p], x, acc[p][t]);
                }
            }
            w = w.wrapping_add(LANES);
            x = x.wrapping_add(T);
        }
        for p in 0..P {
            for t in 0..T {
                _mm512_storeu_ps(a.sums.add((p * T + t) * LANES), acc[p][t]);
            }
        }
    }
}

/// The same with two registers for each (panel, token).
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const P: usize, const T: usize>(a: &Raw) {
    use std::arch::x86_64::*;
    let mut acc = [[[_mm256_setzero_ps(); 2]; T]; P];
    // SAFETY: as in `avx512`.
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
        let (mut w, mut x) = (a.weights, a.x);
        for _ in 0..a.inputs {
            let mut rows = [[_mm256_setzero_ps(); 2]; P];
            for p in 0..P {
                for h in 0..2 {
                    rows[p][h] = _mm256_loadu_ps(w.wrapping_add(p * a.stride + 8 * h));
                }
            }
            for t in 0..T {
                let x = _mm256_set1_ps(*x.add(t));
                for p in 0..P {
                    for h in 0..2 {
                        acc[p][t][h] = _mm256_fmadd_ps(rows[p][h], x, acc[p][t][h]);
                    }
                }
            }
            w = w.wrapping_add(LANES);
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

/// The same in portable code.
unsafe fn portable<const P: usize, const T: usize>(a: &Raw) {
    // SAFETY: as in `avx512`.
    let (weights, x, sums) = unsafe {
        let weights = std::slice::from_raw_parts(a.weights, (P - 1) * a.stride + a.inputs * LANES);
        let x = std::slice::from_raw_parts(a.x, a.inputs * T);
        (weights, x, std::slice::from_raw_parts_mut(a.sums, P * T * LANES))
    };
    for p in 0..P {
        let mut acc = [[0f32; LANES]; T];
        if !a.fresh {
            for t in 0..T {
                acc[t].copy_from_slice(&sums[(p * T + t) * LANES..][..LANES]);
            }
        }
        let panel = &weights[p * a.stride..][..a.inputs * LANES];
        for (rows, x) in panel.chunks_exact(LANES).zip(x.chunks_exact(T)) {
            for t in 0..T {
                for r in 0..LANES {
                    acc[t][r] += rows[r] * x[t];
                }
            }
        }
        for t in 0..T {
            sums[(p * T + t) * LANES..][..LANES].copy_from_slice(&acc[t]);
        }
    }
}
