//! `trtc tune`: measures the ways in which a model's kernels can be made on a GPU, and writes down the fastest.

use super::bench::kernel::{case, sizes, times};
use crate::graph::GraphArgs;
use crate::options;
use crate::progress::Bar;
use crate::render::Failure;
use crate::scratch::{Scratch, write_whole};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use trtc_compiler::{BuildOptions, Tuning, Variant};
use trtc_engine::EngineFile;
use trtc_runtime::{DeviceChoice, LoadOptions};

/// Measure which ways of making kernels are the fastest on a GPU
///
/// A product with many rows can be cut into tiles in many ways, and which one is the fastest depends on its shape and on the
/// chip. A build asks a model of the chip, unless a tuning says what was measured. For each product of MODEL and each range of
/// rows this builds engines with different ways (weights are made up), measures each kernel by itself at the most rows that it
/// serves, and writes the fastest to a file for `trtc build --tuning`, which goes before the tuning that is built into trtc.
///
/// Takes as many builds as there are candidates, one after another, in a file beside the result, which is written anew after each.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  trtc tune model.gguf --target sm_90 -o h100.tuning\n  \
    trtc tune config.json --target sm_90 --precision fp8 --candidates 12 -o h100.tuning\n  \
    trtc tune model.gguf --target sm_90 --kernel to512 -o h100.tuning\n  \
    trtc build model.gguf --target sm_90 --tuning h100.tuning -o model.engine")]
pub struct Args {
    /// Model, or a config.json alone; a bare file name is also looked up in TRTC_MODELS (~/.cache/trtc/models)
    model: PathBuf,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Only kernels whose names contain this, or one of several
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Most ways that are measured of each kernel, those first that the model of the chip takes to be the fastest
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=64))]
    candidates: u32,
    /// Measurements of each, about 10 ms; the median counts. With 40 and more a chip has slowed down to keep within its power, as it does
    /// under long work with many rows
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Where to measure: auto (what --target says), cuda:0, emulator
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = options::device)]
    device: DeviceChoice,
    #[command(flatten)]
    graph: GraphArgs,
}

/// What the ways of making a kernel take.
struct Kernel {
    /// Most rows that it serves.
    rows: u64,
    variants: Vec<Variant>,
    /// Seconds of each that was measured.
    seconds: Vec<f64>,
}

/// Measures, and writes the tuning.
pub fn run(args: &Args) -> Result<(), Failure> {
    if args.graph.tuning.is_some() {
        return Err(Failure::user("--tuning is given, and tuning makes one").help("leave it out"));
    }
    let model = crate::env::model_path(&args.model);
    let options = BuildOptions { dummy_seed: Some(1), ..args.graph.options()? };
    let found = trtc_compiler::variants(&model, &options, args.candidates as usize)?;
    let wanted = |name: &str| args.kernel.is_empty() || args.kernel.iter().any(|part| name.contains(part));
    let mut kernels: BTreeMap<String, Kernel> = found
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, (rows, variants))| (name, Kernel { rows, variants, seconds: Vec::new() }))
        .collect();
    if kernels.is_empty() {
        let target = &options.target;
        return Err(Failure::user(format!("no kernel of this model for {target} that was asked for can be made in several ways"))
            .help("give --target sm_90, whose products of many rows can, and --kernel with a part of a name of theirs"));
    }
    let rounds = kernels.values().map(|k| k.variants.len()).max().unwrap_or(0);
    let bar = Bar::new("ways", rounds as u64);
    let mut measured_on = String::new();
    for round in 0..rounds {
        measured_on = measure(args, &model, &options, &mut kernels, round)?;
        // What has been measured is kept if the rest is not waited for.
        write_whole(&args.output, &text(&measured_on, &kernels))?;
        bar.advance(1);
    }
    bar.finish();
    report(args, &measured_on, &kernels)
}

/// Builds an engine with the `round`-th way of every kernel that has so many, and times those; says on what.
fn measure(
    args: &Args,
    model: &std::path::Path,
    options: &BuildOptions,
    kernels: &mut BTreeMap<String, Kernel>,
    round: usize,
) -> Result<String, Failure> {
    let mut tuning = Tuning::default();
    for (name, kernel) in kernels.iter() {
        if let Some(&variant) = kernel.variants.get(round) {
            tuning.set(name, variant);
        }
    }
    let engine = Scratch::beside(&args.output);
    let options = BuildOptions { tuning: Some(tuning.clone()), ..options.clone() };
    trtc_compiler::build(model, &engine.0, &options, &mut |_| ())?;
    let file = EngineFile::open(&engine.0)?;
    let m = file.manifest();
    let (mut cases, mut names) = (Vec::new(), Vec::new());
    for (name, variant) in tuning.iter() {
        let full = format!("{name}.{variant}");
        let choices = m.launches.iter().flat_map(|l| l.choices.iter().map(move |c| (l, c)));
        let found = choices.map(|(l, c)| (l, c.kernel)).find(|(_, k)| m.kernels[*k as usize].name == full);
        let (launch, index) =
            found.ok_or_else(|| Failure::bug(format!("the engine has no kernel {full}")))?;
        let rows = kernels.get(name).map_or(1, |k| k.rows).min(u64::from(m.dims.max_step_tokens)) as u32;
        cases.push(case(m, launch, (index, &m.kernels[index as usize]), sizes(m, rows, 1, false))?);
        names.push(name.to_owned());
    }
    let load = LoadOptions { device: args.device, ..LoadOptions::default() };
    let times = times(&file, &load, cases, args.repeat)?;
    for (name, line) in names.iter().zip(&times.lines) {
        if let Some(kernel) = kernels.get_mut(name) {
            kernel.seconds.push(line.timing.seconds);
        }
    }
    Ok(format!("{}, {}", times.device, times.yardstick))
}

impl Kernel {
    /// The fastest way and its seconds.
    fn best(&self) -> Option<(Variant, f64)> {
        let all = self.variants.iter().copied().zip(self.seconds.iter().copied());
        all.min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// The tuning with what was measured, as text.
fn text(measured_on: &str, kernels: &BTreeMap<String, Kernel>) -> String {
    let mut text = format!(
        "# Written by `trtc tune`: kernel, fastest way, its microseconds (those of the way that the model of the chip proposes).\n# {measured_on}\n"
    );
    for (name, kernel) in kernels {
        if let (Some((variant, seconds)), Some(first)) = (kernel.best(), kernel.seconds.first()) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name} {variant} {:.2} ({:.2})", seconds * 1e6, first * 1e6);
        }
    }
    text
}

fn report(args: &Args, measured_on: &str, kernels: &BTreeMap<String, Kernel>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{measured_on}")?;
    let width = kernels.keys().map(String::len).max().unwrap_or(0).max(6);
    writeln!(out, "{:width$}    rows  proposed        us  fastest          us", "kernel")?;
    for (name, kernel) in kernels {
        let (Some((variant, seconds)), Some(first)) = (kernel.best(), kernel.seconds.first()) else {
            continue;
        };
        writeln!(
            out,
            "{name:width$}  {:6}  {:12} {:7.2}  {:12} {:7.2}",
            kernel.rows,
            kernel.variants[0].to_string(),
            first * 1e6,
            variant.to_string(),
            seconds * 1e6
        )?;
    }
    Ok(writeln!(out, "{}: {} kernels", args.output.display(), kernels.len())?)
}
