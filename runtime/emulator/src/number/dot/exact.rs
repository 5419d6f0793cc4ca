//! One output of one group, in integers, for any values: the definition that the fast path must meet.

use super::{Arithmetic, SPECIAL, Sum, ZERO, exponent};
use crate::number::format::{Format, NAN_F32, Round, Saturate};

/// Fraction bits of a significand as an integer.
pub const FRACTION: i32 = 23;

/// The least exponent that addends are aligned to. Measured on an H100 with accumulators of zero: it is -132 or -133,
/// which differ by less than a last place of the results seen.
const FLOOR: i32 = -133;

/// `|x| / 2^exponent` as an integer with `FRACTION` bits below the binary point, negated with `x`.
///
/// Exact: `exponent` is that of `x`, or the format's least one, below which the format has its last place.
fn significand(x: f32, exponent: i32) -> i64 {
    let scale = f64::from_bits(((FRACTION - exponent + 1023) as u64) << 52);
    (f64::from(x) * scale) as i64
}

/// `value / 2^by` cut off toward zero.
pub fn cut(value: i64, by: i32) -> i64 {
    if by <= 0 { value << -by } else { value / (1i64 << by.min(62)) }
}

/// The sum of `a[i] * b[i] * 2^scale` and `c`; `a` and `b` are equally long.
pub fn group(
    arithmetic: &Arithmetic,
    a: &[f32],
    b: impl Iterator<Item = f32> + Clone,
    scale: i32,
    c: f32,
) -> f32 {
    let products = || a.iter().copied().zip(b.clone());
    let of_c = exponent(c, arithmetic.result.min_exponent());
    let of = |x: f32, y: f32| (exponent(x, arithmetic.a_min), exponent(y, arithmetic.b_min));
    let largest = products().fold(of_c, |largest, (x, y)| {
        let (x, y) = of(x, y);
        largest.max(x + y + scale)
    });
    if largest >= SPECIAL / 4 {
        let sum: f64 = products().map(|(x, y)| f64::from(x) * f64::from(y)).sum();
        let sum = sum + f64::from(c);
        return if sum.is_nan() { NAN_F32 } else { sum as f32 };
    }
    if largest < ZERO / 4 {
        return 0.0;
    }
    let largest = largest.max(FLOOR);
    let bits = arithmetic.fraction_bits;
    let mut sum = cut(significand_of(c, of_c), FRACTION - bits + largest - of_c);
    for (x, y) in products() {
        let (of_x, of_y) = of(x, y);
        let product = significand_of(x, of_x) * significand_of(y, of_y);
        sum += cut(product, 2 * FRACTION - bits + largest - (of_x + of_y + scale).max(ZERO));
    }
    finish(arithmetic.result, sum, largest - bits)
}

pub fn significand_of(x: f32, exponent: i32) -> i64 {
    if exponent == ZERO { 0 } else { significand(x, exponent) }
}

/// `sum * 2^unit` rounded to the result; a result that is zero is positive.
pub fn finish(result: Sum, sum: i64, unit: i32) -> f32 {
    let code =
        |format: Format, round| format.encode_exact(sum < 0, sum.unsigned_abs(), unit, round, Saturate::NONE);
    let rounded = match result {
        Sum::F16 => Format::F16.decode(code(Format::F16, Round::Near)),
        Sum::F32 | Sum::F32Short => {
            // Not the greatest finite value, though the rounding is toward zero.
            if sum != 0 && sum.unsigned_abs().ilog2() as i32 + unit > 127 {
                return if sum < 0 { f32::NEG_INFINITY } else { f32::INFINITY };
            }
            let dropped = if result == Sum::F32Short { (1 << 10) - 1 } else { 0 };
            f32::from_bits(code(Format::F32, Round::Zero) & !dropped)
        }
    };
    // Adding positive zero changes only a negative zero.
    rounded + 0.0
}
