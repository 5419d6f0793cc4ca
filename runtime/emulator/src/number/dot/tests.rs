//! Sums that tell generations apart, specials, and the fast path against a definition in rational numbers.

use super::*;
use crate::number::format::NAN_F32;
use proptest::prelude::*;

const F16: fn(Generation) -> Option<Arithmetic> =
    |generation| arithmetic(generation, Format::F16, Format::F16, Format::F32);

/// One output; `a` and `b` are equally long.
fn dot(arithmetic: &Arithmetic, a: &[f32], b: &[f32], c: f32) -> f32 {
    let mut d = [c];
    matmul(arithmetic, 1, 1, a.len(), a, b, &mut d).unwrap();
    d[0]
}

fn power(exponent: i32) -> f32 {
    2f32.powi(exponent)
}

#[test]
fn ampere_keeps_24_bits_and_hopper_25() {
    let [ampere, hopper] =
        [Generation::Ampere, Generation::Hopper].map(|generation| F16(generation).unwrap());
    let units = |exponent| [power(exponent); 4];
    // Four addends of 2^-25 are one last place of a sum near 1, four of 2^-26 are half of it.
    assert_eq!(dot(&ampere, &units(-24), &[1.0; 4], 1.0), 1.0 + power(-22));
    assert_eq!(dot(&ampere, &units(-13), &units(-12), 1.0), 1.0);
    assert_eq!(dot(&hopper, &units(-13), &units(-12), 1.0), 1.0 + power(-23));
    assert_eq!(dot(&hopper, &units(-13), &units(-13), 1.0), 1.0);
    // The cut is toward zero for both signs, and so is the rounding.
    assert_eq!(dot(&hopper, &units(-13), &[-power(-13); 4], 1.0), 1.0);
    assert_eq!(dot(&hopper, &[power(-12)], &[power(-12)], 1.0), 1.0);
    assert_eq!(dot(&hopper, &[power(-12)], &[-power(-13)], -1.0), -1.0);
    assert_eq!(dot(&hopper, &[power(-12)], &[-power(-13)], 1.0), 1.0 - power(-24));
}

#[test]
fn groups_are_added_at_once() {
    let mut a = [0.0; 16];
    (a[0], a[1], a[8]) = (32768.0, -32768.0, 1.0);
    let mut b = [1.0; 16];
    (b[0], b[1]) = (32768.0, 32768.0);
    // Products of 2^30 and -2^30: beside them 1 is cut off, in the next group it is not.
    assert_eq!(dot(&F16(Generation::Ampere).unwrap(), &a, &b, 0.0), 1.0);
    assert_eq!(dot(&F16(Generation::Hopper).unwrap(), &a, &b, 0.0), 0.0);
}

#[test]
fn eight_bits_are_added_shortly_on_ada_and_hopper() {
    let of = |generation| arithmetic(generation, Format::E4m3, Format::E4m3, Format::F32).unwrap();
    let (small, unit) = ([power(-7); 16], [power(-6); 16]);
    for generation in [Generation::Ada, Generation::Hopper] {
        assert_eq!(dot(&of(generation), &small, &small, 1.0), 1.0);
        assert_eq!(dot(&of(generation), &small, &unit, 1.0), 1.0 + 16.0 * power(-13));
        // The result has 13 bits of fraction.
        assert_eq!(dot(&of(generation), &[power(-6); 3], &[power(-7); 3], 2.0), 2.0);
        assert_eq!(dot(&of(generation), &[], &[], 1.0 + power(-20)), 1.0 + power(-20));
        assert_eq!(dot(&of(generation), &[0.0], &[0.0], 1.0 + power(-20)), 1.0);
    }
    assert_eq!(dot(&of(Generation::Blackwell), &small, &small, 1.0), 1.0 + 16.0 * power(-14));
}

#[test]
fn eight_bits_of_mma_on_hopper_are_f16() {
    let of =
        |accumulator| mma_arithmetic(Generation::Hopper, Format::E4m3, Format::E5m2, accumulator).unwrap();
    let mma = of(Format::F32);
    assert_eq!(dot(&mma, &[power(-7); 16], &[power(-7); 16], 1.0), 1.0 + 16.0 * power(-14));
    // The accumulator is added with rounding to nearest: 3 * 2^-18 is more than half of its last place.
    assert_eq!(dot(&mma, &[3.0 * power(-9)], &[power(-9)], 128.0), 128.0 + power(-16));
    // 448 * 448 and its negative are gone before the elements 2 and 3 of four are added.
    let (mut a, mut b) = ([0.0; 64], [1.0; 64]);
    (a[0], a[5], a[2], a[35]) = (448.0, -448.0, power(-9), 2.0);
    (b[0], b[5], b[2]) = (448.0, 448.0, power(-9));
    assert_eq!(dot(&mma, &a, &b, 0.5), 2.5 + power(-18));
    assert_eq!(dot(&of(Format::F16), &a[32..], &b[32..], 2048.0), 2050.0);
    a[35] = 1.0;
    assert_eq!(dot(&of(Format::F16), &a[32..], &b[32..], 2048.0), 2048.0);
    assert!(!mma_arithmetic(Generation::Ada, Format::E4m3, Format::E5m2, Format::F32).unwrap().emulated);
}

#[test]
fn a_zero_is_positive() {
    for format in [Format::F32, Format::F16] {
        let hopper = arithmetic(Generation::Hopper, Format::F16, Format::F16, format).unwrap();
        assert_eq!(
            dot(&hopper, &[power(-14), 0.0], &[-power(-14), -1.0], -0.0).to_bits() >> 31,
            u32::from(format == Format::F32)
        );
        assert_eq!(dot(&hopper, &[-0.0], &[1.0], -0.0).to_bits(), 0);
    }
    let bf16 = arithmetic(Generation::Hopper, Format::Bf16, Format::Bf16, Format::F32).unwrap();
    assert_eq!(dot(&bf16, &[power(-100)], &[-power(-60)], 0.0).to_bits(), 0);
}

#[test]
fn exponents_are_those_of_the_factors() {
    // 1.5 * 1.5 is 2.25, but aligned as 2^0: beside it 2^-25 is kept.
    let hopper = F16(Generation::Hopper).unwrap();
    let (a, b) = ([1.5, -1.5, power(-12), power(-12)], [1.5, 1.5, power(-13), power(-14)]);
    assert_eq!(dot(&hopper, &a, &b, 0.0), power(-25));
    // As an accumulator 2.25 is aligned as 2^1.
    assert_eq!(dot(&hopper, &a[..3], &[1.5, 0.0, power(-13)], -2.25), 0.0);
    // A subnormal f16 is aligned by 2^-14.
    assert_eq!(dot(&hopper, &[power(-24), power(-14)], &[1.0, power(-25)], 0.0), power(-24) + power(-39));
    assert_eq!(dot(&hopper, &[power(-24), power(-14)], &[1.0, power(-26)], 0.0), power(-24));
}

#[test]
fn f16_accumulators() {
    let of = |generation| arithmetic(generation, Format::F16, Format::F16, Format::F16).unwrap();
    let hopper = of(Generation::Hopper);
    assert_eq!(dot(&hopper, &[1.0, 1.0], &[2048.0, 1.0], 0.0), 2048.0);
    assert_eq!(dot(&hopper, &[1.0, 1.0], &[2048.0, 3.0], 0.0), 2052.0);
    assert_eq!(dot(&hopper, &[256.0], &[256.0], -1.0), f32::INFINITY);
    assert_eq!(dot(&hopper, &[power(-14)], &[power(-10)], 0.0), power(-24));
    assert_eq!(dot(&hopper, &[power(-14)], &[power(-11)], 0.0), 0.0);
}

#[test]
fn specials() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for generation in [Generation::Ampere, Generation::Hopper] {
        let arithmetic = arithmetic(generation, Format::Bf16, Format::Bf16, Format::F32).unwrap();
        for (a, b, c) in [
            ([nan, 0.0], [0.0, 0.0], 0.0),
            ([1.0, 0.0], [1.0, 0.0], nan),
            ([inf, 0.0], [0.0, 0.0], 0.0),
            ([inf, 1.0], [1.0, -inf], 0.0),
            ([inf, 1.0], [1.0, 1.0], -inf),
        ] {
            assert_eq!(dot(&arithmetic, &a, &b, c).to_bits(), NAN_F32.to_bits());
        }
        assert_eq!(dot(&arithmetic, &[inf, 1.0], &[-1.0, 1.0], 1.0), -inf);
        assert_eq!(dot(&arithmetic, &[0.0, 1.0], &[-1.0, 1.0], inf), inf);
        // Products beyond f32 that cancel, and a sum beyond f32.
        assert_eq!(dot(&arithmetic, &[power(100), power(100)], &[power(100), -power(100)], 3.0), 0.0);
        assert_eq!(dot(&arithmetic, &[power(100), 1.0], &[power(28), 1.0], 0.0), inf);
        assert_eq!(dot(&arithmetic, &[power(-100)], &[power(-49)], 0.0), f32::from_bits(1));
        assert_eq!(dot(&arithmetic, &[0.0, -0.0], &[1.0, 1.0], 0.0).to_bits(), 0);
    }
}

#[test]
fn what_does_not_exist() {
    use Format::{Bf16, E2m1, E4m3, F16, F32, Tf32};
    assert!(arithmetic(Generation::Ampere, E4m3, E4m3, F32).is_none());
    assert!(arithmetic(Generation::Hopper, E2m1, E4m3, F32).is_none());
    assert!(arithmetic(Generation::Hopper, F16, Bf16, F32).is_none());
    assert!(arithmetic(Generation::Hopper, Bf16, Bf16, F16).is_none());
    assert!(arithmetic(Generation::Hopper, Tf32, Tf32, F16).is_none());
    assert!(arithmetic(Generation::RtxBlackwell, E2m1, E4m3, F16).is_some());
}

#[test]
fn shapes_are_checked() {
    let hopper = F16(Generation::Hopper).unwrap();
    let error = matmul(&hopper, 2, 3, 4, &[0.0; 8], &[0.0; 11], &mut [0.0; 6]).unwrap_err();
    assert_eq!(error, ShapeError { operand: "B", expected: 12, found: 11 });
    assert!(matmul(&hopper, usize::MAX, 3, 4, &[], &[0.0; 12], &mut []).is_err());
    assert!(matmul(&hopper, 0, 8, 16, &[], &[0.0; 128], &mut []).is_ok());
}

#[test]
fn integers() {
    let mut d = [i32::MAX, 1, 2, 3];
    matmul_i32(Overflow::Wrap, [2, 2, 2], &[1, 2, -3, 4], &[1, 5, -6, 7], &mut d).unwrap();
    assert_eq!(d, [i32::MAX - 11, 20, -25, 16]);
    let product = |overflow| {
        let mut d = [i32::MAX];
        matmul_i32(overflow, [1, 1, 2], &[127, -128], &[127, 127], &mut d).unwrap();
        let mut e = [i32::MAX];
        matmul_i32(overflow, [1, 1, 2], &[127, 127], &[127, 127], &mut e).unwrap();
        (d[0], e[0])
    };
    assert_eq!(product(Overflow::Clamp), (i32::MAX - 127, i32::MAX));
    assert_eq!(product(Overflow::Wrap), (i32::MAX - 127, i32::MIN + 2 * 127 * 127 - 1));
}

fn e4m3_scaled(a: &[f32], b: &[f32], scales: [u8; 2], c: f32) -> f32 {
    let arithmetic = arithmetic(Generation::Blackwell, Format::E4m3, Format::E2m1, Format::F32).unwrap();
    let mut d = [c];
    let [of_a, of_b] = scales;
    let scales = Scales { format: Format::Ue8m0, block: 32, a: &[of_a], b: &[of_b] };
    matmul_scaled(&arithmetic, false, [1, 1, a.len()], a, b, scales, &mut d).unwrap();
    d[0]
}

#[test]
fn scales_move_exponents() {
    assert_eq!(e4m3_scaled(&[1.5, 448.0], &[6.0, 0.5], [127, 127], 1.0), 234.0);
    assert_eq!(e4m3_scaled(&[1.5, 448.0], &[6.0, 0.5], [130, 126], 0.5), 932.5);
    assert_eq!(e4m3_scaled(&[1.0], &[1.0], [254, 254], 0.0), f32::INFINITY);
    assert_eq!(e4m3_scaled(&[1.0], &[1.0], [254, 0], 0.0), 1.0);
    assert_eq!(e4m3_scaled(&[1.0], &[1.0], [0, 105], 0.0), f32::from_bits(1));
    assert!(e4m3_scaled(&[0.0], &[1.0], [0xff, 127], 0.0).is_nan());
    assert!(e4m3_scaled(&[1.0], &[0.0], [127, 0xff], 0.0).is_nan());
}

#[test]
fn scaled_four_bits() {
    let arithmetic = arithmetic(Generation::Blackwell, Format::E2m1, Format::E2m1, Format::F32).unwrap();
    let of = |format, block, a: &[f32], codes: (&[u8], &[u8]), c: f32| {
        let mut d = [c];
        let scales = Scales { format, block, a: codes.0, b: codes.1 };
        matmul_scaled(&arithmetic, true, [1, 1, 64], a, &[1.5; 64], scales, &mut d).map(|()| d[0])
    };
    let ones = [1.0; 64];
    assert_eq!(of(Format::Ue8m0, 32, &ones, (&[127, 128], &[127, 127]), 4.0), Ok(4.0 + 48.0 + 96.0));
    // 0x3c is 1.5, 0x01 is 2^-9.
    let (a, b) = ([0x3c, 0x38, 0, 1], [0x38, 0x3c, 0x7e, 0x38]);
    assert_eq!(of(Format::Ue4m3, 16, &ones, (&a, &b), 0.0), Ok(36.0 + 36.0 + 24.0 / 512.0));
    assert!(of(Format::Ue4m3, 16, &ones, (&[0x7f, 0, 0, 0], &b), 0.0).unwrap().is_nan());
    // 48 * 2^-35 is kept, so that the rounding toward zero leaves the number below one.
    let tiny = (&[127 - 35, 127][..], &[127, 127][..]);
    let mut half = ones;
    half[32..].fill(0.0);
    assert_eq!(of(Format::Ue8m0, 32, &half, tiny, -1.0), Ok(-1.0 + power(-24)));
    assert_eq!(
        of(Format::E4m3, 16, &ones, (&[0; 4], &[0; 4]), 0.0),
        Err(ScaledError::Scales { block: 16, format: Format::E4m3 })
    );
}

/// The definition over again, in `f64` and without integers: every addend cut to a multiple of the unit.
fn definition(arithmetic: &Arithmetic, a: &[f32], b: &[f32], scale: i32, c: f32) -> f32 {
    let split = |x: f32, min: i32| {
        let mut exponent = min;
        while x.abs() >= 2f32.powi(exponent).mul_add(2.0, 0.0) {
            exponent += 1;
        }
        (f64::from(x) / 2f64.powi(exponent), exponent)
    };
    let c_min = if arithmetic.result == Sum::F16 { -14 } else { -126 };
    let mut terms = vec![split(c, c_min)];
    for (x, y) in a.iter().zip(b) {
        let ((x, of_x), (y, of_y)) = (split(*x, arithmetic.a_min), split(*y, arithmetic.b_min));
        terms.push((x * y, of_x + of_y + scale));
    }
    let largest = terms.iter().filter(|term| term.0 != 0.0).map(|term| term.1).max();
    let Some(largest) = largest.map(|largest| largest.max(-133)) else { return 0.0 };
    let unit = 2f64.powi(arithmetic.fraction_bits);
    let sum: f64 = terms.iter().map(|(x, e)| (x * 2f64.powi(e - largest) * unit).trunc()).sum::<f64>() / unit;
    let sum = sum * 2f64.powi(largest);
    let format = if arithmetic.result == Sum::F16 { Format::F16 } else { Format::F32 };
    let round = if arithmetic.result == Sum::F16 { Round::Near } else { Round::Zero };
    let bits = format.encode(sum, round, Saturate::NONE);
    let bits = if arithmetic.result == Sum::F32Short { bits & !0x3ff } else { bits };
    format.decode(bits)
}

fn all() -> Vec<(Format, Arithmetic)> {
    let mut out = Vec::new();
    for generation in [
        Generation::Ampere,
        Generation::Ada,
        Generation::Hopper,
        Generation::Blackwell,
        Generation::RtxBlackwell,
    ] {
        for format in [Format::Tf32, Format::F16, Format::Bf16, Format::E4m3, Format::E5m2, Format::E3m2] {
            for accumulator in [Format::F32, Format::F16] {
                out.extend(arithmetic(generation, format, format, accumulator).map(|found| (format, found)));
            }
        }
    }
    out
}

/// The results of all kernels that this processor has, whatever the shape.
fn every_kernel(task: fast::Task, c: &[f32]) -> Vec<Vec<f32>> {
    let mut out = vec![c.to_vec(); 2];
    fast::blocks::<16, _>(portable::Portable, task, &mut out[0]);
    fast::blocks::<4, _>(portable::Portable, task, &mut out[1]);
    #[cfg(target_arch = "x86_64")]
    for kernel in [x86::matmul_8, x86::matmul_16] {
        let mut d = c.to_vec();
        if kernel(task, &mut d) {
            out.push(d);
        }
    }
    out
}

/// Codes around a few exponents, so that addends overlap, some of them zero, some of any kind.
fn element(format: Format, kind: u32, seed: u32) -> f32 {
    let sign = if seed & 1 == 1 { -1.0 } else { 1.0 };
    let mantissa = 1.0 + (seed >> 1 & 0x3ff) as f32 / 1024.0;
    let spread = [0, 3, 12, 40, 120][kind as usize % 5];
    let exponent = (seed >> 11) as i32 % (2 * spread + 1) - spread;
    let value = f64::from(sign * mantissa) * 2f64.powi(exponent);
    match seed >> 28 {
        0 => 0.0,
        1 if kind >= 5 => format.decode(seed.rotate_left(16)),
        _ => {
            let bits = format.encode(value, Round::Near, Saturate::FINITE);
            format.decode(bits)
        }
    }
}

fn random(seed: &mut u64) -> u32 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 16) as u32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn fast_and_exact_are_the_definition(
        which in prop::sample::select(all()),
        [m, n, k] in prop::array::uniform3(1usize..40), kind in 0u32..10, seed in 1u64..u64::MAX,
    ) {
        let (format, arithmetic) = which;
        let accumulator = if arithmetic.result == Sum::F16 { Format::F16 } else { Format::F32 };
        let mut seed = seed;
        let mut values = |format, len| (0..len).map(|_| element(format, kind, random(&mut seed))).collect::<Vec<_>>();
        let (a, b, c) = (values(format, m * k), values(format, k * n), values(accumulator, m * n));
        let mut d = c.clone();
        matmul(&arithmetic, m, n, k, &a, &b, &mut d).unwrap();
        for other in every_kernel(fast::Task { arithmetic: &arithmetic, shape: [m, n, k], a: &a, b: &b, scales: None }, &c) {
            let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits();
            prop_assert!(other.iter().zip(&d).all(same), "{:?} {:?} {:?}", arithmetic, other, d);
        }
        for i in 0..m {
            for j in 0..n {
                let mut slow = c[i * n + j];
                let mut defined = slow;
                for start in (0..k).step_by(arithmetic.group) {
                    let row = &a[i * k + start..][..arithmetic.group.min(k - start)];
                    let column: Vec<f32> = (start..start + row.len()).map(|l| b[l * n + j]).collect();
                    slow = exact::group(&arithmetic, row, column.iter().copied(), 0, slow);
                    let finite = row.iter().chain(&column).chain([&defined]).all(|x| x.is_finite());
                    defined = if finite { definition(&arithmetic, row, &column, 0, defined) } else { slow };
                    if slow.is_infinite() {
                        defined = slow;
                    }
                }
                let bits = |x: f32| if x == 0.0 { 0 } else { x.to_bits() };
                prop_assert_eq!(bits(d[i * n + j]), bits(slow), "{:?} {} {}", arithmetic, d[i * n + j], slow);
                prop_assert_eq!(bits(slow), bits(defined), "{:?} {} {}", arithmetic, slow, defined);
            }
        }
    }

    #[test]
    fn scaled_is_the_definition(
        [m, n] in prop::array::uniform2(1usize..20), kind in 0u32..3, seed in 1u64..u64::MAX, wide in any::<bool>(),
    ) {
        let arithmetic = arithmetic(Generation::RtxBlackwell, Format::E4m3, Format::E2m1, Format::F32).unwrap();
        let (k, mut seed) = (64, seed);
        let mut values = |format, len| (0..len).map(|_| element(format, kind, random(&mut seed))).collect::<Vec<_>>();
        let (a, b, c) = (values(Format::E4m3, m * k), values(Format::E2m1, k * n), values(Format::F32, m * n));
        let mut codes = |len| -> Vec<u8> {
            (0..len).map(|_| (if wide { random(&mut seed) % 255 } else { 117 + random(&mut seed) % 20 }) as u8).collect()
        };
        let (of_a, of_b) = (codes(m * 2), codes(2 * n));
        let scales = Scales { format: Format::Ue8m0, block: 32, a: &of_a, b: &of_b };
        let mut d = c.clone();
        matmul_scaled(&arithmetic, false, [m, n, k], &a, &b, scales, &mut d).unwrap();
        let exponents = |codes: &[u8]| codes.iter().map(|code| i32::from(*code) - 127).collect::<Vec<_>>();
        let (a_exponents, b_exponents) = (exponents(&of_a), exponents(&of_b));
        let scales = Some(fast::Exponents { a: &a_exponents, b: &b_exponents });
        for other in every_kernel(fast::Task { arithmetic: &arithmetic, shape: [m, n, k], a: &a, b: &b, scales }, &c) {
            let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits();
            prop_assert!(other.iter().zip(&d).all(same), "{:?} {:?}", other, d);
        }
        for i in 0..m {
            for j in 0..n {
                let mut defined = c[i * n + j];
                for block in 0..2 {
                    let column: Vec<f32> = (0..32).map(|l| b[(block * 32 + l) * n + j]).collect();
                    let scale = i32::from(of_a[i * 2 + block]) + i32::from(of_b[block * n + j]) - 254;
                    let row = &a[i * k + block * 32..][..32];
                    let slow = exact::group(&arithmetic, row, column.iter().copied(), scale, defined);
                    if slow.is_finite() {
                        prop_assert!(slow == definition(&arithmetic, row, &column, scale, defined));
                    }
                    defined = slow;
                }
                prop_assert!(d[i * n + j] == defined || d[i * n + j].is_nan() && defined.is_nan());
            }
        }
    }
}
