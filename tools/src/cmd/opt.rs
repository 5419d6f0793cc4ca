//! `trtc opt`: passes over a module in text form.

use crate::graph::{self, Form};
use crate::render::Failure;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use trtc_compiler::pipeline;
use trtc_ir::{Target, text};
use trtc_passes::kv_layout::{KV_PRECISIONS, kv_precision};
use trtc_passes::{KvOptions, Options, Pass, PassCx, Precision, Recipe, run_passes};

/// Run passes over a module in text form
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  trtc opt module.mlir --pass canonicalize,fuse-qkv\n  \
                        trtc dump model.gguf --phase import | trtc opt - --pass quantize --precision int4\n  \
                        trtc opt --list")]
pub struct Args {
    /// File to read; - is stdin
    #[arg(required_unless_present = "list")]
    file: Option<PathBuf>,
    /// Passes, in order
    #[arg(long, value_name = "PASS", value_delimiter = ',')]
    pass: Vec<String>,
    /// Chip to build for
    #[arg(long, default_value = "host", value_parser = graph::target())]
    target: String,
    /// How weights and activations are stored, for passes that need to know
    #[arg(long, value_parser = graph::precision())]
    precision: Option<String>,
    /// How the KV cache is stored
    #[arg(long, value_name = "PRECISION", value_parser = KV_PRECISIONS.map(|(name, _)| name))]
    kv_precision: Option<String>,
    /// File that overrides the precision of single weights
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Stop after this many passes that changed something: finds the one that went wrong
    #[arg(long, value_name = "N")]
    fuel: Option<usize>,
    #[command(flatten)]
    form: Form,
    /// List the passes
    #[arg(long, conflicts_with_all = ["file", "pass"])]
    list: bool,
}

/// Reads, runs, prints.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if args.list {
        for pass in pipeline::all() {
            writeln!(out, "{:<16} {}", pass.name, pass.summary)?;
        }
        return Ok(());
    }
    let passes: Vec<&Pass> = args.pass.iter().map(|name| find(name)).collect::<Result<_, _>>()?;
    let target =
        Target::named(&args.target).ok_or_else(|| Failure::bug(format!("no target {}", args.target)))?;
    let recipe = match graph::recipe(args.recipe.as_deref())? {
        Some(text) => Recipe::parse("--recipe", &text)?,
        None => Recipe::default(),
    };
    let dtype = args.kv_precision.as_deref().and_then(kv_precision);
    let cx = PassCx {
        precision: args.precision.as_deref().and_then(Precision::named),
        kv: KvOptions { dtype, ..KvOptions::default() },
        recipe: &recipe,
        ..PassCx::new(target)
    };
    let (name, source) = read(args.file.as_deref().unwrap_or(Path::new("-")))?;
    let mut module = text::parse(&source, &name)?;
    let options = Options { spec: crate::env::spec(), fuel: args.fuel, ..Options::default() };
    run_passes(&mut module, &passes, &cx, options)?;
    Ok(out.write_all(args.form.print(&module).as_bytes())?)
}

fn find(name: &str) -> Result<&'static Pass, Failure> {
    pipeline::find(name).ok_or_else(|| {
        let names: Vec<&str> = pipeline::all().map(|p| p.name).collect();
        Failure::user(format!("there is no pass '{name}'"))
            .help(format!("the passes are {}", names.join(", ")))
    })
}

/// Name and text of the input.
fn read(path: &Path) -> Result<(String, String), Failure> {
    let name = path.display().to_string();
    let mut text = String::new();
    let read = match name.as_str() {
        "-" => std::io::stdin().lock().read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|mut f| f.read_to_string(&mut text)),
    };
    read.map_err(|e| Failure::file("read", path, &e))?;
    Ok((if name == "-" { "stdin".to_owned() } else { name }, text))
}
