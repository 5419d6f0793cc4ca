//! Whole engines on the host device: what else happens to a request never changes its tokens.
//!
//! Builds the small reference checkpoints and answers the same requests alone, together, in chunks, with a cache
//! that is too small for all of them, and after requests that began the same. Which tokens are right is for
//! `tools/tests/golden.rs` to say.

use std::path::{Path, PathBuf};
use trtc_compiler::{BuildOptions, build};
use trtc_runtime::{Answer, CacheSize, Engine, LoadOptions, Request, Sampling, Stats};

const ARCHS: [&str; 6] = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma3"];

/// Lengths of prompt and answer of the requests: more tokens than a page, than a chunk, than a sliding window.
const SIZES: [(usize, u32); 6] = [(20, 75), (27, 80), (1, 40), (75, 30), (33, 1), (90, 38)];

/// Builds an engine; a precision may be followed by that of the cache: `fp8 kv fp8`.
fn built(dir: &Path, arch: &str, precision: &str, max_step_tokens: u32) -> PathBuf {
    let path = dir.join(format!("{max_step_tokens}.engine"));
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tiny").join(arch);
    let (weights, cache) = precision.split_once(" kv ").map_or((precision, None), |(w, kv)| (w, Some(kv)));
    let options = BuildOptions {
        precision: weights.to_owned(),
        kv_precision: cache.map(str::to_owned),
        max_seq_len: Some(128),
        max_batch: Some(5),
        max_step_tokens: Some(max_step_tokens),
        ..BuildOptions::default()
    };
    build(&model, &path, &options, &mut |_| ()).unwrap_or_else(|d| panic!("{arch} {precision}: {d}"));
    path
}

fn loaded(path: &Path, cache: CacheSize, prefix_cache: bool) -> Engine {
    let options = LoadOptions { threads: Some(2), cache, prefix_cache, ..LoadOptions::default() };
    Engine::load(path, options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Requests of all sizes, every other one with drawn tokens.
fn requests(vocab: u32) -> Vec<Request> {
    let mut state = 7u32;
    let mut token = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocab
    };
    let request = |(i, (prompt, answer)): (usize, (usize, u32))| Request {
        max_tokens: answer,
        ignore_eos: true,
        logprobs: Some(0),
        sampling: Sampling {
            seed: Some(i as u64),
            ..if i % 2 == 0 { Sampling::greedy() } else { Sampling::default() }
        },
        ..Request::new((0..prompt).map(|_| token()).collect())
    };
    SIZES.into_iter().enumerate().map(request).collect()
}

/// Tokens and log-probabilities, to the bit.
fn outcome(answer: &Answer) -> Vec<(u32, u32)> {
    let logprob = |i: usize| answer.logprobs[i].logprob.to_bits();
    answer.tokens.iter().enumerate().map(|(i, t)| (*t, logprob(i))).collect()
}

fn run(engine: &mut Engine, requests: &[Request], what: &str) -> (Vec<Vec<(u32, u32)>>, Stats) {
    let answers = engine.answers(requests.iter().cloned()).unwrap_or_else(|e| panic!("{what}: {e}"));
    for (answer, request) in answers.iter().zip(requests) {
        assert_eq!(answer.tokens.len(), request.max_tokens as usize, "{what}");
    }
    (answers.iter().map(outcome).collect(), engine.stats())
}

fn same_in_every_company(arch: &str, precision: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (wide, narrow) = (built(dir.path(), arch, precision, 256), built(dir.path(), arch, precision, 13));
    let mut engine = loaded(&wide, CacheSize::Auto, false);
    let requests = requests(engine.manifest().model.vocab);
    let alone: Vec<_> =
        requests.iter().map(|r| run(&mut engine, std::slice::from_ref(r), "alone").0.remove(0)).collect();

    let what = format!("{arch} {precision} together");
    let (got, stats) = run(&mut engine, &requests, &what);
    assert_eq!(got, alone, "{what}");
    assert!(stats.decode.tokens > stats.decode.steps, "{what}: no step had two requests");

    let what = format!("{arch} {precision} in chunks");
    let mut engine = loaded(&narrow, CacheSize::Auto, false);
    let (got, stats) = run(&mut engine, &requests, &what);
    assert_eq!(got, alone, "{what}");
    assert!(stats.prefill.steps > 15, "{what}: {} steps", stats.prefill.steps);

    let what = format!("{arch} {precision} with a small cache");
    let mut engine = loaded(&wide, CacheSize::Pages(5), false);
    let (got, stats) = run(&mut engine, &requests, &what);
    assert_eq!(got, alone, "{what}");
    assert!(stats.preemptions > 0, "{what}: nothing was preempted");

    let what = format!("{arch} {precision} from reused prefixes");
    let mut engine = loaded(&narrow, CacheSize::Auto, true);
    for round in 0..2 {
        let (got, stats) = run(&mut engine, &requests, &what);
        assert_eq!(got, alone, "{what}, round {round}");
        assert!((stats.reused_tokens > 64) == (round > 0), "{what}: {} tokens reused", stats.reused_tokens);
    }
}

#[test]
fn fp32_tokens_are_the_same_in_every_company() {
    ARCHS.iter().for_each(|arch| same_in_every_company(arch, "fp32"));
}

#[test]
fn bf16_tokens_are_the_same_in_every_company() {
    ARCHS.iter().for_each(|arch| same_in_every_company(arch, "bf16"));
}

#[test]
fn fp8_tokens_are_the_same_in_every_company() {
    ARCHS.iter().for_each(|arch| same_in_every_company(arch, "fp8"));
}

#[test]
fn tokens_from_an_e4m3_cache_are_the_same_in_every_company() {
    for (arch, precision) in [("llama", "fp8 kv fp8"), ("gemma3", "fp8 kv fp8"), ("qwen3", "int8 kv fp8")] {
        same_in_every_company(arch, precision);
    }
}

#[test]
fn int8_tokens_are_the_same_in_every_company() {
    ARCHS.iter().for_each(|arch| same_in_every_company(arch, "int8"));
}

#[test]
fn int4_tokens_are_the_same_in_every_company() {
    ARCHS.iter().for_each(|arch| same_in_every_company(arch, "int4"));
}
