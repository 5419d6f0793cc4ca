//! Modules in text form: whatever is read prints to something that reads back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trtc_ir::text::{PrintOptions, parse, print, print_generic};
use trtc_ir::verify::verify;

fuzz_target!(|bytes: &[u8]| {
    let Ok(source) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(module) = parse(source, "fuzz.mlir") else {
        return;
    };
    let options = PrintOptions { locs: true };
    let printed = print(&module, options);
    let again = match parse(&printed, "printed.mlir") {
        Ok(again) => again,
        Err(found) => panic!("does not read back: {found:?}\n{printed}"),
    };
    assert_eq!(print(&again, options), printed);
    assert_eq!(verify(&module).is_ok(), verify(&again).is_ok());
    let _ = print_generic(&module);
});
