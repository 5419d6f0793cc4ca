//! The 128 bytes by which a kernel carries a tensor map.
//!
//! The hardware's bit layout is not public. This one is ours, little-endian, and starts with a magic word and a version,
//! so that bytes of another origin (a driver's map, or memory that never held one) are refused instead of misread.

use super::{DataType, Interleave, MAX_RANK, Mode, OobFill, TensorMap, TensorMapError, TensorMapParameters};
use crate::layout::Swizzle;

/// Bytes of a tensor map.
const LENGTH: usize = 128;
/// "tmap" and a byte that is no text.
const MAGIC: [u8; 5] = [b't', b'm', b'a', b'p', 0xe7];
const VERSION: u8 = 1;

/// Why bytes are no tensor map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorMapBytesError {
    /// The magic word is absent.
    #[error("128 bytes that start with {found:02x?} are no tensor map of this emulator")]
    Magic {
        /// The first bytes.
        found: [u8; 5],
    },
    /// Another version.
    #[error("tensor map has version {found}; this emulator reads version {VERSION}")]
    Version {
        /// The version.
        found: u8,
    },
    /// A field holds a code that has no meaning, or unused bytes are not 0.
    #[error("tensor map's {field} holds {found}, which has no meaning")]
    Code {
        /// The field.
        field: &'static str,
        /// Its value.
        found: u8,
    },
    /// The fields are read, but no limit of a map may be broken.
    #[error(transparent)]
    Map(#[from] TensorMapError),
}

/// Reads fields one after another.
struct Reader<'a> {
    bytes: &'a [u8; LENGTH],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let field = std::array::from_fn(|index| self.bytes.get(self.at + index).copied().unwrap_or(0));
        self.at += N;
        field
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn i16(&mut self) -> i16 {
        i16::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// A code of one of `values`, by its position.
    fn code<T: Copy>(&mut self, field: &'static str, values: &[T]) -> Result<T, TensorMapBytesError> {
        let found = self.u8();
        values.get(usize::from(found)).copied().ok_or(TensorMapBytesError::Code { field, found })
    }
}

/// The position of `value` in `values`, which hold every value of its type.
fn position<T: PartialEq>(values: &[T], value: T) -> u8 {
    values.iter().position(|other| *other == value).unwrap_or(values.len()) as u8
}

const INTERLEAVES: [Interleave; 3] = [Interleave::None, Interleave::Bytes16, Interleave::Bytes32];
const FILLS: [OobFill; 2] = [OobFill::Zero, OobFill::NanRequestZeroFma];

impl TensorMap {
    /// The map in 128 bytes, in the order of [`TensorMapParameters`]. Sizes of dimensions are stored less 1, so that
    /// 2^32 fits.
    pub fn to_bytes(&self) -> [u8; 128] {
        let map = self.parameters();
        let mut out = Vec::with_capacity(LENGTH);
        out.extend(MAGIC);
        out.push(VERSION);
        out.push(map.dtype as u8);
        out.push(map.rank as u8);
        out.extend(map.address.to_le_bytes());
        out.extend(map.dims.iter().flat_map(|dim| ((dim - 1) as u32).to_le_bytes()));
        out.extend(map.strides.iter().flat_map(|stride| stride.to_le_bytes()));
        out.extend(map.box_dims.iter().flat_map(|dim| (*dim as u16).to_le_bytes()));
        out.extend(map.element_strides.iter().map(|stride| *stride as u8));
        out.push(position(&INTERLEAVES, map.interleave));
        out.push(position(&Swizzle::ALL, map.swizzle));
        out.push(position(&FILLS, map.fill));
        if let Mode::Im2col { lower, upper, channels_per_pixel, pixels_per_column } = map.mode {
            out.push(1);
            out.extend(lower.iter().chain(&upper).flat_map(|corner| corner.to_le_bytes()));
            out.extend((channels_per_pixel as u16).to_le_bytes());
            out.extend((pixels_per_column as u16).to_le_bytes());
        }
        std::array::from_fn(|index| out.get(index).copied().unwrap_or(0))
    }

    /// The map that [`TensorMap::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; 128]) -> Result<TensorMap, TensorMapBytesError> {
        let mut reader = Reader { bytes, at: 0 };
        let found = reader.take();
        if found != MAGIC {
            return Err(TensorMapBytesError::Magic { found });
        }
        let found = reader.u8();
        if found != VERSION {
            return Err(TensorMapBytesError::Version { found });
        }
        let dtype = reader.code("type", &DataType::ALL)?;
        let rank = usize::from(reader.u8());
        let address = reader.u64();
        let dims = std::array::from_fn(|_| u64::from(u32::from_le_bytes(reader.take())) + 1);
        let strides: [u64; MAX_RANK - 1] = std::array::from_fn(|_| reader.u64());
        let box_dims = std::array::from_fn(|_| reader.u16().into());
        let element_strides = std::array::from_fn(|_| reader.u8().into());
        let interleave = reader.code("interleave", &INTERLEAVES)?;
        let swizzle = reader.code("swizzle", &Swizzle::ALL)?;
        let fill = reader.code("fill", &FILLS)?;
        let mode = match reader.u8() {
            0 => Mode::Tiled,
            1 => Mode::Im2col {
                lower: std::array::from_fn(|_| reader.i16()),
                upper: std::array::from_fn(|_| reader.i16()),
                channels_per_pixel: reader.u16().into(),
                pixels_per_column: reader.u16().into(),
            },
            found => return Err(TensorMapBytesError::Code { field: "mode", found }),
        };
        while reader.at < LENGTH {
            let found = reader.u8();
            if found != 0 {
                return Err(TensorMapBytesError::Code { field: "unused tail", found });
            }
        }
        let parameters = TensorMapParameters {
            dtype,
            rank,
            address,
            dims,
            strides,
            box_dims,
            element_strides,
            interleave,
            swizzle,
            fill,
            mode,
        };
        Ok(TensorMap::new(parameters)?)
    }
}
