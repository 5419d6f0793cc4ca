//! Damaged files and strange values: an error or a model, never a panic.

use super::*;
use crate::frontend::gguf::fixture::{llama, temporary};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damaged_gguf_models_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut file = llama().build();
        let at = at.index(file.len());
        file[at] = byte;
        if byte.is_multiple_of(4) {
            file.truncate(cut.index(file.len()));
        }
        if let Ok(checkpoint) = open(temporary(&file).path()) {
            let _ = import(&checkpoint, &options());
        }
    }

    #[test]
    fn strange_configurations_never_panic(key in prop::sample::select(KEYS), value in prop::sample::select(VALUES)) {
        let mut config: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&std::fs::read(golden_folder().join("tiny/gemma3/config.json")).unwrap()).unwrap();
        config.insert(key.into(), serde_json::from_str(value).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        if let Ok(checkpoint) = open(&path) {
            let _ = import(&checkpoint, &options());
            let _ = checkpoint.config.parameters();
        }
    }
}

const KEYS: &[&str] = &[
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "query_pre_attn_scalar",
    "sliding_window",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "layer_types",
    "_sliding_window_pattern",
    "eos_token_id",
    "bos_token_id",
    "architectures",
    "text_config",
    "quantization_config",
    "tie_word_embeddings",
    "partial_rotary_factor",
    "hidden_activation",
    "attention_bias",
];

const VALUES: &[&str] = &[
    "null",
    "0",
    "-1",
    "1",
    "2",
    "7",
    "4294967295",
    "18446744073709551615",
    "1e308",
    "1e-308",
    "0.5",
    "\"x\"",
    "[]",
    "{}",
    "[1, 2]",
    "[\"full_attention\"]",
    "true",
    "{\"full_attention\": {}}",
    "{\"rope_type\": \"llama3\"}",
    "{\"rope_type\": \"linear\", \"factor\": 1e300}",
];
