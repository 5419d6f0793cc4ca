//! Headers of safetensors files: read or refused, never a panic, never a tensor outside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trtc_fuzz::frontend::safetensors::tensors;
use trtc_ir::Loc;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tensors) = tensors(bytes, &Loc::name("fuzz.safetensors")) {
        for (name, tensor) in &tensors {
            assert!(tensor.bytes.end <= bytes.len(), "tensor {name} lies outside the file");
        }
    }
});
