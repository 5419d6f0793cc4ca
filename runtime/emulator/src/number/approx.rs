//! The `.approx` functions of PTX, computed in `f64` and rounded once.
//!
//! Hardware tables differ between chips and are not copied: a result here is within half a last place of the true
//! one (for sin and cos, that of the angle as the hardware reduces it), the hardware's within the bound that the ISA
//! states, which `BOUNDS` lists (an H100 meets each, and is within one last place of the half precision ones). Special
//! values are exactly those of the ISA's tables. Not here: `div`, `rcp` and `sqrt` with IEEE rounding (`float`). Source:
//! PTX ISA, "Floating point instructions" and "Half precision floating point instructions".

use std::f32::consts::PI;

use super::float::{canonical, flush, odd_f32};
use super::format::{Format, NAN_F32};
use super::half::{Half, bf16_rn, f16_rn};

/// How far the hardware may be from the true value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Error {
    /// The difference.
    Absolute(f64),
    /// The difference divided by the true value.
    Relative(f64),
    /// The difference in units of the last place of the correctly rounded result.
    Ulp(f64),
}

/// A bound that the ISA states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The instruction's name without `.ftz`.
    pub name: &'static str,
    /// Least input for which it holds; of `div`, the least magnitude of the divisor.
    pub low: f32,
    /// Greatest such input.
    pub high: f32,
    /// The bound.
    pub error: Error,
}

const fn bound(name: &'static str, low: f32, high: f32, error: Error) -> Bound {
    Bound { name, low, high, error }
}

/// 2^-126, the least normal number.
const NORMAL: f32 = f32::MIN_POSITIVE;

/// 2^126: `div.approx` flushes its reciprocal above it.
const TWO_126: f32 = f32::from_bits((126 + 127) << 23);

/// The least positive number.
const LEAST: f32 = f32::from_bits(1);

/// The errors of the hardware that the ISA allows. `lg2` between one half and two has an absolute bound.
pub const BOUNDS: &[Bound] = &[
    bound("ex2.approx.f32", f32::MIN, f32::MAX, Error::Ulp(2.0)),
    bound("lg2.approx.f32", 0.5, 2.0, Error::Absolute(1.0 / (1 << 22) as f64)),
    bound("lg2.approx.f32", LEAST, 0.5, Error::Relative(1.0 / (1 << 22) as f64)),
    bound("lg2.approx.f32", 2.0, f32::MAX, Error::Relative(1.0 / (1 << 22) as f64)),
    // 2^-20.5 and 2^-14.7.
    bound("sin.approx.f32", -2.0 * PI, 2.0 * PI, Error::Absolute(6.743_495_761_743_046e-7)),
    bound("sin.approx.f32", -100.0 * PI, 100.0 * PI, Error::Absolute(3.757_154_581_741_079_6e-5)),
    bound("cos.approx.f32", -2.0 * PI, 2.0 * PI, Error::Absolute(6.743_495_761_743_046e-7)),
    bound("cos.approx.f32", -100.0 * PI, 100.0 * PI, Error::Absolute(3.757_154_581_741_079_6e-5)),
    bound("rcp.approx.f32", f32::MIN, f32::MAX, Error::Ulp(1.0)),
    // 2^-22.9.
    bound("rsqrt.approx.f32", LEAST, f32::MAX, Error::Relative(1.277_653_530_283_325e-7)),
    bound("sqrt.approx.f32", LEAST, f32::MAX, Error::Relative(1.0 / (1 << 23) as f64)),
    bound("tanh.approx.f32", f32::MIN, f32::MAX, Error::Relative(1.0 / (1 << 11) as f64)),
    bound("div.approx.f32", NORMAL, TWO_126, Error::Ulp(2.0)),
    bound("div.full.f32", LEAST, f32::MAX, Error::Ulp(2.0)),
    // 2^-9.9.
    bound("ex2.approx.f16", -65504.0, 65504.0, Error::Relative(1.046_653_772_008_098_5e-3)),
    bound("ex2.approx.bf16", f32::MIN, f32::MAX, Error::Relative(1.0 / (1 << 7) as f64)),
    // 2^-10.987.
    bound("tanh.approx.f16", -65504.0, 65504.0, Error::Absolute(4.927_009_930_882_233e-4)),
    bound("tanh.approx.bf16", f32::MIN, f32::MAX, Error::Absolute(1.0 / (1 << 8) as f64)),
];

/// A function of `f32`: `.ftz` on both sides, one rounding, canonical NaN.
#[inline(always)]
fn rounded(x: f32, ftz: bool, function: impl Fn(f64) -> f64) -> f32 {
    let y = function(f64::from(if ftz { flush(x) } else { x })) as f32;
    canonical(if ftz { flush(y) } else { y })
}

/// `ex2.approx.f32`: 2^x.
#[must_use]
#[inline(always)]
pub fn ex2(x: f32, ftz: bool) -> f32 {
    rounded(x, ftz, exp2)
}

/// ln(2)^i / i! for i of 12 down to 0: the Taylor series of 2^x, whose remainder for |x| <= 1/2 is below 2^-52.
const EXP2_SERIES: [f64; 13] = [
    2.567_843_599_348_820_6e-11,
    4.445_538_271_870_811_6e-10,
    7.054_911_620_801_123e-9,
    1.017_808_600_923_97e-7,
    1.321_548_679_014_431e-6,
    1.525_273_380_405_984_1e-5,
    1.540_353_039_338_161e-4,
    1.333_355_814_642_844_3e-3,
    9.618_129_107_628_477e-3,
    5.550_410_866_482_158e-2,
    2.402_265_069_591_007_2e-1,
    std::f64::consts::LN_2,
    1.0,
];

/// 2^x of a `f32`, to some units of the last place of `f64`; without branches, so that loops over it are vectorised.
#[inline(always)]
fn exp2(x: f64) -> f64 {
    // Outside of these 2^x is zero or infinity as f32. NaN passes through both comparisons.
    let clamped = if x < -1000.0 { -1000.0 } else { x };
    let clamped = if clamped > 1000.0 { 1000.0 } else { clamped };
    // 1.5 * 2^52 leaves the nearest integer in the low bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let shifted = clamped + SHIFT;
    let rest = clamped - (shifted - SHIFT);
    let series = EXP2_SERIES.iter().fold(0.0, |sum, coefficient| sum * rest + coefficient);
    // The integer in the low bits, added to the exponent's bias, moved to the exponent.
    series * f64::from_bits((shifted.to_bits().wrapping_add(1023) & 0x7ff) << 52)
}

/// `lg2.approx.f32`: the logarithm to base 2; negative infinity of both zeros, NaN of negative numbers.
#[must_use]
pub fn lg2(x: f32, ftz: bool) -> f32 {
    rounded(x, ftz, f64::log2)
}

/// The angle that the hardware takes instead of x radians: it multiplies with a `f32` next to 1 / (2 pi), cuts the
/// product to 24 bits and drops the whole turns. So errors grow with |x|, and from 2^27 on the angle is 0.
fn angle(x: f64) -> f64 {
    const TURN: f32 = 1.0 / (2.0 * PI);
    let product = x * f64::from(TURN);
    let turns = f64::from_bits(product.to_bits() & !((1 << 29) - 1));
    turns % 1.0 * std::f64::consts::TAU
}

/// `sin.approx.f32`, of radians.
#[must_use]
pub fn sin(x: f32, ftz: bool) -> f32 {
    rounded(x, ftz, |x| angle(x).sin())
}

/// `cos.approx.f32`, of radians.
#[must_use]
pub fn cos(x: f32, ftz: bool) -> f32 {
    rounded(x, ftz, |x| angle(x).cos())
}

/// `rcp.approx.f32`: 1 / x.
#[must_use]
#[inline(always)]
pub fn rcp(x: f32, ftz: bool) -> f32 {
    rounded(x, ftz, |x| 1.0 / x)
}

/// `rsqrt.approx.f32`: 1 / sqrt(x); an infinity of a zero's sign.
#[must_use]
#[inline(always)]
pub fn rsqrt(x: f32, ftz: bool) -> f32 {
    rounded(x, ftz, |x| 1.0 / x.sqrt())
}

/// `sqrt.approx.f32`.
#[must_use]
#[inline(always)]
pub fn sqrt(x: f32, ftz: bool) -> f32 {
    rounded(x, ftz, f64::sqrt)
}

/// `tanh.approx.f32`; it has no `.ftz`.
#[must_use]
pub fn tanh(x: f32) -> f32 {
    rounded(x, false, f64::tanh)
}

/// `div.approx.f32`: a / b, as a product with a reciprocal that is zero for |b| above 2^126.
#[must_use]
#[inline(always)]
pub fn div(a: f32, b: f32, ftz: bool) -> f32 {
    let (a, b) = if ftz { (flush(a), flush(b)) } else { (a, b) };
    let reciprocal_is_zero = b.abs() > TWO_126;
    let zero = if a.is_infinite() || a.is_nan() { NAN_F32 } else { 0.0f32.copysign(a) * 1.0f32.copysign(b) };
    let quotient = (f64::from(a) / f64::from(b)) as f32;
    let quotient = if reciprocal_is_zero { zero } else { quotient };
    canonical(if ftz { flush(quotient) } else { quotient })
}

/// `div.full.f32`: a / b over the whole range.
#[must_use]
#[inline(always)]
pub fn div_full(a: f32, b: f32, ftz: bool) -> f32 {
    let (a, b) = if ftz { (flush(a), flush(b)) } else { (a, b) };
    let quotient = (f64::from(a) / f64::from(b)) as f32;
    canonical(if ftz { flush(quotient) } else { quotient })
}

/// `ex2.approx.f16`, `ex2.approx.ftz.bf16`: subnormal numbers are flushed for `bf16`.
#[must_use]
#[inline(always)]
pub fn ex2_half(half: Half, x: u16) -> u16 {
    match half {
        Half::F16 => f16_rn(odd_f32(exp2(f64::from(Format::F16.decode(u32::from(x)))))),
        Half::Bf16 => {
            let y = exp2(f64::from(flush(Format::Bf16.decode(u32::from(x)))));
            let bits = bf16_rn(odd_f32(y));
            if bits & 0x7f80 == 0 { 0 } else { bits }
        }
    }
}

/// `tanh.approx.f16`, `tanh.approx.bf16`.
#[must_use]
pub fn tanh_half(half: Half, x: u16) -> u16 {
    let y = odd_f32(f64::from(half.decode(x)).tanh());
    match half {
        Half::F16 => f16_rn(y),
        Half::Bf16 => bf16_rn(y),
    }
}

#[cfg(test)]
mod tests;
