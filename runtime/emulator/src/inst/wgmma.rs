//! `wgmma`: products of matrices by the four warps of a warpgroup, each its own 16 of the 64 rows (PTX ISA 9.7.15).
//!
//! The sums are made when the instruction is issued; until the group is waited for, its registers are in flight and its
//! operands in shared memory are being read. How elements lie in memory is `layout::descriptor`'s, how they are added
//! `number::dot`'s.

mod operands;
mod shape;

pub use operands::Gathering;

use super::{Rows, work};
use crate::decode::{Decoder, Next, Run, Together};
use crate::fault::{FaultKind, Outcome, trap, trap_at};
use crate::memory::clocks::Stamp;
use crate::memory::shared::Who;
use crate::number::dot::{ShapeError, matmul, matmul_i32};
use crate::pending::{Kept, WARPGROUP};
use crate::ptx::Malformed;
use crate::warp::{ALL, Slot, Source, Wait, Warp};
use crate::world::Step;
use operands::{gather_a, gather_b, registers_of_a};
use shape::{Accumulator, Kind, Shape};

pub const ROWS: Rows = &[
    ("wgmma.fence", fence),
    ("wgmma.commit_group", commit),
    ("wgmma.wait_group", wait),
    ("wgmma.mma_async", mma),
];

/// Rows of a warp.
const M: usize = 16;

fn aligned(d: &mut Decoder<'_>) -> Result<(), Malformed> {
    if d.chip.sm != 90 || !d.chip.special {
        return d.refuse("wgmma is of sm_90a");
    }
    if !d.has("sync") || !d.has("aligned") {
        return d.refuse(".sync.aligned is missing");
    }
    d.together = Together::Warp;
    Ok(())
}

/// `wgmma.fence`: registers written so far may be used.
fn fence(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    aligned(d)?;
    Ok(work(|s| {
        s.warp.unfenced.fill(false);
        Ok(())
    }))
}

/// `wgmma.commit_group`: what was issued becomes a group.
fn commit(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    aligned(d)?;
    Ok(work(|s| {
        let matrix = &mut s.warp.pending.matrix;
        let group = (std::mem::take(&mut matrix.open), matrix.open_stamp.take());
        matrix.groups.push(group);
        let index = s.warp.index;
        s.world.blocks[s.warp.block].warpgroups.committed[index] += 1;
        Ok(())
    }))
}

/// `wgmma.wait_group n`: all but the last n groups are done.
fn wait(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    aligned(d)?;
    let Ok(left) = usize::try_from(d.constant(0)?) else {
        return d.refuse("a number of groups is wanted");
    };
    Ok(Box::new(move |s| {
        // The instructions are of all four warps: they are complete when all have issued them.
        let warpgroups = &s.world.blocks[s.warp.block].warpgroups;
        let groups = warpgroups.committed[s.warp.index].saturating_sub(left as u64);
        if !warpgroups.have(s.warp.index, groups) {
            return Ok(Next::Retry(s.mask, Wait::Warpgroup { groups }));
        }
        let Warp { pending, in_flight, actor, .. } = &mut *s.warp;
        let matrix = &mut pending.matrix;
        let over = matrix.groups.len().saturating_sub(left);
        for (registers, stamp) in matrix.groups.drain(..over) {
            registers.iter().for_each(|&(r, _)| in_flight[r as usize] = 0);
            if let Some(stamp) = stamp {
                s.world.clocks.waited(*actor, stamp);
            }
        }
        // Registers that a later instruction uses too are still in use.
        for &(r, line) in matrix.groups.iter().flat_map(|g| &g.0).chain(&matrix.open) {
            in_flight[r as usize] = line;
        }
        store_kept(s.warp, false);
        Ok(Next::On)
    }))
}

/// Stores sums whose registers are no longer in use, or all.
fn store_kept(warp: &mut Warp, all: bool) {
    let mut kept = std::mem::take(&mut warp.pending.matrix.kept);
    kept.retain(|k| {
        let in_use = k.registers.iter().any(|&(_, r)| warp.in_flight[r as usize] != 0);
        if in_use && !all {
            return true;
        }
        let accumulator = if k.halves { Accumulator::Halves } else { Accumulator::Words };
        let n = k.sums.len() / M;
        accumulator.write(warp, &k.registers, n, |i| line(&k.sums[i..], f32::to_bits));
        false
    });
    warp.pending.matrix.kept = kept;
}

/// The stamp of a warp's next instruction: all four warps have the same.
fn issue(s: &mut Step<'_, '_>) -> Outcome<Stamp> {
    let (number, group) = (s.warp.pending.matrix.issued, s.warp.index / WARPGROUP);
    s.warp.pending.matrix.issued += 1;
    let first = s.warp.actor - s.warp.index % WARPGROUP;
    let clocks = &mut *s.world.clocks;
    let issued = &mut s.world.blocks[s.warp.block].warpgroups.issued;
    let entry = issued.entry((group, number)).or_insert_with(|| (clocks.issuing(first), s.line, 0));
    entry.2 += 1;
    let (stamp, line, count) = *entry;
    if count == WARPGROUP {
        issued.remove(&(group, number));
    }
    if line != s.line {
        let what = format!(
            "the warps of a warpgroup differ: another one executes the instruction of line {line} here"
        );
        return trap(FaultKind::Divergence, what);
    }
    Ok(stamp)
}

/// Where A is.
enum A {
    /// In shared memory, by a descriptor.
    Memory(Source),
    /// In registers: places, and numbers among those of matrix instructions.
    Registers(Vec<(Slot, u32)>),
}

/// An instruction.
struct Mma {
    shape: Shape,
    d: Vec<(Slot, u32)>,
    a: A,
    b: Source,
    accumulates: (Source, bool),
    /// Whether products change their sign.
    negative: bool,
    transposed: [bool; 2],
}

/// `wgmma.mma_async.sync.aligned.m64nNkK.d.a.b {d}, a, b-descriptor, scale-d {, scale-a, scale-b {, trans-a} {, trans-b}}`.
fn mma(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    aligned(d)?;
    let shape = Shape::of(d)?;
    let out = d.matrix_dests(0)?;
    if out.len() != shape.registers() {
        return d.refuse(format_args!("{} accumulators; {} are wanted", out.len(), shape.registers()));
    }
    let a = if matches!(d.operand(1)?, crate::ptx::Operand::Vector(_)) {
        let registers = d.matrix_sources(1)?;
        if registers.len() != 4 {
            return d.refuse("A is 4 registers");
        }
        A::Registers(registers)
    } else {
        A::Memory(d.source(1)?)
    };
    let b = d.source(2)?;
    let accumulates = d.pred(3)?;
    d.reads_if = Some(accumulates);
    let in_memory = matches!(a, A::Memory(_));
    let scales = if shape.float() { 2 } else { 0 };
    let orders = if shape.transposable() { 1 + usize::from(in_memory) } else { 0 };
    if d.count() != 4 + scales + orders {
        return d.refuse(format_args!("{} operands; {} are wanted", d.count(), 4 + scales + orders));
    }
    let mut negative = false;
    for i in 4..4 + scales {
        match d.constant(i)? {
            1 => {}
            -1 => negative = !negative,
            other => return d.refuse(format_args!("scale {other}; it is 1 or -1")),
        }
    }
    let mut transposed = [false; 2];
    for i in 0..orders {
        let which = if orders == 2 { i } else { 1 };
        transposed[which] = match d.constant(4 + scales + i)? {
            0 => false,
            1 => true,
            other => return d.refuse(format_args!("order {other}; it is 0 or 1")),
        };
    }
    d.shared_access(16);
    let mma = Mma { shape, d: out, a, b, accumulates, negative, transposed };
    Ok(work(move |s| mma.run(s)))
}

/// The value that all threads of a warp have.
fn uniform(warp: &Warp, source: Source, what: &str) -> Outcome<u64> {
    let all = warp.get_wide(source);
    match all.iter().position(|x| *x != all[0]) {
        None => Ok(all[0]),
        Some(lane) => {
            let what = format!("{what} {:#018x} differs from that of thread 0, {:#018x}", all[lane], all[0]);
            trap_at(FaultKind::Descriptor, lane, what)
        }
    }
}

/// The bits of 8 elements of a row.
#[inline(always)]
fn line<T: Copy>(sums: &[T], bits: impl Fn(T) -> u32) -> [u32; 8] {
    let mut out = [0; 8];
    out.iter_mut().zip(sums).for_each(|(out, x)| *out = bits(*x));
    out
}

impl Mma {
    fn run(&self, s: &mut Step<'_, '_>) -> Outcome<()> {
        let Shape { n, k, .. } = self.shape;
        let first = s.warp.index / WARPGROUP * WARPGROUP;
        if first + WARPGROUP > s.world.launch.warps() || s.mask != ALL {
            let what = format!(
                "wgmma by warps {first} to {} of a block of {} threads",
                first + 3,
                s.world.launch.threads()
            );
            return trap(FaultKind::Undefined, what);
        }
        self.check_registers(s.warp)?;
        let p = s.warp.pred(self.accumulates.0) ^ if self.accumulates.1 { ALL } else { 0 };
        if p != 0 && p != ALL {
            return trap(
                FaultKind::Undefined,
                format!("scale-d differs among the threads of a warp: {p:#010x}"),
            );
        }
        let stamp = issue(s)?;
        let who = Who { warp: s.warp.actor, lane: 0, stamp };
        let a = match &self.a {
            A::Registers(registers) => registers_of_a(s.warp, registers),
            A::Memory(descriptor) => {
                let descriptor = uniform(s.warp, *descriptor, "descriptor of A")?;
                let row = s.warp.index % WARPGROUP * M;
                gather_a(s, descriptor, row, &self.shape, self.transposed[0], who)?
            }
        };
        let b = uniform(s.warp, self.b, "descriptor of B")?;
        let entry = gather_b(s, b, &self.shape, self.transposed[1], who)?;
        let gathered = &s.world.blocks[s.warp.block].gathered.entries[entry];
        let done = match &self.shape.kind {
            Kind::Float { a: format, arithmetic, accumulator, .. } => {
                let mut left = vec![0.0; M * k];
                format.decode_bytes(&a, &mut left);
                if self.negative {
                    left.iter_mut().for_each(|x| *x = -*x);
                }
                let halves = matches!(accumulator, Accumulator::Halves);
                let found = s.warp.pending.matrix.kept.iter().position(|k| k.registers == self.d);
                let mut kept = match found {
                    Some(found) => s.warp.pending.matrix.kept.swap_remove(found),
                    None => {
                        // Registers may be among those of other sums, in another order.
                        store_kept(s.warp, true);
                        let mut sums = vec![0.0; M * n];
                        if p != 0 {
                            accumulator.read(s.warp, &self.d, n, |i, bits| {
                                sums[i..i + 8].iter_mut().zip(bits).for_each(|(x, b)| *x = f32::from_bits(b));
                            });
                        }
                        Kept { registers: self.d.clone(), sums, halves }
                    }
                };
                if p == 0 {
                    kept.sums.fill(0.0);
                }
                let done = matmul(arithmetic, M, n, k, &left, &gathered.floats, &mut kept.sums);
                s.warp.pending.matrix.kept.push(kept);
                done
            }
            Kind::Integer { signed, overflow } => {
                store_kept(s.warp, true);
                let left: Vec<i32> = a.iter().map(|&x| shape::widen(x, signed[0])).collect();
                let mut sums = vec![0; M * n];
                if p != 0 {
                    Accumulator::Words.read(s.warp, &self.d, n, |i, bits| {
                        sums[i..i + 8].iter_mut().zip(bits).for_each(|(x, b)| *x = b as i32);
                    });
                }
                let done = matmul_i32(*overflow, [M, n, k], &left, &gathered.integers, &mut sums);
                Accumulator::Words.write(s.warp, &self.d, n, |i| line(&sums[i..], |x| x as u32));
                done
            }
            Kind::Bits => {
                store_kept(s.warp, true);
                let mut sums = vec![0u32; M * n];
                if p != 0 {
                    Accumulator::Words
                        .read(s.warp, &self.d, n, |i, bits| sums[i..i + 8].copy_from_slice(&bits));
                }
                for (sums, row) in sums.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
                    for (sum, column) in sums.iter_mut().zip(gathered.bytes.chunks_exact(k)) {
                        let both = row.iter().zip(column).map(|(x, y)| (x & y).count_ones());
                        *sum = sum.wrapping_add(both.sum());
                    }
                }
                Accumulator::Words.write(s.warp, &self.d, n, |i| line(&sums[i..], |x| x));
                Ok(())
            }
        };
        done.or_else(|e: ShapeError| trap(FaultKind::Undefined, e.to_string()))?;
        self.mark(s.warp, s.line, stamp);
        Ok(())
    }

    /// Registers may be used: fenced, or accumulators of an instruction of the same shape.
    fn check_registers(&self, warp: &Warp) -> Outcome<()> {
        let shapes = &warp.pending.matrix.shapes;
        let shape_of = |r: u32| shapes.get(r as usize).copied().unwrap_or(0);
        let a: &[(Slot, u32)] = if let A::Registers(a) = &self.a { a } else { &[] };
        for (which, registers, allowed) in [("an accumulator", &self.d[..], self.shape.code()), ("A", a, 0)] {
            for &(_, r) in registers {
                if warp.unfenced[r as usize] {
                    let what = format!("a register of {which} was written, and no wgmma.fence is between");
                    return trap(FaultKind::MissingWgmmaFence, what);
                }
                let line = warp.in_flight[r as usize];
                if line != 0 && shape_of(r) != allowed {
                    let what = format!(
                        "a register of {which} is in use by the instruction of line {line}, which is under way: only an \
                         accumulator of the same shape may be used again"
                    );
                    return trap(FaultKind::RegisterInFlight, what);
                }
            }
        }
        Ok(())
    }

    /// Registers are in flight from now on.
    fn mark(&self, warp: &mut Warp, line: u32, stamp: Stamp) {
        let Warp { pending, in_flight, .. } = warp;
        let matrix = &mut pending.matrix;
        matrix.shapes.resize(in_flight.len(), 0);
        let a: &[(Slot, u32)] = if let A::Registers(a) = &self.a { a } else { &[] };
        for (registers, code) in [(&self.d[..], self.shape.code()), (a, 0)] {
            for &(_, r) in registers {
                in_flight[r as usize] = line;
                matrix.shapes[r as usize] = code;
                matrix.open.push((r, line));
            }
        }
        matrix.open_stamp = Some(stamp);
    }
}
