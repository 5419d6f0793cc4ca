//! A row in e4m3 times a power of two: how attention's queries are rounded, where they are.
//!
//! With `a` the greatest magnitude of a row and `e` the integer for which `a / 2^e` is in `(224, 448]`, at least -117, each value
//! becomes `e4m3(x / 2^e) 2^e`. So the greatest lies in the upper part of the widest octave, and whoever multiplies the codes has
//! a factor for the row that rounds nothing. A result is a number of bf16, and normal: it has four bits, and the least but 0 is
//! `2^(e - 9)`. Rounding a second time changes nothing: the greatest is `224 * 2^e` at least; where it is just that, `e` is one
//! less the second time, and the double of a code up to 224 is a code. Not here: scales that are no powers of two (`reference.rs`).

use crate::dtype::DType;
use crate::numerics::round;

/// Bits of an f32's exponent, and where it begins.
const EXPONENT: (u32, u32) = (0x7f80_0000, 23);

/// `2^e` of a row whose greatest magnitude is `greatest`.
pub fn power_of(greatest: f32) -> f32 {
    // 448 is 1.75 * 2^8: a mantissa above 1.75 carries into the exponent.
    let (mask, at) = EXPONENT;
    let next = greatest.abs().to_bits().saturating_add((1 << (at - 2)) - 1) & mask;
    f32::from_bits(next.saturating_sub(8 << at).max((127 - 117) << at))
}

/// Rounds the values of a row.
pub fn round_row(row: &mut [f32]) {
    let power = power_of(row.iter().fold(0f32, |most, x| most.max(x.abs())));
    // Products with powers of two are exact, but for what becomes 0 anyway.
    row.iter_mut().for_each(|x| *x = round(*x * (1.0 / power), DType::F8E4M3) * power);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn the_greatest_lies_in_the_upper_part_of_the_widest_octave() {
        let mut random = Random::new(31);
        for _ in 0..20_000 {
            let a = random.signed().abs() * 2f32.powi(random.below(200) as i32 - 80);
            let of = a / power_of(a);
            assert!(a == 0.0 || (of > 224.0 && of <= 448.0), "{a}: {of}");
        }
        for (a, power) in [(448.0, 1.0), (448.1, 2.0), (224.0, 0.5), (-224.1, 1.0), (1.75, 2f32.powi(-8))] {
            assert_eq!(power_of(a), power, "{a}");
        }
        for a in [0.0, f32::MIN_POSITIVE, 1e-40] {
            assert_eq!(power_of(a), 2f32.powi(-117));
        }
        assert_eq!(power_of(f32::MAX), 2f32.powi(120));
    }

    #[test]
    fn results_are_numbers_of_bf16_and_stay_as_they_are() {
        let mut random = Random::new(32);
        for _ in 0..4000 {
            let exponent = random.below(250) as i32 - 130;
            let wide = random.below(3) as i32 * 6;
            let mut row: Vec<f32> = (0..random.below(70))
                .map(|_| random.signed() * 2f32.powi(exponent - random.below(wide as u64 + 1) as i32))
                .collect();
            let given = row.clone();
            round_row(&mut row);
            let once = row.clone();
            round_row(&mut row);
            assert_eq!(row, once, "{given:?}");
            let greatest = given.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (x, y) in given.iter().zip(once) {
                assert_eq!(round(y, DType::Bf16), y, "{x}");
                assert!(y == 0.0 || y.is_normal(), "{x} {y}");
                // Half of a step of three bits, or of the least.
                let step = (x.abs() / 16.0).max(power_of(greatest) * 2f32.powi(-10));
                assert!((x - y).abs() <= step, "{x} {y}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let mut row = [1.0, f32::NAN, 3.0];
        round_row(&mut row);
        assert!(row[1].is_nan() && row[0] == 1.0 && row[2] == 3.0);
    }
}
