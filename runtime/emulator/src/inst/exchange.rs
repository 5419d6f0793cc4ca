//! What the threads of a warp tell each other: shuffles, votes, reductions, matches.

use super::{Rows, work};
use crate::decode::{Decoder, Run, Together, Ty};
use crate::fault::{FaultKind, trap_at};
use crate::number::float;
use crate::ptx::{Malformed, Operand};
use crate::warp::{LANES, Row, Slot, lanes};

pub const ROWS: Rows = &[
    ("shfl.sync", shfl),
    ("vote.sync", vote),
    ("match.any.sync", |d| matched(d, false)),
    ("match.all.sync", |d| matched(d, true)),
    ("redux.sync", redux),
];

/// A register and perhaps a predicate: `d` or `d|p`.
pub fn pair(d: &mut Decoder<'_>, i: usize) -> Result<(Option<Slot>, Option<Slot>), Malformed> {
    match d.operand(i)? {
        Operand::Pair(a, b) => Ok((d.dest_of(a)?, d.pred_dest_of(b)?)),
        other => Ok((d.dest_of(other)?, None)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `shfl.sync.mode.b32 d|p, a, b, c, mask`: c has the clamp in its low five bits and the mask of segments above 8.
fn shfl(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let modes = [("up", Mode::Up), ("down", Mode::Down), ("bfly", Mode::Butterfly), ("idx", Mode::Index)];
    let Some(mode) = d.one_of(&modes) else {
        return d.refuse("up, down, bfly or idx is missing");
    };
    if d.ty()?.bits() != 32 {
        return d.refuse("values of 32 bits are exchanged");
    }
    let (out, pred) = pair(d, 0)?;
    let (a, b, c, mask) = (d.source(1)?, d.source(2)?, d.source(3)?, d.source(4)?);
    d.together = Together::Mask(mask);
    Ok(work(move |s| {
        let (a, b, c, named) = (s.warp.get(a), s.warp.get(b), s.warp.get(c), s.warp.get(mask));
        let (mut r, mut inside) = (a, 0u32);
        for lane in lanes(s.mask) {
            let l = lane as i32;
            let (b, clamp, segment) =
                ((b[lane] & 31) as i32, (c[lane] & 31) as i32, (c[lane] >> 8 & 31) as i32);
            let most = l & segment | clamp & !segment;
            let least = l & segment;
            let (from, ok) = match mode {
                Mode::Up => (l - b, l - b >= most),
                Mode::Down => (l + b, l + b <= most),
                Mode::Butterfly => (l ^ b, (l ^ b) <= most),
                Mode::Index => (least | b & !segment, (least | b & !segment) <= most),
            };
            if ok {
                inside |= 1 << lane;
                if named[lane] >> from & 1 == 0 || s.mask >> from & 1 == 0 {
                    let what = format!("a shuffle reads from thread {from}, which does not take part");
                    return trap_at(FaultKind::Undefined, lane, what);
                }
                r[lane] = a[from as usize];
            }
        }
        if let Some(out) = out {
            s.warp.set(out, s.mask, &r);
        }
        if let Some(pred) = pred {
            s.warp.set_pred(pred, s.mask, inside);
        }
        Ok(())
    }))
}

/// Calls `f` for the threads of each mask that is named, and gives each thread what its own came to.
fn by_mask(executing: u32, named: &Row, mut f: impl FnMut(u32) -> [u32; LANES]) -> Row {
    let mut out = [0; LANES];
    let mut left = executing;
    while left != 0 {
        let mask = named[left.trailing_zeros() as usize] & executing;
        let together = lanes(left).filter(|&l| named[l] & executing == mask).fold(0, |m, l| m | 1 << l);
        let results = f(mask);
        lanes(together).for_each(|l| out[l] = results[l]);
        left &= !together;
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

fn vote(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let modes = [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)];
    let Some(mode) = d.one_of(&modes) else {
        return d.refuse("all, any, uni or ballot is missing");
    };
    let ty = d.ty()?;
    if (mode == Vote::Ballot) != (ty == Ty::B32) {
        return d.refuse("a ballot is b32, the others are pred");
    }
    let (out, (p, negated), mask) = (d.typed_dest(0, ty)?, d.pred(1)?, d.source(2)?);
    d.together = Together::Mask(mask);
    Ok(work(move |s| {
        let p = s.warp.pred(p) ^ if negated { !0 } else { 0 };
        let named = s.warp.get(mask);
        let r = by_mask(s.mask, &named, |mask| {
            let yes = p & mask;
            let result = match mode {
                Vote::Ballot => yes,
                Vote::All => u32::from(yes == mask),
                Vote::Any => u32::from(yes != 0),
                Vote::Uniform => u32::from(yes == 0 || yes == mask),
            };
            [result; LANES]
        });
        if mode == Vote::Ballot {
            s.warp.set(out, s.mask, &r);
        } else {
            let bits = (0..LANES).fold(0, |m, l| m | (r[l] & 1) << l);
            s.warp.set_pred(out, s.mask, bits);
        }
        Ok(())
    }))
}

/// Threads that have the same value: of all (`.all`, with a predicate), or of each (`.any`).
fn matched(d: &mut Decoder<'_>, all: bool) -> Result<Run, Malformed> {
    let ty = d.ty()?;
    let (out, pred) = pair(d, 0)?;
    let (a, mask) = (d.typed(1, ty)?, d.source(2)?);
    d.together = Together::Mask(mask);
    let wide = ty.bits() == 64;
    Ok(work(move |s| {
        let a = if wide { s.warp.get_wide(a) } else { s.warp.get(a).map(u64::from) };
        let named = s.warp.get(mask);
        let r = by_mask(s.mask, &named, |mask| {
            let same = |l: usize| lanes(mask).filter(|&m| a[m] == a[l]).fold(0, |r, m| r | 1 << m);
            std::array::from_fn(|l| match (all, same(l)) {
                (true, m) if m != mask => 0,
                (_, m) => m,
            })
        });
        if let Some(out) = out {
            s.warp.set(out, s.mask, &r);
        }
        if let Some(pred) = pred {
            let bits = (0..LANES).fold(0, |m, l| m | u32::from(r[l] != 0) << l);
            s.warp.set_pred(pred, s.mask, bits);
        }
        Ok(())
    }))
}

fn redux(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    type Op = fn(u32, u32) -> u32;
    let ops = [("add", 0), ("min", 1), ("max", 2), ("and", 3), ("or", 4), ("xor", 5)];
    let Some(op) = d.one_of(&ops) else {
        return d.refuse("the operation is missing");
    };
    let ty = d.ty()?;
    let (out, a, mask) = (d.typed_dest(0, ty)?, d.typed(1, ty)?, d.source(2)?);
    d.together = Together::Mask(mask);
    if ty == Ty::F32 {
        if !matches!(op, 1 | 2) {
            return d.refuse("floats have min and max");
        }
        let (abs, nan) = (d.has("abs"), d.has("NaN"));
        return Ok(work(move |s| {
            let (a, named) = (s.warp.get(a), s.warp.get(mask));
            let value = |l: usize| {
                let x = f32::from_bits(a[l]);
                if abs { x.abs() } else { x }
            };
            let r = by_mask(s.mask, &named, |mask| {
                let all = lanes(mask).map(value);
                let best =
                    all.reduce(|x, y| if op == 1 { float::min(x, y, nan) } else { float::max(x, y, nan) });
                [best.unwrap_or(0.0).to_bits(); LANES]
            });
            s.warp.set(out, s.mask, &r);
            Ok(())
        }));
    }
    let f: Op = match (op, ty.signed()) {
        (0, _) => u32::wrapping_add,
        (1, true) => |a, b| (a as i32).min(b as i32) as u32,
        (1, false) => u32::min,
        (2, true) => |a, b| (a as i32).max(b as i32) as u32,
        (2, false) => u32::max,
        (3, _) => |a, b| a & b,
        (4, _) => |a, b| a | b,
        _ => |a, b| a ^ b,
    };
    Ok(work(move |s| {
        let (a, named) = (s.warp.get(a), s.warp.get(mask));
        let r = by_mask(s.mask, &named, |mask| [lanes(mask).map(|l| a[l]).reduce(f).unwrap_or(0); LANES]);
        s.warp.set(out, s.mask, &r);
        Ok(())
    }))
}
