//! IEEE arithmetic as NVIDIA's cores do it: every rounding mode, `.ftz`, `.sat`, canonical NaNs, minimum and maximum,
//! and conversion to and from integers.
//!
//! Operations whose result is not a `f32` sum or product are formed in `f64` rounded to odd: with 53 bits, of which the
//! last one tells whether anything was cut off, a second rounding to at most 51 bits is the same as rounding once
//! (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008). The functions ending in `_rn` are
//! free of branches, so that loops over lanes are vectorised. Approximate functions are elsewhere (`approx`).
//! Sources: PTX ISA, "Floating point instructions", "Half precision floating point instructions", `cvt`.

use super::format::{Format, NAN_F32, Round, Saturate};

/// Modifiers of an operation on `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// `.rn`, `.rz`, `.rm`, `.rp`.
    pub round: Round,
    /// `.ftz`: subnormal inputs and results become zero of the same sign.
    pub ftz: bool,
    /// `.sat`: the result is clamped to [0, 1], NaN becomes positive zero.
    pub sat: bool,
}

/// `x`, or the canonical NaN for any NaN.
///
/// By its bits: a choice between two NaNs as numbers is one that a compiler may make either way.
#[must_use]
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN_F32.to_bits() } else { bits })
}

/// `.ftz`: zero of the same sign for a subnormal number.
#[must_use]
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// `.sat`: clamped to [0, 1]; NaN and negative zero become positive zero.
#[must_use]
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    // The comparison is false for NaN.
    let above = if x > 0.0 { x } else { 0.0 };
    if above > 1.0 { 1.0 } else { above }
}

/// `add.rn.f32`.
#[must_use]
#[inline(always)]
pub fn add_rn(a: f32, b: f32) -> f32 {
    canonical(a + b)
}

/// `x + y` rounded to odd: where it is inexact, the neighbour whose last bit is one.
#[must_use]
#[inline(always)]
pub(super) fn odd_sum(x: f64, y: f64) -> f64 {
    let sum = x + y;
    // Knuth's two-sum: sum + rest is x + y exactly. Infinities and NaNs make `rest` NaN and are left alone.
    let of_y = sum - x;
    let rest = (x - (sum - of_y)) + (y - of_y);
    to_odd(sum, rest)
}

/// The odd one of the two neighbours of `near + rest`, where `near` is `near + rest` rounded to nearest.
#[inline(always)]
fn to_odd(near: f64, rest: f64) -> f64 {
    let bits = near.to_bits();
    // Toward larger magnitudes is one bit up, toward smaller ones one bit down.
    let step = if (rest > 0.0) == (near > 0.0) { 1 } else { u64::MAX };
    let inexact = rest.abs() > 0.0;
    f64::from_bits(if inexact && bits & 1 == 0 { bits.wrapping_add(step) } else { bits })
}

/// A `f64` (exact, or rounded to odd) as `f32`, rounded to odd.
#[inline(always)]
pub(super) fn odd_f32(x: f64) -> f32 {
    let near = x as f32;
    let bits = near.to_bits();
    let back = f64::from(near);
    let step = if x.abs() > back.abs() { 1 } else { u32::MAX };
    let inexact = (x - back).abs() > 0.0;
    f32::from_bits(if inexact && bits & 1 == 0 { bits.wrapping_add(step) } else { bits })
}

/// 2^24, which makes normal numbers of all results of which rounding could make one.
const OUT_OF_SUBNORMAL: f64 = (1 << 24) as f64;

/// Rounds a `f64` (exact, or rounded to odd) to `f32` under `mode`.
///
/// `.ftz`: the hardware flushes what would be subnormal if it were rounded to 24 bits with any exponent. So a result
/// below 2^-126 that rounding to the places of subnormal numbers carries up to it is flushed unless it is also the
/// nearer neighbour in 24 bits; the ISA does not say which of the two is meant.
#[inline]
fn finish(x: f64, mode: Mode) -> f32 {
    let rounded = |x: f64| match mode.round {
        Round::Near => x as f32,
        round => f32::from_bits(Format::F32.encode(x, round, Saturate::NONE)),
    };
    let least = f64::from(f32::MIN_POSITIVE);
    let tiny = mode.ftz
        && x.abs() < least
        && f64::from(rounded(x * OUT_OF_SUBNORMAL).abs()) < least * OUT_OF_SUBNORMAL;
    finish_rounded(if tiny { 0.0f32.copysign(x as f32) } else { rounded(x) }, mode)
}

#[inline]
fn finish_rounded(rounded: f32, mode: Mode) -> f32 {
    let flushed = if mode.ftz { flush(rounded) } else { rounded };
    if mode.sat { saturate(flushed) } else { canonical(flushed) }
}

#[inline]
fn input(x: f32, mode: Mode) -> f32 {
    if mode.ftz { flush(x) } else { x }
}

/// An exact sum of `x` and `y` that is zero: negative where both are, or under `.rm` where either is.
#[inline]
fn sum(x: f64, y: f64, round: Round) -> f64 {
    let sum = odd_sum(x, y);
    let both_positive = x.is_sign_positive() && y.is_sign_positive();
    if sum == 0.0 && round == Round::Down && !both_positive { -0.0 } else { sum }
}

/// `add.f32`.
#[must_use]
#[inline]
pub fn add(a: f32, b: f32, mode: Mode) -> f32 {
    let (a, b) = (input(a, mode), input(b, mode));
    match mode.round {
        Round::Near => finish_rounded(a + b, mode),
        round => finish(sum(f64::from(a), f64::from(b), round), mode),
    }
}

/// `sub.f32`.
#[must_use]
#[inline]
pub fn sub(a: f32, b: f32, mode: Mode) -> f32 {
    add(a, -b, mode)
}

/// `mul.f32`.
#[must_use]
#[inline]
pub fn mul(a: f32, b: f32, mode: Mode) -> f32 {
    let (a, b) = (input(a, mode), input(b, mode));
    match mode.round {
        Round::Near if !mode.ftz => finish_rounded(a * b, mode),
        _ => finish(f64::from(a) * f64::from(b), mode),
    }
}

/// `fma.f32`.
#[must_use]
#[inline]
pub fn fma(a: f32, b: f32, c: f32, mode: Mode) -> f32 {
    let (a, b, c) = (input(a, mode), input(b, mode), input(c, mode));
    finish(sum(f64::from(a) * f64::from(b), f64::from(c), mode.round), mode)
}

/// `div.rn.f32` and the other rounding modes.
///
/// A quotient of `f32` that is not a `f32` differs from each by more than 2^-49 of itself, so that its rounding to
/// `f64` does not reach one.
#[must_use]
#[inline]
pub fn div(a: f32, b: f32, mode: Mode) -> f32 {
    finish(f64::from(input(a, mode)) / f64::from(input(b, mode)), mode)
}

/// `rcp.rn.f32` and the other rounding modes.
#[must_use]
#[inline]
pub fn rcp(a: f32, mode: Mode) -> f32 {
    div(1.0, a, mode)
}

/// `sqrt.rn.f32` and the other rounding modes; `div` says why `f64` is enough.
#[must_use]
#[inline]
pub fn sqrt(a: f32, mode: Mode) -> f32 {
    finish(f64::from(input(a, mode)).sqrt(), mode)
}

/// `neg.f32`: NaN becomes the canonical one.
#[must_use]
#[inline(always)]
pub fn neg(a: f32) -> f32 {
    canonical(-a)
}

/// `abs.f32`: NaN becomes the canonical one.
#[must_use]
#[inline(always)]
pub fn abs(a: f32) -> f32 {
    canonical(a.abs())
}

/// `max.f32`: NaN loses against a number, +0 is above -0. `nan` is the modifier `.NaN`: any NaN wins.
#[must_use]
#[inline(always)]
pub fn max(a: f32, b: f32, nan: bool) -> f32 {
    let larger = if a > b || (a == b && a.is_sign_positive()) || b.is_nan() { a } else { b };
    canonical(if nan && a.is_nan() {
        a
    } else if nan && b.is_nan() {
        b
    } else {
        larger
    })
}

/// `min.f32`, as `max`.
#[must_use]
#[inline(always)]
pub fn min(a: f32, b: f32, nan: bool) -> f32 {
    let smaller = if a < b || (a == b && a.is_sign_negative()) || b.is_nan() { a } else { b };
    canonical(if nan && a.is_nan() {
        a
    } else if nan && b.is_nan() {
        b
    } else {
        smaller
    })
}

/// An integer type of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer {
    /// 8, 16, 32 or 64.
    pub bits: u32,
    /// `.s` rather than `.u`.
    pub signed: bool,
}

impl Integer {
    /// Least value.
    #[must_use]
    pub const fn min(self) -> i128 {
        if self.signed { -(1 << (self.bits - 1)) } else { 0 }
    }

    /// Greatest value.
    #[must_use]
    pub const fn max(self) -> i128 {
        (1 << (self.bits - self.signed as u32)) - 1
    }

    /// The value of the low bits of a register.
    #[must_use]
    pub const fn value(self, register: u64) -> i128 {
        let unused = 64 - self.bits;
        if self.signed {
            ((register << unused) as i64 >> unused) as i128
        } else {
            (register << unused >> unused) as i128
        }
    }
}

/// Rounds to an integral value, as `cvt.rni.f32.f32` and its like; a zero keeps the sign.
#[must_use]
#[inline]
pub fn round_integral(x: f32, round: Round) -> f32 {
    canonical(match round {
        Round::Near => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Up => x.ceil(),
        Round::Down => x.floor(),
        Round::NearAway => x.round(),
    })
}

/// `cvt` from floating point to an integer: rounded, then clamped to the range; the bits above the type are zero.
///
/// NaN is zero where it comes from a type narrower than `f64` (`wide` false) and goes to one narrower than 64 bits,
/// otherwise only the type's top bit is set (PTX ISA, `cvt`, "Integer notes").
#[must_use]
pub fn to_integer(x: f64, wide: bool, to: Integer, round: Round) -> u64 {
    let mask = u64::MAX >> (64 - to.bits);
    if x.is_nan() {
        return if wide || to.bits == 64 { 1 << (to.bits - 1) } else { 0 };
    }
    let rounded = match round {
        Round::Near => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Up => x.ceil(),
        Round::Down => x.floor(),
        Round::NearAway => x.round(),
    };
    (rounded as i128).clamp(to.min(), to.max()) as u64 & mask
}

/// `cvt.rzi.s32.f32`.
#[must_use]
#[inline(always)]
pub fn to_s32_rzi(x: f32) -> i32 {
    x as i32
}

/// `cvt` from an integer to a floating-point format; the result is its bits.
#[must_use]
pub fn from_integer(register: u64, from: Integer, to: Format, round: Round) -> u32 {
    let value = from.value(register);
    to.encode_exact(value < 0, value.unsigned_abs() as u64, 0, round, Saturate::NONE)
}

#[cfg(test)]
pub(super) mod tests;
