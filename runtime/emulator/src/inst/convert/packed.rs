//! Conversions to two values in a register, and `cvt.pack`.
//!
//! Of two sources the first becomes the upper value.

use super::{Kind, With};
use crate::decode::{Decoder, Run, Ty};
use crate::inst::lanewise::{operands, words};
use crate::number::float::Integer;
use crate::number::format::{Format, Round, Saturate};
use crate::number::half::{bf16_rn, f16_rn};
use crate::ptx::Malformed;

/// Two values of a format in a register.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    format: Format,
    /// Bits from one to the next.
    step: u32,
}

const fn pair(format: Format, step: u32) -> Pair {
    Pair { format, step }
}

pub const F16X2: Pair = pair(Format::F16, 16);
pub const BF16X2: Pair = pair(Format::Bf16, 16);
pub const E4M3X2: Pair = pair(Format::E4m3, 8);
pub const E5M2X2: Pair = pair(Format::E5m2, 8);
/// Formats of 6 bits lie in the low bits of bytes.
pub const E2M3X2: Pair = pair(Format::E2m3, 8);
pub const E3M2X2: Pair = pair(Format::E3m2, 8);
pub const E2M1X2: Pair = pair(Format::E2m1, 4);
pub const UE8M0X2: Pair = pair(Format::Ue8m0, 8);

impl Pair {
    /// Bits of both.
    pub fn bits(self) -> u32 {
        2 * self.step
    }

    fn ty(self) -> Ty {
        Kind::Pair(self).ty()
    }

    #[inline(always)]
    fn join(self, high: u32, low: u32) -> u32 {
        high << self.step | low
    }

    /// A value; 1 is the upper one.
    #[inline(always)]
    fn value(self, register: u32, which: u32) -> f32 {
        self.format.decode(register >> (which * self.step) & (u32::MAX >> (32 - self.step)))
    }
}

/// `cvt` to a pair.
pub fn to_pair(d: &mut Decoder<'_>, to: Pair, from: Kind, with: With) -> Result<Run, Malformed> {
    let wide = matches!(to, F16X2 | BF16X2);
    let Some(round) = with.round else {
        return d.refuse("its rounding is missing");
    };
    let rounds: &[Round] = match (to.format, from) {
        (Format::Ue8m0, _) => &[Round::Zero, Round::Up],
        (Format::F16 | Format::Bf16, Kind::Float(_)) => &[Round::Near, Round::Zero],
        _ => &[Round::Near],
    };
    if !rounds.contains(&round) {
        return d.refuse("it has no such rounding");
    }
    if with.ftz || with.sat || with.integral.is_some() {
        return d.refuse(".ftz, .sat and integral values are for single values");
    }
    if !wide && to.format != Format::Ue8m0 && !with.saturate.finite {
        return d.refuse(".satfinite is missing");
    }
    let saturate = with.saturate;
    if to.format == Format::Ue8m0 && saturate.relu {
        return d.refuse("a scale has no .relu");
    }
    match from {
        Kind::Float(Format::F32) => singles(d, to, round, saturate),
        Kind::Pair(from) if pairs_convert(to, from) => {
            let slot = d.typed_dest(0, to.ty())?;
            let source = operands::<1>(d, 1, from.ty())?;
            Ok(words(slot, source, move |[x]| {
                let one = |which| to.format.encode(from.value(x, which).into(), round, saturate);
                to.join(one(1), one(0))
            }))
        }
        _ => d.refuse("there is no such conversion"),
    }
}

/// Narrow formats come from and become halves.
fn pairs_convert(to: Pair, from: Pair) -> bool {
    match (to, from) {
        (F16X2 | BF16X2, F16X2 | BF16X2) => false,
        (F16X2, UE8M0X2) | (UE8M0X2, F16X2) => false,
        (F16X2 | BF16X2, _) | (_, F16X2 | BF16X2) => true,
        _ => false,
    }
}

fn singles(d: &mut Decoder<'_>, to: Pair, round: Round, saturate: Saturate) -> Result<Run, Malformed> {
    if d.count() != 3 {
        return d.refuse("it takes two values of f32");
    }
    let slot = d.typed_dest(0, to.ty())?;
    let from = operands::<2>(d, 1, Ty::F32)?;
    let plain = round == Round::Near && saturate == Saturate::NONE;
    Ok(match to {
        BF16X2 if plain => words(slot, from, |x| {
            let [high, low] = x.map(|x| u32::from(bf16_rn(f32::from_bits(x))));
            high << 16 | low
        }),
        F16X2 if plain => words(slot, from, |x| {
            let [high, low] = x.map(|x| u32::from(f16_rn(f32::from_bits(x))));
            high << 16 | low
        }),
        _ => words(slot, from, move |x| {
            let [high, low] = x.map(|x| to.format.encode(f32::from_bits(x).into(), round, saturate));
            to.join(high, low)
        }),
    })
}

/// `cvt.pack.sat`: two integers, clamped, below the bits of a third operand.
pub fn pack(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    if !d.has("sat") {
        return d.refuse(".sat is missing");
    }
    let int = |bits, signed| Integer { bits, signed };
    let table = [
        ("u2", int(2, false)),
        ("s2", int(2, true)),
        ("u4", int(4, false)),
        ("s4", int(4, true)),
        ("u8", int(8, false)),
        ("s8", int(8, true)),
        ("u16", int(16, false)),
        ("s16", int(16, true)),
    ];
    let Some(to) = d.one_of(&table) else {
        return d.refuse("it has no type to convert to");
    };
    if d.ty()? != Ty::S32 {
        return d.refuse("it converts s32");
    }
    let slot = d.typed_dest(0, Ty::B32)?;
    let clamp = move |x: u32| {
        let value = i128::from(x as i32).clamp(to.min(), to.max());
        value as u32 & (u32::MAX >> (32 - to.bits))
    };
    if to.bits == 16 {
        let from = operands::<2>(d, 1, Ty::S32)?;
        return Ok(words(slot, from, move |[a, b]| clamp(a) << 16 | clamp(b)));
    }
    if d.ty()? != Ty::B32 {
        return d.refuse("its third operand is of b32");
    }
    let from = operands::<3>(d, 1, Ty::S32)?;
    let bits = to.bits;
    Ok(words(slot, from, move |[a, b, c]| c << (2 * bits) | clamp(a) << bits | clamp(b)))
}
