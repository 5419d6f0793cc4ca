//! Tests of tensor memory: layouts as CUTLASS writes them, and bijectivity.

use super::*;
use crate::layout::fragment::{mma_accumulator, wgmma_accumulator};
use crate::layout::instruction_descriptor::MmaKind;
use proptest::prelude::*;
use std::collections::HashSet;

fn cell(lane: u32, column: u32) -> Cell {
    Cell { lane, column }
}

#[test]
fn addresses_hold_lane_and_column() {
    assert_eq!(Cell::from_address(0x0060_0104), Ok(cell(96, 260)));
    assert_eq!(cell(96, 260).address(), 0x0060_0104);
    assert_eq!(Cell::from_address(128 << 16), Err(TensorMemoryError::Outside { lane: 128, column: 0 }));
    assert_eq!(Cell::from_address(512), Err(TensorMemoryError::Outside { lane: 0, column: 512 }));
    assert_eq!(cell(3, 500).plus(cell(0, 11)), Ok(cell(3, 511)));
    assert!(cell(3, 500).plus(cell(0, 12)).is_err());
    assert!(cell(3, 500).plus(cell(u32::MAX, 0)).is_err());
}

#[test]
fn allocations_are_powers_of_two() {
    let allowed: Vec<u32> = (0..1100).filter(|columns| check_allocation(*columns).is_ok()).collect();
    assert_eq!(allowed, [32, 64, 128, 256, 512]);
}

/// Shape, repetition, columns that it covers.
const LOADS: [(LoadShape, u32, u32); 6] = [
    (LoadShape::Lanes32Bits32, 128, 128),
    (LoadShape::Lanes16Bits64, 128, 256),
    (LoadShape::Lanes16Bits128, 64, 256),
    (LoadShape::Lanes16Bits256, 32, 256),
    (LoadShape::Lanes16Bits32X2, 128, 256),
    (LoadShape::Lanes16Bits256, 1, 8),
];

#[test]
fn loads_cover_their_cells_once() {
    for (shape, repetition, columns) in LOADS {
        let registers = shape.registers(repetition).unwrap();
        let split = repetition;
        let mut seen = HashSet::new();
        let mut packed = HashSet::new();
        for lane in 0..32 {
            for register in 0..registers {
                let found = shape.cell(lane, register, split);
                assert!(found.lane < shape.lanes() && found.column < columns, "{shape:?} {found:?}");
                assert!(seen.insert(found));
                for half in shape.packed_cells(lane, register, 2 * split) {
                    assert!(half.lane < shape.lanes() && half.column < 2 * columns);
                    assert!(packed.insert(half));
                }
            }
        }
        assert_eq!(seen.len() as u32, shape.lanes() * columns);
        assert_eq!(packed.len() as u32, 2 * shape.lanes() * columns);
    }
    assert!(LoadShape::Lanes16Bits256.registers(64).is_err());
    assert!(LoadShape::Lanes32Bits32.registers(3).is_err());
    assert!(LoadShape::Lanes32Bits32.registers(0).is_err());
}

/// 16x256b is the fragment of an accumulator of mma.sync, as 16x128b is that of ldmatrix with 32-bit cells.
#[test]
fn a_load_of_256_bits_is_an_accumulator() {
    for lane in 0..32 {
        for register in 0..16 {
            let found = LoadShape::Lanes16Bits256.cell(lane, register, 0);
            let want = wgmma_accumulator(lane as usize, register as usize);
            assert_eq!((found.lane as usize, found.column as usize), (want.row, want.column));
        }
        let first = mma_accumulator(lane as usize, 2);
        assert_eq!(LoadShape::Lanes16Bits256.cell(lane, 2, 0), cell(first.row as u32, first.column as u32));
    }
    assert_eq!(LoadShape::Lanes16Bits64.cell(7, 3, 0), cell(9, 7));
    assert_eq!(LoadShape::Lanes16Bits128.cell(7, 3, 0), cell(9, 7));
    assert_eq!(LoadShape::Lanes16Bits32X2.cell(17, 1, 10), cell(1, 11));
    assert_eq!(LoadShape::Lanes16Bits32X2.packed_cells(17, 1, 10), [cell(1, 12), cell(1, 13)]);
    assert_eq!(LoadShape::Lanes32Bits32.packed_cells(5, 3, 0), [cell(5, 6), cell(5, 7)]);
}

#[test]
fn warps_reach_their_window_only() {
    assert!(LoadShape::Lanes32Bits32.check_lane(6, 64).is_ok());
    assert!(LoadShape::Lanes32Bits32.check_lane(6, 80).is_err());
    assert!(LoadShape::Lanes16Bits64.check_lane(6, 80).is_ok());
    let error = LoadShape::Lanes16Bits64.check_lane(1, 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Lanes16Bits64 of warp 1 of its warpgroup is at lane 0; that warp reaches it at lane 32 or 48"
    );
}

#[test]
fn copies_fill_the_lanes_of_their_warps() {
    for (shape, filled) in [
        (CopyShape::Rows128Bits256, 128),
        (CopyShape::Rows128Bits128, 128),
        (CopyShape::Rows4Bits256, 4),
        (CopyShape::Rows64Bits128Warps02And13, 128),
        (CopyShape::Rows64Bits128Warps01And23, 128),
        (CopyShape::Rows32Bits128Warps4, 128),
    ] {
        let lanes: Vec<u32> = (0..shape.rows()).flat_map(|row| shape.lanes(row)).collect();
        let unique: HashSet<u32> = lanes.iter().copied().collect();
        assert_eq!((lanes.len(), unique.len()), (filled, filled), "{shape:?}");
        assert!(lanes.iter().all(|lane| *lane < LANES));
    }
    // The first half of 64 rows is in warps 0 and 2, or 0 and 1.
    assert_eq!(CopyShape::Rows64Bits128Warps02And13.lanes(31), [31, 95]);
    assert_eq!(CopyShape::Rows64Bits128Warps02And13.lanes(32), [32, 96]);
    assert_eq!(CopyShape::Rows64Bits128Warps01And23.lanes(31), [31, 63]);
    assert_eq!(CopyShape::Rows64Bits128Warps01And23.lanes(32), [64, 96]);
    assert_eq!(CopyShape::Rows32Bits128Warps4.lanes(1), [1, 33, 65, 97]);
    assert_eq!((CopyShape::Rows4Bits256.columns(), CopyShape::Rows4Bits256.lanes(3)), (8, vec![96]));
}

/// The scales of 128 rows, stored as CUTLASS's blocks of 32 rows of 16 bytes (byte (r % 32) * 16 + (r / 32) * 4 + part)
/// and copied by 32x128b.warpx4, are where tcgen05.mma reads them.
#[test]
fn copied_scales_are_where_mma_reads_them() {
    let shape = CopyShape::Rows32Bits128Warps4;
    for row in 0..128 {
        for part in 0..4 {
            let byte = row % 32 * 16 + row / 32 * 4 + part;
            let (source_row, source_byte) = (byte / 16, byte % 16);
            let (place, byte_of_cell) = scale_place(row, part, 0);
            assert_eq!((source_byte / 4, source_byte % 4), (place.column, byte_of_cell));
            let lanes: Vec<u32> = SCALE_REPLICAS.iter().map(|replica| place.lane + replica).collect();
            assert_eq!(shape.lanes(source_row), lanes);
        }
    }
    assert_eq!(scale_place(200, 1, 2), (cell(8, 6), 3));
}

#[test]
fn accumulators_lie_as_cutlass_lays_them() {
    let place = |path: DataPath, row, column| path.accumulator(row, column, 64);
    assert_eq!(place(DataPath::D, 100, 5), AccumulatorPlace { cta: 0, cell: cell(100, 5) });
    assert_eq!(place(DataPath::A, 200, 5), AccumulatorPlace { cta: 1, cell: cell(72, 5) });
    // ((16,4),N):((1,32),128)
    assert_eq!(place(DataPath::F, 20, 5).cell, cell(36, 5));
    assert_eq!(place(DataPath::C, 84, 5), AccumulatorPlace { cta: 1, cell: cell(36, 5) });
    // (64,(N/2,2)):(1,(128,64))
    assert_eq!(place(DataPath::E, 20, 37).cell, cell(84, 5));
    assert_eq!(place(DataPath::B, 84, 37), AccumulatorPlace { cta: 1, cell: cell(84, 5) });
    // (32,(N/4,4)):(1,(128,32))
    assert_eq!(place(DataPath::G, 20, 37).cell, cell(84, 5));
    assert_eq!(DataPath::F.accumulator(1, 1, 0).cell, cell(1, 1));
}

#[test]
fn data_paths_are_those_of_the_table() {
    assert_eq!(DataPath::of(64, 1, false, false), Ok(DataPath::F));
    assert_eq!(DataPath::of(64, 1, true, true), Ok(DataPath::E));
    assert_eq!(DataPath::of(128, 1, true, false), Ok(DataPath::D));
    assert_eq!(DataPath::of(128, 2, false, false), Ok(DataPath::B));
    assert_eq!(DataPath::of(128, 2, false, true), Ok(DataPath::C));
    assert_eq!(DataPath::of(256, 2, false, false), Ok(DataPath::A));
    assert!(DataPath::of(256, 1, false, false).is_err() && DataPath::of(64, 2, false, false).is_err());
    assert_eq!(DataPath::F.lane_alignments(), [0, 16]);
}

#[test]
fn a_is_dense_along_k() {
    assert_eq!(operand_a_place(DataPath::D, MmaKind::F16, 9, 5), Ok((cell(9, 2), 16)));
    assert_eq!(operand_a_place(DataPath::F, MmaKind::Mxf8f6f4, 20, 7), Ok((cell(36, 1), 24)));
    assert_eq!(operand_a_place(DataPath::D, MmaKind::Mxf4, 0, 13), Ok((cell(0, 1), 20)));
    assert_eq!(operand_a_place(DataPath::D, MmaKind::Tf32, 0, 3), Ok((cell(0, 3), 0)));
    assert!(operand_a_place(DataPath::B, MmaKind::F16, 0, 0).is_err());
}

proptest! {
    #[test]
    fn accumulators_never_share_a_cell(path in 0usize..7, parts in 1u32..=8) {
        let (path, m) = [
            (DataPath::A, 256), (DataPath::B, 128), (DataPath::C, 128), (DataPath::D, 128), (DataPath::E, 64),
            (DataPath::F, 64), (DataPath::G, 32),
        ][path];
        let n = parts * 32;
        let mut seen = HashSet::new();
        for row in 0..m {
            for column in 0..n {
                let place = path.accumulator(row, column, n);
                prop_assert!(place.cell.lane < LANES && place.cell.column < n && place.cta < 2);
                prop_assert!(seen.insert(place));
            }
        }
    }

    #[test]
    fn decoding_an_address_never_panics(address in any::<u32>()) {
        if let Ok(cell) = Cell::from_address(address) {
            prop_assert_eq!(cell.address(), address);
        }
    }
}
