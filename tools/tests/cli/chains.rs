//! Kernels that compute two ops: a step of an engine for a GPU has one launch for both, and a check finds each store
//! that such a kernel leaves out: of results, of queries, of the new keys and values and their scales, in memory and in tiles.

use super::support::*;
use std::path::{Path, PathBuf};
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Launch, Steps};

/// An engine whose contexts are longer than any checkpoint of the tests has.
fn long(name: &str, kv: &str) -> PathBuf {
    let folder = folder(&format!("{name}-{kv}"));
    let config = std::fs::read_to_string(llama().join("config.json")).expect("the model's config");
    let mut config = json(&config);
    config["max_position_embeddings"] = 4096.into();
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");
    let (model, engine) = (folder.join("config.json"), folder.join("model.engine"));
    let how = ["--target", "sm_90", "--weights", "dummy:1", "--kv-precision", kv, "--precision"];
    let limits = ["--max-seq-len", "1100", "--max-batch", "4", "--max-step-tokens", "600"];
    let precision = if kv == "fp8" { "fp8" } else { "bf16" };
    trtc(&[&["build", text(&model), "-o", text(&engine)][..], &how, &[precision], &limits].concat()).ok();
    engine
}

/// Checks kernels on the emulator.
fn check(engine: &Path, kernels: &[&str], tokens: &str) -> Ran {
    let kernels: Vec<&str> = kernels.iter().flat_map(|kernel| ["--kernel", kernel]).collect();
    let how = ["--tokens", tokens, "--device", "emulator", "--threads", "1"];
    trtc(&[&["check", text(engine)][..], &kernels, &how].concat())
}

/// True of a statement that stores, in global or in shared memory.
fn stores_a(line: &str) -> bool {
    line.contains("st.global") || line.contains("st.shared")
}

/// Without each store of the kernel of decode steps in turn.
fn every_store_matters(kv: &str) {
    let engine = long("chains", kv);
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
    let count = stores_that_matter(&engine, kernel, &["rope_kv_append."], "3");
    assert!(count >= 6, "{count} stores");
}

/// Without each store in turn of the product of a prompt that turns and stores its heads. Keys and values are missed by attention.
fn every_appended_store_matters(kv: &str) {
    let engine = long("appended", kv);
    let file = EngineFile::open(&engine).expect("the engine");
    let appends = |name: &str| name.contains(".linear.") && name.contains(".rope_kv_append.");
    let mut kernels = file.manifest().kernels.iter().filter(|k| appends(&k.name));
    let kernel = &kernels.next().expect("a product that appends").name;
    assert!(kernels.next().is_none());
    let count = stores_that_matter(&engine, kernel, &["out-bf16.rope_kv_append.", "prefill"], "513");
    assert!(count >= 4, "{count} stores");
}

/// Leaves out each store of a kernel in turn, which a check of `kernels` has to miss; how many there are.
fn stores_that_matter(engine: &Path, kernel: &str, kernels: &[&str], tokens: &str) -> usize {
    assert!(check(engine, kernels, tokens).ok().contains(kernel));

    let wrong = engine.with_file_name("wrong.engine");
    let stores = |ptx: &str| ptx.lines().filter(|line| stores_a(line)).count();
    let mut count = 0;
    loop {
        let left_out = std::cell::Cell::new(None);
        rewrite(engine, &wrong, &|name, _, ptx| {
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
        let ran = check(&wrong, kernels, tokens);
        assert_eq!(ran.code, 3, "nobody misses line {} of {kernel}: {}", line + 1, ran.out);
        count += 1;
    }
    count
}

#[test]
fn every_store_of_a_product_that_appends_is_missed() {
    every_appended_store_matters("bf16");
    every_appended_store_matters("fp8");
}

#[test]
fn every_store_of_a_chain_is_missed() {
    every_store_matters("bf16");
}

#[test]
fn every_store_of_a_chain_over_an_e4m3_cache_is_missed() {
    every_store_matters("fp8");
}
