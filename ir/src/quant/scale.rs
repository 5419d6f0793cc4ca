//! The scale of a row of e4m3 weights: of eight in one octave, that with the least squared error.
//!
//! An e4m3 keeps three bits of mantissa whatever its exponent, so scales that are a power of two apart round alike (but
//! for the least codes), and what a scale decides is where in an octave the row's values fall. `max / 448` puts the
//! greatest into the upper part of the widest octave, where the codes are farthest apart for their size. None of the
//! eight clips. Not here: activations, whose scale is always `max / 448`, for a kernel has one pass over a row.

use crate::dtype::DType;
use crate::numerics::round;
use std::f32::consts::SQRT_2;

/// `2^(i/8)`, rounded to f32.
const STEPS: [f32; 8] =
    [1.0, 1.090_507_7, 1.189_207_1, 1.296_839_6, SQRT_2, 1.542_210_8, 1.681_792_9, 1.834_008_1];

/// The `least * 2^(i/8)`, rounded to `dtype`, with the least `sum of (e4m3(x / s) * s - x)^2` over the row; of several
/// the first. `least` is `max |x| / 448`; products and sums are in f64, in the row's order.
pub(super) fn least_squares(row: &[f32], least: f32, dtype: DType) -> f32 {
    let scales = STEPS.map(|step| round(least * step, dtype));
    let mut errors = [0f64; STEPS.len()];
    for &x in row {
        // All scales side by side: eight sums that do not wait for each other.
        for (error, &scale) in errors.iter_mut().zip(&scales) {
            let difference = f64::from(nearest(x / scale) * scale) - f64::from(x);
            *error += difference * difference;
        }
    }
    let mut best = 0;
    for (i, error) in errors.iter().enumerate() {
        if *error < errors[best] {
            best = i;
        }
    }
    scales[best]
}

/// The e4m3 value nearest to `x`, ties to even, for magnitudes up to 448 (a little more rounds to 448 too). As
/// [`round`], without a table or a branch.
fn nearest(x: f32) -> f32 {
    // Above 2^-6 three bits of mantissa are kept: half of the last of them, less one where it is even, is added.
    let bits = x.to_bits();
    let normal = f32::from_bits((bits + 0x7_ffff + ((bits >> 20) & 1)) & !0xf_ffff);
    // Below, codes are 2^-9 apart, as the f32 around 1.5 * 2^14 are.
    const AROUND: f32 = 24_576.0;
    let subnormal = (x + AROUND) - AROUND;
    if x.abs() < 0.015_625 { subnormal } else { normal }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn steps_divide_an_octave() {
        for (i, step) in STEPS.iter().enumerate() {
            assert_eq!(*step, 2f64.powf(i as f64 / 8.0) as f32);
        }
    }

    #[test]
    fn the_short_way_to_round_is_the_definition() {
        let mut random = Random::new(3);
        for code in 0..=0x7eu8 {
            let (x, next) = (value(code), value((code + 1).min(0x7e)));
            for x in [x, (x + next) / 2.0, x + (next - x) * 0.49, x + (next - x) * 0.51] {
                assert_eq!(nearest(x), round(x, DType::F8E4M3), "{x}");
                assert_eq!(nearest(-x), round(-x, DType::F8E4M3), "{x}");
            }
        }
        for _ in 0..50_000 {
            let x = random.signed() * 2f32.powi(random.below(24) as i32 - 15);
            assert!(x.abs() > 448.0 || nearest(x) == round(x, DType::F8E4M3), "{x}");
        }
        // A scale is rounded, so that the greatest value may lie a little above 448 of it.
        assert_eq!(nearest(448.000_1), 448.0);
    }

    fn value(code: u8) -> f32 {
        crate::numerics::decode(code, DType::F8E4M3).unwrap()
    }

    fn error(row: &[f32], scale: f32) -> f64 {
        let difference = |x: f32| f64::from(round(x / scale, DType::F8E4M3) * scale) - f64::from(x);
        row.iter().map(|&x| difference(x).powi(2)).sum()
    }

    #[test]
    fn no_scale_of_the_eight_is_better() {
        let mut random = Random::new(9);
        let mut other = 0;
        for width in [1, 7, 64, 300] {
            for exponent in [-120, -40, 0, 100] {
                let row: Vec<f32> = (0..width).map(|_| random.signed() * 2f32.powi(exponent)).collect();
                let least = row.iter().fold(0f32, |m, x| m.max(x.abs())) / 448.0;
                let best = least_squares(&row, least, DType::F32);
                assert!(STEPS.iter().all(|s| error(&row, best) <= error(&row, least * s)), "{row:?}");
                other += usize::from(best != least);
            }
        }
        assert!(other > 8, "the least scale is rarely the best: {other}");
    }

    #[test]
    fn of_equal_ones_the_first_is_taken() {
        // Powers of two are exact at the first scale.
        assert_eq!(least_squares(&[448.0, 64.0, -2.0], 1.0, DType::F32), 1.0);
        assert_eq!(least_squares(&[], 1.0, DType::F32), 1.0);
    }
}
