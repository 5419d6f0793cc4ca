//! Imported graphs, run by the reference interpreter on the checkpoint's weights, against reference outputs.

use super::*;
use serde_json::Value;
use std::rc::Rc;
use trtc_ir::interp::{Batch, Data, KvState, Segment, Tensor, Weights, run};
use trtc_ir::{Source, WeightId};

/// The weights of a checkpoint, whole.
struct Whole<'a>(&'a CheckpointWeights);

impl Weights for Whole<'_> {
    fn load(&self, module: &Module, weight: WeightId) -> Result<Rc<Tensor>, String> {
        let weight = &module.weights[weight];
        let dims: Vec<usize> = weight.ty.shape().unwrap().iter().map(|&d| d as usize).collect();
        let data = match &weight.source {
            Source::Rope(freqs) => freqs.values(),
            Source::Tensors(parts) => {
                let mut data = vec![0.0; dims.iter().product()];
                let (rows, _) = self.0.extent(&parts[0].name).unwrap();
                self.0.read_rows(&parts[0], 0..rows, &mut data).map_err(|e| e.to_string())?;
                data
            }
        };
        Ok(Rc::new(Tensor { dims, data }))
    }
}

/// Logits of every position of a sequence.
fn logits(checkpoint: &Checkpoint, module: &Module, tokens: &[u32]) -> Vec<Vec<f32>> {
    let n = tokens.len();
    let count: Vec<i32> = (0..n as i32).collect();
    let batch = Batch { segments: vec![Segment { seq: 0, start: 0, len: n }] };
    let mut inputs = vec![
        Data::Int(tokens.iter().map(|&t| t as i32).collect()),
        Data::Int(count.clone()),
        Data::Int(count),
        Data::Batch(Rc::new(batch)),
    ];
    inputs.extend(checkpoint.config.layers.iter().map(|_| Data::Kv(Rc::new(KvState::default()))));
    let mut results = run(module, &Whole(&checkpoint.weights), &inputs).unwrap();
    let Some(Data::Float(t)) = results.pop() else { panic!("the result is the logits") };
    t.data.chunks_exact(t.dims[1]).map(<[f32]>::to_vec).collect()
}

fn log_probability(logits: &[f32], token: u32) -> f32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|l| (l - top).exp()).sum();
    logits[token as usize] - top - sum.ln()
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

fn numbers<T: serde::de::DeserializeOwned>(case: &Value, key: &str) -> Vec<T> {
    serde_json::from_value(case[key].clone()).unwrap()
}

fn f32_options() -> ImportOptions {
    let f = DType::F32;
    ImportOptions {
        act: f,
        residual: f,
        weight: f,
        kv: f,
        attention: None,
        max_seq_len: 128,
        max_step_tokens: 128,
        max_logit_rows: 128,
    }
}

/// Runs the prompt and `steps` tokens of the reference's continuation; compares each step.
fn check(checkpoint: &Checkpoint, module: &Module, case: &Value, steps: usize, tolerance: f32) {
    let prompt: Vec<u32> = numbers(case, "prompt_ids");
    let greedy: Vec<u32> = numbers(case, "greedy_ids");
    let (wanted, gaps): (Vec<f32>, Vec<f32>) = (numbers(case, "greedy_logprobs"), numbers(case, "top2_gap"));
    let fed: Vec<u32> = prompt.iter().chain(&greedy[..steps - 1]).copied().collect();
    let logits = logits(checkpoint, module, &fed);
    if let Some(last) = case.get("last_prompt_logits") {
        let want: Vec<f32> = serde_json::from_value(last.clone()).unwrap();
        for (got, want) in logits[prompt.len() - 1].iter().zip(&want) {
            assert!((got - want).abs() < tolerance, "{got} {want}");
        }
    }
    for step in 0..steps {
        let row = &logits[prompt.len() - 1 + step];
        let got = log_probability(row, greedy[step]);
        assert!((got - wanted[step]).abs() < tolerance, "step {step}: {got} {}", wanted[step]);
        assert!(best(row) == greedy[step] || gaps[step] < 2.0 * tolerance, "step {step}");
    }
}

fn tiny(name: &str) {
    let folder = golden_folder().join("tiny").join(name);
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
    let checkpoint = open(&folder).unwrap();
    let module = import(&checkpoint, &f32_options()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        check(&checkpoint, &module, case, 24, 0.001);
    }
}

fn real(golden: &str) {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(golden_folder().join("real").join(golden)).unwrap()).unwrap();
    let Some(path) = super::real::model(golden["gguf"].as_str().unwrap()) else {
        return;
    };
    let checkpoint = open(&path).unwrap();
    let module = import(&checkpoint, &f32_options()).unwrap();
    check(&checkpoint, &module, &golden["cases"][0], 3, 0.005);
}

#[test]
fn tiny_models() {
    for name in ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma3"] {
        tiny(name);
    }
}

#[test]
fn smollm2() {
    real("smollm2-135m-instruct.json");
}

#[test]
fn qwen() {
    real("qwen2.5-coder-0.5b-instruct.json");
}

#[test]
fn gemma() {
    real("gemma-3-270m.json");
}
