//! Instructions that do the same to every thread's operands: from a function on values to a function on rows.

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
