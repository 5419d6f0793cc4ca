//! Whole kernels of simple instructions: what they compute, and what is found wrong with them.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails as loudly as a test")]

mod compute;
mod faults;

use trtc_emulator::{Fault, Global, Limits, Sizes, launch, load};

/// Runs a body with `%out` (u64) pointing to `bytes` bytes of zeros; gives the bytes.
fn run(sizes: Sizes, bytes: usize, body: &str) -> Result<Vec<u8>, Box<Fault>> {
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 16 .b8 dyn[];\n\
         .visible .entry k(.param .u64 out) {{\n.reg .pred %p<10>; .reg .b16 %h<10>; .reg .b32 %r<40>; .reg .b64 %d<20>; \
         .reg .b64 %out; .reg .b128 %q<2>;\nld.param.u64 %out, [out];\n{body}\n}}"
    );
    let kernels = load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut global = Global::default();
    let out = global.alloc(bytes as u64, "out");
    launch(&kernels[0], sizes, &[&out.to_le_bytes()], &global, 1, Limits { instructions: 1 << 20 })?;
    let mut got = vec![0; bytes];
    assert!(global.read(out, &mut got));
    Ok(got)
}

/// One block of so many threads.
fn threads(n: u32) -> Sizes {
    Sizes { grid: [1, 1, 1], block: [n, 1, 1], shared: 1024 }
}

/// Words that the threads of a block have stored: `%r0` of each at `out[tid]`.
fn words(n: u32, body: &str) -> Vec<u32> {
    let body = format!(
        "{body}\nmov.u32 %r39, %tid.x; mul.wide.u32 %d19, %r39, 4; add.s64 %d19, %out, %d19; st.global.b32 [%d19], %r0; ret;"
    );
    let bytes = run(threads(n), 4 * n as usize, &body).unwrap_or_else(|e| panic!("{e}"));
    bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}
