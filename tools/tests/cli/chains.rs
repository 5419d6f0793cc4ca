//! Kernels that compute two ops: a step of an engine for a GPU has one launch for both, and a check finds each store
//! that such a kernel leaves out: of results, of queries, of the new keys and values and their scales, in memory and in tiles.

use super::support::*;
use std::path::{Path, PathBuf};
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Launch, Steps};

/// An engine in a folder of this name, of a checkpoint of the tests with made-up weights, whose contexts are longer than any of them
/// has, with these numbers in its configuration, and a variant of one of its kernels.
fn long(
    name: &str,
    kv: &str,
    (model, numbers): (&str, &[(&str, u32)]),
    tuning: Option<(&str, &str)>,
) -> PathBuf {
    let folder = folder(&format!("{name}-{kv}"));
    let model = llama().with_file_name(model).join("config.json");
    let mut config = json(&std::fs::read_to_string(model).expect("the model's config"));
    for &(key, number) in numbers.iter().chain(&[("max_position_embeddings", 4096)]) {
        config[key] = number.into();
    }
    let (model, engine) = (folder.join("config.json"), folder.join("model.engine"));
    std::fs::write(&model, config.to_string()).expect("a config");
    let how = ["--target", "sm_90", "--weights", "dummy:1", "--kv-precision", kv, "--precision"];
    let limits = ["--max-seq-len", "1100", "--max-batch", "4", "--max-step-tokens", "600"];
    let precision = if kv == "fp8" { "fp8" } else { "bf16" };
    let variants = folder.join("tuning");
    let tuned = tuning.map_or(vec![], |(kernel, variant)| {
        std::fs::write(&variants, format!("{kernel} {variant}\n")).expect("a tuning");
        vec!["--tuning", text(&variants)]
    });
    let build = ["build", text(&model), "-o", text(&engine)];
    trtc(&[&build[..], &how, &[precision], &limits, &tuned].concat()).ok();
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
    let engine = long("chains", kv, ("llama", &[]), None);
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
    let engine = long("appended", kv, ("llama", &[]), None);
    let count = stores_that_matter(&engine, &product_that_appends(&engine), &APPENDED, "513");
    assert!(count >= 4, "{count} stores");
}

/// The kernels of products that append, and what reads what they have stored.
const APPENDED: [&str; 2] = ["out-bf16.rope_kv_append.", "prefill"];

/// The one kernel of such products in an engine.
fn product_that_appends(engine: &Path) -> String {
    let file = EngineFile::open(engine).expect("the engine");
    let appends = |name: &str| name.contains(".linear.") && name.contains(".rope_kv_append.");
    let kernels: Vec<&str> =
        file.manifest().kernels.iter().map(|k| &*k.name).filter(|n| appends(n)).collect();
    let [kernel] = kernels[..] else { panic!("{kernels:?}") };
    kernel.to_owned()
}

/// Several heads in a tile, the last of which is half empty, by blocks that share rows of weights; and heads with a bias.
#[test]
fn products_append_heads_of_one_tile() {
    let five = ("llama", &[("num_attention_heads", 5), ("num_key_value_heads", 1), ("head_dim", 64)][..]);
    let biased = ("qwen2", &[("num_attention_heads", 2), ("num_key_value_heads", 1)][..]);
    for (name, kv, model, tile) in [
        ("five", "fp8", five, "128x256c2x1"),
        ("five", "bf16", five, "128x256"),
        ("biased", "fp8", biased, "64x256"),
    ] {
        let kernel = product_that_appends(&long(name, kv, model, None));
        let engine = long(name, kv, model, Some((&kernel, tile)));
        assert_eq!(product_that_appends(&engine), format!("{kernel}.{tile}"));
        assert!(check(&engine, &APPENDED, "600").ok().contains(tile));
    }
}

/// Products of one token, and of few, by tiles of 64 rows that are cut into two, four and eight parts, in any order of sums and in a
/// prescribed one.
#[test]
fn narrow_products_are_right() {
    let sizes =
        [("hidden_size", 1024), ("intermediate_size", 1024), ("num_hidden_layers", 1), ("vocab_size", 4096)];
    for kv in ["fp8", "bf16"] {
        let any = long("narrow", kv, ("llama", &sizes), None);
        let (config, ordered) = (any.with_file_name("config.json"), any.with_file_name("ordered.engine"));
        let limits = ["--max-seq-len", "64", "--max-batch", "16", "--max-step-tokens", "64"];
        let how = ["--deterministic", "--target", "sm_90", "--weights", "dummy:1", "--precision", kv];
        trtc(&[&["build", text(&config), "-o", text(&ordered)][..], &how, &limits].concat()).ok();
        for engine in [&any, &ordered] {
            for (kernel, tokens) in [(".one", "1"), (".to1", "1"), (".to8", "7"), (".to16", "16")] {
                assert!(check(engine, &[kernel], tokens).ok().contains(kernel), "{kernel}");
            }
        }
    }
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
