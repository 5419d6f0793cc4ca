//! Kernels that compute two ops: a decode step of an engine for a GPU has one launch for both, and a check finds each store
//! that such a kernel leaves out: of results, of queries, of the new key and value and their scales, in memory and in tiles.

use super::support::*;
use std::path::{Path, PathBuf};
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Launch, Steps};

/// An engine whose contexts are longer than any checkpoint of the tests has.
fn long(kv: &str) -> PathBuf {
    let folder = folder(&format!("chains-{kv}"));
    let config = std::fs::read_to_string(llama().join("config.json")).expect("the model's config");
    let mut config = json(&config);
    config["max_position_embeddings"] = 4096.into();
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");
    let (model, engine) = (folder.join("config.json"), folder.join("model.engine"));
    let how = ["--target", "sm_90", "--weights", "dummy:1", "--kv-precision", kv, "--precision"];
    let limits = ["--max-seq-len", "1100", "--max-batch", "4", "--max-step-tokens", "256"];
    let precision = if kv == "fp8" { "fp8" } else { "bf16" };
    trtc(&[&["build", text(&model), "-o", text(&engine)][..], &how, &[precision], &limits].concat()).ok();
    engine
}

/// Checks the chain on the emulator.
fn check(engine: &Path) -> Ran {
    let device = ["--device", "emulator", "--threads", "1"];
    trtc(&[&["check", text(engine), "--kernel", "rope_kv_append.", "--tokens", "3"][..], &device].concat())
}

/// True of a statement that stores, in global or in shared memory.
fn stores_a(line: &str) -> bool {
    line.contains("st.global") || line.contains("st.shared")
}

/// Without each store of the kernel in turn.
fn every_store_matters(kv: &str) {
    let engine = long(kv);
    let file = EngineFile::open(&engine).expect("the engine");
    let m = file.manifest();
    // Others serve any step of a single token.
    let of_decode = |l: &&Launch| l.ops.len() == 2 && l.choices.iter().all(|c| c.steps == Steps::Decode);
    let chains: Vec<_> = m.launches.iter().filter(of_decode).collect();
    assert_eq!(chains.len(), m.model.layers as usize);
    let layers = m.model.layers as usize;
    let [decode, prompts] = Steps::KINDS.map(|kind| m.launches_of(kind, 1));
    assert_eq!(decode + layers, prompts);
    let kernel = &m.kernels[chains[0].choices[0].kernel as usize].name;
    assert!(check(&engine).ok().contains(kernel));

    let wrong = engine.with_file_name("wrong.engine");
    let stores = |ptx: &str| ptx.lines().filter(|line| stores_a(line)).count();
    let mut count = 0;
    loop {
        let left_out = std::cell::Cell::new(None);
        rewrite(&engine, &wrong, &|name, _, ptx| {
            if name != kernel || count >= stores(&ptx) {
                return ptx;
            }
            let at = ptx.lines().enumerate().filter(|(_, line)| stores_a(line)).nth(count);
            let at = at.expect("a store").0;
            left_out.set(Some(at));
            let lines = ptx.lines().enumerate().map(|(i, line)| if i == at { "" } else { line });
            lines.collect::<Vec<_>>().join("\n")
        });
        let Some(line) = left_out.get() else { break };
        let ran = check(&wrong);
        assert_eq!(ran.code, 3, "nobody misses line {} of {kernel}: {}", line + 1, ran.out);
        count += 1;
    }
    assert!(count >= 6, "{count} stores");
}

#[test]
fn every_store_of_a_chain_is_missed() {
    every_store_matters("bf16");
}

#[test]
fn every_store_of_a_chain_over_an_e4m3_cache_is_missed() {
    every_store_matters("fp8");
}
