//! The copy of one box: which bytes of shared memory pair with which of global memory, and which lie outside.
//!
//! Offsets in shared memory are from the box's start and before the swizzle; the caller adds its address and applies
//! [`crate::layout::Swizzle::apply`] to the sum. Sources: PTX ISA 5.5.3 (tiled), 5.5.4 (im2col) and 9.7.9.27.1
//! (restrictions); rows, gaps and fills were compared with an H100. Multicast, mbarriers and bytes are the caller's.

#![allow(clippy::needless_range_loop, reason = "a dimension indexes coordinates, sizes and strides at once")]

use super::{DataType, MAX_RANK, Mode, TensorMap};
use std::ops::Range;

/// A run of elements along dimension 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Offset of its first element in shared memory.
    pub shared: u64,
    /// Elements, inside and outside.
    pub elements: u32,
    /// The elements inside of the tensor.
    pub valid: Range<u32>,
    /// Global address of element `valid.start`; 0 if none is valid.
    pub address: u64,
}

/// Where the bytes of a chunk belong in global memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this global address.
    Global(u64),
    /// Outside of the tensor: a load writes the fill, stores and reductions write nothing.
    Outside,
    /// A gap of a padded type: a load leaves it with no defined value.
    Gap,
}

/// Bytes that lie together in both memories. A chunk never crosses a boundary of 16 bytes in shared memory (8 of a
/// swizzle that swaps halves), so a swizzle moves it whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Offset in shared memory.
    pub shared: u64,
    /// Bytes, 1 to 16.
    pub bytes: u64,
    /// Their place.
    pub place: Place,
}

/// Why a copy cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorCopyError {
    /// A tiled copy of an im2col map, or the reverse.
    #[error("tensor map is {}, the copy is {}", name(*.im2col_map), name(!*.im2col_map))]
    Mode {
        /// Whether the map is im2col.
        im2col_map: bool,
    },
    /// Another number of coordinates than dimensions.
    #[error("copy has {found} {what}; the tensor map of rank {rank} wants {wanted}")]
    Count {
        /// Coordinates or offsets.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// The map's rank.
        rank: usize,
        /// How many it wants.
        wanted: usize,
    },
    /// The first coordinate is not at a boundary that the copy can start at.
    #[error(
        "first coordinate {found} of a copy of {dtype:?}; it must be a multiple of {multiple} (16 bytes)"
    )]
    FirstCoordinate {
        /// The coordinate.
        found: i32,
        /// The map's type.
        dtype: DataType,
        /// Elements of the boundary.
        multiple: i32,
    },
    /// A filter base outside of the bounding box.
    #[error(
        "im2col coordinate {found} of dimension {dimension} is outside of the bounding box {least}..={most}"
    )]
    OutsideBoundingBox {
        /// The dimension.
        dimension: usize,
        /// The coordinate.
        found: i32,
        /// The lowest filter base.
        least: i64,
        /// The highest filter base.
        most: i64,
    },
    /// An offset that has too many bits.
    #[error("im2col offset {found} in a tensor of rank {rank}; allowed are 0 to {most}")]
    Offset {
        /// The offset.
        found: u16,
        /// The map's rank.
        rank: usize,
        /// The largest.
        most: u16,
    },
    /// A gather or scatter of a map that has no single rows.
    #[error(
        "tile::gather4 and tile::scatter4 want a tiled map of rank 2 whose box has 1 row; rank is {rank}, rows {rows}"
    )]
    Gather {
        /// The map's rank.
        rank: usize,
        /// Rows of its box.
        rows: u64,
    },
    /// A copy to global memory that starts before the tensor.
    #[error("copy to global memory has coordinate {found} of dimension {dimension}; it must not be negative")]
    NegativeStore {
        /// The dimension.
        dimension: usize,
        /// The coordinate.
        found: i32,
    },
    /// A type that this direction does not take.
    #[error("{dtype:?} is no type of {direction}")]
    Direction {
        /// The map's type.
        dtype: DataType,
        /// The copy.
        direction: &'static str,
    },
}

fn name(im2col: bool) -> &'static str {
    if im2col { "im2col" } else { "tiled" }
}

impl TensorMap {
    /// The rows of a tiled copy from signed `start` coordinates, the densest first.
    pub fn tile(&self, start: &[i32]) -> Result<Vec<Row>, TensorCopyError> {
        let map = self.parameters();
        if map.mode != Mode::Tiled {
            return Err(TensorCopyError::Mode { im2col_map: true });
        }
        self.check_start(start)?;
        let mut rows = Vec::with_capacity(self.rows() as usize);
        let mut step = [0u32; MAX_RANK];
        for index in 0..self.rows() {
            let outer: [i64; MAX_RANK] = std::array::from_fn(|dimension| match start.get(dimension) {
                Some(&first) => {
                    i64::from(first) + i64::from(step[dimension] * map.element_strides[dimension])
                }
                None => 0,
            });
            rows.push(self.row(index, start[0].into(), &outer));
            for dimension in 1..map.rank {
                step[dimension] += 1;
                if step[dimension] < self.steps(dimension) {
                    break;
                }
                step[dimension] = 0;
            }
        }
        Ok(rows)
    }

    /// The rows of an im2col copy: one per pixel.
    ///
    /// `start` has C, the filter base in W, H, D as far as the rank goes, and N; `offsets` has the place in the filter
    /// along W, H, D. The base steps by the element stride of each dimension from the bounding box's lower to its upper
    /// corner, W first, then to the next image.
    pub fn im2col(&self, start: &[i32], offsets: &[u16]) -> Result<Vec<Row>, TensorCopyError> {
        let map = self.parameters();
        let rank = map.rank;
        let Mode::Im2col { lower, upper, .. } = map.mode else {
            return Err(TensorCopyError::Mode { im2col_map: false });
        };
        self.check_start(start)?;
        if offsets.len() != rank - 2 {
            let (found, wanted) = (offsets.len(), rank - 2);
            return Err(TensorCopyError::Count { what: "im2col offsets", found, rank, wanted });
        }
        let most: u16 = match rank {
            3 => u16::MAX,
            4 => 0xff,
            _ => 0x1f,
        };
        if let Some(&found) = offsets.iter().find(|offset| **offset > most) {
            return Err(TensorCopyError::Offset { found, rank, most });
        }
        let bounds = |dimension: usize| {
            let first = i64::from(lower[dimension - 1]);
            first..=map.dims[dimension] as i64 - 1 + i64::from(upper[dimension - 1])
        };
        let mut base: [i64; MAX_RANK] =
            std::array::from_fn(|index| start.get(index).map_or(0, |c| i64::from(*c)));
        for dimension in 1..rank - 1 {
            let (found, range) = (start[dimension], bounds(dimension));
            if !range.contains(&found.into()) {
                let (least, most) = (*range.start(), *range.end());
                return Err(TensorCopyError::OutsideBoundingBox { dimension, found, least, most });
            }
        }
        let mut rows = Vec::with_capacity(self.rows() as usize);
        for index in 0..self.rows() {
            let mut pixel = base;
            for (spatial, offset) in offsets.iter().enumerate() {
                pixel[spatial + 1] += i64::from(*offset);
            }
            rows.push(self.row(index, start[0].into(), &pixel));
            for dimension in 1..rank {
                if dimension == rank - 1 {
                    base[dimension] += 1;
                    break;
                }
                base[dimension] += i64::from(map.element_strides[dimension]);
                if base[dimension] <= *bounds(dimension).end() {
                    break;
                }
                base[dimension] = *bounds(dimension).start();
            }
        }
        Ok(rows)
    }

    /// The four rows of `tile::gather4` and `tile::scatter4`, each from `column` of a row of its own.
    pub fn gather4(&self, column: i32, rows: [i32; 4]) -> Result<Vec<Row>, TensorCopyError> {
        let map = self.parameters();
        if map.mode != Mode::Tiled || map.rank != 2 || self.rows() != 1 {
            return Err(TensorCopyError::Gather { rank: map.rank, rows: self.rows() });
        }
        let mut out = Vec::with_capacity(4);
        for (index, row) in rows.into_iter().enumerate() {
            self.check_start(&[column, row])?;
            out.push(self.row(index as u64, column.into(), &[0, row.into(), 0, 0, 0]));
        }
        Ok(out)
    }

    /// Whether a copy from shared to global memory may start there. 4-bit elements with gaps cannot be stored; 6-bit
    /// ones are stored from another layout (`.b6p2x16`), which rows do not describe.
    pub fn check_store(&self, start: &[i32]) -> Result<(), TensorCopyError> {
        let dtype = self.parameters().dtype;
        if dtype.padded().is_some() {
            return Err(TensorCopyError::Direction { dtype, direction: "a copy to global memory" });
        }
        match start.iter().enumerate().find(|(_, coordinate)| **coordinate < 0) {
            Some((dimension, &found)) => Err(TensorCopyError::NegativeStore { dimension, found }),
            None => Ok(()),
        }
    }

    /// Whether `cp.reduce.async.bulk.tensor` may start there.
    pub fn check_reduce(&self, start: &[i32]) -> Result<(), TensorCopyError> {
        let dtype = self.parameters().dtype;
        if dtype.bits() < 8 {
            return Err(TensorCopyError::Direction { dtype, direction: "a reduction" });
        }
        self.check_store(start)
    }

    /// The number of coordinates and the alignment of the first. The ISA states the multiple of padded types; that of
    /// the others is what an H100 takes: it faults at a first coordinate that is no multiple of 16 bytes.
    fn check_start(&self, start: &[i32]) -> Result<(), TensorCopyError> {
        let map = self.parameters();
        if start.len() != map.rank {
            let (found, rank) = (start.len(), map.rank);
            return Err(TensorCopyError::Count { what: "coordinates", found, rank, wanted: rank });
        }
        let multiple = if map.dtype.padded().is_some() { 128 } else { (128 / map.dtype.bits()) as i32 };
        if start[0] % multiple == 0 {
            Ok(())
        } else {
            Err(TensorCopyError::FirstCoordinate { found: start[0], dtype: map.dtype, multiple })
        }
    }

    /// Row `index` of shared memory, from `first` along dimension 0 at the `outer` coordinates of the others.
    fn row(&self, index: u64, first: i64, outer: &[i64; MAX_RANK]) -> Row {
        let map = self.parameters();
        let (elements, shared) = (self.inner_elements(), index * self.row_pitch());
        let size = |dimension: usize| map.dims[dimension] as i64;
        let inside = (1..map.rank).all(|dimension| (0..size(dimension)).contains(&outer[dimension]));
        // The counts are clamped to 0..=elements, which fits.
        let count = |at: i64| at.clamp(0, elements.into()) as u32;
        let valid = count(-first)..count(size(0) - first);
        if !inside || valid.is_empty() {
            return Row { shared, elements, valid: 0..0, address: 0 };
        }
        let mut address = map.address;
        for dimension in 1..map.rank {
            // Sizes reach 2^32 and strides 2^40: a tensor beyond the address space wraps, and the access faults.
            address =
                address.wrapping_add((outer[dimension] as u64).wrapping_mul(map.strides[dimension - 1]));
        }
        let element = (first + i64::from(valid.start)) as u64;
        Row { shared, elements, valid, address: address.wrapping_add(element * map.dtype.bits() / 8) }
    }

    /// The bytes of a row, in the order of shared memory.
    pub fn chunks(&self, row: &Row) -> Vec<Chunk> {
        match self.parameters().dtype.padded() {
            Some(packing) => self.padded_chunks(row, packing.element_bits() * 2),
            None => self.dense_chunks(row),
        }
    }

    /// Groups of 16 elements: `data` bytes and a gap. Sizes and starts are multiples of 128 elements, so a group lies
    /// wholly inside or outside.
    fn padded_chunks(&self, row: &Row, data: u64) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for group in 0..row.elements / 16 {
            let shared = row.shared + u64::from(group) * 16;
            let place = if row.valid.contains(&(group * 16)) {
                Place::Global(row.address.wrapping_add(u64::from(group - row.valid.start / 16) * data))
            } else {
                Place::Outside
            };
            chunks.push(Chunk { shared, bytes: data, place });
            chunks.push(Chunk { shared: shared + data, bytes: 16 - data, place: Place::Gap });
        }
        chunks
    }

    /// Runs before, inside and after the tensor, cut at the swizzle's atoms. Bounds of 4-bit runs are whole bytes, since
    /// sizes are even and starts multiples of 32.
    fn dense_chunks(&self, row: &Row) -> Vec<Chunk> {
        let map = self.parameters();
        let atom = map.swizzle.atom_bytes().min(16);
        let byte = |element: u32| u64::from(element) * map.dtype.bits() / 8;
        let (start, end) = (byte(row.valid.start), byte(row.valid.end));
        let mut chunks = Vec::new();
        let mut at = 0;
        while at < byte(row.elements) {
            let inside = (start..end).contains(&at);
            let bound = if inside {
                end
            } else if at < start {
                start
            } else {
                byte(row.elements)
            };
            let stop = bound.min((at / atom + 1) * atom);
            let place =
                if inside { Place::Global(row.address.wrapping_add(at - start)) } else { Place::Outside };
            chunks.push(Chunk { shared: row.shared + at, bytes: stop - at, place });
            at = stop;
        }
        chunks
    }
}
