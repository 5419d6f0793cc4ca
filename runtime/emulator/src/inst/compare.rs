//! Comparisons and choices: `setp`, `set`, `selp`, `slct`.
//!
//! Of two values one is less, they are equal, one is greater, or they are not ordered (a NaN is among them). A relation
//! is the set of those cases in which it holds. Source: PTX ISA, "Comparison and selection instructions" and "Half
//! precision comparison instructions".

use super::{Rows, work};
use crate::decode::{Decoder, Run, Ty};
use crate::number::float::flush;
use crate::number::half::Half;
use crate::ptx::{Malformed, Operand};
use crate::warp::{LANES, Row, Slot, Source, Warp};
use std::array::from_fn;

pub const ROWS: Rows = &[("setp", setp), ("set", set), ("selp", selp), ("slct", slct)];

const LESS: u8 = 1;
const EQUAL: u8 = 2;
const GREATER: u8 = 4;
const UNORDERED: u8 = 8;

/// Relations by name; those of integers alone come last.
const RELATIONS: &[(&str, u8)] = &[
    ("eq", EQUAL),
    ("ne", LESS | GREATER),
    ("lt", LESS),
    ("le", LESS | EQUAL),
    ("gt", GREATER),
    ("ge", GREATER | EQUAL),
    ("equ", EQUAL | UNORDERED),
    ("neu", LESS | GREATER | UNORDERED),
    ("ltu", LESS | UNORDERED),
    ("leu", LESS | EQUAL | UNORDERED),
    ("gtu", GREATER | UNORDERED),
    ("geu", GREATER | EQUAL | UNORDERED),
    ("num", LESS | EQUAL | GREATER),
    ("nan", UNORDERED),
    ("lo", LESS),
    ("ls", LESS | EQUAL),
    ("hi", GREATER),
    ("hs", GREATER | EQUAL),
];

/// Threads in which a comparison of the lower, or only, and of the upper values holds.
type Compare = Box<dyn Fn(&Warp) -> [u32; 2] + Send + Sync>;

/// Bit of each thread in a predicate.
const BITS: [u32; LANES] = {
    let mut bits = [0; LANES];
    let mut i = 0;
    while i < LANES {
        bits[i] = 1 << i;
        i += 1;
    }
    bits
};

#[inline(always)]
fn mask<T: Copy>(a: [T; LANES], b: [T; LANES], holds: impl Fn(T, T) -> bool) -> u32 {
    let bits: Row = from_fn(|i| if holds(a[i], b[i]) { BITS[i] } else { 0 });
    bits.iter().fold(0, |m, bit| m | bit)
}

/// A relation of values that `read` takes from the registers.
fn compare<T: Copy + PartialOrd + 'static>(
    relation: u8,
    read: impl Fn(&Warp) -> [[T; LANES]; 2] + Send + Sync + 'static,
) -> Compare {
    /// One closure for each relation, so that each has its own loop.
    macro_rules! table {
        ($($set:expr => $holds:expr,)*) => {
            match relation {
                $(set if set == $set => Box::new(move |w: &Warp| {
                    let [a, b] = read(w);
                    [mask(a, b, $holds), 0]
                }),)*
                _ => Box::new(move |w: &Warp| {
                    let [a, b] = read(w);
                    [mask(a, b, |a: T, b: T| a.partial_cmp(&b).is_some()), 0]
                }),
            }
        };
    }
    table! {
        LESS => |a, b| a < b,
        EQUAL => |a, b| a == b,
        GREATER => |a, b| a > b,
        LESS | EQUAL => |a, b| a <= b,
        GREATER | EQUAL => |a, b| a >= b,
        LESS | GREATER => |a, b| matches!(a.partial_cmp(&b), Some(o) if o.is_ne()),
        UNORDERED => |a, b| a.partial_cmp(&b).is_none(),
        LESS | UNORDERED => |a, b| !matches!(a.partial_cmp(&b), Some(o) if o.is_ge()),
        EQUAL | UNORDERED => |a, b| !matches!(a.partial_cmp(&b), Some(o) if o.is_ne()),
        GREATER | UNORDERED => |a, b| !matches!(a.partial_cmp(&b), Some(o) if o.is_le()),
        LESS | EQUAL | UNORDERED => |a, b| !matches!(a.partial_cmp(&b), Some(o) if o.is_gt()),
        GREATER | EQUAL | UNORDERED => |a, b| !matches!(a.partial_cmp(&b), Some(o) if o.is_lt()),
        LESS | GREATER | UNORDERED => |a, b| a != b,
    }
}

/// The comparison that an opcode says, of operands 1 and 2; and whether it is of pairs.
fn comparison(d: &mut Decoder<'_>, relation: u8, ty: Ty) -> Result<(Compare, bool), Malformed> {
    let ftz = matches!(ty, Ty::F32 | Ty::F16 | Ty::F16x2) && d.has("ftz");
    let (a, b) = (d.typed(1, ty)?, d.typed(2, ty)?);
    if relation & UNORDERED != 0 && !ty.float()
        || relation == LESS | EQUAL | GREATER && !ty.float()
        || matches!(ty, Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64) && !matches!(relation, EQUAL | 5)
    {
        return d.refuse("its type has no such relation");
    }
    let half = if matches!(ty, Ty::F16 | Ty::F16x2) { Half::F16 } else { Half::Bf16 };
    let halves = move |w: &Warp, shift: u32| {
        [a, b].map(|x| {
            w.get(x).map(|x| {
                let bits = (x >> shift) as u16;
                half.decode(if ftz { half.flush(bits) } else { bits })
            })
        })
    };
    let compared = match ty {
        Ty::S32 => compare(relation, move |w| [a, b].map(|x| w.get(x).map(|x| x as i32))),
        Ty::U32 | Ty::B32 => compare(relation, move |w| [a, b].map(|x| w.get(x))),
        Ty::S16 => compare(relation, move |w| [a, b].map(|x| w.get(x).map(|x| x as i16))),
        Ty::U16 | Ty::B16 => compare(relation, move |w| [a, b].map(|x| w.get(x).map(|x| x as u16))),
        Ty::S64 => compare(relation, move |w| [a, b].map(|x| w.get_wide(x).map(|x| x as i64))),
        Ty::U64 | Ty::B64 => compare(relation, move |w| [a, b].map(|x| w.get_wide(x))),
        Ty::F32 if ftz => {
            compare(relation, move |w| [a, b].map(|x| w.get(x).map(|x| flush(f32::from_bits(x)))))
        }
        Ty::F32 => compare(relation, move |w| [a, b].map(|x| w.get(x).map(f32::from_bits))),
        Ty::F64 => compare(relation, move |w| [a, b].map(|x| w.get_wide(x).map(f64::from_bits))),
        Ty::F16 | Ty::Bf16 => compare(relation, move |w| halves(w, 0)),
        Ty::F16x2 | Ty::Bf16x2 => {
            let low = compare(relation, move |w| halves(w, 0));
            let high = compare(relation, move |w| halves(w, 16));
            return Ok((Box::new(move |w| [low(w)[0], high(w)[0]]), true));
        }
        _ => return d.refuse("its type is not compared"),
    };
    Ok((compared, false))
}

fn relation(d: &mut Decoder<'_>) -> Result<u8, Malformed> {
    match d.one_of(RELATIONS) {
        Some(relation) => Ok(relation),
        None => d.refuse("its relation is missing"),
    }
}

/// How a predicate is combined into the result.
#[derive(Clone, Copy)]
enum Join {
    And,
    Or,
    Xor,
}

/// The predicate `c` of `.and`, `.or` and `.xor`, at operand 3.
type Combined = Option<(Join, Source, bool)>;

fn combined(d: &mut Decoder<'_>) -> Result<Combined, Malformed> {
    let joins = [("and", Join::And), ("or", Join::Or), ("xor", Join::Xor)];
    let Some(join) = d.one_of(&joins) else {
        return Ok(None);
    };
    let (source, negated) = d.pred(3)?;
    Ok(Some((join, source, negated)))
}

fn joined(w: &Warp, value: u32, combined: Combined) -> u32 {
    let Some((join, source, negated)) = combined else {
        return value;
    };
    let c = if negated { !w.pred(source) } else { w.pred(source) };
    match join {
        Join::And => value & c,
        Join::Or => value | c,
        Join::Xor => value ^ c,
    }
}

/// `setp p|q, a, b{, c}`: `q` is of what does not hold, or of the upper halves.
fn setp(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let relation = relation(d)?;
    let combined = combined(d)?;
    let ty = d.ty()?;
    let (p, q) = match d.operand(0)? {
        Operand::Pair(p, q) => (predicate(d, p)?, predicate(d, q)?),
        p => (predicate(d, p)?, None),
    };
    let (compared, pairs) = comparison(d, relation, ty)?;
    if combined.is_none() && q.is_none() && !pairs {
        let Some(p) = p else {
            return d.refuse("it has no result");
        };
        return Ok(work(move |s| {
            let value = compared(s.warp)[0];
            s.warp.set_pred(p, s.mask, value);
            Ok(())
        }));
    }
    Ok(work(move |s| {
        let [low, high] = compared(s.warp);
        let values = [low, if pairs { high } else { !low }];
        let values = values.map(|v| joined(s.warp, v, combined));
        for (slot, value) in [p, q].into_iter().zip(values) {
            if let Some(slot) = slot {
                s.warp.set_pred(slot, s.mask, value);
            }
        }
        Ok(())
    }))
}

/// A predicate to be written, or `_`.
fn predicate(d: &mut Decoder<'_>, operand: &Operand) -> Result<Option<Slot>, Malformed> {
    if *operand != Operand::Sink && d.width(operand) != 1 {
        return d.refuse("its result is a predicate");
    }
    d.pred_dest_of(operand)
}

/// `set d, a, b{, c}`: ones, or 1.0, where the relation holds, and otherwise zero.
fn set(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let relation = relation(d)?;
    let combined = combined(d)?;
    let (to, from) = (d.ty()?, d.ty()?);
    let (one, both) = match to {
        Ty::U32 | Ty::S32 => (!0, false),
        Ty::U16 | Ty::S16 => (0xffff, false),
        Ty::F32 => (1f32.to_bits(), false),
        Ty::F16 => (0x3c00, false),
        Ty::Bf16 => (0x3f80, false),
        Ty::F16x2 => (0x3c00, true),
        Ty::Bf16x2 => (0x3f80, true),
        _ => return d.refuse("its result is of 16 or 32 bits"),
    };
    let out = d.typed_dest(0, to)?;
    let (compared, pairs) = comparison(d, relation, from)?;
    if both != pairs {
        return d.refuse("both types are pairs, or neither");
    }
    Ok(work(move |s| {
        let [low, high] = compared(s.warp).map(|v| joined(s.warp, v, combined));
        let value = from_fn(|lane| {
            let bits = |mask: u32| if mask >> lane & 1 == 1 { one } else { 0u32 };
            if pairs { bits(high) << 16 | bits(low) } else { bits(low) }
        });
        s.warp.set(out, s.mask, &value);
        Ok(())
    }))
}

/// `a` where a bit of `first` is set, otherwise `b`.
fn choice(
    d: &mut Decoder<'_>,
    ty: Ty,
    first: impl Fn(&Warp) -> u32 + Send + Sync + 'static,
) -> Result<Run, Malformed> {
    let out = d.typed_dest(0, ty)?;
    let (a, b) = (d.typed(1, ty)?, d.typed(2, ty)?);
    let bits = ty.bits();
    Ok(match bits {
        64 => work(move |s| {
            let (a, b, p) = (s.warp.get_wide(a), s.warp.get_wide(b), first(s.warp));
            let value = from_fn(|i| if p & BITS[i] != 0 { a[i] } else { b[i] });
            s.warp.set_wide(out, s.mask, &value);
            Ok(())
        }),
        16 | 32 => {
            let cut = u32::MAX >> (32 - bits);
            work(move |s| {
                let (a, b, p) = (s.warp.get(a), s.warp.get(b), first(s.warp));
                let value = from_fn(|i| if p & BITS[i] != 0 { a[i] } else { b[i] } & cut);
                s.warp.set(out, s.mask, &value);
                Ok(())
            })
        }
        _ => return d.refuse("it chooses among values of 16, 32 or 64 bits"),
    })
}

/// `selp d, a, b, p`.
fn selp(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    let (p, negated) = d.pred(3)?;
    choice(d, ty, move |w| if negated { !w.pred(p) } else { w.pred(p) })
}

/// `slct d, a, b, c`: `a` where `c` is at least zero.
fn slct(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ftz = d.has("ftz");
    let (ty, of) = (d.ty()?, d.ty()?);
    let c = d.typed(3, of)?;
    match of {
        Ty::S32 if !ftz => {
            choice(d, ty, move |w| mask(w.get(c).map(|x| x as i32), [0; LANES], |c, zero| c >= zero))
        }
        // A negative subnormal number is less than zero unless it is flushed.
        Ty::F32 => choice(d, ty, move |w| {
            let c = w.get(c).map(|x| if ftz { flush(f32::from_bits(x)) } else { f32::from_bits(x) });
            mask(c, [0.0; LANES], |c, zero| c >= zero)
        }),
        _ => d.refuse("it chooses by s32 or f32"),
    }
}
