//! Tensor memory of a block: 128 lanes of 512 columns of 32 bits, and who has allocated which columns.

/// Lanes.
pub const TENSOR_LANES: usize = 128;
/// Columns.
pub const COLUMNS: usize = 512;

/// Tensor memory.
#[derive(Debug, Default)]
pub struct TensorMemory {
    /// `(lane, column)`; empty until it is used.
    pub words: Vec<u32>,
    /// Words that were written.
    pub known: Vec<bool>,
    /// Columns that are allocated: first, and how many.
    pub allocated: Vec<(u32, u32)>,
    /// True once the block has given up the right to allocate.
    pub relinquished: bool,
}
