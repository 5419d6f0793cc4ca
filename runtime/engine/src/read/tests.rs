//! Whole files open; damaged, foreign and other versions' files are refused with the right words.

use super::*;
use crate::error::Fault;
use crate::manifest::Manifest;
use crate::testing::{content, file, manifest, ptx_manifest, write};
use proptest::prelude::*;

/// A container with this metadata and these tensors of one-dimensional U8: (name, from, to).
fn container(manifest_json: Option<&str>, tensors: &[(&str, usize, usize)], data: usize) -> Vec<u8> {
    let mut header = serde_json::json!({});
    if let Some(json) = manifest_json {
        header["__metadata__"] = serde_json::json!({ "trtc": json, "trtc.hash": "0" });
    }
    for (name, from, to) in tensors {
        header[*name] =
            serde_json::json!({ "dtype": "U8", "shape": [to - from], "data_offsets": [from, to] });
    }
    let text = header.to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend(std::iter::repeat_n(0, data));
    bytes
}

/// The header of a file and its data.
fn split(bytes: &[u8]) -> (serde_json::Value, Vec<u8>) {
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + n]).unwrap(), bytes[8 + n..].to_vec())
}

fn join(header: &serde_json::Value, data: &[u8]) -> Vec<u8> {
    let text = header.to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Everything that `open` does, on bytes.
fn read(bytes: &[u8]) -> Result<EngineFile, EngineError> {
    let file = EngineFile::parse(bytes)?;
    file.verify_hash()?;
    Ok(file)
}

#[test]
fn a_written_file_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.engine");
    for m in [manifest(), ptx_manifest(), Manifest { dummy_seed: Some(1), ..manifest() }] {
        let written = write(&m, &path).unwrap();
        let file = EngineFile::open_with(&path, Verify::Always).unwrap();
        assert_eq!((file.hash(), file.len()), (written.hash.as_str(), written.bytes));
        assert_eq!(file.manifest(), &m);
        for t in file.tensors().iter().filter(|t| !t.is_pad()) {
            assert_eq!(file.tensor(&t.name).unwrap(), content(&m, &t.name));
            let range = file.tensor_range(&t.name).unwrap();
            assert_eq!(range.start % 64, 0);
            assert_eq!(&(*file.bytes()).as_ref()[range], content(&m, &t.name));
        }
        assert!(file.tensor("other").is_err());
    }
}

#[test]
fn cut_anywhere_it_is_refused() {
    let bytes = file(&manifest());
    for at in (0..bytes.len()).step_by(13).chain([1, 7, 8, 9, bytes.len() - 1]) {
        let error = EngineFile::parse(&bytes[..at]).expect_err("a part of a file");
        assert_ne!(error.fault(), Fault::Bug, "{error}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(EngineFile::parse(&longer), Err(EngineError::Damaged(_))));
    let half = EngineFile::parse(&bytes[..bytes.len() - 100]).unwrap_err();
    assert!(matches!(half, EngineError::Damaged(_)), "{half}");
    let header = EngineFile::parse(&bytes[..500]).unwrap_err();
    assert!(header.to_string().contains("ends within its header"), "{header}");
}

#[test]
fn a_flipped_bit_is_found() {
    let bytes = file(&manifest());
    for at in (0..bytes.len()).step_by(3) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(read(&changed).is_err(), "bit {} of byte {at}", at % 8);
    }
}

#[test]
fn other_versions_are_named() {
    for (format, word) in [(FORMAT - 1, "older"), (FORMAT + 1, "newer")] {
        // Of another version only the number is known.
        let bytes = container(Some(&format!("{{\"format\":{format},\"surprise\":[1]}}")), &[], 0);
        let error = EngineFile::parse(&bytes).unwrap_err();
        assert!(matches!(error, EngineError::Format { found } if found == u64::from(format)));
        assert_eq!(error.fault(), Fault::Unsupported);
        assert!(error.help().unwrap().contains(word));
    }
    let error = EngineFile::parse(&container(Some("{}"), &[], 0)).unwrap_err();
    assert!(matches!(error, EngineError::Manifest { .. }));
}

#[test]
fn what_is_no_engine_is_named() {
    let checkpoint = container(None, &[("w", 0, 8)], 8);
    for (bytes, word, is_checkpoint) in [
        (b"GGUF\x03\0\0\0and so on".to_vec(), "GGUF", true),
        (checkpoint, "safetensors checkpoint", true),
        (b"{\"architectures\": []}".to_vec(), "JSON", true),
        (b"PK\x03\x04 ...".to_vec(), "zip", false),
        (b"hello, this is text".to_vec(), "", false),
        (Vec::new(), "", false),
        (vec![0xff; 100], "", false),
    ] {
        let error = EngineFile::parse(&bytes).unwrap_err();
        assert!(
            matches!(error, EngineError::NotAnEngine { checkpoint, .. } if checkpoint == is_checkpoint),
            "{error}"
        );
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.help().unwrap().contains("trtc build MODEL"), is_checkpoint);
    }
    let dir = tempfile::tempdir().unwrap();
    let error = EngineFile::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("a folder"));
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    assert!(EngineFile::open(dir.path()).unwrap_err().help().unwrap().contains("trtc build MODEL"));
    std::fs::write(dir.path().join("empty"), "").unwrap();
    assert!(EngineFile::open(&dir.path().join("empty")).unwrap_err().to_string().contains("empty"));
    let none = EngineFile::open(&dir.path().join("none")).unwrap_err();
    assert!(matches!(none.root(), EngineError::Io { .. }));
}

#[test]
fn tensors_are_compared_with_the_manifest() {
    let bytes = file(&manifest());
    let (header, data) = split(&bytes);
    let refused = |change: &dyn Fn(&mut serde_json::Value), data: &[u8]| {
        let mut header = header.clone();
        change(&mut header);
        EngineFile::parse(&join(&header, data)).expect_err("should be refused").to_string()
    };
    EngineFile::parse(&join(&header, &data)).unwrap();

    // The last tensor away, with its bytes.
    let last = header["tokenizer.json"]["data_offsets"][0].as_u64().unwrap() as usize;
    let cut = refused(&|h| drop(h.as_object_mut().unwrap().remove("tokenizer.json")), &data[..last]);
    assert!(cut.contains("\"tokenizer.json\" is missing"), "{cut}");
    // A weight under another name.
    let rename = |h: &mut serde_json::Value| {
        let norm = h.as_object_mut().unwrap().remove("norm").unwrap();
        h["other"] = norm;
    };
    assert!(refused(&rename, &data).contains("\"norm\" is missing"));
    // Another type of the same size, another shape, two tensors in one place.
    assert!(refused(&|h| h["o"]["dtype"] = "U8".into(), &data).contains("tensor \"o\" U8"));
    assert!(refused(&|h| h["o"]["dtype"] = "F64".into(), &data).contains("damaged"));
    assert!(refused(&|h| h["head"]["shape"] = serde_json::json!([2, 160, 1]), &data).contains("[2, 160, 1]"));
    assert!(
        refused(&|h| h["qkv.scale"]["data_offsets"] = h["o"]["data_offsets"].clone(), &data)
            .contains("damaged")
    );
    // One more tensor at the end.
    let more = |h: &mut serde_json::Value| {
        let end = data.len();
        h["more"] = serde_json::json!({ "dtype": "U8", "shape": [4], "data_offsets": [end, end + 4] });
    };
    let longer = [&data[..], &[0; 4]].concat();
    assert!(refused(&more, &longer).contains("\"more\" is not in the manifest"));
    // No hash, and a wrong one.
    let no_hash =
        |h: &mut serde_json::Value| drop(h["__metadata__"].as_object_mut().unwrap().remove("trtc.hash"));
    assert!(refused(&no_hash, &data).contains("trtc.hash"));
    let mut wrong = header.clone();
    wrong["__metadata__"]["trtc.hash"] = "0".repeat(32).into();
    assert!(EngineFile::parse(&join(&wrong, &data)).unwrap().verify_hash().is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(EngineFile::parse(&bytes).is_err());
    }

    #[test]
    fn no_numbers_in_the_manifest_make_it_panic(which in any::<prop::sample::Index>(), value in prop_oneof![
        Just(0u64), Just(u64::MAX), Just(u64::from(u32::MAX)), any::<u64>(), 0u64..64,
    ]) {
        // Replaces one number anywhere in the manifest.
        let json = serde_json::to_string(&manifest()).unwrap();
        let digits: Vec<usize> = (1..json.len())
            .filter(|&i| json.as_bytes()[i].is_ascii_digit() && b":[,".contains(&json.as_bytes()[i - 1]))
            .collect();
        let at = digits[which.index(digits.len())];
        let end = at + json[at..].find(|c: char| !c.is_ascii_digit()).unwrap();
        let changed = format!("{}{value}{}", &json[..at], &json[end..]);
        if let Ok(m) = serde_json::from_str::<Manifest>(&changed)
            && m.check().is_ok()
        {
            let size = |_: &str| Some(5);
            crate::container::tensors(&m, &size).unwrap();
        }
    }
}
