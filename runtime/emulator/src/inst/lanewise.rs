//! Instructions that do the same to every thread's operands: from a function on values to a function on rows, of floats
//! and of integers of any width.

use super::work;
use crate::decode::{Decoder, Run, Ty};
use crate::ptx::Malformed;
use crate::warp::{Row, Slot, Source, Wide};
use std::array::from_fn;

/// `N` operands of a type from number `first` on.
pub fn operands<const N: usize>(d: &mut Decoder<'_>, first: usize, ty: Ty) -> Result<[Source; N], Malformed> {
    let mut out = [Source::Constant(0); N];
    for (i, source) in out.iter_mut().enumerate() {
        *source = d.typed(first + i, ty)?;
    }
    Ok(out)
}

/// A function of values of up to 32 bits.
pub fn words<const N: usize>(
    to: Slot,
    from: [Source; N],
    f: impl Fn([u32; N]) -> u32 + Send + Sync + 'static,
) -> Run {
    work(move |s| {
        let rows: [Row; N] = from.map(|a| s.warp.get(a));
        let out: Row = from_fn(|lane| f(from_fn(|n| rows[n][lane])));
        s.warp.set(to, s.mask, &out);
        Ok(())
    })
}

/// A function of values of 64 bits.
pub fn wides<const N: usize>(
    to: Slot,
    from: [Source; N],
    f: impl Fn([u64; N]) -> u64 + Send + Sync + 'static,
) -> Run {
    work(move |s| {
        let rows: [Wide; N] = from.map(|a| s.warp.get_wide(a));
        let out: Wide = from_fn(|lane| f(from_fn(|n| rows[n][lane])));
        s.warp.set_wide(to, s.mask, &out);
        Ok(())
    })
}

/// A function of pairs of 32-bit values in 64-bit registers.
pub fn pairs<const N: usize>(
    to: Slot,
    from: [Source; N],
    f: impl Fn([u32; N]) -> u32 + Send + Sync + 'static,
) -> Run {
    wides(to, from, move |x| {
        let high = f(x.map(|x| (x >> 32) as u32));
        u64::from(high) << 32 | u64::from(f(x.map(|x| x as u32)))
    })
}

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

/// A function of integers of at most 32 bits, which `f` sees with their signs: `d = f(operands)`.
fn integers<const N: usize>(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn([u32; N]) -> u32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let to = d.typed_dest(0, ty)?;
    let from = operands(d, 1, ty)?;
    let e = Extend::of(ty);
    // Nearly all have 32 bits, and are compiled for those by themselves.
    Ok(if ty.bits() == 32 {
        words(to, from, f)
    } else {
        words(to, from, move |x| e.cut(f(x.map(|x| e.one(x)))))
    })
}

/// `d = f(a)` of at most 32 bits.
pub fn unary(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u32) -> u32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    integers(d, ty, move |[a]| f(a))
}

/// `d = f(a, b)` of at most 32 bits.
pub fn binary(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u32, u32) -> u32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    integers(d, ty, move |[a, b]| f(a, b))
}

/// `d = f(a, b, c)` of at most 32 bits.
pub fn ternary(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u32, u32, u32) -> u32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    integers(d, ty, move |[a, b, c]| f(a, b, c))
}

/// `d = f(a)` of 64 bits.
pub fn unary_wide(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u64) -> u64 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let to = d.typed_dest(0, ty)?;
    Ok(wides(to, operands(d, 1, ty)?, move |[a]| f(a)))
}

/// `d = f(a, b)` of 64 bits.
pub fn binary_wide(
    d: &mut Decoder<'_>,
    ty: Ty,
    f: impl Fn(u64, u64) -> u64 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let to = d.typed_dest(0, ty)?;
    Ok(wides(to, operands(d, 1, ty)?, move |[a, b]| f(a, b)))
}
