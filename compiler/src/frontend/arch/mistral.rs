//! Mistral 7B and its successors of the same shape: llama with a window on every layer, where one is set.
//!
//! GGUF files of these models say "llama".

use super::{Arch, set_windows, window, windows_by_type};
use crate::frontend::config::ModelConfig;
use crate::frontend::facts::Facts;
use crate::frontend::rope;
use trtc_ir::Diag;

pub const ARCH: Arch =
    Arch { name: "mistral", classes: &["MistralForCausalLM"], model_types: &["mistral"], gguf: &[], config };

fn config(facts: &Facts) -> Result<ModelConfig, Diag> {
    let mut c = ModelConfig::common(ARCH.name, facts, |dim| {
        rope::read(facts, dim, "full_attention", rope::DEFAULT_THETA)
    })?;
    c.act = ModelConfig::activation(facts, "hidden_act", "silu")?;
    let window = window(facts)?;
    let windows =
        windows_by_type(facts, c.layers.len(), window)?.unwrap_or_else(|| vec![window; c.layers.len()]);
    set_windows(&mut c, &windows);
    Ok(c)
}
