//! Checkpoints in e4m3, written here in the forms that are published: their values, and their bytes in an engine.

use super::*;
use crate::pack::{PackError, payload};
use ::safetensors::Dtype;
use serde_json::json;
use trtc_engine::layout::{Part, e4m3, sizes};
use trtc_engine::manifest as eng;
use trtc_ir::random::Random;
use trtc_ir::{Fault, Scheme, Source, TensorRef, TensorType, Weight};

/// What shares a scale.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Grain {
    Tensor,
    Channel,
    Block(usize, usize),
}

/// Names of scales, their shape and type.
#[derive(Clone, Copy)]
struct Form {
    grain: Grain,
    ending: &'static str,
    dtype: Dtype,
}

const LINEARS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// True of the weights that such checkpoints quantise.
fn linear(name: &str) -> bool {
    LINEARS.iter().any(|l| name.ends_with(&format!("{l}.weight")))
}

/// Random elements of a matrix, any number that e4m3 has.
fn codes(name: &str, count: usize) -> Vec<u8> {
    let mut random = Random::named(3, name);
    (0..count).map(|_| random.below(254) as u8).map(|c| if c < 127 { c } else { c + 1 }).collect()
}

/// Number of scales, and the scale of element `(row, column)` of a matrix.
fn scale(form: Form, shape: &[usize], row: usize, column: usize) -> (Vec<usize>, f32) {
    let (dims, at) = match form.grain {
        Grain::Tensor => (vec![], 0),
        Grain::Channel => (vec![shape[0], 1], row),
        Grain::Block(r, c) => {
            let dims = vec![shape[0].div_ceil(r), shape[1].div_ceil(c)];
            let at = row / r * dims[1] + column / c;
            (dims, at)
        }
    };
    // Exact in bf16 too.
    (dims, (1 + at % 100) as f32 / 64.0)
}

/// The reference checkpoint with its linears in e4m3.
fn folder(config: serde_json::Value, form: Form) -> Folder {
    Folder::of("llama").config(json!({ "quantization_config": config })).tensors(|tensors| {
        let mut scales = Vec::new();
        for (name, t) in tensors.iter_mut().filter(|(name, _)| linear(name)) {
            let count = t.shape.iter().product();
            (t.dtype, t.bytes) = (Dtype::F8_E4M3, codes(name, count));
            let (shape, _) = scale(form, &t.shape, 0, 0);
            let grain = match form.grain {
                Grain::Tensor => (t.shape[0], t.shape[1]),
                Grain::Channel => (1, t.shape[1]),
                Grain::Block(r, c) => (r, c),
            };
            let mut bytes = Vec::new();
            for row in (0..t.shape[0]).step_by(grain.0) {
                for column in (0..t.shape[1]).step_by(grain.1) {
                    let (_, s) = scale(form, &t.shape, row, column);
                    match form.dtype {
                        Dtype::BF16 => bytes.extend(half::bf16::from_f32(s).to_le_bytes()),
                        _ => bytes.extend(s.to_le_bytes()),
                    }
                }
            }
            let module = name.strip_suffix(".weight").unwrap();
            scales.push((format!("{module}{}", form.ending), Stored { dtype: form.dtype, shape, bytes }));
            let calibrated = Stored { dtype: Dtype::F32, shape: vec![1], bytes: 0.5f32.to_le_bytes().into() };
            scales.push((format!("{module}.input_scale"), calibrated));
        }
        tensors.extend(scales);
    })
}

fn compressed(strategy: &str) -> serde_json::Value {
    json!({"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
        "quantization_status": "compressed", "kv_cache_scheme": null,
        "config_groups": {"group_0": {"targets": ["Linear"], "output_activations": null,
            "weights": {"type": "float", "num_bits": 8, "symmetric": true, "strategy": strategy, "dynamic": false},
            "input_activations": {"type": "float", "num_bits": 8, "strategy": "token", "dynamic": true}}}})
}

/// All forms, with the configuration of each.
fn forms() -> Vec<(serde_json::Value, Form)> {
    let form = |grain, ending, dtype| Form { grain, ending, dtype };
    let mut blocks = compressed("block");
    blocks["config_groups"]["group_0"]["weights"]["block_structure"] = json!([32, 64]);
    vec![
        (compressed("tensor"), form(Grain::Tensor, ".weight_scale", Dtype::BF16)),
        (compressed("channel"), form(Grain::Channel, ".weight_scale", Dtype::BF16)),
        (compressed("channel"), form(Grain::Channel, ".weight_scale", Dtype::F32)),
        (blocks, form(Grain::Block(32, 64), ".weight_scale", Dtype::BF16)),
        (
            json!({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}),
            form(Grain::Tensor, ".weight_scale", Dtype::F32),
        ),
        (
            json!({"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}),
            form(Grain::Block(128, 128), ".weight_scale_inv", Dtype::F32),
        ),
        (
            json!({"quant_method": "fp8", "weight_block_size": [96, 48]}),
            form(Grain::Block(96, 48), ".weight_scale_inv", Dtype::F32),
        ),
    ]
}

fn by_name(name: &str) -> TensorRef {
    TensorRef { name: name.into(), interleaved_heads: None }
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";
/// Wider than the widest of the blocks.
const DOWN: &str = "model.layers.1.mlp.down_proj.weight";

#[test]
fn every_published_form_is_read() {
    for (config, form) in forms() {
        let folder = folder(config, form);
        let checkpoint = open(folder.path()).unwrap();
        let module = import(&checkpoint, &options()).unwrap();
        check_graph(&module, &checkpoint.config);
        for name in [UP, "model.layers.0.self_attn.k_proj.weight"] {
            let shape = checkpoint.weights.info(name).unwrap().shape.clone();
            let (rows, columns) = (shape[0] as usize, shape[1] as usize);
            let codes = codes(name, rows * columns);
            let mut values = vec![0.0; (rows - 3) * columns];
            checkpoint.weights.read_rows(&by_name(name), 3..rows as u64, &mut values).unwrap();
            for (i, x) in values.iter().enumerate() {
                let (row, column) = (3 + i / columns, i % columns);
                let (_, s) = scale(form, &[rows, columns], row, column);
                assert_eq!(*x, e4m3(codes[row * columns + column]) * s, "{:?} ({row}, {column})", form.grain);
            }
        }
    }
}

/// Packs a weight of `tensors`, row-major, and gives its codes and scales.
fn packed(checkpoint: &Checkpoint, tensors: &[&str]) -> (Vec<u8>, Vec<f32>) {
    let extents = tensors.iter().map(|t| checkpoint.weights.extent(t).unwrap());
    let (n, k) = extents.fold((0, 0), |(n, _), (rows, width)| (n + rows, width));
    let source = Source::Tensors(tensors.iter().map(|t| by_name(t)).collect());
    let weight = Weight {
        name: "w".into(),
        ty: TensorType::fixed(&[n, k], trtc_ir::Elem::Quant(Scheme::FP8)),
        source,
        packing: None,
    };
    let (encoding, layout) = (eng::Encoding::F8Channel, eng::Layout::Rows);
    let stored = eng::Weight { name: "w".into(), shape: vec![n, k], encoding, layout, computed: false };
    let mut out = Vec::new();
    let side = match payload(&weight, &stored, &checkpoint.weights, &mut out, &mut |_| ()) {
        Ok(side) => side,
        Err(PackError::Checkpoint(diag)) => panic!("{diag}"),
        Err(_) => panic!("it cannot be packed"),
    };
    let want = sizes(&stored.shape, encoding, layout).unwrap();
    assert_eq!((out.len() as u64, side.scale.len() as u64), (want.of(Part::Payload), want.of(Part::Scale)));
    (out, side.scale.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

#[test]
fn scales_of_whole_rows_keep_every_byte() {
    let parts = ["q_proj", "k_proj", "v_proj"].map(|p| format!("model.layers.0.self_attn.{p}.weight"));
    let parts = parts.each_ref().map(String::as_str);
    for (config, form) in forms().into_iter().filter(|(_, f)| !matches!(f.grain, Grain::Block(..))) {
        let folder = folder(config, form);
        let checkpoint = open(folder.path()).unwrap();
        // Merged weights too: each part keeps its own scales.
        let (found, scales) = packed(&checkpoint, &parts);
        let (mut want, mut want_scales) = (Vec::new(), Vec::new());
        for part in parts {
            let (rows, width) = checkpoint.weights.extent(part).unwrap();
            want.extend(codes(part, (rows * width) as usize));
            let shape = [rows as usize, width as usize];
            want_scales.extend((0..shape[0]).map(|row| scale(form, &shape, row, 0).1));
        }
        assert!(found == want && scales == want_scales, "{:?}", form.grain);
    }
}

#[test]
fn scales_of_blocks_become_scales_of_rows() {
    for (config, form) in forms().into_iter().filter(|(_, f)| matches!(f.grain, Grain::Block(..))) {
        let folder = folder(config, form);
        let checkpoint = open(folder.path()).unwrap();
        let (rows, width) = checkpoint.weights.extent(DOWN).unwrap();
        let mut values = vec![0.0; (rows * width) as usize];
        checkpoint.weights.read_rows(&by_name(DOWN), 0..rows, &mut values).unwrap();
        let want = trtc_ir::quant::quantize(&values, rows as usize, width as usize, Scheme::FP8).unwrap();
        let (found, scales) = packed(&checkpoint, &[DOWN]);
        assert!(found.iter().zip(&want.payload).all(|(a, b)| *a == *b as u8) && scales == want.scales);
    }
}

#[test]
fn what_is_not_e4m3_is_refused() {
    let refused = |config: serde_json::Value, words: &str| {
        let e = error(Folder::of("llama").config(json!({ "quantization_config": config })).path());
        assert!(e.fault == Fault::Unsupported && e.message.contains(words) && e.help.is_some(), "{e}");
    };
    refused(json!({"quant_method": "fp8", "fmt": "e5m2"}), "`quantization_config.fmt` is e5m2");
    refused(json!({"quant_method": "gptq"}), "is gptq");
    refused(json!({}), "is unknown");
    refused(json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}), "is pack-quantized");
    let change = |key: &str, value: serde_json::Value| {
        let mut config = compressed("channel");
        config["config_groups"]["group_0"]["weights"][key] = value;
        config
    };
    refused(change("type", json!("int")), "weights.type` is int");
    refused(change("num_bits", json!(4)), "num_bits` is 4");
    refused(change("strategy", json!("group")), "strategy` is group");
    refused(change("symmetric", json!(false)), "symmetric` is false");
    let mut sparse = compressed("channel");
    sparse["sparsity_config"] = json!({"format": "sparse-24-bitmask"});
    refused(sparse, "`quantization_config.sparsity_config.format` is sparse-24-bitmask");
    let block = json!({"quant_method": "fp8", "weight_block_size": [128, 0]});
    let e = error(Folder::of("llama").config(json!({ "quantization_config": block })).path());
    assert!(e.message.contains("`quantization_config.weight_block_size` must be"), "{e}");
}

#[test]
fn scales_that_do_not_fit_are_named() {
    let (config, form) = forms().swap_remove(1);
    let changed = |change: &dyn Fn(&mut Vec<(String, Stored)>)| {
        error(folder(config.clone(), form).tensors(change).path()).to_string()
    };
    let gone = changed(&|t| t.retain(|(n, _)| n != &format!("{UP}_scale")));
    assert!(gone.contains(&format!("{UP:?} is e4m3 and has no scale")), "{gone}");
    let find = |t: &mut Vec<(String, Stored)>, name: &str| t.iter().position(|(n, _)| n == name).unwrap();
    let short = changed(&|t| {
        let at = find(t, &format!("{UP}_scale"));
        t[at].1.shape = vec![128, 2];
    });
    assert!(short.contains("weight_scale\" is [128, 2]"), "{short}");
    let wrong = changed(&|t| {
        let at = find(t, &format!("{UP}_scale"));
        t[at].1.dtype = Dtype::I16;
    });
    assert!(wrong.contains("weight_scale\" have type I16"), "{wrong}");
    // A scale of what is not quantised belongs to nothing.
    let stray = changed(&|t| {
        let at = find(t, &format!("{UP}_scale"));
        let scale = t[at].1.clone();
        t.push(("lm_head.weight_scale".into(), scale));
    });
    assert!(stray.contains("\"lm_head.weight_scale\""), "{stray}");
}

#[test]
fn elements_and_scales_that_are_no_numbers_are_found() {
    let (config, form) = forms().swap_remove(2);
    for (name, byte) in [(UP.to_owned(), 0x7fu8), (format!("{UP}_scale"), 0xff)] {
        let folder = folder(config.clone(), form).tensors(|tensors| {
            let (_, t) = tensors.iter_mut().find(|(n, _)| *n == name).unwrap();
            let at = t.bytes.len() - 1;
            t.bytes[at] = byte;
            if t.dtype == Dtype::F32 {
                t.bytes[at - 1] = 0xff;
            }
        });
        let checkpoint = open(folder.path()).unwrap();
        let (rows, width) = checkpoint.weights.extent(UP).unwrap();
        let weight = Weight {
            name: "w".into(),
            ty: TensorType::fixed(&[rows, width], trtc_ir::Elem::Quant(Scheme::FP8)),
            source: Source::Tensors(vec![by_name(UP)]),
            packing: None,
        };
        let stored = eng::Weight {
            name: "w".into(),
            shape: vec![rows, width],
            encoding: eng::Encoding::F8Channel,
            layout: eng::Layout::Panel16,
            computed: false,
        };
        match payload(&weight, &stored, &checkpoint.weights, &mut Vec::new(), &mut |_| ()) {
            Err(PackError::Checkpoint(e)) => {
                assert!(
                    e.fault == Fault::User && e.message.contains(&format!("NaN at row {}", rows - 1)),
                    "{e}"
                );
            }
            _ => panic!("{name} is not a number, and it was packed"),
        }
    }
}
