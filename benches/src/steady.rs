//! An engine on the null device in steady state: so many requests decode, contexts of about a thousand tokens, and none
//! of them ends.
//!
//! The engine has a GPU's limits and page size, a step that chooses its tokens, and a vocabulary of words.

use crate::null::{Counts, NullDevice};
use std::io::Write;
use std::sync::Arc;
use trtc_engine::manifest::*;
use trtc_engine::{EngineFile, EngineWriter};
use trtc_runtime::error::Error;
use trtc_runtime::{CacheSize, Engine, LoadOptions, Request, Sampling};

/// Entries of the vocabulary: that of SmolLM2.
pub const VOCAB: u32 = 49_152;

/// Tokens of a prompt, but for what spreads the ends of pages over steps.
const PROMPT: u32 = 744;
/// Steps for which contexts are about a thousand tokens: 744 to 1320.
pub const STEPS: u32 = 512;

/// The limits and the page size that an engine for a GPU has by default.
const DIMS: Dims = Dims { max_batch: 256, max_seq_len: 8192, max_step_tokens: 2048, max_logit_rows: 256 };
const PAGE: u32 = 64;

/// What the requests ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Tokens: the engine has no tokenizer.
    Tokens,
    /// Text.
    Text,
    /// Text that ends at one of four stop strings, which do not come, with log-probabilities of drawn tokens.
    All,
}

/// The engine.
pub struct Steady {
    /// The engine, in steady state after [`Steady::begin`].
    pub engine: Engine,
    /// What its device was asked to do.
    pub device: Arc<Counts>,
    requests: u32,
    wants: Wants,
    live: Vec<u64>,
}

impl Steady {
    /// An engine for `requests` requests at once, at most 256. Nothing runs yet.
    pub fn new(requests: u32, wants: Wants) -> Result<Steady, Error> {
        let (device, counts) = NullDevice::new();
        let file = file(wants != Wants::Tokens)?;
        let pages = DIMS.max_batch * 8192_u32.div_ceil(PAGE);
        let options = LoadOptions { cache: CacheSize::Pages(pages), ..LoadOptions::default() };
        let engine = Engine::with_device(file, Box::new(device), &options)?;
        Ok(Steady { engine, device: counts, requests, wants, live: Vec::new() })
    }

    /// Gives all requests up, submits new ones, and steps until all of them decode.
    pub fn begin(&mut self) -> Result<(), Error> {
        for request in self.live.drain(..) {
            self.engine.cancel(request);
        }
        for i in 0..self.requests {
            let prompt = (0..PROMPT + i * 37 % PAGE).map(|p| (p * 31 + i * 977) % VOCAB).collect();
            self.live.push(self.engine.submit(self.request(prompt))?);
        }
        loop {
            self.engine.step()?;
            let last = self.engine.stats().last;
            if last.decode_only && last.seqs == self.requests {
                return Ok(());
            }
        }
    }

    fn request(&self, prompt: Vec<u32>) -> Request {
        let plain = Request {
            max_tokens: 4 * STEPS,
            ignore_eos: true,
            sampling: Sampling::greedy(),
            ..Request::new(prompt)
        };
        match self.wants {
            Wants::Tokens | Wants::Text => plain,
            Wants::All => Request {
                sampling: Sampling { temperature: 0.7, top_p: 0.9, seed: Some(1), ..Sampling::default() },
                stop: ["</s>", "\n\nUser:", "###", "<|end|>"].map(str::to_owned).to_vec(),
                logprobs: Some(0),
                ..plain
            },
        }
    }
}

fn manifest(text: bool) -> Manifest {
    let f32 = Dtype::F32;
    let kernels = [
        ("feed", HostKernel::Feed { last: DIMS.max_logit_rows }),
        ("embed", HostKernel::Embedding { width: 2, scale: 1.0, out: f32 }),
        ("rows", HostKernel::GatherRows { width: 2, x: f32 }),
        (
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
        ("sample", HostKernel::Sample { vocab: VOCAB }),
    ];
    let kernel = |(name, code): &(&str, HostKernel)| Kernel {
        name: (*name).into(),
        code: Code::Host(code.clone()),
        contract: String::new(),
    };
    let (step, rows) = (16 * u64::from(DIMS.max_step_tokens), 16 * u64::from(DIMS.max_logit_rows));
    let (ids, hidden, picked) = (0, step, 2 * step);
    let logits = picked + rows;
    let tokens = logits + rows * u64::from(VOCAB) / 4;
    let logprobs = tokens + rows;
    use Arg::{Arena, Draws, Masks, Rows, Tokens, Weight as Bound};
    let args = [
        vec![Tokens, Arena(tokens), Arena(ids)],
        vec![Arena(ids), Bound(0), Arena(hidden)],
        vec![Arena(hidden), Rows, Arena(picked)],
        vec![Arena(picked), Bound(0), Arena(logits)],
        vec![Arena(logits), Draws, Masks, Arena(tokens), Arena(logprobs)],
    ];
    let launch = |(kernel, args)| Launch {
        ops: vec![kernel],
        choices: vec![Choice { from: 1, to: DIMS.max_step_tokens, steps: Steps::Any, kernel }],
        args,
        loc: String::new(),
    };
    Manifest {
        format: FORMAT,
        target: "host".into(),
        capability: None,
        precision: "f32".into(),
        deterministic: false,
        model: Model {
            name: "null".into(),
            arch: "null".into(),
            vocab: VOCAB,
            hidden: 2,
            layers: 1,
            parameters: 2 * u64::from(VOCAB),
            bos: None,
            eos: vec![],
            context: DIMS.max_seq_len,
        },
        dims: DIMS,
        arena: logprobs + rows,
        kv: Kv { page_tokens: PAGE, dtype: f32, layers: vec![] },
        weights: vec![Weight {
            name: "table".into(),
            shape: vec![u64::from(VOCAB), 2],
            encoding: Encoding::F32,
            layout: Layout::Rows,
            computed: false,
        }],
        dummy_seed: Some(1),
        kernels: kernels.iter().map(kernel).collect(),
        launches: (0..).zip(args).map(launch).collect(),
        logits,
        sampled: Some(Sampled { tokens, logprobs }),
        text: text.then(|| Text {
            tokenizer: "tokenizer".into(),
            add_bos: false,
            chat_template: None,
            bos_token: None,
            eos_token: None,
        }),
        generation: Generation::default(),
        provenance: Provenance::default(),
    }
}

/// A byte-level vocabulary: the 256 bytes, then words of one to ten letters, half of them after a space.
fn tokenizer() -> String {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0x100u32..).filter_map(char::from_u32).zip((0..=255).filter(|&b| !plain(b)));
    let bytes = (0..=255).filter(|&b| plain(b)).map(char::from).chain(others.map(|(c, _)| c));
    let word = |i: u32| {
        // The letters of its number to base 20, so that no two are alike.
        let mut word = if i.is_multiple_of(2) { "\u{120}".to_owned() } else { String::new() };
        let mut rest = i + 400;
        while rest > 0 {
            word.push(char::from(b'a' + (rest % 20) as u8));
            rest /= 20;
        }
        word + &"z".repeat(i as usize / 2 % 7)
    };
    let entries: Vec<String> = (0..)
        .zip(bytes.map(String::from).chain((256..VOCAB).map(word)))
        .map(|(id, text)| format!("{}:{id}", serde_json::Value::from(text)))
        .collect();
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":null,"post_processor":null,
        "decoder":{{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}},
        "model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"!"}}}}"#,
        entries.join(",")
    )
}

/// The engine's file, opened; it is deleted at once.
fn file(text: bool) -> Result<EngineFile, Error> {
    let folder = tempfile::tempdir().map_err(|e| Error::user(format!("no folder for an engine: {e}")))?;
    let path = folder.path().join("null.engine");
    let tokenizer = tokenizer();
    let extras: &[(&str, u64)] = if text { &[("tokenizer", tokenizer.len() as u64)] } else { &[] };
    let mut writer = EngineWriter::create(&path, &manifest(text), extras)?;
    if text {
        let fill = |out: &mut dyn Write| -> Result<(), trtc_engine::EngineError> {
            // The writer keeps an error of writing and gives it back itself.
            let _ = out.write_all(tokenizer.as_bytes());
            Ok(())
        };
        writer.tensor("tokenizer", fill)?;
    }
    writer.finish()?;
    Ok(EngineFile::open(&path)?)
}
