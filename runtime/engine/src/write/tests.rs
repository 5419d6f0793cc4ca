//! Files open in the container's own crate, are reproducible, and leave nothing behind when they fail.

use super::*;
use crate::manifest::Manifest;
use crate::testing::{content, file, manifest, ptx_manifest, write};
use safetensors::SafeTensors;

fn names(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_container_crate_reads_it() {
    for m in [manifest(), ptx_manifest()] {
        let bytes = file(&m);
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let (len, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!((8 + len) % 64, 0);
        let texts = metadata.metadata().clone().unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&texts["trtc"]).unwrap(), m);
        assert_eq!(texts["trtc.hash"].len(), 32);
        assert_ne!(texts["trtc.hash"], "0".repeat(32));
        let mut seen = 0;
        for (name, view) in read.tensors() {
            let at = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            if name.starts_with("pad.") {
                assert!(view.data().iter().all(|&b| b == 0));
            } else {
                assert_eq!(at % 64, 0, "{name}");
                assert_eq!(view.data(), content(&m, &name), "{name}");
                seen += 1;
            }
        }
        // Nine weights, a scale and a zero of one, scales of three, the tokenizer; and five modules and a binary.
        assert_eq!(seen, if m.capability.is_some() { 21 } else { 15 });
        let shape =
            |name: &str| (read.tensor(name).unwrap().dtype(), read.tensor(name).unwrap().shape().to_vec());
        use safetensors::Dtype;
        assert_eq!(shape("qkv"), (Dtype::U8, vec![2, 2, 32, 2]));
        assert_eq!(shape("qkv.scale"), (Dtype::BF16, vec![2, 2, 16]));
        assert_eq!(shape("qkv.zero"), (Dtype::I8, vec![2, 2, 16]));
        assert_eq!(shape("o"), (Dtype::I8, vec![1, 6, 16, 2]));
        assert_eq!(shape("o.scale"), (Dtype::F32, vec![1, 16]));
        assert_eq!(shape("head"), (Dtype::F32, vec![2, 10, 16]));
        assert_eq!(shape("embed"), (Dtype::BF16, vec![21, 10]));
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    assert_eq!(file(&manifest()), file(&manifest()));
}

#[test]
fn a_dummy_engine_has_computed_weights_only() {
    let m = Manifest { dummy_seed: Some(3), ..manifest() };
    let bytes = file(&m);
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<_> = read.names().into_iter().filter(|n| !n.starts_with("pad.")).collect();
    names.sort();
    assert_eq!(names, ["rope", "tokenizer.json"]);
}

#[test]
fn contracts_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.engine");
    let m = manifest();
    assert!(matches!(EngineWriter::create(&path, &m, &[]), Err(EngineError::Contract(_))));
    let extras = [("tokenizer.json", 3)];
    let more = [("tokenizer.json", 3), ("other", 3)];
    assert!(matches!(EngineWriter::create(&path, &m, &more), Err(EngineError::Contract(_))));
    let bad = Manifest { arena: 1, ..manifest() };
    assert!(matches!(EngineWriter::create(&path, &bad, &extras), Err(EngineError::Contract(_))));
    let nothing = |_: &mut dyn Write| Ok::<(), EngineError>(());

    let mut w = EngineWriter::create(&path, &m, &extras).unwrap();
    assert!(w.tensor("norm", nothing).is_err());
    drop(w);
    let w = EngineWriter::create(&path, &m, &extras).unwrap();
    assert!(w.finish().is_err());
    let mut w = EngineWriter::create(&path, &m, &extras).unwrap();
    assert!(w.tensor("embed", nothing).unwrap_err().to_string().contains("were not given"));
    drop(w);
    let mut w = EngineWriter::create(&path, &m, &extras).unwrap();
    // The callback swallows the failure; it is still reported.
    let too_much = |w: &mut dyn Write| {
        let _ = w.write_all(&[0; 421]);
        Ok::<(), EngineError>(())
    };
    assert!(w.tensor("embed", too_much).unwrap_err().to_string().contains("more bytes"));
    drop(w);
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn failures_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.engine");
    write(&manifest(), &path).unwrap();
    assert_eq!(names(dir.path()), ["m.engine"]);
    let before = std::fs::read(&path).unwrap();
    // A callback's own error comes back as it is, and the older file stays.
    #[derive(Debug, PartialEq)]
    struct Mine;
    impl From<EngineError> for Mine {
        fn from(_: EngineError) -> Mine {
            unreachable!("nothing else fails")
        }
    }
    let mut w = EngineWriter::create(&path, &manifest(), &[("tokenizer.json", 3)]).unwrap();
    assert_eq!(names(dir.path()).len(), 2);
    assert_eq!(w.tensor("embed", |_| Err(Mine)), Err(Mine));
    drop(w);
    assert_eq!(names(dir.path()), ["m.engine"]);
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let error = write(&manifest(), dir.path()).unwrap_err();
    assert!(matches!(error.root(), EngineError::Io { .. }));
    let error = write(&manifest(), &dir.path().join("no/such/folder")).unwrap_err();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_small_disk_is_noticed_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.engine");
    let error = EngineWriter::create(&path, &manifest(), &[("tokenizer.json", 1 << 60)]).err().unwrap();
    assert!(
        matches!(error.root(), EngineError::NoSpace { need, free } if *need > 1 << 60 && *free < 1 << 60)
    );
    assert!(error.help().is_some());
    assert_eq!(names(dir.path()), Vec::<String>::new());
}
