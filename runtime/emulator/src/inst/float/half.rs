//! Arithmetic of `f16` and `bf16`, alone and in pairs.

use super::approximate;
use crate::decode::{Decoder, Run, Ty};
use crate::inst::lanewise::{operands, words};
use crate::layout::tensor_map::OobFill;
use crate::number::approx;
use crate::number::half::{Half, HalfMode, halves};
use crate::ptx::Malformed;

fn plain<const N: usize>(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn([u16; N]) -> u16 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let to = d.typed_dest(0, ty)?;
    let from = operands(d, 1, ty)?;
    if ty.bits() == 32 {
        Ok(words(to, from, move |x| halves(x, &f)))
    } else {
        Ok(words(to, from, move |x| f(x.map(|x| x as u16)).into()))
    }
}

/// A function of a format and a mode: compiled for either format without modifiers by itself.
fn by_mode<const N: usize>(
    d: &mut Decoder<'_>,
    (ty, half, mode): (Ty, Half, HalfMode),
    f: impl Fn(Half, [u16; N], HalfMode) -> u16 + Copy + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    const NONE: HalfMode = HalfMode { ftz: false, sat: false, relu: false };
    match half {
        _ if mode != NONE => plain(d, ty, move |x| f(half, x, mode)),
        Half::F16 => plain(d, ty, move |x| f(Half::F16, x, NONE)),
        Half::Bf16 => plain(d, ty, move |x| f(Half::Bf16, x, NONE)),
    }
}

/// Instructions of a type of halves.
pub fn decode(name: &str, d: &mut Decoder<'_>, ty: Ty) -> Result<Run, Malformed> {
    let half = if matches!(ty, Ty::F16 | Ty::F16x2) { Half::F16 } else { Half::Bf16 };
    let ftz = half == Half::F16 && d.has("ftz");
    match name {
        "add" | "sub" | "mul" | "fma" => {
            let rounded = d.has("rn");
            if name == "fma" && !rounded {
                return d.refuse("its rounding is missing");
            }
            let sat = half == Half::F16 && d.has("sat");
            let relu = name == "fma" && d.has("relu");
            let with = (ty, half, HalfMode { ftz, sat, relu });
            match name {
                "add" => by_mode(d, with, |h, [a, b], mode| h.add(a, b, mode)),
                "sub" => by_mode(d, with, |h, [a, b], mode| h.sub(a, b, mode)),
                "mul" => by_mode(d, with, |h, [a, b], mode| h.mul(a, b, mode)),
                _ if d.has("oob") => by_mode(d, with, |h, [a, b, c], mode| {
                    // A factor that a tensor map has filled in: there is nothing to add.
                    if [a, b].contains(&OobFill::NAN_PATTERN) { 0 } else { h.fma(a, b, c, mode) }
                }),
                _ => by_mode(d, with, |h, [a, b, c], mode| h.fma(a, b, c, mode)),
            }
        }
        "min" | "max" => extremum(name == "max", d, ty, half, ftz),
        "neg" | "abs" => {
            let (flip, keep) = if name == "neg" { (0x8000, 0xffff) } else { (0, 0x7fff) };
            if ftz {
                return plain(d, ty, move |[a]| half.canonical((half.flush(a) ^ flip) & keep));
            }
            plain(d, ty, move |[a]| half.canonical((a ^ flip) & keep))
        }
        "tanh" => {
            approximate(d)?;
            plain(d, ty, move |[a]| approx::tanh_half(half, a))
        }
        "ex2" => {
            approximate(d)?;
            if half == Half::F16 {
                return plain(d, ty, |[a]| approx::ex2_half(Half::F16, a));
            }
            if !d.has("ftz") {
                return d.refuse(".ftz is missing");
            }
            plain(d, ty, |[a]| approx::ex2_half(Half::Bf16, a))
        }
        _ => d.refuse("there is no such instruction of halves"),
    }
}

/// `min` and `max` of two or three numbers. `.xorsign.abs`: of the magnitudes, with the product of the signs.
fn extremum(max: bool, d: &mut Decoder<'_>, ty: Ty, half: Half, ftz: bool) -> Result<Run, Malformed> {
    let nan = d.has("NaN");
    let input = move |x: u16| if ftz { half.flush(x) } else { x };
    let of = move |a, b| if max { half.max(a, b, nan) } else { half.min(a, b, nan) };
    if d.has("xorsign") {
        if !d.has("abs") {
            return d.refuse(".abs is missing");
        }
        // A NaN has no sign of its operands.
        return plain(d, ty, move |[a, b]| {
            half.canonical(of(input(a) & 0x7fff, input(b) & 0x7fff) | (a ^ b) & 0x8000)
        });
    }
    if d.count() == 4 {
        return plain(d, ty, move |[a, b, c]| of(of(input(a), input(b)), input(c)));
    }
    plain(d, ty, move |[a, b]| of(input(a), input(b)))
}
