//! Known codes from the formats' specifications, and encoding against a search over all codes.

use super::*;
use proptest::prelude::*;

const ALL: [Format; 11] = [
    Format::F32,
    Format::Tf32,
    Format::F16,
    Format::Bf16,
    Format::E4m3,
    Format::E5m2,
    Format::E3m2,
    Format::E2m3,
    Format::E2m1,
    Format::Ue8m0,
    Format::Ue4m3,
];

const ROUNDS: [Round; 5] = [Round::Near, Round::Zero, Round::Up, Round::Down, Round::NearAway];

fn near(format: Format, x: f64) -> u32 {
    format.encode(x, Round::Near, Saturate::NONE)
}

#[test]
fn codes_of_the_specifications() {
    let known: &[(Format, u32, f64)] = &[
        (Format::F16, 0x3c00, 1.0),
        (Format::F16, 0x7bff, 65504.0),
        (Format::F16, 0x0001, 2f64.powi(-24)),
        (Format::F16, 0x03ff, 1023.0 * 2f64.powi(-24)),
        (Format::F16, 0x0400, 2f64.powi(-14)),
        (Format::F16, 0xc000, -2.0),
        (Format::F16, 0x3555, 0.33325195312),
        (Format::Bf16, 0x3f80, 1.0),
        (Format::Bf16, 0x4049, 3.140625),
        (Format::Bf16, 0x7f7f, 3.3895313892515355e38),
        (Format::Bf16, 0x0001, 2f64.powi(-133)),
        (Format::E4m3, 0x7e, 448.0),
        (Format::E4m3, 0x08, 2f64.powi(-6)),
        (Format::E4m3, 0x01, 2f64.powi(-9)),
        (Format::E4m3, 0x38, 1.0),
        (Format::E4m3, 0xbc, -1.5),
        (Format::E5m2, 0x7b, 57344.0),
        (Format::E5m2, 0x04, 2f64.powi(-14)),
        (Format::E5m2, 0x01, 2f64.powi(-16)),
        (Format::E5m2, 0x3c, 1.0),
        (Format::E3m2, 0x1f, 28.0),
        (Format::E3m2, 0x04, 0.25),
        (Format::E3m2, 0x01, 0.0625),
        (Format::E3m2, 0x2c, -1.0),
        (Format::E2m3, 0x1f, 7.5),
        (Format::E2m3, 0x08, 1.0),
        (Format::E2m3, 0x01, 0.125),
        (Format::E2m3, 0x28, -1.0),
        (Format::Ue8m0, 0x7f, 1.0),
        (Format::Ue8m0, 0x00, 2f64.powi(-127)),
        (Format::Ue8m0, 0xfe, 2f64.powi(127)),
        (Format::Ue4m3, 0x7e, 448.0),
        (Format::Ue4m3, 0x01, 2f64.powi(-9)),
        (Format::Tf32, 0x3f80_2000, 1.0 + 2f64.powi(-10)),
    ];
    for &(format, code, value) in known {
        let decoded = f64::from(format.decode(code));
        assert!(
            (decoded - value).abs() <= value.abs() * 1e-10,
            "{format:?} {code:#x} is {decoded}, not {value}"
        );
        assert_eq!(near(format, decoded), code, "{format:?} {value}");
    }
    let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for (code, value) in (0..).zip(e2m1) {
        assert_eq!(Format::E2m1.decode(code), value);
        assert_eq!(Format::E2m1.decode(code + 8), -value);
    }
}

#[test]
fn specials_of_the_specifications() {
    assert!(Format::E4m3.decode(0x7f).is_nan() && Format::E4m3.decode(0xff).is_nan());
    assert!(Format::Ue8m0.decode(0xff).is_nan() && Format::Ue4m3.decode(0x7f).is_nan());
    assert_eq!(Format::E5m2.decode(0x7c), f32::INFINITY);
    assert_eq!(Format::E5m2.decode(0xfc), f32::NEG_INFINITY);
    assert!((0x7d..=0x7f).all(|code| Format::E5m2.decode(code).is_nan()));
    assert_eq!(Format::F16.decode(0x7c00), f32::INFINITY);
    assert!(Format::F16.decode(0x7c01).is_nan());
    assert_eq!(Format::F16.decode(0x8000).to_bits(), 0x8000_0000);
    assert_eq!(Format::Tf32.decode(0x3f80_1fff), 1.0);
    // The sign of a scale is not looked at.
    assert_eq!(Format::Ue4m3.decode(0xb8), 1.0);
}

#[test]
fn nan_is_canonical_or_the_greatest_value() {
    let expected = [
        (Format::F32, 0x7fff_ffff),
        (Format::F16, 0x7fff),
        (Format::Bf16, 0x7fff),
        (Format::E4m3, 0x7f),
        (Format::E5m2, 0x7f),
        (Format::E3m2, 0x1f),
        (Format::E2m3, 0x1f),
        (Format::E2m1, 0x7),
        (Format::Ue8m0, 0xff),
    ];
    for (format, code) in expected {
        for saturate in [Saturate::NONE, Saturate::FINITE, Saturate::RELU, Saturate::FINITE_RELU] {
            assert_eq!(format.encode(-f64::NAN, Round::Near, saturate), code, "{format:?}");
        }
    }
}

#[test]
fn out_of_range() {
    let finite = |format: Format, x| format.encode(x, Round::Near, Saturate::FINITE);
    assert_eq!(near(Format::F16, 65519.99), 0x7bff);
    assert_eq!(near(Format::F16, 65520.0), 0x7c00);
    assert_eq!(Format::F16.encode(1e9, Round::Zero, Saturate::NONE), 0x7bff);
    assert_eq!(Format::F16.encode(-1e9, Round::Up, Saturate::NONE), 0xfbff);
    assert_eq!(Format::F16.encode(-1e9, Round::Down, Saturate::NONE), 0xfc00);
    assert_eq!(near(Format::F16, f64::INFINITY), 0x7c00);
    assert_eq!(finite(Format::F16, f64::NEG_INFINITY), 0xfbff);
    assert_eq!(finite(Format::E4m3, 464.1), 0x7e);
    assert_eq!(finite(Format::E4m3, -1e30), 0xfe);
    assert_eq!(near(Format::E4m3, 1e30), 0x7f);
    assert_eq!(finite(Format::E5m2, f64::INFINITY), 0x7b);
    assert_eq!(near(Format::E5m2, 61440.0), 0x7c);
    assert_eq!(finite(Format::E2m1, -100.0), 0xf);
    assert_eq!(finite(Format::Ue8m0, 1e300), 0xfe);
    assert_eq!(finite(Format::Ue8m0, f64::NEG_INFINITY), 0xfe);
    assert_eq!(near(Format::Ue8m0, 1e300), 0xff);
    assert_eq!(near(Format::F32, 1e-60), 0);
    assert_eq!(Format::F32.encode(1e-60, Round::Up, Saturate::NONE), 1);
    assert_eq!(Format::F32.encode(f64::from_bits(1), Round::Up, Saturate::NONE), 1);
}

#[test]
fn ties() {
    // 2.5 lies between 2 and 3, 5 between 4 and 6, 0.25 between 0 and 0.5.
    assert_eq!(near(Format::E2m1, 2.5), 0x4);
    assert_eq!(near(Format::E2m1, 5.0), 0x6);
    assert_eq!(near(Format::E2m1, 0.25), 0x0);
    assert_eq!(near(Format::E2m1, -0.75), 0xa);
    assert_eq!(Format::E2m1.encode(2.5, Round::NearAway, Saturate::FINITE), 0x5);
    assert_eq!(Format::Tf32.encode(1.0 + 2f64.powi(-11), Round::NearAway, Saturate::NONE), 0x3f80_2000);
    assert_eq!(near(Format::Tf32, 1.0 + 2f64.powi(-11)), 0x3f80_0000);
    assert_eq!(near(Format::E4m3, 2f64.powi(-10)), 0);
    assert_eq!(near(Format::E4m3, 3.0 * 2f64.powi(-10)), 2);
    // Scales: toward zero and up, as `cvt` has them; 1.5 * 2^-127 has no lower code than 0.
    let scale = |x, round| Format::Ue8m0.encode(x, round, Saturate::FINITE);
    assert_eq!((scale(3.0, Round::Zero), scale(3.0, Round::Up)), (128, 129));
    assert_eq!((scale(4.0, Round::Zero), scale(4.0, Round::Up)), (129, 129));
    let low = 2f64.powi(-127);
    assert_eq!((scale(1.5 * low, Round::Zero), scale(1.5 * low, Round::Up)), (0, 1));
    assert_eq!((scale(low / 8.0, Round::Up), scale(0.0, Round::Up)), (0, 0));
}

#[test]
fn relu() {
    for format in [Format::F16, Format::Bf16, Format::E4m3, Format::E2m1, Format::Tf32] {
        assert_eq!(format.encode(-0.0, Round::Near, Saturate::RELU), 0);
        assert_eq!(format.encode(-1.0, Round::Near, Saturate::FINITE_RELU), 0);
        assert_eq!(format.encode(f64::NEG_INFINITY, Round::Near, Saturate::RELU), 0);
        assert_eq!(format.encode(1.0, Round::Near, Saturate::RELU), near(format, 1.0));
    }
}

#[test]
fn every_code_of_a_narrow_format_is_its_own_encoding() {
    for format in ALL.into_iter().filter(|format| format.bits() <= 16) {
        for code in 0..1u32 << format.bits() {
            let value = format.decode(code);
            let scale = format == Format::Ue4m3;
            if value.is_nan() {
                assert_eq!(near(format, f64::from(value)), format.nan_bits());
            } else {
                assert_eq!(
                    near(format, f64::from(value)),
                    if scale { code & 0x7f } else { code },
                    "{format:?}"
                );
            }
        }
    }
}

#[test]
fn arrays_decode_as_single_codes_do() {
    let bytes: Vec<u8> = (0..=255u8).map(|i| i.wrapping_mul(37)).collect();
    for format in ALL {
        let width = (format.bits() as usize).div_ceil(8);
        let mut out = vec![0.0; 256 / width];
        format.decode_bytes(&bytes, &mut out);
        for (i, value) in out.iter().enumerate() {
            let code = (0..width).rev().fold(0, |code, j| code << 8 | u32::from(bytes[i * width + j]));
            assert_eq!(value.to_bits(), format.decode(code).to_bits(), "{format:?} {code:#x}");
        }
    }
}

/// The definition: of the two neighbours among all finite codes, by comparison of distances.
fn search(format: Format, x: f64, round: Round) -> u32 {
    let codes: Vec<(u32, f64)> = (0..1 << format.bits())
        .map(|code| (code, f64::from(format.decode(code))))
        .filter(|(_, value)| {
            value.is_finite() && (*value != 0.0 || value.is_sign_negative() == x.is_sign_negative())
        })
        .collect();
    let below = codes.iter().filter(|(_, v)| *v <= x).max_by(|a, b| a.1.total_cmp(&b.1));
    let above = codes.iter().filter(|(_, v)| *v >= x).min_by(|a, b| a.1.total_cmp(&b.1));
    let (below, above) = match (below, above) {
        (Some(below), Some(above)) => (below, above),
        (Some(only), None) | (None, Some(only)) => return only.0,
        (None, None) => unreachable!(),
    };
    let (low, high) = (x - below.1, above.1 - x);
    let (inner, outer) = if x < 0.0 { (above, below) } else { (below, above) };
    match round {
        _ if below.1 == above.1 => below.0,
        Round::Zero => inner.0,
        Round::Up => above.0,
        Round::Down => below.0,
        Round::Near if low == high => {
            if below.0 & 1 == 0 {
                below.0
            } else {
                above.0
            }
        }
        Round::NearAway if low == high => outer.0,
        Round::Near | Round::NearAway => {
            if low < high {
                below.0
            } else {
                above.0
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn encoding_finds_the_neighbour(
        which in prop::sample::select(&[
            Format::E4m3, Format::E5m2, Format::E3m2, Format::E2m3, Format::E2m1,
        ][..]),
        round in prop::sample::select(&ROUNDS[..]),
        mantissa in -(1i64 << 12)..(1 << 12),
        power in -22i32..14,
    ) {
        let x = mantissa as f64 * 2f64.powi(power);
        let expected = search(which, x, round);
        prop_assert_eq!(which.encode(x, round, Saturate::FINITE), expected, "{} {:?} {:?}", x, which, round);
    }

    #[test]
    fn nearest_f32_is_the_host_s(bits in any::<u64>(), small in any::<i32>()) {
        for x in [f64::from_bits(bits), f64::from(f32::from_bits(small as u32)), f64::from(small) * 2f64.powi(-160)] {
            if !x.is_nan() {
                prop_assert_eq!(near(Format::F32, x), (x as f32).to_bits());
            }
        }
    }

    #[test]
    fn directed_f32_brackets(x in any::<f64>()) {
        let of = |round| f64::from(f32::from_bits(Format::F32.encode(x, round, Saturate::NONE)));
        prop_assert!(of(Round::Down) <= x && x <= of(Round::Up));
        prop_assert!(of(Round::Zero).abs() <= x.abs());
        let (down, up) = (of(Round::Down) as f32, of(Round::Up) as f32);
        prop_assert!(down == up || down.next_up() == up);
    }
}
