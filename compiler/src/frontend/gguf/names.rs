//! GGUF metadata under the key names of `config.json`, so that an architecture is described once for both.

use crate::frontend::facts::{Facts, Format};
use crate::frontend::gguf::{Array, Header, Meta};
use crate::frontend::rope::{DEFAULT_THETA, divisors};
use crate::frontend::weights::CheckpointWeights;
use serde_json::{Map, Value, json};
use trtc_ir::{Diag, Loc, RopeFreqs, RopeScaling, TensorRef};

/// `(ours, theirs)`; `theirs` follows the architecture's prefix.
const KEYS: [(&str, &str); 19] = [
    ("vocab_size", "vocab_size"),
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("value_dim", "attention.value_length"),
    ("intermediate_size", "feed_forward_length"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("sliding_window", "attention.sliding_window"),
    ("sliding_window_pattern", "attention.sliding_window_pattern"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("rope_theta", "rope.freq_base"),
    ("rope_local_base_freq", "rope.freq_base_swa"),
    ("rotary_dim", "rope.dimension_count"),
    ("num_local_experts", "expert_count"),
    ("attention_scale", "attention.scale"),
];

/// `(ours, theirs)` for keys without the architecture's prefix.
const TOKENIZER_KEYS: [(&str, &str); 2] =
    [("bos_token_id", "tokenizer.ggml.bos_token_id"), ("eos_token_id", "tokenizer.ggml.eos_token_id")];

/// The table of rotary factors, where a converter has written one.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The name of the architecture.
pub fn architecture<'h>(header: &'h Header, loc: &Loc) -> Result<&'h str, Diag> {
    match header.meta.get("general.architecture") {
        Some(Meta::Str(name)) => Ok(name),
        Some(other) => {
            Err(Diag::user(loc, format!("`general.architecture` must be a string, found {other:?}")))
        }
        None => Err(Diag::user(loc, "`general.architecture` is missing")),
    }
}

/// Facts of the model in a GGUF file. `eos` are the tokens that end a sequence, which the vocabulary decides.
pub fn facts(
    header: &Header,
    file: &[u8],
    weights: &CheckpointWeights,
    eos: &[u32],
    loc: &Loc,
) -> Result<Facts, Diag> {
    let arch = architecture(header, loc)?;
    let mut facts = Facts::new(loc.clone(), Map::new());
    facts.format = Format::Gguf;
    for (ours, theirs) in KEYS {
        let key = format!("{arch}.{theirs}");
        match header.meta.get(&key) {
            Some(Meta::Array(flags)) if ours == "sliding_window_pattern" => {
                facts.map.insert("layer_types".into(), layer_types(flags, file, loc)?);
            }
            Some(value) => {
                facts.map.insert(ours.into(), scalar(value, &key, file, loc)?);
            }
            None => {}
        }
        facts.spelling.push((ours.into(), key));
    }
    for (ours, theirs) in TOKENIZER_KEYS {
        if let Some(value) = header.meta.get(theirs) {
            facts.map.insert(ours.into(), scalar(value, theirs, file, loc)?);
        }
        facts.spelling.push((ours.into(), theirs.into()));
    }
    facts.map.insert("eos_token_id".into(), json!(eos));
    let has = |name: &str| weights.info(name).is_some();
    facts.map.insert("tie_word_embeddings".into(), json!(!has("output.weight")));
    facts.map.insert("attention_bias".into(), json!(has("blk.0.attn_q.bias")));
    facts.map.insert("attention_output_bias".into(), json!(has("blk.0.attn_output.bias")));
    facts.map.insert("mlp_bias".into(), json!(has("blk.0.ffn_gate.bias")));
    // The table's own extent is what the weights agree with.
    if let Some(&rows) = weights.info("token_embd.weight").and_then(|i| i.shape.first()) {
        facts.map.insert("vocab_size".into(), json!(rows));
    }
    if let Some(n) = facts.u32("num_local_experts")?.filter(|&n| n > 0) {
        return Err(
            facts.unsupported("num_local_experts", format!("is {n}: mixtures of experts are not supported"))
        );
    }
    let (key_dim, value_dim) = (facts.u32("head_dim")?, facts.u32("value_dim")?);
    if let (Some(k), Some(v)) = (key_dim, value_dim)
        && k != v
    {
        let what = format!("is {v}, and `{}` is {k}: they must be equal", facts.spell("head_dim"));
        return Err(facts.unsupported("value_dim", what));
    }
    if let Some(scaling) = rope_scaling(header, &facts, weights, arch)? {
        facts.map.insert("rope_scaling".into(), scaling);
    }
    Ok(facts)
}

/// A value as JSON. Arrays with one value for each layer are read where all layers agree.
fn scalar(value: &Meta, key: &str, file: &[u8], loc: &Loc) -> Result<Value, Diag> {
    Ok(match value {
        Meta::Uint(n) => json!(n),
        Meta::Int(n) => json!(n),
        Meta::Float(f) => json!(f),
        Meta::Bool(b) => json!(b),
        Meta::Str(s) => json!(s),
        Meta::Array(a) => json!(same_for_all(a, key, file, loc)?),
    })
}

/// `layer_types` from a flag for each layer: true where it has a window.
fn layer_types(flags: &Array, file: &[u8], loc: &Loc) -> Result<Value, Diag> {
    let name = |&flag: &f64| {
        if flag == 0.0 { "full_attention" } else { "sliding_attention" }
    };
    Ok(flags.numbers(file, loc)?.iter().map(name).collect())
}

fn same_for_all(array: &Array, key: &str, file: &[u8], loc: &Loc) -> Result<f64, Diag> {
    let values = array.numbers(file, loc)?;
    match values.split_first() {
        Some((first, rest)) if rest.iter().all(|v| v == first) => Ok(*first),
        Some(_) => {
            Err(Diag::unsupported(loc, format!("`{key}` differs between layers, which is not supported")))
        }
        None => Err(Diag::user(loc, format!("`{key}` is an empty array"))),
    }
}

/// `rope_scaling` as `config.json` has it, or `None` for plain frequencies.
fn rope_scaling(
    header: &Header,
    facts: &Facts,
    weights: &CheckpointWeights,
    arch: &str,
) -> Result<Option<Value>, Diag> {
    let get = |key: &str| header.meta.get(&format!("{arch}.rope.{key}"));
    let number = |key: &str| match get(key) {
        Some(Meta::Float(f)) => Some(*f),
        Some(Meta::Uint(n)) => Some(*n as f64),
        _ => None,
    };
    if weights.info(ROPE_FACTORS).is_some() {
        return factors(facts, weights, number("scaling.original_context_length"));
    }
    let kind = match get("scaling.type") {
        Some(Meta::Str(s)) => s.as_str(),
        // An older key, which implies the type.
        _ if number("scale_linear").is_some_and(|f| f != 1.0) => "linear",
        _ => return Ok(None),
    };
    let factor = number("scaling.factor").or_else(|| number("scale_linear"));
    Ok(Some(json!({ "rope_type": kind, "factor": factor })))
}

/// Converters write the frequencies' divisors in place of the constants they come from. The constants are found
/// again where the table is that of a published model.
fn factors(facts: &Facts, weights: &CheckpointWeights, original: Option<f64>) -> Result<Option<Value>, Diag> {
    let loc = weights.loc(ROPE_FACTORS);
    let (count, _) = weights.extent(ROPE_FACTORS).unwrap_or_default();
    if count == 0 || count > 4096 {
        return Err(Diag::user(&loc, format!("tensor {ROPE_FACTORS:?} has {count} elements")));
    }
    let mut found = vec![0.0; count as usize];
    let tensor = TensorRef { name: ROPE_FACTORS.into(), interleaved_heads: None };
    weights.read_rows(&tensor, 0..count, &mut found)?;
    if found.iter().all(|&f| f == 1.0) {
        return Ok(None);
    }
    let factor = f64::from(found.iter().copied().fold(1.0, f32::max));
    let theta = facts.positive("rope_theta")?.unwrap_or(DEFAULT_THETA);
    let (low, high) = (1.0, 4.0);
    for original in original.into_iter().chain([8192.0]) {
        let scaling = RopeScaling::Llama3 { factor, low, high, original };
        let expected = divisors(RopeFreqs { dim: 2 * count as u32, theta, scaling });
        if expected.iter().zip(&found).all(|(e, f)| (e - f).abs() <= 1e-4 * e) {
            return Ok(Some(json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original,
            })));
        }
    }
    Err(Diag::unsupported(&loc, format!("tensor {ROPE_FACTORS:?} is not a llama3 table of rotary factors"))
        .help("build from the model's Hugging Face folder instead"))
}
