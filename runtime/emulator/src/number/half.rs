//! Arithmetic of half precision, `f16` and `bf16`, and of registers that hold two of either.
//!
//! An operation is formed in `f64` rounded to odd (`float`) and rounded once more. Only rounding to nearest exists for
//! these formats. Source: PTX ISA, "Half precision floating point instructions".

use super::float::{max, min, odd_f32, odd_sum, saturate};
use super::format::Format;

/// `cvt.rn.bf16.f32`.
#[must_use]
#[inline(always)]
pub fn bf16_rn(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if x.is_nan() { 0x7fff } else { rounded }
}

/// `cvt.rn.f16.f32`.
#[must_use]
#[inline(always)]
pub fn f16_rn(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) as u16 & 0x8000;
    let bits = x.to_bits() & 0x7fff_ffff;
    // 0.5 has the last place of the subnormal numbers of f16, 2^-24: adding it rounds to them.
    let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = bits.wrapping_add(0xfff + (bits >> 13 & 1)).wrapping_sub((127 - 15) << 23) >> 13;
    let finite = if bits < (127 - 14) << 23 { subnormal } else { normal.min(0x7c00) };
    let magnitude = if bits >= 0x7f80_0000 { 0x7c00 } else { finite };
    if x.is_nan() { 0x7fff } else { sign | magnitude as u16 }
}

/// A format of half precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// `.f16`.
    F16,
    /// `.bf16`.
    Bf16,
}

/// Modifiers of an operation on half precision; it rounds to nearest even.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HalfMode {
    /// `.ftz`, which only `f16` has.
    pub ftz: bool,
    /// `.sat`, which only `f16` has.
    pub sat: bool,
    /// `.relu`: negative results become positive zero.
    pub relu: bool,
}

impl Half {
    /// The value of `bits`.
    #[must_use]
    #[inline(always)]
    pub fn decode(self, bits: u16) -> f32 {
        match self {
            Self::F16 => Format::F16.decode(u32::from(bits)),
            Self::Bf16 => Format::Bf16.decode(u32::from(bits)),
        }
    }

    /// A `f64` (exact, or rounded to odd) rounded to nearest.
    #[inline(always)]
    fn encode(self, x: f64) -> u16 {
        match self {
            Self::F16 => f16_rn(odd_f32(x)),
            Self::Bf16 => bf16_rn(odd_f32(x)),
        }
    }

    #[inline(always)]
    fn input(self, bits: u16, mode: HalfMode) -> f64 {
        f64::from(self.decode(if mode.ftz { self.flush(bits) } else { bits }))
    }

    /// `.ftz`: zero of the same sign for a subnormal number.
    #[must_use]
    #[inline(always)]
    pub fn flush(self, bits: u16) -> u16 {
        let exponent = if self == Self::F16 { 0x7c00 } else { 0x7f80 };
        if bits & exponent == 0 { bits & 0x8000 } else { bits }
    }

    /// The canonical NaN for any NaN.
    #[must_use]
    #[inline(always)]
    pub fn canonical(self, bits: u16) -> u16 {
        let infinity = if self == Self::F16 { 0x7c00 } else { 0x7f80 };
        if bits & 0x7fff > infinity { 0x7fff } else { bits }
    }

    /// `.ftz` flushes what would be subnormal if it were rounded with any exponent, as that of `f32`.
    #[inline(always)]
    fn finish(self, x: f64, mode: HalfMode) -> u16 {
        // 2^-14, and the same after a multiplication with 2^11 that makes every result near it a normal number.
        const LEAST: f64 = 1.0 / (1 << 14) as f64;
        const UP: f64 = (1 << 11) as f64;
        let tiny =
            mode.ftz && x.abs() < LEAST && self.decode(self.encode(x * UP) & 0x7fff) < (LEAST * UP) as f32;
        let bits = self.encode(x);
        let bits = if tiny { bits & 0x8000 } else { bits };
        let bits = if mode.sat { self.encode(f64::from(saturate(self.decode(bits)))) } else { bits };
        if mode.relu && bits & 0x8000 != 0 { 0 } else { bits }
    }

    /// `add.rn.{f16,bf16}`.
    #[must_use]
    #[inline(always)]
    pub fn add(self, a: u16, b: u16, mode: HalfMode) -> u16 {
        self.finish(odd_sum(self.input(a, mode), self.input(b, mode)), mode)
    }

    /// `sub.rn.{f16,bf16}`.
    #[must_use]
    #[inline(always)]
    pub fn sub(self, a: u16, b: u16, mode: HalfMode) -> u16 {
        self.finish(odd_sum(self.input(a, mode), -self.input(b, mode)), mode)
    }

    /// `mul.rn.{f16,bf16}`.
    #[must_use]
    #[inline(always)]
    pub fn mul(self, a: u16, b: u16, mode: HalfMode) -> u16 {
        self.finish(self.input(a, mode) * self.input(b, mode), mode)
    }

    /// `fma.rn.{f16,bf16}`.
    #[must_use]
    #[inline(always)]
    pub fn fma(self, a: u16, b: u16, c: u16, mode: HalfMode) -> u16 {
        self.finish(odd_sum(self.input(a, mode) * self.input(b, mode), self.input(c, mode)), mode)
    }

    /// `max.{f16,bf16}`, as `max` of `f32`.
    #[must_use]
    #[inline(always)]
    pub fn max(self, a: u16, b: u16, nan: bool) -> u16 {
        self.encode(f64::from(max(self.decode(a), self.decode(b), nan)))
    }

    /// `min.{f16,bf16}`, as `min` of `f32`.
    #[must_use]
    #[inline(always)]
    pub fn min(self, a: u16, b: u16, nan: bool) -> u16 {
        self.encode(f64::from(min(self.decode(a), self.decode(b), nan)))
    }
}

/// Applies an operation to both halves of packed registers (`.f16x2`, `.bf16x2`).
#[must_use]
#[inline(always)]
pub fn halves<const N: usize>(registers: [u32; N], operation: impl Fn([u16; N]) -> u16) -> u32 {
    let low = operation(registers.map(|register| register as u16));
    let high = operation(registers.map(|register| (register >> 16) as u16));
    u32::from(high) << 16 | u32::from(low)
}

#[cfg(test)]
mod tests;
