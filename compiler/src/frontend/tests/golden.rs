//! The checked-in reference checkpoints.

use super::*;
use trtc_ir::{Op, RopeScaling, Source, TensorRef};

fn tiny(name: &str) -> (Checkpoint, Module) {
    let checkpoint = open(&golden_folder().join("tiny").join(name)).unwrap();
    assert!(checkpoint.weights.present() && checkpoint.tokenizer.is_none());
    assert_eq!((checkpoint.name.as_str(), checkpoint.config.bos), (name, Some(1)));
    assert_eq!(checkpoint.config.eos, [2]);
    let module = import(&checkpoint, &options()).unwrap();
    check_graph(&module, &checkpoint.config);
    (checkpoint, module)
}

fn ropes(module: &Module) -> Vec<trtc_ir::RopeFreqs> {
    let freqs = |w: &trtc_ir::Weight| {
        if let Source::Rope(f) = w.source { Some(f) } else { None }
    };
    module.weights.iter().filter_map(|(_, w)| freqs(w)).collect()
}

#[test]
fn llama() {
    let (checkpoint, module) = tiny("llama");
    assert_eq!(checkpoint.config.arch, "llama");
    assert_eq!(ropes(&module).len(), 1);
    assert!(matches!(ropes(&module)[0].scaling, RopeScaling::Llama3 { factor: 8.0, original: 64.0, .. }));
    assert!(module.weight_named("lm_head").is_some());
    assert_eq!(count(&module, |op| matches!(op, Op::RmsNorm(_))), 5);
    let names: Vec<&str> = module.weights.iter().map(|(_, w)| w.name.as_str()).take(10).collect();
    assert_eq!(
        names,
        [
            "tok_embd",
            "l0.attn.norm",
            "l0.attn.q",
            "l0.attn.k",
            "l0.attn.v",
            "rope.0",
            "l0.attn.o",
            "l0.mlp.norm",
            "l0.mlp.gate",
            "l0.mlp.up"
        ]
    );
}

#[test]
fn a_tied_model_reads_the_table_twice() {
    let (checkpoint, module) = tiny("llama-tied");
    assert!(checkpoint.config.tied && module.weight_named("lm_head").is_none());
    let last = *module.func.order.last().unwrap();
    let Op::Linear(head) = &module.func.ops[last].op else { panic!("the last op is the output projection") };
    assert_eq!(Some(head.weight), module.weight_named("tok_embd"));
}

#[test]
fn mistral_has_a_window_on_every_layer_unless_it_covers_everything() {
    let (checkpoint, module) = tiny("mistral");
    let windows = |m: &Module| -> Vec<Option<u32>> {
        m.func.params.iter().filter_map(|&p| m.func.values[p].ty.kv().map(|k| k.window)).collect()
    };
    assert_eq!(windows(&module), [Some(24), Some(24)]);
    let short = ImportOptions { max_seq_len: 24, ..options() };
    assert_eq!(windows(&import(&checkpoint, &short).unwrap()), [None, None]);
}

#[test]
fn qwen2_has_biases_and_qwen3_norms() {
    let (_, two) = tiny("qwen2");
    assert!(two.weight_named("l1.attn.k.bias").is_some() && two.weight_named("l1.attn.o.bias").is_none());
    let (_, three) = tiny("qwen3");
    assert!(three.weight_named("l1.attn.k.bias").is_none() && three.weight_named("l1.attn.k_norm").is_some());
    assert_eq!(count(&three, |op| matches!(op, Op::RmsNorm(_))), 2 * 4 + 1);
}

#[test]
fn gemma3() {
    let (checkpoint, module) = tiny("gemma3");
    let c = &checkpoint.config;
    assert!(c.tied && c.post_norms && c.norm_offset == 1.0);
    assert_eq!((c.embed_scale, c.attn_scale), (128f32.sqrt(), 0.125));
    let windows: Vec<Option<u32>> = c.layers.iter().map(|l| l.window).collect();
    let w = Some(16);
    assert_eq!(windows, [w, w, w, w, w, None, w]);
    let thetas: Vec<f64> = ropes(&module).iter().map(|f| f.theta).collect();
    assert_eq!(thetas, [1e4, 1e6]);
    assert_eq!(count(&module, |op| matches!(op, Op::RmsNorm(_))), 7 * 6 + 1);
}

#[test]
fn types_follow_the_options() {
    let (_, module) = tiny("llama");
    let f = &module.func;
    let ty = |name: &str| f.values.iter().find(|(_, v)| v.name == name).unwrap().1.ty.to_string();
    assert_eq!(ty("x"), "tensor<Tx128xf32>");
    assert_eq!(ty("l0_attn_norm"), "tensor<Tx128xbf16>");
    assert_eq!(ty("l0_q"), "tensor<Tx4x64xf32>");
    assert_eq!(ty("l0_k"), "tensor<Tx2x64xf32>");
    assert_eq!(ty("l0_attn"), "tensor<Tx256xbf16>");
    assert_eq!(ty("l0_h"), "tensor<Tx128xf32>");
    assert_eq!(ty("kv1"), "!llm.kv<layer 1, 2 heads, 64, bf16>");
    assert_eq!(ty("last"), "tensor<Lx128xbf16>");
    assert_eq!(ty("logits"), "tensor<Lx384xf32>");
    let weight = |name: &str| module.weights[module.weight_named(name).unwrap()].ty.to_string();
    assert_eq!(weight("l1.mlp.down"), "tensor<128x256xbf16>");
    assert_eq!(weight("out.norm"), "tensor<128xf32>");
}

#[test]
fn weights_are_those_of_the_file() {
    let (checkpoint, _) = tiny("llama");
    let tensor = TensorRef { name: "model.layers.1.self_attn.k_proj.weight".into(), interleaved_heads: None };
    let mut all = vec![0.0; 128 * 128];
    checkpoint.weights.read_rows(&tensor, 0..128, &mut all).unwrap();
    let mut row = vec![0.0; 128];
    checkpoint.weights.read_rows(&tensor, 77..78, &mut row).unwrap();
    assert_eq!(row, all[77 * 128..78 * 128]);
    let rms = (all.iter().map(|x| x * x).sum::<f32>() / all.len() as f32).sqrt();
    assert!(rms > 1e-3 && rms < 10.0, "{rms}");
}

#[test]
fn sequences_beyond_the_context_are_refused() {
    let (checkpoint, _) = tiny("llama");
    let e = import(&checkpoint, &ImportOptions { max_seq_len: 513, ..options() }).unwrap_err();
    assert!(e.message.contains("513") && e.message.contains("512"), "{e}");
}
