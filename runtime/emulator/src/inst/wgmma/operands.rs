//! A and B of `wgmma`: found in shared memory by descriptors, or in registers.
//!
//! K elements are 32 bytes of every type. In the K-major order those of a row are two runs of 16 bytes; in the MN-major
//! one, of 16-bit elements only, 8 rows of one k are a run.

use super::M;
use super::shape::{Kind, Shape, widen};
use crate::fault::{FaultKind, Outcome, trap};
use crate::layout::{Major, MatrixDescriptor, Packing};
use crate::memory::address::SHARED_START;
use crate::memory::clocks::Stamp;
use crate::memory::shared::Who;
use crate::warp::{Slot, Warp};
use crate::world::Step;

/// Bytes of a run that lies together in shared memory.
const RUN: usize = 16;
/// Bytes of the K elements of a row.
const ROW: usize = 32;

/// A in registers as bytes, rows of 32: register r of the thread 4g + q has bytes 16 (r / 2) + 4q of row g + 8 (r % 2)
/// (`layout::fragment::wgmma_a`).
pub fn registers_of_a(warp: &Warp, registers: &[(Slot, u32)]) -> [u8; M * ROW] {
    let mut out = [0; M * ROW];
    for (r, (slot, _)) in registers.iter().enumerate() {
        for (lane, word) in warp.rows[slot.0 as usize].iter().enumerate() {
            let at = (lane / 4 + r % 2 * 8) * ROW + r / 2 * RUN + lane % 4 * 4;
            out[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
    out
}

fn packing(shape: &Shape) -> Packing {
    match shape.k {
        8 => Packing::Bits32,
        16 => Packing::Bits16,
        _ => Packing::Bits8,
    }
}

/// Indices in shared memory of the runs of `rows` rows from `first` on: of each row in order, or if `transposed` of
/// each k.
fn runs(
    s: &Step<'_, '_>,
    descriptor: u64,
    (first, rows): (usize, usize),
    shape: &Shape,
    transposed: bool,
    out: &mut Vec<usize>,
) -> Outcome<()> {
    let decoded = match MatrixDescriptor::from_sm90(descriptor) {
        Ok(decoded) => decoded,
        Err(e) => return trap(FaultKind::Descriptor, e.to_string()),
    };
    out.clear();
    let shared = &s.world.blocks[s.warp.block].shared;
    let Some(last) = shared.len().checked_sub(RUN) else {
        return trap(FaultKind::Descriptor, "a matrix in shared memory, of which the block has none");
    };
    let packing = packing(shape);
    let step = RUN * shape.k / ROW;
    let mut add = |row: usize, k: usize| {
        let major = if transposed { Major::Mn } else { Major::K };
        // A descriptor has 18 bits of an address.
        let at = decoded.element_address(major, packing, row, k) & ((1 << 18) - 1);
        // Runs are aligned, as all that a descriptor is made of; only their bounds are to be looked at.
        let index = at.wrapping_sub(SHARED_START) as usize;
        if index <= last {
            out.push(index);
            return Ok(());
        }
        let place = shared.place(at, RUN as u64, RUN as u64, 0, "a read of a matrix");
        let fault = place.err().map_or_else(String::new, |fault| fault.what);
        trap(FaultKind::Descriptor, format!("descriptor {descriptor:#018x}, row {row}, k {k}: {fault}"))
    };
    if transposed {
        for k in 0..shape.k {
            for row in (first..first + rows).step_by(8) {
                add(row, k)?;
            }
        }
    } else {
        for row in first..first + rows {
            add(row, 0)?;
            add(row, step)?;
        }
    }
    Ok(())
}

/// Notes that runs are read.
fn note(s: &mut Step<'_, '_>, runs: &[usize], who: Who) -> Outcome<()> {
    let block = &mut s.world.blocks[s.warp.block];
    block.shared.note_reads(s.world.clocks, runs, RUN, who)
}

/// The warp's 16 rows of A as bytes, rows of 32.
pub fn gather_a(
    s: &mut Step<'_, '_>,
    descriptor: u64,
    first: usize,
    shape: &Shape,
    transposed: bool,
    who: Who,
) -> Outcome<[u8; M * ROW]> {
    let mut found = Vec::with_capacity(2 * M);
    runs(s, descriptor, (first, M), shape, transposed, &mut found)?;
    note(s, &found, who)?;
    let shared = &s.world.blocks[s.warp.block].shared;
    let mut out = [0; M * ROW];
    for (i, &index) in found.iter().enumerate() {
        let run: [u8; RUN] = shared.get(index);
        if !transposed {
            out[i * RUN..(i + 1) * RUN].copy_from_slice(&run);
            continue;
        }
        let (k, row) = (i / 2, i % 2 * 8);
        for (j, element) in run.chunks_exact(2).enumerate() {
            let at = (row + j) * ROW + k * 2;
            out[at..at + 2].copy_from_slice(element);
        }
    }
    Ok(out)
}

/// B decoded, K x N: the entry of the block's `gathered`, where the other warps of a warpgroup find it.
pub fn gather_b(
    s: &mut Step<'_, '_>,
    descriptor: u64,
    shape: &Shape,
    transposed: bool,
    who: Who,
) -> Outcome<usize> {
    let rank = s.warp.block;
    let block = &mut s.world.blocks[rank];
    let key = Some((descriptor, *shape, transposed, block.shared.version()));
    let Gathering { entries, next } = &mut block.gathered;
    let known = entries.iter().position(|e| e.key == key);
    let index = known.unwrap_or(*next);
    if known.is_none() {
        *next = (*next + 1) % ENTRIES;
        entries.resize_with(ENTRIES, Gathered::default);
        entries[index].key = None;
    }
    let mut entry = std::mem::take(&mut entries[index]);
    if known.is_none() {
        runs(s, descriptor, (0, shape.n), shape, transposed, &mut entry.runs)?;
        note(s, &entry.runs, who)?;
        entry.writers = s.world.blocks[rank].shared.writers(&entry.runs, RUN);
        decode(s, shape, transposed, &mut entry);
        (entry.key, entry.noted) = (key, who.stamp);
    } else if entry.noted != who.stamp || !s.world.clocks.after_all(who.warp, &entry.writers) {
        note(s, &entry.runs, who)?;
        entry.noted = who.stamp;
    }
    s.world.blocks[rank].gathered.entries[index] = entry;
    Ok(index)
}

fn decode(s: &Step<'_, '_>, shape: &Shape, transposed: bool, gathered: &mut Gathered) {
    let Shape { n, k, kind } = *shape;
    let shared = &s.world.blocks[s.warp.block].shared;
    gathered.bytes.clear();
    for &index in &gathered.runs {
        gathered.bytes.extend_from_slice(&shared.get::<RUN>(index));
    }
    match kind {
        Kind::Float { b, .. } => {
            gathered.floats.resize(n * k, 0.0);
            if transposed {
                b.decode_bytes(&gathered.bytes, &mut gathered.floats);
                return;
            }
            let mut row = [0.0; ROW];
            for (j, bytes) in gathered.bytes.chunks_exact(ROW).enumerate() {
                b.decode_bytes(bytes, &mut row[..k]);
                for (i, value) in row[..k].iter().enumerate() {
                    gathered.floats[i * n + j] = *value;
                }
            }
        }
        Kind::Integer { signed, .. } => {
            gathered.integers.resize(n * k, 0);
            for (j, bytes) in gathered.bytes.chunks_exact(ROW).enumerate() {
                for (i, &byte) in bytes.iter().enumerate() {
                    gathered.integers[i * n + j] = widen(byte, signed[1]);
                }
            }
        }
        // Rows of bytes, as they are.
        Kind::Bits => {}
    }
}

/// The last operands B that a block has gathered.
#[derive(Debug, Default)]
pub struct Gathering {
    /// Each with what it was made of.
    pub entries: Vec<Gathered>,
    /// The entry to be replaced next.
    next: usize,
}

/// A warp issues some instructions before the next one of its warpgroup does.
const ENTRIES: usize = 8;

/// A B, and what it was made of.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Descriptor, shape, order, and the version of shared memory.
    key: Option<(u64, Shape, bool, u64)>,
    /// Indices of its runs in shared memory.
    runs: Vec<usize>,
    /// Who has written them.
    writers: Vec<Stamp>,
    /// The instruction whose read was noted last: of the warps of a warpgroup, which have one stamp, the first notes it.
    noted: Stamp,
    /// The bytes of the runs one after the other: where K is contiguous, 32 of each column.
    pub bytes: Vec<u8>,
    /// Elements that are floats, K x N.
    pub floats: Vec<f32>,
    /// Elements that are integers, K x N.
    pub integers: Vec<i32>,
}
