//! Gemma 3, the language model: norms before and after each half-layer and on each head, scaled embeddings, and
//! five layers with a window for each one without.

use super::{Arch, set_windows, window, windows_by_type};
use crate::frontend::config::ModelConfig;
use crate::frontend::facts::Facts;
use crate::frontend::rope;
use serde_json::{Value, json};
use trtc_ir::{Diag, RopeScaling};

pub const ARCH: Arch = Arch {
    name: "gemma3",
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    model_types: &["gemma3_text", "gemma3"],
    gguf: &["gemma3"],
    config,
};

/// What published configurations leave out.
fn defaults() -> [(&'static str, Value); 11] {
    [
        ("vocab_size", json!(262_208)),
        ("num_attention_heads", json!(8)),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(256)),
        ("max_position_embeddings", json!(131_072)),
        ("rms_norm_eps", json!(1e-6)),
        ("query_pre_attn_scalar", json!(256)),
        ("sliding_window", json!(4096)),
        ("bos_token_id", json!(2)),
        ("eos_token_id", json!(1)),
        ("tie_word_embeddings", json!(true)),
    ]
}

/// Layers with a window for each one without, plus one.
const PATTERN: u32 = 6;
/// The base of layers with a window.
const LOCAL_THETA: f64 = 10_000.0;
/// The base of layers without.
const GLOBAL_THETA: f64 = 1_000_000.0;
/// Layers of the 27B model, the one whose scores are scaled by its heads' share of the width.
const LAYERS_27B: usize = 62;

fn config(facts: &Facts) -> Result<ModelConfig, Diag> {
    let mut facts = facts.clone();
    if !facts.is_gguf() {
        for (key, value) in defaults() {
            if facts.get(key).is_none() {
                facts.map.insert(key.into(), value);
            }
        }
    }
    let facts = &facts;
    if facts.bool("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(
            facts.unsupported("use_bidirectional_attention", "is true: only causal models are supported")
        );
    }
    let mut c =
        ModelConfig::common(ARCH.name, facts, |dim| rope::read(facts, dim, "full_attention", GLOBAL_THETA))?;
    c.act = ModelConfig::activation(facts, "hidden_activation", "gelu_pytorch_tanh")?;
    let bias = facts.bool("attention_bias")?.unwrap_or(false);
    (c.qkv_bias, c.o_bias) = (bias, bias);
    (c.qk_norm, c.post_norms) = (true, true);
    // Checkpoints store `w - 1`; converters to GGUF add the 1.
    c.norm_offset = if facts.is_gguf() { 0.0 } else { 1.0 };
    c.embed_scale = f64::from(c.hidden).sqrt() as f32;
    let scalar = match facts.positive("query_pre_attn_scalar")? {
        Some(s) => s,
        None if c.layers.len() == LAYERS_27B => f64::from(c.hidden) / f64::from(c.heads),
        None => f64::from(c.head_dim),
    };
    c.attn_scale = (1.0 / scalar.sqrt()) as f32;

    let window = window(facts)?;
    let windows = match windows_by_type(facts, c.layers.len(), window)? {
        Some(windows) => windows,
        None => {
            let key = if facts.get("_sliding_window_pattern").is_some() {
                "_sliding_window_pattern"
            } else {
                "sliding_window_pattern"
            };
            let pattern = facts.u32(key)?.unwrap_or(PATTERN).max(1);
            (1..=c.layer_count()).map(|l| window.filter(|_| !l.is_multiple_of(pattern))).collect()
        }
    };
    set_windows(&mut c, &windows);
    let local = match facts.object("rope_parameters")? {
        Some(p) if p.get("sliding_attention").is_some() => {
            rope::read(facts, c.head_dim, "sliding_attention", LOCAL_THETA)?
        }
        _ => {
            let mut local = rope::read(facts, c.head_dim, "full_attention", GLOBAL_THETA)?;
            local.theta = facts.positive("rope_local_base_freq")?.unwrap_or(LOCAL_THETA);
            local.scaling = RopeScaling::None;
            local
        }
    };
    for layer in c.layers.iter_mut().filter(|l| l.window.is_some()) {
        layer.rope = local;
    }
    Ok(c)
}
