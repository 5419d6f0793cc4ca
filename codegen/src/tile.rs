//! Tiles of 16-byte chunks in shared memory, rows swizzled so that eight rows of one column fall into different banks.
//!
//! Pure arithmetic: the same formula for numbers (tests, packing) and for values of a kernel.

use crate::builder::{I32, Val};

/// Bytes of a chunk: what one `cp.async` or one row of an 8x8 matrix moves.
pub const CHUNK: u32 = 16;

/// A tile of `rows` rows of `row_bytes` bytes: chunk `c` of row `r` lies at `r * row_bytes + (c ^ key(r)) * 16`.
///
/// The key is `r % 8` for rows of 128 bytes or more, `r / 2 % 4` for 64, `r / 4 % 2` for 32: the layouts of tensor maps
/// and `wgmma` too. The tile starts at a multiple of 8 rows' bytes, at least 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows, a multiple of 8.
    pub rows: u32,
    /// Bytes of a row, a power of two, at least 32.
    pub row_bytes: u32,
}

impl Tile {
    /// Bytes of the tile.
    pub const fn bytes(self) -> u32 {
        self.rows * self.row_bytes
    }

    /// Chunks of a row.
    pub const fn chunks(self) -> u32 {
        self.row_bytes / CHUNK
    }

    /// `(shift, mask)` of the key: `(row >> shift) & mask`.
    const fn key_bits(self) -> (u32, u32) {
        match self.row_bytes {
            0..=32 => (2, 1),
            33..=64 => (1, 3),
            _ => (0, 7),
        }
    }

    /// What row `row`'s chunk numbers are exchanged by. Rows that differ by a multiple of 8 have the same key.
    pub fn key(self, row: Val<'_, I32>) -> Val<'_, I32> {
        let (shift, mask) = self.key_bits();
        (row >> shift) & mask
    }

    /// Byte offset of a chunk.
    pub fn offset<'b>(self, row: Val<'b, I32>, chunk: Val<'b, I32>) -> Val<'b, I32> {
        row * self.row_bytes + (chunk ^ self.key(row)) * CHUNK
    }

    /// Byte offset of a chunk, for numbers.
    pub const fn offset_of(self, row: u32, chunk: u32) -> u32 {
        let (shift, mask) = self.key_bits();
        row * self.row_bytes + (chunk ^ ((row >> shift) & mask)) * CHUNK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const TILES: [Tile; 4] = [
        Tile { rows: 64, row_bytes: 32 },
        Tile { rows: 64, row_bytes: 64 },
        Tile { rows: 64, row_bytes: 128 },
        Tile { rows: 64, row_bytes: 256 },
    ];

    #[test]
    fn every_chunk_has_its_own_place() {
        for t in TILES {
            let places: HashSet<u32> =
                (0..t.rows).flat_map(|r| (0..t.chunks()).map(move |c| t.offset_of(r, c))).collect();
            assert_eq!(places.len() as u32, t.rows * t.chunks());
            assert!(places.iter().all(|p| p % CHUNK == 0 && *p < t.bytes()));
        }
    }

    #[test]
    fn a_column_of_an_8x8_matrix_touches_every_bank_once() {
        for t in TILES {
            for first in (0..t.rows).step_by(8) {
                for c in 0..t.chunks() {
                    // 32 banks of 4 bytes: 8 groups of one chunk.
                    let banks: HashSet<u32> =
                        (first..first + 8).map(|r| t.offset_of(r, c) / CHUNK % 8).collect();
                    assert_eq!(banks.len(), 8, "{t:?} row {first} chunk {c}");
                }
            }
        }
    }
}
