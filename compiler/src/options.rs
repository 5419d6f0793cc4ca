//! What a build is asked for, resolved from names to rows of the tables. No environment, no files.

use crate::phase::Phase;
use crate::plan::Plan;
use std::path::PathBuf;
use trtc_codegen::ptxas::Ptxas;
use trtc_codegen::tuning::Tuning;
use trtc_ir::{DType, Diag, Loc, Target, target::TARGETS};
use trtc_passes::Precision;
use trtc_passes::kv_layout::{KV_PRECISIONS, kv_precision};

/// What `--attention-precision` takes, with what attention's queries and weights are rounded to.
const ATTENTION_PRECISIONS: [(&str, Option<DType>); 2] = [("bf16", None), ("fp8", Some(DType::F8E4M3))];

/// Options of a build, as the command line has them.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildOptions {
    /// Name of a target.
    pub target: String,
    /// Name of a precision.
    pub precision: String,
    /// Element type of the KV cache; `None` takes the precision's.
    pub kv_precision: Option<String>,
    /// What attention multiplies: `bf16`, queries and weights as they are, or `fp8`, queries rounded to e4m3 times a power of two, and
    /// over an e4m3 cache weights too where that is faster. `None` takes the former.
    pub attention_precision: Option<String>,
    /// Write no weights; the runtime makes them up from this seed.
    pub dummy_seed: Option<u64>,
    /// Most requests in a step.
    pub max_batch: Option<u32>,
    /// Most tokens of a request.
    pub max_seq_len: Option<u32>,
    /// Most tokens of a step.
    pub max_step_tokens: Option<u32>,
    /// Kernels that give the same bits for a token whatever else is in a step.
    pub deterministic: bool,
    /// Text of a recipe that overrides the precision of some weights.
    pub recipe: Option<String>,
    /// Which linears the precision leaves as they are.
    pub plan: Option<Plan>,
    /// Which ways of making kernels were measured to be fast, over what is built in.
    pub tuning: Option<Tuning>,
    /// Also put the result of this assembler for each kernel into an engine for a GPU.
    pub cubin: Option<Ptxas>,
    /// Folder for the module after each pass, diffs, kernels and timings.
    pub dump_dir: Option<PathBuf>,
    /// Stop after this phase and write the module as text instead of an engine.
    pub compile_to: Option<Phase>,
    /// Passes of [`pipeline::optional`](crate::pipeline::optional) to leave out.
    pub skip_passes: Vec<String>,
    /// Print, parse and compare after each pass.
    pub spec: bool,
}

impl Default for BuildOptions {
    fn default() -> BuildOptions {
        BuildOptions {
            target: "host".to_owned(),
            precision: "bf16".to_owned(),
            kv_precision: None,
            attention_precision: None,
            dummy_seed: None,
            max_batch: None,
            max_seq_len: None,
            max_step_tokens: None,
            deterministic: false,
            recipe: None,
            plan: None,
            tuning: None,
            cubin: None,
            dump_dir: None,
            compile_to: None,
            skip_passes: Vec::new(),
            spec: false,
        }
    }
}

/// Options with every name resolved.
pub(crate) struct Resolved {
    pub target: &'static Target,
    pub precision: &'static Precision,
    pub kv: DType,
    pub attention: Option<DType>,
    pub limits: trtc_passes::Limits,
}

impl BuildOptions {
    /// Looks names up and fills in defaults; `context` is the longest sequence that the model was made for.
    pub(crate) fn resolve(&self, context: u32) -> Result<Resolved, Diag> {
        let unknown = |what: &str, name: &str, known: Vec<&str>| {
            Diag::user(&Loc::Unknown, format!("there is no {what} '{name}'"))
                .help(format!("the {what}s are {}", known.join(", ")))
        };
        let target = Target::named(&self.target)
            .ok_or_else(|| unknown("target", &self.target, TARGETS.iter().map(|t| t.name).collect()))?;
        let precision = Precision::named(&self.precision)
            .ok_or_else(|| unknown("precision", &self.precision, Precision::names().split(", ").collect()))?;
        let kv = match self.kv_precision.as_deref() {
            None if target.gpu.is_none() => precision.host_kv,
            None => precision.kv,
            Some(name) => kv_precision(name).ok_or_else(|| {
                unknown("KV precision", name, KV_PRECISIONS.iter().map(|(name, _)| *name).collect())
            })?,
        };
        let known =
            |name: &str| ATTENTION_PRECISIONS.iter().find(|(n, _)| *n == name).map(|(_, dtype)| *dtype);
        let attention = match self.attention_precision.as_deref() {
            None => None,
            Some(name) => known(name).ok_or_else(|| {
                unknown("attention precision", name, ATTENTION_PRECISIONS.map(|(name, _)| name).to_vec())
            })?,
        };
        let on_host = target.gpu.is_none();
        if on_host && self.cubin.is_some() {
            return Err(Diag::user(&Loc::Unknown, "--cubin is for a GPU target, and the target is host")
                .help("give --target sm_90 or another GPU, or leave --cubin out"));
        }
        if on_host && self.tuning.is_some() {
            return Err(Diag::user(&Loc::Unknown, "--tuning is for a GPU target, and the target is host")
                .help("give --target sm_90 or another GPU, or leave --tuning out"));
        }
        let positive = |name: &str, value: Option<u32>, default: u32, most: u32| {
            let value = value.unwrap_or(default);
            if (1..=most).contains(&value) {
                Ok(u64::from(value))
            } else {
                Err(Diag::user(&Loc::Unknown, format!("--{name} is {value}"))
                    .help(format!("give a number from 1 to {most}")))
            }
        };
        let max_batch = positive("max-batch", self.max_batch, if on_host { 16 } else { 256 }, 4096)?;
        let max_seq_len = positive("max-seq-len", self.max_seq_len, context.min(8192), context.max(1))?;
        let default_step = if on_host { 512 } else { 2048 };
        let max_step_tokens = positive("max-step-tokens", self.max_step_tokens, default_step, 65_536)?;
        if max_step_tokens < max_batch {
            return Err(Diag::user(
                &Loc::Unknown,
                format!("--max-step-tokens {max_step_tokens} is below --max-batch {max_batch}"),
            )
            .help("each request of a batch takes at least one token of a step"));
        }
        // Logits of a whole batch, and enough rows to make log-probabilities of prompts worth a step.
        let max_logit_rows = max_batch.max(64).min(max_step_tokens);
        let limits = trtc_passes::Limits { max_batch, max_seq_len, max_step_tokens, max_logit_rows };
        Ok(Resolved { target, precision, kv, attention, limits })
    }

    /// The options that shaped an engine, in their command-line form, for its provenance.
    pub(crate) fn provenance(&self) -> Vec<String> {
        let mut out = vec![format!("--target {}", self.target), format!("--precision {}", self.precision)];
        let mut add = |flag: &str, value: Option<String>| {
            out.extend(value.map(|v| format!("{flag} {v}").trim_end().to_owned()))
        };
        add("--kv-precision", self.kv_precision.clone());
        add("--attention-precision", self.attention_precision.clone());
        add("--weights", self.dummy_seed.map(|s| format!("dummy:{s}")));
        add("--max-batch", self.max_batch.map(|n| n.to_string()));
        add("--max-seq-len", self.max_seq_len.map(|n| n.to_string()));
        add("--max-step-tokens", self.max_step_tokens.map(|n| n.to_string()));
        add("--deterministic", self.deterministic.then(String::new));
        add("--tuning", self.tuning.as_ref().map(|t| format!("({} kernels)", t.iter().count())));
        add("--cubin", self.cubin.as_ref().map(|_| String::new()));
        add("--recipe", self.recipe.as_ref().map(|r| format!("{:?}", r.trim())));
        add("--plan", self.plan.as_ref().map(|p| format!("{:?}", p.kept().collect::<Vec<_>>().join(" "))));
        out
    }
}
