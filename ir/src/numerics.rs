//! Scalar codecs of the element types that are narrower than 16 bits, and rounding to any element type.
//!
//! The bit-exact definition that every backend is tested against. Nothing of scales or blocks (`quant.rs`).

use crate::dtype::DType;
use half::{bf16, f16};

/// Shape of a small float: sign (unless `signed` is false), `exp` exponent and `man` mantissa bits.
struct Mini {
    exp: u32,
    man: u32,
    bias: i32,
    signed: bool,
    /// The code, without its sign, of the largest finite magnitude; codes above it are NaN or infinite.
    top: u8,
    /// The code that NaN is encoded as.
    nan: u8,
}

/// OCP FP8 E4M3: no infinities, NaN is `S.1111.111`.
const E4M3: Mini = Mini { exp: 4, man: 3, bias: 7, signed: true, top: 0x7e, nan: 0x7f };
/// OCP FP8 E5M2: as IEEE, infinity is `S.11111.00`.
const E5M2: Mini = Mini { exp: 5, man: 2, bias: 15, signed: true, top: 0x7b, nan: 0x7f };
/// OCP MX FP4 E2M1: every code is finite, so NaN becomes the largest value, as the hardware's conversions do.
const E2M1: Mini = Mini { exp: 2, man: 1, bias: 1, signed: true, top: 0x7, nan: 0x7 };
/// OCP MX scale: `2^(code - 127)`, `0xff` is NaN.
const E8M0: Mini = Mini { exp: 8, man: 0, bias: 127, signed: false, top: 0xfe, nan: 0xff };

fn mini(dtype: DType) -> Option<&'static Mini> {
    match dtype {
        DType::F8E4M3 => Some(&E4M3),
        DType::F8E5M2 => Some(&E5M2),
        DType::F4E2M1 => Some(&E2M1),
        DType::F8E8M0 => Some(&E8M0),
        DType::F32 | DType::F16 | DType::Bf16 | DType::I8 | DType::I4 | DType::U8 | DType::I32 => None,
    }
}

impl Mini {
    /// The value of a code that is not above `top`.
    fn magnitude(&self, code: u8) -> f32 {
        let exponent = i32::from(code) >> self.man;
        let mantissa = i32::from(code) & ((1 << self.man) - 1);
        // Without mantissa bits there are no subnormals: exponent 0 is a power of two like the others.
        let (significand, exponent) = if exponent == 0 && self.man > 0 {
            (mantissa, 1 - self.bias)
        } else {
            (mantissa + (1 << self.man), exponent - self.bias)
        };
        // Exact in f64, and every magnitude is an f32.
        (f64::from(significand) * 2f64.powi(exponent - self.man as i32)) as f32
    }

    fn sign_bit(&self) -> u8 {
        if self.signed { 1 << (self.exp + self.man) } else { 0 }
    }

    fn decode(&self, code: u8) -> f32 {
        let sign = code & self.sign_bit();
        let bits = (1u16 << (self.exp + self.man)) - 1;
        let code = code & bits as u8;
        let magnitude = if code <= self.top {
            self.magnitude(code)
        } else if self.exp == 5 && code == self.top + 1 {
            f32::INFINITY
        } else {
            f32::NAN
        };
        if sign != 0 { -magnitude } else { magnitude }
    }

    fn encode(&self, x: f32) -> u8 {
        if x.is_nan() {
            return self.nan;
        }
        let negative = x.is_sign_negative();
        if negative && !self.signed {
            return 0;
        }
        let code = if self.man > 0 { self.nearest(x.abs()) } else { self.search(x.abs()) };
        if negative { code | self.sign_bit() } else { code }
    }

    /// The code of a magnitude, from its bits: packing encodes billions of them. Only for types with mantissa bits.
    fn nearest(&self, magnitude: f32) -> u8 {
        let normal = 2f32.powi(1 - self.bias);
        let code = if magnitude < normal {
            // Subnormals are as far apart as the least normals; both factors are powers of two, so nothing is rounded.
            (magnitude * (2f32.powi(self.man as i32) / normal)).round_ties_even() as u32
        } else {
            let (bits, cut) = (magnitude.to_bits(), 23 - self.man);
            // Half of the last kept bit, less one where that bit is even; a carry into the exponent is as it should be.
            let rounded = (bits + ((1 << (cut - 1)) - 1) + ((bits >> cut) & 1)) >> cut;
            rounded - ((127 - self.bias as u32) << self.man)
        };
        code.min(u32::from(self.top)) as u8
    }

    /// The code of a magnitude. The codes `0..=top` are in ascending order of their values: find the last that is not
    /// above it, and see whether the next is nearer.
    fn search(&self, magnitude: f32) -> u8 {
        let (mut low, mut high) = (0u8, self.top);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.magnitude(middle) <= magnitude {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        if low == self.top {
            return low;
        }
        let (below, above) = (f64::from(self.magnitude(low)), f64::from(self.magnitude(low + 1)));
        let (down, up) = (f64::from(magnitude) - below, above - f64::from(magnitude));
        // A tie goes to the even code. Below the least value of an unsigned type `down` is negative.
        if up < down || (up == down && low % 2 == 1) { low + 1 } else { low }
    }
}

/// The code of the value of `dtype` that is nearest to `x`, ties to the even code; what is beyond the largest
/// finite value, infinities included, becomes that value. `None` for types of 16 bits and more and for integers.
///
/// `F8E8M0` has neither sign nor zero: everything up to its least value, `2^-127`, becomes that.
pub fn encode(x: f32, dtype: DType) -> Option<u8> {
    mini(dtype).map(|m| m.encode(x))
}

/// The value of a code. `None` for types of 16 bits and more and for integers.
pub fn decode(code: u8, dtype: DType) -> Option<f32> {
    mini(dtype).map(|m| m.decode(code))
}

/// Rounds to the nearest value of `dtype`, ties to even.
///
/// Beyond the largest value, `F16` and `Bf16` overflow to infinity as IEEE says; all narrower types and the
/// integers saturate. NaN stays NaN where the type has one, becomes 0 in an integer, and the largest value in FP4.
pub fn round(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 => x,
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::Bf16 => bf16::from_f32(x).to_f32(),
        DType::I8 => integer(x, -128.0, 127.0),
        DType::I4 => integer(x, -8.0, 7.0),
        DType::U8 => integer(x, 0.0, 255.0),
        // The cast saturates; i32::MAX itself is not an f32, the nearest one is one above it.
        DType::I32 => (x.round_ties_even() as i32) as f32,
        DType::F8E4M3 => E4M3.decode(E4M3.encode(x)),
        DType::F8E5M2 => E5M2.decode(E5M2.encode(x)),
        DType::F4E2M1 => E2M1.decode(E2M1.encode(x)),
        DType::F8E8M0 => E8M0.decode(E8M0.encode(x)),
    }
}

/// Rounds to an integer, ties to even, within bounds; NaN becomes 0.
pub(crate) fn integer(x: f32, min: f32, max: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.round_ties_even().clamp(min, max) + 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIS: [DType; 4] = [DType::F8E4M3, DType::F8E5M2, DType::F4E2M1, DType::F8E8M0];

    fn codes(dtype: DType) -> impl Iterator<Item = u8> {
        0..=((1u16 << dtype.bits()) - 1) as u8
    }

    fn value(code: u8, dtype: DType) -> f32 {
        decode(code, dtype).unwrap()
    }

    #[test]
    fn every_finite_code_reads_back_as_itself() {
        for dtype in MINIS {
            for code in codes(dtype) {
                let x = value(code, dtype);
                if x.is_finite() {
                    assert_eq!(encode(x, dtype), Some(code), "{dtype} {code:#x} = {x}");
                    assert_eq!(round(x, dtype).to_bits(), x.to_bits());
                }
            }
        }
    }

    #[test]
    fn known_values() {
        let e4m3 = [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xb8, -1.0),
        ];
        let e5m2 =
            [(0x01, 2f32.powi(-16)), (0x3c, 1.0), (0x7b, 57344.0), (0xfb, -57344.0), (0x7c, f32::INFINITY)];
        let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for (code, x) in e4m3 {
            assert_eq!(value(code, DType::F8E4M3), x);
        }
        for (code, x) in e5m2 {
            assert_eq!(value(code, DType::F8E5M2), x);
        }
        for (code, x) in e2m1.into_iter().enumerate() {
            assert_eq!(value(code as u8, DType::F4E2M1), x);
            assert_eq!(value(code as u8 | 8, DType::F4E2M1), -x);
        }
        assert_eq!(value(0, DType::F8E8M0), 2f32.powi(-127));
        assert_eq!(value(127, DType::F8E8M0), 1.0);
        assert_eq!(value(254, DType::F8E8M0), DType::F8E8M0.max());
        for (code, dtype) in [(0x7f, DType::F8E4M3), (0x7d, DType::F8E5M2), (0xff, DType::F8E8M0)] {
            assert!(value(code, dtype).is_nan());
        }
    }

    #[test]
    fn between_neighbours_the_nearer_wins_and_ties_go_to_even_codes() {
        for dtype in MINIS {
            let top = mini(dtype).unwrap().top;
            for code in 0..top {
                let (low, high) = (value(code, dtype), value(code + 1, dtype));
                let middle = ((f64::from(low) + f64::from(high)) / 2.0) as f32;
                let even = if code % 2 == 0 { low } else { high };
                assert_eq!(round(middle, dtype), even, "{dtype} {code}");
                assert_eq!(round(f32::from_bits(middle.to_bits() - 1), dtype), low, "{dtype} {code}");
                assert_eq!(round(f32::from_bits(middle.to_bits() + 1), dtype), high, "{dtype} {code}");
            }
        }
    }

    #[test]
    fn both_ways_to_encode_agree() {
        let mut random = crate::random::Random::new(5);
        for m in [&E4M3, &E5M2, &E2M1] {
            for _ in 0..20_000 {
                let x = f32::from_bits(random.next() as u32 & 0x7fff_ffff);
                let near = random.signed().abs() * 2f32.powi(random.below(24) as i32 - 14);
                for x in [x, near] {
                    assert!(x.is_nan() || m.nearest(x) == m.search(x), "{x}");
                }
            }
        }
    }

    #[test]
    fn beyond_the_largest_value() {
        for dtype in MINIS {
            assert_eq!(value(mini(dtype).unwrap().top, dtype), dtype.max());
            for x in [dtype.max() * 1.5, f32::MAX, f32::INFINITY] {
                assert_eq!(round(x, dtype), dtype.max(), "{dtype} {x}");
            }
        }
        assert_eq!(round(-1e9, DType::F8E4M3), -448.0);
        assert_eq!(round(-1.0, DType::F8E8M0), 2f32.powi(-127));
        assert_eq!(round(1e6, DType::F16), f32::INFINITY);
        assert_eq!(round(f32::MAX, DType::Bf16), f32::INFINITY);
        assert_eq!(round(300.0, DType::U8), 255.0);
        assert_eq!(round(-9.0, DType::I4), -8.0);
        assert_eq!(round(2.5, DType::I8), 2.0);
        assert_eq!(round(-3.5, DType::I8), -4.0);
        assert_eq!(round(1e10, DType::I32), 2_147_483_648.0);
    }

    #[test]
    fn nan_and_signed_zero() {
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2, DType::F8E8M0] {
            assert!(round(f32::NAN, dtype).is_nan(), "{dtype}");
        }
        assert_eq!(round(f32::NAN, DType::F4E2M1), 6.0);
        for dtype in [DType::I8, DType::I4, DType::U8, DType::I32] {
            assert_eq!(round(f32::NAN, dtype).to_bits(), 0, "{dtype}");
        }
        assert_eq!(encode(-0.0, DType::F8E4M3), Some(0x80));
        assert_eq!(encode(1.0, DType::Bf16), None);
        assert_eq!(decode(1, DType::I8), None);
    }

    #[test]
    fn sixteen_bits_are_the_nearest_even() {
        assert_eq!(round(1.0 + 2f32.powi(-8), DType::Bf16), 1.0);
        assert_eq!(round(1.0 + 3.0 * 2f32.powi(-8), DType::Bf16), 1.0 + 2f32.powi(-6));
        assert_eq!(round(1.0 + 2f32.powi(-11), DType::F16), 1.0);
    }
}
