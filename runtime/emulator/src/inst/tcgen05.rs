//! `tcgen05`: tensor memory, and products of matrices in it (PTX ISA 9.7.16), of sm_100 and its relatives.
//!
//! Products and copies have their effect on data when they are issued, in order; until a commit's mbarrier was waited for
//! they are under way, and who uses their results or overwrites their operands is told so. The mbarrier learns of them
//! as late as it may. With `.cta_group::2` two blocks of a cluster whose ranks differ in the last bit work together: each
//! has its part of the operands, and of D.

mod alloc;
mod commit;
mod copy;
mod load;
mod mma;
mod operand;

use super::Rows;
use super::memory::addresses;
use crate::decode::{Address, Decoder, Together};
use crate::fault::{FaultKind, Outcome, trap};
use crate::layout::tensor_memory::{Cell, TensorMemoryError};
use crate::memory::clocks::{Engine, Stamp};
use crate::ptx::Malformed;
use crate::tensor_memory::{Access, Units};
use crate::warp::{LANES, Row, lanes};
use crate::world::Step;

pub const ROWS: Rows = &[
    ("tcgen05.alloc", alloc::alloc),
    ("tcgen05.dealloc", alloc::dealloc),
    ("tcgen05.relinquish_alloc_permit", alloc::relinquish),
    ("tcgen05.ld", load::load),
    ("tcgen05.st", load::store),
    ("tcgen05.wait::ld", |d| load::wait(d, false)),
    ("tcgen05.wait::st", |d| load::wait(d, true)),
    ("tcgen05.mma", mma::mma),
    ("tcgen05.cp", copy::copy),
    ("tcgen05.commit", commit::commit),
    ("tcgen05.fence::before_thread_sync", |d| commit::fence(d, false)),
    ("tcgen05.fence::after_thread_sync", |d| commit::fence(d, true)),
];

/// Chips that have the instructions.
const CHIPS: [u32; 4] = [100, 101, 103, 110];

fn chip(d: &Decoder<'_>) -> Result<(), Malformed> {
    if !CHIPS.contains(&d.chip.sm) || !d.chip.special {
        return d.refuse("tcgen05 is of sm_100a, sm_100f and their relatives");
    }
    Ok(())
}

/// Takes `.cta_group`: the number of blocks that work together.
fn group(d: &mut Decoder<'_>) -> Result<u8, Malformed> {
    chip(d)?;
    match d.one_of(&[("cta_group::1", 1), ("cta_group::2", 2)]) {
        Some(group) => Ok(group),
        None => d.refuse(".cta_group is missing"),
    }
}

/// Ranks of the blocks that work together, in order.
fn blocks(s: &Step<'_, '_>, group: u8) -> Outcome<std::ops::Range<usize>> {
    let own = s.warp.block;
    if group == 1 {
        return Ok(own..own + 1);
    }
    let (first, all) = (own & !1, &s.world.blocks);
    if first + 1 >= all.len() {
        let what = format!("cta_group::2 of block {own} of a cluster of {}: it has no peer", all.len());
        return trap(FaultKind::Undefined, what);
    }
    if all[first..first + 2].iter().any(|b| b.alive == 0) {
        return trap(FaultKind::TensorMemory, "cta_group::2, and the peer has ended");
    }
    Ok(first..first + 2)
}

/// Takes `.sync.aligned`.
fn aligned(d: &mut Decoder<'_>) -> Result<(), Malformed> {
    chip(d)?;
    if !d.has("sync") || !d.has("aligned") {
        return d.refuse(".sync.aligned is missing");
    }
    d.together = Together::Warp;
    Ok(())
}

/// An operand that is an address of tensor memory.
fn tensor_address(d: &mut Decoder<'_>, i: usize) -> Result<Address, Malformed> {
    let (at, more) = d.address(i)?;
    if at.wide || !more.is_empty() {
        return d.refuse(format_args!("operand {} is no address of tensor memory: it has 32 bits", i + 1));
    }
    Ok(at)
}

/// Addresses of tensor memory of all threads.
fn tensor_addresses(s: &Step<'_, '_>, at: &Address) -> Row {
    addresses(s, at).map(|a| a as u32)
}

/// A value that all threads of a mask have.
fn common(values: &Row, mask: u32, what: &str) -> Outcome<u32> {
    let first = values[mask.trailing_zeros() as usize % LANES];
    match lanes(mask).find(|&l| values[l] != first) {
        None => Ok(first),
        Some(l) => {
            let what =
                format!("{what} is {first:#x} of one thread, and {:#x} of thread {l} of the warp", values[l]);
            trap(FaultKind::Undefined, what)
        }
    }
}

/// A fault of tensor memory.
fn of_memory<T>(result: Result<T, TensorMemoryError>) -> Outcome<T> {
    result.or_else(|e| trap(FaultKind::TensorMemory, e.to_string()))
}

/// A fault of a descriptor.
fn of_descriptor<T, E: std::fmt::Display>(result: Result<T, E>) -> Outcome<T> {
    result.or_else(|e| trap(FaultKind::Descriptor, e.to_string()))
}

/// The stamp of an operation that the warp now issues.
fn issue(s: &mut Step<'_, '_>, engine: Engine) -> Stamp {
    s.warp.pending.tensor.issue(s.world.clocks, s.warp.actor, engine)
}

/// Notes that units of a block's tensor memory are accessed.
fn note(
    s: &mut Step<'_, '_>,
    block: usize,
    engine: Engine,
    stamp: Stamp,
    units: &Units,
    writes: bool,
) -> Outcome<()> {
    let access = Access { warp: s.warp.actor, stamp, engine };
    let tensor = &mut s.world.blocks[block].tensor;
    tensor.note(s.world.clocks, &s.warp.pending.tensor, access, units, writes)
}

/// Cells of an operand: all in the memory, and in columns that are allocated in a block.
fn within(s: &Step<'_, '_>, block: usize, first: Cell, columns: u32, what: &str) -> Outcome<()> {
    let last = Cell { lane: 0, column: columns.saturating_sub(1) };
    let end = of_memory(first.plus(last))?.column + 1;
    s.world.blocks[block].tensor.check(first.column, end, what)
}
