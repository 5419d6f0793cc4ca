//! Arithmetic against exact integers, against the host's own operations, and at the values where modes differ.

use super::*;
use proptest::prelude::*;

const ROUNDS: [Round; 4] = [Round::Near, Round::Zero, Round::Up, Round::Down];

fn mode(round: Round) -> Mode {
    Mode { round, ..Mode::default() }
}

const FTZ: Mode = Mode { round: Round::Near, ftz: true, sat: false };
const SAT: Mode = Mode { round: Round::Near, ftz: false, sat: true };

#[test]
fn nan_is_canonical() {
    let nan = f32::from_bits(0xffc0_1234);
    for result in [
        add_rn(nan, 1.0),
        add_rn(f32::INFINITY, f32::NEG_INFINITY),
        mul(0.0, f32::INFINITY, mode(Round::Near)),
        fma(0.0, f32::INFINITY, 1.0, mode(Round::Near)),
        fma(f32::INFINITY, 1.0, f32::NEG_INFINITY, mode(Round::Near)),
        fma(1.0, 1.0, nan, mode(Round::Down)),
        div(0.0, 0.0, mode(Round::Near)),
        sqrt(-1.0, mode(Round::Up)),
        round_integral(nan, Round::Near),
        max(nan, nan, false),
        min(1.0, nan, true),
    ] {
        assert_eq!(result.to_bits(), 0x7fff_ffff);
    }
}

/// Products a little below 2^-126: the nearest number of 24 bits, not that of a subnormal's places, decides.
#[test]
fn what_is_flushed_is_below_the_normal_numbers_with_any_exponent() {
    let of = |a, b, round| {
        let mode = Mode { round, ..FTZ };
        let (a, b) = (f32::from_bits(a), f32::from_bits(b));
        assert_eq!(fma(a, b, -0.0, mode).to_bits(), mul(a, b, mode).to_bits());
        mul(a, b, mode)
    };
    // 2^-126 less 2^-26.6 of itself, and less 2^-24.3.
    let (near, far) = ((0x3f2a_aaaf, 0x00bf_fffb), (0x3f2a_aaab, 0x00bf_ffff));
    assert_eq!(of(near.0, near.1, Round::Near), f32::MIN_POSITIVE);
    assert_eq!(of(near.0, near.1, Round::Zero), 0.0);
    assert_eq!(of(far.0, far.1, Round::Near), 0.0);
    assert_eq!(of(far.0, far.1, Round::Up), f32::MIN_POSITIVE);
    assert_eq!(of(0x3f7f_ffff, 0x0080_0000, Round::Up), 0.0);
    assert_eq!(of(far.0 | 1 << 31, far.1, Round::Up).to_bits(), 0x8000_0000);
    let (far_a, far_b) = (f32::from_bits(far.0), f32::from_bits(far.1));
    assert_eq!(mul(far_a, far_b, mode(Round::Near)), f32::MIN_POSITIVE);
}

#[test]
fn infinities() {
    for round in ROUNDS {
        assert_eq!(fma(f32::MAX, f32::MAX, f32::NEG_INFINITY, mode(round)), f32::NEG_INFINITY);
        assert_eq!(add(f32::INFINITY, 1.0, mode(round)), f32::INFINITY);
        assert_eq!(div(1.0, 0.0, mode(round)), f32::INFINITY);
    }
    assert_eq!(add(f32::MAX, f32::MAX, mode(Round::Zero)), f32::MAX);
    assert_eq!(mul(f32::MAX, -2.0, mode(Round::Up)), f32::MIN);
    assert_eq!(mul(f32::MAX, -2.0, mode(Round::Down)), f32::NEG_INFINITY);
}

#[test]
fn signs_of_zero() {
    for round in ROUNDS {
        let down = round == Round::Down;
        assert_eq!(add(1.0, -1.0, mode(round)).is_sign_negative(), down);
        assert_eq!(add(0.0, -0.0, mode(round)).is_sign_negative(), down);
        assert!(add(0.0, 0.0, mode(round)).is_sign_positive());
        assert!(add(-0.0, -0.0, mode(round)).is_sign_negative());
        assert_eq!(fma(2.0, 3.0, -6.0, mode(round)).is_sign_negative(), down);
        assert!(mul(-0.0, 3.0, mode(round)).is_sign_negative());
    }
}

#[test]
fn subnormals_are_flushed_with_their_sign() {
    let tiny = f32::from_bits(0x8000_0001);
    assert_eq!(flush(tiny).to_bits(), 0x8000_0000);
    assert_eq!(add(tiny, 0.0, FTZ).to_bits(), 0);
    assert_eq!(mul(f32::MIN_POSITIVE, -0.5, FTZ).to_bits(), 0x8000_0000);
    assert_eq!(mul(f32::MIN_POSITIVE, -0.5, mode(Round::Near)), -f32::MIN_POSITIVE / 2.0);
    assert_eq!(fma(tiny, 1e38, 1.0, FTZ), 1.0);
}

#[test]
fn saturated() {
    assert_eq!(add(0.75, 0.5, SAT), 1.0);
    assert_eq!(add(-1.0, 0.5, SAT).to_bits(), 0);
    assert_eq!(mul(-0.0, 1.0, SAT).to_bits(), 0);
    assert_eq!(mul(f32::NAN, 1.0, SAT).to_bits(), 0);
    assert_eq!(fma(0.5, 0.5, 0.25, SAT), 0.5);
}

#[test]
fn a_fused_product_is_rounded_once() {
    // (1 + 2^-12)^2 is 1 + 2^-11 + 2^-24, half way between two f32.
    let a = 1.0 + 2f32.powi(-12);
    let tie = 1.0 + 2f32.powi(-11);
    assert_eq!(fma(a, a, 0.0, mode(Round::Near)), tie);
    // What decides is 2^-149, 125 bits below the tie.
    assert_eq!(fma(a, a, f32::from_bits(1), mode(Round::Near)), tie.next_up());
    assert_eq!(fma(a, a, -f32::from_bits(1), mode(Round::Near)), tie);
    assert_eq!(fma(a, a, f32::from_bits(1), mode(Round::Up)), tie.next_up());
    assert_eq!(fma(1.0, 1.0, -f32::from_bits(1), mode(Round::Zero)), 1f32.next_down());
}

#[test]
fn quotients_and_roots() {
    assert_eq!(div(1.0, 3.0, mode(Round::Near)).to_bits(), 0x3eaa_aaab);
    assert_eq!(div(1.0, 3.0, mode(Round::Zero)).to_bits(), 0x3eaa_aaaa);
    assert_eq!(rcp(-3.0, mode(Round::Down)).to_bits(), 0xbeaa_aaab);
    assert_eq!(sqrt(2.0, mode(Round::Near)).to_bits(), 0x3fb5_04f3);
    assert_eq!(sqrt(2.0, mode(Round::Up)).to_bits(), 0x3fb5_04f4);
    assert_eq!(sqrt(-0.0, mode(Round::Up)).to_bits(), 0x8000_0000);
}

#[test]
fn minimum_and_maximum() {
    assert_eq!(max(f32::NAN, 1.0, false), 1.0);
    assert_eq!(min(1.0, f32::NAN, false), 1.0);
    assert!(max(f32::NAN, 1.0, true).is_nan() && max(1.0, f32::NAN, true).is_nan());
    for (a, b) in [(0.0, -0.0), (-0.0, 0.0)] {
        assert!(max(a, b, false).is_sign_positive() && min(a, b, false).is_sign_negative());
    }
    assert_eq!((max(-2.0, 3.0, false), min(-2.0, 3.0, true)), (3.0, -2.0));
}

#[test]
fn integers_from_floats() {
    let s32 = Integer { bits: 32, signed: true };
    let u8 = Integer { bits: 8, signed: false };
    let s64 = Integer { bits: 64, signed: true };
    assert_eq!(to_integer(2.5, false, s32, Round::Near), 2);
    assert_eq!(to_integer(-2.5, false, s32, Round::Down), 0xffff_fffd);
    assert_eq!(to_integer(-2.5, false, s32, Round::Zero), 0xffff_fffe);
    assert_eq!(to_integer(2.1, false, s32, Round::Up), 3);
    assert_eq!(to_integer(1e10, false, s32, Round::Zero), 0x7fff_ffff);
    assert_eq!(to_integer(-1e10, false, s32, Round::Zero), 0x8000_0000);
    assert_eq!(to_integer(-3.0, false, u8, Round::Zero), 0);
    assert_eq!(to_integer(300.0, false, u8, Round::Zero), 255);
    assert_eq!(to_integer(f64::INFINITY, false, s64, Round::Zero), i64::MAX as u64);
    assert_eq!(to_integer(f64::NAN, false, s32, Round::Zero), 0);
    assert_eq!(to_integer(f64::NAN, false, s64, Round::Zero), 1 << 63);
    assert_eq!(to_integer(f64::NAN, true, s32, Round::Zero), 1 << 31);
    for x in [0.0, -1.9, 1e20, f32::NEG_INFINITY, f32::NAN, 2147483520.0] {
        assert_eq!(to_s32_rzi(x) as u32, to_integer(f64::from(x), false, s32, Round::Zero) as u32);
    }
}

#[test]
fn floats_from_integers() {
    let s64 = Integer { bits: 64, signed: true };
    let s8 = Integer { bits: 8, signed: true };
    let of = |x: i64, round| f32::from_bits(from_integer(x as u64, s64, Format::F32, round));
    assert_eq!(of(16_777_217, Round::Near), 16_777_216.0);
    assert_eq!(of(16_777_217, Round::Up), 16_777_218.0);
    assert_eq!(of(-16_777_217, Round::Zero), -16_777_216.0);
    assert_eq!(of(i64::MIN, Round::Near), -9.223372e18);
    assert_eq!(from_integer(0xfff_ff80, s8, Format::F16, Round::Near), 0xd800);
    assert_eq!(from_integer(70_000, s64, Format::F16, Round::Near), 0x7c00);
}

#[test]
fn integral_values() {
    assert_eq!(round_integral(0.5, Round::Near), 0.0);
    assert_eq!(round_integral(1.5, Round::Near), 2.0);
    assert_eq!(round_integral(-0.3, Round::Near).to_bits(), 0x8000_0000);
    assert_eq!(round_integral(-0.3, Round::Down), -1.0);
    assert_eq!(round_integral(0.3, Round::Up), 1.0);
    assert_eq!(round_integral(-1.7, Round::Zero), -1.0);
}

/// A finite value as an integer of 2^-149 (f32) units; only for magnitudes below 2^-40 or so.
fn units(x: f32) -> i128 {
    (f64::from(x) * 2f64.powi(149)) as i128
}

/// Rounds an integer of units of 2^unit to a format, by the format's encoder, with the bits beyond 62 folded into one.
pub(in super::super) fn rounded(value: i128, unit: i32, format: Format, round: Round) -> u32 {
    let magnitude = value.unsigned_abs();
    let extra = (128 - magnitude.leading_zeros()).saturating_sub(62);
    let lost = magnitude & ((1 << extra) - 1) != 0;
    let mantissa = (magnitude >> extra) as u64 | u64::from(lost);
    format.encode_exact(value < 0, mantissa, unit + extra as i32, round, Saturate::NONE)
}

fn any_f32() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn fma_is_the_host_s(a in any_f32(), b in any_f32(), c in any_f32(), near in -4i32..4) {
        prop_assert_eq!(fma(a, b, c, mode(Round::Near)).to_bits(), canonical(a.mul_add(b, c)).to_bits());
        // Where product and addend nearly cancel.
        let c = f32::from_bits((-(a * b)).to_bits().wrapping_add_signed(near));
        prop_assert_eq!(fma(a, b, c, mode(Round::Near)).to_bits(), canonical(a.mul_add(b, c)).to_bits());
    }

    #[test]
    fn every_mode_rounds_the_exact_result(
        a in 1u32..(40 << 23), b in 1u32..(40 << 23), c in 1u32..(40 << 23), signs in 0u32..8,
        round in prop::sample::select(&ROUNDS[..]),
    ) {
        let of = |bits, sign: u32| f32::from_bits(bits | (signs >> sign & 1) << 31);
        let (a, b, c) = (of(a, 0), of(b, 1), of(c, 2));
        let sum = rounded(units(a) + units(b), -149, Format::F32, round);
        if units(a) + units(b) != 0 {
            prop_assert_eq!(add(a, b, mode(round)).to_bits(), sum);
            prop_assert_eq!(sub(a, -b, mode(round)).to_bits(), sum);
        }
        // 2^100 and 2^49 make the product's units those of c: (a * 2^100) * (b * 2^49) is units(a) * units(b) * 2^-149.
        let product = units(a) * units(b);
        let (a, b) = (a * 2f32.powi(100), b * 2f32.powi(49));
        prop_assert_eq!(mul(a, b, mode(round)).to_bits(), rounded(product, -149, Format::F32, round));
        if product + units(c) != 0 {
            let expected = rounded(product + units(c), -149, Format::F32, round);
            prop_assert_eq!(fma(a, b, c, mode(round)).to_bits(), expected);
        }
    }

    #[test]
    fn quotients_bracket(a in any_f32(), b in any_f32(), round in prop::sample::select(&ROUNDS[..])) {
        prop_assert_eq!(div(a, b, mode(Round::Near)).to_bits(), canonical(a / b).to_bits());
        prop_assert_eq!(sqrt(a, mode(Round::Near)).to_bits(), canonical(a.sqrt()).to_bits());
        let quotient = div(a, b, mode(round));
        let (near, away) = (a / b, f64::from(quotient) * f64::from(b) - f64::from(a));
        if near.is_finite() && quotient.is_finite() && b != 0.0 && near.is_normal() {
            // quotient * b - a is exact in f64 unless it underflows; its sign tells the side of the quotient.
            let above = away * f64::from(b.signum());
            match round {
                Round::Up => prop_assert!(above >= 0.0),
                Round::Down => prop_assert!(above <= 0.0),
                Round::Zero => prop_assert!(quotient.abs() <= near.abs()),
                _ => prop_assert_eq!(quotient, near),
            }
        }
    }
}
