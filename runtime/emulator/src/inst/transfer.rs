//! What bulk copies and tensor copies have in common: their checks when they are issued, and their work when they happen.
//!
//! It knows of pieces of bytes that move between shared and global memory, not of boxes or opcodes.

use super::atomic::{Op, apply, apply_bulk};
use super::mbarrier;
use crate::async_copy::{Issued, Place, Work};
use crate::decode::Ty;
use crate::fault::{FaultKind, Outcome, of_lane, trap, trap_at};
use crate::layout::tensor_map::{DataType, OobFill};
use crate::memory::address;
use crate::memory::clocks::Stamp;
use crate::memory::global::{Allocation, copy_out, fill};
use crate::memory::shared::Who;
use crate::warp::LANES;
use crate::world::Step;

/// What bulk copies want addresses and sizes to be multiples of.
pub const UNIT: u64 = 16;

/// Where the bytes of a piece are outside of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// At an address of global memory.
    Global(u64),
    /// Nowhere: a load fills, a store leaves them out.
    Outside,
}

/// Bytes that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the first in a block's shared memory.
    pub index: usize,
    /// How many.
    pub bytes: usize,
    /// Their other side.
    pub side: Side,
}

/// The shared memory's side of a copy, and its pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Address in the block.
    pub address: u64,
    /// Bytes from there on that belong to it, gaps included.
    pub span: usize,
    /// Bytes that an mbarrier counts.
    pub counted: u32,
    /// All bytes that move.
    pub pieces: Vec<Piece>,
    /// Type of elements that loads round.
    pub rounded: Option<DataType>,
    /// What loads write where there is nothing.
    pub fill: OobFill,
}

/// A block that a load writes to, and the block whose mbarrier learns of it.
pub type Target = (usize, usize);

/// What a copy does to global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    /// A read of what may hold anything: a box is as large as its map says, and a product drops what comes of the rest.
    Box,
    Write,
    Both,
}

/// The blocks that a mask of `.multicast::cluster` names.
pub fn named(s: &Step<'_, '_>, mask: u32, lane: usize) -> Outcome<Vec<usize>> {
    let count = s.world.blocks.len();
    if mask == 0 || mask >> count != 0 {
        let what = format!("multicast to the blocks {mask:#06x} of a cluster of {count}");
        return trap_at(FaultKind::Undefined, lane, what);
    }
    Ok((0..count).filter(|b| mask >> b & 1 == 1).collect())
}

/// Finds all pieces in global memory and checks that they may be accessed.
fn check_global(s: &Step<'_, '_>, lane: usize, pieces: &[Piece], access: Access) -> Outcome<()> {
    let reads = matches!(access, Access::Read | Access::Box);
    let doing = if reads { "a bulk copy's read" } else { "a bulk copy's write" };
    let mut found: Option<&Allocation> = None;
    for piece in pieces {
        let (Side::Global(at), len) = (piece.side, piece.bytes as u64) else {
            continue;
        };
        let a = of_lane(s.world.global.expect_next(&mut found, at, len, doing), lane)?;
        if matches!(access, Access::Read | Access::Both) {
            of_lane(a.check_known(at, len), lane)?;
        }
        if !reads {
            of_lane(a.check_writable(at, len), lane)?;
        }
    }
    Ok(())
}

/// Ranges of shared memory that the pieces take: the whole span if there is no gap.
fn ranges(t: &Transfer, index: usize, all: bool) -> Vec<(usize, usize)> {
    let moved: usize = t.pieces.iter().map(|p| p.bytes).sum();
    let inside = |p: &&Piece| all || p.side != Side::Outside;
    if moved == t.span && t.pieces.iter().all(|p| inside(&p)) {
        return vec![(index, t.span)];
    }
    t.pieces.iter().filter(inside).map(|p| (p.index, p.bytes)).collect()
}

/// Notes that a copy will write shared memory of a block.
fn note_write(s: &mut Step<'_, '_>, block: usize, t: &Transfer, lane: usize, stamp: Stamp) -> Outcome<()> {
    let who = Who { warp: s.warp.actor, lane, stamp };
    let own = &mut s.world.blocks[block];
    let index = own.shared.place(t.address, t.span as u64, UNIT, lane, "a bulk copy's write")?;
    own.no_mbarrier(t.address, t.span as u64, lane, "a bulk copy's write")?;
    for (at, len) in ranges(t, index, true) {
        own.shared.note_write(s.world.clocks, at, len, who)?;
    }
    Ok(())
}

/// Notes that a copy reads shared memory of a block.
fn note_read(s: &mut Step<'_, '_>, block: usize, t: &Transfer, lane: usize, stamp: Stamp) -> Outcome<()> {
    let who = Who { warp: s.warp.actor, lane, stamp };
    let own = &mut s.world.blocks[block];
    let index = own.shared.place(t.address, t.span as u64, UNIT, lane, "a bulk copy's read")?;
    own.no_mbarrier(t.address, t.span as u64, lane, "a bulk copy's read")?;
    for (at, len) in ranges(t, index, false) {
        own.shared.note_read(s.world.clocks, at, len, who)?;
    }
    Ok(())
}

fn push(s: &mut Step<'_, '_>, lane: usize, group: Option<u32>, work: Work) {
    s.world.queue.push(Issued { by: (s.warp.actor, lane), group, line: s.line, work });
}

/// An operation is complete: the mbarrier learns of it, and of its bytes.
pub fn complete(p: &mut Place<'_>, block: usize, at: u64, stamp: Stamp, bytes: u32) -> Outcome<()> {
    let Some(m) = p.blocks[block].mbarriers.get_mut(&at) else {
        let what = format!("a copy completes on an mbarrier at {at:#x} that is there no longer");
        return trap(FaultKind::Mbarrier, what);
    };
    p.clocks.completed(&mut m.gathering, stamp);
    m.complete(bytes)
}

/// Issues a copy from global memory to the shared memory of blocks, each of which has an mbarrier at `mbarrier`. All of
/// a run has to have been written; a box is as large as its map says, and may reach behind that.
pub fn load(
    s: &mut Step<'_, '_>,
    lane: usize,
    targets: &[Target],
    mbarrier: u64,
    (t, is_box): (Transfer, bool),
) -> Outcome<()> {
    check_global(s, lane, &t.pieces, if is_box { Access::Box } else { Access::Read })?;
    let mut ends = Vec::with_capacity(targets.len());
    for &(block, of) in targets {
        let (agent, of, at) = mbarrier::agent(s, address::of_rank(of, mbarrier), lane)?;
        let stamp = s.world.clocks.completing(agent);
        note_write(s, block, &t, lane, stamp)?;
        ends.push((block, of, at, stamp));
    }
    let work = move |p: &mut Place<'_>| {
        let mut buffer = vec![0; t.pieces.iter().map(|p| p.bytes).max().unwrap_or(0)];
        let mut found: Option<&Allocation> = None;
        for piece in &t.pieces {
            let bytes = &mut buffer[..piece.bytes];
            match piece.side {
                Side::Outside => {
                    for (i, byte) in bytes.iter_mut().enumerate() {
                        *byte = t.fill.byte(i as u64);
                    }
                }
                Side::Global(at) => {
                    let len = piece.bytes as u64;
                    let a = p.global.expect_next(&mut found, at, len, "a bulk copy's read")?;
                    copy_out(a, at, bytes);
                }
            }
            if let Some(dtype) = t.rounded {
                for word in bytes.as_chunks_mut::<4>().0 {
                    *word = dtype.loaded(u32::from_le_bytes(*word)).to_le_bytes();
                }
            }
            for &(block, ..) in &ends {
                p.blocks[block].shared.put(piece.index, bytes);
            }
        }
        for &(_, of, at, stamp) in &ends {
            complete(p, of, at, stamp, t.counted)?;
        }
        Ok(())
    };
    push(s, lane, None, Box::new(work));
    Ok(())
}

/// Issues a copy from the block's shared to global memory, or an operation on it, as part of the thread's open group.
pub fn store(s: &mut Step<'_, '_>, lane: usize, t: Transfer, reduce: Option<(Op, Ty)>) -> Outcome<()> {
    let access = if reduce.is_some() { Access::Both } else { Access::Write };
    check_global(s, lane, &t.pieces, access)?;
    let (actor, block) = (s.warp.actor, s.warp.block);
    let stamp = s.world.clocks.issuing(actor);
    note_read(s, block, &t, lane, stamp)?;
    let group = s.warp.pending.bulk.committed[lane];
    s.warp.pending.bulk.stamps.push((lane, group, stamp));
    let work = move |p: &mut Place<'_>| {
        for piece in &t.pieces {
            let Side::Global(at) = piece.side else {
                continue;
            };
            let a = p.global.expect(at, piece.bytes as u64, "a bulk copy's write")?;
            let bytes = p.blocks[block].shared.slice(piece.index, piece.bytes);
            let Some((op, ty)) = reduce else {
                fill(a, at, bytes);
                continue;
            };
            let size = ty.bytes() as usize;
            for (i, element) in bytes.chunks_exact(size).enumerate() {
                let value = word(element);
                p.global
                    .change(a, at + (i * size) as u64, size as u64, |old| apply_bulk(op, ty, old, value, 0));
            }
        }
        Ok(())
    };
    push(s, lane, Some(group), Box::new(work));
    Ok(())
}

/// Bytes as a number, the first the lowest.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |w, &b| w << 8 | u64::from(b))
}

/// Issues a copy from the block's shared memory to that of block `to`, or an operation on it.
pub fn between(
    s: &mut Step<'_, '_>,
    lane: usize,
    from: u64,
    (to, address): (usize, u64),
    mbarrier: u64,
    bytes: usize,
    reduce: Option<(Op, Ty)>,
) -> Outcome<()> {
    let part = |address| Transfer {
        address,
        span: bytes,
        counted: bytes as u32,
        pieces: vec![Piece { index: 0, bytes, side: Side::Global(0) }],
        rounded: None,
        fill: OobFill::Zero,
    };
    let (agent, of, at) = mbarrier::agent(s, mbarrier, lane)?;
    let block = s.warp.block;
    let stamp = s.world.clocks.completing(agent);
    let (source, target) = (part(from), part(address));
    note_read(s, block, &source, lane, stamp)?;
    if reduce.is_some() {
        note_read(s, to, &target, lane, stamp)?;
    }
    note_write(s, to, &target, lane, stamp)?;
    let index = |a: u64, b: usize| s.world.blocks[b].shared.place(a, bytes as u64, UNIT, lane, "a bulk copy");
    let (source, target) = (index(from, block)?, index(address, to)?);
    let work = move |p: &mut Place<'_>| {
        let mut data = p.blocks[block].shared.slice(source, bytes).to_vec();
        if let Some((op, ty)) = reduce {
            let size = ty.bytes() as usize;
            let old = p.blocks[to].shared.slice(target, bytes);
            for (new, old) in data.chunks_exact_mut(size).zip(old.chunks_exact(size)) {
                let value = apply(op, ty, word(old), word(new), 0);
                new.copy_from_slice(&value.to_le_bytes()[..size]);
            }
        }
        p.blocks[to].shared.put(target, &data);
        complete(p, of, at, stamp, bytes as u32)
    };
    push(s, lane, None, Box::new(work));
    Ok(())
}

/// Issues the write of a few bytes to shared memory that an mbarrier learns of; `change` says what becomes of a word.
/// `asynchronous` if it goes through that proxy.
pub fn put(
    s: &mut Step<'_, '_>,
    lane: usize,
    address: u64,
    mbarrier: u64,
    bytes: Vec<u8>,
    asynchronous: bool,
    reduce: Option<(Op, Ty)>,
) -> Outcome<()> {
    let (agent, of, at) = mbarrier::agent(s, mbarrier, lane)?;
    let (block, address) = s.shared_of(address, lane)?;
    if block != of {
        let what = format!(
            "the mbarrier is of block {of} of the cluster, and the memory that is written of {block}"
        );
        return trap_at(FaultKind::Mbarrier, lane, what);
    }
    let mut stamp = s.world.clocks.completing(agent);
    stamp.asynchronous = asynchronous;
    stamp.atomic = reduce.is_some();
    let who = Who { warp: s.warp.actor, lane, stamp };
    let own = &mut s.world.blocks[block];
    let len = bytes.len() as u64;
    let index = own.shared.place(address, len, len, lane, "an asynchronous write")?;
    own.no_mbarrier(address, len, lane, "an asynchronous write")?;
    if reduce.is_some() {
        own.shared.note_read(s.world.clocks, index, bytes.len(), who)?;
    }
    own.shared.note_write(s.world.clocks, index, bytes.len(), who)?;
    let work = move |p: &mut Place<'_>| {
        let mut data = bytes;
        if let Some((op, ty)) = reduce {
            let old = word(p.blocks[block].shared.slice(index, data.len()));
            let new = apply(op, ty, old, word(&data), 0).to_le_bytes();
            let size = data.len();
            data.copy_from_slice(&new[..size]);
        }
        p.blocks[block].shared.put(index, &data);
        complete(p, block, at, stamp, data.len() as u32)
    };
    push(s, lane, None, Box::new(work));
    Ok(())
}

/// The threads wait for all but the last `left` of their groups.
pub fn wait(s: &mut Step<'_, '_>, left: u32) -> Outcome<()> {
    let actor = s.warp.actor;
    for lane in (0..LANES).filter(|l| s.mask >> l & 1 == 1) {
        let before = s.warp.pending.bulk.committed[lane].saturating_sub(left);
        let is_over = |&(l, group, _): &(usize, u32, Stamp)| l == lane && group < before;
        if !s.warp.pending.bulk.stamps.iter().any(is_over) {
            continue;
        }
        for copy in s.world.queue.of_groups((actor, lane), before) {
            let mut place = Place { blocks: s.world.blocks, global: s.world.global, clocks: s.world.clocks };
            (copy.work)(&mut place).map_err(|mut trap| {
                trap.line.get_or_insert(copy.line);
                trap
            })?;
        }
        let clocks = &mut *s.world.clocks;
        s.warp.pending.bulk.stamps.retain(|entry| {
            if is_over(entry) {
                clocks.waited(actor, entry.2);
            }
            !is_over(entry)
        });
    }
    Ok(())
}
