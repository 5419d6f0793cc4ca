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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn sm90(start: u64, leading: u64, stride: u64, base: u64, mode: u64) -> MatrixDescriptor {
        let word = start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | base << 49 | mode << 62;
        MatrixDescriptor::from_sm90(word).unwrap()
    }

    /// Addresses that an H100 read for rows 0..10 at k 0 and for k 0, 4, 8, 12 of row 0 with 16-bit elements.
    #[test]
    fn addresses_are_those_of_an_h100() {
        let table: [(Major, MatrixDescriptor, [u64; 10], [u64; 4]); 9] = [
            (
                Major::K,
                sm90(32, 16, 1024, 0, 1),
                [32, 176, 256, 400, 608, 752, 832, 976, 1056, 1200],
                [32, 40, 48, 56],
            ),
            (
                Major::K,
                sm90(0, 16, 1024, 3, 1),
                [80, 224, 368, 384, 528, 672, 816, 960, 1104, 1248],
                [80, 88, 64, 72],
            ),
            (
                Major::K,
                sm90(416, 16, 1024, 3, 1),
                [416, 560, 640, 784, 992, 1136, 1216, 1360, 1440, 1584],
                [416, 424, 432, 440],
            ),
            (
                Major::K,
                sm90(32, 16, 512, 0, 2),
                [32, 96, 176, 240, 256, 320, 400, 464, 544, 608],
                [32, 40, 48, 56],
            ),
            (
                Major::K,
                sm90(128, 16, 256, 1, 3),
                [128, 160, 192, 224, 272, 304, 336, 368, 384, 416],
                [128, 136, 144, 152],
            ),
            (
                Major::K,
                sm90(0, 2048, 128, 0, 0),
                [0, 16, 32, 48, 64, 80, 96, 112, 128, 144],
                [0, 8, 2048, 2056],
            ),
            (Major::Mn, sm90(0, 4096, 1024, 0, 1), [0, 2, 4, 6, 8, 10, 12, 14, 16, 18], [0, 576, 1024, 1600]),
            (Major::Mn, sm90(0, 2048, 4096, 0, 3), [0, 2, 4, 6, 8, 10, 12, 14, 16, 18], [0, 144, 4096, 4240]),
            (Major::Mn, sm90(0, 128, 2048, 0, 0), [0, 2, 4, 6, 8, 10, 12, 14, 2048, 2050], [0, 64, 128, 192]),
        ];
        for (major, descriptor, rows, ks) in table {
            let address = |row, k| descriptor.element_address(major, Packing::Bits16, row, k);
            assert_eq!(std::array::from_fn(|row| address(row, 0)), rows, "{descriptor:?}");
            assert_eq!(std::array::from_fn(|k| address(0, 4 * k)), ks, "{descriptor:?}");
        }
    }

    /// The examples of PTX ISA 9.7.16.3.3, in elements of the exact layouts that it prints.
    #[test]
    fn unswizzled_offsets_are_those_of_the_isa_examples() {
        let tf32 = sm90(0, 64 * 4, 32 * 4, 0, 0);
        let bf16 = sm90(0, 128 * 2, 64 * 2, 0, 0);
        for row in 0..16u64 {
            for k in 0..16u64 {
                // ((8,2),(4,4)):((4,32),(1,64)) and ((8,1,2),(8,2)):((1,8,64),(8,128))
                let want = row % 8 * 4 + row / 8 * 32 + k % 4 + k / 4 * 64;
                let found = tf32.element_address(Major::K, Packing::Bits32, row as usize, k as usize);
                assert_eq!(found, want * 4);
                let want = row % 8 + row / 8 * 64 + k % 8 * 8 + k / 8 * 128;
                let found = bf16.element_address(Major::Mn, Packing::Bits16, row as usize, k as usize);
                assert_eq!(found, want * 2);
            }
        }
    }

    #[test]
    fn mn_major_tf32_of_sm100_has_atoms_of_four_ks() {
        let word = (1024 >> 4) << 16 | (512 >> 4) << 32 | 1 << 46 | 1 << 61;
        let descriptor = MatrixDescriptor::from_sm100(word).unwrap();
        let address = |row, k| descriptor.element_address(Major::Mn, Packing::Bits32, row, k);
        assert_eq!(address(0, 0), 0);
        assert_eq!(address(8, 0), 32);
        assert_eq!(address(0, 1), 128 + 32);
        assert_eq!(address(8, 1), 128);
        assert_eq!(address(0, 3), 384 + 96);
        assert_eq!(address(0, 4), 512);
        assert_eq!(address(32, 0), 1024);
        assert_eq!(descriptor.check_tcgen05(Major::Mn, Packing::Bits32), Ok(()));
        assert!(descriptor.check_tcgen05(Major::Mn, Packing::Bits16).is_err());
        assert!(descriptor.check_tcgen05(Major::K, Packing::Bits16).is_ok());
    }

    #[test]
    fn padded_elements_start_a_new_sixteen_bytes_each_sixteen() {
        let descriptor = sm90(0, 16, 1024, 0, 1);
        let address = |packing, k| descriptor.element_address(Major::K, packing, 0, k);
        assert_eq!(address(Packing::Bits4In16Bytes, 15), 7);
        assert_eq!(address(Packing::Bits4In16Bytes, 16), 16);
        assert_eq!(address(Packing::Bits6In16Bytes, 15), 11);
        assert_eq!(Packing::Bits6In16Bytes.bit(17), 134);
        assert_eq!(address(Packing::Bits4, 33), 16);
    }

    #[test]
    fn malformed_words_say_what_they_hold() {
        assert_eq!(
            MatrixDescriptor::from_sm90(1 << 62 | 1 << 46),
            Err(DescriptorError::ReservedBits { descriptor: 1 << 62 | 1 << 46, bits: 1 << 46 })
        );
        assert_eq!(MatrixDescriptor::from_sm90(5 << 49), Err(DescriptorError::BaseOffset { found: 5 }));
        assert_eq!(
            MatrixDescriptor::from_sm100(2 << 61),
            Err(DescriptorError::Version { descriptor: 2 << 61, found: 0 })
        );
        let word = 3 << 61 | 1 << 46;
        assert_eq!(
            MatrixDescriptor::from_sm100(word),
            Err(DescriptorError::UnknownSwizzle { descriptor: word, found: 3 })
        );
        assert_eq!(
            MatrixDescriptor::from_sm100(1 << 52 | 1 << 46),
            Err(DescriptorError::AbsoluteLeadingDimension)
        );
        assert!(matches!(
            MatrixDescriptor::from_sm100(1 << 55 | 1 << 46),
            Err(DescriptorError::ReservedBits { .. })
        ));
    }

    #[test]
    fn the_word_of_our_kernels_decodes() {
        // High word 0x40000040: SWIZZLE_128B, 1024 bytes between groups of 8 rows.
        let descriptor = MatrixDescriptor::from_sm90(0x4000_0040_0001_0040).unwrap();
        let want = MatrixDescriptor {
            start: 1024,
            leading: 16,
            stride: 1024,
            base_offset: 0,
            swizzle: Swizzle::B128,
        };
        assert_eq!(descriptor, want);
    }

    proptest! {
        /// A K-major tile of 64 rows of one span and its steps along K cover the tile once.
        #[test]
        fn steps_along_k_cover_a_swizzled_tile_once(mode in 1u64..4, base in 0u64..64) {
            let span = [128, 64, 32][mode as usize - 1];
            let base = base * 1024;
            let mut seen = HashSet::new();
            for step in 0..span / 32 {
                let descriptor = sm90(base + step * 32, 16, span * 8, 0, mode);
                for row in 0..64 {
                    for k in 0..16 {
                        let address = descriptor.element_address(Major::K, Packing::Bits16, row, k);
                        prop_assert!(address >= base && address < base + 64 * span);
                        prop_assert!(seen.insert(address));
                    }
                }
            }
            prop_assert_eq!(seen.len() as u64, 64 * span / 2);
        }

        #[test]
        fn decoding_never_panics(word in any::<u64>()) {
            let _ = MatrixDescriptor::from_sm90(word);
            let _ = MatrixDescriptor::from_sm100(word);
        }
    }
}
