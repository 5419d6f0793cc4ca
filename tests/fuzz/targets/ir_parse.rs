//! Modules in text form: whatever is read prints to something that reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trtc_ir::{text, verify};

fuzz_target!(|bytes: &[u8]| {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let Ok(module) = text::parse("fuzz.mlir", source) else { return };
    let printed = text::print(&module);
    let again = match text::parse("printed.mlir", &printed) {
        Ok(again) => again,
        Err(e) => panic!("does not read back: {e}\n{printed}"),
    };
    assert_eq!(text::print(&again), printed);
    assert_eq!(verify::verify(&module).is_ok(), verify::verify(&again).is_ok());
});
