//! Floating-point formats of PTX: their bits, and conversion between bits and values.
//!
//! Every value of every format here is a value of `f32`, so decoded values are `f32`. Encoding takes an exact `f64`
//! (or an exact integer times a power of two) and rounds once. It is not arithmetic (`float`), and it does not pack
//! several values into a register. Source: PTX ISA, "Alternate floating-point data formats" and `cvt`; OCP MX 1.0 for
//! the 8, 6 and 4-bit formats.

/// A floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// A `f32` of which the 13 low bits are not looked at: 8 bits of exponent, 10 of mantissa.
    Tf32,
    /// IEEE binary16.
    F16,
    /// The upper half of a `f32`.
    Bf16,
    /// 4 bits of exponent, 3 of mantissa; no infinity, NaN is all ones.
    E4m3,
    /// 5 bits of exponent, 2 of mantissa, specials as IEEE has them.
    E5m2,
    /// 6 bits: 3 of exponent, 2 of mantissa; no infinity, no NaN.
    E3m2,
    /// 6 bits: 2 of exponent, 3 of mantissa; no infinity, no NaN.
    E2m3,
    /// 4 bits: 2 of exponent, 1 of mantissa; no infinity, no NaN.
    E2m1,
    /// A scale: 8 bits of exponent and no sign, 2^(bits - 127); 0xff is NaN; there is no zero.
    Ue8m0,
    /// A scale: E4m3 whose sign is not looked at.
    Ue4m3,
}

/// How an inexact result is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Round {
    /// `.rn`: to nearest, ties to even.
    #[default]
    Near,
    /// `.rz`: toward zero.
    Zero,
    /// `.rp`: toward positive infinity.
    Up,
    /// `.rm`: toward negative infinity.
    Down,
    /// `.rna`: to nearest, ties away from zero.
    NearAway,
}

/// What `cvt` does to results that are out of range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Saturate {
    /// `.satfinite`: magnitudes above the greatest finite one become it, infinities too.
    pub finite: bool,
    /// `.relu`: negative results, negative zero included, become positive zero.
    pub relu: bool,
}

impl Saturate {
    /// Neither modifier.
    pub const NONE: Self = Self { finite: false, relu: false };
    /// `.satfinite`.
    pub const FINITE: Self = Self { finite: true, relu: false };
    /// `.relu`.
    pub const RELU: Self = Self { finite: false, relu: true };
    /// `.relu.satfinite`.
    pub const FINITE_RELU: Self = Self { finite: true, relu: true };
}

/// The canonical NaN of `f32` on NVIDIA hardware.
pub const NAN_F32: f32 = f32::from_bits(0x7fff_ffff);

/// What a code of a format means, without its sign bit.
#[derive(Clone, Copy)]
struct Layout {
    /// Bits of the exponent field.
    exponent: u32,
    /// Bits of the mantissa field.
    mantissa: u32,
    /// What is subtracted from the exponent field.
    bias: i32,
    /// Greatest finite code.
    max: u32,
    /// Code of infinity, where there is one.
    infinity: Option<u32>,
    /// What NaN becomes: the canonical NaN, or the greatest finite code where there is none.
    nan: u32,
    /// Bits below the format that its register has.
    low: u32,
    /// Whether a sign bit stands above the exponent.
    signed: bool,
}

const fn ieee(exponent: u32, mantissa: u32) -> Layout {
    let infinity = ((1 << exponent) - 1) << mantissa;
    Layout {
        exponent,
        mantissa,
        bias: (1 << (exponent - 1)) - 1,
        max: infinity - 1,
        infinity: Some(infinity),
        nan: infinity | ((1 << mantissa) - 1),
        low: 0,
        signed: true,
    }
}

/// A format that has no infinity; `nan` says whether its greatest code is NaN.
const fn finite(exponent: u32, mantissa: u32, nan: bool) -> Layout {
    let top = (1 << (exponent + mantissa)) - 1;
    let bias = (1 << (exponent - 1)) - 1;
    Layout { exponent, mantissa, bias, max: top - nan as u32, infinity: None, nan: top, low: 0, signed: true }
}

impl Format {
    const fn layout(self) -> Layout {
        match self {
            Self::F32 => ieee(8, 23),
            Self::Tf32 => Layout { low: 13, ..ieee(8, 10) },
            Self::F16 => ieee(5, 10),
            Self::Bf16 => ieee(8, 7),
            Self::E4m3 => finite(4, 3, true),
            Self::E5m2 => ieee(5, 2),
            Self::E3m2 => finite(3, 2, false),
            Self::E2m3 => finite(2, 3, false),
            Self::E2m1 => finite(2, 1, false),
            Self::Ue8m0 => Layout { bias: 127, signed: false, ..finite(8, 0, true) },
            Self::Ue4m3 => Layout { signed: false, ..finite(4, 3, true) },
        }
    }

    /// Bits that a value takes in a packed array; `Tf32` takes those of a `f32`.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::F32 | Self::Tf32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::E4m3 | Self::E5m2 | Self::Ue8m0 | Self::Ue4m3 => 8,
            Self::E3m2 | Self::E2m3 => 6,
            Self::E2m1 => 4,
        }
    }

    /// Exponent of the least normal number; subnormal numbers have this exponent and a significand below one.
    #[must_use]
    pub const fn min_exponent(self) -> i32 {
        match self {
            Self::Ue8m0 => -127,
            _ => 1 - self.layout().bias,
        }
    }

    /// The greatest finite value.
    #[must_use]
    pub const fn max_finite(self) -> f32 {
        let layout = self.layout();
        self.decode(layout.max << layout.low)
    }

    /// The bits that a NaN is converted to: canonical NaN, or the greatest finite value where there is no NaN.
    #[must_use]
    pub const fn nan_bits(self) -> u32 {
        let layout = self.layout();
        layout.nan << layout.low
    }

    /// The value of `bits`, exactly; bits above the format's are not looked at.
    #[must_use]
    #[inline]
    pub const fn decode(self, bits: u32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(bits),
            Self::Tf32 => f32::from_bits(bits & !0x1fff),
            Self::Bf16 => f32::from_bits(bits << 16),
            Self::F16 => decode_f16(bits),
            Self::E5m2 => decode_f16((bits & 0xff) << 8),
            Self::Ue8m0 => match bits & 0xff {
                0xff => NAN_F32,
                0 => f32::from_bits(1 << 22),
                exponent => f32::from_bits(exponent << 23),
            },
            Self::E4m3 | Self::E3m2 | Self::E2m3 | Self::E2m1 | Self::Ue4m3 => {
                decode_small(self.layout(), bits)
            }
        }
    }

    /// The bits of the value that `x` rounds to.
    ///
    /// NaN has one result. Where the hardware keeps more of a NaN, a conversion does not come here with one
    /// (`inst::convert`).
    #[must_use]
    pub fn encode(self, x: f64, round: Round, saturate: Saturate) -> u32 {
        let bits = x.to_bits();
        let negative = x.is_sign_negative();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        match field {
            0x7ff if fraction != 0 => self.nan_bits(),
            0x7ff => self.encode_infinity(negative, saturate),
            0 => self.encode_exact(negative, fraction, -1074, round, saturate),
            _ => self.encode_exact(negative, fraction | 1 << 52, field - 1075, round, saturate),
        }
    }

    /// `encode` of `mantissa * 2^exponent`, negated where `negative` says so.
    #[must_use]
    pub fn encode_exact(
        self,
        negative: bool,
        mantissa: u64,
        exponent: i32,
        round: Round,
        saturate: Saturate,
    ) -> u32 {
        let layout = self.layout();
        // The sign of a scale is dropped before it is rounded.
        let negative = negative && layout.signed;
        let code = match (mantissa, self) {
            (0, _) => 0,
            (_, Self::Ue8m0) => {
                let power = mantissa.ilog2() as i32;
                let carry = shift_right(mantissa, power, negative, round) as i32 - 1;
                (exponent + power + carry + layout.bias).max(0) as u32
            }
            _ => {
                let power = (exponent + mantissa.ilog2() as i32).max(1 - layout.bias);
                // One unit of the result's last place is 2^(power - layout.mantissa). A carry out of the mantissa
                // is the next exponent, since the hidden bit is added, not set.
                let units = shift_right(mantissa, power - layout.mantissa as i32 - exponent, negative, round);
                let exponent_code = (power + layout.bias - 1) as u64;
                ((exponent_code << layout.mantissa) + units).min(u64::from(u32::MAX)) as u32
            }
        };
        if code > layout.max {
            return self.overflow(negative, round, saturate);
        }
        self.signed(negative, code, saturate)
    }

    /// A finite value whose magnitude is above the greatest finite one after rounding.
    fn overflow(self, negative: bool, round: Round, saturate: Saturate) -> u32 {
        let layout = self.layout();
        let toward_zero = match round {
            Round::Near | Round::NearAway => false,
            Round::Zero => true,
            Round::Up => negative,
            Round::Down => !negative,
        };
        if toward_zero {
            self.signed(negative, layout.max, saturate)
        } else {
            self.encode_infinity(negative, saturate)
        }
    }

    fn encode_infinity(self, negative: bool, saturate: Saturate) -> u32 {
        let layout = self.layout();
        let negative = negative && layout.signed;
        let code = match layout.infinity {
            _ if saturate.finite => layout.max,
            Some(infinity) => infinity,
            None => layout.nan,
        };
        self.signed(negative, code, saturate)
    }

    fn signed(self, negative: bool, code: u32, saturate: Saturate) -> u32 {
        let layout = self.layout();
        match (negative, saturate.relu) {
            (true, true) => 0,
            (true, false) => (code | 1 << (layout.exponent + layout.mantissa)) << layout.low,
            (false, _) => code << layout.low,
        }
    }

    /// Values of an array of codes, each in the bytes of a register or of memory: one byte for formats of up to 8 bits
    /// (in its low bits), two for 16 bits, four for 32, little-endian. Converts as many as both slices have.
    pub fn decode_bytes(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 | Self::Tf32 => {
                for (out, code) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *out = self.decode(u32::from_le_bytes(*code));
                }
            }
            Self::Bf16 => {
                for (out, code) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *out = Self::Bf16.decode(u32::from(u16::from_le_bytes(*code)));
                }
            }
            Self::F16 => {
                for (out, code) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *out = decode_f16(u32::from(u16::from_le_bytes(*code)));
                }
            }
            _ => {
                let table = self.table();
                for (out, code) in out.iter_mut().zip(bytes) {
                    *out = table[usize::from(*code)];
                }
            }
        }
    }

    /// The values of all bytes, for the formats of up to 8 bits; wider formats have the values of their low byte.
    #[must_use]
    pub fn table(self) -> &'static [f32; 256] {
        static TABLES: [[f32; 256]; 11] = [
            values(Format::F32),
            values(Format::Tf32),
            values(Format::F16),
            values(Format::Bf16),
            values(Format::E4m3),
            values(Format::E5m2),
            values(Format::E3m2),
            values(Format::E2m3),
            values(Format::E2m1),
            values(Format::Ue8m0),
            values(Format::Ue4m3),
        ];
        // In the order in which the formats are declared.
        &TABLES[self as usize]
    }
}

const fn values(format: Format) -> [f32; 256] {
    let mut out = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        out[code as usize] = format.decode(code);
        code += 1;
    }
    out
}

/// Without branches, so that loops over it are vectorised; subnormal numbers go through an integer, since `f32`
/// arithmetic on subnormal numbers is slow.
#[inline]
const fn decode_f16(bits: u32) -> f32 {
    let sign = (bits & 0x8000) << 16;
    let magnitude = bits & 0x7fff;
    let subnormal = (magnitude as i32 as f32 * f32::from_bits((127 - 24) << 23)).to_bits();
    let rebiased = (magnitude << 13) + ((127 - 15) << 23);
    let special = (magnitude << 13) | 0x7f80_0000;
    let normal = if magnitude >= 0x7c00 { special } else { rebiased };
    f32::from_bits(sign | if magnitude < 0x400 { subnormal } else { normal })
}

const fn decode_small(layout: Layout, bits: u32) -> f32 {
    let width = layout.exponent + layout.mantissa;
    let sign = if layout.signed { (bits >> width & 1) << 31 } else { 0 };
    let code = bits & ((1 << width) - 1);
    if code > layout.max {
        return NAN_F32;
    }
    let field = code >> layout.mantissa;
    let fraction = code & ((1 << layout.mantissa) - 1);
    let (units, power) = match field {
        0 => (fraction, 1 - layout.bias),
        _ => (fraction | 1 << layout.mantissa, field as i32 - layout.bias),
    };
    let unit = f32::from_bits(((power - layout.mantissa as i32 + 127) as u32) << 23);
    f32::from_bits((units as f32 * unit).to_bits() | sign)
}

/// `mantissa / 2^by` as an integer, rounded; `by` may be negative, the result then has at most 53 bits.
fn shift_right(mantissa: u64, by: i32, negative: bool, round: Round) -> u64 {
    if by <= 0 {
        return mantissa << -by;
    }
    // Of a shift by 65 or more only "below one half, not zero" is left.
    let by = by.min(65);
    let whole = mantissa.checked_shr(by as u32).unwrap_or(0);
    let rest = u128::from(mantissa) & ((1 << by) - 1);
    let half = 1u128 << (by - 1);
    let up = match round {
        Round::Near => rest > half || rest == half && whole & 1 == 1,
        Round::NearAway => rest >= half,
        Round::Zero => false,
        Round::Up => !negative && rest != 0,
        Round::Down => negative && rest != 0,
    };
    whole + u64::from(up)
}

#[cfg(test)]
mod tests;
