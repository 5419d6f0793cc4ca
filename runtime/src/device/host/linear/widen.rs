//! e4m3, i8 and i4 weights as bf16, in registers: every value of them is exact in bf16.
//!
//! i4 by a table of 16 words; i8 by f32, which takes five instructions. (Tables of the bytes of bf16 take three, and
//! longer: `vpermi2b` of 64 bytes is slow.) e4m3 by f16, which has four bits of exponent more than it needs: shifted there its
//! numbers are too small by a power of two, subnormals too, and the sums are multiplied with it.

use super::dp::Kind;
use std::arch::x86_64::*;

/// The bf16 of the nibbles 0..15, which stand for -8..7, twice.
const NIBBLES: [u16; 32] = {
    let mut table = [0; 32];
    let mut i = 0;
    while i < 32 {
        table[i] = half::bf16::from_f32_const((i % 16) as f32 - 8.0).to_bits();
        i += 1;
    }
    table
};

/// Upper halves of the words of two registers.
const UPPER_HALVES: [u16; 32] = {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        index[i] = 2 * i as u16 + 1;
        i += 1;
    }
    index
};

/// By which e4m3 weights are too small as they are widened here: the biases of the exponents are 15 and 7.
pub const F8_FACTOR: f32 = (1 << 8) as f32;

/// What widening keeps in registers.
#[derive(Clone, Copy)]
pub struct Tables {
    nibbles: __m512i,
    upper_halves: __m512i,
}

impl Tables {
    /// # Safety
    /// The processor has AVX-512 F.
    #[inline(always)]
    pub unsafe fn new() -> Tables {
        // SAFETY: both tables have 64 bytes; the caller's word for the instruction.
        unsafe {
            Tables {
                nibbles: _mm512_loadu_si512(NIBBLES.as_ptr().cast()),
                upper_halves: _mm512_loadu_si512(UPPER_HALVES.as_ptr().cast()),
            }
        }
    }

    /// The lowest nibbles of 32 words.
    ///
    /// # Safety
    /// The processor has AVX-512 BW.
    #[inline(always)]
    pub unsafe fn i4(&self, words: __m512i) -> __m512bh {
        // The index is the low 5 bits; the table's halves are equal, so bit 4 does not matter.
        // SAFETY: the caller's word.
        as_bf16(unsafe { _mm512_permutexvar_epi16(words, self.nibbles) })
    }

    /// 32 signed bytes at an address: f32 of small integers have nothing in their lower halves.
    ///
    /// # Safety
    /// The processor has AVX-512 BW, the address 32 bytes.
    #[inline(always)]
    pub unsafe fn i8(&self, at: *const u8) -> __m512bh {
        // SAFETY: the caller's word.
        unsafe {
            let wide = |at: *const u8| {
                _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))))
            };
            as_bf16(_mm512_permutex2var_epi16(wide(at), self.upper_halves, wide(at.add(16))))
        }
    }

    /// 32 e4m3 at an address, divided by [`F8_FACTOR`]: f32 of numbers with four bits have nothing in their lower halves.
    ///
    /// # Safety
    /// The processor has AVX-512 BW, the address 32 bytes.
    #[inline(always)]
    pub unsafe fn f8(&self, at: *const u8) -> __m512bh {
        // SAFETY: the caller's word.
        unsafe {
            let words = _mm512_slli_epi16::<7>(_mm512_cvtepi8_epi16(_mm256_loadu_si256(at.cast())));
            // The sign is at the top and once more below it, where the top bit of the exponent is to be 0.
            let halves = _mm512_and_si512(words, _mm512_set1_epi16(0xbfff_u16 as i16));
            let wide = |halves| _mm512_castps_si512(_mm512_cvtph_ps(halves));
            let (low, high) = (_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64::<1>(halves));
            as_bf16(_mm512_permutex2var_epi16(wide(low), self.upper_halves, wide(high)))
        }
    }
}

/// e4m3 in the upper bytes of words, as f16 that are too small by [`F8_FACTOR`]: signs at the top, the others below the
/// top bit of the exponent. What is in the lower bytes is lost.
///
/// # Safety
/// The processor has AVX-512 BW and VL.
#[inline(always)]
pub unsafe fn f8_upper(words: __m256i) -> __m256i {
    // SAFETY: the caller's word.
    unsafe { _mm256_and_si256(_mm256_srai_epi16::<1>(words), _mm256_set1_epi16(0xbf80_u16 as i16)) }
}

/// The same bits.
#[inline(always)]
pub fn as_bf16(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and every pattern is a value.
    unsafe { std::mem::transmute(x) }
}

/// Widens `pairs` pairs of a panel of e4m3, i8 or i4 (a multiple of 4) to bf16. As many bytes are asked for at `next`,
/// wherever that is.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and DQ.
pub unsafe fn panel(kind: Kind, panel: &[u8], pairs: usize, out: &mut [half::bf16], next: *const u8) {
    // SAFETY: the caller's word.
    unsafe {
        match kind {
            Kind::F8 => byte_panel::<true>(panel, pairs, out, next),
            Kind::I8 => byte_panel::<false>(panel, pairs, out, next),
            Kind::I4 | Kind::I4Wide | Kind::Bf16 => i4_panel(panel, pairs, out, next),
        }
    }
}

/// Widens pairs of bytes, of e4m3 or of i8.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn byte_panel<const F8: bool>(panel: &[u8], pairs: usize, out: &mut [half::bf16], next: *const u8) {
    assert!(panel.len() >= pairs * 32 && out.len() >= pairs * 32);
    // SAFETY: the instructions are there.
    let tables = unsafe { Tables::new() };
    for i in 0..pairs {
        if i % 2 == 0 {
            _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(i * 32).cast());
        }
        // SAFETY: within both slices.
        unsafe {
            let at = panel.as_ptr().add(i * 32);
            put(if F8 { tables.f8(at) } else { tables.i8(at) }, out.as_mut_ptr().add(i * 32));
        }
    }
}

/// Widens nibbles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn i4_panel(panel: &[u8], pairs: usize, out: &mut [half::bf16], next: *const u8) {
    assert!(pairs.is_multiple_of(4) && panel.len() >= pairs * 16 && out.len() >= pairs * 32);
    // SAFETY: the instructions are there.
    let tables = unsafe { Tables::new() };
    for i in 0..pairs / 4 {
        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(i * 64).cast());
        // SAFETY: within both slices.
        unsafe {
            let words = _mm512_loadu_si512(panel.as_ptr().add(i * 64).cast());
            put(tables.i4(words), out.as_mut_ptr().add(i * 4 * 32));
            for j in 1..4 {
                // A shift by a product: shifts and tables would wait for one another.
                let words = _mm512_mulhi_epu16(words, _mm512_set1_epi16(1 << (16 - 4 * j)));
                put(tables.i4(words), out.as_mut_ptr().add((i * 4 + j) * 32));
            }
        }
    }
}

/// Stores 32 elements.
#[inline(always)]
unsafe fn put(pairs: __m512bh, to: *mut half::bf16) {
    // SAFETY: the caller's word for the place and the instruction; both types have 64 bytes.
    unsafe { _mm512_storeu_si512(to.cast(), std::mem::transmute::<__m512bh, __m512i>(pairs)) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::host::isa::Isa;
    use half::bf16;

    #[test]
    fn every_value_is_exact() {
        if !Isa::Avx512Bf16.available() {
            return;
        }
        let bytes: Vec<u8> = (-128i8..=127).chain([0; 32]).map(|v| v as u8).collect();
        for pairs in [1, 2, 7, 8, 9] {
            let mut out = vec![bf16::NAN; pairs * 32];
            // SAFETY: the instructions are there.
            unsafe { panel(Kind::I8, &bytes, pairs, &mut out, bytes.as_ptr()) };
            assert!(out.iter().zip(&bytes).all(|(o, b)| o.to_f32() == f32::from(*b as i8)), "{out:?}");
            // SAFETY: as above.
            unsafe { panel(Kind::F8, &bytes, pairs, &mut out, bytes.as_ptr()) };
            for (o, b) in out.iter().zip(&bytes).filter(|(_, b)| *b & 0x7f != 0x7f) {
                assert_eq!((o.to_f32() * F8_FACTOR).to_bits(), trtc_engine::layout::e4m3(*b).to_bits());
            }
        }
        // Word i has the nibbles i, i + 1, i + 2, i + 3.
        let words = (0..32u16).map(|i| (0..4).fold(0, |w, j| w | ((i + j) % 16) << (4 * j)));
        let nibbles: Vec<u8> = words.flat_map(u16::to_le_bytes).collect();
        let mut out = vec![bf16::NAN; 128];
        // SAFETY: the instructions are there.
        unsafe { panel(Kind::I4, &nibbles, 4, &mut out, nibbles.as_ptr()) };
        for (i, o) in out.iter().enumerate() {
            assert_eq!(o.to_f32(), ((i % 32 + i / 32) % 16) as f32 - 8.0);
        }
    }
}
