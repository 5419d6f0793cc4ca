//! Frontends: from a checkpoint on disk to the graph IR.
//!
//! [`open`] reads a Hugging Face folder, a GGUF file or a bare `config.json` into one form, [`Checkpoint`];
//! [`import`] builds the graph of it. Weights stay in memory-mapped files and are read by row when they are
//! packed. Nothing here depends on a target or a precision beyond the element types in [`ImportOptions`].

pub mod arch;
mod blocks;
mod builder;
mod check;
pub mod config;
pub mod facts;
pub mod gguf;
pub mod hf;
mod names;
mod rope;
pub mod safetensors;
pub mod weights;

pub use config::{Layer, ModelConfig, Naming};
pub use weights::{CheckpointWeights, TensorInfo};

use std::path::Path;
use trtc_ir::{DType, Diag, Loc, Module};

/// A model as it was published: its shape, its weights, its text handling.
pub struct Checkpoint {
    /// Shape of the model.
    pub config: ModelConfig,
    /// Its tensors; absent where only a configuration was given.
    pub weights: CheckpointWeights,
    /// Text handling, if the checkpoint has any.
    pub tokenizer: Option<TokenizerData>,
    /// Sampling defaults.
    pub generation: Generation,
    /// Name for people: that of the folder, or of the file without its extension.
    pub name: String,
    /// Where it was read from.
    pub loc: Loc,
}

/// Text handling of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerData {
    /// A `tokenizer.json`.
    pub json: String,
    /// True if prompts begin with the BOS token. Text is to be encoded without the tokenizer's own special tokens,
    /// and the token added according to this.
    pub add_bos: bool,
    /// Chat template (Jinja).
    pub chat_template: Option<String>,
    /// The BOS token's text.
    pub bos_token: Option<String>,
    /// The EOS token's text.
    pub eos_token: Option<String>,
}

/// Sampling defaults of a model; `None` where it states none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Generation {
    /// 0 takes the best token.
    pub temperature: Option<f32>,
    /// Most likely tokens kept; 0 keeps all.
    pub top_k: Option<u32>,
    /// Probability mass kept.
    pub top_p: Option<f32>,
    /// Least probability kept, relative to the best token's.
    pub min_p: Option<f32>,
    /// Divides or multiplies the logits of tokens seen.
    pub repetition_penalty: Option<f32>,
}

/// Element types and limits that the graph is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Type of what products read: activations before linears, rotated queries.
    pub act: DType,
    /// Type of the others: the residual stream, results of linears, rotated keys.
    pub residual: DType,
    /// Type of matrices; vectors are f32.
    pub weight: DType,
    /// Type of the KV cache.
    pub kv: DType,
    /// What attention rounds its queries to, times a power of two, and may round its weights to, if it does.
    pub attention: Option<DType>,
    /// Most tokens of a request.
    pub max_seq_len: u64,
    /// Most tokens of a step.
    pub max_step_tokens: u64,
    /// Most rows of logits of a step.
    pub max_logit_rows: u64,
}

/// Opens a checkpoint: a Hugging Face folder, a `.gguf` file, or a `config.json`, which has no weights.
pub fn open(path: &Path) -> Result<Checkpoint, Diag> {
    let loc = Loc::name(path.display().to_string());
    let kinds = "give a Hugging Face folder, a .gguf file, or a config.json";
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Diag::user(&loc, "does not exist").help(kinds));
        }
        Err(e) => return Err(Diag::user(&loc, format!("cannot be read: {e}")).help(kinds)),
    };
    if meta.is_dir() {
        return hf::open_folder(path);
    }
    match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("gguf") => gguf::open(path),
        Some("json") => hf::open_config(path),
        Some("safetensors") => Err(Diag::user(&loc, "is a file of weights without a configuration")
            .help("give the folder that it lies in, with its config.json")),
        _ if gguf::is_gguf(path) => gguf::open(path),
        _ => Err(Diag::user(&loc, "is not a checkpoint of a known kind").help(kinds)),
    }
}

/// Builds the graph of a checkpoint. Where it has weights, each must be used, present and of the right shape.
pub fn import(checkpoint: &Checkpoint, options: &ImportOptions) -> Result<Module, Diag> {
    let Checkpoint { config, weights, loc, .. } = checkpoint;
    if options.max_seq_len > u64::from(config.context) {
        let message = format!(
            "sequences of {} tokens are asked for, and the model was made for {}",
            options.max_seq_len, config.context
        );
        return Err(Diag::user(loc, message).help(format!("ask for at most {}", config.context)));
    }
    let module = blocks::build(config, options, "model");
    if weights.present() {
        let head = names::LM_HEAD.tensor(None, &config.naming);
        check::weights(&module, weights, loc, config.tied.then_some(head.as_str()))?;
    }
    Ok(module)
}

/// The name of a checkpoint for people: the last part of its path, without `extension`.
fn name_of(path: &Path, extension: &str) -> String {
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = full.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| "model".into());
    match name.len().checked_sub(extension.len()).and_then(|at| name.split_at_checked(at)) {
        Some((stem, end)) if !stem.is_empty() && end.eq_ignore_ascii_case(extension) => stem.to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests;
