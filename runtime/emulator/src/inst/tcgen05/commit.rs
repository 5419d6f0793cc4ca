//! `tcgen05.commit`, by which an mbarrier learns that operations are complete, and the fences.

use super::super::mbarrier::{self, Site};
use super::super::work;
use super::{chip, group};
use crate::async_copy::{Issued, Place};
use crate::decode::{Decoder, Run, Ty};
use crate::fault::{FaultKind, Outcome, trap, trap_at};
use crate::memory::address;
use crate::memory::clocks::Stamp;
use crate::ptx::Malformed;
use crate::warp::lanes;
use crate::world::Step;

/// `tcgen05.commit.cta_group.mbarrier::arrive::one{.shared::cluster}{.multicast::cluster}.b64 [mbarrier] {, blocks}`: an
/// arrival when all that the thread has issued before is complete.
pub fn commit(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    group(d)?;
    if !d.has("mbarrier::arrive::one") {
        return d.refuse(".mbarrier::arrive::one is missing");
    }
    let multicast = d.has("multicast::cluster");
    d.has("b64");
    let site = Site::of(d, 0)?;
    let blocks = if multicast { Some(d.typed(1, Ty::U16)?) } else { None };
    if d.count() != 1 + usize::from(multicast) {
        return d.refuse("a mask of blocks goes with .multicast::cluster");
    }
    Ok(work(move |s| {
        let at = site.addresses(s)?;
        let blocks = blocks.map(|b| s.warp.get(b));
        for lane in lanes(s.mask) {
            let Some(blocks) = blocks else {
                arrive(s, at[lane], lane)?;
                continue;
            };
            let (mask, count) = (blocks[lane] & 0xffff, s.world.blocks.len());
            if u64::from(mask) >> count != 0 {
                let what = format!("a commit to the blocks {mask:#x} of a cluster of {count}");
                return trap_at(FaultKind::Undefined, lane, what);
            }
            let (_, offset) = address::shared(at[lane]);
            for rank in (0..count).filter(|r| mask >> r & 1 == 1) {
                arrive(s, address::of_rank(rank, offset), lane)?;
            }
        }
        Ok(())
    }))
}

/// An arrival at an mbarrier of all that the thread has issued.
fn arrive(s: &mut Step<'_, '_>, mbarrier: u64, lane: usize) -> Outcome<()> {
    let (_, block, at) = mbarrier::agent(s, mbarrier, lane)?;
    let stamp = s.warp.pending.tensor.last_of(lane);
    let work = Box::new(move |p: &mut Place<'_>| complete(p, block, at, stamp));
    s.world.queue.push(Issued { by: (s.warp.actor, lane), group: None, line: s.line, work });
    Ok(())
}

fn complete(p: &mut Place<'_>, block: usize, at: u64, stamp: Option<Stamp>) -> Outcome<()> {
    let Some(m) = p.blocks[block].mbarriers.get_mut(&at) else {
        let what = format!("tcgen05.commit arrives at an mbarrier at {at:#x} that is there no longer");
        return trap(FaultKind::Mbarrier, what);
    };
    if let Some(stamp) = stamp {
        p.clocks.completed(&mut m.gathering, stamp);
    }
    m.arrive(1, false, true)
}

/// `tcgen05.fence::before_thread_sync` and `after_thread_sync`.
pub fn fence(d: &mut Decoder<'_>, after: bool) -> Result<Run, Malformed> {
    chip(d)?;
    Ok(work(move |s| {
        let (issuer, warp) = (&mut s.warp.pending.tensor, s.warp.actor);
        if after {
            issuer.after_sync(s.world.clocks, warp);
        } else {
            issuer.before_sync(s.world.clocks, warp);
        }
        Ok(())
    }))
}
