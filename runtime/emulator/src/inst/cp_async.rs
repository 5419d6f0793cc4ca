//! `cp.async`: copies from global to shared memory that a thread waits for by groups. The data moves when it is waited
//! for, and not before: who does not wait finds what was there.

use super::memory::addresses;
use super::{Rows, work};
use crate::decode::{Decoder, Run};
use crate::fault::{FaultKind, Outcome, of_lane, trap_at};
use crate::memory::clocks::Stamp;
use crate::memory::global::copy_out;
use crate::memory::shared::Who;
use crate::pending::{Copy, CopyGroup};
use crate::ptx::Malformed;
use crate::warp::lanes;
use crate::world::Step;

pub const ROWS: Rows = &[
    ("cp.async.ca", |d| copy(d, &[4, 8, 16])),
    ("cp.async.cg", |d| copy(d, &[16])),
    ("cp.async.commit_group", commit),
    ("cp.async.wait_group", |d| wait(d, true)),
    ("cp.async.wait_all", |d| wait(d, false)),
];

/// `cp.async.cg.shared.global [to], [from], size {, bytes that are read | predicate} {, policy}`.
fn copy(d: &mut Decoder<'_>, sizes: &[i64]) -> Result<Run, Malformed> {
    if !d.has("shared") && !d.has("shared::cta") || !d.has("global") {
        return d.refuse("shared.global is missing");
    }
    let hint = d.has("L2::cache_hint");
    d.drop_all(&["L2::64B", "L2::128B", "L2::256B"]);
    let ((to, _), (from, _), size) = (d.address(0)?, d.address(1)?, d.constant(2)?);
    if !sizes.contains(&size) {
        return d.refuse(format_args!("{size} bytes; it copies {sizes:?}"));
    }
    let rest = d.count() - 3 - usize::from(hint);
    if hint {
        d.source(d.count() - 1)?;
    }
    let ignore = if rest == 1 && d.is_pred(3) { Some(d.pred(3)?) } else { None };
    let read = if rest == 1 && ignore.is_none() { Some(d.source(3)?) } else { None };
    d.shared_access(size as u32);
    let size = size as u32;
    Ok(work(move |s| {
        let (to, from) = (addresses(s, &to), addresses(s, &from));
        let mut read = read.map_or([size; 32], |r| s.warp.get(r));
        if let Some((p, negated)) = ignore {
            let p = s.warp.pred(p) ^ if negated { !0 } else { 0 };
            lanes(p).for_each(|l| read[l] = 0);
        }
        let stamp = s.world.clocks.copying(s.warp.actor);
        let (mut place, mut found) = (to, None);
        for lane in lanes(s.mask) {
            if read[lane] > size {
                let what = format!("{} bytes are to be read of {size} that are copied", read[lane]);
                return trap_at(FaultKind::Undefined, lane, what);
            }
            if from[lane] % u64::from(size) != 0 {
                let what =
                    format!("a copy of {size} bytes from {:#x}, which is no multiple of {size}", from[lane]);
                return trap_at(FaultKind::Misaligned, lane, what);
            }
            let (block, address) = s.shared_of(to[lane], lane)?;
            let shared = &mut s.world.blocks[block].shared;
            let index = shared.place(address, size.into(), size.into(), lane, "a copy")?;
            let who = Who { warp: s.warp.actor, lane, stamp };
            shared.note_write(s.world.clocks, index, size as usize, who)?;
            place[lane] = index as u64;
            if read[lane] > 0 {
                let len = read[lane].into();
                let a = of_lane(s.world.global.expect_next(&mut found, from[lane], len, "a copy"), lane)?;
                of_lane(a.check_known(from[lane], len), lane)?;
            }
        }
        s.warp.pending.open.push(Copy { mask: s.mask, to: place, from, read, size, stamp, line: s.line });
        Ok(())
    }))
}

/// The threads' copies that are in no group yet become one.
fn commit(_: &mut Decoder<'_>) -> Result<Run, Malformed> {
    Ok(work(|s| {
        let mask = s.mask;
        let mut group = CopyGroup { mask, copies: Vec::new() };
        s.warp.pending.open.retain_mut(|copy| {
            if copy.mask & mask != 0 {
                group.copies.push(Copy { mask: copy.mask & mask, ..copy.clone() });
                copy.mask &= !mask;
            }
            copy.mask != 0
        });
        s.warp.pending.groups.push(group);
        Ok(())
    }))
}

/// `wait_group n`: all but the last n groups of each thread are done; `wait_all`: all, committed or not.
fn wait(d: &mut Decoder<'_>, groups: bool) -> Result<Run, Malformed> {
    let left = if groups { d.constant(0)? } else { 0 };
    let Ok(left) = usize::try_from(left) else {
        return d.refuse(format_args!("{left} groups"));
    };
    Ok(work(move |s| {
        let mut done = Vec::new();
        // From the newest on: groups that each thread may leave under way.
        let mut kept = [0usize; 32];
        for group in s.warp.pending.groups.iter_mut().rev() {
            let mut over = 0u32;
            for lane in lanes(group.mask & s.mask) {
                if kept[lane] < left {
                    kept[lane] += 1;
                } else {
                    over |= 1 << lane;
                }
            }
            if over == 0 {
                continue;
            }
            group.mask &= !over;
            let take = |c: &mut Copy| {
                let part = Copy { mask: c.mask & over, ..c.clone() };
                c.mask &= !over;
                part
            };
            done.push(group.copies.iter_mut().map(take).collect::<Vec<_>>());
        }
        s.warp.pending.groups.retain(|g| g.mask != 0);
        if !groups {
            done.insert(0, std::mem::take(&mut s.warp.pending.open));
        }
        for copy in done.into_iter().rev().flatten() {
            finish(s, &copy)?;
        }
        Ok(())
    }))
}

/// Moves the data of all copies of the threads that execute, without their knowing; gives what the copies leave behind.
pub fn finish_all(s: &mut Step<'_, '_>) -> Vec<Stamp> {
    let mut all = Vec::new();
    let pending = &mut s.warp.pending;
    for list in pending.groups.iter_mut().map(|g| &mut g.copies).chain([&mut pending.open]) {
        // What is left of a copy whose data has moved is its stamp, for who waits.
        let mut moved = Vec::new();
        for copy in list.iter_mut().filter(|c| c.size > 0 && c.mask & s.mask != 0) {
            let mask = copy.mask & s.mask;
            all.push(Copy { mask, ..copy.clone() });
            moved.push(Copy { mask, size: 0, read: [0; 32], ..copy.clone() });
            copy.mask &= !mask;
        }
        list.retain(|c| c.mask != 0);
        list.append(&mut moved);
    }
    all.iter().for_each(|copy| move_data(s, copy));
    all.iter().map(|copy| copy.stamp).collect()
}

/// Moves the data of a copy that the warp has waited for.
fn finish(s: &mut Step<'_, '_>, copy: &Copy) -> Outcome<()> {
    move_data(s, copy);
    s.world.clocks.waited(s.warp.actor, copy.stamp);
    Ok(())
}

fn move_data(s: &mut Step<'_, '_>, copy: &Copy) {
    for lane in lanes(copy.mask) {
        let (read, mut bytes) = (copy.read[lane] as usize, [0u8; 16]);
        if read > 0
            && let Some(a) = s.world.global.find(copy.from[lane], read as u64)
        {
            copy_out(a, copy.from[lane], &mut bytes[..read]);
        }
        let rank = s.warp.block;
        s.world.blocks[rank].shared.put(copy.to[lane] as usize, &bytes[..copy.size as usize]);
    }
}
