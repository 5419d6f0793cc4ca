//! Builds engines from the reference checkpoints and holds them to the reference outputs, through the command line.
//!
//! Real models are fetched by `scripts/models.sh`; a test that needs one says so when it is not there.
#![cfg(feature = "compiler")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn trtc(args: &[&str]) -> (i32, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_trtc")).args(args).output().expect("trtc starts");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code().unwrap_or(-1), text)
}

/// Builds `model` at `precision` and compares it with `reference`; the error is what the command printed.
fn holds(model: &Path, reference: &Path, precision: &str) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a folder for the engine");
    let engine = dir.path().join("model.engine");
    let (model, engine, reference) = (path(model), path(&engine), path(reference));
    for args in [
        &["build", model, "-o", engine, "--precision", precision, "--max-seq-len", "512"][..],
        &["eval", engine, "--golden", reference],
    ] {
        let (code, text) = trtc(args);
        if code != 0 {
            return Err(format!("trtc {} ended with {code}:\n{text}", args.join(" ")));
        }
    }
    Ok(())
}

fn path(p: &Path) -> &str {
    p.to_str().expect("paths of this test are UTF-8")
}

fn tiny(precision: &str) {
    let root = golden().join("tiny");
    let mut seen = 0;
    let mut failed = Vec::new();
    for entry in std::fs::read_dir(&root).expect("the reference checkpoints are there") {
        let dir = entry.expect("a folder").path();
        failed.extend(holds(&dir, &dir.join("golden.json"), precision).err());
        seen += 1;
    }
    assert!(seen >= 6, "{seen} checkpoints in {}", root.display());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn tiny_checkpoints_in_fp32() {
    tiny("fp32");
}

#[test]
fn tiny_checkpoints_in_bf16() {
    tiny("bf16");
}

fn real(file: &str, reference: &str) {
    let models = match (std::env::var_os("TRTC_MODELS"), std::env::var_os("HOME")) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(home)) => Path::new(&home).join(".cache/trtc/models"),
        (None, None) => panic!("neither TRTC_MODELS nor HOME is set"),
    };
    let model = models.join(file);
    assert!(model.exists(), "{} is not there: run scripts/models.sh", model.display());
    let reference = golden().join("real").join(reference);
    for precision in ["fp32", "bf16"] {
        if let Err(text) = holds(&model, &reference, precision) {
            panic!("{text}");
        }
    }
}

#[test]
fn smollm2() {
    real("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.json");
}

#[test]
fn qwen2_5_coder() {
    real("qwen2.5-coder-0.5b-q4.gguf", "qwen2.5-coder-0.5b-instruct.json");
}

#[test]
fn gemma_3() {
    real("gemma-3-270m-q4_k_m.gguf", "gemma-3-270m.json");
}
