//! Arithmetic of `f64`.

use super::{approximate, rounding, written_rounding};
use crate::decode::{Decoder, Run, Ty};
use crate::inst::lanewise::{operands, wides};
use crate::number::double;
use crate::ptx::Malformed;

fn plain<const N: usize>(
    d: &mut Decoder<'_>,
    f: impl Fn([f64; N]) -> f64 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let to = d.typed_dest(0, Ty::F64)?;
    Ok(wides(to, operands(d, 1, Ty::F64)?, move |x| f(x.map(f64::from_bits)).to_bits()))
}

/// Instructions of type `f64`.
pub fn decode(name: &str, d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    match name {
        "add" | "sub" | "mul" => {
            let round = rounding(d);
            match name {
                "add" => plain(d, move |[a, b]| double::add(a, b, round)),
                "sub" => plain(d, move |[a, b]| double::sub(a, b, round)),
                _ => plain(d, move |[a, b]| double::mul(a, b, round)),
            }
        }
        "rcp" if d.has("approx") => {
            if !d.has("ftz") {
                return d.refuse(".ftz is missing");
            }
            plain(d, |[a]| flush(high(1.0 / flush(high(a)))))
        }
        "rsqrt" => {
            approximate(d)?;
            let ftz = d.has("ftz");
            let input = move |x: f64| if ftz { flush(x) } else { x };
            // With .ftz the low word is not looked at, not even to tell a NaN from an infinity.
            let input = move |x: f64| if ftz { input(high(x)) } else { x };
            plain(d, move |[a]| high(1.0 / input(a).sqrt()))
        }
        "fma" | "mad" | "div" | "rcp" | "sqrt" => {
            let round = written_rounding(d)?;
            match name {
                "div" => plain(d, move |[a, b]| double::div(a, b, round)),
                "rcp" => plain(d, move |[a]| double::div(1.0, a, round)),
                "sqrt" => plain(d, move |[a]| double::sqrt(a, round)),
                _ => plain(d, move |[a, b, c]| double::fma(a, b, c, round)),
            }
        }
        "min" => plain(d, |[a, b]| extremum(a, b, a < b || a == b && a.is_sign_negative())),
        "max" => plain(d, |[a, b]| extremum(a, b, a > b || a == b && a.is_sign_positive())),
        // The hardware leaves the sign of a NaN alone.
        "neg" => plain(d, |[a]| if a.is_nan() { double::quiet(a) } else { -a }),
        "abs" => plain(d, |[a]| if a.is_nan() { double::quiet(a) } else { a.abs() }),
        "copysign" => plain(d, |[a, b]| b.copysign(a)),
        _ => d.refuse("there is no such instruction of f64"),
    }
}

/// `a` where it is chosen or the other is no number; of two NaNs the second.
fn extremum(a: f64, b: f64, chosen: bool) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => double::quiet(b),
        (false, true) => a,
        _ if chosen => a,
        _ => b,
    }
}

/// The upper 32 bits: all that the approximations of `f64` read and write (PTX ISA, `rcp.approx.ftz.f64`).
fn high(x: f64) -> f64 {
    f64::from_bits(x.to_bits() & !0xffff_ffff)
}

/// Zero of the same sign for a subnormal number.
fn flush(x: f64) -> f64 {
    if x.is_subnormal() { 0.0f64.copysign(x) } else { x }
}
