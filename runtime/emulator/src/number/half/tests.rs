//! Half precision against exact integers, and conversions against the general encoder.

use super::super::float::tests::rounded;
use super::super::format::{Round, Saturate};
use super::*;
use proptest::prelude::*;

const HALVES: [(Half, Format); 2] = [(Half::F16, Format::F16), (Half::Bf16, Format::Bf16)];

#[test]
fn packed_halves() {
    let one_two = 0x4000_3c00;
    let sum = halves([one_two, one_two], |[a, b]| Half::F16.add(a, b, HalfMode::default()));
    assert_eq!(sum, 0x4400_4000);
    let relu = HalfMode { relu: true, ..HalfMode::default() };
    assert_eq!(Half::Bf16.fma(0xbf80, 0x3f80, 0, relu), 0);
    assert_eq!(Half::Bf16.fma(0xbf80, 0x3f80, 0, HalfMode::default()), 0xbf80);
    assert_eq!(Half::F16.mul(0x7c00, 0, relu), 0x7fff);
    let sat = HalfMode { sat: true, ..HalfMode::default() };
    assert_eq!(Half::F16.add(0x3c00, 0x3c00, sat), 0x3c00);
    let ftz = HalfMode { ftz: true, ..HalfMode::default() };
    assert_eq!(Half::F16.add(0x8001, 0, ftz), 0);
    // 2^-14 less 2^-12 of itself, a tie of numbers with 11 bits, and less a little more.
    assert_eq!((Half::F16.mul(0x3a90, 0x04e0, ftz), Half::F16.mul(0x39e0, 0x0572, ftz)), (0x400, 0));
}

fn any_f32() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn half_precision_rounds_the_exact_result(a in any::<u16>(), b in any::<u16>(), c in any::<u16>()) {
        for (half, format) in HALVES {
            let [x, y, z] = [a, b, c].map(|bits| f64::from(half.decode(bits)));
            let plain = HalfMode::default();
            let near = |x| format.encode(x, Round::Near, Saturate::NONE) as u16;
            prop_assert_eq!(half.mul(a, b, plain), near(x * y));
            prop_assert_eq!(half.add(a, b, plain), near(odd_sum(x, y)));
            prop_assert_eq!(half.sub(a, b, plain), near(odd_sum(x, -y)));
            // Exact in integers where the exponents are close enough for 128 bits.
            let unit = -200;
            let exact = [x * y, z].map(|v| v * 2f64.powi(-unit));
            if exact.iter().all(|v| v.abs() < 2f64.powi(120) && v.fract() == 0.0) {
                let sum = exact[0] as i128 + exact[1] as i128;
                if sum != 0 {
                    prop_assert_eq!(half.fma(a, b, c, plain), rounded(sum, unit, format, Round::Near) as u16);
                }
            }
        }
    }

    #[test]
    fn narrowing_is_encoding(x in any_f32(), small in 0u32..0x2_0000) {
        for x in [x, f32::from_bits(0x3300_0000 + (small << 10)), f32::from_bits(0x477f_0000 + small)] {
            let near = |format: Format| format.encode(f64::from(x), Round::Near, Saturate::NONE) as u16;
            prop_assert_eq!(bf16_rn(x), near(Format::Bf16));
            prop_assert_eq!(f16_rn(x), near(Format::F16));
        }
    }
}
