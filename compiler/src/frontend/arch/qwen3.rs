//! Qwen 3, dense: norms of each query and key head in place of the biases of Qwen 2.

use super::{Arch, late_windows, set_windows};
use crate::frontend::config::ModelConfig;
use crate::frontend::facts::Facts;
use crate::frontend::rope;
use trtc_ir::Diag;

pub const ARCH: Arch =
    Arch { name: "qwen3", classes: &["Qwen3ForCausalLM"], model_types: &["qwen3"], gguf: &["qwen3"], config };

fn config(facts: &Facts) -> Result<ModelConfig, Diag> {
    let mut c = ModelConfig::common(ARCH.name, facts, |dim| {
        rope::read(facts, dim, "full_attention", rope::DEFAULT_THETA)
    })?;
    c.act = ModelConfig::activation(facts, "hidden_act", "silu")?;
    let bias = facts.bool("attention_bias")?.unwrap_or(false);
    c.qkv_bias = bias;
    c.o_bias = facts.bool("attention_output_bias")?.unwrap_or(bias);
    c.qk_norm = true;
    let windows = late_windows(facts, c.layers.len())?;
    set_windows(&mut c, &windows);
    Ok(c)
}
