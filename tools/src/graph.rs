//! Options that shape the graph, shared by the commands that compile.

use crate::render::Failure;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use std::path::{Path, PathBuf};
use trtc_compiler::{BuildOptions, Phase, Plan, Tuning};
use trtc_ir::Module;
use trtc_ir::target::TARGETS;
use trtc_ir::text::{PrintOptions, print, print_generic};
use trtc_passes::precision::PRECISIONS;

/// What an engine is to be.
#[derive(Args, Debug)]
pub struct GraphArgs {
    /// Chip to build for
    #[arg(long, default_value = "host", value_parser = target())]
    pub target: String,
    /// How weights and activations are stored
    #[arg(long, default_value = "bf16", value_parser = precision())]
    pub precision: String,
    /// How the KV cache is stored: fp32, bf16, fp8; as the precision says if left out
    #[arg(long, value_name = "PRECISION")]
    pub kv_precision: Option<String>,
    /// What attention multiplies: bf16, queries and weights as they are, if left out; or fp8, queries rounded to e4m3 times a power of
    /// two. Over a cache of fp8 an H100 and the host round weights too: long prompts take an H100 less time, since it multiplies keys
    /// and values as they lie in the cache. It costs accuracy, 0.6 % of SmolLM2's perplexity
    #[arg(long, value_name = "PRECISION")]
    pub attention_precision: Option<String>,
    /// Most requests in a step. Where these are more than 128, a GPU of sm_90 has kernels for just as many: give what will run at once
    /// and no more
    #[arg(long, value_name = "N")]
    pub max_batch: Option<u32>,
    /// Most tokens of a request, prompt and answer together
    #[arg(long, value_name = "N")]
    pub max_seq_len: Option<u32>,
    /// Most tokens of a step
    #[arg(long, value_name = "N")]
    pub max_step_tokens: Option<u32>,
    /// Give each request the same answer, to the bit, whatever else is served with it
    #[arg(long)]
    pub deterministic: bool,
    /// File that overrides the precision of single weights
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// File of `trtc calibrate`: linears that the precision leaves unquantised, so that it costs no more than was asked for
    #[arg(long, value_name = "PLAN")]
    pub plan: Option<PathBuf>,
    /// File of `trtc tune`: which ways of making kernels are fast on a GPU
    #[arg(long, value_name = "FILE")]
    pub tuning: Option<PathBuf>,
}

impl GraphArgs {
    /// As the compiler takes them.
    pub fn options(&self) -> Result<BuildOptions, Failure> {
        Ok(BuildOptions {
            target: self.target.clone(),
            precision: self.precision.clone(),
            kv_precision: self.kv_precision.clone(),
            attention_precision: self.attention_precision.clone(),
            max_batch: self.max_batch,
            max_seq_len: self.max_seq_len,
            max_step_tokens: self.max_step_tokens,
            deterministic: self.deterministic,
            recipe: recipe(self.recipe.as_deref())?,
            plan: plan(self.plan.as_deref())?,
            tuning: tuning(self.tuning.as_deref())?,
            spec: crate::env::spec(),
            ..BuildOptions::default()
        })
    }
}

/// How a module is printed.
#[derive(Args, Debug)]
pub struct Form {
    /// Print where in the model each op comes from
    #[arg(long)]
    locs: bool,
    /// Print the form that mlir-opt --allow-unregistered-dialect reads
    #[arg(long, conflicts_with = "locs")]
    generic: bool,
}

impl Form {
    /// The module as text.
    pub fn print(&self, module: &Module) -> String {
        if self.generic { print_generic(module) } else { print(module, PrintOptions { locs: self.locs }) }
    }
}

/// The text of a recipe file.
pub fn recipe(path: Option<&Path>) -> Result<Option<String>, Failure> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e));
    path.map(read).transpose()
}

/// What a plan file says.
pub fn plan(path: Option<&Path>) -> Result<Option<Plan>, Failure> {
    let read = |path: &Path| -> Result<Plan, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?;
        Ok(Plan::parse(&path.display().to_string(), &text)?)
    };
    path.map(read).transpose()
}

/// What a tuning file says.
fn tuning(path: Option<&Path>) -> Result<Option<Tuning>, Failure> {
    let read = |path: &Path| -> Result<Tuning, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?;
        Ok(Tuning::parse(&path.display().to_string(), &text)?)
    };
    path.map(read).transpose()
}

/// Names of targets, with what they are.
pub fn target() -> PossibleValuesParser {
    TARGETS.iter().map(|t| PossibleValue::new(t.name).help(t.title)).collect::<Vec<_>>().into()
}

/// Names of precisions, with what they are.
pub fn precision() -> PossibleValuesParser {
    PRECISIONS.iter().map(|p| PossibleValue::new(p.name).help(p.title)).collect::<Vec<_>>().into()
}

/// Names of phases, with what they do.
pub fn phase() -> PossibleValuesParser {
    Phase::all().map(|p| PossibleValue::new(p.name()).help(p.summary())).collect::<Vec<_>>().into()
}
