//! Weights by role: the symbol in the graph, and the name in either kind of checkpoint. One line a role.

use crate::frontend::config::Naming;

/// A weight's role in the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Role {
    /// Symbol; `l0.` goes before it for a weight of a layer.
    pub symbol: &'static str,
    /// Name in a Hugging Face checkpoint; `model.layers.0.` goes before it for a weight of a layer.
    pub hugging_face: &'static str,
    /// Name in a GGUF file; `blk.0.` goes before it for a weight of a layer.
    pub gguf: &'static str,
}

const fn role(symbol: &'static str, hugging_face: &'static str, gguf: &'static str) -> Role {
    Role { symbol, hugging_face, gguf }
}

pub const EMBED: Role = role("tok_embd", "embed_tokens.weight", "token_embd.weight");
pub const OUT_NORM: Role = role("out.norm", "norm.weight", "output_norm.weight");
/// The Hugging Face name is that of [`Naming::HuggingFace`].
pub const LM_HEAD: Role = role("lm_head", "", "output.weight");

pub const ATTN_NORM: Role = role("attn.norm", "input_layernorm.weight", "attn_norm.weight");
pub const Q: Role = role("attn.q", "self_attn.q_proj.weight", "attn_q.weight");
pub const Q_BIAS: Role = role("attn.q.bias", "self_attn.q_proj.bias", "attn_q.bias");
pub const Q_NORM: Role = role("attn.q_norm", "self_attn.q_norm.weight", "attn_q_norm.weight");
pub const K: Role = role("attn.k", "self_attn.k_proj.weight", "attn_k.weight");
pub const K_BIAS: Role = role("attn.k.bias", "self_attn.k_proj.bias", "attn_k.bias");
pub const K_NORM: Role = role("attn.k_norm", "self_attn.k_norm.weight", "attn_k_norm.weight");
pub const V: Role = role("attn.v", "self_attn.v_proj.weight", "attn_v.weight");
pub const V_BIAS: Role = role("attn.v.bias", "self_attn.v_proj.bias", "attn_v.bias");
pub const O: Role = role("attn.o", "self_attn.o_proj.weight", "attn_output.weight");
pub const O_BIAS: Role = role("attn.o.bias", "self_attn.o_proj.bias", "attn_output.bias");
pub const ATTN_POST_NORM: Role =
    role("attn.post_norm", "post_attention_layernorm.weight", "post_attention_norm.weight");
/// The norm before the feed-forward layer of a model without post-norms.
pub const MLP_NORM: Role = role("mlp.norm", "post_attention_layernorm.weight", "ffn_norm.weight");
/// The same of a model with post-norms.
pub const MLP_PRE_NORM: Role = role("mlp.norm", "pre_feedforward_layernorm.weight", "ffn_norm.weight");
pub const GATE: Role = role("mlp.gate", "mlp.gate_proj.weight", "ffn_gate.weight");
pub const GATE_BIAS: Role = role("mlp.gate.bias", "mlp.gate_proj.bias", "ffn_gate.bias");
pub const UP: Role = role("mlp.up", "mlp.up_proj.weight", "ffn_up.weight");
pub const UP_BIAS: Role = role("mlp.up.bias", "mlp.up_proj.bias", "ffn_up.bias");
pub const DOWN: Role = role("mlp.down", "mlp.down_proj.weight", "ffn_down.weight");
pub const DOWN_BIAS: Role = role("mlp.down.bias", "mlp.down_proj.bias", "ffn_down.bias");
pub const MLP_POST_NORM: Role =
    role("mlp.post_norm", "post_feedforward_layernorm.weight", "post_ffw_norm.weight");

impl Role {
    /// The symbol of this weight in a layer, or of the model's own.
    pub fn symbol(&self, layer: Option<usize>) -> String {
        layer.map_or_else(|| self.symbol.to_owned(), |l| format!("l{l}.{}", self.symbol))
    }

    /// The checkpoint's name of this weight.
    pub fn tensor(&self, layer: Option<usize>, naming: &Naming) -> String {
        match (naming, layer) {
            (Naming::HuggingFace { prefix, .. }, Some(l)) => {
                format!("{prefix}layers.{l}.{}", self.hugging_face)
            }
            (Naming::HuggingFace { head, .. }, None) if *self == LM_HEAD => head.clone(),
            (Naming::HuggingFace { prefix, .. }, None) => format!("{prefix}{}", self.hugging_face),
            (Naming::Gguf, Some(l)) => format!("blk.{l}.{}", self.gguf),
            (Naming::Gguf, None) => self.gguf.to_owned(),
        }
    }
}

/// How Hugging Face checkpoints begin tensor names, with the name of the output projection: plain models, two
/// generations of multimodal wrappers around them, and a model saved without its output layer.
pub const PREFIXES: [(&str, &str); 4] = [
    ("model.", "lm_head.weight"),
    ("language_model.model.", "language_model.lm_head.weight"),
    ("model.language_model.", "lm_head.weight"),
    ("", "lm_head.weight"),
];

/// Tensors that a checkpoint may hold and the language model does not read: buffers that are computed, and the
/// other parts of a multimodal model.
pub fn ignorable(name: &str) -> bool {
    const SUFFIXES: [&str; 4] =
        ["rotary_emb.inv_freq", "rotary_emb.original_inv_freq", ".position_ids", ".attention.masked_bias"];
    const PREFIXES: [&str; 9] = [
        "vision_tower.",
        "vision_model.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.vision_model.",
        "model.multi_modal_projector.",
        "v.",
        "mm.",
        "rope_freqs.",
    ];
    SUFFIXES.iter().any(|s| name.ends_with(s)) || PREFIXES.iter().any(|p| name.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_kinds() {
        let hf = Naming::hugging_face();
        assert_eq!(Q.tensor(Some(3), &hf), "model.layers.3.self_attn.q_proj.weight");
        assert_eq!(Q.tensor(Some(3), &Naming::Gguf), "blk.3.attn_q.weight");
        assert_eq!(EMBED.tensor(None, &hf), "model.embed_tokens.weight");
        assert_eq!(LM_HEAD.tensor(None, &hf), "lm_head.weight");
        assert_eq!(LM_HEAD.tensor(None, &Naming::Gguf), "output.weight");
        assert_eq!(Q_BIAS.symbol(Some(0)), "l0.attn.q.bias");
    }

    #[test]
    fn only_buffers_and_other_modalities_are_ignored() {
        assert!(ignorable("model.layers.0.self_attn.rotary_emb.inv_freq"));
        assert!(ignorable("vision_tower.vision_model.embeddings.patch_embedding.weight"));
        assert!(!ignorable("model.layers.0.self_attn.q_proj.lora_A.weight"));
        assert!(!ignorable("model.vision_bias"));
    }
}
