//! `cvt` between all types, alone and in pairs, and `cvt.pack`.
//!
//! A value is decoded exactly, rounded once, and encoded. The conversions that kernels do most have functions of their
//! own, which give the same. Source: PTX ISA, `cvt` and `cvt.pack`.

mod packed;

use super::lanewise::words;
use super::{Rows, work};
use crate::decode::{Decoder, Run, Ty};
use crate::number::double;
use crate::number::float::{self, Integer, flush, round_integral, to_integer};
use crate::number::format::{Format, Round, Saturate};
use crate::number::half::{bf16_rn, f16_rn};
use crate::ptx::Malformed;
use crate::warp::{Slot, Source};

pub const ROWS: Rows = &[("cvt", cvt), ("cvt.pack", packed::pack)];

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Integer(Integer),
    Float(Format),
    Double,
    /// Two values in one register.
    Pair(packed::Pair),
}

impl Kind {
    /// The type of the registers that hold it.
    fn ty(self) -> Ty {
        let bits = match self {
            Kind::Integer(i) => i.bits,
            Kind::Float(f) => f.bits(),
            Kind::Double => 64,
            Kind::Pair(pair) => pair.bits(),
        };
        match bits {
            8 => Ty::B8,
            16 => Ty::B16,
            32 => Ty::B32,
            _ => Ty::B64,
        }
    }
}

const fn integer(bits: u32, signed: bool) -> Kind {
    Kind::Integer(Integer { bits, signed })
}

const KINDS: &[(&str, Kind)] = &[
    ("u8", integer(8, false)),
    ("s8", integer(8, true)),
    ("u16", integer(16, false)),
    ("s16", integer(16, true)),
    ("u32", integer(32, false)),
    ("s32", integer(32, true)),
    ("u64", integer(64, false)),
    ("s64", integer(64, true)),
    ("f16", Kind::Float(Format::F16)),
    ("bf16", Kind::Float(Format::Bf16)),
    ("f32", Kind::Float(Format::F32)),
    ("tf32", Kind::Float(Format::Tf32)),
    ("f64", Kind::Double),
    ("f16x2", Kind::Pair(packed::F16X2)),
    ("bf16x2", Kind::Pair(packed::BF16X2)),
    ("e4m3x2", Kind::Pair(packed::E4M3X2)),
    ("e5m2x2", Kind::Pair(packed::E5M2X2)),
    ("e2m3x2", Kind::Pair(packed::E2M3X2)),
    ("e3m2x2", Kind::Pair(packed::E3M2X2)),
    ("e2m1x2", Kind::Pair(packed::E2M1X2)),
    ("ue8m0x2", Kind::Pair(packed::UE8M0X2)),
];

/// Modifiers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct With {
    /// The rounding, if it is written.
    round: Option<Round>,
    /// The rounding to an integral value, if it is written.
    integral: Option<Round>,
    ftz: bool,
    sat: bool,
    saturate: Saturate,
}

fn kind(d: &mut Decoder<'_>) -> Result<Kind, Malformed> {
    match d.one_of(KINDS) {
        Some(kind) => Ok(kind),
        None => d.refuse("it needs two types"),
    }
}

fn cvt(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let roundings = [
        ("rn", Round::Near),
        ("rz", Round::Zero),
        ("rm", Round::Down),
        ("rp", Round::Up),
        ("rna", Round::NearAway),
    ];
    let integrals = [("rni", Round::Near), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)];
    let with = With {
        round: d.one_of(&roundings),
        integral: d.one_of(&integrals),
        ftz: d.has("ftz"),
        sat: d.has("sat"),
        saturate: Saturate { relu: d.has("relu"), finite: d.has("satfinite") },
    };
    let (to, from) = (kind(d)?, kind(d)?);
    if let Kind::Pair(pair) = to {
        return packed::to_pair(d, pair, from, with);
    }
    if matches!(from, Kind::Pair(_)) {
        return d.refuse("two values do not become one");
    }
    if from == Kind::Float(Format::Tf32) {
        return d.refuse("nothing is converted from tf32");
    }
    check(d, to, from, with)?;
    let source = d.typed(1, from.ty())?;
    let out = Out::new(d, to)?;
    if let Some(run) = common(to, from, with, source, out) {
        return Ok(run);
    }
    let f = move |x: u64| convert(to, from, with, x);
    Ok(work(move |s| {
        let wide =
            if from.ty() == Ty::B64 { s.warp.get_wide(source) } else { s.warp.get(source).map(u64::from) };
        let result = wide.map(|x| out.fill(f(x)));
        if out.bits == 64 {
            s.warp.set_wide(out.slot, s.mask, &result);
        } else {
            s.warp.set(out.slot, s.mask, &result.map(|x| x as u32));
        }
        Ok(())
    }))
}

/// Refuses modifiers that a conversion does not have.
fn check(d: &Decoder<'_>, to: Kind, from: Kind, with: With) -> Result<(), Malformed> {
    let float = |k: Kind| !matches!(k, Kind::Integer(_));
    let half = |k: Kind| matches!(k, Kind::Float(Format::F16 | Format::Bf16 | Format::Tf32));
    let single = |k: Kind| k == Kind::Float(Format::F32);
    if (with.saturate != Saturate::NONE) && !(half(to) && single(from)) {
        return d.refuse(".relu and .satfinite are for results of 8 to 19 bits");
    }
    if with.ftz && !single(to) && !single(from) {
        return d.refuse(".ftz is for f32");
    }
    if with.round == Some(Round::NearAway) && to != Kind::Float(Format::Tf32) {
        return d.refuse(".rna is for tf32");
    }
    let (wants_round, wants_integral) = match (to, from) {
        (Kind::Integer(_), Kind::Integer(_)) => (false, false),
        (Kind::Integer(_), _) => (false, true),
        (_, Kind::Integer(_)) => (true, false),
        _ => (narrows(to, from), false),
    };
    if wants_round && with.round.is_none() || wants_integral && with.integral.is_none() {
        return d.refuse("its rounding is missing");
    }
    let same = float(to) && to == from;
    if with.round.is_some() && !wants_round || with.integral.is_some() && !wants_integral && !same {
        return d.refuse("it has no such rounding");
    }
    Ok(())
}

/// True if a float type does not have all values of another.
fn narrows(to: Kind, from: Kind) -> bool {
    match (to, from) {
        (Kind::Float(a), Kind::Float(b)) => a != b && (a != Format::F32 || b == Format::F32),
        (Kind::Float(_), Kind::Double) => true,
        _ => false,
    }
}

/// A register to be written, which may be wider than the type: integers fill it with their sign, or with zeros.
#[derive(Clone, Copy)]
struct Out {
    slot: Slot,
    bits: u32,
    /// Of the value; 64 bits of a float.
    value: Integer,
}

impl Out {
    fn new(d: &mut Decoder<'_>, to: Kind) -> Result<Out, Malformed> {
        let bits = d.width(d.operand(0)?);
        let value = match to {
            Kind::Integer(i) => i,
            _ => Integer { bits: to.ty().bits(), signed: false },
        };
        if bits == 128 {
            return d.refuse("its result has 128 bits");
        }
        Ok(Out { slot: d.typed_dest(0, to.ty())?, bits, value })
    }

    #[inline(always)]
    fn fill(self, x: u64) -> u64 {
        extend(self.value, x) & (u64::MAX >> (64 - self.bits.clamp(1, 64)))
    }
}

/// A value's low bits, with its sign or zeros above.
#[inline(always)]
fn extend(to: Integer, x: u64) -> u64 {
    let unused = 64 - to.bits;
    if to.signed { ((x << unused) as i64 >> unused) as u64 } else { x << unused >> unused }
}

/// Conversions that are done in loops of their own.
fn common(to: Kind, from: Kind, with: With, source: Source, out: Out) -> Option<Run> {
    if let (Kind::Integer(a), Kind::Integer(b), false) = (to, from, with.sat) {
        if out.bits == 64 && b.bits <= 32 {
            return Some(work(move |s| {
                let result = s.warp.get(source).map(|x| extend(a, extend(b, x.into())));
                s.warp.set_wide(out.slot, s.mask, &result);
                Ok(())
            }));
        }
        if out.bits <= 32 && a.bits <= 32 && b.bits == 64 {
            // The upper half is not looked at.
            return Some(words(out.slot, [source], move |[x]| out.fill(x.into()) as u32));
        }
    }
    if out.bits > 32 {
        return None;
    }
    let near = With { round: Some(Round::Near), ..With::default() };
    const S32: Kind = integer(32, true);
    const F32: Kind = Kind::Float(Format::F32);
    let (slot, from_one) = (out.slot, [source]);
    Some(match (to, from) {
        // Moves: NaNs stay as they are, which the ISA does not promise.
        (F32, F32) if with == With::default() => words(slot, from_one, |[x]| x),
        (F32, Kind::Float(Format::Bf16)) if with == With::default() => words(slot, from_one, |[x]| x << 16),
        (F32, Kind::Float(Format::F16)) if with == With::default() => {
            words(slot, from_one, |[x]| float::canonical(Format::F16.decode(x & 0xffff)).to_bits())
        }
        (Kind::Float(Format::Bf16), F32) if with == near => {
            words(slot, from_one, |[x]| bf16_rn(f32::from_bits(x)).into())
        }
        (Kind::Float(Format::F16), F32) if with == near => {
            words(slot, from_one, |[x]| f16_rn(f32::from_bits(x)).into())
        }
        (F32, S32) if with == near => words(slot, from_one, |[x]| (x as i32 as f32).to_bits()),
        // Subnormal numbers are cut off in any case.
        (S32, F32) if with.integral == Some(Round::Zero) => {
            words(slot, from_one, |[x]| float::to_s32_rzi(f32::from_bits(x)) as u32)
        }
        (Kind::Integer(a), Kind::Integer(b)) if !with.sat && b.bits <= 32 => {
            let mask = u32::MAX >> (32 - out.bits);
            words(slot, from_one, move |[x]| extend(a, extend(b, x.into())) as u32 & mask)
        }
        _ => return None,
    })
}

/// The bits of a value as another type, in the low bits.
fn convert(to: Kind, from: Kind, with: With, x: u64) -> u64 {
    let round = with.round.unwrap_or_default();
    let value = match from {
        Kind::Integer(i) => {
            let value = i.value(x);
            return match to {
                Kind::Integer(to) if with.sat => value.clamp(to.min(), to.max()) as u64,
                Kind::Integer(_) => value as u64,
                Kind::Double => finish_double(double::from_integer(value, round), with),
                Kind::Float(format) => {
                    let bits = float::from_integer(x, i, format, round);
                    if with.sat {
                        encode(format, clamp(f64::from(format.decode(bits))), round, with)
                    } else {
                        bits.into()
                    }
                }
                Kind::Pair(_) => 0,
            };
        }
        Kind::Double => f64::from_bits(x),
        // A result that is a half is not flushed, nor is what it comes from.
        Kind::Float(Format::F32) if with.ftz && to != Kind::Float(Format::F16) => {
            float::canonical(flush(f32::from_bits(x as u32))).into()
        }
        Kind::Float(format) => format.decode(x as u32).into(),
        Kind::Pair(_) => 0.0,
    };
    match (to, with.integral) {
        (Kind::Float(format), None) if value.is_nan() && !with.sat => {
            kept_nan(format, from, round, with.saturate, x).into()
        }
        (Kind::Integer(to), integral) => {
            to_integer(value, from == Kind::Double, to, integral.unwrap_or(Round::Zero))
        }
        (Kind::Double, Some(integral)) => finish_double(integral_double(value, integral), with),
        (Kind::Double, None) => finish_double(value, with),
        (Kind::Float(format), Some(integral)) => {
            // The same type: the value is one of `f32`.
            encode(format, round_integral(value as f32, integral).into(), round, with)
        }
        (Kind::Float(format), None) => encode(format, value, round, with),
        (Kind::Pair(_), _) => 0,
    }
}

/// What a NaN becomes. The ISA leaves it open; the hardware keeps the sign and the upper bits of one that comes from
/// `f64`, made quiet, and cuts off the lower bits of one that `.rna` makes a `tf32`. There `.satfinite` takes one from
/// the result, as from an infinity.
fn kept_nan(format: Format, from: Kind, round: Round, saturate: Saturate, nan: u64) -> u32 {
    let sign = (nan >> 63) as u32;
    // Of a `f32`.
    let mantissa = 1 << 22 | (nan >> 29) as u32 & 0x7f_ffff;
    match (format, from) {
        (Format::F32, Kind::Double) => sign << 31 | 0x7f80_0000 | mantissa,
        (Format::F16, Kind::Double) => sign << 15 | 0x7c00 | mantissa >> 13,
        (Format::Bf16, Kind::Double) => sign << 15 | 0x7f80 | mantissa >> 16,
        (Format::Tf32, Kind::Float(Format::F32)) if round == Round::NearAway => {
            let bits = nan as u32 & !0x1fff;
            if saturate.finite { bits - 0x2000 } else { bits }
        }
        _ => format.nan_bits(),
    }
}

fn integral_double(x: f64, round: Round) -> f64 {
    if x.is_nan() {
        return double::quiet(x);
    }
    match round {
        Round::Near => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Up => x.ceil(),
        Round::Down => x.floor(),
        Round::NearAway => x.round(),
    }
}

/// `.sat`: clamped to [0, 1]; NaN and negative zero become positive zero.
fn clamp(x: f64) -> f64 {
    // The comparison is false for NaN.
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

fn finish_double(x: f64, with: With) -> u64 {
    if with.sat { clamp(x) } else { x }.to_bits()
}

/// Rounded, flushed, then clamped.
fn encode(format: Format, x: f64, round: Round, with: With) -> u64 {
    let bits = format.encode(x, round, with.saturate);
    let bits = if with.ftz && format == Format::F32 { flush(f32::from_bits(bits)).to_bits() } else { bits };
    if !with.sat {
        return bits.into();
    }
    format.encode(clamp(format.decode(bits).into()), round, Saturate::NONE).into()
}
