//! Tensor maps: what `cp.async.bulk.tensor` knows of a tensor in global memory and of the box that it copies.
//!
//! The limits are those of `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col` (CUDA driver API, "Tensor Map Object
//! Management"); what the driver's text leaves open was asked of a driver on an H100. The opaque 128 bytes of a
//! `CUtensorMap` are not public: `bytes` has an encoding of our own. Interleaved maps and the `im2col::w` modes are not
//! here: the ISA does not say enough of them.

mod bytes;
mod copy;
mod data_type;

pub use bytes::TensorMapBytesError;
pub use copy::{Chunk, Place, Row, TensorCopyError};
pub use data_type::DataType;

use super::{Packing, Swizzle};

/// The largest rank.
pub const MAX_RANK: usize = 5;

/// The most bytes of a box: the shared memory of an SM, 228 KiB. Not in the driver's text; a driver on an H100 takes
/// 228 KiB and refuses 240, counting bytes as [`TensorMap::box_bytes`] does.
pub const MAX_BOX_BYTES: u64 = 228 << 10;

/// Interleaved layouts of channels (`CUtensorMapInterleave`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interleave {
    /// Dimensions lie as their strides say.
    None,
    /// Slices of 16 bytes of channels (NC/8HWC8 of 2-byte elements).
    Bytes16,
    /// Slices of 32 bytes of channels (NC/16HWC16 of 2-byte elements).
    Bytes32,
}

/// What elements outside of the tensor become in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OobFill {
    /// Zeros.
    Zero,
    /// A NaN that asks an fma to yield zero: each two bytes are [`OobFill::NAN_PATTERN`].
    NanRequestZeroFma,
}

impl OobFill {
    /// Each 16 bits of a NaN fill, whatever the type, as an H100 writes them.
    pub const NAN_PATTERN: u16 = 0x7ff7;

    /// The byte at `offset` of a filled, 2-byte-aligned region.
    pub const fn byte(self, offset: u64) -> u8 {
        match self {
            OobFill::Zero => 0,
            OobFill::NanRequestZeroFma => Self::NAN_PATTERN.to_le_bytes()[(offset % 2) as usize],
        }
    }
}

/// Which elements a copy visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A box of the tensor.
    Tiled,
    /// Pixels under a convolution filter. Spatial dimensions are in the order of the tensor's: W, then H, then D.
    Im2col {
        /// Bounding box: the lowest filter base, relative to the first pixel.
        lower: [i16; 3],
        /// Bounding box: the highest filter base, relative to the last pixel.
        upper: [i16; 3],
        /// Elements along dimension 0.
        channels_per_pixel: u32,
        /// Pixels that a copy visits.
        pixels_per_column: u32,
    },
}

/// A tensor map, before it is checked. Entries at and after the rank (the last one, for strides) are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorMapParameters {
    /// Type of elements.
    pub dtype: DataType,
    /// Dimensions: 1 to 5; 3 to 5 of im2col.
    pub rank: usize,
    /// Global address of element 0.
    pub address: u64,
    /// Elements along each dimension, the densest first.
    pub dims: [u64; MAX_RANK],
    /// Bytes between elements of dimensions 1, 2, ..
    pub strides: [u64; MAX_RANK - 1],
    /// Elements that the box spans along each dimension; unused in im2col.
    pub box_dims: [u32; MAX_RANK],
    /// Steps along each dimension; the first is not used.
    pub element_strides: [u32; MAX_RANK],
    /// Interleaved layout.
    pub interleave: Interleave,
    /// Swizzle of shared memory.
    pub swizzle: Swizzle,
    /// Fill of elements outside.
    pub fill: OobFill,
    /// Which elements a copy visits.
    pub mode: Mode,
}

/// A tensor map whose limits hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorMap(TensorMapParameters);

/// What is wrong with a tensor map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorMapError {
    /// The rank does not exist.
    #[error("tensor map has rank {found}; a tiled map has 1 to 5, an im2col map 3 to 5")]
    Rank {
        /// The rank.
        found: usize,
    },
    /// A number is not a multiple of what it must be.
    #[error("tensor map's {what} is {found}; it must be a multiple of {of}")]
    Multiple {
        /// What it is.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What it must be a multiple of.
        of: u64,
    },
    /// A number is outside of its range.
    #[error("tensor map's {what} of dimension {dimension} is {found}; allowed are {least} to {most}")]
    Range {
        /// What it is.
        what: &'static str,
        /// Its dimension.
        dimension: usize,
        /// Its value.
        found: i64,
        /// The least.
        least: i64,
        /// The most.
        most: i64,
    },
    /// The box is wider than the swizzle's span.
    #[error("tensor map's box has {found} bytes along dimension 0; swizzle {swizzle:?} spans {span}")]
    Span {
        /// Bytes of the box along dimension 0.
        found: u64,
        /// The swizzle.
        swizzle: Swizzle,
        /// The swizzle's bytes.
        span: u64,
    },
    /// The box is larger than shared memory.
    #[error("tensor map's box has {found} bytes; allowed are {MAX_BOX_BYTES}")]
    BoxBytes {
        /// Bytes of the box.
        found: u64,
    },
    /// The type does not go with the swizzle.
    #[error(
        "tensor map of {dtype:?} has swizzle {swizzle:?}; it takes none, B128, B128Atom32 and (6 bits) B128Atom64"
    )]
    SwizzleOfType {
        /// The type.
        dtype: DataType,
        /// The swizzle.
        swizzle: Swizzle,
    },
    /// NaN fill of elements that have none.
    #[error("tensor map of {dtype:?} fills with NaN; only floating-point types of whole bytes can")]
    NanFill {
        /// The type.
        dtype: DataType,
    },
    /// The filter has no place to be.
    #[error(
        "im2col bounding box of dimension {dimension} is empty: {dim} pixels, lower corner {lower}, upper {upper}"
    )]
    EmptyBoundingBox {
        /// The tensor's dimension.
        dimension: usize,
        /// Its pixels.
        dim: u64,
        /// The lower corner.
        lower: i16,
        /// The upper corner.
        upper: i16,
    },
    /// An interleaved map.
    #[error("tensor map is interleaved ({interleave:?}); only maps without interleave are known here")]
    Interleaved {
        /// The layout asked for.
        interleave: Interleave,
    },
}

/// `found` is a multiple of `of`.
fn multiple(what: &'static str, found: u64, of: u64) -> Result<(), TensorMapError> {
    if found.is_multiple_of(of) { Ok(()) } else { Err(TensorMapError::Multiple { what, found, of }) }
}

/// `found` is in a range, ends included.
fn range(
    what: &'static str,
    dimension: usize,
    found: i64,
    least: i64,
    most: i64,
) -> Result<(), TensorMapError> {
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        Err(TensorMapError::Range { what, dimension, found, least, most })
    }
}

/// Numbers beyond `i64` are out of every range here.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl TensorMap {
    /// A map whose limits hold, with ignored entries set to 1 (strides to 0) so that equal maps have equal bytes.
    pub fn new(parameters: TensorMapParameters) -> Result<TensorMap, TensorMapError> {
        let mut map = parameters;
        let least_rank = if map.mode == Mode::Tiled { 1 } else { 3 };
        if !(least_rank..=MAX_RANK).contains(&map.rank) {
            return Err(TensorMapError::Rank { found: map.rank });
        }
        if map.interleave != Interleave::None {
            return Err(TensorMapError::Interleaved { interleave: map.interleave });
        }
        let padded = map.dtype.padded().is_some();
        let alignment = if padded { 32 } else { 16 };
        multiple("address", map.address, alignment)?;
        for dimension in 0..MAX_RANK {
            if dimension >= map.rank {
                (map.dims[dimension], map.box_dims[dimension], map.element_strides[dimension]) = (1, 1, 1);
                continue;
            }
            range("size", dimension, signed(map.dims[dimension]), 1, 1 << 32)?;
            range("element stride", dimension, map.element_strides[dimension].into(), 1, 8)?;
        }
        for (dimension, stride) in map.strides.iter_mut().enumerate() {
            if dimension + 1 >= map.rank {
                *stride = 0;
                continue;
            }
            range("stride", dimension + 1, signed(*stride), 0, (1 << 40) - 1)?;
            multiple("stride", *stride, alignment)?;
        }
        match map.dtype {
            _ if padded => multiple("size of dimension 0, of a padded type,", map.dims[0], 128)?,
            DataType::U4x16Align8 => multiple("size of dimension 0, of a 4-bit type,", map.dims[0], 2)?,
            _ => {}
        }
        let inner = match map.mode {
            Mode::Tiled => {
                for dimension in 0..map.rank {
                    range("box", dimension, map.box_dims[dimension].into(), 1, 256)?;
                }
                map.box_dims[0]
            }
            Mode::Im2col { lower, upper, channels_per_pixel, pixels_per_column } => {
                map.box_dims = [1; MAX_RANK];
                check_corners(&map, lower, upper)?;
                range("channels per pixel", 0, channels_per_pixel.into(), 1, 256)?;
                range("pixels per column", 1, pixels_per_column.into(), 1, 1024)?;
                channels_per_pixel
            }
        };
        check_inner(&map, inner.into())?;
        if map.fill == OobFill::NanRequestZeroFma && !map.dtype.is_float() {
            return Err(TensorMapError::NanFill { dtype: map.dtype });
        }
        let map = TensorMap(map);
        let found = map.box_bytes();
        if found > MAX_BOX_BYTES { Err(TensorMapError::BoxBytes { found }) } else { Ok(map) }
    }

    /// What the map was made of.
    pub const fn parameters(&self) -> &TensorMapParameters {
        &self.0
    }

    /// Elements along dimension 0 of one copy.
    pub const fn inner_elements(&self) -> u32 {
        match self.0.mode {
            Mode::Tiled => self.0.box_dims[0],
            Mode::Im2col { channels_per_pixel, .. } => channels_per_pixel,
        }
    }

    /// Runs of dimension 0 in one copy: the product over the other dimensions of ceil(box / element stride), or the
    /// pixels of a column.
    pub fn rows(&self) -> u64 {
        match self.0.mode {
            Mode::Tiled => (1..self.0.rank).map(|dimension| u64::from(self.steps(dimension))).product(),
            Mode::Im2col { pixels_per_column, .. } => pixels_per_column.into(),
        }
    }

    /// Elements that a tiled copy visits along an outer dimension.
    fn steps(&self, dimension: usize) -> u32 {
        self.0.box_dims[dimension].div_ceil(self.0.element_strides[dimension])
    }

    /// Bytes that one copy counts at its mbarrier: elements inside and outside of the tensor, without the gaps that
    /// padding and a swizzle wider than the box leave in shared memory.
    pub fn box_bytes(&self) -> u64 {
        self.rows() * u64::from(self.inner_elements()) * self.0.dtype.bits() / 8
    }

    /// Bytes from one row to the next in shared memory. A swizzle wider than the box leaves a gap after each row.
    pub fn row_pitch(&self) -> u64 {
        let bytes = self.0.dtype.shared_bytes(self.inner_elements().into());
        self.0.swizzle.span_bytes().unwrap_or(bytes)
    }

    /// Bytes of shared memory that one copy needs, gaps included.
    pub fn shared_bytes(&self) -> u64 {
        self.rows() * self.row_pitch()
    }
}

/// Limits of im2col's bounding box.
fn check_corners(map: &TensorMapParameters, lower: [i16; 3], upper: [i16; 3]) -> Result<(), TensorMapError> {
    let bits = match map.rank {
        3 => 15,
        4 => 7,
        _ => 4,
    };
    for (spatial, (lower, upper)) in lower.into_iter().zip(upper).enumerate().take(map.rank - 2) {
        let dimension = spatial + 1;
        let dim = map.dims[dimension];
        for corner in [lower, upper] {
            range("bounding box corner", dimension, corner.into(), -(1 << bits), (1 << bits) - 1)?;
        }
        if signed(dim) - 1 + i64::from(upper) < i64::from(lower) {
            return Err(TensorMapError::EmptyBoundingBox { dimension, dim, lower, upper });
        }
    }
    Ok(())
}

/// Limits of `inner` elements along dimension 0.
fn check_inner(map: &TensorMapParameters, inner: u64) -> Result<(), TensorMapError> {
    let (dtype, swizzle) = (map.dtype, map.swizzle);
    if let Some(packing) = dtype.padded() {
        range("box, of a padded type,", 0, signed(inner), 128, 128)?;
        let ok = match swizzle {
            Swizzle::None | Swizzle::B128 | Swizzle::B128Atom32 => true,
            Swizzle::B128Atom64 => packing == Packing::Bits6In16Bytes,
            _ => false,
        };
        if !ok {
            return Err(TensorMapError::SwizzleOfType { dtype, swizzle });
        }
    } else {
        multiple("bits of the box along dimension 0", inner * dtype.bits(), 128)?;
    }
    let found = dtype.shared_bytes(inner);
    match swizzle.span_bytes() {
        Some(span) if found > span => Err(TensorMapError::Span { found, swizzle, span }),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests;
