//! `trtc bench kernel`: each kernel of an engine by itself, beside what moving its bytes would take.
//!
//! A launch gets the tables, the contract and the made-up weights of `trtc check`. Weights and cached tokens take turns
//! in more copies than a cache holds, where copying them is worth it; activations stay where they are, as in a step,
//! in which the kernel before has just written them.

use super::bandwidth::Yardstick;
use super::prepare::{SEED, measure};
use super::timing::Timing;
use super::work::{Work, work};
use crate::check::case::contract;
use crate::check::inputs::dims_of;
use crate::check::memory::Memory;
use crate::check::op_of;
use crate::check::requests::Requests;
use crate::facts::human;
use crate::options::DeviceArgs;
use crate::progress::Bar;
use crate::render::Failure;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write;
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Arg, Choice, Kernel, Launch, Manifest, Steps, Weight};
use trtc_ir::random::Random;
use trtc_ir::{Module, Op};
use trtc_runtime::LoadOptions;
use trtc_runtime::device::{Buffer, Region, StepDims, WeightRegions};

/// Bytes of weights and cached tokens that take turns: four times the largest cache of a GPU.
const COLD: u64 = 200 << 20;
/// Most copies that take turns; what needs more is measured from the cache, and said to be.
const COPIES: u64 = 512;
/// Numbers of tokens at which a kernel is measured when none are given.
const TOKENS: [u32; 5] = [1, 8, 64, 512, 2048];
/// Cached tokens of a request when none are given.
const CONTEXT: u32 = 1024;

/// Time of each kernel by itself
///
/// Tokens up to the engine's greatest batch are requests that decode one token each, with CONTEXT tokens in the cache;
/// more are one prompt, whose last token sees CONTEXT tokens or the prompt, if that is longer. BYTES are weights, inputs,
/// outputs and the cached tokens that are seen, each once. `of limit` is the time that the device needs to move as many
/// bytes by a copy (the host: to read them), as a part of the kernel's. Weights and cached tokens take turns in copies
/// of together 200 MiB; a kernel that has too few of them for that is `warm`: it may find them in a cache of the chip.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  trtc bench kernel h100.engine\n  \
                        trtc bench kernel h100.engine --kernel attention --tokens 1,32 --context 4096\n  \
                        trtc bench kernel h100.engine --kernel linear --prompt --tokens 64 --json")]
pub struct Args {
    #[command(flatten)]
    on: DeviceArgs,
    /// Only kernels whose names contain this, or one of several
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Numbers of tokens; a kernel is measured at those that it serves. Left out: 1, 8, 64, 512 and 2048, or the most that it serves
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    tokens: Vec<u32>,
    /// Tokens of a request, this step's included; 1024 if left out, or the longest sequence of the engine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Take the tokens as a prompt, few as they may be
    #[arg(long)]
    prompt: bool,
    /// Measurements; the median is printed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A kernel at one number of tokens, before anything is measured.
pub struct Case<'a> {
    pub launch: &'a Launch,
    pub kernel: (u32, &'a Kernel),
    /// The kernel's contract.
    pub module: Module,
    pub requests: Requests,
    pub dims: StepDims,
    work: Work,
    /// Copies of weights and cache that take turns.
    pub copies: u64,
}

/// A measured one.
pub struct Line<'a> {
    pub case: Case<'a>,
    pub timing: Timing,
}

/// What was measured in one run.
pub struct Times<'a> {
    /// The device's name.
    pub device: String,
    pub yardstick: Yardstick,
    pub lines: Vec<Line<'a>>,
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<(), Failure> {
    let file = EngineFile::open(&args.on.engine)?;
    let m = file.manifest();
    let context = args.context.unwrap_or(CONTEXT.min(m.dims.max_seq_len));
    if context > m.dims.max_seq_len {
        return Err(Failure::user(format!(
            "--context {context} is more than the engine's longest sequence, {}",
            m.dims.max_seq_len
        ))
        .help("build it with a greater --max-seq-len"));
    }
    let cases = cases(args, m, context)?;
    if cases.is_empty() {
        let names = args.kernel.join(" or ");
        return Err(Failure::user(format!(
            "the engine has no kernel whose name contains {names:?} and that serves one of the numbers of tokens"
        ))
        .help("trtc inspect ENGINE lists the kernels, trtc inspect ENGINE --kernel NAME says what one serves"));
    }
    let options = LoadOptions {
        device: args.on.place.device,
        threads: args.on.place.threads,
        ..LoadOptions::default()
    };
    let measured = times(&file, &options, cases, args.repeat)?;
    print(args, m, context, &measured)
}

/// Times cases of an engine on a device that is opened for them.
pub fn times<'a>(
    file: &EngineFile,
    options: &LoadOptions,
    mut cases: Vec<Case<'a>>,
    repeat: u32,
) -> Result<Times<'a>, Failure> {
    let m = file.manifest();
    let mut device = trtc_runtime::open_device(m, options)?;
    let yardstick = Yardstick::measure(m, &mut *device, options.threads)?;
    let most = cases.iter().map(|c| c.copies as usize).max().unwrap_or(1);
    let mut load = with_copies(m, most);
    // Those that are measured: the driver takes longer to compile the others than they would take.
    let used: BTreeSet<u32> = cases.iter().map(|c| c.kernel.0).collect();
    load.kernels = used.iter().map(|&k| m.kernels[k as usize].clone()).collect();
    for case in &mut cases {
        case.kernel.0 = used.range(..case.kernel.0).count() as u32;
    }
    device.load(&load, &|name: &str| Ok(file.tensor(name).map_err(trtc_runtime::Error::from)?.to_vec()))?;
    let arena = cases.iter().map(|c| arena(&c.module, c.dims)).max().unwrap_or(0);
    let tokens = cases.iter().map(|c| u64::from(c.dims.tokens)).max().unwrap_or(1);
    let mut memory = Memory::new(device, file, (arena, tokens, 0), SEED)?;
    let none =
        WeightRegions { payload: Region { buffer: Buffer(0), offset: 0, len: 0 }, scale: None, zero: None };
    memory.bind.weights.resize(load.weights.len(), none);
    memory.bind.kv.resize(load.kv.layers.len(), Buffer(0));
    let bar = Bar::new("kernels", cases.len() as u64);
    let mut lines = Vec::new();
    for case in cases {
        let timing = measure(&mut memory, &case, repeat)?;
        lines.push(Line { case, timing });
        bar.advance(1);
    }
    bar.finish();
    Ok(Times { device: memory.device.name(), yardstick, lines })
}

/// Every kernel that was asked for, at its numbers of tokens.
fn cases<'a>(args: &Args, m: &'a Manifest, context: u32) -> Result<Vec<Case<'a>>, Failure> {
    let mut seen = BTreeSet::new();
    let mut cases = Vec::new();
    for launch in &m.launches {
        for choice in &launch.choices {
            let kernel = &m.kernels[choice.kernel as usize];
            let wanted = args.kernel.is_empty() || args.kernel.iter().any(|n| kernel.name.contains(n));
            // A kernel may serve several ranges, of which a chain takes some.
            if !wanted || !seen.insert((choice.kernel, choice.from)) {
                continue;
            }
            for tokens in tokens(&args.tokens, choice, m.dims.max_batch) {
                let prompt = match choice.steps {
                    Steps::Any => args.prompt,
                    kind => kind == Steps::Prefill,
                };
                let sizes = sizes(m, tokens, context, prompt);
                cases.push(case(m, launch, (choice.kernel, kernel), sizes)?);
            }
        }
    }
    Ok(cases)
}

/// Those of the numbers given that a kernel serves; without any given, some that it serves. No more requests decode
/// than a batch has, and a prompt of one token is no prompt.
fn tokens(given: &[u32], choice: &Choice, max_batch: u32) -> Vec<u32> {
    let (least, most) = match choice.steps {
        Steps::Any => (choice.from, choice.to),
        Steps::Decode | Steps::Single => (choice.from, choice.to.min(max_batch)),
        Steps::Prefill => (choice.from.max(2), choice.to),
    };
    let list = if given.is_empty() { &TOKENS[..] } else { given };
    let served: Vec<u32> = list.iter().copied().filter(|t| (least..=most).contains(t)).collect();
    if served.is_empty() && given.is_empty() && least <= most { vec![most] } else { served }
}

/// The requests of a step: `(tokens before, tokens of the step)`.
pub fn sizes(m: &Manifest, tokens: u32, context: u32, prompt: bool) -> Vec<(usize, usize)> {
    if tokens <= m.dims.max_batch && !prompt {
        return vec![(context as usize - 1, 1); tokens as usize];
    }
    // As many prompts as the longest sequence demands.
    let (mut left, longest) = (tokens, m.dims.max_seq_len.max(1));
    let mut sizes = Vec::new();
    while left > 0 {
        let new = left.min(longest);
        sizes.push((context.saturating_sub(new) as usize, new as usize));
        left -= new;
    }
    sizes
}

/// A case of a kernel for requests of these sizes.
pub fn case<'a>(
    m: &'a Manifest,
    launch: &'a Launch,
    kernel: (u32, &'a Kernel),
    sizes: Vec<(usize, usize)>,
) -> Result<Case<'a>, Failure> {
    let module = contract(kernel.1)?;
    let mut random = Random::named(SEED, &kernel.1.name);
    let requests = Requests::of(sizes, m.kv.page_tokens.max(1) as usize, &mut random);
    let sizes = requests.sizes();
    let seqs = sizes.len() as u32;
    // Logits are wanted of each request's last token.
    let context = requests.longest() as u32;
    let dims = StepDims {
        tokens: requests.tokens() as u32,
        rows: seqs.min(m.dims.max_logit_rows),
        seqs,
        first: 0,
        context,
    };
    let weights: Vec<&Weight> = weights(launch).map(|i| &m.weights[i as usize]).collect();
    let work = work(&module, dims, &sizes, &weights);
    Ok(Case { launch, kernel, copies: copies(&module, &work), module, requests, dims, work })
}

/// Weights of a launch.
fn weights(launch: &Launch) -> impl Iterator<Item = u32> + '_ {
    launch.args.iter().filter_map(|a| if let Arg::Weight(i) = a { Some(*i) } else { None })
}

/// Copies that together are too large for a cache; one if that would take too many.
fn copies(module: &Module, work: &Work) -> u64 {
    // Of a table only some rows are read: a copy of it all would be of no use.
    let weights = if matches!(op_of(module), Some(Op::Embedding(_))) { 0 } else { work.weights };
    match (weights + work.cache_read).max(1) {
        each if COLD.div_ceil(each) <= COPIES => COLD.div_ceil(each),
        _ => 1,
    }
}

impl Case<'_> {
    /// True if what takes turns fits into a cache.
    fn warm(&self) -> bool {
        (self.work.weights + self.work.cache_read) * self.copies < COLD
    }
}

/// The manifest as the device is to see it: each weight and each layer's cache as often as copies take turns. Copy `c`
/// of weight `i` is number `c * weights + i`, and so are caches.
fn with_copies(m: &Manifest, copies: usize) -> Manifest {
    let mut all = m.clone();
    all.weights = std::iter::repeat_n(&m.weights, copies).flatten().cloned().collect();
    all.kv.layers = m.kv.layers.repeat(copies);
    all
}

/// Bytes that the activations of a launch take in the arena.
fn arena(module: &Module, dims: StepDims) -> u64 {
    let func = &module.func;
    let tensors = func.params.iter().chain(&func.results).filter_map(|&v| func.values[v].ty.tensor());
    // Scales have a region of their own; elements take less than this.
    let room = |t| 4 * dims_of(t, dims).iter().product::<usize>() as u64;
    tensors.map(|t| Memory::room(room(t)) + Memory::room(4 * dims_of(t, dims)[0] as u64)).sum()
}

fn print(args: &Args, m: &Manifest, context: u32, times: &Times<'_>) -> Result<(), Failure> {
    let Times { device, yardstick, lines } = times;
    let mut out = std::io::stdout().lock();
    // Part of the kernel's time that moving its bytes takes.
    let of_limit = |l: &Line<'_>| l.case.work.bytes() as f64 / (yardstick.gb_s * 1e9) / l.timing.seconds;
    let per_s = |n: u64, l: &Line<'_>| n as f64 / l.timing.seconds;
    if args.json {
        let row = |l: &Line<'_>| {
            let (case, w) = (&l.case, &l.case.work);
            json!({
                "kernel": case.kernel.1.name, "tokens": case.dims.tokens, "requests": case.dims.seqs,
                "us": l.timing.seconds * 1e6, "bytes": w.bytes(), "operations": w.operations,
                "gb_s": per_s(w.bytes(), l) / 1e9, "tflop_s": per_s(w.operations, l) / 1e12,
                "of_limit": of_limit(l), "copies": case.copies, "warm": case.warm(),
                "recorded": l.timing.recorded,
            })
        };
        let object = json!({
            "bench": "kernel", "model": m.model.name, "precision": m.precision, "target": m.target,
            "device": device, "context": context, yardstick.key(): yardstick.gb_s,
            "rows": lines.iter().map(row).collect::<Vec<_>>(),
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "{} {}, kernels, on {device}", m.model.name, m.precision)?;
    writeln!(out, "{yardstick}; requests of {context} tokens")?;
    let width = lines.iter().map(|l| l.case.kernel.1.name.len()).max().unwrap_or(0).max(6);
    writeln!(
        out,
        "{:width$}  tokens         us        bytes     GFLOP     GB/s  TFLOP/s  of limit",
        "kernel"
    )?;
    for l in lines {
        let w = &l.case.work;
        let flops = if w.operations == 0 {
            format!("{:>9} {:>8}  {:>7}", "-", format!("{:.1}", per_s(w.bytes(), l) / 1e9), "-")
        } else {
            format!(
                "{:9.3} {:8.1}  {:7.2}",
                w.operations as f64 / 1e9,
                per_s(w.bytes(), l) / 1e9,
                per_s(w.operations, l) / 1e12
            )
        };
        writeln!(
            out,
            "{:width$}  {:6} {:10.2} {:>12} {flops}  {:6.0} %{}",
            l.case.kernel.1.name,
            l.case.dims.tokens,
            l.timing.seconds * 1e6,
            human(w.bytes()),
            100.0 * of_limit(l),
            if l.case.warm() { "  warm" } else { "" }
        )?;
    }
    if lines.iter().any(|l| !l.timing.recorded) {
        writeln!(out, "the device records no graphs: times include the start of each launch")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_measured_within_what_they_serve() {
        let choice = |steps, from, to| Choice { from, to, steps, kernel: 0 };
        let any = |from, to| choice(Steps::Any, from, to);
        assert_eq!(tokens(&[], &any(1, 16), 4), [1, 8]);
        assert_eq!(tokens(&[], &any(17, 48), 4), [48]);
        assert_eq!(tokens(&[4, 20], &any(1, 16), 4), [4]);
        assert!(tokens(&[20], &any(1, 16), 4).is_empty());
        assert_eq!(tokens(&[], &choice(Steps::Decode, 1, 2048), 16), [1, 8]);
        assert_eq!(tokens(&[1, 4, 5], &choice(Steps::Decode, 1, 2048), 4), [1, 4]);
        assert_eq!(tokens(&[], &choice(Steps::Decode, 2, 2048), 4), [4]);
        assert!(tokens(&[], &choice(Steps::Decode, 17, 2048), 16).is_empty());
        assert_eq!(tokens(&[1, 2, 9], &choice(Steps::Prefill, 1, 2048), 16), [2, 9]);
    }

    #[test]
    fn copies_are_taken_where_they_are_worth_it() {
        let module = Module::default();
        let work = |weights, cache_read| Work { weights, cache_read, ..Work::default() };
        assert_eq!(copies(&module, &work(COLD, 0)), 1);
        assert_eq!(copies(&module, &work(COLD / 4, COLD / 4)), 2);
        // A norm's weight: as many copies as it would take are not made.
        assert_eq!(copies(&module, &work(8192, 0)), 1);
    }
}
