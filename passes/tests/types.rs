//! Passes that change types and places only: quantize, kv-layout, plan-memory; and the manager's checks.

mod common;

use common::{GEMMA3, LLAMA, QWEN3, SHAPES, model};
use std::collections::HashMap;
use trtc_ir::{DType, Diag, Fault, KernelChoice, Module, Scheme, Steps, Target, Type};
use trtc_passes::{
    Changed, KvOptions, Limits, Options, Pass, PassCx, Precision, Property, Recipe, plan_memory, registry,
    run_passes,
};

fn host() -> PassCx<'static> {
    PassCx::new(Target::named("host").expect("a row"))
}

fn run(module: &mut Module, cx: &PassCx<'_>, names: &[&str]) -> Result<bool, Diag> {
    let passes: Vec<&Pass> = names.iter().map(|n| registry::find(n).expect("registered")).collect();
    let report = run_passes(module, &passes, cx, Options { spec: true, ..Options::default() })?;
    Ok(report.timings.iter().any(|t| t.changed))
}

fn types(module: &Module) -> HashMap<String, String> {
    module.weights.iter().map(|(_, w)| (w.name.clone(), w.ty.elem.to_string())).collect()
}

#[test]
fn each_precision_sets_its_types() {
    let (int8, fp8) = (Scheme::INT8.to_string(), Scheme::FP8.to_string());
    for (precision, linear, table) in [
        ("fp32", "f32", "f32"),
        ("bf16", "bf16", "bf16"),
        ("fp8", fp8.as_str(), "bf16"),
        ("int8", int8.as_str(), int8.as_str()),
    ] {
        for (name, shape) in SHAPES {
            let mut module = model(name, shape, DType::Bf16);
            let cx = PassCx { precision: Precision::named(precision), ..host() };
            assert!(run(&mut module, &cx, &["quantize"]).expect("quantizes"));
            assert_eq!(module.precision.as_deref(), Some(precision));
            let types = types(&module);
            for (weight, ty) in &types {
                let expected = match weight.as_str() {
                    "embed" | "lm_head" => table,
                    w if w.contains("norm") || w.ends_with(".bias") || w == "rope" => "f32",
                    _ => linear,
                };
                assert_eq!(ty, expected, "{name} {precision} {weight}");
            }
            assert_eq!(types.contains_key("lm_head"), !shape.tied);
            assert!(!run(&mut module, &cx, &["quantize"]).expect("again"), "quantize is idempotent");
        }
    }
}

#[test]
fn int4_takes_the_largest_group_and_falls_back() {
    let mut module = model("llama", LLAMA, DType::Bf16);
    let cx = PassCx { precision: Precision::named("int4"), ..host() };
    run(&mut module, &cx, &["quantize"]).expect("quantizes");
    let types = types(&module);
    // 32 inputs make one group; 48 inputs have no group.
    assert_eq!(types["l0.attn.q"], Scheme::int4(32).to_string());
    assert_eq!(types["l0.mlp.down"], Scheme::INT8.to_string());
    assert_eq!(types["embed"], Scheme::INT8.to_string());
    assert_eq!(types["lm_head"], Scheme::INT8.to_string());
}

#[test]
fn a_recipe_overrides_and_is_checked_against_the_model() {
    let quantized = |text: &str| {
        let mut module = model("llama", LLAMA, DType::Bf16);
        let recipe = Recipe::parse("recipe.txt", text).expect("reads");
        let cx = PassCx { precision: Precision::named("int4"), recipe: &recipe, ..host() };
        run(&mut module, &cx, &["quantize"]).map(|_| types(&module))
    };
    let types = quantized("l0.* = int8\nl0.attn.v = bf16\nlm_head = fp32\n").expect("quantizes");
    assert_eq!(types["l0.attn.q"], Scheme::INT8.to_string());
    assert_eq!(types["l0.attn.v"], "bf16");
    assert_eq!(types["l0.attn.norm"], "f32");
    assert_eq!(types["l1.attn.q"], Scheme::int4(32).to_string());
    assert_eq!(types["lm_head"], "f32");

    let error = quantized("l0.* = int8\nl7.* = int8").expect_err("refused");
    assert_eq!(error.fault, Fault::User);
    assert!(
        error.to_string().contains("\"l7.*\" fits no matrix") && error.to_string().contains(":2:1"),
        "{error}"
    );
    let error = quantized("*.norm = int8").expect_err("norms are not matrices");
    assert!(error.to_string().contains("fits no matrix"), "{error}");
    let error = quantized("*.down = int4").expect_err("48 inputs");
    assert!(error.to_string().contains("l0.mlp.down cannot be stored as int4"), "{error}");
}

#[test]
fn weights_that_come_quantised_stay() {
    let mut module = model("qwen3", QWEN3, DType::Bf16);
    let q = module.weight_named("l0.attn.q").expect("weight");
    module.weights[q].ty.elem = trtc_ir::Elem::Quant(Scheme::int4(32));
    let cx = PassCx { precision: Precision::named("bf16"), ..host() };
    run(&mut module.clone(), &cx, &["quantize"]).expect("quantizes");
    let mut kept = module.clone();
    run(&mut kept, &cx, &["quantize"]).expect("quantizes");
    assert_eq!(types(&kept)["l0.attn.q"], Scheme::int4(32).to_string());
    let recipe = Recipe::parse("r", "*.q = int8").expect("reads");
    let error = run(&mut module, &PassCx { recipe: &recipe, ..cx }, &["quantize"]).expect_err("refused");
    assert!(error.to_string().contains("already quantised"), "{error}");
}

#[test]
fn quantize_without_a_precision_says_which_there_are() {
    let error = run(&mut model("llama", LLAMA, DType::F32), &host(), &["quantize"]).expect_err("refused");
    assert_eq!(error.fault, Fault::User);
    assert!(error.to_string().contains("fp32, bf16, fp8, int8, int4"), "{error}");
}

#[test]
fn fp8_is_refused_where_nothing_multiplies_it() {
    let quantized = |target: &str, precision: &str, recipe: &str| {
        let mut module = model("llama", LLAMA, DType::Bf16);
        let recipe = Recipe::parse("r", recipe).expect("reads");
        let target = PassCx::new(Target::named(target).expect("a row"));
        let cx = PassCx { precision: Precision::named(precision), recipe: &recipe, ..target };
        run(&mut module, &cx, &["quantize"])
    };
    for target in ["host", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120"] {
        quantized(target, "fp8", "").unwrap_or_else(|e| panic!("{target}: {e}"));
    }
    for (precision, recipe) in [("fp8", ""), ("bf16", "l1.mlp.down = fp8")] {
        for target in ["sm_80", "sm_86"] {
            let error = quantized(target, precision, recipe).expect_err("refused");
            assert_eq!(error.fault, Fault::Unsupported);
            let text = error.to_string();
            assert!(text.contains(target) && text.contains("int8") && text.contains("fp8"), "{text}");
        }
    }
    // One layer of e4m3 in a model of another precision: what it reads is quantised, and nothing else.
    let mut module = model("llama", LLAMA, DType::Bf16);
    let recipe = Recipe::parse("r", "l1.mlp.down = fp8").expect("reads");
    let cx = PassCx { precision: Precision::named("int8"), recipe: &recipe, ..host() };
    run(&mut module, &cx, &["quantize"]).expect("quantizes");
    assert_eq!(common::ops(&module).iter().filter(|n| **n == "quantize").count(), 1);
}

#[test]
fn a_quantised_value_has_room_for_its_scales() {
    let mut module = model("llama", LLAMA, DType::Bf16);
    let cx = PassCx { precision: Precision::named("fp8"), ..host() };
    run(&mut module, &cx, &["quantize", "fuse-quantize"]).expect("runs");
    let live = plan_memory::liveness(&module).expect("bounded");
    let bytes = |name: &str| {
        let (_, i) = live.iter().find(|(v, _)| module.func.values[*v].name == name).expect("there is one");
        i.bytes
    };
    // 64 rows of 32 and of 48 e4m3, and 64 f32.
    assert_eq!([bytes("n_q"), bytes("g_q")], [64 * 32 + 64 * 4, 64 * 48 + 64 * 4]);
}

#[test]
fn caches_get_pages_and_types() {
    let kv = |cx: &PassCx<'_>| {
        let mut module = model("gemma3", GEMMA3, DType::Bf16);
        run(&mut module, cx, &["fuse-qkv", "fuse-rope-kv", "kv-layout"]).expect("runs");
        let found: Vec<(Option<u32>, DType, Option<u32>)> = module
            .func
            .values
            .iter()
            .filter_map(
                |(_, v)| {
                    if let Type::Kv(k) = &v.ty { Some((k.page, k.dtype, k.window)) } else { None }
                },
            )
            .collect();
        assert_eq!(found.len(), 4, "two parameters, two results");
        found
    };
    assert!(kv(&host()).iter().all(|k| (k.0, k.1) == (Some(32), DType::Bf16)));
    let gpu = PassCx::new(Target::named("sm_90").expect("a row"));
    assert!(kv(&gpu).iter().all(|k| k.0 == Some(64)));
    let fp32 = PassCx { precision: Precision::named("fp32"), ..host() };
    assert!(kv(&fp32).iter().all(|k| k.1 == DType::F32));
    let options = KvOptions { page_tokens: Some(16), dtype: Some(DType::Bf16) };
    let found = kv(&PassCx { kv: options, ..fp32 });
    assert!(found.iter().all(|k| (k.0, k.1) == (Some(16), DType::Bf16)));
    assert_eq!(found[0].2, Some(3), "the window stays");

    let e4m3 = KvOptions { page_tokens: None, dtype: Some(DType::F8E4M3) };
    for target in ["host", "sm_89", "sm_90", "sm_120"] {
        let target = PassCx::new(Target::named(target).expect("a row"));
        assert!(kv(&PassCx { kv: e4m3, ..target }).iter().all(|k| k.1 == DType::F8E4M3));
    }
    let a100 = PassCx { kv: e4m3, ..PassCx::new(Target::named("sm_80").expect("a row")) };
    let error = run(&mut model("llama", LLAMA, DType::Bf16), &a100, &["kv-layout"]).expect_err("refused");
    assert!(error.to_string().contains("sm_80 has no instructions for an e4m3 cache"), "{error}");

    for kv in [
        KvOptions { page_tokens: Some(0), dtype: None },
        KvOptions { page_tokens: Some(24), dtype: None },
        KvOptions { page_tokens: None, dtype: Some(DType::I8) },
        KvOptions { page_tokens: None, dtype: Some(DType::F8E5M2) },
    ] {
        run(&mut model("llama", LLAMA, DType::Bf16), &PassCx { kv, ..host() }, &["kv-layout"])
            .expect_err("refused");
    }
}

/// A module of which every op has a kernel.
fn selected(shape: common::Shape) -> Module {
    let mut module = model("m", shape, DType::Bf16);
    run(
        &mut module,
        &host(),
        &["fuse-qkv", "fuse-gate-up", "fuse-gated-act", "fuse-rope-kv", "fuse-epilogue", "kv-layout"],
    )
    .expect("runs");
    for id in module.func.order.clone() {
        module.func.ops[id].kernels =
            vec![KernelChoice { from: 1, to: 64, steps: Steps::Any, with: None, kernel: "k".into() }];
    }
    module
}

#[test]
fn live_values_have_places_of_their_own() {
    for (name, shape) in SHAPES {
        let mut module = selected(shape);
        run(&mut module, &host(), &["plan-memory"]).expect("plans");
        let arena = module.arena.expect("planned");
        let live = plan_memory::liveness(&module).expect("bounded");
        assert!(!live.is_empty());
        for (i, (v, a)) in live.iter().enumerate() {
            let at = module.func.values[*v].offset.expect("placed");
            assert!(at.is_multiple_of(plan_memory::ALIGN) && at + a.bytes <= arena);
            for (w, b) in &live[i + 1..] {
                let other = module.func.values[*w].offset.expect("placed");
                assert!(
                    !a.meets(b) || at + a.bytes <= other || other + b.bytes <= at,
                    "{name}: {v:?} and {w:?}"
                );
            }
        }
        for &p in &module.func.params {
            assert_eq!(module.func.values[p].offset, None);
        }
        // The residual, the norm of it and the widest tensor are live at once; all values together are far more.
        let total: u64 = live.iter().map(|(_, i)| i.bytes).sum();
        assert!(arena * 2 < total, "{name}: {arena} of {total}");
        assert!(!run(&mut module, &host(), &["plan-memory"]).expect("again"), "the plan is stable");
    }
}

#[test]
fn plans_are_checked_against_the_limits() {
    let limits =
        |max_step_tokens| Some(Limits { max_batch: 8, max_seq_len: 128, max_step_tokens, max_logit_rows: 8 });
    run(&mut selected(LLAMA), &PassCx { limits: limits(64), ..host() }, &["plan-memory"]).expect("plans");
    let error = run(&mut selected(LLAMA), &PassCx { limits: limits(65), ..host() }, &["plan-memory"]);
    assert_eq!(error.expect_err("refused").fault, Fault::Bug);
    let mut unbounded = selected(LLAMA);
    unbounded.dims.clear();
    let plan = registry::find("plan-memory").expect("registered");
    // The verifier would refuse it before the pass does.
    let error = (plan.run)(&mut unbounded, &host()).expect_err("refused");
    assert!(error.to_string().contains("not bounded"), "{error}");
}

#[test]
fn the_manager_checks_requirements_and_promises() {
    let error = run(&mut model("llama", LLAMA, DType::Bf16), &host(), &["plan-memory"]).expect_err("refused");
    assert!(error.to_string().contains("kv-layout"), "{error}");

    let pass = |name, ensures, run| Pass { name, summary: "test", requires: &[], ensures, run };
    let manage = |pass: &Pass| {
        let options = Options { spec: true, ..Options::default() };
        run_passes(&mut model("llama", LLAMA, DType::Bf16), &[pass], &host(), options).expect_err("refused")
    };
    let liar = pass("liar", &[], |m, _| {
        m.precision = Some("bf16".into());
        Ok(Changed::No)
    });
    assert!(manage(&liar).to_string().contains("liar says it changed nothing"), "{}", manage(&liar));
    let idle = pass("idle", &[Property::Planned], |_, _| Ok(Changed::No));
    assert!(
        manage(&idle).to_string().contains("idle ran, and the module is not Planned"),
        "{}",
        manage(&idle)
    );
    let vandal = pass("vandal", &[], |m, _| {
        m.func.order.reverse();
        Ok(Changed::Yes)
    });
    let mut broken = model("llama", LLAMA, DType::Bf16);
    broken.func.order.reverse();
    run(&mut broken, &host(), &["canonicalize"]).expect_err("the module that comes in is verified");
    let error = manage(&vandal);
    assert_eq!(error.fault, Fault::Bug);
    assert!(error.to_string().contains("vandal broke the module"), "{error}");
}

#[test]
fn the_manager_shows_steps_and_stops_when_the_fuel_is_spent() {
    let mut module = model("llama", LLAMA, DType::Bf16);
    let passes: Vec<&Pass> = ["canonicalize", "fuse-qkv", "fuse-gate-up", "fuse-epilogue"]
        .map(|n| registry::find(n).expect("registered"))
        .to_vec();
    let mut seen: Vec<(usize, &str, bool, String)> = Vec::new();
    let mut observe = |s: &trtc_passes::Step<'_>| seen.push((s.index, s.pass.name, s.changed, s.diff()));
    let options =
        Options { fuel: Some(2), first_index: 7, observe: Some(&mut observe), ..Options::default() };
    let report = run_passes(&mut module, &passes, &host(), options).expect("runs");
    assert_eq!(report.fuel, Some(0));
    assert_eq!(
        report.timings.iter().map(|t| t.pass).collect::<Vec<_>>(),
        ["canonicalize", "fuse-qkv", "fuse-gate-up"]
    );
    assert!(report.timings.iter().all(|t| t.seconds >= 0.0));
    let names: Vec<_> = seen.iter().map(|s| (s.0, s.1, s.2)).collect();
    assert_eq!(names, [(7, "canonicalize", false), (8, "fuse-qkv", true), (9, "fuse-gate-up", true)]);
    assert_eq!(seen[0].3, "");
    assert!(seen[1].3.contains("+") && seen[1].3.contains("@l0.attn.qkv"), "{}", seen[1].3);
    assert!(module.weight_named("l0.mlp.gate_up").is_some());
    assert!(!common::ops(&module).is_empty());
}
