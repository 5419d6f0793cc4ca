//! Fragments: which element of a matrix each register of each lane holds.
//!
//! Covers mma.sync (m16n8kK), wgmma, ldmatrix, stmatrix and the scale selectors of block-scaled mma.sync. Sources: the
//! fragment figures of PTX ISA 9.7.14.5 (mma, ldmatrix, stmatrix), 9.7.14.3 (block scaling) and 9.7.15.5.1.1 (wgmma);
//! the layouts of CUTLASS's `MMA_Traits` and `Copy_Traits` state the same.
//!
//! Throughout, `lane` is 0..32, g = lane / 4 is its group and q = lane % 4 its place in the quad. A register holds
//! 32 / bits elements, the first in its low bits; `element` counts them. Functions are total: numbers beyond a fragment
//! give places beyond the matrix, never a panic.

mod matrix;
mod scale;

pub use matrix::{
    Expansion, b8_stmatrix_place, b8_transposed_place, b16_place, expand_row, m8n16_place, row_address_lane,
};
pub use scale::{ScaleSelector, ScaleVector};

/// The place of an element in its matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Row: m of A and of the accumulator, k of B.
    pub row: usize,
    /// Column: k of A, n of B and of the accumulator.
    pub column: usize,
}

/// What has no fragment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// No such shape of mma.sync.
    #[error(
        "mma.sync m16n8k{k} has no fragments of {bits}-bit elements; K is 128 or 256 bits of 1, 4, 8, 16 or 32-bit ones"
    )]
    MmaShape {
        /// Bits of an element.
        bits: u32,
        /// K.
        k: u32,
    },
    /// No such scale selector.
    #[error("block-scaled mma.sync with {vector:?} has {what} {found}; allowed are {allowed}")]
    Selector {
        /// The scale vector's size.
        vector: ScaleVector,
        /// The component.
        what: &'static str,
        /// Its value.
        found: u16,
        /// What it may be.
        allowed: &'static str,
    },
}

/// A shape m16n8kK of mma.sync for one width of elements.
///
/// A register covers s = 32 / bits elements of K, a quad 4s, and K is one or two quads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MmaShape {
    bits: u32,
    k: u32,
}

impl MmaShape {
    /// Rows of A.
    pub const M: usize = 16;
    /// Columns of B.
    pub const N: usize = 8;

    /// The shape with this K of elements of these bits: 1, 4, 8, 16 or 32 (tf32).
    pub fn new(bits: u32, k: u32) -> Result<MmaShape, FragmentError> {
        if matches!(bits, 1 | 4 | 8 | 16 | 32) && matches!(k.checked_mul(bits), Some(128 | 256)) {
            Ok(MmaShape { bits, k })
        } else {
            Err(FragmentError::MmaShape { bits, k })
        }
    }

    /// K.
    pub const fn k(self) -> usize {
        self.k as usize
    }

    /// Elements in a register of A or B.
    pub const fn elements(self) -> usize {
        32 / self.bits as usize
    }

    /// Registers of A in each lane: 2 or 4.
    pub const fn a_registers(self) -> usize {
        self.b_registers() * 2
    }

    /// Registers of B in each lane: 1 or 2.
    pub const fn b_registers(self) -> usize {
        self.k() / (4 * self.elements())
    }

    /// The element of A (m, k) in a register: rows g and g + 8 alternate, then K's second quad.
    pub const fn a(self, lane: usize, register: usize, element: usize) -> Place {
        Place { row: lane / 4 + register % 2 * 8, column: self.along_k(lane, register / 2, element) }
    }

    /// The element of B (k, n) in a register.
    pub const fn b(self, lane: usize, register: usize, element: usize) -> Place {
        Place { row: self.along_k(lane, register, element), column: lane / 4 }
    }

    const fn along_k(self, lane: usize, quad: usize, element: usize) -> usize {
        let s = self.elements();
        quad * 4 * s + lane % 4 * s + element
    }
}

/// The element of a 16 x 8 accumulator of mma.sync (m, n). `index` counts the lane's 4 elements: register of 32-bit
/// accumulators, 2 * register + half of packed f16 ones.
pub const fn mma_accumulator(lane: usize, index: usize) -> Place {
    Place { row: lane / 4 + index / 2 * 8, column: lane % 4 * 2 + index % 2 }
}

/// The element of a 64 x N accumulator of wgmma (m, n). `thread` is 0..128 in the warpgroup; `index` counts the
/// thread's N / 2 elements as [`mma_accumulator`] does.
pub const fn wgmma_accumulator(thread: usize, index: usize) -> Place {
    let tile = mma_accumulator(thread % 32, index % 4);
    Place { row: thread / 32 * 16 + tile.row, column: index / 4 * 8 + tile.column }
}

/// The element of wgmma's A in registers (m, k): each warp has 16 rows, which lie as mma.sync's A with K of 256 bits.
/// `bits` is 8, 16 or 32 (tf32); each thread has 4 registers.
pub fn wgmma_a(bits: u32, thread: usize, register: usize, element: usize) -> Result<Place, FragmentError> {
    let k = 256u32.checked_div(bits).unwrap_or(0);
    let place = MmaShape::new(bits, k)?.a(thread % 32, register, element);
    Ok(Place { row: thread / 32 * 16 + place.row, ..place })
}

#[cfg(test)]
mod tests;
