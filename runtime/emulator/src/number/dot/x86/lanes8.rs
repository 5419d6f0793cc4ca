//! Operations on 8 lanes with AVX2, under the names that the kernel uses.

use std::arch::x86_64::*;

/// 8 numbers.
type Floats = __m256;

/// 8 integers.
type Ints = __m256i;

/// A truth for each lane.
type Mask = __m256i;

/// 4 numbers of 64 bits.
type Doubles = __m256d;

#[target_feature(enable = "avx2")]
#[inline]
pub fn load(lanes: &[f32; 8]) -> Floats {
    // SAFETY: the array has as many lanes as the register; the load may be unaligned.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn load_ints(lanes: &[i32; 8]) -> Ints {
    // SAFETY: as in `load`.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn store(x: Floats) -> [f32; 8] {
    let mut out = [0.0; 8];
    // SAFETY: as in `load`.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) };
    out
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn store_ints(x: Ints) -> [i32; 8] {
    let mut out = [0; 8];
    // SAFETY: as in `load`.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
    out
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn store_doubles(x: [Doubles; 2]) -> [f64; 8] {
    let mut out = [0.0; 8];
    let (low, high) = out.split_at_mut(4);
    // SAFETY: each half has as many lanes as the register.
    unsafe {
        _mm256_storeu_pd(low.as_mut_ptr(), x[0]);
        _mm256_storeu_pd(high.as_mut_ptr(), x[1]);
    }
    out
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn all(x: i32) -> Ints {
    _mm256_set1_epi32(x)
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn all_floats(x: f32) -> Floats {
    _mm256_set1_ps(x)
}

/// Wraps around.
#[target_feature(enable = "avx2")]
#[inline]
pub fn add(a: Ints, b: Ints) -> Ints {
    _mm256_add_epi32(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn sub(a: Ints, b: Ints) -> Ints {
    _mm256_sub_epi32(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn max(a: Ints, b: Ints) -> Ints {
    _mm256_max_epi32(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn mul(a: Floats, b: Floats) -> Floats {
    _mm256_mul_ps(a, b)
}

/// Toward zero.
#[target_feature(enable = "avx2")]
#[inline]
pub fn truncate(x: Floats) -> Ints {
    _mm256_cvttps_epi32(x)
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn clear_sign(x: Floats) -> Ints {
    _mm256_and_si256(_mm256_castps_si256(x), all(0x7fff_ffff))
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn exponent_field(magnitude: Ints) -> Ints {
    _mm256_srli_epi32::<23>(magnitude)
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn power_of_two(power: Ints) -> Floats {
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(add(power, all(127))))
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn less(a: Ints, b: Ints) -> Mask {
    _mm256_cmpgt_epi32(b, a)
}

#[target_feature(enable = "avx2")]
#[inline]
pub fn select(mask: Mask, yes: Ints, no: Ints) -> Ints {
    _mm256_blendv_epi8(no, yes, mask)
}

/// Whether any lane is below `low` or above `high`.
#[target_feature(enable = "avx2")]
#[inline]
pub fn outside(x: Ints, low: Ints, high: Ints) -> bool {
    _mm256_movemask_epi8(_mm256_or_si256(less(x, low), less(high, x))) != 0
}

#[target_feature(enable = "avx2")]
#[inline]
fn halves(x: Ints) -> [Doubles; 2] {
    let (low, high) = (_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    [_mm256_cvtepi32_pd(low), _mm256_cvtepi32_pd(high)]
}

/// The sum of all three, exactly.
#[target_feature(enable = "avx2")]
#[inline]
pub fn total(sums: [Ints; 2], addend: Ints) -> [Doubles; 2] {
    let ([a, b], [c, d], [e, f]) = (halves(sums[0]), halves(sums[1]), halves(addend));
    [_mm256_add_pd(_mm256_add_pd(a, c), e), _mm256_add_pd(_mm256_add_pd(b, d), f)]
}

/// Without the bits that are not `kept`.
#[target_feature(enable = "avx2")]
#[inline]
pub fn narrow(x: [Doubles; 2], kept: u64) -> Floats {
    let kept = _mm256_set1_pd(f64::from_bits(kept));
    let [low, high] = x.map(|x| _mm256_cvtpd_ps(_mm256_and_pd(x, kept)));
    _mm256_set_m128(high, low)
}
