//! Matrix descriptors: the 64-bit words by which wgmma (sm_90) and tcgen05 (sm_100) find an operand in shared memory.
//!
//! Decoding and the address of each element; no memory is read here. Sources: PTX ISA 9.7.15.5.1.2 ("Matrix
//! Descriptor Format", sm_90), 9.7.16.3 (strides and canonical layouts) and 9.7.16.4.1 (sm_100), and the canonical
//! layouts that CUTLASS states beside `make_gmma_desc` and `make_umma_desc`. Every layout of sm_90 with 16-bit
//! elements, both major-nesses and the base offset have been compared with an H100.

use super::Swizzle;

/// Which of an operand's two dimensions lies densely in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Major {
    /// Elements of one row of A (one column of B) are neighbours.
    K,
    /// Elements of one k are neighbours: the transposed form.
    Mn,
}

/// How the elements of a run lie in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Two elements of 4 bits in a byte, the first in its low half.
    Bits4,
    /// 16 elements of 4 bits in the first 8 of each 16 bytes (`.b4x16_p64`).
    Bits4In16Bytes,
    /// 16 elements of 6 bits in the first 12 of each 16 bytes (`.b6x16_p32`).
    Bits6In16Bytes,
    /// Elements of 1 byte.
    Bits8,
    /// Elements of 2 bytes.
    Bits16,
    /// Elements of 4 bytes.
    Bits32,
}

impl Packing {
    /// The bits of one element.
    pub const fn element_bits(self) -> u64 {
        match self {
            Packing::Bits4 | Packing::Bits4In16Bytes => 4,
            Packing::Bits6In16Bytes => 6,
            Packing::Bits8 => 8,
            Packing::Bits16 => 16,
            Packing::Bits32 => 32,
        }
    }

    /// The first bit of element `index`, counted from the start of its run.
    pub const fn bit(self, index: u64) -> u64 {
        match self {
            Packing::Bits4In16Bytes | Packing::Bits6In16Bytes => {
                index / 16 * 128 + index % 16 * self.element_bits()
            }
            Packing::Bits4 | Packing::Bits8 | Packing::Bits16 | Packing::Bits32 => {
                index * self.element_bits()
            }
        }
    }
}

/// What is wrong with a matrix descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// A bit is set that the format does not define.
    #[error("matrix descriptor {descriptor:#018x} has reserved bits {bits:#x} set; they must be 0")]
    ReservedBits {
        /// The word.
        descriptor: u64,
        /// Its bits that must be 0.
        bits: u64,
    },
    /// The constant that marks the format of sm_100 is absent.
    #[error("matrix descriptor {descriptor:#018x} has {found:#05b} in bits 46..48; tcgen05 wants 0b001")]
    Version {
        /// The word.
        descriptor: u64,
        /// What its bits 46..48 hold.
        found: u64,
    },
    /// A swizzle that does not exist.
    #[error(
        "matrix descriptor {descriptor:#018x} has swizzle {found} in bits 61..63; tcgen05 has 0 (none), 1 (128 bytes of \
         32-byte atoms), 2 (128 bytes), 4 (64 bytes) and 6 (32 bytes)"
    )]
    UnknownSwizzle {
        /// The word.
        descriptor: u64,
        /// What its bits 61..63 hold.
        found: u64,
    },
    /// A base offset without a pattern to shift.
    #[error("matrix descriptor has base offset {found} and no swizzle; it must be 0 without a swizzle")]
    BaseOffset {
        /// The base offset.
        found: u8,
    },
    /// Bit 52 is set.
    #[error(
        "matrix descriptor has an absolute leading-dimension address (bit 52); only sm_103a has that mode"
    )]
    AbsoluteLeadingDimension,
    /// A swizzle and a major-ness that do not go together in tcgen05.mma.
    #[error(
        "tcgen05.mma does not read {bits}-bit elements in {major:?}-major order with swizzle {swizzle:?}: MN-major \
         8-bit and 16-bit elements take every swizzle but B128Atom32, MN-major 32-bit elements take B128Atom32 only, \
         narrower elements are K-major"
    )]
    MajorOfSwizzle {
        /// Bits of an element.
        bits: u64,
        /// The order asked for.
        major: Major,
        /// The descriptor's swizzle.
        swizzle: Swizzle,
    },
}

/// A decoded matrix descriptor. Addresses and offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixDescriptor {
    /// Shared-memory address of element (0, 0), before the swizzle; a multiple of 16 below 2^18.
    pub start: u64,
    /// Leading-dimension byte offset; a multiple of 16 below 2^18.
    pub leading: u64,
    /// Stride-dimension byte offset; a multiple of 16 below 2^18.
    pub stride: u64,
    /// The 128-byte line, modulo 8, at which the swizzle's pattern starts.
    pub base_offset: u8,
    /// The swizzle; never [`Swizzle::B128Atom64`] or [`Swizzle::B128Atom32Flip8`].
    pub swizzle: Swizzle,
}

/// Bits 14..15 and 30..31, reserved in both formats.
const RESERVED_LOW: u64 = 0b11 << 14 | 0b11 << 30;
/// Bits 46..48 and 52..61 of sm_90.
const RESERVED_SM90: u64 = RESERVED_LOW | 0b111 << 46 | 0x3ff << 52;
/// Bits 53..60 of sm_100.
const RESERVED_SM100: u64 = RESERVED_LOW | 0xff << 53;

/// The address or offset in 14 bits at `shift`, whose 4 low bits are left out.
const fn offset_at(descriptor: u64, shift: u32) -> u64 {
    (descriptor >> shift & 0x3fff) << 4
}

impl MatrixDescriptor {
    /// Decodes the descriptor of `wgmma.mma_async`.
    pub fn from_sm90(descriptor: u64) -> Result<MatrixDescriptor, DescriptorError> {
        let swizzle = match descriptor >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        Self::with_fields(descriptor, RESERVED_SM90, swizzle)
    }

    /// Decodes the descriptor of `tcgen05.mma` and `tcgen05.cp`.
    pub fn from_sm100(descriptor: u64) -> Result<MatrixDescriptor, DescriptorError> {
        let version = descriptor >> 46 & 0b111;
        if version != 1 {
            return Err(DescriptorError::Version { descriptor, found: version });
        }
        if descriptor >> 52 & 1 == 1 {
            return Err(DescriptorError::AbsoluteLeadingDimension);
        }
        let swizzle = match descriptor >> 61 {
            0 => Swizzle::None,
            1 => Swizzle::B128Atom32,
            2 => Swizzle::B128,
            4 => Swizzle::B64,
            6 => Swizzle::B32,
            found => return Err(DescriptorError::UnknownSwizzle { descriptor, found }),
        };
        Self::with_fields(descriptor, RESERVED_SM100, swizzle)
    }

    fn with_fields(
        descriptor: u64,
        reserved: u64,
        swizzle: Swizzle,
    ) -> Result<MatrixDescriptor, DescriptorError> {
        if descriptor & reserved != 0 {
            return Err(DescriptorError::ReservedBits { descriptor, bits: descriptor & reserved });
        }
        let base_offset = (descriptor >> 49 & 0b111) as u8;
        if base_offset != 0 && swizzle == Swizzle::None {
            return Err(DescriptorError::BaseOffset { found: base_offset });
        }
        Ok(MatrixDescriptor {
            start: offset_at(descriptor, 0),
            leading: offset_at(descriptor, 16),
            stride: offset_at(descriptor, 32),
            base_offset,
            swizzle,
        })
    }

    /// Whether tcgen05.mma reads elements so packed in this order with this swizzle (PTX ISA, table "Valid Combinations
    /// of Type-Size, Major-ness and Swizzling").
    pub fn check_tcgen05(&self, major: Major, packing: Packing) -> Result<(), DescriptorError> {
        let bits = packing.element_bits();
        let ok = match (major, bits) {
            (Major::K, _) => true,
            (Major::Mn, 8 | 16) => self.swizzle != Swizzle::B128Atom32,
            (Major::Mn, 32) => self.swizzle == Swizzle::B128Atom32,
            (Major::Mn, _) => false,
        };
        if ok { Ok(()) } else { Err(DescriptorError::MajorOfSwizzle { bits, major, swizzle: self.swizzle }) }
    }

    /// The shared-memory address of the byte that holds the first bit of element (`row`, `k`), where `row` counts along
    /// M of A or N of B.
    ///
    /// In units of 16 bytes, with W the swizzle's span (1 without a swizzle) and `c` the unit along the dense dimension:
    ///
    /// | major | swizzle | offset |
    /// |---|---|---|
    /// | K | none | row % 8 + row / 8 * stride + c * leading |
    /// | K | W | row % 8 * W + row / 8 * stride + c |
    /// | MN | none | k % 8 + k / 8 * leading + c * stride |
    /// | MN | W | c % W + c / W * leading + k % R * W + k / R * stride, R = 8 (4 with 32-byte atoms) |
    ///
    /// The swizzle is applied to the whole address, so a step along K within the span is an addition to the start.
    pub fn element_address(&self, major: Major, packing: Packing, row: usize, k: usize) -> u64 {
        let (row, k) = (row as u64, k as u64);
        let span = self.swizzle.span_bytes().unwrap_or(16);
        let none = self.swizzle == Swizzle::None;
        let byte = packing.bit(if major == Major::K { k } else { row }) / 8;
        let offset = match major {
            Major::K if none => row % 8 * 16 + row / 8 * self.stride + byte / 16 * self.leading + byte % 16,
            Major::K => row % 8 * span + row / 8 * self.stride + byte,
            Major::Mn if none => k % 8 * 16 + k / 8 * self.leading + byte / 16 * self.stride + byte % 16,
            Major::Mn => {
                let rows = if self.swizzle == Swizzle::B128Atom32 { 4 } else { 8 };
                byte % span + byte / span * self.leading + k % rows * span + k / rows * self.stride
            }
        };
        self.swizzle.apply_from(self.start + offset, self.base_offset)
    }
}

#[cfg(test)]
mod tests;
