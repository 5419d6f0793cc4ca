//! Keys turned so that a lane is a position: blocks of 16 keys for the same kernels that multiply weights.

use super::Dot;
use crate::device::host::elem::{Elem, Floats};
use crate::device::host::isa::{Isa, per_isa};
use crate::device::host::linear::LANES;

/// Writes `[word][position]`: words of two bf16 for bf16 dot products, of one f32 otherwise. The keys at `places` go
/// to lanes from `first` on; other lanes become 0.
pub fn turn(
    isa: Isa,
    pages: Floats<'_>,
    dot: Dot,
    dim: usize,
    first: usize,
    places: &[usize],
    block: &mut [u32],
) {
    assert!(first + places.len() <= LANES);
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 && (matches!(pages, Floats::F32(_)) || dim.is_multiple_of(2)) {
        let (base, len, elem) = match pages {
            Floats::F32(x) => (x.as_ptr().cast::<u8>(), x.len(), size_of::<f32>()),
            Floats::Bf16(x) => (x.as_ptr().cast::<u8>(), x.len(), size_of::<half::bf16>()),
        };
        let words = dim * elem / size_of::<u32>();
        assert!(places.iter().all(|p| p + dim <= len));
        let mut rows = [std::ptr::null(); LANES];
        for (row, place) in rows[first..].iter_mut().zip(places) {
            *row = base.wrapping_add(place * elem).cast();
        }
        let split = dot == Dot::F32 && elem < size_of::<f32>();
        assert!(block.len() >= words * LANES * (1 + usize::from(split)));
        // SAFETY: the device admits only an instruction set that the processor has; every row that is not null
        // holds `words` words, the block 16 of each, or of both halves of each.
        unsafe {
            if split {
                turn_words::<true>(&rows, words, block.as_mut_ptr());
            } else {
                turn_words::<false>(&rows, words, block.as_mut_ptr());
            }
        }
        return;
    }
    let _ = dot;
    match pages {
        Floats::F32(x) => turn_f32(isa, x, dim, first, places, block),
        Floats::Bf16(x) => turn_f32(isa, x, dim, first, places, block),
    }
}

per_isa! {
    /// Widens and turns.
    fn turn_f32<K: Elem>(pages: &[K], dim: usize, first: usize, places: &[usize], block: &mut [u32]) = turn_body
}

#[inline(always)]
fn turn_body<const FMA: bool, K: Elem>(
    pages: &[K],
    dim: usize,
    first: usize,
    places: &[usize],
    block: &mut [u32],
) {
    block[..dim * LANES].fill(0);
    for (lane, place) in (first..).zip(places) {
        let column = block.iter_mut().skip(lane).step_by(LANES);
        column.zip(&pages[*place..place + dim]).for_each(|(o, k)| *o = k.get().to_bits());
    }
}

/// Turns 16 rows of `words` words; rows that are null are 0. With `SPLIT` a word is two bf16, which become f32.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn turn_words<const SPLIT: bool>(rows: &[*const u32; LANES], words: usize, out: *mut u32) {
    use std::arch::x86_64::*;
    for from in (0..words).step_by(LANES) {
        let n = LANES.min(words - from);
        let mask = (0xffff_u32 >> (LANES - n)) as __mmask16;
        let mut r = [_mm512_setzero_si512(); LANES];
        for (r, row) in r.iter_mut().zip(rows) {
            // SAFETY: a row that is not null holds the words that the mask keeps.
            unsafe {
                let mask = if row.is_null() { 0 } else { mask };
                *r = _mm512_maskz_loadu_epi32(mask, row.wrapping_add(from).cast());
            }
        }
        // 4 x 4 words within 128-bit lanes ...
        let mut t = r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..4 {
            r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        // ... then 4 x 4 lanes.
        for j in 0..4 {
            let ab = _mm512_shuffle_i32x4::<0x44>(r[j], r[4 + j]);
            let ab_high = _mm512_shuffle_i32x4::<0xee>(r[j], r[4 + j]);
            let cd = _mm512_shuffle_i32x4::<0x44>(r[8 + j], r[12 + j]);
            let cd_high = _mm512_shuffle_i32x4::<0xee>(r[8 + j], r[12 + j]);
            t[j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
            t[4 + j] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
            t[8 + j] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
            t[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
        }
        for (i, t) in t.iter().enumerate().take(n) {
            // SAFETY: the block holds 16 positions of each word, or of both its halves.
            unsafe {
                let out = out.add((from + i) * LANES * (1 + usize::from(SPLIT)));
                if SPLIT {
                    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                    _mm512_storeu_si512(out.cast(), _mm512_slli_epi32::<16>(*t));
                    _mm512_storeu_si512(out.add(LANES).cast(), _mm512_and_si512(*t, upper));
                } else {
                    _mm512_storeu_si512(out.cast(), *t);
                }
            }
        }
    }
}
