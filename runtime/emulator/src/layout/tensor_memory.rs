//! Tensor memory of sm_100: addresses, and where loads, copies, scale factors and accumulators lie in it.
//!
//! A CTA has 128 lanes of 512 columns of 32-bit cells; a warp reaches the window of 32 lanes that its place in the
//! warpgroup gives. Sources: PTX ISA 9.7.16.1 (addresses), .2.3 (load shapes), .7 (allocation), .8 (access), .9 (copies)
//! and .10 (data paths, scale factors); CUTLASS `tmem_frg`, `tmem_sf_frg` and the `UTCCP` traits state the same. No
//! cells are held here.

mod load;
mod operand;

pub use load::{LoadShape, SPLIT_SHAPE};
pub use operand::{AccumulatorPlace, CopyShape, DataPath, SCALE_REPLICAS, operand_a_place, scale_place};

/// Lanes of a CTA's tensor memory.
pub const LANES: u32 = 128;
/// Columns of a CTA's tensor memory.
pub const COLUMNS: u32 = 512;
/// Lanes that one warp of a warpgroup reaches.
pub const WINDOW: u32 = 32;

/// What is wrong with an address, an allocation or a shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorMemoryError {
    /// Outside of the memory.
    #[error(
        "tensor memory address is lane {lane}, column {column}; a CTA has {LANES} lanes of {COLUMNS} columns"
    )]
    Outside {
        /// The lane.
        lane: u32,
        /// The column.
        column: u32,
    },
    /// A number of columns that cannot be allocated.
    #[error("tcgen05.alloc of {found} columns; the number must be a power of two of 32 to 512")]
    Columns {
        /// The number.
        found: u32,
    },
    /// A load or store from another warp's window.
    #[error(
        "{shape:?} of warp {warp} of its warpgroup is at lane {lane}; that warp reaches it at lane {allowed}"
    )]
    Window {
        /// The shape.
        shape: LoadShape,
        /// The warp's number modulo 4.
        warp: u32,
        /// The address's lane.
        lane: u32,
        /// The lanes that it may be at.
        allowed: String,
    },
    /// A repetition that the shape does not have.
    #[error("{shape:?} has no repetition .x{found}; it is a power of two up to .x{most}")]
    Repetition {
        /// The shape.
        shape: LoadShape,
        /// The repetition.
        found: u32,
        /// The largest.
        most: u32,
    },
    /// Rows that no data path has.
    #[error("tcgen05.mma with M {m}, cta_group {cta_group}, .ws {weight_stationary} has no data path")]
    DataPath {
        /// M of both CTAs.
        m: u32,
        /// CTAs.
        cta_group: u8,
        /// Whether it is `.ws`.
        weight_stationary: bool,
    },
    /// A data path whose A in tensor memory is not known.
    #[error("where A lies in tensor memory is known of data paths A, D and F only, not of {path:?}")]
    OperandA {
        /// The data path.
        path: DataPath,
    },
}

/// A cell of tensor memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell {
    /// Lane: bits 16..31 of an address.
    pub lane: u32,
    /// Column: bits 0..15 of an address.
    pub column: u32,
}

impl Cell {
    /// The cell of an address.
    pub fn from_address(address: u32) -> Result<Cell, TensorMemoryError> {
        let cell = Cell { lane: address >> 16, column: address & 0xffff };
        cell.check()?;
        Ok(cell)
    }

    /// The address of a cell.
    pub const fn address(self) -> u32 {
        self.lane << 16 | self.column & 0xffff
    }

    /// The cell `offset` away; lane and column do not carry into each other.
    pub fn plus(self, offset: Cell) -> Result<Cell, TensorMemoryError> {
        let cell = Cell {
            lane: self.lane.saturating_add(offset.lane),
            column: self.column.saturating_add(offset.column),
        };
        cell.check()?;
        Ok(cell)
    }

    fn check(self) -> Result<(), TensorMemoryError> {
        let Cell { lane, column } = self;
        if lane < LANES && column < COLUMNS {
            Ok(())
        } else {
            Err(TensorMemoryError::Outside { lane, column })
        }
    }
}

/// Whether `tcgen05.alloc` and `dealloc` take a number of columns.
pub fn check_allocation(columns: u32) -> Result<(), TensorMemoryError> {
    if (32..=COLUMNS).contains(&columns) && columns.is_power_of_two() {
        Ok(())
    } else {
        Err(TensorMemoryError::Columns { found: columns })
    }
}

#[cfg(test)]
mod tests;
