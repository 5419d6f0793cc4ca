//! Small GGUF models: how they differ from Hugging Face folders of the same model.

use super::*;
use crate::frontend::gguf::fixture::{Gguf, llama};
use crate::frontend::rope::divisors;
use trtc_ir::{RopeScaling, Source, TensorRef};

fn opened(file: &Gguf) -> (Checkpoint, Module) {
    let checkpoint = open(file.file().path()).unwrap();
    let module = import(&checkpoint, &options()).unwrap();
    check_graph(&module, &checkpoint.config);
    (checkpoint, module)
}

fn source<'m>(module: &'m Module, name: &str) -> &'m TensorRef {
    match &module.weights[module.weight_named(name).unwrap()].source {
        Source::Tensors(parts) => &parts[0],
        Source::Rope(_) => panic!("{name} is a table"),
    }
}

#[test]
fn llama_rows_are_brought_back_from_interleaved_order() {
    let (checkpoint, module) = opened(&llama());
    let c = &checkpoint.config;
    assert_eq!((c.vocab, c.hidden, c.heads, c.kv_heads, c.head_dim), (8, 8, 2, 1, 4));
    assert!(c.tied);
    assert_eq!(c.eos, [0, 7]);
    assert_eq!(source(&module, "l0.attn.q").interleaved_heads, Some(2));
    assert_eq!(source(&module, "l0.attn.k").interleaved_heads, Some(1));
    assert_eq!(source(&module, "l0.attn.v").interleaved_heads, None);
    let mut q = vec![0.0; 64];
    checkpoint.weights.read_rows(source(&module, "l0.attn.q"), 0..8, &mut q).unwrap();
    // Element 0 of stored row r is 8 r; row (half, i) is stored as (i, half).
    let rows: Vec<f32> = q.chunks(8).map(|r| r[0] / 8.0).collect();
    assert_eq!(rows, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
}

#[test]
fn an_output_layer_and_biases_are_there_if_their_tensors_are() {
    let file = llama()
        .counting("output.weight", &[8, 8])
        .counting("blk.0.attn_q.bias", &[8])
        .counting("blk.0.attn_k.bias", &[4])
        .counting("blk.0.attn_v.bias", &[4]);
    let (checkpoint, module) = opened(&file);
    assert!(!checkpoint.config.tied && checkpoint.config.qkv_bias && !checkpoint.config.o_bias);
    assert_eq!(source(&module, "l0.attn.q.bias").interleaved_heads, Some(2));
}

#[test]
fn the_table_of_llama3_factors_is_recognised() {
    let scaling = |file: &Gguf| open(file.file().path()).map(|c| c.config.layers[0].rope.scaling);
    let factors = |factor| {
        let scaling = RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original: 8192.0 };
        divisors(trtc_ir::RopeFreqs { dim: 4, theta: 1e8, scaling })
    };
    let found = scaling(&llama().floats("rope_freqs.weight", &factors(32.0))).unwrap();
    assert_eq!(found, RopeScaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original: 8192.0 });
    assert_eq!(scaling(&llama().floats("rope_freqs.weight", &[1.0, 1.0])).unwrap(), RopeScaling::None);
    let e = scaling(&llama().floats("rope_freqs.weight", &[3.0, 1.0])).unwrap_err();
    assert!(e.message.contains("not a llama3 table"), "{e}");
    let linear = llama().str("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0);
    assert_eq!(scaling(&linear).unwrap(), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(&llama().str("llama.rope.scaling.type", "none")).unwrap(), RopeScaling::None);
}

#[test]
fn values_by_layer_are_read_where_all_agree() {
    let base = |heads: &[i32]| {
        let mut file =
            Gguf::default().str("general.architecture", "qwen3").i32s("qwen3.attention.head_count", heads);
        for (key, value) in [
            ("block_count", 2),
            ("context_length", 64),
            ("embedding_length", 8),
            ("feed_forward_length", 16),
            ("vocab_size", 8),
        ] {
            file = file.u32(&format!("qwen3.{key}"), value);
        }
        file.f32("qwen3.attention.layer_norm_rms_epsilon", 1e-6)
    };
    assert_eq!(open(base(&[2, 2]).file().path()).unwrap().config.heads, 2);
    let e = error(base(&[2, 4]).file().path());
    assert!(e.message.contains("`qwen3.attention.head_count` differs between layers"), "{e}");
}

#[test]
fn gemma3_norms_hold_the_one_already() {
    let mut file = Gguf::default().str("general.architecture", "gemma3");
    for (key, value) in [
        ("block_count", 7),
        ("context_length", 64),
        ("embedding_length", 8),
        ("feed_forward_length", 16),
        ("vocab_size", 8),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 16),
        ("attention.value_length", 16),
        ("attention.sliding_window", 32),
    ] {
        file = file.u32(&format!("gemma3.{key}"), value);
    }
    file = file.f32("gemma3.attention.layer_norm_rms_epsilon", 1e-6).f32("gemma3.rope.freq_base", 1e6);
    let c = open(file.file().path()).unwrap().config;
    assert_eq!((c.norm_offset, c.attn_scale, c.interleaved), (0.0, 0.25, false));
    let windows: Vec<Option<u32>> = c.layers.iter().map(|l| l.window).collect();
    let w = Some(32);
    assert_eq!(windows, [w, w, w, w, w, None, w]);
    assert_eq!((c.layers[0].rope.theta, c.layers[5].rope.theta), (1e4, 1e6));
    // The newer key, a flag for each layer.
    let flags = [7u32.to_le_bytes().as_slice(), &7u64.to_le_bytes(), &[0, 1, 0, 1, 0, 1, 0]].concat();
    let c =
        open(file.raw("gemma3.attention.sliding_window_pattern", 9, &flags).file().path()).unwrap().config;
    let windows: Vec<Option<u32>> = c.layers.iter().map(|l| l.window).collect();
    assert_eq!(windows, [None, w, None, w, None, w, None]);
}
