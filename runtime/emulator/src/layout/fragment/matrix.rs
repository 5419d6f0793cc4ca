//! ldmatrix and stmatrix: matrices whose rows lie anywhere in shared memory, spread over the registers of a warp.
//!
//! A place here is in the matrix as it lies in shared memory: `row` is the row whose address a lane gives, `column` the
//! element in that row. Both instructions share the 16-bit maps; those of 8 bits differ, as the transposed fragment of a
//! 16 x 16 matrix (4 elements along a row of the transposed matrix) is no accumulator. Sources: PTX ISA 9.7.14.5.15 and
//! .16, CUTLASS `SM75_U32x1_LDSM_N`, `SM75_U16x2_LDSM_T`, `SM100_U8x8_LDSM_T` (which reorders the bytes after the load)
//! and `SM100_U8x4_STSM_T`.

use super::Place;
use crate::layout::Packing;

/// The lane that gives the address of `row` of matrix `matrix`, where matrices have `rows` rows: 8, or 16 of
/// ldmatrix.m16n16.
pub const fn row_address_lane(rows: usize, matrix: usize, row: usize) -> usize {
    matrix * rows + row
}

/// `.m8n8.b16`, ldmatrix and stmatrix: the element in half `element` (0 or 1) of the one register that a lane has of
/// each matrix.
pub const fn b16_place(transposed: bool, lane: usize, element: usize) -> Place {
    let (group, pair) = (lane / 4, lane % 4 * 2 + element);
    if transposed { Place { row: pair, column: group } } else { Place { row: group, column: pair } }
}

/// `ldmatrix.m16n16.trans.b8`, also of 6-bit and 4-bit elements once they are expanded: the element in byte `element`
/// of register `register` (0 or 1) that a lane has of each matrix.
pub const fn b8_transposed_place(lane: usize, register: usize, element: usize) -> Place {
    Place { row: lane % 4 * 4 + element, column: lane / 4 + register * 8 }
}

/// `ldmatrix.m8n16.b8x16.*`: the element in byte `element` of the one register that a lane has of each matrix, once
/// rows are expanded.
pub const fn m8n16_place(lane: usize, element: usize) -> Place {
    Place { row: lane / 4, column: lane % 4 * 4 + element }
}

/// `stmatrix.m16n8.trans.b8`: where byte `element` of the one register that a lane has of each matrix is stored. A 16 x 8
/// accumulator is stored as 8 rows of 16 bytes.
pub const fn b8_stmatrix_place(lane: usize, element: usize) -> Place {
    Place { row: lane % 4 * 2 + element % 2, column: lane / 4 + element / 2 * 8 }
}

/// Where the bits of a narrow element lie in its byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expansion {
    /// ldmatrix: in the low bits. mma.sync wants 4-bit elements in bits 2..5, so kernels shift them.
    Low,
    /// tcgen05.cp: 6-bit elements in the low bits, 4-bit elements in bits 2..5, as tcgen05.mma reads them.
    Centered,
}

/// The 16 bytes of 16 elements that lie in `row` as `.b4x16_p64` or `.b6x16_p32`; `None` of other packings. Bits beside
/// an element are 0.
pub fn expand_row(packing: Packing, expansion: Expansion, row: [u8; 16]) -> Option<[u8; 16]> {
    let shift = match (packing, expansion) {
        (Packing::Bits4In16Bytes, Expansion::Centered) => 2,
        (Packing::Bits4In16Bytes | Packing::Bits6In16Bytes, _) => 0,
        _ => return None,
    };
    let word = u128::from_le_bytes(row);
    let mask = (1u128 << packing.element_bits()) - 1;
    Some(std::array::from_fn(|index| ((word >> packing.bit(index as u64) & mask) as u8) << shift))
}
