//! Matrices and scales that `tcgen05.mma` reads, in shared memory by a descriptor or in tensor memory, as bits.

use super::{note, of_descriptor, of_memory, within};
use crate::fault::{FaultKind, Outcome, trap, trap_at};
use crate::layout::instruction_descriptor::{MmaKind, OperandFormat};
use crate::layout::tensor_memory::{Cell, DataPath, SCALE_REPLICAS, operand_a_place, scale_place};
use crate::layout::{Major, MatrixDescriptor, Packing};
use crate::memory::clocks::{Engine, Stamp};
use crate::memory::shared::Who;
use crate::number::format::Format;
use crate::tensor_memory::Units;
use crate::world::Step;

/// Bytes that are read at once, which no swizzle parts.
pub const CHUNK: usize = 16;
/// A descriptor has 18 bits of an address.
const ADDRESSES: u64 = (1 << 18) - 1;

/// The format of a float, or `None` of an integer.
pub fn float(format: OperandFormat) -> Option<Format> {
    Some(match format {
        OperandFormat::F16 => Format::F16,
        OperandFormat::Bf16 => Format::Bf16,
        OperandFormat::Tf32 => Format::Tf32,
        OperandFormat::E4m3 => Format::E4m3,
        OperandFormat::E5m2 => Format::E5m2,
        OperandFormat::E2m3 => Format::E2m3,
        OperandFormat::E3m2 => Format::E3m2,
        OperandFormat::E2m1 => Format::E2m1,
        OperandFormat::U8 | OperandFormat::S8 => return None,
    })
}

/// How elements lie in shared memory. The kinds that mix widths pad those of 6 and 4 bits.
pub fn packing(kind: MmaKind, format: OperandFormat) -> Packing {
    match format {
        OperandFormat::F16 | OperandFormat::Bf16 => Packing::Bits16,
        OperandFormat::Tf32 => Packing::Bits32,
        OperandFormat::E4m3 | OperandFormat::E5m2 | OperandFormat::U8 | OperandFormat::S8 => Packing::Bits8,
        OperandFormat::E2m3 | OperandFormat::E3m2 => Packing::Bits6In16Bytes,
        OperandFormat::E2m1 if matches!(kind, MmaKind::Mxf4 | MmaKind::Mxf4nvf4) => Packing::Bits4,
        OperandFormat::E2m1 => Packing::Bits4In16Bytes,
    }
}

/// A matrix of shared memory that is read chunk by chunk.
pub struct Matrix {
    word: u64,
    block: usize,
    descriptor: MatrixDescriptor,
    major: Major,
    packing: Packing,
    /// The chunk that was read last.
    last: Option<(u64, u128)>,
}

impl Matrix {
    /// Decodes a descriptor of a block's memory.
    pub fn new(word: u64, block: usize, major: Major, packing: Packing) -> Outcome<Matrix> {
        let descriptor = of_descriptor(MatrixDescriptor::from_sm100(word))?;
        of_descriptor(descriptor.check_tcgen05(major, packing))?;
        Ok(Matrix { word, block, descriptor, major, packing, last: None })
    }

    /// The bits of an element.
    fn element(&mut self, s: &mut Step<'_, '_>, (row, k): (usize, usize), who: Who) -> Outcome<u32> {
        let at = self.descriptor.element_address(self.major, self.packing, row, k) & ADDRESSES;
        let chunk = at & !(CHUNK as u64 - 1);
        let value = match self.last {
            Some((last, value)) if last == chunk => value,
            _ => self.chunk(s, chunk, (row, k), who)?,
        };
        let along = if self.major == Major::K { k } else { row };
        let shift = 8 * (at - chunk) + self.packing.bit(along as u64) % 8;
        let mask = (1u64 << self.packing.element_bits()) - 1;
        Ok((value >> shift) as u32 & mask as u32)
    }

    fn chunk(&mut self, s: &mut Step<'_, '_>, at: u64, (row, k): (usize, usize), who: Who) -> Outcome<u128> {
        let block = &mut s.world.blocks[self.block];
        let len = CHUNK as u64;
        let index = match block.shared.place(at, len, len, who.lane, "a read of a matrix") {
            Ok(index) => index,
            Err(fault) => {
                let what = format!("descriptor {:#018x}, row {row}, k {k}: {}", self.word, fault.what);
                return trap_at(FaultKind::Descriptor, who.lane, what);
            }
        };
        block.no_mbarrier(at, len, who.lane, "a read of a matrix")?;
        block.shared.note_read(s.world.clocks, index, CHUNK, who)?;
        let value = u128::from_le_bytes(block.shared.get(index));
        self.last = Some((at, value));
        Ok(value)
    }

    /// The bits of all elements, row by row.
    pub fn read(&mut self, s: &mut Step<'_, '_>, rows: usize, k: usize, who: Who) -> Outcome<Vec<u32>> {
        let mut out = vec![0; rows * k];
        match self.major {
            Major::K => {
                for row in 0..rows {
                    for i in 0..k {
                        out[row * k + i] = self.element(s, (row, i), who)?;
                    }
                }
            }
            Major::Mn => {
                for i in 0..k {
                    for row in 0..rows {
                        out[row * k + i] = self.element(s, (row, i), who)?;
                    }
                }
            }
        }
        Ok(out)
    }
}

/// What A in tensor memory is.
pub struct TensorA {
    pub address: u32,
    pub kind: MmaKind,
    pub format: OperandFormat,
    pub path: DataPath,
}

/// The bits of the elements of `m` rows of A from `base` on in a block's tensor memory, row by row.
pub fn tensor_a(
    s: &mut Step<'_, '_>,
    block: usize,
    a: &TensorA,
    [base, m, k]: [usize; 3],
    stamp: Stamp,
) -> Outcome<Vec<u32>> {
    let bits = packing(a.kind, a.format).element_bits() as u32;
    if bits < 8 && !matches!(a.kind, MmaKind::Mxf4 | MmaKind::Mxf4nvf4) {
        let what = format!("A of {:?} in tensor memory: how its elements lie there is not known", a.format);
        return trap(FaultKind::Descriptor, what);
    }
    let first = of_memory(Cell::from_address(a.address))?;
    check_lane(a.path, first, "A")?;
    let columns = (k as u32 * bits).div_ceil(32);
    within(s, block, first, columns, "A")?;
    let place = |row: usize, i: usize| -> Outcome<(Cell, u32)> {
        let (cell, bit) = of_memory(operand_a_place(a.path, a.kind, (base + row) as u32, i as u32))?;
        Ok((of_memory(first.plus(cell))?, bit))
    };
    let mut units = Units::default();
    for row in 0..m {
        for i in 0..k {
            units.add(place(row, i)?.0);
        }
    }
    note(s, block, Engine::Matrix, stamp, &units, false)?;
    let tensor = &s.world.blocks[block].tensor;
    let mask = ((1u64 << bits) - 1) as u32;
    let mut out = Vec::with_capacity(m * k);
    for row in 0..m {
        for i in 0..k {
            let (cell, bit) = place(row, i)?;
            out.push(tensor.get(cell, "tcgen05.mma")? >> bit & mask);
        }
    }
    Ok(out)
}

/// Refuses a lane at which a matrix of a data path may not start.
pub fn check_lane(path: DataPath, first: Cell, what: &str) -> Outcome<()> {
    if path.lane_alignments().contains(&first.lane) {
        return Ok(());
    }
    let what = format!("{what} is at lane {}; it may be at {:?}", first.lane, path.lane_alignments());
    trap(FaultKind::TensorMemory, what)
}

/// Scales of `rows` rows in a block's tensor memory, `parts` of each, row by row. All windows of lanes must have the same.
pub fn scales(
    s: &mut Step<'_, '_>,
    block: usize,
    address: u32,
    id: u8,
    [rows, parts]: [usize; 2],
    stamp: Stamp,
) -> Outcome<Vec<u8>> {
    let first = of_memory(Cell::from_address(address))?;
    if first.lane != 0 {
        let what = format!("scales are at lane {}; they must be at lane 0", first.lane);
        return trap(FaultKind::TensorMemory, what);
    }
    within(s, block, first, rows.div_ceil(32) as u32, "a matrix of scales")?;
    let mut units = Units::default();
    let mut out = Vec::with_capacity(rows * parts);
    for row in 0..rows {
        for part in 0..parts {
            let (cell, byte) = scale_place(row as u32, part as u32, id);
            let mut found = None;
            for replica in SCALE_REPLICAS {
                let offset = Cell { lane: cell.lane + replica, ..cell };
                let at = of_memory(first.plus(offset))?;
                units.add(at);
                let word = s.world.blocks[block].tensor.get(at, "tcgen05.mma (a scale)")?;
                let code = (word >> (8 * byte)) as u8;
                if *found.get_or_insert(code) != code {
                    let what = format!(
                        "the scale of row {row} is not the same in all windows of 32 lanes: lane {} has {code:#x}",
                        at.lane
                    );
                    return trap(FaultKind::TensorMemory, what);
                }
            }
            out.extend(found);
        }
    }
    note(s, block, Engine::Matrix, stamp, &units, false)?;
    Ok(out)
}
