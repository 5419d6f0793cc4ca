//! What blocks of a cluster do with each other: its barrier, addresses in other blocks, writes that an mbarrier learns of,
//! requests for more work; and fences between proxies, registers given from warp to warp, the election of a thread.

use super::atomic::Op;
use super::bulk::{BY_MBARRIER, reduction, want};
use super::exchange::pair;
use super::memory::addresses;
use super::transfer;
use super::{Rows, work};
use crate::decode::{Decoder, Next, Run, Together, Ty};
use crate::fault::{FaultKind, Outcome, trap, trap_at};
use crate::memory::address;
use crate::ptx::{Malformed, Space};
use crate::warp::{ALL, LANES, Slot, Source, Wait, lanes};
use crate::world::Step;

pub const ROWS: Rows = &[
    ("barrier.cluster.arrive", arrive),
    ("barrier.cluster.wait", wait),
    ("mapa", mapa),
    ("getctarank", rank),
    ("st.async", |d| put(d, false)),
    ("red.async", |d| put(d, true)),
    ("fence.proxy", fence_proxy),
    ("setmaxnreg.inc", |d| registers(d, true)),
    ("setmaxnreg.dec", |d| registers(d, false)),
    ("elect.sync", elect),
    ("clusterlaunchcontrol.try_cancel", try_cancel),
    ("clusterlaunchcontrol.query_cancel", query_cancel),
];

/// `barrier.cluster.arrive{.release | .relaxed}{.aligned}`.
fn arrive(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("release");
    let relaxed = d.has("relaxed");
    let aligned = d.has("aligned");
    if aligned {
        d.together = Together::Warp;
    }
    Ok(work(move |s| {
        let pending = &mut s.warp.pending;
        let twice = pending.cluster & s.mask;
        if twice != 0 {
            let what = "the thread arrives at the cluster's barrier again, and has not waited in between";
            return trap_at(FaultKind::Undefined, twice.trailing_zeros() as usize, what);
        }
        pending.cluster |= s.mask;
        let alive = s.world.blocks.iter().map(|b| b.alive).sum();
        let barrier = &mut s.world.barrier;
        pending.cluster_completed = barrier.completed;
        barrier.arrived += s.mask.count_ones();
        // A fence before a relaxed arrival orders what the fence is for.
        if !relaxed || std::mem::take(&mut pending.init_fenced) {
            s.world.clocks.release(s.warp.actor, &mut barrier.gathering);
            if aligned {
                s.world.clocks.warp_synchronised(s.warp.actor);
            }
        }
        barrier.complete(alive);
        Ok(())
    }))
}

/// `barrier.cluster.wait{.acquire}{.aligned}`.
fn wait(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("acquire");
    if d.has("aligned") {
        d.together = Together::Warp;
    }
    Ok(Box::new(|s| {
        let pending = &mut s.warp.pending;
        let missing = s.mask & !pending.cluster;
        if missing != 0 {
            let what = "the thread waits at the cluster's barrier, and has not arrived";
            return trap_at(FaultKind::Undefined, missing.trailing_zeros() as usize, what);
        }
        pending.cluster &= !s.mask;
        Ok(Next::Wait(Wait::Cluster { completed: pending.cluster_completed }))
    }))
}

/// An address of shared memory, generic or not; `None` if it is of another space.
fn shared(at: u64, generic: bool) -> Option<u64> {
    if !generic {
        return Some(at);
    }
    let (space, at) = address::split(at);
    (space == Space::Shared).then_some(at)
}

/// `mapa d, a, rank`: the address of a variable in another block.
fn mapa(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let generic = !d.has("shared::cluster");
    let ty = d.ty()?;
    let wide = ty.bits() == 64;
    let (out, a, to) = (d.typed_dest(0, ty)?, d.source(1)?, d.typed(2, Ty::U32)?);
    Ok(work(move |s| {
        let a = if wide { s.warp.get_wide(a) } else { s.warp.get(a).map(u64::from) };
        let (to, count) = (s.warp.get(to), s.world.blocks.len());
        let mut found = [0; LANES];
        for lane in lanes(s.mask) {
            let rank = to[lane] as usize;
            let Some(at) = shared(a[lane], generic).filter(|_| rank < count) else {
                let what = format!("address {:#x} in block {rank} of a cluster of {count}", a[lane]);
                return trap_at(FaultKind::Undefined, lane, what);
            };
            let at = address::of_rank(rank, address::shared(at).1);
            found[lane] = if generic { address::generic(Space::Shared, at) } else { at };
        }
        if wide {
            s.warp.set_wide(out, s.mask, &found);
        } else {
            s.warp.set(out, s.mask, &found.map(|x| x as u32));
        }
        Ok(())
    }))
}

/// `getctarank d, a`: the block that an address is of.
fn rank(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let generic = !d.has("shared::cluster");
    let wide = d.ty()?.bits() == 64;
    let (out, a) = (d.typed_dest(0, Ty::U32)?, d.source(1)?);
    Ok(work(move |s| {
        let a = if wide { s.warp.get_wide(a) } else { s.warp.get(a).map(u64::from) };
        let mut found = [0; LANES];
        for lane in lanes(s.mask) {
            let Some(at) = shared(a[lane], generic) else {
                let what = format!("{:#x} is no address of shared memory", a[lane]);
                return trap_at(FaultKind::Undefined, lane, what);
            };
            found[lane] = s.shared_of(at, lane)?.0 as u32;
        }
        s.warp.set(out, s.mask, &found);
        Ok(())
    }))
}

/// `st.async{.weak}{.shared::cluster}.mbarrier::complete_tx::bytes{.v2}.b32 [a], value, [mbarrier]`, and
/// `red.async.relaxed.cluster` with an operation.
fn put(d: &mut Decoder<'_>, reduces: bool) -> Result<Run, Malformed> {
    d.drop_all(&["weak", "relaxed", "cluster", "shared::cluster"]);
    want(d, BY_MBARRIER)?;
    let count = d.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    let (reduce, ty) = if reduces {
        let (op, ty) = reduction(d)?;
        if ty.float() || matches!(ty, Ty::S64) || (ty == Ty::U64 && op != Op::Add) {
            return d.refuse("there is no such reduction");
        }
        (Some((op, ty)), ty)
    } else {
        (None, d.ty()?)
    };
    if !matches!(ty.bits(), 32 | 64) {
        return d.refuse("elements have 32 or 64 bits");
    }
    let ((to, _), from, (mbarrier, _)) = (d.address(0)?, d.sources(1)?, d.address(2)?);
    if from.len() != count || reduces && count != 1 {
        return d.refuse(format_args!("{} values; {count} are wanted", from.len()));
    }
    d.shared_access(ty.bytes() * count as u32);
    Ok(work(move |s| {
        let (to, mbarrier) = (addresses(s, &to), addresses(s, &mbarrier));
        let wide = ty.bits() == 64;
        let value = |f| if wide { s.warp.get_wide(f) } else { s.warp.get(f).map(u64::from) };
        let values: Vec<_> = from.iter().map(|f| value(*f)).collect();
        for lane in lanes(s.mask) {
            let size = ty.bytes() as usize;
            let bytes = values.iter().flat_map(|v| v[lane].to_le_bytes().into_iter().take(size)).collect();
            transfer::put(s, lane, to[lane], mbarrier[lane], bytes, false, reduce)?;
        }
        Ok(())
    }))
}

/// `fence.proxy.async` lets the asynchronous proxy see what the warp has done to shared memory. Of the other proxies, and
/// of global memory, the emulator has one view, so that their fences have nothing to do.
fn fence_proxy(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let kinds = [("async", true), ("async::generic", true), ("alias", false), ("tensormap::generic", false)];
    let Some(asynchronous) = d.one_of(&kinds) else {
        return d.refuse("between which proxies is missing");
    };
    let global = d.has("global");
    d.drop_all(&["shared::cta", "shared::cluster", "acquire", "release", "cta", "cluster", "gpu", "sys"]);
    d.drop_all(&["sync_restrict::shared::cta", "sync_restrict::shared::cluster"]);
    if d.count() > 0 {
        d.address(0)?;
        d.constant(1)?;
    }
    Ok(work(move |s| {
        if asynchronous && !global {
            s.world.clocks.fence_proxy(s.warp.actor);
        }
        Ok(())
    }))
}

/// `setmaxnreg.inc` and `.dec`: registers that one warp gives up, others of the block may take.
fn registers(d: &mut Decoder<'_>, more: bool) -> Result<Run, Malformed> {
    if d.chip.sm < 90 || !d.chip.special || !d.has("sync") || !d.has("aligned") || !d.has("u32") {
        return d.refuse("setmaxnreg.sync.aligned.u32 of sm_90a and later is meant");
    }
    d.together = Together::Warp;
    let wanted = d.constant(0)?;
    if !(24..=256).contains(&wanted) || wanted % 8 != 0 {
        return d.refuse(format_args!("{wanted} registers; it takes 24 to 256, multiples of 8"));
    }
    let wanted = wanted as u32;
    Ok(Box::new(move |s| {
        let has = s.warp.registers;
        if more && wanted < has || !more && wanted > has {
            let (word, way) = if more { ("inc", "fewer") } else { ("dec", "more") };
            let what =
                format!("setmaxnreg.{word} to {wanted} registers, {way} than the {has} that the warp has");
            return trap(FaultKind::Budget, what);
        }
        let pool = &mut s.world.blocks[s.warp.block].free_registers;
        let change = wanted.abs_diff(has) * LANES as u32;
        if more && change > *pool {
            return Ok(Next::Retry(s.mask, Wait::Registers { wanted: change }));
        }
        *pool = if more { *pool - change } else { *pool + change };
        s.warp.registers = wanted;
        Ok(Next::On)
    }))
}

/// `elect.sync d|p, mask`: the first thread of those that are meant.
fn elect(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let (leader, chosen) = pair(d, 0)?;
    let mask = d.typed(1, Ty::B32)?;
    d.together = Together::Mask(mask);
    Ok(work(move |s| {
        let first = s.mask.trailing_zeros();
        if let Some(leader) = leader {
            s.warp.set(leader, s.mask, &[first; LANES]);
        }
        if let Some(chosen) = chosen {
            s.warp.set_pred(chosen, s.mask, 1 << first);
        }
        Ok(())
    }))
}

/// Bytes of an answer.
const ANSWER: usize = 16;

/// `clusterlaunchcontrol.try_cancel.async.mbarrier::complete_tx::bytes.b128 [answer], [mbarrier]`: asks for another
/// cluster's work. Clusters are started by the host here, and none is left to take: the answer is 0, "not cancelled".
fn try_cancel(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    blackwell(d)?;
    want(d, "async")?;
    want(d, BY_MBARRIER)?;
    let all = d.has("multicast::cluster::all");
    d.drop_all(&["shared::cta", "b128"]);
    let ((to, _), (mbarrier, _)) = (d.address(0)?, d.address(1)?);
    Ok(work(move |s| {
        let (to, mbarrier) = (addresses(s, &to), addresses(s, &mbarrier));
        for lane in lanes(s.mask) {
            let ((own, to), (_, at)) = (s.shared_of(to[lane], lane)?, s.shared_of(mbarrier[lane], lane)?);
            let targets = if all { 0..s.world.blocks.len() } else { own..own + 1 };
            for block in targets {
                let (to, at) = (address::of_rank(block, to), address::of_rank(block, at));
                transfer::put(s, lane, to, at, vec![0; ANSWER], true, None)?;
            }
        }
        Ok(())
    }))
}

fn blackwell(d: &Decoder<'_>) -> Result<(), Malformed> {
    if d.chip.sm < 100 {
        return d.refuse("it is of sm_100 and later");
    }
    Ok(())
}

/// The answer in a register of 128 bits: never a cluster that was cancelled.
fn refused(s: &Step<'_, '_>, answer: Source) -> Outcome<()> {
    let Source::Slot(Slot(slot)) = answer else {
        return Ok(());
    };
    for lane in lanes(s.mask) {
        if (slot..slot + 4).any(|row| s.warp.rows[row as usize][lane] != 0) {
            let what = "what is asked is no answer of clusterlaunchcontrol.try_cancel";
            return trap_at(FaultKind::Undefined, lane, what);
        }
    }
    Ok(())
}

/// `query_cancel.is_canceled p, answer` and `.get_first_ctaid`, whose result is undefined for this answer: all ones.
fn query_cancel(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    blackwell(d)?;
    let asks = d.has("is_canceled");
    let firsts = ["get_first_ctaid", "get_first_ctaid::x", "get_first_ctaid::y", "get_first_ctaid::z"];
    let first = firsts.iter().filter(|w| d.has(w)).count() > 0;
    if asks == first {
        return d.refuse("a question is missing");
    }
    d.drop_all(&["pred", "b32", "b128", "v4"]);
    if asks {
        let (out, answer) = (d.typed_dest(0, Ty::Pred)?, d.typed(1, Ty::B128)?);
        return Ok(work(move |s| {
            refused(s, answer)?;
            s.warp.set_pred(out, s.mask, 0);
            Ok(())
        }));
    }
    let (outs, answer) = (d.dests(0)?, d.typed(1, Ty::B128)?);
    Ok(work(move |s| {
        refused(s, answer)?;
        for out in outs.iter().flatten() {
            s.warp.set(*out, s.mask, &[ALL; LANES]);
        }
        Ok(())
    }))
}
