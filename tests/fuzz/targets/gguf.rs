//! GGUF files: the header, and the tokenizer that its metadata describes. Either is read or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trtc_fuzz::frontend::gguf::{parse_header, tokenizer::Vocabulary};
use trtc_ir::Loc;

fuzz_target!(|bytes: &[u8]| {
    let loc = Loc::name("fuzz.gguf");
    let Ok(header) = parse_header(bytes, &loc) else {
        return;
    };
    for (name, tensor) in &header.tensors {
        assert!(tensor.bytes.end <= bytes.len(), "tensor {name} lies outside the file");
    }
    if let Ok(Some(vocabulary)) = Vocabulary::read(&header, bytes, &loc) {
        let _ = vocabulary.tokenizer();
    }
});
