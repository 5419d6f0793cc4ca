//! Engine files: cut, changed, for another machine, and looked into.

use super::support::*;
use std::path::Path;
use trtc_engine::manifest::{Choice, Code, Count, Extent, Kernel, PtxKernel, Steps};
use trtc_engine::{EngineError, EngineFile, EngineWriter};

#[test]
fn engines_that_are_cut_or_changed_are_refused() {
    let dir = folder("corrupt");
    let bytes = std::fs::read(engine()).expect("the engine");
    let path = dir.join("x.engine");
    let run = || trtc(&["run", text(&path), "--prompt-ids", "1"]);
    for keep in [0, 5, 200, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..keep]).expect("a cut engine");
        run().fails(1, &["x.engine"]);
        trtc(&["inspect", text(&path)]).fails(1, &["x.engine"]);
    }
    let mut changed = bytes.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(&path, &changed).expect("a changed engine");
    run().fails(1, &["damaged"]);
    trtc(&["inspect", text(&path), "--verify"]).fails(1, &["damaged"]);
    let weights = llama().join("model.safetensors");
    trtc(&["run", text(&weights), "--prompt-ids", "1"]).fails(1, &["not an engine", "trtc build"]);
    trtc(&["run", "/no/such.engine", "--prompt-ids", "1"]).fails(1, &["/no/such.engine"]);
    trtc(&["run", "/", "--prompt-ids", "1"]).fails(1, &["folder"]);
}

/// The engine of the tests, as if it had been built for another target.
fn engine_for_gpu(path: &Path) {
    let file = EngineFile::open(Path::new(engine())).expect("the engine");
    let mut m = file.manifest().clone();
    (m.target, m.capability) = ("sm_90".to_owned(), Some((9, 0)));
    let one = Extent { of: Count::One, div: 1, plus: None, mul: 1 };
    let code = PtxKernel {
        module: "kernel/k.ptx".into(),
        cubin: None,
        entry: "k".into(),
        grid: [one; 3],
        shares: None,
        block: [32, 1, 1],
        shared: 0,
        scratch: None,
        maps: Vec::new(),
        dependent: false,
    };
    m.kernels = vec![Kernel { name: "k".into(), code: Code::Ptx(code), contract: String::new() }];
    for launch in &mut m.launches {
        launch.choices = vec![Choice { from: 1, to: m.dims.max_step_tokens, steps: Steps::Any, kernel: 0 }];
    }
    let ptx = b".version 8.0\n";
    let mut writer = EngineWriter::create(path, &m, &[("kernel/k.ptx", ptx.len() as u64)]).expect("a writer");
    while let Some(name) = writer.next_tensor().map(|t| t.name.clone()) {
        let bytes =
            if name == "kernel/k.ptx" { &ptx[..] } else { file.tensor(&name).expect("the same tensor") };
        let filled = writer.tensor(&name, |sink| {
            sink.write_all(bytes).map_err(|error| EngineError::Io { doing: "write", error })
        });
        filled.expect("it is written");
    }
    writer.finish().expect("a whole engine");
}

#[test]
fn an_engine_for_a_gpu_says_what_it_needs() {
    let path = folder("gpu").join("gpu.engine");
    engine_for_gpu(&path);
    trtc(&["run", text(&path), "--prompt-ids", "1", "--device", "host"])
        .fails(2, &["sm_90", "compute capability 9.0", "help: ", "--target host"]);
    assert!(trtc(&["inspect", text(&path)]).ok().contains("compute capability 9.0"));
    assert_eq!(trtc(&["inspect", text(&path), "--kernel", "k", "--ptx"]).ok(), ".version 8.0\n");
    assert!(!trtc(&["inspect", text(&path)]).ok().contains("cubin"));
}

#[test]
fn inspect_shows_an_engine() {
    let out = trtc(&["inspect", engine(), "--verify"]).ok();
    for want in ["llama", "bf16", "host", "sequence 64", "hash"] {
        assert!(out.contains(want), "no {want:?} in {out}");
    }
    let manifest = json(&trtc(&["inspect", engine(), "--json"]).ok());
    assert_eq!(manifest["dims"]["max_seq_len"], 64);
    let kernel = manifest["kernels"][0]["name"].as_str().expect("a name");
    assert!(trtc(&["inspect", engine(), "--kernel", kernel]).ok().contains("launch "));
    trtc(&["inspect", engine(), "--kernel", kernel, "--ptx"]).fails(1, &["no PTX"]);
    let page = folder("html").join("page.html");
    trtc(&["inspect", engine(), "--html", text(&page)]).ok();
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n") && !page.contains("<script"));
}

/// 384 tokens of 128 bf16 are looked up, on a GPU by what the step before left; the output projection is another table.
#[test]
fn a_table_that_is_looked_up_is_not_read_by_a_step() {
    let path = folder("looked-up").join("model.engine");
    for target in ["host", "sm_90"] {
        let how = ["--target", target, "--precision", "bf16"];
        trtc(&[&["build", text(&llama()), "-o", text(&path)][..], &how].concat()).ok();
        let shown = trtc(&["inspect", text(&path)]).ok();
        let kib = |what: &str| -> f64 {
            let line = shown.lines().find(|line| line.starts_with(what)).expect("a line");
            line.split_whitespace().rev().nth(1).and_then(|n| n.parse().ok()).expect("KiB")
        };
        assert!((kib("weights") - kib("read a step") - 96.0).abs() < 0.02, "{shown}");
    }
}
