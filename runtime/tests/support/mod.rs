//! An engine whose model is a hash of the sequence so far, on a device that computes it through the cache: wrong
//! pages, positions, tables, rows or weights give wrong tokens. Also the same model computed directly.

#![allow(dead_code, reason = "each test binary uses a part")]

mod device;

#[allow(
    unused_imports,
    reason = "not every test that shares this file uses the device or reads its log"
)]
pub use device::{FakeDevice, Log};
use std::path::Path;
use trtc_engine::manifest::*;
use trtc_engine::{EngineFile, EngineWriter};

pub const VOCAB: u32 = 96;
pub const EOS: u32 = 95;

/// SplitMix64's finaliser.
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.rotate_left(17) ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The table's row of a token, and the row of the output matrix.
pub fn table(token: u32) -> u64 {
    mix(1, u64::from(token))
}

fn output(token: u32) -> u64 {
    mix(2, u64::from(token))
}

fn embed(row: u64, position: u32) -> u64 {
    mix(row, u64::from(position) + 3)
}

/// A query and everything up to it, each with key and value.
fn attend(q: u64, cached: impl Iterator<Item = (u64, u64)>) -> u64 {
    cached.fold(mix(4, q), |h, (k, v)| mix(mix(h, k), v))
}

fn logit(state: u64, row: u64) -> f32 {
    (mix(state, row) >> 40) as f32 / (1u64 << 24) as f32 * 8.0 - 4.0
}

/// Logits after each token, computed without cache, pages or steps.
pub fn reference(tokens: &[u32]) -> Vec<Vec<f32>> {
    let h: Vec<u64> = tokens.iter().enumerate().map(|(p, &t)| embed(table(t), p as u32)).collect();
    let layer = |h: &[u64]| -> Vec<u64> {
        (0..h.len()).map(|p| attend(h[p], h[..=p].iter().map(|&x| (x, x ^ 5)))).collect()
    };
    let h = layer(&layer(&h));
    h.iter().map(|&s| (0..VOCAB).map(|t| logit(s, output(t))).collect()).collect()
}

/// The most likely token after `tokens`, and its logits.
pub fn best(tokens: &[u32]) -> (u32, Vec<f32>) {
    let row = reference(tokens).pop().unwrap();
    let best = (0..VOCAB).max_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize])).unwrap();
    (best, row)
}

/// Greedy continuation, without any end.
pub fn greedy(prompt: &[u32], n: usize) -> Vec<u32> {
    let mut all = prompt.to_vec();
    for _ in 0..n {
        all.push(best(&all).0);
    }
    all.split_off(prompt.len())
}

/// Natural-log probability of a token.
pub fn logprob(row: &[f32], token: u32) -> f64 {
    let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
    f64::from(row[token as usize]) - sum.ln()
}

pub fn dims() -> Dims {
    Dims { max_batch: 4, max_seq_len: 64, max_step_tokens: 16, max_logit_rows: 8 }
}

/// The manifest of the hash model: two layers of one head of two f32, which hold 64 bits.
pub fn manifest(dims: Dims, page_tokens: u32) -> Manifest {
    let kernel = |name: &str, host: HostKernel| Kernel {
        name: name.into(),
        code: Code::Host(host),
        contract: String::new(),
    };
    let weight = |name: &str| Weight {
        name: name.into(),
        shape: vec![u64::from(VOCAB), 2],
        encoding: Encoding::F32,
        layout: Layout::Rows,
        computed: false,
    };
    let f32 = Dtype::F32;
    let kernels = vec![
        kernel("embed", HostKernel::Embedding { width: 2, scale: 1.0, out: f32 }),
        kernel("append", HostKernel::KvAppend { x: f32 }),
        kernel(
            "attend",
            HostKernel::Attention { heads: 1, scale: 1.0, softcap: None, products: None, x: f32, out: f32 },
        ),
        kernel("rows", HostKernel::GatherRows { width: 2, x: f32 }),
        kernel(
            "output",
            HostKernel::Linear {
                n: VOCAB,
                k: 2,
                rows: Count::Rows,
                bias: false,
                residual: None,
                x: f32,
                out: f32,
            },
        ),
    ];
    let step = u64::from(dims.max_step_tokens) * 16;
    let logits = 5 * step;
    let launch = |kernel: u32, args: Vec<Arg>| Launch {
        ops: Vec::new(),
        choices: vec![Choice { from: 1, to: dims.max_step_tokens, steps: Steps::Any, kernel }],
        args,
        loc: String::new(),
    };
    let (h0, h1, h2, r) = (Arg::Arena(0), Arg::Arena(step), Arg::Arena(2 * step), Arg::Arena(3 * step));
    let launches = numbered(vec![
        launch(0, vec![Arg::Tokens, Arg::Weight(0), h0]),
        launch(1, vec![h0, h0, Arg::Batch, Arg::Kv(0)]),
        launch(2, vec![h0, Arg::Batch, Arg::Kv(0), h1]),
        launch(1, vec![h1, h1, Arg::Batch, Arg::Kv(1)]),
        launch(2, vec![h1, Arg::Batch, Arg::Kv(1), h2]),
        launch(3, vec![h2, Arg::Rows, r]),
        launch(4, vec![r, Arg::Weight(1), Arg::Arena(logits)]),
    ]);
    let layer = KvLayer { heads: 1, head_dim: 2, window: None };
    Manifest {
        format: FORMAT,
        target: "host".into(),
        capability: None,
        precision: "f32".into(),
        deterministic: false,
        model: Model {
            name: "hash".into(),
            arch: "hash".into(),
            vocab: VOCAB,
            hidden: 2,
            layers: 2,
            parameters: u64::from(VOCAB) * 4,
            bos: None,
            eos: vec![EOS],
            context: dims.max_seq_len,
        },
        dims,
        arena: logits + u64::from(dims.max_logit_rows) * u64::from(VOCAB) * 4,
        kv: Kv { page_tokens, dtype: f32, layers: vec![layer, layer] },
        weights: vec![weight("table"), weight("output")],
        dummy_seed: None,
        kernels,
        launches,
        logits,
        sampled: None,
        text: None,
        generation: Generation::default(),
        provenance: Provenance::default(),
    }
}

/// Launches of one op each, in order.
fn numbered(mut launches: Vec<Launch>) -> Vec<Launch> {
    (0..).zip(&mut launches).for_each(|(i, launch)| launch.ops = vec![i]);
    launches
}

/// The same with tokens that the device chooses.
pub fn sampling(mut m: Manifest) -> Manifest {
    let (rows, tokens) = (4 * u64::from(m.dims.max_logit_rows), 4 * u64::from(m.dims.max_step_tokens));
    let at = m.arena.next_multiple_of(16);
    let logprobs = (at + rows).next_multiple_of(16);
    let ids = (logprobs + rows).next_multiple_of(16);
    m.arena = ids + tokens;
    let base = m.kernels.len() as u32;
    for (name, host) in [
        ("feed", HostKernel::Feed { last: m.dims.max_logit_rows }),
        ("sample", HostKernel::Sample { vocab: VOCAB }),
    ] {
        m.kernels.push(Kernel { name: name.into(), code: Code::Host(host), contract: String::new() });
    }
    let launch = |kernel: u32, args: Vec<Arg>| Launch {
        ops: Vec::new(),
        choices: vec![Choice { from: 1, to: m.dims.max_step_tokens, steps: Steps::Any, kernel }],
        args,
        loc: String::new(),
    };
    let feed = launch(base, vec![Arg::Tokens, Arg::Arena(at), Arg::Arena(ids)]);
    let sample = launch(
        base + 1,
        vec![Arg::Arena(m.logits), Arg::Draws, Arg::Masks, Arg::Arena(at), Arg::Arena(logprobs)],
    );
    m.launches[0].args[0] = Arg::Arena(ids);
    m.launches.insert(0, feed);
    m.launches.push(sample);
    m.launches = numbered(m.launches);
    m.sampled = Some(Sampled { tokens: at, logprobs });
    m
}

/// Writes the next tensor of an engine file.
pub fn put(writer: &mut EngineWriter, name: &str, bytes: &[u8]) {
    let fill = |out: &mut dyn std::io::Write| -> Result<(), trtc_engine::EngineError> {
        out.write_all(bytes).unwrap();
        Ok(())
    };
    writer.tensor(name, fill).unwrap();
}

/// Writes the hash model's engine file.
pub fn write(path: &Path, manifest: &Manifest, tokenizer: Option<&str>) {
    let extras: Vec<(&str, u64)> = tokenizer.iter().map(|t| ("tokenizer", t.len() as u64)).collect();
    let mut writer = EngineWriter::create(path, manifest, &extras).unwrap();
    let rows = |f: &dyn Fn(u32) -> u64| (0..VOCAB).flat_map(|t| f(t).to_le_bytes()).collect::<Vec<u8>>();
    if manifest.dummy_seed.is_none() {
        put(&mut writer, "table", &rows(&table));
        put(&mut writer, "output", &rows(&output));
    }
    if let Some(tokenizer) = tokenizer {
        put(&mut writer, "tokenizer", tokenizer.as_bytes());
    }
    writer.finish().unwrap();
}

/// The hash model's engine file, opened.
pub fn file(manifest: &Manifest, tokenizer: Option<&str>) -> EngineFile {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hash.engine");
    write(&path, manifest, tokenizer);
    EngineFile::open(&path).unwrap()
}
