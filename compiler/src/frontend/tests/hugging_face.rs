//! Hugging Face folders in the forms that are published: older keys, wrappers, tokenizers, templates.

use super::*;
use serde_json::json;
use trtc_ir::{RopeScaling, Source};

/// A small tokenizer: letters, `<s>`, `</s>`; with post-processing that puts `<s>` first, or without.
fn tokenizer(adds_bos: bool) -> Vec<u8> {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let post = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": null, "post_processor": if adds_bos { post } else { json!(null) },
        "decoder": null,
        "model": {"type": "BPE", "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}, "merges": []}})
    .to_string()
    .into_bytes()
}

fn text(folder: &Folder) -> TokenizerData {
    open(folder.path()).unwrap().tokenizer.unwrap()
}

#[test]
fn older_keys_give_the_same_model() {
    let new = open(Folder::of("llama").path()).unwrap().config;
    let old = Folder::of("llama").config(json!({
        "rope_parameters": null, "rope_theta": 500000.0, "dtype": null, "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 64},
    }));
    assert_eq!(open(old.path()).unwrap().config, new);
    // Without a rope section at all, the default.
    let bare = Folder::of("llama-tied").config(json!({"rope_parameters": null}));
    assert_eq!(open(bare.path()).unwrap().config, open(Folder::of("llama-tied").path()).unwrap().config);
}

#[test]
fn older_gemma3_keys_give_the_same_model() {
    let new = open(Folder::of("gemma3").path()).unwrap().config;
    let old = json!({
        "rope_parameters": null, "layer_types": null, "_sliding_window_pattern": null, "sliding_window_pattern": 6,
        "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": null, "tie_word_embeddings": null,
    });
    assert_eq!(open(Folder::of("gemma3").config(old.clone()).path()).unwrap().config, new);
    // Linear scaling is of the layers without a window alone.
    let mut scaled = old;
    scaled["rope_scaling"] = json!({"factor": 8.0, "rope_type": "linear"});
    let config = open(Folder::of("gemma3").config(scaled).path()).unwrap().config;
    assert_eq!(config.layers[5].rope.scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(config.layers[4].rope.scaling, RopeScaling::None);
}

#[test]
fn a_multimodal_wrapper_is_its_language_model() {
    for prefix in ["language_model.model.", "model.language_model."] {
        let folder = Folder::of("gemma3").tensors(|tensors| {
            for (name, _) in tensors.iter_mut() {
                *name = name.replacen("model.", prefix, 1);
            }
            let image = tensors[0].1.clone();
            tensors.push(("vision_tower.vision_model.embeddings.patch_embedding.weight".into(), image));
        });
        let bytes = std::fs::read(folder.path().join("config.json")).unwrap();
        let inner: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let wrapper = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "eos_token_id": [1, 106], "text_config": inner, "vision_config": {"hidden_size": 1152}});
        folder.write("config.json", wrapper.to_string().as_bytes());
        let checkpoint = open(folder.path()).unwrap();
        let module = import(&checkpoint, &options()).unwrap();
        check_graph(&module, &checkpoint.config);
        let table = &module.weights[module.weight_named("tok_embd").unwrap()].source;
        let Source::Tensors(parts) = table else { panic!("the table is a tensor") };
        assert_eq!(parts[0].name, format!("{prefix}embed_tokens.weight"));
    }
}

#[test]
fn what_published_gemma3_configurations_leave_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let config = json!({"architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": [1, 106],
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}});
    std::fs::write(&path, config.to_string()).unwrap();
    let c = open(&path).unwrap().config;
    assert_eq!((c.vocab, c.heads, c.kv_heads, c.head_dim), (262_208, 8, 4, 256));
    assert_eq!((c.eos, c.attn_scale, c.tied), (vec![1, 106], 0.0625, true));
    assert_eq!((c.layers[0].window, c.layers[5].window), (Some(1024), None));
    assert_eq!((c.layers[0].rope.theta, c.layers[5].rope.theta), (1e4, 1e6));
}

#[test]
fn windows_of_later_layers() {
    let on = json!({"layer_types": null, "use_sliding_window": true, "sliding_window": 32, "max_window_layers": 1});
    let windows = |f: Folder| -> Vec<Option<u32>> {
        open(f.path()).unwrap().config.layers.iter().map(|l| l.window).collect()
    };
    assert_eq!(windows(Folder::of("qwen2").config(on.clone())), [None, Some(32)]);
    let off = json!({"layer_types": null, "use_sliding_window": false, "sliding_window": 32, "max_window_layers": 0});
    assert_eq!(windows(Folder::of("qwen2").config(off)), [None, None]);
    let typed = json!({"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32});
    assert_eq!(windows(Folder::of("qwen3").config(typed)), [Some(32), None]);
    assert_eq!(windows(Folder::of("mistral").config(json!({"sliding_window": null}))), [None, None]);
}

#[test]
fn biases_follow_the_configuration() {
    let folder = Folder::of("llama").config(json!({"attention_bias": true, "mlp_bias": true}));
    let e = error(folder.path()).to_string();
    assert!(e.contains("\"model.layers.0.self_attn.o_proj.bias\" (128)") && e.contains("14 of them"), "{e}");
}

#[test]
fn tokens_that_end_a_sequence_come_from_both_files() {
    let folder = Folder::of("llama");
    folder.write(
        "generation_config.json",
        br#"{"eos_token_id": [2, 7, 5], "temperature": 0.6, "top_p": 0.9, "top_k": 20}"#,
    );
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.config.eos, [2, 5, 7]);
    let g = checkpoint.generation;
    assert_eq!((g.temperature, g.top_p, g.top_k, g.min_p), (Some(0.6), Some(0.9), Some(20), None));
    folder.write("generation_config.json", br#"{"do_sample": false, "temperature": 0.6, "eos_token_id": 5}"#);
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!((checkpoint.config.eos, checkpoint.generation.temperature), (vec![2, 5], Some(0.0)));
    for bad in [r#"{"eos_token_id": 99999}"#, r#"{"top_p": 2}"#, r#"{"temperature": "hot"}"#, "{"] {
        folder.write("generation_config.json", bad.as_bytes());
        assert!(open(folder.path()).is_err(), "{bad}");
    }
}

#[test]
fn whether_prompts_begin_with_bos() {
    let folder = Folder::of("llama");
    folder.write("tokenizer.json", &tokenizer(true));
    let t = text(&folder);
    assert_eq!((t.add_bos, t.bos_token.as_deref()), (true, Some("<s>")));
    assert_eq!(t.json.as_bytes(), tokenizer(true));
    folder.write("tokenizer.json", &tokenizer(false));
    assert!(!text(&folder).add_bos);
    // The configuration has the last word.
    folder.write(
        "tokenizer_config.json",
        br#"{"add_bos_token": true, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}"#,
    );
    let t = text(&folder);
    assert_eq!(
        (t.add_bos, t.bos_token.as_deref(), t.eos_token.as_deref()),
        (true, Some("<s>"), Some("</s>"))
    );
    folder.write("tokenizer_config.json", br#"{"add_bos_token": false}"#);
    folder.write("tokenizer.json", &tokenizer(true));
    assert!(!text(&folder).add_bos);
}

#[test]
fn the_tokenizer_names_what_the_configuration_does_not() {
    let folder = Folder::of("llama").config(json!({"eos_token_id": null, "bos_token_id": null}));
    folder.write("tokenizer.json", &tokenizer(true));
    folder.write("tokenizer_config.json", br#"{"eos_token": "</s>"}"#);
    let config = open(folder.path()).unwrap().config;
    assert_eq!((config.bos, config.eos), (Some(1), vec![2]));
}

#[test]
fn chat_templates_in_every_form() {
    let folder = Folder::of("llama");
    folder.write("tokenizer.json", &tokenizer(false));
    assert_eq!(text(&folder).chat_template, None);
    folder.write("tokenizer_config.json", br#"{"chat_template": "one"}"#);
    assert_eq!(text(&folder).chat_template.as_deref(), Some("one"));
    let list = json!({"chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}]});
    folder.write("tokenizer_config.json", list.to_string().as_bytes());
    assert_eq!(text(&folder).chat_template.as_deref(), Some("two"));
    folder.write("chat_template.json", br#"{"chat_template": "three"}"#);
    assert_eq!(text(&folder).chat_template.as_deref(), Some("three"));
    folder.write("chat_template.jinja", b"four");
    assert_eq!(text(&folder).chat_template.as_deref(), Some("four"));
}

#[test]
fn tokenizers_that_cannot_be_read() {
    let folder = Folder::of("llama");
    folder.write("tokenizer.model", b"\x0a");
    let e = error(folder.path());
    assert!(e.message.contains("tokenizer.model, but no tokenizer.json") && e.help.is_some(), "{e}");
    folder.write("tokenizer.json", b"{}");
    assert!(error(folder.path()).message.contains("cannot be read as a tokenizer"));
}

#[test]
fn a_configuration_alone_keeps_the_tokenizer_beside_it() {
    let folder = Folder::of("llama");
    folder.write("tokenizer.json", &tokenizer(true));
    let checkpoint = open(&folder.path().join("config.json")).unwrap();
    assert!(!checkpoint.weights.present() && checkpoint.tokenizer.unwrap().add_bos);
    assert_eq!(Some(checkpoint.name.as_str()), folder.path().file_name().unwrap().to_str());
}

#[test]
fn a_stored_copy_of_a_tied_output_layer_is_not_read() {
    let folder = Folder::of("llama").config(json!({"tie_word_embeddings": true}));
    let checkpoint = open(folder.path()).unwrap();
    assert!(import(&checkpoint, &options()).unwrap().weight_named("lm_head").is_none());
}

#[test]
fn a_model_saved_without_its_class() {
    let folder = Folder::of("llama").config(json!({"architectures": null}));
    assert_eq!(open(folder.path()).unwrap().config.arch, "llama");
}
