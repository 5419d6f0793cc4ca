//! Arithmetic of `f32`, of pairs of them, and of `f32` with halves.

use super::{approximate, rounding, written_rounding};
use crate::decode::{Decoder, Run, Ty};
use crate::inst::lanewise::{operands, pairs, words};
use crate::number::approx;
use crate::number::float::{self, Mode, flush};
use crate::number::format::Round;
use crate::number::half::Half;
use crate::ptx::Malformed;

/// A function of values: `d = f(operands)`.
fn plain<const N: usize>(
    d: &mut Decoder<'_>,
    f: impl Fn([f32; N]) -> f32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let to = d.typed_dest(0, Ty::F32)?;
    Ok(words(to, operands(d, 1, Ty::F32)?, move |x| f(x.map(f32::from_bits)).to_bits()))
}

/// A function of a mode: compiled for the mode without modifiers by itself, which nearly all instructions have.
fn by_mode<const N: usize>(
    d: &mut Decoder<'_>,
    mode: Mode,
    f: impl Fn([f32; N], Mode) -> f32 + Copy + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    const NONE: Mode = Mode { round: Round::Near, ftz: false, sat: false };
    if mode == NONE { plain(d, move |x| f(x, NONE)) } else { plain(d, move |x| f(x, mode)) }
}

/// An approximate function, with and without `.ftz`.
fn by_ftz<const N: usize>(
    d: &mut Decoder<'_>,
    f: impl Fn([f32; N], bool) -> f32 + Copy + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    if d.has("ftz") { plain(d, move |x| f(x, true)) } else { plain(d, move |x| f(x, false)) }
}

fn add([a, b]: [f32; 2], mode: Mode) -> f32 {
    float::add(a, b, mode)
}

fn sub([a, b]: [f32; 2], mode: Mode) -> f32 {
    float::sub(a, b, mode)
}

fn mul([a, b]: [f32; 2], mode: Mode) -> f32 {
    float::mul(a, b, mode)
}

fn fma([a, b, c]: [f32; 3], mode: Mode) -> f32 {
    float::fma(a, b, c, mode)
}

/// Instructions of type `f32`.
pub fn decode(name: &str, d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    match name {
        "add" | "sub" | "mul" | "fma" | "mad" => arithmetic(name, d),
        "div" if d.has("approx") => by_ftz(d, |[a, b], ftz| approx::div(a, b, ftz)),
        "div" if d.has("full") => by_ftz(d, |[a, b], ftz| approx::div_full(a, b, ftz)),
        "rcp" if d.has("approx") => by_ftz(d, |[a], ftz| approx::rcp(a, ftz)),
        "sqrt" if d.has("approx") => by_ftz(d, |[a], ftz| approx::sqrt(a, ftz)),
        "div" | "rcp" | "sqrt" => {
            let mode = Mode { round: written_rounding(d)?, ftz: d.has("ftz"), sat: false };
            match name {
                "div" => by_mode(d, mode, |[a, b], mode| float::div(a, b, mode)),
                "rcp" => by_mode(d, mode, |[a], mode| float::rcp(a, mode)),
                _ => by_mode(d, mode, |[a], mode| float::sqrt(a, mode)),
            }
        }
        "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => {
            approximate(d)?;
            match name {
                "rsqrt" => by_ftz(d, |[a], ftz| approx::rsqrt(a, ftz)),
                "ex2" => by_ftz(d, |[a], ftz| approx::ex2(a, ftz)),
                "lg2" => by_ftz(d, |[a], ftz| approx::lg2(a, ftz)),
                "sin" => by_ftz(d, |[a], ftz| approx::sin(a, ftz)),
                "cos" => by_ftz(d, |[a], ftz| approx::cos(a, ftz)),
                _ => plain(d, |[a]| approx::tanh(a)),
            }
        }
        "min" => extremum(d, float::min),
        "max" => extremum(d, float::max),
        "neg" if d.has("ftz") => plain(d, |[a]| float::neg(flush(a))),
        "neg" => plain(d, |[a]| float::neg(a)),
        "abs" if d.has("ftz") => plain(d, |[a]| float::abs(flush(a))),
        "abs" => plain(d, |[a]| float::abs(a)),
        // By its bits: NaNs stay as they are.
        "copysign" => {
            let to = d.typed_dest(0, Ty::F32)?;
            let from = operands(d, 1, Ty::F32)?;
            Ok(words(to, from, |[a, b]| a & 0x8000_0000 | b & 0x7fff_ffff))
        }
        _ => d.refuse("there is no such instruction of f32"),
    }
}

fn arithmetic(name: &str, d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let round = if matches!(name, "fma" | "mad") { written_rounding(d)? } else { rounding(d) };
    let mode = Mode { round, ftz: d.has("ftz"), sat: d.has("sat") };
    let narrow = d.one_of(&[("f16", Half::F16), ("bf16", Half::Bf16)]);
    if let Some(half) = narrow {
        return mixed(name, d, half, mode);
    }
    match name {
        "add" => by_mode(d, mode, add),
        "sub" => by_mode(d, mode, sub),
        "mul" => by_mode(d, mode, mul),
        _ => by_mode(d, mode, fma),
    }
}

/// `add.f32.bf16 d, a, c`: all operands but the last are halves.
fn mixed(name: &str, d: &mut Decoder<'_>, half: Half, mode: Mode) -> Result<Run, Malformed> {
    let narrow = if half == Half::F16 { Ty::F16 } else { Ty::Bf16 };
    if mode.ftz {
        return d.refuse("there is no .ftz where operands are halves");
    }
    let to = d.typed_dest(0, Ty::F32)?;
    let widen = move |x: u32| half.decode(x as u16);
    match name {
        "add" | "sub" => {
            let ([a], [c]) = (operands(d, 1, narrow)?, operands(d, 2, Ty::F32)?);
            let f = if name == "add" { add } else { sub };
            Ok(words(to, [a, c], move |[a, c]| f([widen(a), f32::from_bits(c)], mode).to_bits()))
        }
        "fma" => {
            let ([a, b], [c]) = (operands(d, 1, narrow)?, operands(d, 3, Ty::F32)?);
            let f = move |[a, b, c]: [u32; 3]| fma([widen(a), widen(b), f32::from_bits(c)], mode).to_bits();
            Ok(words(to, [a, b, c], f))
        }
        _ => d.refuse("there is no such instruction of f32 and halves"),
    }
}

/// `min` and `max` of two or three numbers. `.xorsign.abs`: of the magnitudes, with the product of the signs.
fn extremum(
    d: &mut Decoder<'_>,
    f: impl Fn(f32, f32, bool) -> f32 + Copy + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let (ftz, nan) = (d.has("ftz"), d.has("NaN"));
    let input = move |x: f32| if ftz { flush(x) } else { x };
    if d.has("xorsign") {
        if !d.has("abs") {
            return d.refuse(".abs is missing");
        }
        return plain(d, move |[a, b]| {
            let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
            // A NaN has no sign of its operands.
            float::canonical(f32::from_bits(f(input(a).abs(), input(b).abs(), nan).to_bits() | sign))
        });
    }
    if d.count() == 4 {
        return plain(d, move |[a, b, c]| f(f(input(a), input(b), nan), input(c), nan));
    }
    if !ftz && !nan {
        return plain(d, move |[a, b]| f(a, b, false));
    }
    plain(d, move |[a, b]| f(input(a), input(b), nan))
}

/// Instructions of type `f32x2`.
pub fn decode_pair(name: &str, d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let mode = Mode { round: rounding(d), ftz: d.has("ftz"), sat: false };
    match name {
        "add" => pair_by_mode(d, mode, add),
        "sub" => pair_by_mode(d, mode, sub),
        "mul" => pair_by_mode(d, mode, mul),
        "fma" => pair_by_mode(d, mode, fma),
        _ => d.refuse("there is no such instruction of f32x2"),
    }
}

fn pair_by_mode<const N: usize>(
    d: &mut Decoder<'_>,
    mode: Mode,
    f: impl Fn([f32; N], Mode) -> f32 + Copy + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    const NONE: Mode = Mode { round: Round::Near, ftz: false, sat: false };
    let to = d.typed_dest(0, Ty::F32x2)?;
    let from = operands(d, 1, Ty::F32x2)?;
    if mode == NONE {
        return Ok(pairs(to, from, move |x| f(x.map(f32::from_bits), NONE).to_bits()));
    }
    Ok(pairs(to, from, move |x| f(x.map(f32::from_bits), mode).to_bits()))
}
