//! Bits: logic, shifts, fields, permutations of bytes.

use super::lanewise::{Extend, binary, binary_wide, ternary, unary, unary_wide};
use super::{Rows, work};
use crate::decode::{Decoder, Run, Ty};
use crate::ptx::Malformed;
use crate::warp::LANES;

pub const ROWS: Rows = &[
    ("and", |d| logic(d, |a, b| a & b)),
    ("or", |d| logic(d, |a, b| a | b)),
    ("xor", |d| logic(d, |a, b| a ^ b)),
    ("not", not),
    ("cnot", cnot),
    ("lop3", lop3),
    ("shl", shl),
    ("shr", shr),
    ("shf", shf),
    ("bfe", bfe),
    ("bfi", bfi),
    ("bmsk", bmsk),
    ("szext", szext),
    ("brev", brev),
    ("popc", popc),
    ("clz", clz),
    ("bfind", bfind),
    ("fns", fns),
    ("prmt", prmt),
];

fn logic(d: &mut Decoder<'_>, f: fn(u64, u64) -> u64) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    if ty == Ty::Pred {
        let (out, (a, na), (b, nb)) = (d.typed_dest(0, ty)?, d.pred(1)?, d.pred(2)?);
        return Ok(work(move |s| {
            let (a, b) = (s.warp.pred(a) ^ mask_of(na), s.warp.pred(b) ^ mask_of(nb));
            s.warp.set_pred(out, s.mask, f(u64::from(a), u64::from(b)) as u32);
            Ok(())
        }));
    }
    if ty.bits() == 64 {
        return binary_wide(d, ty, f);
    }
    binary(d, ty, move |a, b| f(u64::from(a), u64::from(b)) as u32)
}

fn mask_of(negated: bool) -> u32 {
    if negated { !0 } else { 0 }
}

fn not(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    if ty == Ty::Pred {
        let (out, (a, negated)) = (d.typed_dest(0, ty)?, d.pred(1)?);
        return Ok(work(move |s| {
            let a = s.warp.pred(a) ^ mask_of(negated);
            s.warp.set_pred(out, s.mask, !a);
            Ok(())
        }));
    }
    if ty.bits() == 64 { unary_wide(d, ty, |a| !a) } else { unary(d, ty, |a| !a) }
}

fn cnot(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    if ty.bits() == 64 {
        unary_wide(d, ty, |a| u64::from(a == 0))
    } else {
        unary(d, ty, |a| u32::from(a == 0))
    }
}

/// `lop3.b32 d, a, b, c, table`; with `.or.BoolOp` also a predicate.
fn lop3(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    if let Some(and) = d.one_of(&[("and", true), ("or", false)]) {
        let crate::ptx::Operand::Pair(word, pred) = d.operand(0)? else {
            return d.refuse("a pair is to be written");
        };
        let (word, pred) = (d.dest_of(word)?, d.pred_dest_of(pred)?);
        let (a, b, c, table) = (d.source(1)?, d.source(2)?, d.source(3)?, d.constant(4)? as u32);
        let (q, negated) = d.pred(5)?;
        return Ok(work(move |s| {
            let (a, b, c) = (s.warp.get(a), s.warp.get(b), s.warp.get(c));
            let q = s.warp.pred(q) ^ mask_of(negated);
            let r: [u32; LANES] = std::array::from_fn(|i| table3(a[i], b[i], c[i], table));
            let bits = (0..LANES).fold(0, |m, i| m | u32::from(r[i] != 0) << i);
            if let Some(word) = word {
                s.warp.set(word, s.mask, &r);
            }
            if let Some(pred) = pred {
                s.warp.set_pred(pred, s.mask, if and { bits & q } else { bits | q });
            }
            Ok(())
        }));
    }
    let table = d.constant(4)? as u32;
    ternary(d, ty, move |a, b, c| table3(a, b, c, table))
}

/// The function of three bits that a table of eight gives.
#[inline(always)]
fn table3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let bit = |n: u32| (table >> n & 1).wrapping_neg();
    (!a & !b & !c & bit(0))
        | (!a & !b & c & bit(1))
        | (!a & b & !c & bit(2))
        | (!a & b & c & bit(3))
        | (a & !b & !c & bit(4))
        | (a & !b & c & bit(5))
        | (a & b & !c & bit(6))
        | (a & b & c & bit(7))
}

/// Shifts by more than the width give what shifting one by one would.
fn shl(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    shift(d, ty, |a, n| a.checked_shl(n).unwrap_or(0))
}

fn shr(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    if ty.signed() {
        shift(d, ty, |a, n| ((a as i64) >> n.min(63)) as u64)
    } else {
        shift(d, ty, |a, n| a.checked_shr(n).unwrap_or(0))
    }
}

fn shift(d: &mut Decoder<'_>, ty: Ty, f: fn(u64, u32) -> u64) -> Result<Run, Malformed> {
    let (out, a, n) = (d.typed_dest(0, ty)?, d.typed(1, ty)?, d.typed(2, Ty::U32)?);
    if ty.bits() == 64 {
        return Ok(work(move |s| {
            let (a, n) = (s.warp.get_wide(a), s.warp.get(n));
            s.warp.set_wide(out, s.mask, &std::array::from_fn(|i| f(a[i], n[i])));
            Ok(())
        }));
    }
    let (e, signed) = (Extend::of(ty), ty.signed());
    Ok(work(move |s| {
        let (a, n) = (e.all(s.warp.get(a)), s.warp.get(n));
        let widen = |x: u32| if signed { i64::from(x as i32) as u64 } else { u64::from(x) };
        s.warp.set(out, s.mask, &std::array::from_fn(|i| e.cut(f(widen(a[i]), n[i]) as u32)));
        Ok(())
    }))
}

/// A funnel shift of `(b, a)`.
fn shf(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let (left, wrap) = (d.has("l"), d.has("wrap"));
    if !left && !d.has("r") || !wrap && !d.has("clamp") {
        return d.refuse("l or r, and clamp or wrap");
    }
    let ty = d.ty()?;
    ternary(d, ty, move |a, b, c| {
        let n = if wrap { c & 31 } else { c.min(32) };
        let both = u64::from(b) << 32 | u64::from(a);
        if left { (both << n >> 32) as u32 } else { (both >> n) as u32 }
    })
}

/// A field of `len` bits from bit `at` on, with the sign that the ISA gives it.
fn field(a: u64, at: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let (at, len) = (at & 0xff, len & 0xff);
    let top = bits - 1;
    let sign = if !signed || len == 0 { 0 } else { a >> (at + len - 1).min(top) & 1 };
    (0..bits).fold(0, |r, i| {
        let bit = if i < len && at + i <= top { a >> (at + i) & 1 } else { sign };
        r | bit << i
    })
}

fn bfe(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    let (out, a) = (d.typed_dest(0, ty)?, d.typed(1, ty)?);
    let (at, len, bits, signed) = (d.typed(2, Ty::U32)?, d.typed(3, Ty::U32)?, ty.bits(), ty.signed());
    Ok(work(move |s| {
        let (at, len) = (s.warp.get(at), s.warp.get(len));
        if bits == 64 {
            let a = s.warp.get_wide(a);
            s.warp.set_wide(out, s.mask, &std::array::from_fn(|i| field(a[i], at[i], len[i], 64, signed)));
            return Ok(());
        }
        let a = s.warp.get(a);
        let quick = |i: usize| {
            let (p, n) = (at[i] & 0xff, len[i] & 0xff);
            if !signed && p < 32 && n < 32 {
                a[i] >> p & ((1 << n) - 1)
            } else {
                field(a[i].into(), p, n, 32, signed) as u32
            }
        };
        s.warp.set(out, s.mask, &std::array::from_fn(quick));
        Ok(())
    }))
}

/// `b` with `len` bits of `a` put in from bit `at` on.
fn bfi(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    let (out, a, b) = (d.typed_dest(0, ty)?, d.typed(1, ty)?, d.typed(2, ty)?);
    let (at, len, bits) = (d.typed(3, Ty::U32)?, d.typed(4, Ty::U32)?, ty.bits());
    let put = move |a: u64, b: u64, at: u32, len: u32| {
        let (at, len) = (at & 0xff, len & 0xff);
        let ones = if len >= 64 { !0 } else { (1u64 << len) - 1 };
        let mask = ones.checked_shl(at).unwrap_or(0);
        b & !mask | a.checked_shl(at).unwrap_or(0) & mask
    };
    Ok(work(move |s| {
        let (at, len) = (s.warp.get(at), s.warp.get(len));
        if bits == 64 {
            let (a, b) = (s.warp.get_wide(a), s.warp.get_wide(b));
            s.warp.set_wide(out, s.mask, &std::array::from_fn(|i| put(a[i], b[i], at[i], len[i])));
        } else {
            let (a, b) = (s.warp.get(a), s.warp.get(b));
            let one = |i: usize| put(a[i].into(), b[i].into(), at[i], len[i]) as u32;
            s.warp.set(out, s.mask, &std::array::from_fn(one));
        }
        Ok(())
    }))
}

fn bmsk(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let wrap = d.has("wrap");
    if !wrap && !d.has("clamp") {
        return d.refuse("clamp or wrap is missing");
    }
    let ty = d.ty()?;
    binary(d, ty, move |at, len| {
        if wrap {
            let (at, len) = (at & 31, len & 31);
            ((1u32 << len) - 1) << at
        } else {
            let ones = if len >= 32 { !0 } else { (1u32 << len) - 1 };
            ones.checked_shl(at).unwrap_or(0)
        }
    })
}

fn szext(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let wrap = d.has("wrap");
    if !wrap && !d.has("clamp") {
        return d.refuse("clamp or wrap is missing");
    }
    let ty = d.ty()?;
    let signed = ty.signed();
    binary(d, ty, move |a, n| {
        let n = if wrap { n & 31 } else { n };
        match n {
            0 => 0,
            32.. => a,
            _ if signed => ((a << (32 - n)) as i32 >> (32 - n)) as u32,
            _ => a & ((1 << n) - 1),
        }
    })
}

fn brev(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    if ty.bits() == 64 { unary_wide(d, ty, u64::reverse_bits) } else { unary(d, ty, u32::reverse_bits) }
}

/// A count of bits of a value: 32 bits come out, whatever goes in.
fn count(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u64) -> u32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let (out, a, wide) = (d.typed_dest(0, Ty::U32)?, d.typed(1, ty)?, ty.bits() == 64);
    Ok(work(move |s| {
        let a = if wide { s.warp.get_wide(a) } else { s.warp.get(a).map(u64::from) };
        s.warp.set(out, s.mask, &a.map(&f));
        Ok(())
    }))
}

fn popc(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    count(d, ty, u64::count_ones)
}

fn clz(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    let off = 64 - ty.bits();
    count(d, ty, move |a| a.leading_zeros() - off)
}

/// The place of the highest bit that is not the sign, or ones.
fn bfind(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let (amount, ty) = (d.has("shiftamt"), d.ty()?);
    let (bits, signed) = (ty.bits(), ty.signed());
    count(d, ty, move |a| {
        let up = a << (64 - bits);
        let flipped = if signed && (up as i64) < 0 { !a } else { a };
        let up = flipped << (64 - bits);
        match up.leading_zeros() {
            n if n >= bits => !0,
            n if amount => n,
            n => bits - 1 - n,
        }
    })
}

/// The `n`-th set bit from `base` on, upwards or downwards.
fn fns(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    ternary(d, ty, |mask, base, offset| {
        let (base, offset) = (base as i32, offset as i32);
        if offset == 0 {
            return if (0..32).contains(&base) && mask >> base & 1 == 1 { base as u32 } else { !0 };
        }
        let (step, mut left, mut at) = (offset.signum(), offset.abs(), base);
        while (0..32).contains(&at) {
            if mask >> at & 1 == 1 {
                left -= 1;
                if left == 0 {
                    return at as u32;
                }
            }
            at += step;
        }
        !0
    })
}

/// Bytes of two words in an order that a word, or a mode, gives.
fn prmt(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    let modes = [("f4e", 1), ("b4e", 2), ("rc8", 3), ("ecl", 4), ("ecr", 5), ("rc16", 6)];
    let mode = d.one_of(&modes).unwrap_or(0);
    ternary(d, ty, move |a, b, c| permute(a, b, c, mode))
}

fn permute(a: u32, b: u32, c: u32, mode: u32) -> u32 {
    let both = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let n = c & 3;
    let pick = |i: u32| match mode {
        0 => c >> (4 * i) & 0xf,
        1 => n + i,
        2 => (n + 8 - i) & 7,
        3 => n,
        4 => n.max(i),
        5 => n.min(i),
        _ => (n & 1) * 2 + (i & 1),
    };
    (0..4).fold(0, |r, i| {
        let selector = pick(i);
        let byte = both[(selector & 7) as usize];
        // The highest bit of a selector asks for the byte's sign in every bit.
        let byte = if selector & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        r | u32::from(byte) << (8 * i)
    })
}
