//! Pieces agree with the whole; distributions and padding are what they should be.

use super::*;
use crate::layout::{e4m3, unpack_row};
use crate::testing::weight;
use proptest::prelude::*;

fn whole(w: &Weight, part: Part) -> Vec<u8> {
    let mut out = vec![0xee; sizes(&w.shape, w.encoding, w.layout).unwrap().of(part) as usize];
    fill(w, 3, 42, part, 0, &mut out).unwrap();
    out
}

/// All values of a weight, row by row, over the given extents.
fn values(w: &Weight, shape: &[u64]) -> Vec<f32> {
    let parts = Part::ALL.map(|p| whole(w, p));
    let read = Weight { shape: shape.to_vec(), ..w.clone() };
    let mut all = Vec::new();
    let mut row = vec![0.0; shape[shape.len() - 1] as usize];
    for r in 0..shape.iter().rev().skip(1).product() {
        unpack_row(&read, &parts[0], &parts[1], &parts[2], r, &mut row).unwrap();
        all.extend_from_slice(&row);
    }
    all
}

const FORMS: [(Encoding, Layout); 8] = [
    (Encoding::F32, Layout::Panel16),
    (Encoding::Bf16, Layout::Panel16),
    (Encoding::I8Channel, Layout::Panel16),
    (Encoding::F8Channel, Layout::Panel16),
    (Encoding::F8Channel, Layout::Rows),
    (Encoding::I4Group { group: 32 }, Layout::Panel16),
    (Encoding::I8Channel, Layout::Fragment16),
    (Encoding::I4Group { group: 64 }, Layout::Fragment16),
];

#[test]
fn matrices_have_the_right_spread() {
    for (encoding, layout) in FORMS {
        let w = weight("w", &[64, 1024], encoding, layout);
        let v = values(&w, &w.shape);
        let mean = v.iter().sum::<f32>() / v.len() as f32;
        let std = (v.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / v.len() as f32).sqrt();
        assert!((std * 32.0 - 1.0).abs() < 0.03, "{encoding:?} {std}");
        assert!(mean.abs() < std / 50.0, "{encoding:?} {mean}");
    }
}

#[test]
fn vectors_are_one_and_biases_small() {
    for encoding in [Encoding::F32, Encoding::Bf16] {
        let norm = weight("l0.norm", &[100], encoding, Layout::Rows);
        assert!(values(&norm, &[100]).iter().all(|&x| x == 1.0));
        let bias = values(&weight("l0.q.bias", &[100], encoding, Layout::Rows), &[100]);
        assert!(bias.iter().all(|x| x.abs() <= 0.0201) && bias.iter().any(|x| x.abs() > 0.01));
    }
}

#[test]
fn seeds_and_weights_differ() {
    let w = weight("w", &[16, 64], Encoding::Bf16, Layout::Panel16);
    let get = |index, seed| {
        let mut out = vec![0; 2048];
        fill(&w, index, seed, Part::Payload, 0, &mut out).unwrap();
        out
    };
    assert_eq!(get(1, 2), get(1, 2));
    assert_ne!(get(1, 2), get(2, 2));
    assert_ne!(get(1, 2), get(1, 3));
}

#[test]
fn what_is_not_dummy_is_refused() {
    let w = weight("w", &[16, 64], Encoding::Bf16, Layout::Panel16);
    let mut out = vec![0; 64];
    assert!(fill(&w, 0, 0, Part::Payload, 63, &mut out).is_err());
    assert!(fill(&w, 0, 0, Part::Payload, 2048, &mut out).is_err());
    assert!(fill(&w, 0, 0, Part::Scale, 0, &mut out).is_err());
    assert!(fill(&Weight { computed: true, ..w }, 0, 0, Part::Payload, 0, &mut out).is_err());
}

#[test]
fn no_i8_is_minus_128() {
    let w = weight("w", &[64, 1024], Encoding::I8Channel, Layout::Panel16);
    let bytes = whole(&w, Part::Payload);
    assert!(!bytes.contains(&0x80) && bytes.contains(&0x81) && bytes.contains(&0x7f));
}

/// Each entry of the table is the nearest number to 3.5 i, and of two that are as near the even one.
#[test]
fn e4m3_numbers_are_uniform() {
    let finite = || (0..=255u8).filter(|c| c & 0x7f != 0x7f);
    for (byte, &code) in F8.iter().enumerate() {
        let want = 3.5 * f32::from(byte as u8 as i8);
        let distance = |c: u8| (e4m3(c) - want).abs();
        assert!(code & 0x7f != 0x7f && finite().all(|c| distance(code) <= distance(c)), "{byte}");
        assert!(
            code % 2 == 0 || finite().all(|c| distance(code) < distance(c) || c == code),
            "a tie at {byte}"
        );
    }
    assert_eq!((F8[127], F8[128], F8[0]), (0x7e, 0xfe, 0));
}

proptest! {
    #[test]
    fn padding_is_zero_and_pieces_agree(n in 1u64..40, k in 1u64..200, which in 0usize..8, step in 1usize..5) {
        let (encoding, layout) = FORMS[which];
        let w = weight("w", &[n, k], encoding, layout);
        // Rows have no padding.
        let (rows, inputs) = match layout {
            Layout::Rows => (n, k),
            _ => panels(&w.shape, encoding, layout).map(|p| (p.count * 16, p.inputs)).unwrap(),
        };
        let v = values(&w, &[rows, inputs]);
        for (i, &x) in v.iter().enumerate() {
            let (row, col) = (i as u64 / inputs, i as u64 % inputs);
            prop_assert!(row < n && col < k || x == 0.0, "({}, {}) is {}", row, col, x);
        }
        // A zero is possible for a value that is not padding, but not for most of them.
        prop_assert!(v.iter().filter(|&&x| x != 0.0).count() as u64 * 2 > n * k);
        for part in Part::ALL {
            let all = whole(&w, part);
            let size = 64 * step;
            for (i, want) in all.chunks(size).enumerate() {
                let mut piece = vec![0xaa; want.len()];
                fill(&w, 3, 42, part, (i * size) as u64, &mut piece).unwrap();
                prop_assert_eq!(&piece[..], want);
            }
        }
    }
}
