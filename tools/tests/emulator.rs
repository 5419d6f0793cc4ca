//! Kernels for every GPU target, executed on the emulator: each against the reference semantics of its contract, and
//! whole engines against reference outputs. No GPU is needed.
#![cfg(feature = "compiler")]

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use trtc_engine::EngineFile;
use trtc_engine::manifest::Code;

/// How an engine is built.
#[derive(Clone, Copy)]
struct How {
    precision: &'static str,
    /// Of the cache.
    kv: &'static str,
    /// What attention multiplies.
    attention: &'static str,
    /// Whether ops are fused: the kernels of ops by themselves serve engines that are built without passes.
    fused: bool,
}

/// As most engines are.
const PLAIN: How = How { precision: "bf16", kv: "bf16", attention: "bf16", fused: true };
const BUILDS: [How; 7] = [
    PLAIN,
    How { precision: "fp8", ..PLAIN },
    How { precision: "fp8", kv: "fp8", ..PLAIN },
    How { precision: "int8", ..PLAIN },
    How { precision: "int4", ..PLAIN },
    How { fused: false, ..PLAIN },
    // Kernels that round nothing over such a cache are above.
    How { kv: "fp8", attention: "fp8", fused: false, ..PLAIN },
];
/// Passes that fuse ops.
const FUSING: [&str; 7] = [
    "fuse-qkv",
    "fuse-gate-up",
    "fuse-gated-act",
    "fuse-rope-kv",
    "fuse-epilogue",
    "fuse-add-norm",
    "fuse-quantize",
];

/// Whether a target has the instructions: those of e4m3 are of sm_89 and newer ones.
fn serves(target: &str, how: &How) -> bool {
    let target = trtc_ir::Target::named(target).expect("a row");
    let e4m3 = target.gpu.as_ref().is_some_and(|gpu| gpu.matrix_types.contains(&trtc_ir::DType::F8E4M3));
    e4m3 || (how.precision != "fp8" && how.kv != "fp8")
}

/// Folders of the reference checkpoints.
fn checkpoints() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny");
    let all = std::fs::read_dir(root).expect("the reference checkpoints are there");
    let mut all: Vec<PathBuf> = all.map(|e| e.expect("a folder").path()).collect();
    all.sort();
    assert!(all.len() >= 6, "{} checkpoints", all.len());
    all
}

fn path(p: &Path) -> &str {
    p.to_str().expect("paths of this test are UTF-8")
}

/// Runs the command line; what it printed is the error.
fn trtc(args: &[&str]) -> Result<(), String> {
    let out = Command::new(env!("CARGO_BIN_EXE_trtc")).args(args).output().expect("trtc starts");
    match out.status.code() {
        Some(0) => Ok(()),
        code => Err(format!(
            "trtc {} ended with {code:?}:\n{}{}",
            args.join(" "),
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        )),
    }
}

fn build(model: &Path, engine: &Path, target: &str, how: How) {
    let options = ["--target", target, "--precision", how.precision, "--kv-precision", how.kv];
    let options = [&options[..], &["--attention-precision", how.attention, "--max-seq-len", "512"]].concat();
    let mut args = [&["build", path(model), "-o", path(engine)][..], &options].concat();
    if !how.fused {
        FUSING.iter().for_each(|pass| args.extend(["--skip-pass", pass]));
    }
    trtc(&args).unwrap_or_else(|text| panic!("{text}"));
}

/// What a kernel of chips that calculate alike is: its text without the name of one of them and without the version of PTX.
fn body(text: &[u8], target: &str) -> String {
    let text = String::from_utf8_lossy(text).replace(target, "");
    text.lines().filter(|line| !line.starts_with(".version")).collect::<Vec<_>>().join("\n")
}

/// Kernels of an engine that are not among `seen`: text and contract are all that a check depends on.
fn unseen(engine: &Path, target: &str, seen: &mut HashSet<[String; 2]>) -> Vec<String> {
    let file = EngineFile::open(engine).expect("the engine");
    let mut out = Vec::new();
    for kernel in &file.manifest().kernels {
        let Code::Ptx(code) = &kernel.code else { panic!("{} is no PTX", kernel.name) };
        let text = file.tensor(&code.module).expect("the kernel's text");
        if seen.insert([body(text, target), kernel.contract.replace(target, "")]) {
            out.push(kernel.name.clone());
        }
    }
    out
}

fn check(engine: &Path, kernels: &[String]) -> Result<(), String> {
    let mut args = vec!["check", path(engine), "--device", "emulator", "--threads", "1"];
    kernels.iter().for_each(|k| args.extend(["--kernel", k]));
    trtc(&args)
}

/// Checks every kernel of every checkpoint and precision for targets that calculate alike, each once.
fn kernels(targets: &[&str]) {
    let start = Instant::now();
    let dir = tempfile::tempdir().expect("a folder for engines");
    let engine = dir.path().join("model.engine");
    let (mut seen, mut failed) = (HashSet::new(), BTreeSet::new());
    for target in targets {
        for model in checkpoints() {
            for how in BUILDS.into_iter().filter(|how| serves(target, how)) {
                build(&model, &engine, target, how);
                let new = unseen(&engine, target, &mut seen);
                if new.is_empty() || check(&engine, &new).is_ok() {
                    continue;
                }
                // Which of them: a fault ends a check.
                failed.extend(new.iter().filter_map(|k| check(&engine, std::slice::from_ref(k)).err()));
            }
        }
        println!("{target}: {} kernels after {:.1} s", seen.len(), start.elapsed().as_secs_f64());
    }
    assert!(seen.len() > 20, "{} kernels", seen.len());
    let list: Vec<String> = failed.into_iter().collect();
    assert!(list.is_empty(), "{} of {} kernels:\n{}", list.len(), seen.len(), list.join("\n"));
}

/// Ways to make products with weights as the first operand, which are proposed for larger ones only: several tiles of rows, clusters of either
/// direction, shares of K, and tiles of 256 outputs, which gated products do not have.
const TURNED: [&str; 6] = ["48x128t", "104x128tc2x1", "200x128t", "112x128tc1x2", "64x128ts2", "40x256tc2x1"];

/// Checks products of 65 to 256 rows made in these ways.
fn turned(model: &str, precision: &'static str) {
    let dir = tempfile::tempdir().expect("a folder for engines");
    let (engine, tuning) = (dir.path().join("model.engine"), dir.path().join("turned.tuning"));
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny").join(model);
    let sizes = ["--max-seq-len", "512", "--max-batch", "200", "--max-step-tokens", "256"];
    let options = ["--target", "sm_90", "--precision", precision];
    let args = [&["build", path(&model), "-o", path(&engine)][..], &options, &sizes].concat();
    let names = |engine: &Path, which: &dyn Fn(&str) -> bool| -> Vec<String> {
        let file = EngineFile::open(engine).expect("the engine");
        let all = file.manifest().kernels.iter().map(|k| k.name.clone());
        all.filter(|name| name.contains("linear.") && which(name)).collect()
    };
    trtc(&args).unwrap_or_else(|text| panic!("{text}"));
    let many = names(&engine, &|name| [".to128", ".to200", ".to256"].iter().any(|to| name.ends_with(to)));
    // Shares of K have to be longer than a ring, which those of small products in FP8 are not.
    let may = |name: &str, way: &str| {
        !(name.contains("gated") && way.contains("x256")) && (precision == "bf16" || !way.ends_with("s2"))
    };
    let mut ways = TURNED.iter().cycle();
    let lines = many.iter().map(|name| {
        let way = ways.by_ref().find(|way| may(name, way)).expect("there is one");
        format!("{name} {way}\n")
    });
    std::fs::write(&tuning, lines.collect::<String>()).expect("the tuning");
    trtc(&[&args[..], &["--tuning", path(&tuning)]].concat()).unwrap_or_else(|text| panic!("{text}"));
    let made = names(&engine, &|name| TURNED.iter().any(|way| name.ends_with(&format!(".{way}"))));
    assert_eq!(made.len(), many.len());
    assert!(made.len() > 10, "{made:?}");
    check(&engine, &made).unwrap_or_else(|text| panic!("{text}"));
}

/// Compares whole engines with reference outputs.
fn golden(target: &str) {
    let start = Instant::now();
    let dir = tempfile::tempdir().expect("a folder for engines");
    let engine = dir.path().join("model.engine");
    let mut failed = Vec::new();
    for model in checkpoints() {
        build(&model, &engine, target, PLAIN);
        let reference = model.join("golden.json");
        let emulator = ["--device", "emulator", "--threads", "1"];
        let args = [&["eval", path(&engine), "--golden", path(&reference)][..], &emulator].concat();
        failed.extend(trtc(&args).err().map(|text| format!("{}: {text}", model.display())));
    }
    println!("{target}: reference outputs in {:.1} s", start.elapsed().as_secs_f64());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn kernels_for_sm_80_and_sm_86() {
    kernels(&["sm_80", "sm_86"]);
}

#[test]
fn kernels_for_sm_89() {
    kernels(&["sm_89"]);
}

#[test]
fn kernels_for_sm_90() {
    kernels(&["sm_90"]);
}

#[test]
fn kernels_for_sm_100_and_sm_103() {
    kernels(&["sm_100", "sm_103"]);
}

#[test]
fn kernels_for_sm_120() {
    kernels(&["sm_120"]);
}

#[test]
fn turned_products() {
    turned("llama", "bf16");
    turned("qwen2", "fp8");
}

#[test]
fn reference_outputs_on_sm_80() {
    golden("sm_80");
}

#[test]
fn reference_outputs_on_sm_90() {
    golden("sm_90");
}

#[test]
fn reference_outputs_on_sm_120() {
    golden("sm_120");
}
