//! Arithmetic on integers. Rows that floats share with it hand those over to `float`.

mod carry;

use super::lanewise::{Extend, binary, binary_wide, ternary, unary, unary_wide};
use super::{Rows, float, work};
use crate::decode::{Decoder, Run, Ty};
use crate::ptx::Malformed;

pub const ROWS: Rows = &[
    ("add", |d| either("add", d, add)),
    ("addc", carry::addc),
    ("sub", |d| either("sub", d, sub)),
    ("subc", carry::subc),
    ("mul", |d| either("mul", d, mul)),
    ("mul24", mul24),
    ("mad", |d| either("mad", d, mad)),
    ("madc", |d| carry::mad(d, true)),
    ("mad24", mad24),
    ("div", |d| either("div", d, div)),
    ("rem", rem),
    ("min", |d| either("min", d, min)),
    ("max", |d| either("max", d, max)),
    ("neg", |d| either("neg", d, neg)),
    ("abs", |d| either("abs", d, abs)),
    ("sad", sad),
    ("dp4a", dp4a),
    ("dp2a", dp2a),
];

/// Integers here, floats there.
fn either(
    name: &'static str,
    d: &mut Decoder<'_>,
    integer: fn(&mut Decoder<'_>) -> Result<Run, Malformed>,
) -> Result<Run, Malformed> {
    let floats = d.words().iter().any(|w| Ty::named(w).is_some_and(Ty::float));
    if floats { float::decode(name, d) } else { integer(d) }
}

fn wide(ty: Ty) -> bool {
    ty.bits() == 64
}

/// `add{.sat}`, `add.cc`, and two halves at once. Saturation exists for s32 alone.
fn add(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    if d.one_of(HALVES).is_some() {
        return binary(d, Ty::B32, |a, b| a.wrapping_add(b) & 0xffff | (a >> 16).wrapping_add(b >> 16) << 16);
    }
    if d.has("cc") {
        let ty = d.ty()?;
        return carry::add(d, ty);
    }
    let (sat, ty) = (d.has("sat"), d.ty()?);
    match (sat, wide(ty)) {
        (true, _) if ty == Ty::S32 => binary(d, ty, |a, b| (a as i32).saturating_add(b as i32) as u32),
        (true, _) => d.refuse("only s32 has .sat"),
        (_, true) => binary_wide(d, ty, u64::wrapping_add),
        _ => binary(d, ty, u32::wrapping_add),
    }
}

fn sub(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    if d.has("cc") {
        let ty = d.ty()?;
        return carry::sub(d, ty);
    }
    let (sat, ty) = (d.has("sat"), d.ty()?);
    match (sat, wide(ty)) {
        (true, _) if ty == Ty::S32 => binary(d, ty, |a, b| (a as i32).saturating_sub(b as i32) as u32),
        (true, _) => d.refuse("only s32 has .sat"),
        (_, true) => binary_wide(d, ty, u64::wrapping_sub),
        _ => binary(d, ty, u32::wrapping_sub),
    }
}

/// The upper half of a product.
fn high(a: u32, b: u32, e: Extend, bits: u32) -> u32 {
    let product = i64::from(e.one(a) as i32) * i64::from(e.one(b) as i32);
    (product >> bits) as u32
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Low,
    High,
    Wide,
}

const PARTS: &[(&str, Part)] = &[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)];

fn high32(signed: bool) -> impl Fn(u32, u32) -> u32 + Copy + Send + Sync {
    move |a, b| {
        if signed {
            ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
        } else {
            ((u64::from(a) * u64::from(b)) >> 32) as u32
        }
    }
}

fn high64(signed: bool) -> impl Fn(u64, u64) -> u64 + Copy + Send + Sync {
    move |a, b| {
        if signed {
            ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
        } else {
            ((u128::from(a) * u128::from(b)) >> 64) as u64
        }
    }
}

fn mul(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let Some(part) = d.one_of(PARTS) else {
        return d.refuse(".lo, .hi or .wide is missing");
    };
    let ty = d.ty()?;
    let signed = ty.signed();
    match (part, ty.bits()) {
        (Part::Low, 64) => binary_wide(d, ty, u64::wrapping_mul),
        (Part::Low, _) => binary(d, ty, u32::wrapping_mul),
        (Part::High, 64) => binary_wide(d, ty, high64(signed)),
        (Part::High, 32) => binary(d, ty, high32(signed)),
        (Part::High, bits) => {
            let e = Extend::of(ty);
            binary(d, ty, move |a, b| high(a, b, e, bits))
        }
        (Part::Wide, 16) => {
            let (out, a, b, e) =
                (d.typed_dest(0, Ty::U32)?, d.typed(1, ty)?, d.typed(2, ty)?, Extend::of(ty));
            Ok(work(move |s| {
                let (a, b) = (e.all(s.warp.get(a)), e.all(s.warp.get(b)));
                let r = std::array::from_fn(|i| a[i].wrapping_mul(b[i]));
                s.warp.set(out, s.mask, &r);
                Ok(())
            }))
        }
        (Part::Wide, 32) => {
            let (out, a, b) = (d.typed_dest(0, Ty::U64)?, d.typed(1, ty)?, d.typed(2, ty)?);
            Ok(work(move |s| {
                let (a, b) = (s.warp.get(a), s.warp.get(b));
                let r = std::array::from_fn(|i| product(a[i], b[i], signed));
                s.warp.set_wide(out, s.mask, &r);
                Ok(())
            }))
        }
        _ => d.refuse("no such product"),
    }
}

#[inline(always)]
fn product(a: u32, b: u32, signed: bool) -> u64 {
    if signed { (i64::from(a as i32) * i64::from(b as i32)) as u64 } else { u64::from(a) * u64::from(b) }
}

/// `a * b + c`.
fn mad(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    if d.words().contains(&"cc") {
        return carry::mad(d, false);
    }
    let Some(part) = d.one_of(PARTS) else {
        return d.refuse(".lo, .hi or .wide is missing");
    };
    let (sat, ty) = (d.has("sat"), d.ty()?);
    let signed = ty.signed();
    if sat {
        if (part, ty) != (Part::High, Ty::S32) {
            return d.refuse("only mad.hi.sat.s32 has .sat");
        }
        let f = high32(true);
        return ternary(d, ty, move |a, b, c| (f(a, b) as i32).saturating_add(c as i32) as u32);
    }
    match (part, ty.bits()) {
        (Part::Low, 16 | 32) => ternary(d, ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        (Part::High, 32) => {
            let f = high32(signed);
            ternary(d, ty, move |a, b, c| f(a, b).wrapping_add(c))
        }
        (Part::High, 16) => {
            let e = Extend::of(ty);
            ternary(d, ty, move |a, b, c| high(a, b, e, 16).wrapping_add(c))
        }
        (Part::Low | Part::High, 64) => {
            let (out, a) = (d.typed_dest(0, ty)?, d.typed(1, ty)?);
            let (b, c, high) = (d.typed(2, ty)?, d.typed(3, ty)?, high64(signed));
            Ok(work(move |s| {
                let (a, b, c) = (s.warp.get_wide(a), s.warp.get_wide(b), s.warp.get_wide(c));
                let one = |i: usize| {
                    if part == Part::Low { a[i].wrapping_mul(b[i]) } else { high(a[i], b[i]) }
                        .wrapping_add(c[i])
                };
                s.warp.set_wide(out, s.mask, &std::array::from_fn(one));
                Ok(())
            }))
        }
        (Part::Wide, 16) => {
            let (out, a) = (d.typed_dest(0, Ty::U32)?, d.typed(1, ty)?);
            let (b, c, e) = (d.typed(2, ty)?, d.typed(3, Ty::U32)?, Extend::of(ty));
            Ok(work(move |s| {
                let (a, b, c) = (e.all(s.warp.get(a)), e.all(s.warp.get(b)), s.warp.get(c));
                let r = std::array::from_fn(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i]));
                s.warp.set(out, s.mask, &r);
                Ok(())
            }))
        }
        (Part::Wide, 32) => {
            let (out, a) = (d.typed_dest(0, Ty::U64)?, d.typed(1, ty)?);
            let (b, c) = (d.typed(2, ty)?, d.typed(3, Ty::U64)?);
            Ok(work(move |s| {
                let (a, b, c) = (s.warp.get(a), s.warp.get(b), s.warp.get_wide(c));
                let r = std::array::from_fn(|i| product(a[i], b[i], signed).wrapping_add(c[i]));
                s.warp.set_wide(out, s.mask, &r);
                Ok(())
            }))
        }
        _ => d.refuse("no such product"),
    }
}

/// `.hi` or `.lo`, one of which must be there.
fn upper(d: &mut Decoder<'_>) -> Result<bool, Malformed> {
    match d.one_of(&[("hi", true), ("lo", false)]) {
        Some(high) => Ok(high),
        None => d.refuse(".hi or .lo is missing"),
    }
}

/// The 48 bits of a product of 24 bits.
fn product24(a: u32, b: u32, signed: bool) -> u64 {
    if signed {
        let x = |v: u32| i64::from((v << 8) as i32 >> 8);
        (x(a) * x(b)) as u64
    } else {
        u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)
    }
}

fn mul24(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let high = upper(d)?;
    let ty = d.ty()?;
    binary(d, ty, move |a, b| (product24(a, b, ty.signed()) >> if high { 16 } else { 0 }) as u32)
}

fn mad24(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let high = upper(d)?;
    let ty = d.ty()?;
    let shift = if high { 16 } else { 0 };
    ternary(d, ty, move |a, b, c| ((product24(a, b, ty.signed()) >> shift) as u32).wrapping_add(c))
}

/// Division by zero is undefined; the hardware gives ones.
fn div(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    match (wide(ty), ty.signed()) {
        (false, false) => binary(d, ty, |a, b| a.checked_div(b).unwrap_or(!0)),
        (false, true) => {
            binary(d, ty, |a, b| if b == 0 { !0 } else { (a as i32).wrapping_div(b as i32) as u32 })
        }
        (true, false) => binary_wide(d, ty, |a, b| a.checked_div(b).unwrap_or(!0)),
        (true, true) => {
            binary_wide(d, ty, |a, b| if b == 0 { !0 } else { (a as i64).wrapping_div(b as i64) as u64 })
        }
    }
}

fn rem(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    match (wide(ty), ty.signed()) {
        (false, false) => binary(d, ty, |a, b| a.checked_rem(b).unwrap_or(a)),
        (false, true) => {
            binary(d, ty, |a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 })
        }
        (true, false) => binary_wide(d, ty, |a, b| a.checked_rem(b).unwrap_or(a)),
        (true, true) => {
            binary_wide(d, ty, |a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 })
        }
    }
}

fn extreme(d: &mut Decoder<'_>, least: bool) -> Result<Run, Malformed> {
    let (relu, ty) = (d.has("relu"), d.ty()?);
    if matches!(ty, Ty::B16 | Ty::B32 | Ty::B64) {
        return d.refuse("it needs a sign or none");
    }
    // s16x2 and u16x2 would be words that are left over.
    if relu {
        if ty != Ty::S32 {
            return d.refuse("only s32 has .relu");
        }
        return binary(d, ty, move |a, b| {
            let (a, b) = (a as i32, b as i32);
            if least { a.min(b) } else { a.max(b) }.max(0) as u32
        });
    }
    match (wide(ty), ty.signed()) {
        (false, false) => binary(d, ty, move |a, b| if least { a.min(b) } else { a.max(b) }),
        (false, true) => binary(d, ty, move |a, b| {
            let (a, b) = (a as i32, b as i32);
            if least { a.min(b) as u32 } else { a.max(b) as u32 }
        }),
        (true, false) => binary_wide(d, ty, move |a, b| if least { a.min(b) } else { a.max(b) }),
        (true, true) => binary_wide(d, ty, move |a, b| {
            let (a, b) = (a as i64, b as i64);
            if least { a.min(b) as u64 } else { a.max(b) as u64 }
        }),
    }
}

/// Types of two integers in a register, and whether they have a sign.
const HALVES: &[(&str, bool)] = &[("s16x2", true), ("u16x2", false)];

/// Two halves at once: `min.s16x2`.
fn halves(d: &mut Decoder<'_>, least: bool) -> Option<Result<Run, Malformed>> {
    let signed = d.one_of(HALVES)?;
    let relu = d.has("relu");
    let pick = move |a: u32, b: u32| {
        if signed {
            let (a, b) = (a as u16 as i16, b as u16 as i16);
            let r = if least { a.min(b) } else { a.max(b) };
            u32::from(if relu { r.max(0) } else { r } as u16)
        } else {
            let (a, b) = (a & 0xffff, b & 0xffff);
            if least { a.min(b) } else { a.max(b) }
        }
    };
    Some(binary(d, Ty::B32, move |a, b| pick(a, b) | pick(a >> 16, b >> 16) << 16))
}

fn min(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    halves(d, true).unwrap_or_else(|| extreme(d, true))
}

fn max(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    halves(d, false).unwrap_or_else(|| extreme(d, false))
}

fn neg(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    if wide(ty) { unary_wide(d, ty, u64::wrapping_neg) } else { unary(d, ty, u32::wrapping_neg) }
}

fn abs(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    if wide(ty) {
        unary_wide(d, ty, |a| (a as i64).wrapping_abs() as u64)
    } else {
        unary(d, ty, |a| (a as i32).wrapping_abs() as u32)
    }
}

/// `c + |a - b|`.
fn sad(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    if wide(ty) {
        let (out, a) = (d.typed_dest(0, ty)?, d.typed(1, ty)?);
        let (b, c, signed) = (d.typed(2, ty)?, d.typed(3, ty)?, ty.signed());
        return Ok(work(move |s| {
            let (a, b, c) = (s.warp.get_wide(a), s.warp.get_wide(b), s.warp.get_wide(c));
            let off = |a: u64, b: u64| if signed { (a as i64).abs_diff(b as i64) } else { a.abs_diff(b) };
            let r = std::array::from_fn(|i| c[i].wrapping_add(off(a[i], b[i])));
            s.warp.set_wide(out, s.mask, &r);
            Ok(())
        }));
    }
    if ty.signed() {
        ternary(d, ty, |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32)))
    } else {
        ternary(d, ty, |a, b, c| c.wrapping_add(a.abs_diff(b)))
    }
}

/// Types of both factors of a dot product of bytes.
fn dot_types(d: &mut Decoder<'_>) -> Result<(bool, bool), Malformed> {
    let (a, b) = (d.ty()?, d.ty()?);
    Ok((a.signed(), b.signed()))
}

/// A part of a word, as wide as it says.
fn piece(x: u32, index: u32, bits: u32, signed: bool) -> i64 {
    let up = x << (32 - bits * (index + 1));
    if signed { i64::from(up as i32 >> (32 - bits)) } else { i64::from(up >> (32 - bits)) }
}

/// `c` plus the products of four bytes.
fn dp4a(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let (sa, sb) = dot_types(d)?;
    ternary(d, Ty::B32, move |a, b, c| {
        let sum: i64 = (0..4).map(|i| piece(a, i, 8, sa) * piece(b, i, 8, sb)).sum();
        c.wrapping_add(sum as u32)
    })
}

/// `c` plus the products of two halves of `a` with the lower or upper two bytes of `b`.
fn dp2a(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let first = if upper(d)? { 2 } else { 0 };
    let (sa, sb) = dot_types(d)?;
    ternary(d, Ty::B32, move |a, b, c| {
        let sum: i64 = (0..2).map(|i| piece(a, i, 16, sa) * piece(b, first + i, 8, sb)).sum();
        c.wrapping_add(sum as u32)
    })
}
