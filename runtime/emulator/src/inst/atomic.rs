//! Atomic operations on memory, and fences. What the emulator executes is in one order for all, so that a fence has
//! nothing to do; scopes and orders are taken and have no other effect.

use super::memory::{Access, access, addresses};
use super::{Rows, work};
use crate::decode::{Decoder, Run, Ty};
use crate::fault::{FaultKind, Outcome, of_lane, trap_at};
use crate::memory::address;
use crate::number::double;
use crate::number::float::{self, Mode};
use crate::number::format::Round;
use crate::number::half::{Half, HalfMode};
use crate::ptx::{Malformed, Space};
use crate::warp::{LANES, Slot, lanes};
use crate::world::Step;

pub const ROWS: Rows =
    &[("atom", atom), ("red", red), ("fence", fence), ("membar", fence), ("createpolicy", policy)];

fn fence(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.drop_all(&[
        "acq_rel",
        "sc",
        "acquire",
        "release",
        "cta",
        "cluster",
        "gpu",
        "gl",
        "sys",
        "sync_restrict::shared::cta",
    ]);
    Ok(work(|_| Ok(())))
}

/// A cache policy: a hint, of which only the register is of interest.
fn policy(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let words: Vec<&str> = d.words().to_vec();
    d.drop_all(&words);
    let out = d.dest(0)?;
    for i in 1..d.count() {
        if d.address(i).is_err() {
            d.source(i)?;
        }
    }
    Ok(work(move |s| {
        s.warp.set_wide(out, s.mask, &[0; LANES]);
        Ok(())
    }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the ISA")]
pub enum Op {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
    Increment,
    Decrement,
}

/// Operations by name.
pub const OPS: &[(&str, Op)] = &[
    ("add", Op::Add),
    ("min", Op::Min),
    ("max", Op::Max),
    ("and", Op::And),
    ("or", Op::Or),
    ("xor", Op::Xor),
    ("exch", Op::Exchange),
    ("cas", Op::CompareSwap),
    ("inc", Op::Increment),
    ("dec", Op::Decrement),
];

fn sign(x: u64, bits: u32) -> i64 {
    (x << (64 - bits)) as i64 >> (64 - bits)
}

/// What stands in global memory after an operation of a thread: `.add.f32` flushes subnormal inputs and results, as the
/// ISA says.
fn apply_global(op: Op, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    match (op, ty) {
        (Op::Add, Ty::F32) => {
            let mode = Mode { ftz: true, ..Mode::default() };
            float::add(f32::from_bits(old as u32), f32::from_bits(b as u32), mode).to_bits().into()
        }
        _ => apply_bulk(op, ty, old, b, c),
    }
}

/// What stands in global memory after an operation of a bulk copy. Nothing is flushed, measured on an H100.
///
/// The memory adds, not a core: a NaN of `f64` stays as it is, even one that signals, and of two it is the operand.
pub fn apply_bulk(op: Op, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    match (op, ty) {
        (Op::Add, Ty::F64) if f64::from_bits(b).is_nan() => b,
        (Op::Add, Ty::F64) if f64::from_bits(old).is_nan() => old,
        _ => apply(op, ty, old, b, c),
    }
}

/// What stands in shared memory after an operation.
pub fn apply(op: Op, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let half = |h: Half, shift: u32| {
        let f = |op: Op, x: u16, y: u16| match op {
            Op::Add => h.add(x, y, HalfMode::default()),
            Op::Min => h.min(x, y, false),
            _ => h.max(x, y, false),
        };
        u64::from(f(op, (old >> shift) as u16, (b >> shift) as u16)) << shift
    };
    match (op, ty) {
        (Op::Exchange, _) => b,
        (Op::CompareSwap, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (Op::Increment, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (Op::Decrement, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        (Op::And, _) => old & b,
        (Op::Or, _) => old | b,
        (Op::Xor, _) => old ^ b,
        (_, Ty::F16) => half(Half::F16, 0),
        (_, Ty::Bf16) => half(Half::Bf16, 0),
        (_, Ty::F16x2) => half(Half::F16, 0) | half(Half::F16, 16),
        (_, Ty::Bf16x2) => half(Half::Bf16, 0) | half(Half::Bf16, 16),
        (Op::Add, Ty::F32) => {
            u64::from(float::add_rn(f32::from_bits(old as u32), f32::from_bits(b as u32)).to_bits())
        }
        // The cores add in this order, which decides between two NaNs.
        (Op::Add, Ty::F64) => double::add(f64::from_bits(b), f64::from_bits(old), Round::Near).to_bits(),
        (Op::Add, _) => old.wrapping_add(b),
        (Op::Min, _) if ty.signed() => sign(old, ty.bits()).min(sign(b, ty.bits())) as u64,
        (Op::Max, _) if ty.signed() => sign(old, ty.bits()).max(sign(b, ty.bits())) as u64,
        (Op::Min, _) => old.min(b),
        (Op::Max, _) => old.max(b),
    }
}

fn atom(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    operation(d, true)
}

fn red(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    operation(d, false)
}

fn operation(d: &mut Decoder<'_>, result: bool) -> Result<Run, Malformed> {
    let first = usize::from(result);
    let a = access(d, first)?;
    d.drop_all(&["cta", "cluster", "gpu", "sys"]);
    let noftz = d.has("noftz");
    let count = d.one_of(&[("v2", 2usize), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    let Some(op) = d.one_of(OPS) else {
        return d.refuse("the operation is missing");
    };
    let ty = d.ty()?;
    if d.has("L2::cache_hint") {
        d.source(d.count() - 1)?;
    }
    if ty.bits() > 64 || ty.bits() < 16 || ty.float() && !matches!(op, Op::Add | Op::Min | Op::Max) {
        return d.refuse("no such operation");
    }
    if noftz && !matches!(ty, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2) {
        return d.refuse("only halves have .noftz");
    }
    if matches!(ty, Ty::F32 | Ty::F64) && op != Op::Add {
        return d.refuse("floats of 32 and 64 bits have only add");
    }
    let b = d.sources(first + 1)?;
    let c = if op == Op::CompareSwap { d.source(first + 2)? } else { b[0] };
    let outs = if result { d.dests(0)? } else { vec![None; b.len()] };
    if b.len() != count || outs.len() != count {
        return d.refuse(format_args!("{} operands for {count} elements", b.len()));
    }
    if matches!(a.space, None | Some(Space::Shared)) {
        d.shared_access(ty.bytes());
    }
    let (bits, bytes) = (ty.bits(), u64::from(ty.bytes()));
    Ok(work(move |s| {
        let at = addresses(s, &a.at);
        for (i, (&b, out)) in b.iter().zip(&outs).enumerate() {
            let read =
                |source| if bits == 64 { s.warp.get_wide(source) } else { s.warp.get(source).map(u64::from) };
            let cut = if bits == 64 { !0 } else { (1 << bits) - 1 };
            let (b, c) = (read(b), read(c));
            let mut old = [0; LANES];
            for lane in lanes(s.mask) {
                let (b, c) = (b[lane] & cut, c[lane] & cut);
                old[lane] = change(s, &a, lane, at[lane] + i as u64 * bytes, bytes, |space, old| {
                    let apply = if space == Space::Global { apply_global } else { apply };
                    apply(op, ty, old, b, c) & cut
                })?;
            }
            if let Some(out) = *out {
                if bits == 64 {
                    s.warp.set_wide(out, s.mask, &old);
                } else {
                    s.warp.set(Slot(out.0), s.mask, &old.map(|x| x as u32));
                }
            }
        }
        Ok(())
    }))
}

/// Replaces `bytes` bytes in memory by what `f` makes of them and the space; gives what was there.
pub fn change(
    s: &mut Step<'_, '_>,
    a: &Access,
    lane: usize,
    at: u64,
    bytes: u64,
    f: impl Fn(Space, u64) -> u64,
) -> Outcome<u64> {
    let (space, at) = match a.space {
        Some(space) => (space, at),
        None => address::split(at),
    };
    match space {
        Space::Shared => s.change_shared(lane, at, bytes, |old| f(space, old)),
        Space::Global => {
            if at % bytes != 0 {
                let what = format!(
                    "an atomic operation on {bytes} bytes at {at:#x}, which is no multiple of {bytes}"
                );
                return trap_at(FaultKind::Misaligned, lane, what);
            }
            let a = of_lane(s.world.global.expect(at, bytes, "an atomic operation"), lane)?;
            of_lane(a.check_known(at, bytes), lane)?;
            of_lane(a.check_writable(at, bytes), lane)?;
            Ok(s.world.global.change(a, at, bytes, |old| f(space, old)))
        }
        _ => trap_at(
            FaultKind::Undefined,
            lane,
            "an atomic operation on memory that is neither global nor shared",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an H100 gives.
    #[test]
    fn sums_in_global_memory() {
        let singles = [
            (1, 1, 0, 2),
            (0x807f_ffff, 0x007f_fffe, 0, 0x8000_0001),
            (0x0080_0001, 0x8080_0000, 0, 1),
            (0x007f_ffff, 0x0080_0000, 0x0080_0000, 0x00ff_ffff),
        ];
        for (old, b, of_thread, of_bulk) in singles {
            assert_eq!(apply_global(Op::Add, Ty::F32, old, b, 0), of_thread);
            assert_eq!(apply_bulk(Op::Add, Ty::F32, old, b, 0), of_bulk);
        }
        let (one, signals) = (1.0f64.to_bits(), 0x7ff0_0000_0000_0001);
        let doubles = [
            (signals, one, signals),
            (0x7fff_ffff_ffff_ffff, 0x7ff8_0000_0000_0001, 0x7ff8_0000_0000_0001),
            (f64::INFINITY.to_bits(), f64::NEG_INFINITY.to_bits(), 0xfff8_0000_0000_0000),
        ];
        for (old, b, sum) in doubles {
            assert_eq!(apply_global(Op::Add, Ty::F64, old, b, 0), sum);
        }
        // In shared memory a NaN is made quiet.
        assert_eq!(apply(Op::Add, Ty::F64, signals, one, 0), 0x7ff8_0000_0000_0001);
    }
}
