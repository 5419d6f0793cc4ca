//! Additions, subtractions and products that set or take the carry flag (PTX ISA, "Extended precision integer
//! arithmetic instructions").

use super::{PARTS, Part, high32, high64};
use crate::decode::{Decoder, Run, Ty};
use crate::inst::lanewise::operands;
use crate::inst::work;
use crate::ptx::Malformed;
use crate::warp::LANES;

/// `add.cc`.
pub fn add(d: &mut Decoder<'_>, ty: Ty) -> Result<Run, Malformed> {
    carry(d, ty, false, |[a, b], bits, _| sum(a, b, false, bits))
}

/// `addc`, which takes the flag.
pub fn addc(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let (cc, ty) = (d.has("cc"), d.ty()?);
    carry(d, ty, !cc, |[a, b], bits, c| sum(a, b, c, bits))
}

/// `sub.cc`.
pub fn sub(d: &mut Decoder<'_>, ty: Ty) -> Result<Run, Malformed> {
    carry(d, ty, false, |[a, b], bits, _| sum(a, cut(!b, bits), true, bits))
}

/// `subc`, which takes the flag.
///
/// The hardware subtracts by adding the complement and one: the flag says that nothing was borrowed. The ISA calls the
/// flag a borrow after a subtraction; `addc` and `madc` see which it is.
pub fn subc(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let (cc, ty) = (d.has("cc"), d.ty()?);
    carry(d, ty, !cc, |[a, b], bits, c| sum(a, cut(!b, bits), c, bits))
}

/// The low bits of a word.
fn cut(x: u64, bits: u32) -> u64 {
    x & (u64::MAX >> (64 - bits))
}

/// A sum, and its carry.
fn sum(a: u64, b: u64, c: bool, bits: u32) -> (u64, bool) {
    let sum = u128::from(a) + u128::from(b) + u128::from(c);
    (cut(sum as u64, bits), sum >> bits & 1 == 1)
}

/// `madc`, and `mad` with `.cc`: the carry is that of the addition.
pub fn mad(d: &mut Decoder<'_>, takes: bool) -> Result<Run, Malformed> {
    let (cc, part) = (d.has("cc"), d.one_of(PARTS));
    let ty = d.ty()?;
    let signed = ty.signed();
    let high = match part {
        Some(Part::Low) => false,
        Some(Part::High) => true,
        _ => return d.refuse("carries are for .lo and .hi"),
    };
    carry(d, ty, !cc, move |[a, b, c], bits, flag| {
        let product = match (high, bits) {
            (false, _) => cut(a.wrapping_mul(b), bits),
            (true, 32) => high32(signed)(a as u32, b as u32).into(),
            (true, _) => high64(signed)(a, b),
        };
        sum(product, c, takes && flag, bits)
    })
}

/// Arithmetic with the carry flag on words of some bits: `keep` leaves the flag as it is.
fn carry<const N: usize>(
    d: &mut Decoder<'_>,
    ty: Ty,
    keep: bool,
    f: impl Fn([u64; N], u32, bool) -> (u64, bool) + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    if !matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) {
        return d.refuse("carries are for integers of 32 and 64 bits");
    }
    let (out, from) = (d.typed_dest(0, ty)?, operands::<N>(d, 1, ty)?);
    let bits = ty.bits();
    Ok(work(move |s| {
        let read =
            |source| if bits == 64 { s.warp.get_wide(source) } else { s.warp.get(source).map(u64::from) };
        let (from, mut flags) = (from.map(read), 0u32);
        let mut r = [0u64; LANES];
        for i in 0..LANES {
            let (value, flag) = f(from.map(|row| row[i]), bits, s.warp.carry >> i & 1 == 1);
            r[i] = value;
            flags |= u32::from(flag) << i;
        }
        if bits == 64 {
            s.warp.set_wide(out, s.mask, &r);
        } else {
            s.warp.set(out, s.mask, &r.map(|x| x as u32));
        }
        if !keep {
            s.warp.carry = s.warp.carry & !s.mask | flags & s.mask;
        }
        Ok(())
    }))
}
