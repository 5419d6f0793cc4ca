//! Arithmetic of floats: what their rows of the table do once an operand's type is known to be a float.
//!
//! It chooses the function of [`crate::number`] and its modifiers; the functions say what they compute. Conversions and
//! comparisons are elsewhere. Source: PTX ISA, "Floating point instructions", "Half precision floating point
//! instructions" and "Mixed precision floating point instructions".

mod double;
mod half;
mod single;

use super::Rows;
use crate::decode::{Decoder, Run, Ty};
use crate::number::format::Round;
use crate::ptx::Malformed;
use crate::warp::Slot;

pub const ROWS: Rows = &[
    ("fma", |d| decode("fma", d)),
    ("rcp", |d| decode("rcp", d)),
    ("sqrt", |d| decode("sqrt", d)),
    ("rsqrt", |d| decode("rsqrt", d)),
    ("copysign", |d| decode("copysign", d)),
    ("ex2", |d| decode("ex2", d)),
    ("lg2", |d| decode("lg2", d)),
    ("sin", |d| decode("sin", d)),
    ("cos", |d| decode("cos", d)),
    ("tanh", |d| decode("tanh", d)),
    ("testp", testp),
];

/// Decodes an instruction whose type is a float; `name` is the first word, which has been taken.
pub fn decode(name: &'static str, d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    match ty {
        Ty::F32 => single::decode(name, d),
        Ty::F32x2 => single::decode_pair(name, d),
        Ty::F64 => double::decode(name, d),
        Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 => half::decode(name, d, ty),
        _ => d.refuse("its type is no float"),
    }
}

/// Takes the rounding, which is to nearest if none is written.
fn rounding(d: &mut Decoder<'_>) -> Round {
    let roundings = [("rn", Round::Near), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];
    d.one_of(&roundings).unwrap_or_default()
}

/// Takes the rounding, which must be written.
fn written_rounding(d: &mut Decoder<'_>) -> Result<Round, Malformed> {
    if ["rn", "rz", "rm", "rp"].iter().all(|r| !d.words().contains(r)) {
        return d.refuse("its rounding is missing");
    }
    Ok(rounding(d))
}

/// Takes `.approx`, which must be written.
fn approximate(d: &mut Decoder<'_>) -> Result<(), Malformed> {
    if d.has("approx") { Ok(()) } else { d.refuse(".approx is missing") }
}

/// `testp`: what a number is. Zeros are normal.
fn testp(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
    let kinds = [
        ("finite", [Normal, Subnormal, Zero].as_slice()),
        ("infinite", &[Infinite]),
        ("number", &[Normal, Subnormal, Zero, Infinite]),
        ("notanumber", &[Nan]),
        ("normal", &[Normal, Zero]),
        ("subnormal", &[Subnormal]),
    ];
    let Some(kinds) = d.one_of(&kinds) else {
        return d.refuse("it does not say what to test for");
    };
    let ty = d.ty()?;
    let to: Slot = d.typed_dest(0, Ty::Pred)?;
    let from = d.typed(1, ty)?;
    let bit = |lane: usize, is: bool| u32::from(is) << lane;
    match ty {
        Ty::F32 => Ok(super::work(move |s| {
            let a = s.warp.get(from);
            let is = |lane: usize| kinds.contains(&f32::from_bits(a[lane]).classify());
            let value = (0..a.len()).fold(0, |m, lane| m | bit(lane, is(lane)));
            s.warp.set_pred(to, s.mask, value);
            Ok(())
        })),
        Ty::F64 => Ok(super::work(move |s| {
            let a = s.warp.get_wide(from);
            let is = |lane: usize| kinds.contains(&f64::from_bits(a[lane]).classify());
            let value = (0..a.len()).fold(0, |m, lane| m | bit(lane, is(lane)));
            s.warp.set_pred(to, s.mask, value);
            Ok(())
        })),
        _ => d.refuse("it tests f32 and f64"),
    }
}
