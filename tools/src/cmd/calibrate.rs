//! `trtc calibrate`: finds which linears a precision must leave alone to cost no more than is allowed.

use crate::calibration::{self, LEAST, Shift, Split, choose, tighter};
use crate::graph::GraphArgs;
use crate::options::{self, percent};
use crate::progress::Bar;
use crate::render::Failure;
use crate::scratch::{Scratch, write_whole};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use trtc_compiler::plan::{Measured, Product, VERSION};
use trtc_compiler::{BuildOptions, Plan};
use trtc_runtime::{DeviceChoice, Engine, LoadOptions};

/// Find the linears that a precision must leave unquantised
///
/// Builds an engine that quantises no linear, then one for each product (linears that fuse count as one) that quantises it
/// alone, and compares the log-probabilities that they give to a text. Products that cost most for their size are kept
/// until the perplexity of a part of the text that was held out grows by no more than --loss, its standard error included.
/// What was found is the plan, for `trtc build --plan`. Takes as many builds as the model has products, one after another,
/// in a file beside the plan; if quantising everything is within the bound, two.
///
/// The text should be of the kind that the model is for. About a thousand tokens of it rank products; the others verify, and the more
/// there are, the smaller the standard error.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  trtc calibrate model.gguf --precision fp8 --text book.txt -o plan.json\n  \
    trtc calibrate model.gguf --precision fp8 --text book.txt --loss 0.3% --max-tokens 30000 -o plan.json\n  \
    trtc build model.gguf --precision fp8 --plan plan.json -o model.engine"
)]
pub struct Args {
    /// Model; a bare file name is also looked up in TRTC_MODELS (~/.cache/trtc/models)
    model: PathBuf,
    /// Plan to write
    #[arg(short, long, value_name = "PLAN")]
    output: PathBuf,
    /// Text file, UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Most that the perplexity may grow by
    #[arg(long, value_name = "PERCENT", default_value = "0.5%", value_parser = percent)]
    loss: f64,
    /// Read no more than the first N tokens of the text
    #[arg(long, value_name = "N", default_value = "8192", value_parser = clap::value_parser!(u32).range(2..))]
    max_tokens: u32,
    /// Where to measure: auto (what --target says), host, cuda:0, emulator
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = options::device)]
    device: DeviceChoice,
    /// Threads of the host device and the emulator; all cores if left out
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    graph: GraphArgs,
}

/// Widest window of the text, in tokens: what a token is scored with. Longer ones take longer and rank alike.
const WINDOW: u32 = 512;

/// Measures, chooses and writes the plan.
pub fn run(args: &Args) -> Result<(), Failure> {
    if args.graph.plan.is_some() {
        return Err(Failure::user("--plan is given, and calibration makes one").help("leave it out"));
    }
    let model = crate::env::model_path(&args.model);
    let text = std::fs::read_to_string(&args.text).map_err(|e| Failure::file("read", &args.text, &e))?;
    let config = trtc_compiler::frontend::open(&model)?.config;
    let longest = args.graph.max_seq_len.unwrap_or(config.context).min(WINDOW);
    let options = BuildOptions { max_seq_len: Some(longest), ..args.graph.options()? };
    let products = trtc_compiler::plan::products(&model, &options)?;
    let mut bench = Bench::open(args, &model, &text, options, config.arch, products)?;
    let plan = bench.search(args.loss)?;
    write_whole(&args.output, &plan.print()?)?;
    report(&args.output, &plan)
}

/// Products that are shown by name.
const SHOWN: usize = 5;

fn report(path: &Path, plan: &Plan) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let sum = |keep: fn(&Product) -> bool| {
        plan.products.iter().filter(|p| keep(p)).map(Product::elements).sum::<u64>()
    };
    let (kept, all) = (sum(|p| p.keep), sum(|_| true));
    writeln!(
        out,
        "{}: {} of {} products stay unquantised, {:.1} % of their weights",
        path.display(),
        plan.products.iter().filter(|p| p.keep).count(),
        plan.products.len(),
        100.0 * kept as f64 / all.max(1) as f64
    )?;
    let m = &plan.measured;
    writeln!(
        out,
        "perplexity {:+.2} % with everything quantised, {:+.2} % (standard error {:.2}) with the plan, over {} tokens; at most {} % was asked for",
        100.0 * m.loss_of_all,
        100.0 * m.loss,
        100.0 * m.error,
        m.held_out,
        100.0 * m.bound
    )?;
    let mut worst: Vec<&Product> = plan.products.iter().filter(|p| p.divergence.is_some()).collect();
    worst.sort_by(|a, b| b.divergence.unwrap_or(0.0).total_cmp(&a.divergence.unwrap_or(0.0)));
    for product in worst.iter().take(SHOWN) {
        let (nats, keep) =
            (product.divergence.unwrap_or(0.0), if product.keep { "stays" } else { "is quantised" });
        writeln!(out, "{:>9.6} nats a token: {} {keep}", nats, product.title())?;
    }
    Ok(())
}

/// Engines of one model with different products kept, and the text that they are measured on.
struct Bench<'a> {
    args: &'a Args,
    model: &'a Path,
    options: BuildOptions,
    products: Vec<Product>,
    arch: String,
    /// The file that every engine is built into.
    engine: Scratch,
    tokens: Vec<u32>,
    bos: Option<u32>,
    split: Split,
    /// Log-probabilities of the windows with nothing quantised: of those for products, and of those held out.
    unquantised: [Vec<f32>; 2],
}

impl<'a> Bench<'a> {
    /// Builds and measures the engine that quantises nothing.
    fn open(
        args: &'a Args,
        model: &'a Path,
        text: &str,
        options: BuildOptions,
        arch: &str,
        products: Vec<Product>,
    ) -> Result<Bench<'a>, Failure> {
        let mut bench = Bench {
            args,
            model,
            options,
            products,
            arch: arch.to_owned(),
            engine: Scratch::beside(&args.output),
            tokens: Vec::new(),
            bos: None,
            split: Split { probe: Vec::new(), held_out: Vec::new() },
            unquantised: [Vec::new(), Vec::new()],
        };
        let bar = Bar::new("unquantised", 1);
        let mut engine = bench.build(&vec![true; bench.products.len()])?;
        let manifest = engine.manifest();
        let most = manifest.dims.max_seq_len.min(WINDOW) as usize;
        bench.bos = manifest.model.bos.filter(|_| manifest.text.as_ref().is_some_and(|t| t.add_bos));
        bench.tokens = engine.encode(text)?;
        // Each window brings its own BOS.
        if bench.bos.is_some() && bench.tokens.first() == bench.bos.as_ref() {
            bench.tokens.remove(0);
        }
        bench.tokens.truncate(args.max_tokens as usize);
        let widest = most.saturating_sub(usize::from(bench.bos.is_some()));
        bench.split = calibration::split(bench.tokens.len(), widest).ok_or_else(|| {
            let found = format!("'{}' has {} tokens to measure on", args.text.display(), bench.tokens.len());
            Failure::user(found)
                .help(format!("calibration needs at least {LEAST}, and some thousands to be of use"))
        })?;
        bench.unquantised =
            [bench.score(&mut engine, &bench.split.probe)?, bench.score(&mut engine, &bench.split.held_out)?];
        bar.finish();
        Ok(bench)
    }

    /// The engine with these products kept and all others quantised.
    fn build(&self, keep: &[bool]) -> Result<Engine, Failure> {
        let products =
            self.products.iter().zip(keep).map(|(p, &keep)| Product { keep, ..p.clone() }).collect();
        let options =
            BuildOptions { plan: Some(self.plan(products, Measured::NONE)), ..self.options.clone() };
        trtc_compiler::build(self.model, &self.engine.0, &options, &mut |_| ())?;
        let load = LoadOptions {
            device: self.args.device,
            threads: self.args.threads,
            prefix_cache: false,
            ..LoadOptions::default()
        };
        Ok(Engine::load(&self.engine.0, load)?)
    }

    fn plan(&self, products: Vec<Product>, measured: Measured) -> Plan {
        let (arch, precision) = (self.arch.clone(), self.options.precision.clone());
        Plan { version: VERSION, arch, precision, measured, products }
    }

    /// Log-probabilities of the windows' tokens but each one's first.
    fn score(&self, engine: &mut Engine, windows: &[Range<usize>]) -> Result<Vec<f32>, Failure> {
        let prompt = |w: &Range<usize>| self.bos.iter().chain(&self.tokens[w.clone()]).copied().collect();
        let answers = engine.answers(windows.iter().map(|w| super::eval::forced(prompt(w))))?;
        let skip = usize::from(self.bos.is_some());
        Ok(answers.iter().flat_map(|a| a.prompt_logprobs.iter().skip(skip).map(|t| t.logprob)).collect())
    }

    /// What quantising the products that are not kept does to the windows for products, or to those held out.
    fn shift(&self, keep: &[bool], held_out: bool) -> Result<Shift, Failure> {
        let mut engine = self.build(keep)?;
        let windows = if held_out { &self.split.held_out } else { &self.split.probe };
        let got = self.score(&mut engine, windows)?;
        let want = &self.unquantised[usize::from(held_out)];
        if got.len() != want.len() {
            return Err(Failure::bug(format!("{} log-probabilities, and {} before", got.len(), want.len())));
        }
        Ok(Shift::between(want, &got))
    }

    /// Measures every product by itself.
    fn probe(&mut self) -> Result<(), Failure> {
        let bar = Bar::new("products", self.products.len() as u64);
        for i in 0..self.products.len() {
            let keep: Vec<bool> = (0..self.products.len()).map(|other| other != i).collect();
            self.products[i].divergence = Some(self.shift(&keep, false)?.divergence());
            bar.advance(1);
        }
        bar.finish();
        Ok(())
    }

    /// The plan whose loss is within `bound`.
    fn search(&mut self, bound: f64) -> Result<Plan, Failure> {
        let none = vec![false; self.products.len()];
        let bar = Bar::new("quantised", 1);
        let all = self.shift(&none, true)?;
        bar.finish();
        let (mut keep, mut found) = (none, all);
        if !all.within(bound) {
            self.probe()?;
            let measured: Vec<(f64, u64)> =
                self.products.iter().map(|p| (p.divergence.unwrap_or(0.0), p.elements())).collect();
            let sum: f64 = measured.iter().map(|p| p.0).sum();
            // What all products together lost says how much perplexity a nat of divergence is.
            let mut allowed = tighter(sum, &all, bound);
            let bar = Bar::new("verifying", 1);
            while !found.within(bound) && !keep.iter().all(|k| *k) {
                let next = choose(&measured, allowed);
                if next != keep {
                    keep = next;
                    found = self.shift(&keep, true)?;
                }
                allowed = if allowed < sum * 1e-3 { -1.0 } else { tighter(allowed, &found, bound) };
            }
            bar.finish();
        }
        for (product, keep) in self.products.iter_mut().zip(keep) {
            product.keep = keep;
        }
        let measured = Measured {
            tokens: if all.within(bound) { 0 } else { self.unquantised[0].len() as u64 },
            held_out: found.tokens,
            bound,
            loss_of_all: all.loss(),
            loss: found.loss(),
            error: found.error(),
        };
        Ok(self.plan(self.products.clone(), measured))
    }
}
