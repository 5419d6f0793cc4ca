//! Types of elements that a tensor map may have, and how they lie in either memory.

use crate::layout::Packing;

/// Types of elements, with the driver's codes (`CUtensorMapDataType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the formats' own")]
pub enum DataType {
    U8 = 0,
    U16 = 1,
    U32 = 2,
    S32 = 3,
    U64 = 4,
    S64 = 5,
    F16 = 6,
    F32 = 7,
    F64 = 8,
    Bf16 = 9,
    /// f32 with subnormals flushed. An H100 loads it as it is.
    F32Ftz = 10,
    /// f32 that loads round: see [`DataType::loaded`].
    Tf32 = 11,
    /// As [`DataType::Tf32`], with subnormals flushed. An H100 loads it as tf32.
    Tf32Ftz = 12,
    /// `.b4x16`: 4-bit elements, packed in both memories.
    U4x16Align8 = 13,
    /// `.b4x16_p64`: 16 elements of 4 bits in the first 8 of each 16 bytes of shared memory.
    U4x16Align16 = 14,
    /// `.b6x16_p32`: 16 elements of 6 bits in the first 12 of each 16 bytes of shared memory.
    U6x16Align16 = 15,
}

impl DataType {
    /// Every type, in the order of its code.
    pub const ALL: [DataType; 16] = [
        DataType::U8,
        DataType::U16,
        DataType::U32,
        DataType::S32,
        DataType::U64,
        DataType::S64,
        DataType::F16,
        DataType::F32,
        DataType::F64,
        DataType::Bf16,
        DataType::F32Ftz,
        DataType::Tf32,
        DataType::Tf32Ftz,
        DataType::U4x16Align8,
        DataType::U4x16Align16,
        DataType::U6x16Align16,
    ];

    /// Bits of an element in global memory.
    pub const fn bits(self) -> u64 {
        match self {
            DataType::U4x16Align8 | DataType::U4x16Align16 => 4,
            DataType::U6x16Align16 => 6,
            DataType::U8 => 8,
            DataType::U16 | DataType::F16 | DataType::Bf16 => 16,
            DataType::U64 | DataType::S64 | DataType::F64 => 64,
            _ => 32,
        }
    }

    /// Whether elements are floating-point, which NaN fill wants.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            DataType::F16
                | DataType::F32
                | DataType::F64
                | DataType::Bf16
                | DataType::F32Ftz
                | DataType::Tf32
                | DataType::Tf32Ftz
        )
    }

    /// Whether shared memory has gaps between groups of 16 elements, and how a group lies in its 16 bytes.
    pub const fn padded(self) -> Option<Packing> {
        match self {
            DataType::U4x16Align16 => Some(Packing::Bits4In16Bytes),
            DataType::U6x16Align16 => Some(Packing::Bits6In16Bytes),
            _ => None,
        }
    }

    /// Bytes of a run of `elements` in shared memory. Runs of padded types are multiples of 16 elements.
    pub const fn shared_bytes(self, elements: u64) -> u64 {
        match self.padded() {
            Some(_) => elements,
            None => elements * self.bits() / 8,
        }
    }

    /// What a load writes of a 32-bit element: tf32 types round to 10 bits of mantissa, to nearest and ties to even, and
    /// have one NaN, as an H100 does. Elements of other types are copied.
    pub const fn loaded(self, bits: u32) -> u32 {
        match self {
            DataType::Tf32 | DataType::Tf32Ftz if bits & 0x7fff_ffff > 0x7f80_0000 => 0x7fff_e000,
            DataType::Tf32 | DataType::Tf32Ftz => (bits + 0xfff + (bits >> 13 & 1)) & !0x1fff,
            _ => bits,
        }
    }
}
