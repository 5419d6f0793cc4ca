//! Everything of codegen that needs LLVM, in one binary: the builder's functions, every kernel on every target, and
//! selection. ptxas is looked for on PATH and in ~/.cache/trtc; without it kernels are compiled but not assembled.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails as loudly as a test")]

mod appended;
mod builder;
mod chains;
mod hopper;
mod hopper_attention;
mod kernels;
mod selection;
mod wgmma;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use trtc_codegen::builder::Builder;
use trtc_codegen::emit::{compile, to_ptx};
use trtc_codegen::kernels::attention::Attention;
use trtc_codegen::kernels::operands::{Operands, Product};
use trtc_codegen::kernels::{Count, Recipe};
use trtc_codegen::mlir::{Mlir, OptLevel};
use trtc_codegen::ptxas::{Assembled, Ptxas};
use trtc_ir::target::{Gpu, TARGETS};
use trtc_ir::{DType, Target};

/// Rows of all GPU targets.
fn gpus() -> impl Iterator<Item = (&'static Target, &'static Gpu)> {
    TARGETS.iter().filter_map(|t| Some((t, t.gpu.as_ref()?)))
}

fn ptxas() -> Option<&'static Ptxas> {
    static FOUND: OnceLock<Option<Ptxas>> = OnceLock::new();
    let look = || {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let found = Ptxas::search(std::env::var_os("PATH").as_deref(), home.as_deref());
        if found.is_none() {
            eprintln!(
                "\n*** NOT TESTED: there is no ptxas on PATH or in ~/.cache/trtc/ptxas; no kernel is assembled ***\n"
            );
        }
        found
    };
    FOUND.get_or_init(look).as_ref()
}

/// Assembles, with the input left in the temporary folder if that fails.
fn assemble(name: &str, ptx: &str, arch: &str) -> Option<Assembled> {
    let folder = std::env::temp_dir().join("trtc-kernel-tests");
    std::fs::create_dir_all(&folder).unwrap();
    Some(ptxas()?.assemble(name, ptx, arch, &folder).unwrap_or_else(|e| panic!("{e}")))
}

/// Builds a small kernel for a target, checks that its PTX has each of `wanted` (white space aside), and assembles it;
/// returns the PTX.
fn check(name: &str, target: &str, threads: u32, wanted: &[&str], build: impl FnOnce(&Builder)) -> String {
    let gpu = Target::named(target).unwrap().gpu.as_ref().unwrap();
    let b = Builder::new(name, gpu, [threads, 1, 1]);
    build(&b);
    let built = b.finish().unwrap_or_else(|e| panic!("{e}"));
    let ptx = to_ptx(&Mlir::new(), &built, OptLevel::Full).unwrap_or_else(|e| panic!("{e}\n{}", built.mlir));
    let flat = ptx.split_whitespace().collect::<Vec<_>>().join(" ");
    for w in wanted {
        assert!(flat.contains(w), "{name} for {target} has no {w:?}:\n{ptx}");
    }
    assemble(&format!("{name}_{target}"), &ptx, built.arch);
    ptx
}

/// Calls `f` for every item, on as many threads as there are cores; results in order.
fn parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&Mlir, &T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mlir = Mlir::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(i) else { break };
                    let result = f(&mlir, item);
                    *results[i].lock().unwrap() = Some(result);
                }
            });
        }
    });
    results.into_iter().map(|r| r.into_inner().unwrap().unwrap()).collect()
}

/// A product of bf16 for any number of tokens.
fn product(n: u32, k: u32) -> Product {
    Product {
        n,
        k,
        operands: Operands::Bf16,
        rows: Count::Tokens,
        bias: None,
        residual: None,
        out: DType::Bf16,
        gate: None,
        append: None,
    }
}

/// Attention over a bf16 cache without a window or bounded scores.
fn attention(heads: u32, kv_heads: u32, head_dim: u32) -> Attention {
    Attention {
        heads,
        kv_heads,
        head_dim,
        page_tokens: 64,
        window: None,
        scale: 0.125,
        softcap: None,
        products: None,
        q: DType::Bf16,
        kv: DType::Bf16,
        out: DType::Bf16,
    }
}

/// Compiles and assembles kernels for every target on which they exist: a line each of what they use, if there is an
/// assembler.
fn on_every_target(cases: &[(&str, Recipe)], exists: impl Fn(&Recipe, &Gpu) -> bool) -> Option<String> {
    let pairs = cases.iter().flat_map(|(name, r)| gpus().map(move |(target, gpu)| (*name, r, target, gpu)));
    let pairs: Vec<_> = pairs.filter(|(_, recipe, _, gpu)| exists(recipe, gpu)).collect();
    let lines = parallel(&pairs, |mlir, (name, recipe, target, gpu)| {
        assert_eq!(recipe.unsupported(), None, "{name}");
        let k = compile(mlir, name, recipe, gpu, OptLevel::Full).unwrap_or_else(|e| panic!("{e}"));
        // None of these kernels uses an instruction of one architecture only.
        assert_eq!(k.arch, gpu.base_arch, "{name}");
        let header = k.ptx.split(".visible").next().unwrap_or_default();
        assert!(header.contains(&format!("\n.target {}\n", gpu.base_arch)), "{header}");
        assert!(k.ptx.contains(&format!(".visible .entry {name}(")), "{}", k.ptx);
        assert!(k.shared <= gpu.shared);
        let used = assemble(name, &k.ptx, k.arch)?;
        assert_eq!(used.stack, 0, "{name} for {} has a stack", target.name);
        let parameters = k.ptx.lines().filter(|l| l.trim_start().starts_with(".param ")).count();
        Some(format!(
            "{name:32} {:7} {:3} registers {:5} static {:5} dynamic bytes, {:3} threads, {parameters:2} parameters\n",
            target.name, used.registers, used.shared, k.shared, k.block[0],
        ))
    });
    ptxas().map(|_| lines.into_iter().flatten().collect())
}

/// Compiles and assembles kernels that only sm_90 has: a line each of what they use, if there is an assembler.
fn on_sm_90(cases: &[(&str, Recipe)]) -> Option<String> {
    let gpu = Target::named("sm_90").unwrap().gpu.as_ref().unwrap();
    let lines = parallel(cases, |mlir, (name, recipe)| {
        assert_eq!(recipe.unsupported(), None, "{name}");
        let k = compile(mlir, name, recipe, gpu, OptLevel::Full).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(k.arch, gpu.arch, "{name}");
        assert!(k.shared <= gpu.shared);
        let used = assemble(name, &k.ptx, k.arch)?;
        assert_eq!(used.stack, 0, "{name} has a stack");
        Some(format!(
            "{name:40} {:3} registers {:6} dynamic bytes, {:3} threads\n",
            used.registers, k.shared, k.block[0]
        ))
    });
    ptxas().map(|_| lines.into_iter().flatten().collect())
}
