//! Values summed by their weights: `sums[panel][row][16] = sum of weight * value`, in f32, positions ascending.

use super::segment::Run;
use crate::device::host::elem::{Elem, Floats, fma, typed};
use crate::device::host::isa::{Isa, per_isa};
use crate::device::host::linear::LANES;

/// Sums the values of `runs` by the weights of `rows` rows, `[panel][row][16]`.
pub fn weigh(
    isa: Isa,
    pages: Floats<'_>,
    dim: usize,
    runs: &[Run],
    weights: &[f32],
    rows: usize,
    sums: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 && rows <= MAX_ROWS {
        let len = typed!(x = pages => x.len());
        for run in runs {
            assert!(run.count >= 1 && run.value + run.count * dim <= len);
            assert!(run.weight + (rows - 1) * LANES + run.count <= weights.len());
        }
        assert!(rows > 0 && sums.len() >= dim.div_ceil(LANES) * rows * LANES);
        let mut panel = 0;
        while panel * LANES < dim {
            let elem = panel * LANES;
            // Panels are done together if they are full.
            let count = match (dim - elem) / LANES {
                0 | 1 => 1,
                2 | 3 => 2,
                _ if rows <= 5 => 4,
                _ => 2,
            };
            let raw = Raw {
                runs,
                values: typed!(x = pages => x.as_ptr().wrapping_add(elem).cast()),
                dim,
                width: LANES.min(dim - elem),
                weights: weights.as_ptr(),
                sums: sums[elem * rows..].as_mut_ptr(),
            };
            // SAFETY: the device admits only an instruction set that the processor has; every run's values and
            // weights are within their slices, and the sums of `count` panels within theirs.
            unsafe {
                match pages {
                    Floats::F32(_) => kernel::<false>(count, rows)(&raw),
                    Floats::Bf16(_) => kernel::<true>(count, rows)(&raw),
                }
            }
            panel += count;
        }
        return;
    }
    typed!(x = pages => weigh_plain(isa, x, dim, runs, weights, rows, sums));
}

per_isa! {
    /// The same, one accumulator row at a time.
    fn weigh_plain<V: Elem>(pages: &[V], dim: usize, runs: &[Run], weights: &[f32], rows: usize, sums: &mut [f32])
        = weigh_body
}

#[inline(always)]
fn weigh_body<const FMA: bool, V: Elem>(
    pages: &[V],
    dim: usize,
    runs: &[Run],
    weights: &[f32],
    rows: usize,
    sums: &mut [f32],
) {
    for (panel, sums) in sums.chunks_exact_mut(rows * LANES).enumerate() {
        let elem = panel * LANES;
        let count = LANES.min(dim - elem);
        for (row, sums) in sums.chunks_exact_mut(LANES).enumerate() {
            let mut acc = [0f32; LANES];
            for run in runs {
                for i in 0..run.count {
                    let weight = weights[run.weight + row * LANES + i];
                    let value = &pages[run.value + i * dim + elem..][..count];
                    if let Some(value) = value.first_chunk::<LANES>() {
                        acc.iter_mut().zip(value).for_each(|(a, v)| *a = fma::<FMA>(weight, v.get(), *a));
                    } else {
                        acc.iter_mut().zip(value).for_each(|(a, v)| *a = fma::<FMA>(weight, v.get(), *a));
                    }
                }
            }
            sums.copy_from_slice(&acc);
        }
    }
}

/// Most rows of a tile.
#[cfg(target_arch = "x86_64")]
const MAX_ROWS: usize = 12;

#[cfg(target_arch = "x86_64")]
struct Raw<'a> {
    runs: &'a [Run],
    /// The first panel's element of the buffer.
    values: *const u8,
    /// Elements from one value to the next.
    dim: usize,
    /// Elements of a panel: 16, or less of a single one.
    width: usize,
    weights: *const f32,
    sums: *mut f32,
}

#[cfg(target_arch = "x86_64")]
type Kernel = unsafe fn(&Raw<'_>);

#[cfg(target_arch = "x86_64")]
fn kernel<const BF16: bool>(panels: usize, rows: usize) -> Kernel {
    match (panels, rows) {
        (1, 1) => sum_runs::<BF16, 1, 1>,
        (1, 2) => sum_runs::<BF16, 1, 2>,
        (1, 3) => sum_runs::<BF16, 1, 3>,
        (1, 4) => sum_runs::<BF16, 1, 4>,
        (1, 5) => sum_runs::<BF16, 1, 5>,
        (1, 6) => sum_runs::<BF16, 1, 6>,
        (1, 7) => sum_runs::<BF16, 1, 7>,
        (1, 8) => sum_runs::<BF16, 1, 8>,
        (1, 9) => sum_runs::<BF16, 1, 9>,
        (1, 10) => sum_runs::<BF16, 1, 10>,
        (1, 11) => sum_runs::<BF16, 1, 11>,
        (1, _) => sum_runs::<BF16, 1, 12>,
        (2, 1) => sum_runs::<BF16, 2, 1>,
        (2, 2) => sum_runs::<BF16, 2, 2>,
        (2, 3) => sum_runs::<BF16, 2, 3>,
        (2, 4) => sum_runs::<BF16, 2, 4>,
        (2, 5) => sum_runs::<BF16, 2, 5>,
        (2, 6) => sum_runs::<BF16, 2, 6>,
        (2, 7) => sum_runs::<BF16, 2, 7>,
        (2, 8) => sum_runs::<BF16, 2, 8>,
        (2, 9) => sum_runs::<BF16, 2, 9>,
        (2, 10) => sum_runs::<BF16, 2, 10>,
        (2, 11) => sum_runs::<BF16, 2, 11>,
        (2, _) => sum_runs::<BF16, 2, 12>,
        (_, 1) => sum_runs::<BF16, 4, 1>,
        (_, 2) => sum_runs::<BF16, 4, 2>,
        (_, 3) => sum_runs::<BF16, 4, 3>,
        (_, 4) => sum_runs::<BF16, 4, 4>,
        (_, _) => sum_runs::<BF16, 4, 5>,
    }
}

/// `P` panels of the values for `R` rows, a register for each.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn sum_runs<const BF16: bool, const P: usize, const R: usize>(a: &Raw<'_>) {
    use crate::device::host::simd::spread;
    use std::arch::x86_64::*;
    let mut acc = [[_mm512_setzero_ps(); R]; P];
    let elem = if BF16 { size_of::<half::bf16>() } else { size_of::<f32>() };
    let mask = (0xffff_u32 >> (LANES - a.width)) as __mmask16;
    // The low and the high 16 of 32 bf16, each to the upper half of an f32.
    let low: [u16; 32] = std::array::from_fn(|i| i as u16 / 2);
    let high: [u16; 32] = std::array::from_fn(|i| 16 + i as u16 / 2);
    // SAFETY: both have 64 bytes.
    let (low, high) =
        unsafe { (_mm512_loadu_si512(low.as_ptr().cast()), _mm512_loadu_si512(high.as_ptr().cast())) };
    for run in a.runs {
        let mut value = a.values.wrapping_add(run.value * elem);
        let mut weight = a.weights.wrapping_add(run.weight);
        for _ in 0..run.count {
            let mut v = [_mm512_setzero_ps(); P];
            // SAFETY: P full panels, or the part of a single one that the mask keeps.
            unsafe {
                if !BF16 {
                    for p in 0..P {
                        v[p] = _mm512_maskz_loadu_ps(mask, value.wrapping_add(p * LANES * elem).cast());
                    }
                } else if P == 1 {
                    let half = _mm256_maskz_loadu_epi16(mask, value.cast());
                    v[0] = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
                } else {
                    for p in 0..P / 2 {
                        let both = _mm512_loadu_si512(value.wrapping_add(p * 64).cast());
                        let upper = |index| {
                            _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaa_aaaa, index, both))
                        };
                        (v[2 * p], v[2 * p + 1]) = (upper(low), upper(high));
                    }
                }
            }
            for r in 0..R {
                // SAFETY: within the weights.
                let w = unsafe { _mm512_castsi512_ps(spread(weight.add(r * LANES))) };
                for p in 0..P {
                    acc[p][r] = _mm512_fmadd_ps(w, v[p], acc[p][r]);
                }
            }
            value = value.wrapping_add(a.dim * elem);
            weight = weight.wrapping_add(1);
        }
    }
    for p in 0..P {
        for r in 0..R {
            // SAFETY: the sums hold P panels of R rows.
            unsafe { _mm512_storeu_ps(a.sums.add((p * R + r) * LANES), acc[p][r]) };
        }
    }
}
