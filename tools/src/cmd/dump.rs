//! `trtc dump`: the graph of a model after a phase, as text.

use crate::graph::{self, Form, GraphArgs};
use crate::render::Failure;
use std::io::Write;
use std::path::PathBuf;
use trtc_compiler::Phase;
use trtc_ir::view::View;

/// Print a model's graph after a phase
///
/// Reads the model's configuration; its weights are not needed.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  trtc dump model.gguf --phase import\n  \
                        trtc dump config.json --phase fuse --precision int8 | less\n  \
                        trtc dump model.gguf --phase fuse --generic | mlir-opt-22 --allow-unregistered-dialect\n  \
                        trtc dump model.gguf --phase fuse --dot | dot -Tsvg > graph.svg")]
pub struct Args {
    /// Model; a bare file name is also looked up in TRTC_MODELS (~/.cache/trtc/models)
    model: PathBuf,
    /// Phase after which the graph is printed
    #[arg(long, value_name = "PHASE", value_parser = graph::phase())]
    phase: String,
    #[command(flatten)]
    graph: GraphArgs,
    #[command(flatten)]
    form: Form,
    /// Print a graph for Graphviz
    #[arg(long, conflicts_with_all = ["generic", "locs"])]
    dot: bool,
}

/// Prints it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let phase = Phase::named(&args.phase).ok_or_else(|| Failure::bug(format!("no phase {}", args.phase)))?;
    let model = crate::env::model_path(&args.model);
    let module = trtc_compiler::module_after(&model, phase, &args.graph.options()?)?;
    let text = if args.dot { View::new(&module.func).dot(&module.func) } else { args.form.print(&module) };
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}
