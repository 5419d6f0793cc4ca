//! Broken checkpoints: each error says where, what and what next.

use super::*;
use crate::frontend::gguf::fixture::llama;
use serde_json::json;
use trtc_ir::Fault;

/// The error of a changed configuration of the tiny llama.
fn config_error(changes: serde_json::Value) -> Diag {
    let e = error(Folder::of("llama").config(changes).path());
    assert!(e.loc.to_string().contains("config.json"), "{e}");
    e
}

#[test]
fn paths_that_are_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let e = error(&folder.path().join("nowhere"));
    assert!(e.message.contains("does not exist") && e.help.is_some() && e.fault == Fault::User, "{e}");
    assert!(error(folder.path()).message.contains("without a config.json"));
    for (file, bytes, message) in [
        ("notes.txt", "hello", "not a checkpoint of a known kind"),
        ("model.safetensors", "hello", "weights without a configuration"),
        ("model.gguf", "", "ends within the magic number"),
        ("model.gguf", "hello", "does not begin with GGUF"),
        ("config.json", "[1]", "must be a JSON object"),
        ("config.json", "{}", "names no model"),
    ] {
        let path = folder.path().join(file);
        std::fs::write(&path, bytes).unwrap();
        let e = error(&path);
        assert!(e.to_string().contains(message), "{e}");
    }
    std::fs::write(folder.path().join("config.json"), "{\n \"a\": 1,\n}").unwrap();
    let e = error(folder.path());
    assert!(e.message.contains("not valid JSON") && e.loc.to_string().contains(":3:"), "{e}");
}

#[test]
fn configurations_that_name_no_known_model() {
    let e = config_error(json!({"architectures": ["GPT5ForCausalLM"]}));
    assert!(e.fault == Fault::Unsupported && e.message.contains("GPT5ForCausalLM"), "{e}");
    assert!(e.help.unwrap().contains("LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM"));
    assert!(
        config_error(json!({"architectures": null, "model_type": "t5"}))
            .message
            .contains("`model_type` is t5")
    );
    assert!(config_error(json!({"architectures": 3})).message.contains("must be a list of strings"));
}

#[test]
fn missing_and_absurd_sizes_name_the_key() {
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "intermediate_size",
        "max_position_embeddings",
        "rms_norm_eps",
    ] {
        let mut change = json!({});
        change[key] = json!(null);
        let e = config_error(change.clone());
        assert_eq!(e.message, format!("`{key}` is missing"));
        change[key] = json!(0);
        assert!(config_error(change.clone()).message.contains(&format!("`{key}` must be")));
        change[key] = json!(-1);
        assert!(config_error(change).message.contains(&format!("`{key}` must be")));
    }
    for (key, value) in [("num_hidden_layers", 100_000), ("vocab_size", u32::MAX), ("hidden_size", 1 << 30)] {
        let mut change = json!({});
        change[key] = json!(value);
        assert!(config_error(change).message.contains("must be at most"), "{key}");
    }
    assert!(
        config_error(json!({"num_key_value_heads": 3}))
            .message
            .contains("not a multiple of `num_key_value_heads`")
    );
    assert!(config_error(json!({"head_dim": 63})).message.contains("`head_dim` must be even"));
    assert!(
        config_error(json!({"head_dim": null, "hidden_size": 127})).message.contains("`hidden_size` is 127")
    );
    assert!(config_error(json!({"hidden_act": "relu"})).message.contains("`hidden_act` is \"relu\""));
    assert!(
        config_error(json!({"final_logit_softcapping": 30.0}))
            .message
            .contains("`final_logit_softcapping` is 30")
    );
    assert!(config_error(json!({"eos_token_id": [2, 9999]})).message.contains("9999"));
    assert!(config_error(json!({"eos_token_id": "two"})).message.contains("`eos_token_id` must be"));
    let yarn = json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}});
    assert!(config_error(yarn).message.contains("`rope_parameters.rope_type` is \"yarn\""));
    let e = config_error(json!({"quantization_config": {"quant_method": "awq", "bits": 4}}));
    assert!(e.fault == Fault::Unsupported && e.message.contains("awq"), "{e}");
}

#[test]
fn layer_types_that_do_not_fit() {
    let change = |changes| error(Folder::of("qwen3").config(changes).path()).message;
    assert!(change(json!({"layer_types": ["full_attention"]})).contains("has 1 entries"));
    assert!(change(json!({"layer_types": ["full_attention", "chunked"]})).contains("\"chunked\""));
    assert!(
        change(json!({"layer_types": ["full_attention", "sliding_attention"]}))
            .contains("`sliding_window` is missing")
    );
}

#[test]
fn missing_extra_and_misshapen_weights_are_named() {
    let missing =
        Folder::of("llama").tensors(|t| t.retain(|(n, _)| !n.ends_with("layers.1.mlp.up_proj.weight")));
    let e = error(missing.path()).to_string();
    assert!(
        e.contains("lacks tensors") && e.contains("\"model.layers.1.mlp.up_proj.weight\" (256 x 128)"),
        "{e}"
    );

    let extra = Folder::of("llama").tensors(|t| {
        let copy = t[0].1.clone();
        t.push(("model.layers.0.adapter.weight".into(), copy));
    });
    let e = error(extra.path()).to_string();
    assert!(e.contains("does not read") && e.contains("\"model.layers.0.adapter.weight\""), "{e}");

    let e = error(Folder::of("llama").config(json!({"intermediate_size": 320})).path()).to_string();
    assert!(
        e.contains(
            "\"model.layers.0.mlp.down_proj.weight\" is (128 x 256), the configuration asks for (128 x 320)"
        ),
        "{e}"
    );

    let many = Folder::of("llama").config(json!({"num_hidden_layers": 9}));
    let e = error(many.path()).to_string();
    assert!(e.contains("63 of them") && e.contains("and 55 more"), "{e}");

    let integers = Folder::of("llama").tensors(|t| {
        let (_, norm) = t.iter_mut().find(|(n, _)| n == "model.norm.weight").unwrap();
        norm.dtype = ::safetensors::Dtype::I16;
    });
    let e = error(integers.path());
    assert!(
        e.fault == Fault::Unsupported && e.message.contains("\"model.norm.weight\" has element type I16"),
        "{e}"
    );
}

#[test]
fn shards_that_are_missing_or_disagree() {
    let folder = Folder::of("llama");
    let tensors = stored(&folder.path().join("model.safetensors"));
    folder.remove("model.safetensors");
    let (first, second) = tensors.split_at(tensors.len() / 2);
    write_tensors(&folder.path().join("a.safetensors"), first);
    let e = error(folder.path());
    assert!(e.message.contains("neither model.safetensors nor"), "{e}");

    let mut map = serde_json::Map::new();
    first.iter().for_each(|(n, _)| drop(map.insert(n.clone(), json!("a.safetensors"))));
    second.iter().for_each(|(n, _)| drop(map.insert(n.clone(), json!("b.safetensors"))));
    let index = |map: &serde_json::Map<String, serde_json::Value>| {
        folder.write("model.safetensors.index.json", json!({"weight_map": map}).to_string().as_bytes());
    };
    index(&map);
    assert!(error(folder.path()).message.contains("names files that are not there: b.safetensors"));

    write_tensors(&folder.path().join("b.safetensors"), second);
    let whole = open(folder.path()).unwrap();
    assert_eq!(whole.weights.names().count(), tensors.len());
    import(&whole, &options()).unwrap();

    map.insert("model.ghost".into(), json!("b.safetensors"));
    index(&map);
    let e = error(folder.path());
    assert!(e.message.contains("\"model.ghost\" is in b.safetensors, and it is not"), "{e}");

    map.insert("model.ghost".into(), json!("../b.safetensors"));
    index(&map);
    assert!(error(folder.path()).message.contains("must be the name of a file in this folder"));

    map.remove("model.ghost");
    index(&map);
    write_tensors(&folder.path().join("b.safetensors"), &tensors[tensors.len() / 2 - 1..]);
    assert!(error(folder.path()).message.contains("is also in"));
    index(&serde_json::Map::new());
    assert!(error(folder.path()).message.contains("`weight_map` is missing or empty"));
}

#[test]
fn a_cut_file_is_named_with_its_tensor() {
    let folder = Folder::of("llama");
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let e = error(folder.path());
    assert!(e.loc.to_string().contains("model.safetensors") && e.message.contains("tensor \"model."), "{e}");
}

#[test]
fn a_folder_without_weights_can_only_be_built_with_dummy_ones() {
    let folder = Folder::of("llama");
    folder.remove("model.safetensors");
    for path in [folder.path().to_owned(), folder.path().join("config.json")] {
        let checkpoint = open(&path).unwrap();
        assert!(!checkpoint.weights.present());
        let e = checkpoint.weights.require().unwrap_err();
        assert!(e.help.as_ref().unwrap().contains("--weights dummy"), "{e}");
        check_graph(&import(&checkpoint, &options()).unwrap(), &checkpoint.config);
    }
    folder.write("pytorch_model.bin", b"");
    assert!(error(folder.path()).message.contains("PyTorch"));
}

#[test]
fn gguf_models_that_lack_something() {
    let message = |file: &gguf::fixture::Gguf| error(file.file().path()).to_string();
    assert!(
        message(&llama().str("general.name", "x").without("blk.0.ffn_up.weight"))
            .contains("\"blk.0.ffn_up.weight\" (16 x 8)")
    );
    assert!(message(&llama().counting("blk.1.attn_q.weight", &[8, 8])).contains("\"blk.1.attn_q.weight\""));
    let other = gguf::fixture::Gguf::default().str("general.architecture", "mamba");
    assert!(message(&other).contains("`general.architecture` is mamba") && message(&other).contains("qwen3"));
    let bare = gguf::fixture::Gguf::default().str("general.architecture", "llama");
    assert!(message(&bare).contains("`llama.embedding_length` is missing"));
    assert!(message(&gguf::fixture::Gguf::default()).contains("`general.architecture` is missing"));
    assert!(message(&llama().u32("llama.expert_count", 8)).contains("`llama.expert_count` is 8"));
    assert!(message(&llama().str("llama.rope.scaling.type", "yarn")).contains("\"yarn\""));
    assert!(message(&llama().u32("split.count", 3)).contains("one of 3 parts"));
    let values = llama().u32("llama.attention.key_length", 4).u32("llama.attention.value_length", 8);
    assert!(message(&values).contains("`llama.attention.value_length` is 8"));
    let small = llama().without("token_embd.weight").counting("token_embd.weight", &[5, 8]);
    assert!(message(&small).contains("has 8 tokens, and the embedding table 5 rows"));
    let unknown =
        llama().without("blk.0.attn_q.weight").tensor("blk.0.attn_q.weight", &[8, 8], 19, vec![0; 64]);
    assert!(message(&unknown).contains("\"blk.0.attn_q.weight\" has element type number 19"));
}
