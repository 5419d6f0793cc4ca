//! Kernels of one instruction on numbers: floats, conversions, comparisons and matrices, against values stated here.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails as loudly as a test")]

mod compare;
mod convert;
mod float;
mod matrix;
mod opcodes;
mod product;

use trtc_emulator::{Fault, Global, Limits, Sizes, launch, load};

/// A kernel of `target` with a body, and the parameters `in` and `out`.
fn text(target: &str, body: &str) -> String {
    format!(
        ".version 8.8\n.target {target}\n.address_size 64\n.extern .shared .align 1024 .b8 dyn[];\n\
         .visible .entry k(.param .u64 in, .param .u64 out) {{\n.reg .pred %p<10>; .reg .b8 %b<4>; .reg .b16 %h<10>; \
         .reg .b32 %r<60>; .reg .b64 %d<20>; .reg .b64 %in; .reg .b64 %out;\n.reg .b32 %tid;\n\
         ld.param.u64 %in, [in]; ld.param.u64 %out, [out];\nmov.u32 %tid, %tid.x;\n{body}\nret;\n}}"
    )
}

/// Runs a body on a warp; it reads the words of `input` at `%in` and writes `count` words at `%out`.
fn run(target: &str, input: &[u32], count: usize, body: &str) -> Result<Vec<u32>, Box<Fault>> {
    let text = text(target, body);
    let kernels = load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut global = Global::default();
    let bytes: Vec<u8> = input.iter().flat_map(|w| w.to_le_bytes()).collect();
    let given = global.alloc(bytes.len().max(4) as u64, "in");
    let out = global.alloc(4 * count as u64, "out");
    assert!(bytes.is_empty() || global.write(given, &bytes));
    let sizes = Sizes { grid: [1, 1, 1], block: [32, 1, 1], shared: 4096 };
    let params: [&[u8]; 2] = [&given.to_le_bytes(), &out.to_le_bytes()];
    launch(&kernels[0], sizes, &params, &global, 1, Limits::default())?;
    let mut got = vec![0; 4 * count];
    assert!(global.read(out, &mut got));
    Ok(got.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect())
}

/// What `op` makes of operands that all threads have alike: `%r0`, from `%r1`, `%r2` and so on.
fn word(op: &str, operands: &[u32]) -> u32 {
    let names: Vec<String> = (1..=operands.len()).map(|i| format!(", %r{i}")).collect();
    of(&format!("{op} %r0{};", names.concat()), operands)
}

/// `%r0` after a body, with `%r1` and so on given.
fn of(body: &str, operands: &[u32]) -> u32 {
    let set: Vec<String> =
        operands.iter().enumerate().map(|(i, x)| format!("mov.b32 %r{}, {x:#x};", i + 1)).collect();
    let body = format!("{}\n{body}\nst.global.b32 [%out], %r0;", set.concat());
    run("sm_120a", &[], 1, &body).unwrap_or_else(|e| panic!("{e}"))[0]
}

/// The same of 64 bits: `%d0` from `%d1`, `%d2` and so on.
fn wide(op: &str, operands: &[u64]) -> u64 {
    let names: Vec<String> = (1..=operands.len()).map(|i| format!(", %d{i}")).collect();
    let set: Vec<String> =
        operands.iter().enumerate().map(|(i, x)| format!("mov.b64 %d{}, {x:#x};", i + 1)).collect();
    let body = format!("{}\n{op} %d0{};\nst.global.b64 [%out], %d0;", set.concat(), names.concat());
    let got = run("sm_120a", &[], 2, &body).unwrap_or_else(|e| panic!("{e}"));
    u64::from(got[1]) << 32 | u64::from(got[0])
}

/// Statements that all must be understood by a chip.
fn decodes(target: &str, statements: &[&str]) {
    for statement in statements {
        if let Err(e) = load(&text(target, statement)) {
            panic!("{statement}: {e}");
        }
    }
}

/// Statements that are no PTX.
fn refuses(target: &str, statements: &[&str]) {
    for statement in statements {
        assert!(load(&text(target, statement)).is_err(), "{statement}");
    }
}
