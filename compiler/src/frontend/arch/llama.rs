//! Llama 2 and 3, SmolLM 2, and the many models that were given this shape; in GGUF files also Mistral.

use super::{Arch, set_windows, window};
use crate::frontend::config::ModelConfig;
use crate::frontend::facts::Facts;
use crate::frontend::rope;
use trtc_ir::Diag;

pub const ARCH: Arch =
    Arch { name: "llama", classes: &["LlamaForCausalLM"], model_types: &["llama"], gguf: &["llama"], config };

fn config(facts: &Facts) -> Result<ModelConfig, Diag> {
    let mut c = ModelConfig::common(ARCH.name, facts, |dim| {
        rope::read(facts, dim, "full_attention", rope::DEFAULT_THETA)
    })?;
    c.act = ModelConfig::activation(facts, "hidden_act", "silu")?;
    let bias = facts.bool("attention_bias")?.unwrap_or(false);
    c.qkv_bias = bias;
    c.o_bias = facts.bool("attention_output_bias")?.unwrap_or(bias);
    c.mlp_bias = facts.bool("mlp_bias")?.unwrap_or(false);
    // Converters to GGUF lay q and k out for interleaved rotary embedding, and name Mistral models "llama".
    c.interleaved = facts.is_gguf();
    if facts.is_gguf() {
        let windows = vec![window(facts)?; c.layers.len()];
        set_windows(&mut c, &windows);
    }
    Ok(c)
}
