//! Every architecture, target and precision through ptxas: the kernels of whole models are selected, compiled and
//! assembled. Spills and advice that a kernel must not earn are failures. Nothing is executed.
//!
//! What several models share is compiled once, by name, and assembled once, by text.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use trtc_codegen::emit::{self, EmitOptions, Kernel};
use trtc_codegen::ptxas::Ptxas;
use trtc_codegen::select::select;
use trtc_compiler::{BuildOptions, Phase, module_after};
use trtc_ir::target::TARGETS;
use trtc_ir::{DType, Target};

const PRECISIONS: [&str; 4] = ["bf16", "fp8", "int8", "int4"];

/// The small reference checkpoints: one of each architecture, and one with a tied output projection.
const TINY: [&str; 6] = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma3"];

/// Shapes of published models, with as many layers as there are kinds of them.
fn published() -> [(&'static str, Value); 6] {
    let llama = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 2, "max_position_embeddings": 131072, "vocab_size": 128256,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": false,
    });
    let with = |base: &Value, changes: Value| {
        let mut config = base.clone();
        let (Some(all), Value::Object(changes)) = (config.as_object_mut(), changes) else {
            panic!("a configuration is an object")
        };
        all.extend(changes);
        config
    };
    let llama_1b = with(
        &llama,
        json!({ "hidden_size": 2048, "intermediate_size": 8192, "head_dim": 64, "tie_word_embeddings": true }),
    );
    let mistral = with(
        &llama,
        json!({ "model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 32768,
                "max_position_embeddings": 32768, "rope_theta": 1e6, "sliding_window": null }),
    );
    let qwen2 = with(
        &llama,
        json!({ "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584,
                "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4,
                "vocab_size": 152064, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6 }),
    );
    let qwen3 = with(
        &llama,
        json!({ "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "intermediate_size": 12288,
                "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
                "rope_theta": 1e6 }),
    );
    let gemma3 = json!({
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2560, "intermediate_size": 10240,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "num_hidden_layers": 6,
        "query_pre_attn_scalar": 256, "max_position_embeddings": 131072, "vocab_size": 262208,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 1024,
        "sliding_window_pattern": 6, "tie_word_embeddings": true,
        "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
    });
    [
        ("Llama-3.2-1B", llama_1b),
        ("Llama-3.1-8B", llama),
        ("Mistral-7B", mistral),
        ("Qwen2.5-7B", qwen2),
        ("Qwen3-8B", qwen3),
        ("Gemma-3-4B", gemma3),
    ]
}

/// The assembler, or a loud word that there is none.
fn ptxas() -> Option<Ptxas> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let found = Ptxas::search(std::env::var_os("PATH").as_deref(), home.as_deref());
    if found.is_none() {
        eprintln!(
            "\n*** NOT TESTED: there is no ptxas on PATH or in ~/.cache/trtc/ptxas; no kernel is assembled ***\n"
        );
    }
    found
}

/// Kernels that were compiled, each once.
#[derive(Default)]
struct Compiled {
    deterministic: bool,
    names: BTreeSet<String>,
    kernels: Vec<Kernel>,
}

impl Compiled {
    /// Adds the kernels of a model that no model before had. Every op of it must have one.
    fn add(&mut self, model: &Path, target: &'static Target, precision: &str) {
        let what = format!("{} for {} in {precision}", model.display(), target.name);
        let options = BuildOptions {
            target: target.name.to_owned(),
            precision: precision.to_owned(),
            deterministic: self.deterministic,
            ..BuildOptions::default()
        };
        let mut module =
            module_after(model, Phase::Select, &options).unwrap_or_else(|d| panic!("{what}: {d}"));
        let selected = select(&mut module, target).unwrap_or_else(|d| panic!("{what}: {d}"));
        assert_eq!(selected.unsupported(target), None, "{what}");
        // An op without a choice is not compiled.
        for id in module.func.order.clone() {
            let choices = &mut module.func.ops[id].kernels;
            if choices.iter().all(|c| self.names.contains(&c.kernel)) {
                choices.clear();
            }
        }
        let made =
            emit::emit(&module, target, EmitOptions::default()).unwrap_or_else(|d| panic!("{what}: {d}"));
        self.kernels.extend(made.into_iter().filter(|k| self.names.insert(k.name.clone())));
    }

    /// Assembles every text once.
    fn assemble(&self, ptxas: &Ptxas) {
        let mut texts: BTreeMap<(&str, String), &Kernel> = BTreeMap::new();
        for kernel in &self.kernels {
            texts.entry((kernel.arch, kernel.ptx.replace(&kernel.entry, "entry"))).or_insert(kernel);
        }
        let kernels: Vec<Kernel> = texts.into_values().cloned().collect();
        // What a failure leaves in the folder is what its message names.
        let folder = std::env::temp_dir().join("trtc-assembled-tests");
        std::fs::create_dir_all(&folder).unwrap();
        let threads = EmitOptions::default().threads;
        let made = emit::assemble(&kernels, ptxas, threads, &folder).unwrap_or_else(|d| panic!("{d}"));
        assert!(made.iter().all(|a| !a.cubin.is_empty()));
        println!("{} kernels, {} texts assembled", self.kernels.len(), made.len());
    }
}

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny").join(name)
}

#[test]
fn every_architecture_for_every_target_in_every_precision() {
    let Some(ptxas) = ptxas() else { return };
    let mut compiled = Compiled::default();
    for target in TARGETS.iter().filter(|t| t.gpu.is_some()) {
        let fp8 = target.gpu.as_ref().is_some_and(|gpu| gpu.matrix_types.contains(&DType::F8E4M3));
        for precision in PRECISIONS.into_iter().filter(|p| fp8 || *p != "fp8") {
            TINY.iter().for_each(|model| compiled.add(&tiny(model), target, precision));
        }
    }
    compiled.assemble(&ptxas);
}

#[test]
fn published_models_for_sm_90_in_every_precision() {
    let Some(ptxas) = ptxas() else { return };
    let folder = tempfile::tempdir().unwrap();
    let target = Target::named("sm_90").unwrap();
    let mut compiled = [false, true].map(|deterministic| Compiled { deterministic, ..Compiled::default() });
    for (name, config) in published() {
        let model = folder.path().join(name);
        std::fs::create_dir(&model).unwrap();
        let file = model.join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        PRECISIONS.iter().for_each(|precision| compiled[0].add(&file, target, precision));
        if config["model_type"] == "llama" {
            ["bf16", "fp8"].iter().for_each(|precision| compiled[1].add(&file, target, precision));
        }
    }
    compiled.iter().for_each(|all| all.assemble(&ptxas));
}
