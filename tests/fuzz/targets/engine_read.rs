//! Engine files: opened or refused, never a panic, never a tensor outside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trtc_engine::EngineFile;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = EngineFile::parse(bytes) else {
        return;
    };
    for tensor in file.tensors() {
        assert_eq!(file.tensor(&tensor.name).map(<[u8]>::len).ok(), Some(tensor.bytes as usize));
    }
    // What was accepted keeps its promises: a manifest that is read is one that could be written.
    assert!(file.manifest().check().is_ok());
    let _ = file.verify_hash();
});
