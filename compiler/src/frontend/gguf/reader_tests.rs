//! The container: good files, every way to break one, and random damage.

use super::*;
use crate::frontend::gguf::fixture::{Gguf, llama};
use proptest::prelude::*;

fn parse(bytes: &[u8]) -> Result<Header, Diag> {
    parse_header(bytes, &Loc::name("m.gguf"))
}

fn message(bytes: &[u8]) -> String {
    parse(bytes).err().expect("the file is broken").to_string()
}

#[test]
fn metadata_and_tensors_of_both_versions() {
    let file = Gguf::default()
        .u32("n", 7)
        .raw("i", 5, &(-7i32).to_le_bytes())
        .raw("d", 12, &0.5f64.to_le_bytes())
        .bool("b", true)
        .str("s", "text")
        .strings("words", &["x", "yz", ""])
        .f32s("floats", &[1.5, -2.0])
        .counting("a", &[3])
        .counting("b", &[2, 4]);
    for version in [2, 3] {
        let bytes = file.build_with(version, |_, offset| offset);
        let h = parse(&bytes).unwrap();
        assert_eq!(h.meta["n"], Meta::Uint(7));
        assert_eq!(h.meta["i"], Meta::Int(-7));
        assert_eq!(h.meta["d"], Meta::Float(0.5));
        assert_eq!(h.meta["b"], Meta::Bool(true));
        assert_eq!(h.meta["s"], Meta::Str("text".into()));
        let array = |key: &str| {
            if let Meta::Array(a) = &h.meta[key] { a.clone() } else { panic!("{key}") }
        };
        assert_eq!(array("words").strings(&bytes, &Loc::Unknown).unwrap(), ["x", "yz", ""]);
        assert_eq!(array("floats").numbers(&bytes, &Loc::Unknown).unwrap(), [1.5, -2.0]);
        assert!(array("floats").strings(&bytes, &Loc::Unknown).is_err());
        assert!(array("words").numbers(&bytes, &Loc::Unknown).is_err());
        let (name, b) = &h.tensors[1];
        assert_eq!((name.as_str(), b.info.shape.as_slice()), ("b", [2, 4].as_slice()));
        assert_eq!(
            bytes[b.bytes.clone()],
            (0..8).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>()[..]
        );
    }
}

#[test]
fn an_alignment_of_its_own() {
    let file = Gguf::default().u32("general.alignment", 64).counting("a", &[3]).build();
    // The fixture pads to 32, so the data may lie 32 bytes too early: move it.
    let header_end = file.len() - 32;
    let mut moved = file[..header_end].to_vec();
    moved.resize(header_end.next_multiple_of(64), 0);
    moved.extend(&file[header_end..]);
    let h = parse(&moved).unwrap();
    assert_eq!(&moved[h.tensors[0].1.bytes.clone()][4..8], 1.0f32.to_le_bytes());
    let bad = Gguf::default().u32("general.alignment", 48).counting("a", &[3]).build();
    assert!(message(&bad).contains("`general.alignment` must be a power of two"));
}

#[test]
fn what_is_not_a_gguf_file() {
    assert!(message(b"").contains("ends within the magic number"));
    assert!(message(b"PK\x03\x04 and so on").contains("does not begin with GGUF"));
    assert!(message(&llama().build_with(1, |_, o| o)).contains("GGUF version 1"));
    assert!(message(&llama().build_with(3u32.swap_bytes(), |_, o| o)).contains("big-endian"));
}

/// A header with these counts and nothing behind it.
fn counts(tensors: u64, entries: u64) -> Vec<u8> {
    [b"GGUF".as_slice(), &3u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
}

#[test]
fn absurd_counts_and_lengths_are_errors_at_once() {
    assert!(message(&counts(u64::MAX, 0)).contains("ends within tensor 0 of"));
    assert!(message(&counts(0, u64::MAX)).contains("ends within metadata key 0 of"));
    let mut key = counts(0, 1);
    key.extend(u64::MAX.to_le_bytes());
    assert!(message(&key).contains("18446744073709551615 bytes are needed"));
    for (elem, count) in [(4u32, u64::MAX), (8, u64::MAX), (12, 1 << 62), (9, u64::MAX)] {
        let value = [elem.to_le_bytes().as_slice(), &count.to_le_bytes()].concat();
        assert!(message(&Gguf::default().raw("k", 9, &value).build()).contains("`k`") || elem == 9);
    }
    let huge = Gguf::default().tensor("t", &[1 << 40, 1 << 40], 0, vec![]).build();
    assert!(message(&huge).contains("\"t\" has the impossible extents"));
    let zero = Gguf::default().tensor("t", &[0, 4], 0, vec![]).build();
    assert!(message(&zero).contains("\"t\" has the impossible extents"));
    let dims = Gguf::default().tensor("t", &[1; 5], 0, vec![0; 4]).build();
    assert!(message(&dims).contains("has 5 dimensions"));
}

#[test]
fn arrays_nested_without_end() {
    let mut value = Vec::new();
    for _ in 0..100 {
        value.extend(9u32.to_le_bytes());
        value.extend(1u64.to_le_bytes());
    }
    assert!(message(&Gguf::default().raw("k", 9, &value).build()).contains("nested deeper than 4"));
}

#[test]
fn broken_metadata() {
    assert!(message(&Gguf::default().raw("k", 99, &[]).build()).contains("`k` has the unknown type 99"));
    assert!(message(&Gguf::default().u32("k", 1).u32("k", 2).build()).contains("`k` twice"));
    let text = [2u64.to_le_bytes().as_slice(), &[0xff, 0xfe]].concat();
    assert!(message(&Gguf::default().raw("k", 8, &text).build()).contains("`k` is not UTF-8"));
}

#[test]
fn tensors_out_of_bounds_overlapping_or_cut() {
    let two = Gguf::default().counting("a", &[16]).counting("b", &[16]);
    assert!(parse(&two.build()).is_ok());
    assert!(message(&two.build_with(3, |_, _| 0)).contains("tensors \"a\" and \"b\" overlap"));
    assert!(message(&two.build_with(3, |i, o| o + i as u64 * 32)).contains("\"b\" takes 64 bytes from 96"));
    assert!(message(&two.build_with(3, |i, o| o + i as u64)).contains("not a multiple of 32"));
    assert!(
        message(&two.build_with(3, |i, o| if i == 1 { u64::MAX - 31 } else { o })).contains("\"b\" takes")
    );
    let twice = Gguf::default().counting("a", &[16]).counting("a", &[16]).build();
    assert!(message(&twice).contains("the tensor \"a\" twice"));
    let uneven = Gguf::default().tensor("q", &[2, 33], 8, vec![0; 80]).build();
    assert!(message(&uneven).contains("rows of 33 elements, not a multiple of 32, which Q8_0 needs"));
}

#[test]
fn an_unknown_element_type_is_kept_but_not_readable() {
    let h = parse(&Gguf::default().tensor("t", &[32], 19, vec![0; 32]).build()).unwrap();
    assert_eq!(h.tensors[0].1.encoding, None);
    assert_eq!(h.tensors[0].1.info.dtype, "number 19");
}

#[test]
fn every_prefix_of_a_good_file_is_refused() {
    let good = llama().build();
    // The padding after the last tensor is not needed.
    let (_, last) = &parse(&good).unwrap().tensors.pop().unwrap();
    for n in 0..last.bytes.end {
        assert!(parse(&good[..n]).is_err(), "{n}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn damage_never_panics(at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 1..9)) {
        let mut file = llama().build();
        let at = at.index(file.len() - bytes.len());
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        if let Ok(h) = parse(&file) {
            for (_, t) in &h.tensors {
                prop_assert!(file.get(t.bytes.clone()).is_some());
            }
            for value in h.meta.values() {
                if let Meta::Array(a) = value {
                    let _ = a.strings(&file, &Loc::Unknown);
                    let _ = a.numbers(&file, &Loc::Unknown);
                }
            }
        }
    }
}
