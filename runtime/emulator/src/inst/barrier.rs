//! Barriers of a block (`bar`, `barrier`) and of a warp.

use super::{Rows, work};
use crate::decode::{Decoder, Next, Run, Together};
use crate::fault::{FaultKind, trap};
use crate::ptx::Malformed;
use crate::warp::{LANES, Wait};

pub const ROWS: Rows = &[
    ("bar.sync", |d| block(d, true, true)),
    ("bar.arrive", |d| block(d, false, true)),
    ("bar.cta.sync", |d| block(d, true, true)),
    ("bar.cta.arrive", |d| block(d, false, true)),
    ("barrier.sync", |d| block(d, true, false)),
    ("barrier.arrive", |d| block(d, false, false)),
    ("barrier.cta.sync", |d| block(d, true, false)),
    ("barrier.cta.arrive", |d| block(d, false, false)),
    ("bar.warp.sync", warp),
];

/// Barriers of a block.
const BARRIERS: usize = 16;

/// `bar.sync id {, threads}` and `bar.arrive id, threads`. `bar` is `barrier.aligned`.
fn block(d: &mut Decoder<'_>, waits: bool, aligned: bool) -> Result<Run, Malformed> {
    let aligned = d.has("aligned") || aligned;
    if aligned {
        d.together = Together::Warp;
    }
    let id = d.source(0)?;
    let of = if d.count() > 1 { Some(d.source(1)?) } else { None };
    if !waits && of.is_none() {
        return d.refuse("the number of threads is missing");
    }
    Ok(Box::new(move |s| {
        let first = s.mask.trailing_zeros() as usize;
        let id = s.warp.get(id)[first] as usize;
        if id >= BARRIERS {
            return trap(FaultKind::Undefined, format!("barrier {id}; there are {BARRIERS}"));
        }
        let of = of.map(|of| s.warp.get(of)[first]);
        if of.is_some_and(|n| n == 0 || n % LANES as u32 != 0) {
            return trap(
                FaultKind::Undefined,
                format!("a barrier of {of:?} threads: not a multiple of {LANES}"),
            );
        }
        // Where a number is given, a warp counts as a whole.
        let come = if of.is_some() && aligned { LANES as u32 } else { s.mask.count_ones() };
        let (actor, rank) = (s.warp.actor, s.warp.block);
        let block = &mut s.world.blocks[rank];
        let alive = block.alive;
        let barrier = &mut block.barriers[id];
        if barrier.arrived > 0 && barrier.expected != of {
            let what =
                format!("barrier {id} waits for {:?} threads, and this warp says {of:?}", barrier.expected);
            return trap(FaultKind::Undefined, what);
        }
        let completed = barrier.completed;
        barrier.expected = of;
        barrier.arrived += come;
        if barrier.arrived > of.unwrap_or(alive) {
            let what = format!(
                "{} threads come to barrier {id}, which waits for {}",
                barrier.arrived,
                of.unwrap_or(alive)
            );
            return trap(FaultKind::Undefined, what);
        }
        s.world.clocks.release(actor, &mut barrier.gathering);
        s.world.clocks.warp_synchronised(actor);
        barrier.complete(alive);
        Ok(if waits { Next::Wait(Wait::Barrier { id, completed }) } else { Next::On })
    }))
}

/// `bar.warp.sync mask`.
fn warp(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let mask = d.source(0)?;
    d.together = Together::Mask(mask);
    Ok(work(|s| {
        s.world.clocks.warp_synchronised(s.warp.actor);
        Ok(())
    }))
}
