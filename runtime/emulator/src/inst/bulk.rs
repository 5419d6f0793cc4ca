//! `cp.async.bulk` and `cp.reduce.async.bulk`: runs of bytes between global and shared memory, and between blocks.

use super::atomic::{OPS, Op};
use super::memory::addresses;
use super::transfer::{self, Piece, Side, Target, Transfer, UNIT};
use super::{Rows, work};
use crate::decode::{Address, Decoder, Run, Ty};
use crate::fault::{FaultKind, Outcome, trap_at};
use crate::layout::tensor_map::OobFill;
use crate::ptx::Malformed;
use crate::warp::{Source, lanes};
use crate::world::Step;

pub const ROWS: Rows = &[
    ("cp.async.bulk.shared::cluster.global", load),
    ("cp.async.bulk.shared::cta.global", load),
    ("cp.async.bulk.shared::cluster.shared::cta", |d| between(d, false)),
    ("cp.async.bulk.global.shared::cta", |d| store(d, false)),
    ("cp.reduce.async.bulk.shared::cluster.shared::cta", |d| between(d, true)),
    ("cp.reduce.async.bulk.global.shared::cta", |d| store(d, true)),
    ("cp.async.bulk.prefetch.L2.global", prefetch),
    ("cp.async.bulk.commit_group", commit),
    ("cp.async.bulk.wait_group", wait),
];

/// The word of copies that complete on an mbarrier.
pub const BY_MBARRIER: &str = "mbarrier::complete_tx::bytes";
/// The word of those that complete by groups.
pub const BY_GROUP: &str = "bulk_group";

/// Takes a word that must be there.
pub fn want(d: &mut Decoder<'_>, word: &str) -> Result<(), Malformed> {
    if d.has(word) { Ok(()) } else { d.refuse(format_args!(".{word} is missing")) }
}

/// Takes the operands that follow operand `i`: the mask of `.multicast::cluster`, and the policy of a cache hint.
pub fn tail(d: &mut Decoder<'_>, mut i: usize) -> Result<Option<Source>, Malformed> {
    let mask = if d.has("multicast::cluster") {
        i += 1;
        Some(d.typed(i, Ty::U16)?)
    } else {
        None
    };
    if d.has("L2::cache_hint") {
        i += 1;
        d.typed(i, Ty::U64)?;
    }
    if d.count() != i + 1 {
        return d.refuse(format_args!("{} operands where {} are wanted", d.count(), i + 1));
    }
    Ok(mask)
}

/// The operation and type of a reduction.
pub fn reduction(d: &mut Decoder<'_>) -> Result<(Op, Ty), Malformed> {
    let Some(op) = d.one_of(OPS) else {
        return d.refuse("the operation is missing");
    };
    d.has("noftz");
    let ty = d.ty()?;
    let half = matches!(ty, Ty::F16 | Ty::Bf16);
    let ok = match op {
        Op::Add => half || matches!(ty, Ty::F32 | Ty::F64 | Ty::U32 | Ty::S32 | Ty::U64),
        Op::Min | Op::Max => half || matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
        Op::And | Op::Or | Op::Xor => matches!(ty, Ty::B32 | Ty::B64),
        Op::Increment | Op::Decrement => ty == Ty::U32,
        Op::Exchange | Op::CompareSwap => false,
    };
    if ok { Ok((op, ty)) } else { d.refuse("there is no such reduction") }
}

fn misaligned<T>(lane: usize, what: &str, found: u64) -> Outcome<T> {
    let what = format!("{what} of a bulk copy is {found:#x}, which is no multiple of {UNIT}");
    trap_at(FaultKind::Misaligned, lane, what)
}

/// A copy of one run of bytes; shared memory's side is in `block`.
fn run(
    s: &Step<'_, '_>,
    lane: usize,
    block: usize,
    shared: u64,
    global: u64,
    bytes: u32,
) -> Outcome<Transfer> {
    if !u64::from(bytes).is_multiple_of(UNIT) {
        return misaligned(lane, "the size", bytes.into());
    }
    if !global.is_multiple_of(UNIT) {
        return misaligned(lane, "the global address", global);
    }
    let index = s.world.blocks[block].shared.place(shared, bytes.into(), UNIT, lane, "a bulk copy")?;
    Ok(Transfer {
        address: shared,
        span: bytes as usize,
        counted: bytes,
        pieces: vec![Piece { index, bytes: bytes as usize, side: Side::Global(global) }],
        rounded: None,
        fill: OobFill::Zero,
    })
}

/// The blocks that a load writes to, and the mbarrier's address in each; `pair` of `.cta_group::2`, where the mbarrier
/// may be of the other block of a pair.
pub fn targets(
    s: &Step<'_, '_>,
    lane: usize,
    to: u64,
    mbarrier: u64,
    mask: Option<u32>,
    pair: bool,
) -> Outcome<(Vec<Target>, u64, u64)> {
    let ((block, at), (of, mbarrier)) = (s.shared_of(to, lane)?, s.shared_of(mbarrier, lane)?);
    let signalled = |b: usize| if pair { b & !1 | of & 1 } else { b };
    let blocks = match mask {
        Some(mask) => transfer::named(s, mask, lane)?,
        None if block == of || pair && block / 2 == of / 2 => vec![block],
        None => {
            let what = format!("a copy to block {block} of the cluster with an mbarrier of block {of}");
            return trap_at(FaultKind::Mbarrier, lane, what);
        }
    };
    Ok((blocks.into_iter().map(|b| (b, signalled(b))).collect(), at, mbarrier))
}

/// `cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [to], [from], size, [mbarrier] {, mask} {, policy}`.
fn load(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    want(d, BY_MBARRIER)?;
    let ((to, _), (from, _), size, (mbarrier, _)) =
        (d.address(0)?, d.address(1)?, d.typed(2, Ty::U32)?, d.address(3)?);
    let mask = tail(d, 3)?;
    Ok(work(move |s| {
        let (to, from, mbarrier) = (addresses(s, &to), addresses(s, &from), addresses(s, &mbarrier));
        let (size, mask) = (s.warp.get(size), mask.map(|m| s.warp.get(m)));
        for lane in lanes(s.mask) {
            let mask = mask.map(|m| m[lane] & 0xffff);
            let (blocks, at, mbarrier) = targets(s, lane, to[lane], mbarrier[lane], mask, false)?;
            let t = run(s, lane, blocks[0].0, at, from[lane], size[lane])?;
            transfer::load(s, lane, &blocks, mbarrier, (t, false))?;
        }
        Ok(())
    }))
}

/// `cp{.reduce}.async.bulk.global.shared::cta.bulk_group{.op.type} [to], [from], size {, policy}`.
fn store(d: &mut Decoder<'_>, reduces: bool) -> Result<Run, Malformed> {
    want(d, BY_GROUP)?;
    let reduce = if reduces { Some(reduction(d)?) } else { None };
    let ((to, _), (from, _), size) = (d.address(0)?, d.address(1)?, d.typed(2, Ty::U32)?);
    tail(d, 2)?;
    Ok(work(move |s| {
        let (to, from, size) = (addresses(s, &to), addresses(s, &from), s.warp.get(size));
        for lane in lanes(s.mask) {
            let from = own(s, from[lane], lane)?;
            let t = run(s, lane, s.warp.block, from, to[lane], size[lane])?;
            transfer::store(s, lane, t, reduce)?;
        }
        Ok(())
    }))
}

/// An address of the block's own shared memory.
pub fn own(s: &Step<'_, '_>, address: u64, lane: usize) -> Outcome<u64> {
    let (block, at) = s.shared_of(address, lane)?;
    if block == s.warp.block {
        return Ok(at);
    }
    let what = format!("{address:#x} is in block {block} of the cluster; shared::cta wants the thread's own");
    trap_at(FaultKind::OutOfBounds, lane, what)
}

/// `cp{.reduce}.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes{.op.type} [to], [from], size,
/// [mbarrier]`.
fn between(d: &mut Decoder<'_>, reduces: bool) -> Result<Run, Malformed> {
    want(d, BY_MBARRIER)?;
    let reduce = if reduces { Some(reduction(d)?) } else { None };
    if reduce.is_some_and(|(_, ty)| ty.float()) {
        return d.refuse("floats are not reduced in shared memory");
    }
    let ((to, _), (from, _), size, (mbarrier, _)) =
        (d.address(0)?, d.address(1)?, d.typed(2, Ty::U32)?, d.address(3)?);
    tail(d, 3)?;
    Ok(work(move |s| {
        let (to, from, mbarrier) = (addresses(s, &to), addresses(s, &from), addresses(s, &mbarrier));
        let size = s.warp.get(size);
        for lane in lanes(s.mask) {
            if !u64::from(size[lane]).is_multiple_of(UNIT) {
                return misaligned(lane, "the size", size[lane].into());
            }
            let from = own(s, from[lane], lane)?;
            let (target, (of, _)) = (s.shared_of(to[lane], lane)?, s.shared_of(mbarrier[lane], lane)?);
            if target.0 != of {
                let what =
                    format!("a copy to block {} of the cluster with an mbarrier of block {of}", target.0);
                return trap_at(FaultKind::Mbarrier, lane, what);
            }
            transfer::between(s, lane, from, target, mbarrier[lane], size[lane] as usize, reduce)?;
        }
        Ok(())
    }))
}

/// `cp.async.bulk.prefetch.L2.global [from], size {, policy}`: a hint, whose operands still have rules.
fn prefetch(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let ((from, _), size): ((Address, _), _) = (d.address(0)?, d.typed(1, Ty::U32)?);
    tail(d, 1)?;
    Ok(work(move |s| {
        let (from, size) = (addresses(s, &from), s.warp.get(size));
        for lane in lanes(s.mask) {
            if !from[lane].is_multiple_of(UNIT) {
                return misaligned(lane, "the global address", from[lane]);
            }
            if !u64::from(size[lane]).is_multiple_of(UNIT) {
                return misaligned(lane, "the size", size[lane].into());
            }
        }
        Ok(())
    }))
}

fn commit(_: &mut Decoder<'_>) -> Result<Run, Malformed> {
    Ok(work(|s| {
        for lane in lanes(s.mask) {
            s.warp.pending.bulk.committed[lane] += 1;
        }
        Ok(())
    }))
}

/// `cp.async.bulk.wait_group{.read} n`: with `.read` only the sources are done, which is not told apart here.
fn wait(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("read");
    let Ok(left) = u32::try_from(d.constant(0)?) else {
        return d.refuse("a number of groups is wanted");
    };
    Ok(work(move |s| transfer::wait(s, left)))
}
