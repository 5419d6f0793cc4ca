//! `tcgen05.ld` and `tcgen05.st`: which cell each register of each lane of a warp holds.

use super::{Cell, TensorMemoryError, WINDOW};

/// `.shape` of a load or store: lanes of tensor memory and bits of each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadShape {
    /// 32 lanes, each warp lane its own.
    Lanes32Bits32,
    /// 16 lanes of 64 bits.
    Lanes16Bits64,
    /// 16 lanes of 128 bits.
    Lanes16Bits128,
    /// 16 lanes of 256 bits.
    Lanes16Bits256,
    /// Two accesses of 16 lanes of 32 bits; the second is `immHalfSplitoff` columns further.
    Lanes16Bits32X2,
}

/// The one shape that has a second address.
pub const SPLIT_SHAPE: LoadShape = LoadShape::Lanes16Bits32X2;

impl LoadShape {
    /// Every shape.
    pub const ALL: [LoadShape; 5] = [
        LoadShape::Lanes32Bits32,
        LoadShape::Lanes16Bits64,
        LoadShape::Lanes16Bits128,
        LoadShape::Lanes16Bits256,
        LoadShape::Lanes16Bits32X2,
    ];

    /// Lanes of tensor memory.
    pub const fn lanes(self) -> u32 {
        match self {
            LoadShape::Lanes32Bits32 => 32,
            _ => 16,
        }
    }

    /// Registers of each lane of the warp at `.x1`.
    const fn base_registers(self) -> u32 {
        match self {
            LoadShape::Lanes16Bits128 => 2,
            LoadShape::Lanes16Bits256 => 4,
            _ => 1,
        }
    }

    /// Registers of each lane of the warp, for a repetition `.xN`: at most 128.
    pub fn registers(self, repetition: u32) -> Result<u32, TensorMemoryError> {
        let most = 128 / self.base_registers();
        if repetition.is_power_of_two() && repetition <= most {
            Ok(repetition * self.base_registers())
        } else {
            Err(TensorMemoryError::Repetition { shape: self, found: repetition, most })
        }
    }

    /// Whether warp `warp` may start the shape at `lane`: the warp's window of 32 lanes, of which a shape of 16 lanes
    /// takes either half.
    pub fn check_lane(self, warp: u32, lane: u32) -> Result<(), TensorMemoryError> {
        let warp = warp % 4;
        let first = warp * WINDOW;
        if lane == first || self.lanes() == 16 && lane == first + 16 {
            return Ok(());
        }
        let allowed =
            if self.lanes() == 16 { format!("{first} or {}", first + 16) } else { first.to_string() };
        Err(TensorMemoryError::Window { shape: self, warp, lane, allowed })
    }

    /// The cell of `register` of `lane` (0..32) of the warp, relative to the address; without `.pack::16b`.
    ///
    /// `split` is `immHalfSplitoff` and is used by [`SPLIT_SHAPE`] alone. With g = lane / 4, q = lane % 4, r the
    /// register:
    ///
    /// | shape | lane | column |
    /// |---|---|---|
    /// | 32x32b | lane | r |
    /// | 16x64b | g + 8 (lane & 1) | (lane >> 1 & 1) + 2 r |
    /// | 16x128b | g + 8 (r & 1) | q + 4 (r >> 1) |
    /// | 16x256b | g + 8 (r >> 1 & 1) | 2 q + (r & 1) + 8 (r >> 2) |
    /// | 16x32bx2 | lane % 16 | r + split (lane / 16) |
    pub const fn cell(self, lane: u32, register: u32, split: u32) -> Cell {
        let (g, q, r) = (lane / 4, lane % 4, register);
        match self {
            LoadShape::Lanes32Bits32 => Cell { lane, column: r },
            LoadShape::Lanes16Bits64 => Cell { lane: g + 8 * (lane & 1), column: (lane >> 1 & 1) + 2 * r },
            LoadShape::Lanes16Bits128 => Cell { lane: g + 8 * (r & 1), column: q + 4 * (r >> 1) },
            LoadShape::Lanes16Bits256 => {
                Cell { lane: g + 8 * (r >> 1 & 1), column: 2 * q + (r & 1) + 8 * (r >> 2) }
            }
            LoadShape::Lanes16Bits32X2 => Cell { lane: lane % 16, column: r + split * (lane / 16) },
        }
    }

    /// The two cells of a register with `.pack::16b` or `.unpack::16b`: the low 16 bits of the register are those of the
    /// first cell, the high 16 bits the low ones of the next column.
    pub const fn packed_cells(self, lane: u32, register: u32, split: u32) -> [Cell; 2] {
        let half = match self {
            LoadShape::Lanes16Bits32X2 => {
                let cell = self.cell(lane, 0, split);
                Cell { lane: cell.lane, column: cell.column + 2 * register }
            }
            _ => {
                let cell = self.cell(lane, register, split);
                Cell { lane: cell.lane, column: 2 * cell.column }
            }
        };
        [half, Cell { lane: half.lane, column: half.column + 1 }]
    }
}
