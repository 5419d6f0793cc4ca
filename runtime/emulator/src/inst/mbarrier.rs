//! `mbarrier`: barriers in shared memory that threads and copies arrive at.
//!
//! The state is beside the memory, not in it (`crate::mbarrier`): an ordinary access to an mbarrier in use is a fault.

use super::cp_async;
use super::memory::addresses;
use super::{Rows, work};
use crate::decode::{Address, Decoder, Next, Run, Ty};
use crate::fault::{FaultKind, Outcome, of_lane, trap_at};
use crate::mbarrier::{Mbarrier, read_state};
use crate::memory::Clocks;
use crate::memory::address;
use crate::ptx::{Malformed, Operand, Space};
use crate::warp::{LANES, Wait, lanes};
use crate::world::{Step, World};

pub const ROWS: Rows = &[
    ("mbarrier.init", init),
    ("mbarrier.inval", inval),
    ("mbarrier.arrive", |d| arrive(d, false)),
    ("mbarrier.arrive_drop", |d| arrive(d, true)),
    ("mbarrier.expect_tx", |d| bytes(d, true)),
    ("mbarrier.complete_tx", |d| bytes(d, false)),
    ("mbarrier.test_wait", |d| wait(d, false)),
    ("mbarrier.try_wait", |d| wait(d, true)),
    ("mbarrier.pending_count", pending_count),
    ("fence.mbarrier_init", fence_init),
    ("cp.async.mbarrier.arrive", copies_arrive),
];

/// Bytes of an mbarrier.
const BYTES: u64 = 8;

/// Where an operand says an mbarrier is.
pub struct Site {
    at: Address,
    /// True of a generic address.
    generic: bool,
    /// True if it may be in another block.
    cluster: bool,
}

impl Site {
    /// Takes the space of an opcode, and the address at operand `i`.
    pub fn of(d: &mut Decoder<'_>, i: usize) -> Result<Site, Malformed> {
        let space = d.one_of(&[("shared", false), ("shared::cta", false), ("shared::cluster", true)]);
        let (at, _) = d.address(i)?;
        Ok(Site { generic: space.is_none() && at.space.is_none(), cluster: space == Some(true), at })
    }

    /// Addresses in shared memory.
    pub fn addresses(&self, s: &Step<'_, '_>) -> Outcome<[u64; LANES]> {
        let all = addresses(s, &self.at);
        if !self.generic {
            return Ok(all);
        }
        let mut out = [0; LANES];
        for lane in lanes(s.mask) {
            match address::split(all[lane]) {
                (Space::Shared, at) => out[lane] = at,
                (space, at) => {
                    let what = format!("an mbarrier at {at:#x} of {space:?} memory: it must be shared");
                    return trap_at(FaultKind::Mbarrier, lane, what);
                }
            }
        }
        Ok(out)
    }
}

/// The block and the address there of an mbarrier; its block is alive.
fn place(s: &Step<'_, '_>, address: u64, lane: usize) -> Outcome<(usize, u64)> {
    let (block, at) = s.shared_of(address, lane)?;
    let owner = &s.world.blocks[block];
    owner.shared.place(at, BYTES, BYTES, lane, "an mbarrier")?;
    if owner.alive == 0 {
        let what = format!("the mbarrier at {at:#x} is in block {block} of the cluster, which has ended");
        return trap_at(FaultKind::Mbarrier, lane, what);
    }
    Ok((block, at))
}

/// An mbarrier that is initialised, for a thread; and the clocks.
fn known<'a>(
    world: &'a mut World<'_>,
    warp: usize,
    lane: usize,
    (block, at): (usize, u64),
) -> Outcome<(&'a mut Mbarrier, &'a mut Clocks)> {
    let Some(m) = world.blocks[block].mbarriers.get_mut(&at) else {
        let what =
            format!("there is no mbarrier at {at:#x} of block {block} of the cluster: it is not initialised");
        return trap_at(FaultKind::Mbarrier, lane, what);
    };
    if !world.clocks.ordered(warp, lane, m.born) {
        let what = format!(
            "the mbarrier at {at:#x} is used, and no barrier is between that and its initialisation by another thread"
        );
        return trap_at(FaultKind::Race, lane, what);
    }
    Ok((m, world.clocks))
}

/// The agent of the mbarrier at an address that a thread names, and where it is.
pub fn agent(s: &mut Step<'_, '_>, address: u64, lane: usize) -> Outcome<(u16, usize, u64)> {
    let (block, at) = place(s, address, lane)?;
    let (m, _) = known(s.world, s.warp.actor, lane, (block, at))?;
    Ok((m.agent, block, at))
}

/// Notes a write of an mbarrier's own bytes. Where cells are wider than an mbarrier they are not its own.
fn note(s: &mut Step<'_, '_>, block: usize, at: u64, lane: usize) -> Outcome<()> {
    let who = s.who(lane);
    let shared = &mut s.world.blocks[block].shared;
    let index = shared.place(at, BYTES, BYTES, lane, "an mbarrier")?;
    if shared.cell_bytes() <= BYTES {
        shared.note_write(s.world.clocks, index, BYTES as usize, who)?;
    }
    Ok(())
}

fn own_block(s: &Step<'_, '_>, block: usize, lane: usize) -> Outcome<()> {
    if block == s.warp.block {
        return Ok(());
    }
    trap_at(
        FaultKind::Mbarrier,
        lane,
        format!("the mbarrier is of block {block} of the cluster, not of this one"),
    )
}

/// `mbarrier.init [a], count`.
fn init(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("b64");
    let (site, count) = (Site::of(d, 0)?, d.typed(1, Ty::U32)?);
    Ok(work(move |s| {
        let (at, count) = (site.addresses(s)?, s.warp.get(count));
        for lane in lanes(s.mask) {
            let (block, at) = place(s, at[lane], lane)?;
            own_block(s, block, lane)?;
            s.world.blocks[block].no_mbarrier(
                at,
                BYTES,
                lane,
                "mbarrier.init (without mbarrier.inval before it)",
            )?;
            note(s, block, at, lane)?;
            let (agent, born) = (s.world.clocks.object(), s.who(lane).stamp);
            let new = of_lane(Mbarrier::new(count[lane], agent, born), lane)?;
            s.world.blocks[block].mbarriers.insert(at, new);
        }
        Ok(())
    }))
}

/// `mbarrier.inval [a]`.
fn inval(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("b64");
    let site = Site::of(d, 0)?;
    Ok(work(move |s| {
        let at = site.addresses(s)?;
        for lane in lanes(s.mask) {
            let (_, block, at) = agent(s, at[lane], lane)?;
            own_block(s, block, lane)?;
            s.world.blocks[block].mbarriers.remove(&at);
            note(s, block, at, lane)?;
        }
        Ok(())
    }))
}

/// Takes order and scope; true if the instruction orders what is before (or after) it.
fn orders(d: &mut Decoder<'_>, word: &str) -> bool {
    let ordered = d.has(word);
    let relaxed = d.has("relaxed");
    d.drop_all(&["cta", "cluster"]);
    ordered || !relaxed
}

/// `mbarrier.arrive{.expect_tx}{.noComplete} {state,} [a] {, count}`, and `arrive_drop`.
fn arrive(d: &mut Decoder<'_>, drop: bool) -> Result<Run, Malformed> {
    let releases = orders(d, "release");
    let (partial, expects) = (d.has("noComplete"), d.has("expect_tx"));
    d.has("b64");
    let first = d.operand(0)?;
    let has_state = !matches!(first, Operand::Address { .. });
    let state = if has_state { d.dest_of(first)? } else { None };
    let i = usize::from(has_state);
    let site = Site::of(d, i)?;
    if site.cluster && state.is_some() {
        return d.refuse("an arrival at shared::cluster has no state: _ is wanted");
    }
    let number = if d.count() > i + 1 { Some(d.typed(i + 1, Ty::U32)?) } else { None };
    if number.is_none() && (expects || partial) {
        return d.refuse("a number is missing");
    }
    Ok(work(move |s| {
        let at = site.addresses(s)?;
        let number = number.map(|n| s.warp.get(n));
        let mut states = [0; LANES];
        // One release for all threads that arrive at the same phase.
        let mut released = None;
        for lane in lanes(s.mask) {
            let key = place(s, at[lane], lane)?;
            let actor = s.warp.actor;
            let (m, clocks) = known(s.world, actor, lane, key)?;
            states[lane] = m.state();
            let given = number.map(|n| n[lane]);
            if expects {
                of_lane(m.expect(given.unwrap_or(0)), lane)?;
            }
            if releases && released != Some((key, m.phase)) {
                clocks.release(actor, &mut m.gathering);
                released = Some((key, m.phase));
            }
            let count = if expects { 1 } else { given.unwrap_or(1) };
            of_lane(m.arrive(count, drop, !partial), lane)?;
        }
        if let Some(state) = state {
            s.warp.set_wide(state, s.mask, &states);
        }
        Ok(())
    }))
}

/// `mbarrier.expect_tx [a], bytes` and `mbarrier.complete_tx`.
fn bytes(d: &mut Decoder<'_>, expects: bool) -> Result<Run, Malformed> {
    orders(d, "relaxed");
    d.has("b64");
    let (site, count) = (Site::of(d, 0)?, d.typed(1, Ty::U32)?);
    Ok(work(move |s| {
        let (at, count) = (site.addresses(s)?, s.warp.get(count));
        for lane in lanes(s.mask) {
            let key = place(s, at[lane], lane)?;
            let (m, _) = known(s.world, s.warp.actor, lane, key)?;
            let n = count[lane];
            of_lane(if expects { m.expect(n) } else { m.complete(n) }, lane)?;
        }
        Ok(())
    }))
}

/// `mbarrier.test_wait p, [a], state` and `.parity p, [a], parity`; `try_wait` blocks until the phase is complete.
///
/// The time that `try_wait` may take is a hint: who waits for ever is found by the scheduler.
fn wait(d: &mut Decoder<'_>, blocks: bool) -> Result<Run, Malformed> {
    let acquires = orders(d, "acquire");
    let by_parity = d.has("parity");
    d.has("b64");
    let out = d.typed_dest(0, Ty::Pred)?;
    let site = Site::of(d, 1)?;
    let of = d.typed(2, if by_parity { Ty::U32 } else { Ty::U64 })?;
    if d.count() > 3 {
        d.typed(3, Ty::U32)?;
    }
    Ok(Box::new(move |s| {
        let at = site.addresses(s)?;
        let of = if by_parity { s.warp.get(of).map(u64::from) } else { s.warp.get_wide(of) };
        let actor = s.warp.actor;
        let (mut over, mut left) = (0u32, 0u32);
        let (mut acquired, mut waits) = (None, None);
        for lane in lanes(s.mask) {
            let key = place(s, at[lane], lane)?;
            let (m, clocks) = known(s.world, actor, lane, key)?;
            let parity =
                if by_parity { parity_of(of[lane], lane)? } else { phase_of(m, of[lane], lane)? & 1 == 1 };
            let done = if by_parity { m.parity() != parity } else { phase_of(m, of[lane], lane)? < m.phase };
            if done {
                over |= 1 << lane;
                if acquires && acquired != Some(key) {
                    clocks.acquire(actor, &m.given);
                    acquired = Some(key);
                }
                continue;
            }
            left |= 1 << lane;
            let wait = Wait::Phase { block: key.0, address: key.1, parity };
            waits = match waits {
                None => Some(wait),
                Some(other) if other == wait => Some(wait),
                // Threads that wait for different phases look again after each other's.
                Some(_) => Some(Wait::Progress),
            };
        }
        match waits {
            Some(wait) if blocks => {
                s.warp.set_pred(out, over, over);
                Ok(Next::Retry(left, wait))
            }
            _ => {
                s.warp.set_pred(out, s.mask, over);
                Ok(Next::On)
            }
        }
    }))
}

fn parity_of(word: u64, lane: usize) -> Outcome<bool> {
    match word {
        0 | 1 => Ok(word == 1),
        _ => trap_at(FaultKind::Mbarrier, lane, format!("parity {word}; it is 0 or 1")),
    }
}

/// The phase of a state, which is the one under way or the one before.
fn phase_of(m: &Mbarrier, state: u64, lane: usize) -> Outcome<u64> {
    let Some((phase, _)) = read_state(state) else {
        return trap_at(FaultKind::Mbarrier, lane, format!("{state:#x} is no state of an mbarrier"));
    };
    if phase != m.phase && phase + 1 != m.phase {
        let what = format!(
            "a wait for phase {phase} of an mbarrier that is in phase {}: only this one and the one before can be told",
            m.phase
        );
        return trap_at(FaultKind::Mbarrier, lane, what);
    }
    Ok(phase)
}

/// `mbarrier.pending_count count, state`.
fn pending_count(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("b64");
    let (out, state) = (d.typed_dest(0, Ty::U32)?, d.typed(1, Ty::U64)?);
    Ok(work(move |s| {
        let state = s.warp.get_wide(state);
        let mut counts = [0; LANES];
        for lane in lanes(s.mask) {
            let Some((_, count)) = read_state(state[lane]) else {
                let what = format!("{:#x} is no state of an mbarrier", state[lane]);
                return trap_at(FaultKind::Mbarrier, lane, what);
            };
            counts[lane] = count;
        }
        s.warp.set(out, s.mask, &counts);
        Ok(())
    }))
}

/// `fence.mbarrier_init.release.cluster`: a relaxed arrival at the cluster's barrier then carries the initialisation.
fn fence_init(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.drop_all(&["release", "cluster"]);
    Ok(work(|s| {
        s.warp.pending.init_fenced = true;
        Ok(())
    }))
}

/// `cp.async.mbarrier.arrive{.noinc} [a]`: an arrival when the thread's `cp.async` so far are done. They are done here,
/// which only those learn who wait for the phase.
fn copies_arrive(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    d.has("b64");
    let counted = d.has("noinc");
    let site = Site::of(d, 0)?;
    Ok(work(move |s| {
        let at = site.addresses(s)?;
        let stamps = cp_async::finish_all(s);
        for lane in lanes(s.mask) {
            let key = place(s, at[lane], lane)?;
            let (m, clocks) = known(s.world, s.warp.actor, lane, key)?;
            for &stamp in &stamps {
                clocks.copied(&mut m.gathering, stamp);
            }
            if counted {
                of_lane(m.arrive(1, false, true), lane)?;
            }
        }
        Ok(())
    }))
}
