//! Whole kernels of Hopper's asynchronous instructions, as a compiler writes them: what they compute, and what is found
//! when one thing is wrong.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails as loudly as a test")]

mod attention;
mod blackwell;
mod bulk;
mod cluster;
mod gemm;
mod mbarrier;
mod products;
mod tensors;

use trtc_emulator::layout::Swizzle;
use trtc_emulator::layout::TensorMap;
use trtc_emulator::layout::tensor_map::{DataType, Interleave, Mode, OobFill, TensorMapParameters};
use trtc_emulator::{Fault, FaultKind, Global, Kernel, Limits, Sizes, Stats, launch, load};

/// The text of an example.
fn text(name: &str) -> String {
    let path = format!("{}/tests/examples/ptx/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The kernel of a text.
fn kernel(text: &str) -> Kernel {
    let mut kernels = load(text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(kernels.len(), 1);
    kernels.remove(0)
}

/// Blocks of so many threads.
fn sizes(blocks: u32, threads: u32, shared: u32) -> Sizes {
    Sizes { grid: [blocks, 1, 1], block: [threads, 1, 1], shared }
}

/// Runs a kernel on one thread of the host, with a limit that a wrong kernel reaches soon.
fn run(kernel: &Kernel, sizes: Sizes, params: &[&[u8]], global: &Global) -> Result<Stats, Box<Fault>> {
    launch(kernel, sizes, params, global, 1, Limits { instructions: 1 << 20 })
}

/// Runs a kernel that is right.
#[track_caller]
fn fine(kernel: &Kernel, sizes: Sizes, params: &[&[u8]], global: &Global) {
    run(kernel, sizes, params, global).unwrap_or_else(|e| panic!("{e}"));
}

/// Runs a kernel that is wrong.
#[track_caller]
fn fault(kernel: &Kernel, sizes: Sizes, params: &[&[u8]], global: &Global) -> Fault {
    match run(kernel, sizes, params, global) {
        Err(fault) => *fault,
        Ok(_) => panic!("nothing was found wrong"),
    }
}

/// A kernel of a body for sm_90a, with `%out` pointing to its one parameter's memory, and `dyn` to shared memory.
fn written(body: &str) -> Kernel {
    kernel(&format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 dyn[];\n\
         .visible .entry k(.param .u64 out) {{\n.reg .pred %p<10>; .reg .b16 %h<4>; .reg .b32 %r<40>; .reg .f32 %f<10>;\n\
         .reg .b64 %d<20>; .reg .b64 %out;\nld.param.u64 %out, [out];\nmov.u32 %r0, %tid.x;\n{body}\nret;\n}}"
    ))
}

/// Runs such a kernel with `bytes` of input, which it may overwrite.
fn on(body: &str, sizes: Sizes, bytes: &[u8]) -> Result<Vec<u8>, Box<Fault>> {
    let mut global = Global::default();
    let at = global.alloc(bytes.len() as u64, "data");
    assert!(global.write(at, bytes));
    run(&written(body), sizes, &[&at.to_le_bytes()], &global)?;
    let mut out = vec![0; bytes.len()];
    assert!(global.read(at, &mut out));
    Ok(out)
}

/// The kind of fault that such a kernel has, and its words.
#[track_caller]
fn wrong(body: &str, sizes: Sizes) -> (FaultKind, String) {
    match on(body, sizes, &[7; 4096]) {
        Err(fault) => (fault.kind, fault.to_string()),
        Ok(_) => panic!("nothing was found wrong"),
    }
}

/// The tensor map of a row-major matrix, whose boxes are `columns` by `rows`.
fn matrix(dtype: DataType, at: u64, dims: [u64; 2], of_box: [u32; 2], swizzle: Swizzle) -> TensorMap {
    let bytes = dtype.bits() / 8;
    TensorMap::new(TensorMapParameters {
        dtype,
        rank: 2,
        address: at,
        dims: [dims[0], dims[1], 1, 1, 1],
        strides: [dims[0] * bytes, 0, 0, 0],
        box_dims: [of_box[0], of_box[1], 1, 1, 1],
        element_strides: [1; 5],
        interleave: Interleave::None,
        swizzle,
        fill: OobFill::Zero,
        mode: Mode::Tiled,
    })
    .unwrap()
}

/// Small integers, the same ones each time.
fn integers(count: usize, seed: u32) -> Vec<i32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as i32 % 9 - 4
    };
    (0..count).map(|_| next()).collect()
}

/// Memory that holds bytes.
fn filled(global: &mut Global, bytes: &[u8], what: &str) -> u64 {
    let at = global.alloc(bytes.len() as u64, what);
    assert!(global.write(at, bytes));
    at
}

/// Words of memory as f32.
fn floats(global: &Global, at: u64, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * count];
    assert!(global.read(at, &mut bytes));
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// bf16 of integers that it holds exactly.
fn bf16(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|&v| ((v as f32).to_bits() >> 16).to_le_bytes()[..2].to_vec()).collect()
}

/// e4m3 of integers up to 8.
fn e4m3(values: &[i32]) -> Vec<u8> {
    let code = |v: i32| match v.unsigned_abs() {
        0 => 0,
        n => {
            let exponent = n.ilog2();
            let mantissa = (n << 3 >> exponent) & 7;
            ((exponent + 7) << 3 | mantissa) as u8 | if v < 0 { 0x80 } else { 0 }
        }
    };
    values.iter().map(|&v| code(v)).collect()
}

/// A (m x k) by the transpose of B (n x k).
fn product(a: &[i32], b: &[i32], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let dot = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum::<i32>() as f32;
    (0..m * n).map(|x| dot(x / n, x % n)).collect()
}

/// The m64 x N sums of a warpgroup as its threads store them, N / 2 each, from `first` on.
fn gathered(stored: &[f32], first: usize, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; 64 * n];
    for thread in 0..128 {
        for j in 0..n / 2 {
            let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (j / 2 % 2);
            let column = j / 4 * 8 + thread % 4 * 2 + j % 2;
            out[row * n + column] = stored[(first + thread) * (n / 2) + j];
        }
    }
    out
}
