//! Tests of tensor maps. Facts of shared memory are what an H100 wrote.

use super::*;
use crate::layout::{Major, MatrixDescriptor};
use proptest::prelude::*;

/// A 2-D map of bytes: rows of 128, 64 rows, as the device was asked.
fn bytes_map(box_dims: [u32; 2], swizzle: Swizzle) -> TensorMapParameters {
    TensorMapParameters {
        dtype: DataType::U8,
        rank: 2,
        address: 0x1_0000,
        dims: [128, 64, 9, 9, 9],
        strides: [128, 5, 5, 5],
        box_dims: [box_dims[0], box_dims[1], 0, 0, 0],
        element_strides: [1, 1, 0, 0, 0],
        interleave: Interleave::None,
        swizzle,
        fill: OobFill::Zero,
        mode: Mode::Tiled,
    }
}

/// Shared memory after a load into 0xee bytes, where the byte at global address `a` is `(a - 0x10000) / 16`.
fn load(map: &TensorMap, start: &[i32], destination: u64) -> Vec<u8> {
    let mut shared = vec![0xee; 2048];
    let parameters = map.parameters();
    for row in map.tile(start).unwrap() {
        for chunk in map.chunks(&row) {
            for byte in 0..chunk.bytes {
                let value = match chunk.place {
                    Place::Global(address) => ((address + byte - 0x1_0000) / 16) as u8,
                    Place::Outside => parameters.fill.byte(byte),
                    Place::Gap => continue,
                };
                shared[parameters.swizzle.apply(destination + chunk.shared + byte) as usize] = value;
            }
        }
    }
    shared
}

/// The first byte of each 16 of a 128-byte line.
fn line(shared: &[u8], line: usize) -> [u8; 8] {
    std::array::from_fn(|cell| shared[line * 128 + cell * 16])
}

#[test]
fn loads_are_those_of_an_h100() {
    const E: u8 = 0xee;
    let of = |box_dims, swizzle| TensorMap::new(bytes_map(box_dims, swizzle)).unwrap();
    let shared = load(&of([128, 8], Swizzle::B128), &[0, 0], 0);
    assert_eq!(line(&shared, 5), [0x2d, 0x2c, 0x2f, 0x2e, 0x29, 0x28, 0x2b, 0x2a]);
    // A destination in the middle of the pattern continues it.
    let shared = load(&of([128, 8], Swizzle::B128), &[0, 0], 128);
    assert_eq!(line(&shared, 0), [E; 8]);
    assert_eq!(line(&shared, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
    assert_eq!(line(&shared, 8), [0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f]);
    // A box narrower than the span leaves gaps.
    let shared = load(&of([48, 8], Swizzle::B128), &[0, 0], 0);
    assert_eq!(line(&shared, 3), [E, 0x1a, 0x19, 0x18, E, E, E, E]);
    assert_eq!(line(&shared, 7), [E, E, E, E, E, 0x3a, 0x39, 0x38]);
    let shared = load(&of([32, 8], Swizzle::B64), &[0, 0], 0);
    assert_eq!(line(&shared, 1), [0x11, 0x10, E, E, 0x19, 0x18, E, E]);
    let shared = load(&of([16, 8], Swizzle::B32), &[0, 0], 0);
    assert_eq!(line(&shared, 1), [E, 0x20, E, 0x28, E, 0x30, E, 0x38]);
    let shared = load(&of([48, 8], Swizzle::None), &[0, 0], 0);
    assert_eq!(line(&shared, 1), [0x12, 0x18, 0x19, 0x1a, 0x20, 0x21, 0x22, 0x28]);
    // Rows and columns before the tensor.
    let shared = load(&of([32, 4], Swizzle::None), &[-16, -1], 0);
    assert_eq!(line(&shared, 0), [0, 0, 0, 0, 0, 8, 0, 16]);
    assert_eq!(line(&shared, 1), [E; 8]);
    // Every second row: ceil(5 / 2) of them.
    let mut strided = bytes_map([16, 5], Swizzle::None);
    strided.element_strides[1] = 2;
    let strided = TensorMap::new(strided).unwrap();
    assert_eq!(strided.box_bytes(), 48);
    assert_eq!(line(&load(&strided, &[0, 0], 0), 0), [0, 0x10, 0x20, E, E, E, E, E]);
}

#[test]
fn loads_round_tf32_as_an_h100() {
    for (element, loaded) in [
        (0x3f80_0fff, 0x3f80_0000),
        (0x3f80_1000, 0x3f80_0000),
        (0x3f80_1001, 0x3f80_2000),
        (0x3f80_3000, 0x3f80_4000),
        (0xbf80_1000, 0xbf80_0000),
        (0x7f7f_ffff, 0x7f80_0000),
        (0x7f7f_efff, 0x7f7f_e000),
        (0x7f80_0001, 0x7fff_e000),
        (0xffc0_0001, 0x7fff_e000),
        (0x7fff_ffff, 0x7fff_e000),
        (0x0000_1000, 0),
        (0x807f_ffff, 0x8080_0000),
    ] {
        assert_eq!(DataType::Tf32.loaded(element), loaded, "{element:#x}");
        assert_eq!(DataType::Tf32Ftz.loaded(element), loaded, "{element:#x}");
        assert_eq!(DataType::F32Ftz.loaded(element), element);
    }
    assert_eq!(DataType::Tf32.loaded(0xff80_0000), 0xff80_0000);
}

#[test]
fn the_barrier_counts_elements_and_no_gaps() {
    let map = TensorMap::new(bytes_map([64, 2], Swizzle::B128)).unwrap();
    assert_eq!((map.box_bytes(), map.row_pitch(), map.shared_bytes()), (128, 128, 256));
}

#[test]
fn the_nan_fill_repeats_two_bytes() {
    let bytes: Vec<u8> = (0..4).map(|offset| OobFill::NanRequestZeroFma.byte(offset)).collect();
    assert_eq!(bytes, [0xf7, 0x7f, 0xf7, 0x7f]);
}

/// The limits of which a driver on an H100 was asked.
#[test]
fn limits_are_the_drivers() {
    let base = TensorMapParameters {
        dims: [512; MAX_RANK],
        strides: [4096, 1 << 22, 0, 0],
        element_strides: [1; MAX_RANK],
        ..bytes_map([16, 4], Swizzle::None)
    };
    let ok = |change: fn(&mut TensorMapParameters)| {
        let mut map = base;
        change(&mut map);
        TensorMap::new(map).is_ok()
    };
    assert!(!ok(|map| map.element_strides[1] = 9));
    assert!(!ok(|map| map.element_strides[0] = 0));
    assert!(!ok(|map| map.element_strides[0] = 9));
    assert!(ok(|map| map.element_strides[0] = 2));
    assert!(!ok(|map| map.box_dims[1] = 257));
    assert!(ok(|map| map.strides[0] = 64));
    assert!(ok(|map| map.strides[0] = 0));
    assert!(!ok(|map| map.strides[0] = 24));
    assert!(!ok(|map| map.strides[0] = 1 << 40));
    assert!(ok(|map| (map.dims[0], map.dims[1], map.strides[0]) = (1 << 32, 1, 1 << 33)));
    assert!(!ok(|map| map.dims[0] = (1 << 32) + 1));
    assert!(!ok(|map| map.dims[0] = 0));
    assert!(!ok(|map| map.dims[0] = u64::MAX));
    assert!(ok(|map| (map.dims, map.box_dims) = ([32, 2, 1, 1, 1], [64, 8, 1, 1, 1])));
    assert!(!ok(|map| map.fill = OobFill::NanRequestZeroFma));
    assert!(ok(|map| (map.dtype, map.fill) = (DataType::F32Ftz, OobFill::NanRequestZeroFma)));
    assert!(ok(|map| map.address = 0));
    assert!(!ok(|map| map.address = 8));
    assert!(!ok(|map| map.box_dims[0] = 8));
    assert!(!ok(|map| (map.box_dims[0], map.swizzle) = (160, Swizzle::B128)));
    assert!(ok(|map| (map.rank, map.box_dims) = (3, [16, 256, 57, 1, 1])));
    assert!(!ok(|map| (map.rank, map.box_dims) = (3, [256, 256, 4, 1, 1])));
    assert!(ok(|map| {
        (map.rank, map.box_dims, map.element_strides) = (3, [256, 256, 8, 1, 1], [1, 1, 8, 1, 1]);
    }));
    assert!(ok(|map| (map.rank, map.box_dims, map.swizzle) = (3, [32, 256, 12, 1, 1], Swizzle::B128)));
    assert!(!ok(|map| map.rank = 0));
    assert!(!ok(|map| map.rank = 6));
    assert!(!ok(|map| map.interleave = Interleave::Bytes16));
}

#[test]
fn errors_say_what_was_found_and_what_is_allowed() {
    let mut map = bytes_map([160, 4], Swizzle::B128);
    let text = TensorMap::new(map).unwrap_err().to_string();
    assert_eq!(text, "tensor map's box has 160 bytes along dimension 0; swizzle B128 spans 128");
    map.box_dims[0] = 257;
    let text = TensorMap::new(map).unwrap_err().to_string();
    assert_eq!(text, "tensor map's box of dimension 0 is 257; allowed are 1 to 256");
    let map = TensorMap::new(bytes_map([16, 4], Swizzle::None)).unwrap();
    assert_eq!(
        map.tile(&[8, 0]).unwrap_err().to_string(),
        "first coordinate 8 of a copy of U8; it must be a multiple of 16 (16 bytes)"
    );
    assert!(matches!(map.tile(&[0]), Err(TensorCopyError::Count { found: 1, wanted: 2, .. })));
    assert_eq!(map.im2col(&[0, 0], &[]), Err(TensorCopyError::Mode { im2col_map: false }));
    assert_eq!(map.check_store(&[0, -1]), Err(TensorCopyError::NegativeStore { dimension: 1, found: -1 }));
    assert!(map.gather4(0, [0; 4]).is_err());
}

#[test]
fn elements_past_the_end_are_outside_one_by_one() {
    let mut parameters = bytes_map([32, 2], Swizzle::None);
    parameters.dims[..2].copy_from_slice(&[120, 2]);
    let map = TensorMap::new(parameters).unwrap();
    let rows = map.tile(&[112, 1]).unwrap();
    assert_eq!(rows[0], Row { shared: 0, elements: 32, valid: 0..8, address: 0x1_0000 + 128 + 112 });
    assert_eq!(rows[1], Row { shared: 32, elements: 32, valid: 0..0, address: 0 });
    let chunks = map.chunks(&rows[0]);
    assert_eq!(chunks[0], Chunk { shared: 0, bytes: 8, place: Place::Global(0x1_0000 + 240) });
    assert_eq!(chunks[1], Chunk { shared: 8, bytes: 8, place: Place::Outside });
    assert_eq!(chunks[2], Chunk { shared: 16, bytes: 16, place: Place::Outside });
}

#[test]
fn padded_types_have_gaps_in_shared_memory_only() {
    let mut parameters = bytes_map([128, 2], Swizzle::B128);
    parameters.dtype = DataType::U4x16Align16;
    parameters.strides[0] = 64;
    let map = TensorMap::new(parameters).unwrap();
    assert_eq!((map.box_bytes(), map.shared_bytes()), (128, 256));
    let rows = map.tile(&[0, 3]).unwrap();
    let chunks = map.chunks(&rows[1]);
    assert_eq!(chunks[2], Chunk { shared: 144, bytes: 8, place: Place::Global(0x1_0000 + 4 * 64 + 8) });
    assert_eq!(chunks[3], Chunk { shared: 152, bytes: 8, place: Place::Gap });
    assert!(map.tile(&[64, 0]).is_err());
    assert!(map.check_reduce(&[0, 0]).is_err() && map.check_store(&[0, 0]).is_err());
    parameters.dtype = DataType::U6x16Align16;
    parameters.strides[0] = 96;
    let map = TensorMap::new(parameters).unwrap();
    assert_eq!(map.box_bytes(), 192);
    let chunks = map.chunks(&map.tile(&[0, 0]).unwrap()[0]);
    assert_eq!(chunks[2], Chunk { shared: 16, bytes: 12, place: Place::Global(0x1_000c) });
    parameters.swizzle = Swizzle::B64;
    assert!(matches!(TensorMap::new(parameters), Err(TensorMapError::SwizzleOfType { .. })));
    parameters.dtype = DataType::U4x16Align8;
    parameters.swizzle = Swizzle::B64;
    parameters.strides[0] = 64;
    let map = TensorMap::new(parameters).unwrap();
    let row = &map.tile(&[32, 0]).unwrap()[0];
    assert_eq!((row.valid.clone(), row.address), (0..96, 0x1_0010));
}

/// The example of PTX ISA 5.5.4.2: an image of 8 by 14 pixels under a 3 by 3 filter with step 2.
#[test]
fn im2col_walks_the_bounding_box() {
    let parameters = TensorMapParameters {
        dtype: DataType::F16,
        rank: 4,
        dims: [64, 8, 14, 64, 1],
        strides: [128, 1024, 14336, 0],
        element_strides: [1, 2, 2, 1, 1],
        mode: Mode::Im2col {
            lower: [-1, -1, 0],
            upper: [-1, -1, 0],
            channels_per_pixel: 16,
            pixels_per_column: 32,
        },
        ..bytes_map([1, 1], Swizzle::None)
    };
    let map = TensorMap::new(parameters).unwrap();
    assert_eq!((map.box_bytes(), map.rows()), (32 * 32, 32));
    let address = |n: u64, h: u64, w: u64, c: u64| 0x1_0000 + n * 14336 + h * 1024 + w * 128 + c * 2;
    // Bases run over -1, 1, 3, 5 in W and -1, 1, .. 11 in H; the filter's place (1, 1) is added.
    let rows = map.im2col(&[16, 5, 11, 2], &[1, 1]).unwrap();
    assert_eq!(rows[0].address, address(2, 12, 6, 16));
    assert_eq!(rows[1].address, address(3, 0, 0, 16));
    assert_eq!(rows[2].address, address(3, 0, 2, 16));
    assert_eq!(rows[5].address, address(3, 2, 0, 16));
    assert_eq!(rows[31].shared, 31 * 32);
    // The filter's place (0, 0) is outside at the left border, and after the last image all is outside.
    let rows = map.im2col(&[0, -1, 1, 63], &[0, 0]).unwrap();
    assert_eq!(rows[0].valid, 0..0);
    assert_eq!(rows[1].address, address(63, 1, 1, 0));
    let rows = map.im2col(&[0, 5, 11, 63], &[0, 0]).unwrap();
    assert!(rows[1..].iter().all(|row| row.valid.is_empty()));
    assert!(matches!(map.im2col(&[0, 7, 0, 0], &[0, 0]), Err(TensorCopyError::OutsideBoundingBox { .. })));
    assert!(matches!(map.im2col(&[0, 0, 0, 0], &[256, 0]), Err(TensorCopyError::Offset { .. })));
    assert!(map.tile(&[0, 0, 0, 0]).is_err());
    let mut empty = parameters;
    empty.mode =
        Mode::Im2col { lower: [0; 3], upper: [-8, 0, 0], channels_per_pixel: 16, pixels_per_column: 32 };
    assert!(matches!(TensorMap::new(empty), Err(TensorMapError::EmptyBoundingBox { dimension: 1, .. })));
}

#[test]
fn gathered_rows_follow_each_other() {
    let map = TensorMap::new(bytes_map([64, 1], Swizzle::B64)).unwrap();
    let rows = map.gather4(64, [2, 5, 64, -1]).unwrap();
    assert_eq!(rows[1], Row { shared: 64, elements: 64, valid: 0..64, address: 0x1_0000 + 5 * 128 + 64 });
    assert!(rows[2].valid.is_empty() && rows[3].valid.is_empty());
}

/// A copy with SWIZZLE_128B and the descriptor of wgmma name the same elements.
#[test]
fn what_a_copy_writes_the_descriptor_reads() {
    for (swizzle, mode, width) in [(Swizzle::B128, 1u64, 64u32), (Swizzle::B64, 2, 32), (Swizzle::B32, 3, 16)]
    {
        let parameters = TensorMapParameters {
            dtype: DataType::Bf16,
            dims: [256, 256, 1, 1, 1],
            strides: [512, 0, 0, 0],
            box_dims: [width, 64, 1, 1, 1],
            ..bytes_map([1, 1], swizzle)
        };
        let map = TensorMap::new(parameters).unwrap();
        let destination = 4096;
        let mut element_at = std::collections::HashMap::new();
        for row in map.tile(&[64, 32]).unwrap() {
            for chunk in map.chunks(&row) {
                let Place::Global(address) = chunk.place else { panic!("the box is inside") };
                for byte in (0..chunk.bytes).step_by(2) {
                    let element = (address + byte - 0x1_0000) / 2;
                    element_at.insert(swizzle.apply(destination + chunk.shared + byte), element);
                }
            }
        }
        for step in 0..width as usize / 16 {
            let start = destination + step as u64 * 32;
            let word = start >> 4 | 1 << 16 | u64::from(width) << 32 | mode << 62;
            let descriptor = MatrixDescriptor::from_sm90(word).unwrap();
            for row in 0..64 {
                for k in 0..16 {
                    let address = descriptor.element_address(Major::K, Packing::Bits16, row, k);
                    let want = (32 + row) * 256 + 64 + step * 16 + k;
                    assert_eq!(element_at[&address], want as u64, "{swizzle:?} row {row} k {k}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn bytes_bring_back_the_map(
        dtype in 0usize..13,
        rank in 1usize..=5,
        address in 0u64..1 << 40,
        dims in proptest::array::uniform5(1u64..=1 << 32),
        strides in proptest::array::uniform4(0u64..1 << 36),
        box_dims in proptest::array::uniform5(1u32..=4),
        element_strides in proptest::array::uniform5(1u32..=8),
        im2col in any::<bool>(),
    ) {
        let dtype = DataType::ALL[dtype];
        let mode = if im2col && rank >= 3 {
            Mode::Im2col { lower: [-3, -2, -1], upper: [1, 2, 3], channels_per_pixel: 16, pixels_per_column: 1024 }
        } else {
            Mode::Tiled
        };
        let mut parameters = TensorMapParameters {
            dtype,
            rank,
            address: address * 16,
            dims: dims.map(|dim| dim.max(8)),
            strides: strides.map(|stride| stride * 16),
            box_dims,
            element_strides,
            fill: if dtype.is_float() { OobFill::NanRequestZeroFma } else { OobFill::Zero },
            mode,
            ..bytes_map([16, 16], Swizzle::None)
        };
        parameters.box_dims[0] = 64;
        let map = TensorMap::new(parameters).unwrap();
        prop_assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Ok(map));
    }

    #[test]
    fn other_bytes_are_refused_or_make_a_map(place in 0usize..128, value in any::<u8>()) {
        let map = TensorMap::new(bytes_map([16, 4], Swizzle::B32)).unwrap();
        let mut bytes = map.to_bytes();
        bytes[place] = value;
        if let Ok(other) = TensorMap::from_bytes(&bytes) {
            prop_assert_eq!(TensorMap::from_bytes(&other.to_bytes()), Ok(other));
        }
    }

    /// Every byte of a row is in one chunk, and in-bounds bytes are those of the elements' addresses.
    #[test]
    fn chunks_cover_a_row_once(column in -20i32..20, row in -4i32..70, swizzle in 0usize..7) {
        let map = TensorMap::new(bytes_map([32, 3], Swizzle::ALL[swizzle])).unwrap();
        for (index, row_of_box) in map.tile(&[column * 16, row]).unwrap().into_iter().enumerate() {
            let mut at = row_of_box.shared;
            for chunk in map.chunks(&row_of_box) {
                prop_assert_eq!(chunk.shared, at);
                let (x, y) = (i64::from(column) * 16 + (at - row_of_box.shared) as i64, i64::from(row) + index as i64);
                let inside = (0..128).contains(&x) && (0..64).contains(&y);
                let want = if inside { Place::Global((0x1_0000 + y * 128 + x) as u64) } else { Place::Outside };
                prop_assert_eq!(chunk.place, want);
                at += chunk.bytes;
            }
            prop_assert_eq!(at, row_of_box.shared + 32);
        }
    }
}

#[test]
fn foreign_bytes_are_named() {
    assert_eq!(TensorMap::from_bytes(&[0; 128]), Err(TensorMapBytesError::Magic { found: [0; 5] }));
    let mut bytes = TensorMap::new(bytes_map([16, 4], Swizzle::None)).unwrap().to_bytes();
    bytes[5] = 9;
    assert_eq!(TensorMap::from_bytes(&bytes), Err(TensorMapBytesError::Version { found: 9 }));
    bytes[5] = 1;
    bytes[127] = 3;
    assert_eq!(
        TensorMap::from_bytes(&bytes),
        Err(TensorMapBytesError::Code { field: "unused tail", found: 3 })
    );
}
