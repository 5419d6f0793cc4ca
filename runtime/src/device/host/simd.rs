//! Instructions that the compiler does not choose by itself: prefetches, and a broadcast that leaves the arithmetic
//! units alone.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Addresses a line apart that touch every line of a range.
#[cfg(target_arch = "x86_64")]
fn lines(start: *const u8, bytes: usize) -> impl Iterator<Item = *const u8> {
    (0..bytes).step_by(LINE).chain(bytes.checked_sub(1)).map(move |at| start.wrapping_add(at))
}

/// Asks for memory that will be read soon.
#[inline(always)]
pub fn prefetch<T>(slice: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in lines(slice.as_ptr().cast(), size_of_val(slice)) {
        // SAFETY: a prefetch may go anywhere and changes nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slice;
}

/// Asks for memory that will be written soon: another core may have it.
#[inline(always)]
pub fn prefetch_to_write<T>(start: *const T, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in lines(start.cast(), len * size_of::<T>()) {
        // SAFETY: as in `prefetch`; where the instruction is not there it does nothing.
        unsafe { std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, len);
}

/// The word at an address in all lanes.
///
/// This broadcast is done by the load. The one that the compiler takes for operands of floating-point instructions,
/// `vbroadcastss`, also goes through an arithmetic unit on Zen 4: where those are busy, products take a third longer.
///
/// # Safety
/// The processor has AVX-512 F, the address a word.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn spread<T>(at: *const T) -> __m512i {
    const { assert!(size_of::<T>() == 4) };
    let word;
    // SAFETY: the caller's word; the instruction only reads.
    unsafe {
        std::arch::asm!("vpbroadcastd {}, dword ptr [{}]", out(zmm_reg) word, in(reg) at,
            options(pure, readonly, nostack, preserves_flags));
    }
    word
}
