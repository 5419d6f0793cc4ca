//! `trtc check`: right kernels pass, wrong ones are named.

use super::support::*;
use std::path::Path;
use trtc_engine::manifest::{Code, HostKernel};
use trtc_engine::{EngineError, EngineFile, EngineWriter};

#[test]
fn every_kernel_of_an_engine_does_what_its_contract_says() {
    let out = trtc(&["check", engine(), "--tokens", "1,5,40"]).ok();
    let lines: Vec<&str> = out.lines().skip(2).collect();
    assert!(lines.len() >= 30 && lines.iter().all(|l| l.ends_with(" ok")), "{out}");
    for op in ["embedding", "rms_norm", "linear", "rope_kv_append", "attention", "gated_act", "gather_rows"] {
        assert!(out.contains(&format!("host.{op}")), "no {op} in {out}");
    }
    let one = json(&trtc(&["check", engine(), "--kernel", "attention", "--tokens", "3", "--json"]).ok());
    let checks = one["checks"].as_array().expect("a list");
    assert!(checks.len() == 1 && checks[0]["ok"] == true && checks[0]["tokens"] == 3);
    // Checks serve nobody: there is no cache to size.
    assert_eq!(trtc(&["check", engine(), "--kv-memory", "1G"]).code, 1);
    let small = folder("small").join("small.engine");
    trtc(&["build", text(&llama()), "-o", text(&small), "--max-batch", "2", "--max-step-tokens", "16"]).ok();
    trtc(&["check", text(&small), "--tokens", "1,16"]).ok();
    trtc(&["check", engine(), "--kernel", "no-such"]).fails(1, &["no-such", "trtc inspect"]);
    assert_eq!(trtc(&["check", engine(), "--tokens", "0"]).code, 1);
}

/// The engine of the tests, but its norms add another number to the mean of squares than their contracts say.
fn wrong_engine(path: &Path) {
    let file = EngineFile::open(Path::new(engine())).expect("the engine");
    let mut m = file.manifest().clone();
    for kernel in &mut m.kernels {
        if let Code::Host(HostKernel::RmsNorm { eps, .. }) = &mut kernel.code {
            *eps = 0.01;
        }
    }
    let mut writer = EngineWriter::create(path, &m, &[]).expect("a writer");
    while let Some(name) = writer.next_tensor().map(|t| t.name.clone()) {
        let bytes = file.tensor(&name).expect("the same tensor");
        let filled = writer.tensor(&name, |sink| {
            sink.write_all(bytes).map_err(|error| EngineError::Io { doing: "write", error })
        });
        filled.expect("it is written");
    }
    writer.finish().expect("a whole engine");
}

#[test]
fn a_kernel_that_differs_from_its_contract_is_named() {
    let path = folder("wrong").join("wrong.engine");
    wrong_engine(&path);
    let ran = trtc(&["check", text(&path), "--tokens", "1,7"]);
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("WRONG") && ran.err.contains("differ from the reference"), "{}", ran.err);
    assert!(ran.err.contains("host.rms_norm") && !ran.err.contains("host.linear"), "{}", ran.err);
}
