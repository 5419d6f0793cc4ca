//! The three real models, where they have been fetched into `$TRTC_MODELS` or `~/.cache/trtc/models`.

use super::*;
use serde_json::Value;
use tokenizers::Tokenizer;
use trtc_ir::TensorRef;

pub fn model(file: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os("TRTC_MODELS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/trtc/models"),
    };
    Some(folder.join(file)).filter(|p| p.is_file())
}

/// Imports a model and encodes and decodes every reference prompt.
fn check(golden: &str) {
    let text = std::fs::read_to_string(golden_folder().join("real").join(golden)).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let Some(path) = model(golden["gguf"].as_str().unwrap()) else {
        eprintln!("skipped: {} is not there", golden["gguf"]);
        return;
    };
    let checkpoint = open(&path).unwrap();
    let module = import(&checkpoint, &options()).unwrap();
    check_graph(&module, &checkpoint.config);
    let text = checkpoint.tokenizer.unwrap();
    let tokenizer = Tokenizer::from_bytes(text.json.as_bytes()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let want: Vec<u32> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
        let encoded = tokenizer.encode(prompt, false).unwrap();
        let bos = checkpoint.config.bos.filter(|_| text.add_bos);
        let got: Vec<u32> = bos.into_iter().chain(encoded.get_ids().iter().copied()).collect();
        assert_eq!(got, want, "{prompt:?}");
        let greedy: Vec<u32> = serde_json::from_value(case["greedy_ids"].clone()).unwrap();
        assert_eq!(tokenizer.decode(&greedy, false).unwrap(), case["greedy_text"].as_str().unwrap());
        assert_eq!(tokenizer.decode(encoded.get_ids(), false).unwrap(), prompt);
    }
}

#[test]
fn smollm2() {
    check("smollm2-135m-instruct.json");
}

#[test]
fn qwen() {
    check("qwen2.5-coder-0.5b-instruct.json");
}

#[test]
fn gemma() {
    check("gemma-3-270m.json");
}

#[test]
fn every_weight_of_a_quantised_model_reads_as_finite_numbers() {
    let Some(path) = model("gemma-3-270m-q4_k_m.gguf") else {
        return;
    };
    let checkpoint = open(&path).unwrap();
    let names: Vec<String> = checkpoint.weights.names().map(str::to_owned).collect();
    for name in names {
        let (rows, width) = checkpoint.weights.extent(&name).unwrap();
        let tensor = TensorRef { name: name.clone(), interleaved_heads: None };
        let mut out = vec![0.0; (64.min(rows) * width) as usize];
        for first in (0..rows).step_by(64) {
            let last = (first + 64).min(rows);
            let out = &mut out[..((last - first) * width) as usize];
            checkpoint.weights.read_rows(&tensor, first..last, out).unwrap();
            assert!(out.iter().all(|x| x.is_finite() && x.abs() < 1e4), "{name}");
        }
    }
}
