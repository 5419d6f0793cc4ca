//! The shape of a decoder-only transformer: what the graph builder and the manifest need to know of a model.
//!
//! Filled in by the architectures (`arch/`); the checks here are those that hold for all of them.

use crate::frontend::facts::Facts;
use trtc_ir::ops::Act;
use trtc_ir::{Diag, RopeFreqs};

/// A model's shape and the constants of its formulas.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Architecture, a name of the table in `arch/mod.rs`.
    pub arch: &'static str,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub intermediate: u32,
    /// Longest sequence that the model was made for, tokens.
    pub context: u32,
    /// Token that begins a sequence.
    pub bos: Option<u32>,
    /// Tokens that end one, ascending.
    pub eos: Vec<u32>,
    /// One entry a layer.
    pub layers: Vec<Layer>,
    /// Added to the mean of squares in every norm.
    pub norm_eps: f32,
    /// Added to every norm's weight.
    pub norm_offset: f32,
    /// Factor on the embeddings.
    pub embed_scale: f32,
    /// Factor on the attention scores.
    pub attn_scale: f32,
    /// Activation of the feed-forward layer.
    pub act: Act,
    /// Biases of q, k and v.
    pub qkv_bias: bool,
    /// Bias of the attention's output projection.
    pub o_bias: bool,
    /// Biases of the feed-forward layer.
    pub mlp_bias: bool,
    /// Norms of each query and key head.
    pub qk_norm: bool,
    /// Norms after attention and feed-forward too, before the residual sum.
    pub post_norms: bool,
    /// The output projection is the embedding table.
    pub tied: bool,
    /// Checkpoint rows of q and k lie in the order of interleaved rotary embedding.
    pub interleaved: bool,
    /// How checkpoint tensors are called.
    pub naming: Naming,
}

/// What differs between layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Rotary embedding.
    pub rope: RopeFreqs,
    /// Tokens that a query sees, itself included; `None` sees all.
    pub window: Option<u32>,
}

/// How checkpoint tensors are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace {
        /// Before `layers`: `model.`.
        prefix: String,
        /// The output projection: `lm_head.weight`.
        head: String,
    },
    /// `blk.0.attn_q.weight`.
    Gguf,
}

impl Naming {
    /// The usual Hugging Face names.
    pub fn hugging_face() -> Naming {
        Naming::HuggingFace { prefix: "model.".into(), head: "lm_head.weight".into() }
    }
}

/// Bounds that no model exceeds; they keep a broken file from asking for absurd amounts of memory.
const LIMITS: [(&str, u32); 8] = [
    ("vocab_size", 1 << 24),
    ("hidden_size", 1 << 18),
    ("num_hidden_layers", 1024),
    ("num_attention_heads", 4096),
    ("num_key_value_heads", 4096),
    ("head_dim", 1024),
    ("intermediate_size", 1 << 20),
    ("max_position_embeddings", 1 << 30),
];

/// A size that must be present, from 1 to its limit.
pub fn size(facts: &Facts, key: &str) -> Result<u32, Diag> {
    let n = facts.need_u32(key)?;
    bounded(facts, key, n)
}

/// Like [`size`], with a value for an absent key.
pub fn size_or(facts: &Facts, key: &str, default: u32) -> Result<u32, Diag> {
    bounded(facts, key, facts.u32(key)?.unwrap_or(default))
}

fn bounded(facts: &Facts, key: &str, n: u32) -> Result<u32, Diag> {
    let limit = LIMITS.iter().find(|(k, _)| *k == key).map_or(u32::MAX, |&(_, limit)| limit);
    match n {
        0 => Err(facts.wrong(key, "must be at least 1, found 0")),
        n if n > limit => Err(facts.wrong(key, format!("must be at most {limit}, found {n}"))),
        n => Ok(n),
    }
}

impl ModelConfig {
    /// What all architectures read in the same way, and the defaults of what an architecture may change: no
    /// biases, no extra norms, every layer alike with full attention.
    pub fn common(
        arch: &'static str,
        facts: &Facts,
        rope: impl Fn(u32) -> Result<RopeFreqs, Diag>,
    ) -> Result<ModelConfig, Diag> {
        let hidden = size(facts, "hidden_size")?;
        let heads = size(facts, "num_attention_heads")?;
        let kv_heads = size_or(facts, "num_key_value_heads", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(facts.wrong(
                "num_attention_heads",
                format!(
                    "is {heads}, not a multiple of `{}`, which is {kv_heads}",
                    facts.spell("num_key_value_heads")
                ),
            ));
        }
        if facts.get("head_dim").is_none() && !hidden.is_multiple_of(heads) {
            return Err(facts.wrong(
                "hidden_size",
                format!(
                    "is {hidden}, not a multiple of `{}`, which is {heads}, and `{}` is missing",
                    facts.spell("num_attention_heads"),
                    facts.spell("head_dim")
                ),
            ));
        }
        let head_dim = size_or(facts, "head_dim", hidden / heads)?;
        if !head_dim.is_multiple_of(2) {
            return Err(
                facts.wrong("head_dim", format!("must be even for rotary embedding, found {head_dim}"))
            );
        }
        let count = size(facts, "num_hidden_layers")?;
        let vocab = size(facts, "vocab_size")?;
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(cap) = facts.f64(key)? {
                return Err(facts
                    .unsupported(key, format!("is {cap}: capped logits are not supported"))
                    .help("use a model without soft-capping"));
            }
        }
        let layer = Layer { rope: rope(head_dim)?, window: None };
        let mut eos = facts.ids("eos_token_id")?;
        eos.sort_unstable();
        eos.dedup();
        let config = ModelConfig {
            arch,
            vocab,
            hidden,
            heads,
            kv_heads,
            head_dim,
            intermediate: size(facts, "intermediate_size")?,
            context: size(facts, "max_position_embeddings")?,
            bos: facts.ids("bos_token_id")?.first().copied(),
            eos,
            layers: vec![layer; count as usize],
            norm_eps: facts.need_positive("rms_norm_eps")? as f32,
            norm_offset: 0.0,
            embed_scale: 1.0,
            attn_scale: (1.0 / f64::from(head_dim).sqrt()) as f32,
            act: Act::Silu,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            post_norms: false,
            tied: facts.bool("tie_word_embeddings")?.unwrap_or(false),
            interleaved: false,
            naming: if facts.is_gguf() { Naming::Gguf } else { Naming::hugging_face() },
        };
        for &id in config.bos.iter().chain(&config.eos) {
            if id >= vocab {
                return Err(facts.wrong(
                    "vocab_size",
                    format!("is {vocab}, but token id {id} begins or ends a sequence"),
                ));
            }
        }
        Ok(config)
    }

    /// The activation that a key names.
    pub fn activation(facts: &Facts, key: &str, default: &str) -> Result<Act, Diag> {
        const KNOWN: [(&str, Act); 4] = [
            ("silu", Act::Silu),
            ("swish", Act::Silu),
            ("gelu_pytorch_tanh", Act::GeluTanh),
            ("gelu_new", Act::GeluTanh),
        ];
        let name = facts.str(key)?.unwrap_or(default);
        KNOWN.iter().find(|(n, _)| *n == name).map(|&(_, act)| act).ok_or_else(|| {
            let known: Vec<&str> = KNOWN.iter().map(|(n, _)| *n).collect();
            facts.unsupported(
                key,
                format!("is {name:?}, not one of the activations known: {}", known.join(", ")),
            )
        })
    }

    /// Width of all query heads together.
    pub fn q_width(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.head_dim)
    }

    /// Width of all key heads together, and of all value heads.
    pub fn kv_width(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.head_dim)
    }

    /// Number of layers.
    pub fn layer_count(&self) -> u32 {
        self.layers.len() as u32
    }

    /// Number of learned parameters; a tied output projection counts once.
    pub fn parameters(&self) -> u64 {
        let (h, m) = (u64::from(self.hidden), u64::from(self.intermediate));
        let (q, kv) = (self.q_width(), self.kv_width());
        let on = |flag: bool, n: u64| if flag { n } else { 0 };
        let attention = h * (q + 2 * kv)
            + q * h
            + on(self.qkv_bias, q + 2 * kv)
            + on(self.o_bias, h)
            + on(self.qk_norm, 2 * u64::from(self.head_dim));
        let mlp = 3 * h * m + on(self.mlp_bias, 2 * m + h);
        let norms = 2 * h + on(self.post_norms, 2 * h);
        let table = u64::from(self.vocab) * h;
        table + on(!self.tied, table) + h + u64::from(self.layer_count()) * (attention + mlp + norms)
    }
}
