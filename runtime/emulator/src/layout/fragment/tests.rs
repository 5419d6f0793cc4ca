//! Tests of fragments: cells read off the ISA's figures and CUTLASS's layouts, and bijectivity.

use super::*;
use crate::layout::Packing;
use std::collections::HashSet;

fn at(row: usize, column: usize) -> Place {
    Place { row, column }
}

/// Every shape of the instruction set that this module knows.
const SHAPES: [(u32, u32); 9] =
    [(32, 4), (32, 8), (16, 8), (16, 16), (8, 16), (8, 32), (4, 32), (4, 64), (1, 256)];

#[test]
fn operands_of_mma_are_bijective() {
    for (bits, k) in SHAPES {
        let shape = MmaShape::new(bits, k).unwrap();
        let k = k as usize;
        let (mut a, mut b) = (HashSet::new(), HashSet::new());
        for lane in 0..32 {
            for element in 0..shape.elements() {
                a.extend((0..shape.a_registers()).map(|register| shape.a(lane, register, element)));
                b.extend((0..shape.b_registers()).map(|register| shape.b(lane, register, element)));
            }
        }
        assert_eq!((a.len(), b.len()), (16 * k, 8 * k), "{bits} bits");
        assert!(a.iter().all(|place| place.row < 16 && place.column < k));
        assert!(b.iter().all(|place| place.row < k && place.column < 8));
    }
}

/// CUTLASS's `ALayout` and `BLayout`, as (thread, value) to m + 16 k and n + 8 k.
#[test]
fn operands_of_mma_are_cutlass_layouts() {
    // m16n8k16 of 16 bits: A ((4,8),(2,2,2)):((32,1),(16,8,128)), B ((4,8),(2,2)):((16,1),(8,64)).
    let shape = MmaShape::new(16, 16).unwrap();
    for lane in 0..32 {
        for value in 0..8 {
            let want = lane % 4 * 32 + lane / 4 + value % 2 * 16 + value / 2 % 2 * 8 + value / 4 * 128;
            let found = shape.a(lane, value / 2, value % 2);
            assert_eq!(found.row + 16 * found.column, want);
        }
        for value in 0..4 {
            let want = lane % 4 * 16 + lane / 4 + value % 2 * 8 + value / 2 * 64;
            let found = shape.b(lane, value / 2, value % 2);
            assert_eq!(found.column + 8 * found.row, want);
        }
    }
    // m16n8k64 of 4 bits: A ((4,8),(8,2,2)):((128,1),(16,8,512)), B ((4,8),(8,2)):((64,1),(8,256)).
    let shape = MmaShape::new(4, 64).unwrap();
    for lane in 0..32 {
        for value in 0..32 {
            let want = lane % 4 * 128 + lane / 4 + value % 8 * 16 + value / 8 % 2 * 8 + value / 16 * 512;
            let found = shape.a(lane, value / 8, value % 8);
            assert_eq!(found.row + 16 * found.column, want);
        }
        for value in 0..16 {
            let want = lane % 4 * 64 + lane / 4 + value % 8 * 8 + value / 8 * 256;
            let found = shape.b(lane, value / 8, value % 8);
            assert_eq!(found.column + 8 * found.row, want);
        }
    }
}

#[test]
fn cells_of_the_figures() {
    let tf32 = MmaShape::new(32, 8).unwrap();
    assert_eq!((tf32.a(5, 1, 0), tf32.a(5, 2, 0), tf32.b(5, 1, 0)), (at(9, 1), at(1, 5), at(5, 1)));
    let bytes = MmaShape::new(8, 32).unwrap();
    assert_eq!((bytes.a(6, 3, 2), bytes.b(31, 1, 3)), (at(9, 26), at(31, 7)));
    assert_eq!((mma_accumulator(7, 0), mma_accumulator(7, 3)), (at(1, 6), at(9, 7)));
    assert!(MmaShape::new(16, 32).is_err() && MmaShape::new(0, 16).is_err());
    assert!(MmaShape::new(16, u32::MAX).is_err());
}

#[test]
fn accumulators_of_wgmma_are_bijective_and_feed_a() {
    let places: HashSet<Place> = (0..128)
        .flat_map(|thread| (0..32).map(move |index| wgmma_accumulator(thread, index)))
        .inspect(|place| assert!(place.row < 64 && place.column < 64))
        .collect();
    assert_eq!(places.len(), 64 * 64);
    // CUTLASS CLayout_64x8: ((4,8,4),(2,2)):((128,1,16),(64,8)), as m + 64 n.
    assert_eq!(wgmma_accumulator(101, 3), at(48 + 1 + 8, 2 + 1));
    // Accumulators 8s .. 8s + 7, packed by twos, are A of k-step s.
    for thread in [0, 37, 127] {
        for step in 0..4 {
            for index in 0..8 {
                let d = wgmma_accumulator(thread, step * 8 + index);
                let a = wgmma_a(16, thread, index / 2, index % 2).unwrap();
                assert_eq!((d.row, d.column), (a.row, step * 16 + a.column));
            }
        }
    }
    let a: HashSet<Place> = (0..128)
        .flat_map(|thread| (0..16).map(move |index| wgmma_a(8, thread, index / 4, index % 4).unwrap()))
        .collect();
    assert_eq!((a.len(), a.iter().max()), (64 * 32, Some(&at(63, 31))));
    assert!(wgmma_a(0, 0, 0, 0).is_err() && wgmma_a(24, 0, 0, 0).is_err());
}

/// ldmatrix of four 8 x 8 matrices, rows in the order of lanes, is A of m16n8k16; transposed of B's rows it is B.
#[test]
fn ldmatrix_makes_operands_of_mma() {
    let shape = MmaShape::new(16, 16).unwrap();
    for lane in 0..32 {
        for element in 0..2 {
            for matrix in 0..4 {
                let place = b16_place(false, lane, element);
                let a = at(place.row + matrix % 2 * 8, place.column + matrix / 2 * 8);
                assert_eq!(shape.a(lane, matrix, element), a);
            }
            for matrix in 0..2 {
                // B lies with n as the dense dimension: rows are k.
                let place = b16_place(true, lane, element);
                assert_eq!(shape.b(lane, matrix, element), at(place.row + matrix * 8, place.column));
            }
        }
    }
    assert_eq!(row_address_lane(8, 3, 5), 29);
    assert_eq!(row_address_lane(16, 1, 5), 21);
}

/// ldmatrix.m16n16.trans.b8 of rows k of B, 16 columns n, holds B of two m16n8k32 halves: register r has columns 8r.
#[test]
fn transposed_bytes_are_a_half_of_b() {
    let shape = MmaShape::new(8, 32).unwrap();
    let mut seen = HashSet::new();
    for lane in 0..32 {
        for element in 0..4 {
            for register in 0..2 {
                let place = b8_transposed_place(lane, register, element);
                let b = shape.b(lane, 0, element);
                assert_eq!(place, at(b.row, b.column + register * 8));
                assert!(seen.insert(place));
            }
        }
    }
    assert_eq!(seen.len(), 256);
}

/// CUTLASS gives lane addresses to rows in an order of its own and swaps bytes after the load; both undone, the maps
/// are equal. Its layout after the swap: bits ((4,8),(8,2,2,2)):((256,8),(1,128,64,1024)), rows of 128 bits, and lane t
/// addresses row (t & 1) + 8 (t >> 1 & 1) + 2 (t >> 2).
#[test]
fn transposed_bytes_agree_with_cutlass() {
    for lane in 0..32 {
        for register in 0..2 {
            for byte in 0..4 {
                // {t0.x, t0.y, t1.x, t1.y} and {t0.z, t0.w, t1.z, t1.w} of the registers t0 and t1 of the load.
                let (after_register, after_byte) = (byte / 2, byte % 2 + register * 2);
                let bit = lane % 4 * 256
                    + lane / 4 * 8
                    + after_byte % 2 * 128
                    + after_byte / 2 * 64
                    + after_register * 1024;
                let (logical_row, column) = (bit / 128, bit % 128 / 8);
                let row = (0..16).find(|t| (t & 1) + 8 * (t >> 1 & 1) + 2 * (t >> 2) == logical_row);
                assert_eq!(Some(b8_transposed_place(lane, register, byte).row), row);
                assert_eq!(b8_transposed_place(lane, register, byte).column, column);
            }
        }
    }
}

#[test]
fn stmatrix_of_bytes_transposes_an_accumulator() {
    let mut seen = HashSet::new();
    for lane in 0..32 {
        for element in 0..4 {
            let accumulator = mma_accumulator(lane, element);
            let stored = b8_stmatrix_place(lane, element);
            assert_eq!(stored, at(accumulator.column, accumulator.row));
            assert!(seen.insert(stored));
        }
    }
    assert_eq!(m8n16_place(13, 2), at(3, 6));
}

#[test]
fn narrow_rows_expand() {
    let mut row = [0xff; 16];
    row[..3].copy_from_slice(&[0x21, 0x43, 0xa5]);
    let low = expand_row(Packing::Bits4In16Bytes, Expansion::Low, row).unwrap();
    assert_eq!(low[..7], [1, 2, 3, 4, 5, 0xa, 0xf]);
    let centered = expand_row(Packing::Bits4In16Bytes, Expansion::Centered, row).unwrap();
    assert_eq!(centered[..3], [4, 8, 12]);
    // 24 bits 0xa54321 are the 6-bit elements 0x21, 0x0c, 0x14, 0x29.
    for expansion in [Expansion::Low, Expansion::Centered] {
        let six = expand_row(Packing::Bits6In16Bytes, expansion, row).unwrap();
        assert_eq!(six[..5], [0x21, 0x0c, 0x14, 0x29, 0x3f]);
    }
    assert_eq!(expand_row(Packing::Bits8, Expansion::Low, row), None);
}

/// CUTLASS of sm_120: SFA ((2,2,8),K):((8,0,1),16), SFB ((4,8),K):((0,1),8).
#[test]
fn scales_lie_in_selected_lanes() {
    for pair in 0..2 {
        let a = ScaleSelector::a(ScaleVector::X2, 2, pair).unwrap();
        let b = ScaleSelector::b(ScaleVector::X4, 0, 2 * pair + 1).unwrap();
        let mut lanes = HashSet::new();
        for row in 0..16 {
            let (lane, byte) = a.of_row(row, 1);
            assert_eq!((lane % 2 * 8 + lane / 4, lane / 2 % 2, byte), (row, pair.into(), 3));
            lanes.insert(lane);
        }
        assert_eq!(lanes.len(), 16);
        for column in 0..8 {
            assert_eq!(b.of_column(column, 2), (column * 4 + usize::from(2 * pair) + 1, 2));
        }
        assert_eq!((a.part(31, 64), a.part(32, 64), b.part(47, 64), b.part(48, 64)), (0, 1, 2, 3));
    }
}

#[test]
fn selectors_outside_of_the_table_are_refused() {
    assert!(ScaleSelector::a(ScaleVector::X1, 3, 1).is_ok());
    assert!(ScaleSelector::a(ScaleVector::X1, 0, 2).is_err());
    assert!(ScaleSelector::b(ScaleVector::X1, 0, 3).is_ok());
    assert!(ScaleSelector::b(ScaleVector::X1, 4, 0).is_err());
    assert!(ScaleSelector::b(ScaleVector::X4, 2, 0).is_err());
    let error = ScaleSelector::a(ScaleVector::X2, 1, 0).unwrap_err();
    assert_eq!(error.to_string(), "block-scaled mma.sync with X2 has byte id 1; allowed are 0 and 2");
}
