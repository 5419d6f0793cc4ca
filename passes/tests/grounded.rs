//! Every rewrite is grounded: the interpreter runs import-like models before and after each pass, and each
//! pass leaves the ops that it promises.

mod common;

use common::{GEMMA3, HEAD_DIM, LLAMA, QWEN2, QWEN3, SHAPES, assert_close, logits, model, ops};
use trtc_ir::interp::{self, Data, Tensor};
use trtc_ir::ops::Linear;
use trtc_ir::random::RandomWeights;
use trtc_ir::target::TARGETS;
use trtc_ir::{DType, Loc, Module, Op, Source, Target, TensorType};
use trtc_passes::{Options, Pass, PassCx, Precision, Recipe, quantize, registry, run_passes};

const FUSE: [&str; 9] = [
    "canonicalize",
    "fuse-qkv",
    "fuse-gate-up",
    "fuse-gated-act",
    "fuse-rope-kv",
    "fuse-epilogue",
    "fuse-add-norm",
    "sink-gather",
    "fuse-quantize",
];

fn run(module: &mut Module, names: &[&str]) -> Vec<bool> {
    let passes: Vec<&Pass> = names.iter().map(|n| registry::find(n).expect("registered")).collect();
    let cx = PassCx::new(&TARGETS[0]);
    let report = run_passes(module, &passes, &cx, Options { spec: true, ..Options::default() });
    report.unwrap_or_else(|d| panic!("{names:?}: {d}")).timings.iter().map(|t| t.changed).collect()
}

fn ran(mut module: Module, names: &[&str]) -> Module {
    run(&mut module, names);
    module
}

/// The ops of one layer of a fused model, by position of its cache.
fn fused_ops(module: &Module) -> Vec<&'static str> {
    ops(&ran(module.clone(), &FUSE))
}

#[test]
fn every_pass_keeps_the_logits_of_every_model() {
    for (name, shape) in SHAPES {
        let before = model(name, shape, DType::F32);
        let weights = RandomWeights::new(1).learn(&before);
        let expected = logits(&before, &weights);
        let mut module = before.clone();
        for pass in FUSE {
            run(&mut module, &[pass]);
            assert_close(&format!("{name} after {pass}"), &expected, &logits(&module, &weights), 1e-5);
            // Each pass alone, too.
            let alone = ran(before.clone(), &[pass]);
            assert_close(&format!("{name} after {pass} alone"), &expected, &logits(&alone, &weights), 1e-5);
        }
    }
}

#[test]
fn bf16_models_stay_within_their_rounding() {
    for (name, shape) in SHAPES {
        let before = model(name, shape, DType::Bf16);
        let weights = RandomWeights::new(1).learn(&before);
        let after = ran(before.clone(), &FUSE);
        assert_close(name, &logits(&before, &weights), &logits(&after, &weights), 0.06);
    }
}

#[test]
fn merging_keeps_quantised_weights() {
    for precision in ["int8", "int4"] {
        for (name, shape) in SHAPES {
            let mut before = model(name, shape, DType::F32);
            let cx = PassCx { precision: Precision::named(precision), ..PassCx::new(&TARGETS[0]) };
            run_passes(&mut before, &[&quantize::PASS], &cx, Options::default()).expect("quantizes");
            let weights = RandomWeights::new(1).learn(&before);
            let after = ran(before.clone(), &FUSE);
            assert!(after.weight_named("l0.attn.qkv").is_some());
            assert_close(
                &format!("{name} {precision}"),
                &logits(&before, &weights),
                &logits(&after, &weights),
                1e-5,
            );
        }
    }
}

#[test]
fn passes_reach_a_fixed_point() {
    for (name, shape) in SHAPES {
        let mut module = model(name, shape, DType::F32);
        run(&mut module, &FUSE);
        assert_eq!(run(&mut module, &FUSE), [false; FUSE.len()], "{name}");
    }
}

#[test]
fn a_llama_layer_is_nine_ops() {
    let layer = [
        "rms_norm",
        "linear", // q, k, v
        "rope_kv_append",
        "attention",
        "linear", // o, with its residual
        "rms_norm",
        "linear", // gate, up
        "gated_act_packed",
        "linear", // down, with its residual
    ];
    let mut expected = vec!["embedding"];
    expected.extend(layer.iter().chain(&layer[..4]));
    expected.extend(["gather_rows", "gather_rows"]); // the last layer's attention and its residual
    expected.extend(&layer[4..]);
    expected.extend(["rms_norm", "linear"]);
    for (name, shape) in [("llama", LLAMA), ("qwen2", QWEN2), ("qwen3", QWEN3)] {
        assert_eq!(fused_ops(&model(name, shape, DType::Bf16)), expected, "{name}");
    }
}

#[test]
fn a_gemma_layer_adds_and_norms_in_one_op() {
    let layer = [
        "linear",
        "rope_kv_append",
        "attention",
        "linear",
        "rms_norm", // after attention
        "add_rms_norm",
        "linear",
        "gated_act_packed",
        "linear",
        "rms_norm", // after the feed-forward layer
    ];
    let mut expected = vec!["embedding", "rms_norm"];
    expected.extend(layer);
    expected.push("add_rms_norm");
    expected.extend(&layer[..3]);
    expected.push("gather_rows"); // attention
    expected.extend(&layer[3..5]);
    expected.push("gather_rows"); // the residual
    expected.extend(&layer[5..]);
    expected.extend(["add_rms_norm", "linear"]);
    assert_eq!(fused_ops(&model("gemma3", GEMMA3, DType::Bf16)), expected);
}

#[test]
fn merged_weights_stack_their_tensors_and_keep_order_of_use() {
    let module = ran(model("qwen2", QWEN2, DType::Bf16), &["fuse-qkv", "fuse-gate-up"]);
    let tensors = |name: &str| {
        let id = module.weight_named(name).unwrap_or_else(|| panic!("no weight {name}"));
        match &module.weights[id].source {
            Source::Tensors(parts) => parts.iter().map(|p| p.name.clone()).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tensors("l0.attn.qkv"), ["ckpt.l0.attn.q", "ckpt.l0.attn.k", "ckpt.l0.attn.v"]);
    assert_eq!(
        tensors("l1.attn.qkv.bias"),
        ["ckpt.l1.attn.q.bias", "ckpt.l1.attn.k.bias", "ckpt.l1.attn.v.bias"]
    );
    assert_eq!(tensors("l1.mlp.gate_up"), ["ckpt.l1.mlp.gate", "ckpt.l1.mlp.up"]);
    let names: Vec<&str> = module.weights.iter().map(|(_, w)| w.name.as_str()).take(6).collect();
    assert_eq!(names, ["embed", "l0.attn.norm", "l0.attn.qkv", "l0.attn.qkv.bias", "rope", "l0.attn.o"]);
    let qkv = module.weight_named("l0.attn.qkv").expect("merged");
    assert_eq!(module.weights[qkv].ty.to_string(), "tensor<64x32xbf16>");
}

#[test]
fn locations_survive_fusion() {
    let module = ran(model("llama", LLAMA, DType::Bf16), &FUSE);
    let loc = |op: &str| {
        let id =
            module.func.order.iter().find(|&&o| module.func.ops[o].op.name() == op).expect("there is one");
        module.func.ops[*id].loc.to_string()
    };
    assert_eq!(
        loc("rope_kv_append"),
        "fused[\"l0.attn.q\", \"l0.attn.k\", \"l0.attn.v\", \"l0.attn.rope\", \"l0.attn.kv\"]"
    );
    assert_eq!(loc("gated_act_packed"), "fused[\"l0.mlp.gate\", \"l0.mlp.up\", \"l0.mlp.act\"]");
}

/// A model whose linears multiply e4m3.
fn fp8(name: &str, shape: common::Shape) -> Module {
    let mut module = model(name, shape, DType::F32);
    let cx = PassCx { precision: Precision::named("fp8"), ..PassCx::new(&TARGETS[0]) };
    let options = Options { spec: true, ..Options::default() };
    run_passes(&mut module, &[&quantize::PASS], &cx, options).expect("quantizes");
    module
}

#[test]
fn fp8_quantises_what_linears_read_and_stays_near() {
    for (name, shape) in SHAPES {
        let plain = model(name, shape, DType::F32);
        let weights = RandomWeights::new(1).learn(&plain);
        let quantised = fp8(name, shape);
        // Two norms, the attention and the activation of each layer; what several linears read is quantised once.
        let count = ops(&quantised).iter().filter(|n| **n == "quantize").count() as u64;
        assert_eq!(count, 4 * common::LAYERS, "{name}");
        let (exact, found) = (logits(&plain, &weights), logits(&quantised, &weights));
        assert_ne!(exact, found, "{name}");
        // Steps of e4m3 are 1/8 of a power of two at most, and errors of sums of 32 products average out.
        assert_close(name, &exact, &found, 0.4);
    }
}

#[test]
fn linears_that_are_kept_read_floats_and_still_merge() {
    // As a plan has it: names of whole products, each a rule.
    let kept = ["l0.attn.q", "l0.attn.k", "l0.attn.v", "l1.mlp.down"];
    let text: Vec<String> = kept.iter().map(|name| format!("{name} = fp32")).collect();
    let recipe = Recipe::parse("plan", &text.join("\n")).expect("reads");
    for (name, shape) in SHAPES {
        let plain = model(name, shape, DType::F32);
        let weights = RandomWeights::new(1).learn(&plain);
        let mut module = plain.clone();
        let cx = PassCx { precision: Precision::named("fp8"), recipe: &recipe, ..PassCx::new(&TARGETS[0]) };
        let options = Options { spec: true, ..Options::default() };
        run_passes(&mut module, &[&quantize::PASS], &cx, options).expect("quantizes");
        let count = ops(&module).iter().filter(|n| **n == "quantize").count() as u64;
        assert_eq!(count, 4 * common::LAYERS - 2, "{name}: two products read floats");
        let expected = logits(&module, &weights);
        assert_close(name, &logits(&plain, &weights), &expected, 0.4);
        let after = ran(module, &FUSE);
        assert_close(&format!("{name} fused"), &expected, &logits(&after, &weights), 0.1);
        let elem = |weight: &str| after.weights[after.weight_named(weight).expect(weight)].ty.elem;
        let merged = after.weight_named("l0.attn.qkv").map_or("l0.attn.q", |_| "l0.attn.qkv");
        assert_eq!(elem(merged), DType::F32.into(), "{name}");
        assert_eq!(elem("l1.mlp.down"), DType::F32.into(), "{name}");
        assert_eq!(elem("l0.mlp.down"), trtc_ir::Elem::Quant(trtc_ir::Scheme::FP8), "{name}");
    }
}

#[test]
fn fusion_keeps_fp8_products_and_stores_rows_quantised_where_they_are_made() {
    for (name, shape) in SHAPES {
        let mut module = fp8(name, shape);
        let weights = RandomWeights::new(1).learn(&model(name, shape, DType::F32));
        let expected = logits(&module, &weights);
        for pass in FUSE {
            run(&mut module, &[pass]);
            // A sum in another order may round to the next e4m3.
            assert_close(&format!("{name} after {pass}"), &expected, &logits(&module, &weights), 0.1);
        }
        assert_eq!(run(&mut module, &FUSE), [false; FUSE.len()], "{name}");
        let left: Vec<String> = module
            .func
            .order
            .iter()
            .filter_map(|&o| match &module.func.ops[o].op {
                Op::Quantize(q) => module.func.def_op(q.x).map(|m| module.func.ops[m].op.name().to_owned()),
                _ => None,
            })
            .collect();
        let mut expected = ["attention"; common::LAYERS as usize];
        *expected.last_mut().expect("a layer") = "gather_rows";
        assert_eq!(left, expected, "{name}");
    }
}

#[test]
fn a_row_is_stored_quantised_only_if_nothing_else_reads_it() {
    let mut module = fp8("llama", LLAMA);
    let norm = |module: &Module, weight: &str| {
        let w = module.weight_named(weight).expect("weight");
        let of =
            |o: &&trtc_ir::OpId| matches!(&module.func.ops[**o].op, Op::RmsNorm(n) if n.norm.weight == w);
        *module.func.order.iter().find(of).expect("a norm")
    };
    let made = norm(&module, "l1.mlp.norm");
    let value = module.func.ops[made].results[0];
    module.func.results.push(value);
    assert_eq!(run(&mut module, &["fuse-quantize"]), [true]);
    let kind = |m: &Module, weight: &str| {
        m.func.values[m.func.ops[norm(m, weight)].results[0]].ty.tensor().expect("a tensor").elem
    };
    assert_eq!(kind(&module, "l1.mlp.norm"), DType::F32.into());
    assert_eq!(kind(&module, "l0.mlp.norm"), trtc_ir::Elem::Quant(trtc_ir::Scheme::FP8_TOKEN));
}

/// The only linear that reads the weight.
fn linear_of(module: &mut Module, weight: &str) -> (trtc_ir::OpId, Linear) {
    let w = module.weight_named(weight).expect("weight");
    let found = module.func.order.iter().find_map(|&o| match &module.func.ops[o].op {
        Op::Linear(l) if l.weight == w => Some((o, l.clone())),
        _ => None,
    });
    found.expect("a linear reads it")
}

#[test]
fn what_is_shared_or_unlike_is_not_merged() {
    // A weight that two layers share.
    let mut shared = model("llama", LLAMA, DType::F32);
    let (_, first) = linear_of(&mut shared, "l0.attn.k");
    let (second, mut linear) = linear_of(&mut shared, "l1.attn.k");
    linear.weight = first.weight;
    shared.func.ops[second].op = linear.into();
    assert_eq!(run(&mut shared, &["fuse-qkv"]), [false]);

    // Weights of different types: one layer is merged, the other not.
    let mut mixed = model("llama", LLAMA, DType::F32);
    let (_, linear) = linear_of(&mut mixed, "l1.attn.v");
    mixed.weights[linear.weight].ty.elem = DType::Bf16.into();
    assert_eq!(run(&mut mixed, &["fuse-qkv"]), [true]);
    assert!(mixed.weight_named("l0.attn.qkv").is_some() && mixed.weight_named("l1.attn.qkv").is_none());

    // A bias on one of three.
    let mut lame = model("llama", LLAMA, DType::F32);
    let bias = lame.weight_named("l0.attn.norm").expect("32 elements, as q has outputs");
    for layer in ["l0", "l1"] {
        let (id, linear) = linear_of(&mut lame, &format!("{layer}.attn.q"));
        lame.func.ops[id].op = Linear { bias: Some(bias), ..linear }.into();
    }
    assert_eq!(run(&mut lame, &["fuse-qkv"]), [false]);

    // A gate that is also returned.
    let mut returned = model("llama", LLAMA, DType::F32);
    for layer in ["l0", "l1"] {
        let (id, _) = linear_of(&mut returned, &format!("{layer}.mlp.gate"));
        let gate = returned.func.ops[id].results[0];
        returned.func.results.push(gate);
    }
    assert_eq!(run(&mut returned, &["fuse-gate-up"]), [false]);
}

#[test]
fn a_linear_that_others_read_keeps_its_sum() {
    let mut module = model("llama", LLAMA, DType::F32);
    for weight in ["l0.attn.o", "l1.attn.o", "l0.mlp.down", "l1.mlp.down"] {
        let (id, _) = linear_of(&mut module, weight);
        let made = module.func.ops[id].results[0];
        module.func.results.push(made);
    }
    assert_eq!(run(&mut module, &["fuse-epilogue"]), [false]);
}

/// A model in f32 with bf16 weights, up to where gate and up are one linear, and its context on a target.
fn gated(precision: &str, target: &'static Target) -> (Module, PassCx<'static>) {
    let cx = PassCx { precision: Precision::named(precision), ..PassCx::new(target) };
    let mut module = model("llama", LLAMA, DType::F32);
    run_passes(&mut module, &[&quantize::PASS], &cx, Options::default()).expect("quantised");
    (ran(module, &["fuse-gate-up", "fuse-gated-act"]), cx)
}

#[test]
fn a_linear_ends_in_its_activation_where_the_target_can() {
    let fuse = registry::find("fuse-gated-linear").expect("registered");
    let count = |module: &Module| ops(module).iter().filter(|o| **o == "gated_linear").count();
    let run = |module: &mut Module, cx: &PassCx<'_>| {
        run_passes(module, &[fuse], cx, Options { spec: true, ..Options::default() }).expect("fused");
    };
    let sm_90 = Target::named("sm_90").expect("a target");
    for precision in ["bf16", "fp8"] {
        let (before, cx) = gated(precision, sm_90);
        let weights = RandomWeights::new(1).learn(&before);
        let mut after = before.clone();
        run(&mut after, &cx);
        assert_eq!(count(&after), 2, "{precision}");
        assert!(!ops(&after).contains(&"gated_act_packed"));
        assert_close(precision, &logits(&before, &weights), &logits(&after, &weights), 1e-5);
    }
    // Weights without such kernels, and targets without them.
    for (precision, target) in [("int8", "sm_90"), ("bf16", "sm_80"), ("bf16", "sm_120"), ("bf16", "host")] {
        let (mut module, cx) = gated(precision, Target::named(target).expect("a target"));
        run(&mut module, &cx);
        assert_eq!(count(&module), 0, "{precision} {target}");
    }
    // A linear that something else reads.
    let (mut module, cx) = gated("bf16", sm_90);
    let acts = module.func.order.iter().filter_map(|&o| match &module.func.ops[o].op {
        Op::GatedActPacked(act) => Some(act.x),
        _ => None,
    });
    let read: Vec<_> = acts.collect();
    module.func.results.extend(read);
    run(&mut module, &cx);
    assert_eq!(count(&module), 0);
}

#[test]
fn a_rotated_key_that_others_read_is_not_fused() {
    let mut module = ran(model("llama", LLAMA, DType::F32), &["fuse-qkv"]);
    let rope: Vec<_> =
        module.func.order.iter().copied().filter(|&o| module.func.ops[o].op.name() == "rope").collect();
    assert_eq!(rope.len(), 4);
    for key in [rope[1], rope[3]] {
        let made = module.func.ops[key].results[0];
        module.func.results.push(made);
    }
    assert_eq!(run(&mut module, &["fuse-rope-kv"]), [false]);
}

#[test]
fn canonicalize_folds_slices_merges_equal_ops_and_drops_the_dead() {
    use trtc_ir::ops::Slice;
    use trtc_ir::types::Sym;
    let mut module = ran(model("llama", LLAMA, DType::F32), &["fuse-qkv"]);
    let weights = RandomWeights::new(1).learn(&model("llama", LLAMA, DType::F32));
    let expected = logits(&module, &weights);
    let count = ops(&module).len();

    // Before the first reader of the first merged linear: a slice of a slice, a whole slice, an op that is there
    // already, and one that nobody reads; the values that the rest reads go through them.
    let at = ops(&module).iter().position(|&n| n == "slice").expect("a slice");
    let slice = module.func.order[at + 1];
    let Op::Slice(k) = module.func.ops[slice].op.clone() else { panic!("not a slice") };
    let wide = TensorType::rows(Sym::T, &[4 * HEAD_DIM], DType::F32).into();
    let outer = module.func.new_op(Slice { x: k.x, start: 32 }.into(), &[("outer", wide)], Loc::Unknown);
    let inner_x = module.func.ops[outer].results[0];
    let all = module.func.values[k.x].ty.clone();
    let whole = module.func.new_op(Slice { x: k.x, start: 0 }.into(), &[("whole", all)], Loc::Unknown);
    let dead_ty = TensorType::rows(Sym::T, &[3], DType::F32).into();
    let whole_x = module.func.ops[whole].results[0];
    let dead = module.func.new_op(Slice { x: whole_x, start: 1 }.into(), &[("dead", dead_ty)], Loc::Unknown);
    let k_ty = module.func.values[module.func.ops[slice].results[0]].ty.clone();
    let again = module.func.new_op(k.clone().into(), &[("again", k_ty)], Loc::Unknown);
    module.func.ops[slice].op = Slice { x: inner_x, start: 0 }.into();
    for (i, id) in [outer, whole, dead, again].into_iter().enumerate() {
        module.func.order.insert(at + i, id);
    }
    let old = module.func.ops[slice].results[0];
    let rope = module.func.order.iter().copied().find(|&o| module.func.ops[o].op.operands().contains(&old));
    let rope = rope.expect("a reader");
    let new = module.func.ops[again].results[0];
    assert_eq!(module.func.ops[rope].op.operands_mut().into_iter().filter(|v| **v == old).count(), 1);
    // One reader of the copy beside the reader of the original.
    let extra = module.func.values[new].ty.clone();
    let sum = trtc_ir::ops::Add { lhs: old, rhs: new };
    let sum = module.func.new_op(sum.into(), &[("twice", extra)], Loc::Unknown);
    let place = module.func.order.iter().position(|&o| o == rope).expect("live");
    module.func.order.insert(place, sum);
    let twice = module.func.ops[sum].results[0];
    module.func.results.push(twice);

    assert_eq!(run(&mut module, &["canonicalize"]), [true]);
    // What is left over the original is the sum, which the function returns.
    assert_eq!(ops(&module).len(), count + 1);
    assert_close("canonicalize", &expected, &logits(&module, &weights), 0.0);
    let Op::Add(add) = &module.func.ops[sum].op else { panic!("not a sum") };
    assert_eq!(add.lhs, add.rhs);
}

#[test]
fn sampling_keeps_the_logits_and_takes_tokens_that_the_step_before_chose() {
    let gpu = TARGETS.iter().find(|t| t.gpu.is_some()).expect("a GPU target");
    for (name, shape) in SHAPES {
        let before = model(name, shape, DType::F32);
        let weights = RandomWeights::new(1).learn(&before);
        let expected = logits(&before, &weights);
        assert_eq!(ops(&ran(before.clone(), &["sample"])), ops(&before), "hosts have the logits at hand");

        let mut module = before.clone();
        let passes: Vec<&Pass> = ["sample", "sample"].map(|n| registry::find(n).expect("registered")).into();
        let options = Options { spec: true, ..Options::default() };
        let report = run_passes(&mut module, &passes, &PassCx::new(gpu), options).unwrap();
        assert_eq!(report.timings.iter().map(|t| t.changed).collect::<Vec<_>>(), [true, false]);
        assert_eq!(ops(&module)[0], "feed");

        // Two of the tokens are still in the rows of the step before.
        let mut inputs = common::inputs();
        let Data::Int(tokens) = &mut inputs[0] else { panic!("tokens come first") };
        let mut previous = vec![0; 8];
        (previous[6], previous[0]) = (tokens[1], tokens[4]);
        (tokens[1], tokens[4]) = (-7, -1);
        inputs.push(Data::Int(previous));
        let greedy = vec![0.0; expected.rows() * 8];
        inputs.push(Data::Float(Tensor { dims: vec![expected.rows(), 8], data: greedy }));
        inputs.push(Data::Int(vec![0; expected.rows() * expected.width().div_ceil(32)]));
        let out = interp::run(&module, &weights, &inputs).unwrap_or_else(|d| panic!("{d}"));
        let [Data::Float(got), Data::Int(chosen), Data::Float(_)] = &out[..] else { panic!("{out:?}") };
        assert_close(name, &expected, got, 1e-5);
        for (row, &token) in expected.data.chunks(expected.width()).zip(chosen) {
            assert!(row.iter().all(|&x| x <= row[token as usize]));
        }
    }
}
