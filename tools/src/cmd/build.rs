//! `trtc build`: from a checkpoint to an engine file.

use crate::facts::{grouped, human};
use crate::graph::{self, GraphArgs};
use crate::progress::Bar;
use crate::render::Failure;
use std::io::Write;
use std::path::PathBuf;
use trtc_compiler::{BuildOptions, Phase, Progress};

/// Build an engine file from a model
///
/// MODEL is a Hugging Face folder, a .gguf file, or a config.json (with --weights dummy:SEED). No GPU is needed to
/// build for one. Nothing appears at the output unless the build succeeds; the same input gives the same bytes.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  trtc build model.gguf -o model.engine\n  \
    trtc build ./Llama-3.2-1B -o llama.engine --target host --precision int8 --max-batch 8\n  \
    trtc build model.gguf -o h100.engine --target sm_90 --dump-dir dump\n  \
    trtc build model.gguf -o fused.mlir --compile-to fuse\n  \
    trtc build model.gguf -o h100.engine --target sm_90 --cubin\n  \
    trtc build config.json -o shape.engine --weights dummy:1")]
pub struct Args {
    /// Model; a bare file name is also looked up in TRTC_MODELS (~/.cache/trtc/models)
    model: PathBuf,
    /// Engine file to write
    #[arg(short, long, value_name = "ENGINE")]
    output: PathBuf,
    #[command(flatten)]
    graph: GraphArgs,
    /// Write no weights: the runtime makes them up from the seed
    #[arg(long, value_name = "dummy:SEED", value_parser = dummy)]
    weights: Option<u64>,
    /// Also store each kernel's binary, made by ptxas: a GPU of exactly this target then loads the engine without its
    /// driver compiling anything. Any other takes the PTX, which is stored in any case
    #[arg(long)]
    cubin: bool,
    /// Folder for the module after each pass, diffs, generated kernels, timings and commands
    #[arg(long, value_name = "FOLDER")]
    dump_dir: Option<PathBuf>,
    /// Stop after this phase and write the module as text
    #[arg(long, value_name = "PHASE", value_parser = graph::phase())]
    compile_to: Option<String>,
    /// Leave a pass out, to find which one is at fault; may be repeated
    #[arg(long, value_name = "PASS", value_parser = clap::builder::PossibleValuesParser::new(trtc_compiler::pipeline::optional()))]
    skip_pass: Vec<String>,
}

/// `dummy:42`.
fn dummy(text: &str) -> Result<u64, String> {
    text.strip_prefix("dummy:")
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| "dummy and a seed, such as dummy:1".to_owned())
}

/// Builds.
pub fn run(args: &Args) -> Result<(), Failure> {
    let options = BuildOptions {
        dummy_seed: args.weights,
        cubin: if args.cubin { Some(crate::env::ptxas()?) } else { None },
        dump_dir: args.dump_dir.clone(),
        compile_to: args.compile_to.as_deref().and_then(Phase::named),
        skip_passes: args.skip_pass.clone(),
        ..args.graph.options()?
    };
    let model = crate::env::model_path(&args.model);
    let mut shown = Shown { phase: None, bar: None };
    let report = trtc_compiler::build(&model, &args.output, &options, &mut |p| shown.at(p))?;
    drop(shown);
    let mut out = std::io::stdout().lock();
    let seconds: f64 = report.timings.iter().map(|(_, s)| s).sum();
    write!(
        out,
        "{}: {}, {} parameters",
        args.output.display(),
        human(report.bytes),
        grouped(report.parameters)
    )?;
    if report.phase == Phase::Pack {
        write!(out, ", {} launches to decode, {} of activations", report.launches, human(report.arena))?;
    } else {
        write!(out, ", the module after {}", report.phase.name())?;
    }
    writeln!(out, ", {seconds:.1} s")?;
    Ok(())
}

/// The bar on the terminal: one a phase, in bytes where the phase writes some.
struct Shown {
    phase: Option<Phase>,
    bar: Option<Bar>,
}

impl Shown {
    fn at(&mut self, p: Progress) {
        if self.phase != Some(p.phase) {
            self.close();
            self.phase = Some(p.phase);
            self.bar = Some(Bar::bytes(p.phase.name(), p.total));
        }
        if let Some(bar) = &self.bar {
            bar.set(p.done, p.total);
        }
    }

    fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dummy_seeds() {
        assert_eq!(dummy("dummy:42"), Ok(42));
        assert!(dummy("dummy").is_err());
        assert!(dummy("dummy:-1").is_err());
    }
}
