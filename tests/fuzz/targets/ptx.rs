//! PTX: whatever is decoded can be executed, and gives results or a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trtc_emulator::{Global, Limits, Sizes, launch, load};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(kernels) = load(text) else {
        return;
    };
    let mut global = Global::default();
    let memory = global.alloc(1 << 16, "memory").to_le_bytes();
    for kernel in kernels.iter().take(2) {
        // Every parameter is an address of the same memory, as far as it has room for one.
        let whole: Vec<Vec<u8>> = kernel.params.iter().map(|p| memory.repeat(p.1 as usize / 8 + 1)).collect();
        let params: Vec<&[u8]> = whole.iter().map(Vec::as_slice).collect();
        let block = kernel.block.unwrap_or([64, 1, 1]);
        let grid = kernel.cluster.unwrap_or([2, 1, 1]);
        let _ = launch(
            kernel,
            Sizes { grid, block, shared: 4096 },
            &params,
            &global,
            1,
            Limits { instructions: 500 },
        );
    }
});
