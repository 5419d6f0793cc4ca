//! Number formats of operands: their edge values, random values of several kinds, and what a pattern means. Nothing
//! here does arithmetic in a format.

use crate::rng::Rng;

/// What the greatest exponents of a format mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// The greatest exponent has infinities and NaNs.
    Ieee,
    /// All ones is NaN, there is no infinity (e4m3).
    OneNan,
    /// Every pattern is a number (e2m1, e2m3, e3m2).
    Finite,
    /// An exponent without sign and mantissa; all ones is NaN (ue8m0).
    Exponent,
    /// A two's complement integer.
    Signed,
    /// An integer without sign.
    Unsigned,
}

/// A number format: sign, `exp` bits of exponent, `man` bits of mantissa, then `pad` bits that are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits that an element takes.
    pub bits: u32,
    /// Bits of the exponent.
    pub exp: u32,
    /// Bits of the mantissa; of an integer, all.
    pub man: u32,
    /// Zero bits below.
    pub pad: u32,
    /// What the greatest exponents mean.
    pub top: Top,
}

const fn ieee(bits: u32, exp: u32, man: u32) -> Format {
    Format { bits, exp, man, pad: 0, top: Top::Ieee }
}

const fn integer(bits: u32, top: Top) -> Format {
    Format { bits, exp: 0, man: bits, pad: 0, top }
}

const fn small(exp: u32, man: u32, pad: u32) -> Format {
    Format { bits: 8, exp, man, pad, top: Top::Finite }
}

pub const F64: Format = ieee(64, 11, 52);
pub const F32: Format = ieee(32, 8, 23);
pub const F16: Format = ieee(16, 5, 10);
pub const BF16: Format = ieee(16, 8, 7);
/// f32 whose low 13 bits are 0.
pub const TF32: Format = Format { bits: 32, exp: 8, man: 10, pad: 13, top: Top::Ieee };
pub const E5M2: Format = ieee(8, 5, 2);
pub const E4M3: Format = Format { bits: 8, exp: 4, man: 3, pad: 0, top: Top::OneNan };
pub const E3M2: Format = small(3, 2, 0);
pub const E2M3: Format = small(2, 3, 0);
/// e2m1 in the middle of a byte, as mma of kind f8f6f4 takes it.
pub const E2M1_BYTE: Format = small(2, 1, 2);
pub const E2M1: Format = Format { bits: 4, exp: 2, man: 1, pad: 0, top: Top::Finite };
pub const UE8M0: Format = Format { bits: 8, exp: 8, man: 0, pad: 0, top: Top::Exponent };
pub const S8: Format = integer(8, Top::Signed);
pub const U8: Format = integer(8, Top::Unsigned);
pub const S4: Format = integer(4, Top::Signed);
pub const U4: Format = integer(4, Top::Unsigned);
pub const B1: Format = integer(1, Top::Unsigned);
pub const S32: Format = integer(32, Top::Signed);
pub const U32: Format = integer(32, Top::Unsigned);
pub const B64: Format = integer(64, Top::Unsigned);
pub const B16: Format = integer(16, Top::Unsigned);

/// Kinds of random values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Numbers around 1.
    Ordinary,
    /// Numbers of all magnitudes.
    Wide,
    /// Few magnitudes and mantissas, so that sums cancel.
    Cancelling,
    /// Mostly subnormal, some around 1.
    Subnormal,
    /// Around 1, with some infinities, NaNs, zeros and greatest numbers.
    Special,
    /// Mostly zeros.
    Sparse,
    /// Any bits.
    Bits,
}

/// All of them, in the order in which the blocks of a matrix test take them.
pub const MODES: [Mode; 7] =
    [Mode::Ordinary, Mode::Wide, Mode::Cancelling, Mode::Subnormal, Mode::Special, Mode::Sparse, Mode::Bits];

/// The low bits of a word.
pub fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

impl Format {
    /// True for integers.
    pub fn is_integer(self) -> bool {
        matches!(self.top, Top::Signed | Top::Unsigned)
    }

    fn bias(self) -> i64 {
        (1 << (self.exp - 1)) - 1
    }

    fn pack(self, negative: bool, exp: u64, man: u64) -> u64 {
        let sign = u64::from(negative && self.top != Top::Exponent) << (self.exp + self.man);
        (sign | exp << self.man | man) << self.pad
    }

    /// The greatest exponent field that stands for numbers only.
    fn greatest(self) -> u64 {
        mask(self.exp) - u64::from(self.top != Top::Finite)
    }

    /// Values at which instructions behave in ways of their own.
    pub fn edges(self) -> Vec<u64> {
        if self.is_integer() {
            let b = self.bits;
            let near = |p: u64| [p.wrapping_sub(1), p, p.wrapping_add(1)];
            let mut all: Vec<u64> = vec![0, 1, 2, 3, 10, u64::MAX, u64::MAX - 1, 0x5555_5555_5555_5555];
            for power in [4, 5, 6, 7, 8, 15, 16, 31, 32, 63].iter().filter(|p| **p <= b) {
                all.extend(near(1u64 << power));
            }
            all.iter_mut().for_each(|v| *v &= mask(b));
            all.sort_unstable();
            all.dedup();
            return all;
        }
        if self.top == Top::Exponent {
            return vec![0, 1, 2, 126, 127, 128, 253, 254, 255];
        }
        let (bias, ones) = (self.bias() as u64, mask(self.man));
        let half = 1u64 << (self.man - 1);
        let mut pairs = vec![(0, 0), (0, 1), (0, ones), (1, 0), (1, 1), (bias, 0), (bias, 1)];
        pairs.extend([(bias - 1, ones), (bias - 1, 0), (bias, half), (bias + 1, 0), (bias + 1, half)]);
        pairs.extend([(self.greatest(), 0), (mask(self.exp), ones)]);
        if self.top == Top::OneNan {
            pairs.push((mask(self.exp), ones - 1));
        }
        if self.top == Top::Ieee {
            let top = mask(self.exp);
            pairs.extend([(top - 1, ones), (top, 0), (top, half), (top, 1)]);
        }
        pairs.iter().flat_map(|&(e, m)| [self.pack(false, e, m), self.pack(true, e, m)]).collect()
    }

    /// A random value. Integers know of any bits, extremes and few bits only.
    pub fn random(self, mode: Mode, rng: &mut Rng) -> u64 {
        let bits = rng.word() & mask(self.bits);
        if self.is_integer() {
            return match mode {
                Mode::Subnormal => bits & 3 & mask(self.bits),
                Mode::Special => rng.of(&self.edges()),
                Mode::Cancelling if self.bits > 1 => {
                    let least = 1u64 << (self.bits - 1);
                    if rng.once_in(2) { least } else { least - 1 }
                }
                Mode::Sparse if !rng.once_in(8) => 0,
                _ => bits,
            };
        }
        if self.top == Top::Exponent {
            return match mode {
                Mode::Bits => bits,
                Mode::Wide => rng.between(64, 190) as u64,
                Mode::Special if rng.once_in(16) => 255,
                _ => rng.between(120, 134) as u64,
            };
        }
        let (negative, man) = (bits & 1 == 1, rng.word() & mask(self.man));
        let near = |rng: &mut Rng, span: i64| {
            (self.bias() + rng.between(-span, span)).clamp(1, self.greatest() as i64) as u64
        };
        match mode {
            Mode::Ordinary => {
                let exp = near(rng, 4);
                self.pack(negative, exp, man)
            }
            Mode::Wide => {
                // Products and sums of wide formats stay finite.
                let span = if self.exp < 8 { self.bias() } else { self.bias() / 2 - 4 };
                let exp = near(rng, span);
                self.pack(negative, exp, man)
            }
            Mode::Cancelling => {
                let exp = near(rng, 1);
                let man = rng.of(&[0, 0, 1, mask(self.man), 1 << (self.man - 1)]);
                self.pack(negative, exp, man)
            }
            Mode::Subnormal if !rng.once_in(4) => self.pack(negative, 0, man),
            Mode::Sparse if !rng.once_in(8) => 0,
            Mode::Special if rng.once_in(12) => rng.of(&self.edges()),
            Mode::Bits => self.number(bits),
            _ => {
                let exp = near(rng, 2);
                self.pack(negative, exp, man)
            }
        }
    }

    /// The pattern with the bits cleared that the format keeps 0.
    fn number(self, bits: u64) -> u64 {
        let kept = (bits >> self.pad) & mask(1 + self.exp + self.man);
        (kept << self.pad) & mask(self.bits)
    }

    /// A value whose low bits are a tie for a narrower result, or next to one.
    pub fn tie(self, rng: &mut Rng) -> u64 {
        let mode = rng.of(&[Mode::Ordinary, Mode::Wide, Mode::Subnormal]);
        let value = self.random(mode, rng);
        if self.is_integer() || self.man < 2 {
            return value;
        }
        let low = rng.between(1, i64::from(self.man)) as u32 + self.pad;
        let tie = (value & !mask(low)) | 1 << (low - 1);
        let next = rng.of(&[0, 0, 1, u64::MAX]) << self.pad;
        self.number(tie.wrapping_add(next) & mask(self.bits))
    }

    /// What a pattern means; integers as they are.
    pub fn value(self, bits: u64) -> f64 {
        let bits = bits & mask(self.bits);
        match self.top {
            Top::Unsigned => return bits as f64,
            Top::Signed => return (((bits << (64 - self.bits)) as i64) >> (64 - self.bits)) as f64,
            Top::Exponent if bits == 255 => return f64::NAN,
            Top::Exponent => return 2f64.powi(bits as i32 - 127),
            _ if self.bits == 64 => return f64::from_bits(bits),
            _ => {}
        }
        let bits = bits >> self.pad;
        let sign = if bits >> (self.exp + self.man) & 1 == 1 { -1.0 } else { 1.0 };
        let (exp, man) = (bits >> self.man & mask(self.exp), bits & mask(self.man));
        let least = 1 - self.bias() as i32 - self.man as i32;
        let magnitude = match (self.top, exp) {
            (Top::Ieee, e) if e == mask(self.exp) && man == 0 => f64::INFINITY,
            (Top::Ieee, e) if e == mask(self.exp) => f64::NAN,
            (Top::OneNan, e) if e == mask(self.exp) && man == mask(self.man) => f64::NAN,
            (_, 0) => man as f64 * 2f64.powi(least),
            (_, e) => (man | 1 << self.man) as f64 * 2f64.powi(least + e as i32 - 1),
        };
        sign * magnitude
    }

    /// How many values lie between two patterns, both zeros as one; of integers, their distance.
    pub fn steps(self, a: u64, b: u64) -> u64 {
        let place = |bits: u64| {
            let bits = (bits & mask(self.bits)) >> self.pad;
            if self.is_integer() {
                return i128::from(bits);
            }
            let size = i128::from(bits & mask(self.exp + self.man));
            if bits >> (self.exp + self.man) == 0 { size } else { -size }
        };
        u64::try_from((place(a) - place(b)).unsigned_abs()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_formats() {
        for bits in [0u32, 1, 0x007f_ffff, 0x0080_0000, 0x3f80_0000, 0xc049_0fdb, 0x7f7f_ffff, 0xff80_0000] {
            assert_eq!(F32.value(u64::from(bits)), f64::from(f32::from_bits(bits)));
        }
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (F16.value(u64::from(bits)), f64::from(half::f16::from_bits(bits)));
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "{bits:x}");
        }
        let e4m3: Vec<f64> = [0x7e, 0x08, 0x01, 0xb8].iter().map(|b| E4M3.value(*b)).collect();
        assert_eq!(e4m3, [448.0, 2f64.powi(-6), 2f64.powi(-9), -1.0]);
        assert!(E4M3.value(0x7f).is_nan());
        let e2m1: Vec<f64> = (0..8).map(|b| E2M1.value(b)).collect();
        assert_eq!(e2m1, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!((S8.value(0x80), U4.value(15), UE8M0.value(130)), (-128.0, 15.0, 8.0));
    }

    #[test]
    fn steps_count_values_across_zero() {
        assert_eq!(F32.steps(1, 0x8000_0001), 2);
        assert_eq!(F32.steps(0, 0x8000_0000), 0);
        assert_eq!(F16.steps(0x3c00, 0x3bff), 1);
        assert_eq!(S32.steps(3, 10), 7);
    }

    #[test]
    fn random_values_keep_to_their_bits() {
        let mut rng = Rng::new(1, "t");
        let formats = [F64, F32, TF32, F16, BF16, E5M2, E4M3, E3M2, E2M3, E2M1_BYTE, E2M1, UE8M0, S4, B1];
        for format in formats {
            let kept = format.number(mask(format.bits));
            for mode in MODES {
                for _ in 0..200 {
                    let v = if format.top == Top::Exponent || format.is_integer() {
                        format.random(mode, &mut rng) & !mask(format.bits)
                    } else {
                        (format.random(mode, &mut rng) | format.tie(&mut rng)) & !kept
                    };
                    assert_eq!(v, 0, "{format:?} {mode:?}");
                }
            }
            assert!(format.edges().iter().all(|v| v & !mask(format.bits) == 0), "{format:?}");
        }
    }
}
