//! The ISA's tables of special values, known values, and every result against the host's function in `f64`.

use super::*;
use proptest::prelude::*;

const INF: f32 = f32::INFINITY;

/// (input, result) with and without `.ftz`; NaN stands for the canonical one, zeros are told apart.
fn table(function: fn(f32, bool) -> f32, rows: &[(f32, f32)]) {
    for &(x, expected) in rows {
        for ftz in [false, true] {
            let result = function(x, ftz).to_bits();
            assert_eq!(result, canonical(expected).to_bits(), "{x} is {expected}");
        }
    }
}

#[test]
fn special_values_of_the_isa() {
    let nan = f32::from_bits(0xffc0_0001);
    table(ex2, &[(-INF, 0.0), (-0.0, 1.0), (0.0, 1.0), (INF, INF), (nan, nan)]);
    table(lg2, &[(-INF, nan), (-1.0, nan), (-0.0, -INF), (0.0, -INF), (INF, INF), (nan, nan)]);
    table(sin, &[(-INF, nan), (-0.0, -0.0), (0.0, 0.0), (INF, nan), (nan, nan)]);
    table(cos, &[(-INF, nan), (-0.0, 1.0), (0.0, 1.0), (INF, nan), (nan, nan)]);
    table(rcp, &[(-INF, -0.0), (-0.0, -INF), (0.0, INF), (INF, 0.0), (nan, nan)]);
    table(rsqrt, &[(-INF, nan), (-1.0, nan), (-0.0, -INF), (0.0, INF), (INF, 0.0), (nan, nan)]);
    table(sqrt, &[(-INF, nan), (-1.0, nan), (-0.0, -0.0), (0.0, 0.0), (INF, INF), (nan, nan)]);
    table(|x, _| tanh(x), &[(-INF, -1.0), (-0.0, -0.0), (0.0, 0.0), (INF, 1.0), (nan, nan)]);
}

#[test]
fn subnormal_numbers() {
    let tiny = LEAST * 1000.0;
    assert_eq!((ex2(tiny, true), ex2(-tiny, false)), (1.0, 1.0));
    assert_eq!(lg2(tiny, true), -INF);
    assert_eq!(lg2(LEAST, false), -149.0);
    assert_eq!(sin(-tiny, true).to_bits(), 0x8000_0000);
    assert_eq!(sin(-tiny, false), -tiny);
    assert_eq!(rcp(-tiny, true), -INF);
    assert_eq!(rcp(f32::MAX, true), 0.0);
    assert!(rcp(f32::MAX, false) > 0.0);
    assert_eq!(rsqrt(tiny, true), INF);
    assert_eq!(sqrt(tiny, true), 0.0);
    assert_eq!((ex2(-130.0, false), ex2(-130.0, true)), (2f32.powi(-130), 0.0));
    assert_eq!((ex2(-149.0, false), ex2(-151.0, false)), (LEAST, 0.0));
    assert_eq!(tanh(-tiny), -tiny);
}

#[test]
fn known_values() {
    for x in -126..=127i16 {
        assert_eq!(ex2(f32::from(x), true), 2f32.powi(i32::from(x)));
        assert_eq!(lg2(2f32.powi(i32::from(x)), true), f32::from(x));
    }
    assert_eq!(ex2(128.0, false), INF);
    assert_eq!(ex2(0.5, true).to_bits(), 0x3fb5_04f3);
    assert_eq!(rsqrt(4.0, true), 0.5);
    assert_eq!(rcp(3.0, true).to_bits(), 0x3eaa_aaab);
    assert_eq!(sqrt(2.0, true).to_bits(), 0x3fb5_04f3);
    assert_eq!(cos(PI, true), -1.0);
    assert_eq!(tanh(20.0), 1.0);
}

#[test]
fn quotients() {
    assert_eq!(div(1.0, 3.0, true).to_bits(), 0x3eaa_aaab);
    let large = TWO_126 * 1.5;
    assert_eq!(div(large, -large, false).to_bits(), 0x8000_0000);
    assert_eq!(div_full(large, -large, false), -1.0);
    assert_eq!(div(INF, large, false).to_bits(), 0x7fff_ffff);
    assert_eq!(div(large, TWO_126, true), 1.5);
    assert_eq!((div(1.0, INF, false), div(1.0, -0.0, false)), (0.0, -INF));
    for (a, b) in [(INF, INF), (0.0, 0.0), (f32::NAN, 1.0), (1.0, f32::NAN)] {
        assert_eq!(div(a, b, true).to_bits(), 0x7fff_ffff);
        assert_eq!(div_full(a, b, false).to_bits(), 0x7fff_ffff);
    }
    assert_eq!(div(f32::MIN_POSITIVE, -2.0, true).to_bits(), 0x8000_0000);
}

#[test]
fn half_precision() {
    assert_eq!(ex2_half(Half::F16, 0xfc00), 0);
    assert_eq!(ex2_half(Half::F16, 0x7c00), 0x7c00);
    assert_eq!(ex2_half(Half::F16, 0x7e01), 0x7fff);
    assert_eq!(ex2_half(Half::F16, 0xce00), 1);
    assert_eq!(ex2_half(Half::F16, 0x3c00), 0x4000);
    assert_eq!(ex2_half(Half::Bf16, 0x8001), 0x3f80);
    assert_eq!(ex2_half(Half::Bf16, 0xc302), 0);
    assert_eq!(ex2_half(Half::Bf16, 0xff80), 0);
    assert_eq!(ex2_half(Half::Bf16, 0x7fc0), 0x7fff);
    for (half, one) in [(Half::F16, 0x3c00), (Half::Bf16, 0x3f80)] {
        let infinity = if half == Half::F16 { 0x7c00 } else { 0x7f80 };
        assert_eq!(tanh_half(half, infinity), one);
        assert_eq!(tanh_half(half, infinity | 0x8000), one | 0x8000);
        assert_eq!(tanh_half(half, 0x8000), 0x8000);
        assert_eq!(tanh_half(half, 0x8001), 0x8001);
        assert_eq!(tanh_half(half, 0xffff), 0x7fff);
    }
}

#[test]
fn every_half_is_correctly_rounded() {
    for bits in 0..=u16::MAX {
        for half in [Half::F16, Half::Bf16] {
            let format = if half == Half::F16 { Format::F16 } else { Format::Bf16 };
            let x = half.decode(bits);
            if x.is_nan() {
                continue;
            }
            let near = |y: f64| {
                format.encode(y, super::super::format::Round::Near, super::super::format::Saturate::NONE)
                    as u16
            };
            assert_eq!(tanh_half(half, bits), near(f64::from(x).tanh()), "{half:?} {x}");
            let expected = near(f64::from(x).exp2());
            let expected = if half == Half::Bf16 && expected & 0x7f80 == 0 { 0 } else { expected };
            assert_eq!(ex2_half(half, bits), expected, "{half:?} {x}");
        }
    }
}

#[test]
fn bounds_have_the_isa_s_exponents() {
    let of = |name, low: f32| match BOUNDS
        .iter()
        .find(|bound| bound.name == name && bound.low == low)
        .unwrap()
        .error
    {
        Error::Absolute(x) | Error::Relative(x) | Error::Ulp(x) => x,
    };
    let near = |x: f64, power: f64| assert!((x.log2() - power).abs() < 1e-9, "{x} is not 2^{power}");
    near(of("sin.approx.f32", -2.0 * PI), -20.5);
    near(of("cos.approx.f32", -100.0 * PI), -14.7);
    near(of("rsqrt.approx.f32", LEAST), -22.9);
    near(of("ex2.approx.f16", -65504.0), -9.9);
    near(of("tanh.approx.f16", -65504.0), -10.987);
    near(of("lg2.approx.f32", 0.5), -22.0);
    assert_eq!(TWO_126, 2f32.powi(126));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn ex2_has_the_precision_of_f64(x in -160f32..140.0, bits in any::<u32>()) {
        let (ours, host) = (exp2(f64::from(x)), f64::from(x).exp2());
        prop_assert!((ours - host).abs() <= host * 2f64.powi(-50));
        let any = f32::from_bits(bits);
        prop_assert_eq!(ex2(any, false).to_bits(), canonical(f64::from(any).exp2() as f32).to_bits());
    }

    #[test]
    fn results_are_rounded_once(bits in any::<u32>()) {
        let x = f32::from_bits(bits);
        if x.is_normal() {
            let wide = f64::from(x);
            let near = |y: f64| canonical(flush(y as f32)).to_bits();
            prop_assert_eq!(rcp(x, true).to_bits(), near(wide.recip()));
            prop_assert_eq!(rsqrt(x, true).to_bits(), near(wide.powf(-0.5)));
            prop_assert_eq!(lg2(x, true).to_bits(), near(wide.log2()));
            prop_assert_eq!(sqrt(x, true).to_bits(), near(wide.sqrt()));
        }
    }
}
