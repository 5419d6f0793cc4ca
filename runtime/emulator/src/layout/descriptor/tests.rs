//! Tests of matrix descriptors: addresses that an H100 read and the ISA's examples.

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
        (Major::K, sm90(0, 2048, 128, 0, 0), [0, 16, 32, 48, 64, 80, 96, 112, 128, 144], [0, 8, 2048, 2056]),
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
    let want =
        MatrixDescriptor { start: 1024, leading: 16, stride: 1024, base_offset: 0, swizzle: Swizzle::B128 };
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
