//! Operations on 16 lanes with AVX-512, under the names that the kernel uses.

use std::arch::x86_64::*;

/// 16 numbers.
type Floats = __m512;

/// 16 integers.
type Ints = __m512i;

/// A truth for each lane.
type Mask = __mmask16;

/// 8 numbers of 64 bits.
type Doubles = __m512d;

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn load(lanes: &[f32; 16]) -> Floats {
    // SAFETY: the array has as many lanes as the register; the load may be unaligned.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn load_ints(lanes: &[i32; 16]) -> Ints {
    // SAFETY: as in `load`.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn store(x: Floats) -> [f32; 16] {
    let mut out = [0.0; 16];
    // SAFETY: as in `load`.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
    out
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn store_ints(x: Ints) -> [i32; 16] {
    let mut out = [0; 16];
    // SAFETY: as in `load`.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) };
    out
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn store_doubles(x: [Doubles; 2]) -> [f64; 16] {
    let mut out = [0.0; 16];
    let (low, high) = out.split_at_mut(8);
    // SAFETY: each half has as many lanes as the register.
    unsafe {
        _mm512_storeu_pd(low.as_mut_ptr(), x[0]);
        _mm512_storeu_pd(high.as_mut_ptr(), x[1]);
    }
    out
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn all(x: i32) -> Ints {
    _mm512_set1_epi32(x)
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn all_floats(x: f32) -> Floats {
    _mm512_set1_ps(x)
}

/// Wraps around.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn add(a: Ints, b: Ints) -> Ints {
    _mm512_add_epi32(a, b)
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn sub(a: Ints, b: Ints) -> Ints {
    _mm512_sub_epi32(a, b)
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn max(a: Ints, b: Ints) -> Ints {
    _mm512_max_epi32(a, b)
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn mul(a: Floats, b: Floats) -> Floats {
    _mm512_mul_ps(a, b)
}

/// Toward zero.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn truncate(x: Floats) -> Ints {
    _mm512_cvttps_epi32(x)
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn clear_sign(x: Floats) -> Ints {
    _mm512_and_si512(_mm512_castps_si512(x), all(0x7fff_ffff))
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn exponent_field(magnitude: Ints) -> Ints {
    _mm512_srli_epi32::<23>(magnitude)
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn power_of_two(power: Ints) -> Floats {
    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(add(power, all(127))))
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn less(a: Ints, b: Ints) -> Mask {
    _mm512_cmplt_epi32_mask(a, b)
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn select(mask: Mask, yes: Ints, no: Ints) -> Ints {
    _mm512_mask_blend_epi32(mask, no, yes)
}

/// Whether any lane is below `low` or above `high`.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn outside(x: Ints, low: Ints, high: Ints) -> bool {
    (less(x, low) | less(high, x)) != 0
}

#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn halves(x: Ints) -> [Doubles; 2] {
    let (low, high) = (_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x));
    [_mm512_cvtepi32_pd(low), _mm512_cvtepi32_pd(high)]
}

/// The sum of all three, exactly.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn total(sums: [Ints; 2], addend: Ints) -> [Doubles; 2] {
    let ([a, b], [c, d], [e, f]) = (halves(sums[0]), halves(sums[1]), halves(addend));
    [_mm512_add_pd(_mm512_add_pd(a, c), e), _mm512_add_pd(_mm512_add_pd(b, d), f)]
}

/// Without the bits that are not `kept`.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub fn narrow(x: [Doubles; 2], kept: u64) -> Floats {
    let kept = _mm512_set1_pd(f64::from_bits(kept));
    let [low, high] = x.map(|x| _mm512_cvtpd_ps(_mm512_and_pd(x, kept)));
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
}
