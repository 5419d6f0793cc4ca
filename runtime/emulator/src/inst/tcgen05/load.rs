//! `tcgen05.ld`, `tcgen05.st` and their waits.
//!
//! A load's registers have their values at once, and are in flight until `tcgen05.wait::ld`.

use super::super::work;
use super::{aligned, common, issue, note, of_memory, tensor_address, tensor_addresses, within};
use crate::decode::{Address, Decoder, Run};
use crate::fault::{FaultKind, Outcome, trap};
use crate::layout::tensor_memory::{COLUMNS, Cell, LoadShape, SPLIT_SHAPE};
use crate::memory::clocks::Engine;
use crate::ptx::Malformed;
use crate::tensor_memory::Units;
use crate::warp::{LANES, Row};
use crate::world::Step;

const SHAPES: &[(&str, LoadShape)] = &[
    ("32x32b", LoadShape::Lanes32Bits32),
    ("16x64b", LoadShape::Lanes16Bits64),
    ("16x128b", LoadShape::Lanes16Bits128),
    ("16x256b", LoadShape::Lanes16Bits256),
    ("16x32bx2", LoadShape::Lanes16Bits32X2),
];

const REPETITIONS: &[(&str, u32)] =
    &[("x1", 1), ("x2", 2), ("x4", 4), ("x8", 8), ("x16", 16), ("x32", 32), ("x64", 64), ("x128", 128)];

/// What loads and stores say of themselves.
struct Form {
    shape: LoadShape,
    registers: u32,
    /// True if a register holds 16 bits of each of two columns.
    packed: bool,
    at: Address,
    /// Columns between the two halves of `SPLIT_SHAPE`.
    split: u32,
    what: &'static str,
}

impl Form {
    /// Takes the words of an opcode, the address at operand `i`, and what follows it.
    fn of(d: &mut Decoder<'_>, i: usize, pack: &str, what: &'static str) -> Result<(Form, usize), Malformed> {
        aligned(d)?;
        let Some(shape) = d.one_of(SHAPES) else {
            return d.refuse("a shape is missing");
        };
        let Some(repetition) = d.one_of(REPETITIONS) else {
            return d.refuse("a repetition (.x1 to .x128) is missing");
        };
        let registers = match shape.registers(repetition) {
            Ok(registers) => registers,
            Err(e) => return d.refuse(e),
        };
        let packed = d.has(pack);
        d.has("b32");
        let at = tensor_address(d, i)?;
        let mut next = i + 1;
        let split = if shape == SPLIT_SHAPE {
            next += 1;
            match u32::try_from(d.constant(i + 1)?) {
                Ok(split) if split <= COLUMNS => split,
                _ => return d.refuse("the second half is at a number of columns"),
            }
        } else {
            0
        };
        Ok((Form { shape, registers, packed, at, split, what }, next))
    }

    fn counted(&self, d: &Decoder<'_>, registers: usize) -> Result<(), Malformed> {
        if registers != self.registers as usize {
            return d.refuse(format_args!("{registers} registers; {} are wanted", self.registers));
        }
        Ok(())
    }

    /// The first cell, which the warp may access.
    fn first(&self, s: &Step<'_, '_>) -> Outcome<Cell> {
        let at = common(&tensor_addresses(s, &self.at), s.mask, "the address")?;
        let first = of_memory(Cell::from_address(at))?;
        of_memory(self.shape.check_lane(s.warp.index as u32 % 4, first.lane))?;
        Ok(first)
    }

    /// The one or two cells of a register of a thread.
    fn cells(&self, first: Cell, lane: usize, register: usize) -> Outcome<(Cell, Option<Cell>)> {
        let (lane, register) = (lane as u32, register as u32);
        if self.packed {
            let [low, high] = self.shape.packed_cells(lane, register, self.split);
            Ok((of_memory(first.plus(low))?, Some(of_memory(first.plus(high))?)))
        } else {
            Ok((of_memory(first.plus(self.shape.cell(lane, register, self.split)))?, None))
        }
    }

    /// Checks all cells, and gives their units.
    fn units(&self, s: &Step<'_, '_>, first: Cell) -> Outcome<Units> {
        let mut units = Units::default();
        let (mut low, mut high) = (u32::MAX, 0);
        for register in 0..self.registers as usize {
            for lane in 0..LANES {
                let (a, b) = self.cells(first, lane, register)?;
                for cell in [Some(a), b].into_iter().flatten() {
                    units.add(cell);
                    (low, high) = (low.min(cell.column), high.max(cell.column));
                }
            }
        }
        if self.shape == SPLIT_SHAPE && self.split > 0 {
            // What lies between the halves need not be allocated.
            let half = self.registers * if self.packed { 2 } else { 1 };
            within(s, s.warp.block, first, half, self.what)?;
            let second = of_memory(first.plus(Cell { lane: 0, column: self.split }))?;
            within(s, s.warp.block, second, half, self.what)?;
        } else {
            within(s, s.warp.block, Cell { lane: first.lane, column: low }, high - low + 1, self.what)?;
        }
        Ok(units)
    }
}

/// `tcgen05.ld.sync.aligned.shape.xN{.pack::16b}.b32 {r}, [a] {, split}`.
pub fn load(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let (form, _) = Form::of(d, 1, "pack::16b", "tcgen05.ld")?;
    let registers = d.late_dests(0)?;
    form.counted(d, registers.len())?;
    Ok(work(move |s| {
        let first = form.first(s)?;
        let units = form.units(s, first)?;
        let stamp = issue(s, Engine::Load);
        note(s, s.warp.block, Engine::Load, stamp, &units, false)?;
        for (i, &(slot, index)) in registers.iter().enumerate() {
            let busy = s.warp.in_flight[index as usize];
            if busy != 0 {
                let what = format!(
                    "a register of the instruction of line {busy} is loaded again, and tcgen05.wait::ld is missing"
                );
                return trap(FaultKind::RegisterInFlight, what);
            }
            let tensor = &s.world.blocks[s.warp.block].tensor;
            let mut row: Row = [0; LANES];
            for (lane, value) in row.iter_mut().enumerate() {
                let (low, high) = form.cells(first, lane, i)?;
                *value = tensor.get(low, form.what)?;
                if let Some(high) = high {
                    *value = *value & 0xffff | tensor.get(high, form.what)? << 16;
                }
            }
            s.warp.set(slot, s.mask, &row);
            s.warp.in_flight[index as usize] = s.line;
            s.warp.pending.matrix.loads.push(index);
        }
        Ok(())
    }))
}

/// `tcgen05.st.sync.aligned.shape.xN{.unpack::16b}.b32 [a], {split,} {r}`.
pub fn store(d: &mut Decoder<'_>) -> Result<Run, Malformed> {
    let (form, next) = Form::of(d, 0, "unpack::16b", "tcgen05.st")?;
    let registers = d.sources(next)?;
    form.counted(d, registers.len())?;
    Ok(work(move |s| {
        let first = form.first(s)?;
        let units = form.units(s, first)?;
        let stamp = issue(s, Engine::Store);
        note(s, s.warp.block, Engine::Store, stamp, &units, true)?;
        for (i, &register) in registers.iter().enumerate() {
            let row = s.warp.get(register);
            let tensor = &mut s.world.blocks[s.warp.block].tensor;
            for (lane, &value) in row.iter().enumerate() {
                let (low, high) = form.cells(first, lane, i)?;
                match high {
                    Some(high) => {
                        tensor.put(low, value & 0xffff);
                        tensor.put(high, value >> 16);
                    }
                    None => tensor.put(low, value),
                }
            }
        }
        Ok(())
    }))
}

/// `tcgen05.wait::ld.sync.aligned` and `wait::st`.
pub fn wait(d: &mut Decoder<'_>, stores: bool) -> Result<Run, Malformed> {
    aligned(d)?;
    Ok(work(move |s| {
        s.warp.pending.tensor.wait(stores);
        if !stores {
            for index in s.warp.pending.matrix.loads.drain(..) {
                s.warp.in_flight[index as usize] = 0;
            }
        }
        Ok(())
    }))
}
