//! Work that is done in each thread by itself, on integers: operands of a type in, a result of a type out.

use super::work;
use crate::decode::{Decoder, Run, Ty};
use crate::ptx::Malformed;
use crate::warp::{LANES, Row};

/// How a value of fewer than 32 bits fills a row: bits to shift up and, with or without sign, down again.
#[derive(Clone, Copy)]
pub struct Extend {
    shift: u32,
    signed: bool,
}

impl Extend {
    /// For a type of at most 32 bits.
    pub fn of(ty: Ty) -> Extend {
        Extend { shift: 32 - ty.bits().min(32), signed: ty.signed() }
    }

    /// The value as 32 bits.
    #[inline(always)]
    pub fn one(self, x: u32) -> u32 {
        if self.signed {
            ((x << self.shift) as i32 >> self.shift) as u32
        } else {
            x << self.shift >> self.shift
        }
    }

    /// Values of every thread.
    #[inline(always)]
    pub fn all(self, row: Row) -> Row {
        if self.shift == 0 { row } else { row.map(|x| self.one(x)) }
    }

    /// A result as it stands in a register: zeros above.
    #[inline(always)]
    pub fn cut(self, x: u32) -> u32 {
        x << self.shift >> self.shift
    }
}

/// `d = f(a)` of at most 32 bits.
pub fn unary(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u32) -> u32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let (out, a, e) = (d.typed_dest(0, ty)?, d.typed(1, ty)?, Extend::of(ty));
    Ok(work(move |s| {
        let a = e.all(s.warp.get(a));
        s.warp.set(out, s.mask, &a.map(|a| e.cut(f(a))));
        Ok(())
    }))
}

/// `d = f(a)` of 64 bits.
pub fn unary_wide(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u64) -> u64 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let (out, a) = (d.typed_dest(0, ty)?, d.typed(1, ty)?);
    Ok(work(move |s| {
        let a = s.warp.get_wide(a);
        s.warp.set_wide(out, s.mask, &a.map(&f));
        Ok(())
    }))
}

/// `d = f(a, b)` of at most 32 bits.
pub fn binary(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u32, u32) -> u32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let (out, a, b, e) = (d.typed_dest(0, ty)?, d.typed(1, ty)?, d.typed(2, ty)?, Extend::of(ty));
    Ok(work(move |s| {
        let (a, b) = (e.all(s.warp.get(a)), e.all(s.warp.get(b)));
        let mut r = [0; LANES];
        for i in 0..LANES {
            r[i] = e.cut(f(a[i], b[i]));
        }
        s.warp.set(out, s.mask, &r);
        Ok(())
    }))
}

/// `d = f(a, b)` of 64 bits.
pub fn binary_wide(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u64, u64) -> u64 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let (out, a, b) = (d.typed_dest(0, ty)?, d.typed(1, ty)?, d.typed(2, ty)?);
    Ok(work(move |s| {
        let (a, b) = (s.warp.get_wide(a), s.warp.get_wide(b));
        let mut r = [0; LANES];
        for i in 0..LANES {
            r[i] = f(a[i], b[i]);
        }
        s.warp.set_wide(out, s.mask, &r);
        Ok(())
    }))
}

/// `d = f(a, b, c)` of at most 32 bits.
pub fn ternary(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u32, u32, u32) -> u32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let (out, e) = (d.typed_dest(0, ty)?, Extend::of(ty));
    let (a, b, c) = (d.typed(1, ty)?, d.typed(2, ty)?, d.typed(3, ty)?);
    Ok(work(move |s| {
        let (a, b, c) = (e.all(s.warp.get(a)), e.all(s.warp.get(b)), e.all(s.warp.get(c)));
        let mut r = [0; LANES];
        for i in 0..LANES {
            r[i] = e.cut(f(a[i], b[i], c[i]));
        }
        s.warp.set(out, s.mask, &r);
        Ok(())
    }))
}
