//! The table of model architectures: one file and one line each. Model names appear nowhere else.
//!
//! An architecture reads the facts of a checkpoint into a [`ModelConfig`]; the graph is built from that by
//! `blocks.rs`, whose switches are all that an architecture chooses from.

mod gemma3;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use crate::frontend::config::ModelConfig;
use crate::frontend::facts::Facts;
use trtc_ir::{Diag, Loc};

/// One architecture.
pub struct Arch {
    /// Name in manifests and in the IR.
    pub name: &'static str,
    /// Entries of `architectures` in `config.json`.
    pub classes: &'static [&'static str],
    /// Values of `model_type` in `config.json`, for files without `architectures`.
    pub model_types: &'static [&'static str],
    /// Values of `general.architecture` in GGUF files.
    pub gguf: &'static [&'static str],
    /// Reads the facts.
    pub config: fn(&Facts) -> Result<ModelConfig, Diag>,
}

/// The table.
pub const ARCHS: [Arch; 5] = [llama::ARCH, mistral::ARCH, qwen2::ARCH, qwen3::ARCH, gemma3::ARCH];

/// The architecture of a GGUF file.
pub fn of_gguf(name: &str, loc: &Loc) -> Result<&'static Arch, Diag> {
    ARCHS.iter().find(|a| a.gguf.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = ARCHS.iter().flat_map(|a| a.gguf).copied().collect();
        unknown(loc, "general.architecture", &[name], &known)
    })
}

/// The architecture of a `config.json`.
pub fn of_config(facts: &Facts) -> Result<&'static Arch, Diag> {
    let classes = facts.strings("architectures")?.unwrap_or_default();
    if !classes.is_empty() {
        return ARCHS.iter().find(|a| a.classes.iter().any(|c| classes.contains(c))).ok_or_else(|| {
            let known: Vec<&str> = ARCHS.iter().flat_map(|a| a.classes).copied().collect();
            unknown(&facts.loc, "architectures", &classes, &known)
        });
    }
    let Some(name) = facts.str("model_type")? else {
        return Err(Diag::user(
            &facts.loc,
            "names no model: both `architectures` and `model_type` are missing",
        )
        .help("pass the config.json of a model"));
    };
    ARCHS.iter().find(|a| a.model_types.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = ARCHS.iter().flat_map(|a| a.model_types).copied().collect();
        unknown(&facts.loc, "model_type", &[name], &known)
    })
}

fn unknown(loc: &Loc, key: &str, found: &[&str], known: &[&str]) -> Diag {
    Diag::unsupported(loc, format!("`{key}` is {}, which is not supported", found.join(", ")))
        .help(format!("supported: {}", known.join(", ")))
}

/// Windows by layer from `layer_types` (`full_attention`, `sliding_attention`), or `None` where the key is absent.
fn windows_by_type(
    facts: &Facts,
    layers: usize,
    window: Option<u32>,
) -> Result<Option<Vec<Option<u32>>>, Diag> {
    let Some(types) = facts.strings("layer_types")? else {
        return Ok(None);
    };
    if types.len() != layers {
        let what =
            format!("has {} entries, and `{}` is {layers}", types.len(), facts.spell("num_hidden_layers"));
        return Err(facts.wrong("layer_types", what));
    }
    let one = |ty: &&str| match *ty {
        "full_attention" => Ok(None),
        "sliding_attention" => match window {
            Some(w) => Ok(Some(w)),
            None => Err(facts.wrong("sliding_window", "is missing, but `layer_types` has sliding_attention")),
        },
        other => Err(facts.unsupported(
            "layer_types",
            format!("has {other:?}, not one of those supported: full_attention, sliding_attention"),
        )),
    };
    types.iter().map(one).collect::<Result<Vec<_>, _>>().map(Some)
}

/// `sliding_window`, where 0 is the same as none.
fn window(facts: &Facts) -> Result<Option<u32>, Diag> {
    Ok(facts.u32("sliding_window")?.filter(|&w| w > 0))
}

/// Windows of models that slide from layer `max_window_layers` on, if `use_sliding_window` is set.
fn late_windows(facts: &Facts, layers: usize) -> Result<Vec<Option<u32>>, Diag> {
    let window = window(facts)?.filter(|_| !facts.is_gguf());
    let on = facts.bool("use_sliding_window")?.unwrap_or(false);
    if let Some(by_type) = windows_by_type(facts, layers, window)? {
        return Ok(by_type);
    }
    // 28 is what the published configurations leave out.
    let first = facts.u32("max_window_layers")?.unwrap_or(28) as usize;
    Ok((0..layers).map(|l| window.filter(|_| on && l >= first)).collect())
}

/// Puts one window on each layer.
fn set_windows(config: &mut ModelConfig, windows: &[Option<u32>]) {
    for (layer, window) in config.layers.iter_mut().zip(windows) {
        layer.window = *window;
    }
}
