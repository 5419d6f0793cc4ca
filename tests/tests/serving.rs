//! Whole engines on the host device, and deterministic ones on the emulator: what else happens to a request never
//! changes its tokens.
//!
//! Builds the small reference checkpoints and answers the same requests alone, together, in chunks, with a cache
//! that is too small for all of them, and after requests that began the same. Which tokens are right is for
//! `tools/tests/golden.rs` to say.

use std::path::{Path, PathBuf};
use trtc_compiler::{BuildOptions, build};
use trtc_runtime::{Answer, CacheSize, DeviceChoice, Engine, LoadOptions, Request, Sampling, Stats};

const ARCHS: [&str; 6] = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma3"];

/// Lengths of prompt and answer of the requests: more tokens than a page, than a chunk, than a sliding window.
const SIZES: [(usize, u32); 6] = [(20, 75), (27, 80), (1, 40), (75, 30), (33, 1), (90, 38)];
/// The same for the emulator, which has larger pages and takes a while for each step.
const FEW_SIZES: [(usize, u32); 5] = [(50, 20), (58, 24), (1, 9), (75, 12), (33, 1)];

/// An engine as a test builds it.
#[derive(Clone, Copy)]
struct Made<'a> {
    target: &'static str,
    /// Folder of the checkpoint.
    model: &'a Path,
    /// May be followed by that of the cache: `fp8 kv fp8`.
    precision: &'a str,
    /// Whether its weights are made up.
    dummy: bool,
    /// Whether it gives each answer to the bit; engines for the host do anyway.
    deterministic: bool,
}

impl Made<'_> {
    fn on_host(&self) -> bool {
        self.target == "host"
    }

    /// Builds it.
    fn built(&self, dir: &Path, max_step_tokens: u32) -> PathBuf {
        let path = dir.join(format!("{max_step_tokens}.engine"));
        let (weights, cache) =
            self.precision.split_once(" kv ").map_or((self.precision, None), |(w, kv)| (w, Some(kv)));
        let options = BuildOptions {
            target: self.target.to_owned(),
            precision: weights.to_owned(),
            kv_precision: cache.map(str::to_owned),
            max_seq_len: Some(128),
            max_batch: Some(if self.dummy { 140 } else { 5 }),
            max_step_tokens: Some(max_step_tokens),
            deterministic: self.deterministic,
            dummy_seed: self.dummy.then_some(1),
            ..BuildOptions::default()
        };
        let what = || format!("{} {} {}", self.target, self.model.display(), self.precision);
        build(self.model, &path, &options, &mut |_| ()).unwrap_or_else(|d| panic!("{}: {d}", what()));
        path
    }

    fn loaded(&self, path: &Path, cache: CacheSize, prefix_cache: bool) -> Engine {
        let device = if self.on_host() { DeviceChoice::Auto } else { DeviceChoice::Emulator };
        let options = LoadOptions { threads: Some(2), device, cache, prefix_cache };
        Engine::load(path, options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

/// The folder of a reference checkpoint.
fn tiny(arch: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/tiny").join(arch)
}

/// Requests of all sizes, every other one with drawn tokens.
fn requests(sizes: &[(usize, u32)], vocab: u32) -> Vec<Request> {
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
    sizes.iter().copied().enumerate().map(request).collect()
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
    let model = tiny(arch);
    let made = Made { target: "host", model: &model, precision, dummy: false, deterministic: false };
    in_every_company(made, &format!("{arch} {precision}"));
}

fn in_every_company(made: Made<'_>, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (wide, narrow) = (made.built(dir.path(), 256), made.built(dir.path(), 13));
    let mut engine = made.loaded(&wide, CacheSize::Auto, false);
    // Pages of the host have 16 tokens, of a GPU 64.
    let (sizes, pages) = if made.on_host() { (&SIZES[..], 5) } else { (&FEW_SIZES[..], 3) };
    let requests = requests(sizes, engine.manifest().model.vocab);
    let alone: Vec<_> =
        requests.iter().map(|r| run(&mut engine, std::slice::from_ref(r), "alone").0.remove(0)).collect();

    let what = format!("{name} together");
    let (got, stats) = run(&mut engine, &requests, &what);
    assert_eq!(got, alone, "{what}");
    assert!(stats.decode.tokens > stats.decode.steps, "{what}: no step had two requests");

    let what = format!("{name} in chunks");
    let mut engine = made.loaded(&narrow, CacheSize::Auto, false);
    let (got, stats) = run(&mut engine, &requests, &what);
    assert_eq!(got, alone, "{what}");
    assert!(stats.prefill.steps > 10, "{what}: {} steps", stats.prefill.steps);

    let what = format!("{name} with a small cache");
    let mut engine = made.loaded(&wide, CacheSize::Pages(pages), false);
    let (got, stats) = run(&mut engine, &requests, &what);
    assert_eq!(got, alone, "{what}");
    assert!(stats.preemptions > 0, "{what}: nothing was preempted");

    let what = format!("{name} from reused prefixes");
    let mut engine = made.loaded(&narrow, CacheSize::Auto, true);
    for round in 0..2 {
        let (got, stats) = run(&mut engine, &requests, &what);
        assert_eq!(got, alone, "{what}, round {round}");
        assert!((stats.reused_tokens >= 64) == (round > 0), "{what}: {} tokens reused", stats.reused_tokens);
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

#[test]
fn tokens_of_deterministic_engines_are_the_same_in_every_company() {
    let model = tiny("llama");
    for (target, precision) in [("sm_90", "bf16"), ("sm_90", "fp8 kv fp8"), ("sm_80", "int4")] {
        let made = Made { target, model: &model, precision, dummy: false, deterministic: true };
        in_every_company(made, &format!("{target} {precision}"));
    }
}

/// Products whose K has several shares, in each kernel that decode steps have for so many rows.
#[test]
fn tokens_of_deterministic_engines_do_not_depend_on_how_many_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("config.json");
    std::fs::write(
        &model,
        r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024,
            "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 1,
            "vocab_size": 384, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}"#,
    )
    .unwrap();
    for (target, precision) in [("sm_90", "bf16"), ("sm_90", "fp8"), ("sm_80", "bf16")] {
        let made = Made { target, model: &model, precision, dummy: true, deterministic: true };
        let path = made.built(dir.path(), 300);
        let mut engine = made.loaded(&path, CacheSize::Auto, false);
        let all = requests(&[(2, 3); 140], 384);
        let (most, _) = run(&mut engine, &all, "140");
        for count in [1, 9, 17, 66] {
            let what = format!("{target} {precision}, {count} of 140");
            let (got, stats) = run(&mut engine, &all[..count], &what);
            assert_eq!(got, most[..count], "{what}");
            assert_eq!(stats.last.seqs as usize, count, "{what}");
        }
    }
}

/// In steps with tokens of both kinds, requests that decode are computed by kernels of their own.
#[test]
fn tokens_that_decode_beside_prompts_are_what_they_are_alone() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny("llama");
    for (target, precision) in [("sm_90", "bf16 kv fp8"), ("sm_80", "bf16")] {
        let made = Made { target, model: &model, precision, dummy: false, deterministic: false };
        let mut engine = made.loaded(&made.built(dir.path(), 13), CacheSize::Auto, false);
        // Greedy, for what is drawn may differ by a rounding.
        let mut requests = requests(&FEW_SIZES, engine.manifest().model.vocab);
        requests.iter_mut().for_each(|r| r.sampling = Sampling::greedy());
        let mut answers = |requests: &[Request]| engine.answers(requests.iter().cloned()).unwrap();
        let alone: Vec<_> = requests.iter().flat_map(|r| answers(std::slice::from_ref(r))).collect();
        let before = engine.stats().decode.tokens;
        let together = engine.answers(requests.iter().cloned()).unwrap();
        let decoded: u32 = requests.iter().map(|r| r.max_tokens - 1).sum();
        let apart = engine.stats().decode.tokens - before;
        assert!(apart < u64::from(decoded), "{target}: no step had tokens of both kinds");
        for (a, b) in alone.iter().zip(&together) {
            assert_eq!(a.tokens, b.tokens, "{target} {precision}");
            let far = a.logprobs.iter().zip(&b.logprobs).map(|(x, y)| (x.logprob - y.logprob).abs());
            let far = far.fold(0.0, f32::max);
            assert!(far < 0.03, "{target} {precision}: {far}");
        }
    }
}
