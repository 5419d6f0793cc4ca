//! Qwen 2 and 2.5: biases on q, k and v; windows on the later layers, if switched on.

use super::{Arch, late_windows, set_windows};
use crate::frontend::config::ModelConfig;
use crate::frontend::facts::Facts;
use crate::frontend::rope;
use trtc_ir::Diag;

pub const ARCH: Arch =
    Arch { name: "qwen2", classes: &["Qwen2ForCausalLM"], model_types: &["qwen2"], gguf: &["qwen2"], config };

fn config(facts: &Facts) -> Result<ModelConfig, Diag> {
    let mut c = ModelConfig::common(ARCH.name, facts, |dim| {
        rope::read(facts, dim, "full_attention", rope::DEFAULT_THETA)
    })?;
    c.act = ModelConfig::activation(facts, "hidden_act", "silu")?;
    c.qkv_bias = true;
    let windows = late_windows(facts, c.layers.len())?;
    set_windows(&mut c, &windows);
    Ok(c)
}
