//! What `tcgen05.cp` fills and `tcgen05.mma` reads and writes: copies, scale factors, A and accumulators.

use super::{Cell, TensorMemoryError};
use crate::layout::instruction_descriptor::MmaKind;

/// `.shape` of `tcgen05.cp` with its multicast: rows of shared memory and bits of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CopyShape {
    /// `.128x256b`.
    Rows128Bits256,
    /// `.4x256b`.
    Rows4Bits256,
    /// `.128x128b`.
    Rows128Bits128,
    /// `.64x128b.warpx2::02_13`.
    Rows64Bits128Warps02And13,
    /// `.64x128b.warpx2::01_23`.
    Rows64Bits128Warps01And23,
    /// `.32x128b.warpx4`.
    Rows32Bits128Warps4,
}

impl CopyShape {
    /// Rows of the source, in shared memory a K-major matrix of bytes.
    pub const fn rows(self) -> u32 {
        match self {
            CopyShape::Rows128Bits256 | CopyShape::Rows128Bits128 => 128,
            CopyShape::Rows4Bits256 => 4,
            CopyShape::Rows64Bits128Warps02And13 | CopyShape::Rows64Bits128Warps01And23 => 64,
            CopyShape::Rows32Bits128Warps4 => 32,
        }
    }

    /// Columns (32-bit cells) of a row.
    pub const fn columns(self) -> u32 {
        match self {
            CopyShape::Rows128Bits256 | CopyShape::Rows4Bits256 => 8,
            _ => 4,
        }
    }

    /// The lanes, relative to the address, that a row fills; one, two or four of them.
    ///
    /// Rows of `.4x256b` go to one lane of each window. A multicast gives a half of 64 rows to both warps of a pair, and
    /// 32 rows to all four.
    pub fn lanes(self, row: u32) -> Vec<u32> {
        match self {
            CopyShape::Rows128Bits256 | CopyShape::Rows128Bits128 => vec![row],
            CopyShape::Rows4Bits256 => vec![row * 32],
            CopyShape::Rows64Bits128Warps02And13 => vec![row, row + 64],
            CopyShape::Rows64Bits128Warps01And23 => {
                let first = row / 32 * 64 + row % 32;
                vec![first, first + 32]
            }
            CopyShape::Rows32Bits128Warps4 => (0..4).map(|warp| row + 32 * warp).collect(),
        }
    }
}

/// Lanes between the four copies of a scale factor: each window of 32 lanes has all of them.
pub const SCALE_REPLICAS: [u32; 4] = [0, 32, 64, 96];

/// The cell, relative to the scales' address, and the byte in it that hold a scale factor.
///
/// `row` counts along M of the CTA's A or N of B; `part` along K: 1, 2 or 4 of `.scale_vec::1X`, 2X or 4X; `id` is the
/// descriptor's scale factor id, the byte of part 0. 32 rows are lanes of a column, the next 32 the next column. The cell
/// is that of the first window; [`SCALE_REPLICAS`] has the others, and which of them the hardware reads is not defined.
pub const fn scale_place(row: u32, part: u32, id: u8) -> (Cell, u32) {
    (Cell { lane: row % 32, column: row / 32 }, id as u32 + part)
}

/// How `tcgen05.mma` spreads rows over lanes: the ISA's "Layout" A to G.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataPath {
    /// M = 256 of two CTAs: 128 lanes each.
    A,
    /// M = 128 of two CTAs, dense: 64 rows each, columns in two halves.
    B,
    /// M = 128 of two CTAs, sparse: 64 rows each, 16 lanes of each window.
    C,
    /// M = 128 of one CTA: a lane per row.
    D,
    /// M = 64 with `.ws`: columns in two halves.
    E,
    /// M = 64 of one CTA: 16 lanes of each window.
    F,
    /// M = 32 with `.ws`: columns in four quarters.
    G,
}

/// The place of an element of D.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AccumulatorPlace {
    /// The CTA of the group: 0 or 1.
    pub cta: u32,
    /// The cell, relative to D's address. Elements of 16 bits are in its low half.
    pub cell: Cell,
}

impl DataPath {
    /// The data path of M rows, both CTAs together.
    pub fn of(
        m: u32,
        cta_group: u8,
        weight_stationary: bool,
        sparse: bool,
    ) -> Result<DataPath, TensorMemoryError> {
        match (m, cta_group, weight_stationary) {
            (32, 1, true) => Ok(DataPath::G),
            (64, 1, true) => Ok(DataPath::E),
            (64, 1, false) => Ok(DataPath::F),
            (128, 1, _) => Ok(DataPath::D),
            (128, 2, false) if sparse => Ok(DataPath::C),
            (128, 2, false) => Ok(DataPath::B),
            (256, 2, false) => Ok(DataPath::A),
            _ => Err(TensorMemoryError::DataPath { m, cta_group, weight_stationary }),
        }
    }

    /// The lanes at which a matrix of this path may start.
    pub const fn lane_alignments(self) -> &'static [u32] {
        match self {
            DataPath::C | DataPath::F => &[0, 16],
            _ => &[0],
        }
    }

    /// Where D's element (`row`, `column`) of `n` columns lies.
    pub const fn accumulator(self, row: u32, column: u32, n: u32) -> AccumulatorPlace {
        let (cta, row) = match self {
            DataPath::A => (row / 128, row % 128),
            DataPath::B | DataPath::C => (row / 64, row % 64),
            _ => (0, row),
        };
        // Columns of one of the parts that lie beside each other in lanes; at least 1, so that no `n` divides by zero.
        let width = match self {
            DataPath::B | DataPath::E => n / 2,
            DataPath::G => n / 4,
            _ => n,
        };
        let width = if width == 0 { 1 } else { width };
        let cell = match self {
            DataPath::A | DataPath::D => Cell { lane: row, column },
            DataPath::C | DataPath::F => Cell { lane: row / 16 * 32 + row % 16, column },
            DataPath::B | DataPath::E => Cell { lane: row + column / width * 64, column: column % width },
            DataPath::G => Cell { lane: row + column / width * 32, column: column % width },
        };
        AccumulatorPlace { cta, cell }
    }
}

/// The cell, relative to A's address in tensor memory, and the bit in it at which A's element (`row`, `k`) starts.
///
/// Rows are in the lanes of the accumulator's rows. Elements lie densely along K: in their own width, in bytes of the
/// kinds that mix widths, in 4 bits of mxf4 and mxf4nvf4.
pub fn operand_a_place(
    path: DataPath,
    kind: MmaKind,
    row: u32,
    k: u32,
) -> Result<(Cell, u32), TensorMemoryError> {
    if !matches!(path, DataPath::A | DataPath::D | DataPath::F) {
        return Err(TensorMemoryError::OperandA { path });
    }
    let bits = match kind {
        MmaKind::Tf32 => 32,
        MmaKind::F16 => 16,
        MmaKind::F8f6f4 | MmaKind::I8 | MmaKind::Mxf8f6f4 => 8,
        MmaKind::Mxf4 | MmaKind::Mxf4nvf4 => 4,
    };
    let per_cell = 32 / bits;
    let lane = path.accumulator(row, 0, 1).cell.lane;
    Ok((Cell { lane, column: k / per_cell }, k % per_cell * bits))
}
