//! Plans: read robustly, checked against the model, obeyed by a build.

use std::path::{Path, PathBuf};
use trtc_compiler::plan::{Measured, Plan, VERSION, products};
use trtc_compiler::{BuildOptions, Phase, build, module_after};
use trtc_ir::{Fault, Scheme};

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny").join(name)
}

fn options(precision: &str, plan: Option<Plan>) -> BuildOptions {
    BuildOptions {
        precision: precision.to_owned(),
        max_seq_len: Some(64),
        spec: true,
        plan,
        ..BuildOptions::default()
    }
}

/// A plan of `model` that keeps the products at these places.
fn plan(model: &str, precision: &str, keep: &[usize]) -> Plan {
    let mut products = products(&tiny(model), &options(precision, None)).unwrap();
    products.iter_mut().enumerate().for_each(|(i, p)| {
        p.keep = keep.contains(&i);
        p.divergence = Some(i as f64 * 1e-3);
    });
    let arch = module_after(&tiny(model), Phase::Import, &options(precision, None)).unwrap().arch;
    Plan { version: VERSION, arch, precision: precision.to_owned(), measured: Measured::NONE, products }
}

#[test]
fn linears_that_fuse_are_one_product() {
    for arch in ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma3"] {
        for target in ["host", "sm_90"] {
            let options = BuildOptions { target: target.to_owned(), ..options("fp8", None) };
            let titles: Vec<String> =
                products(&tiny(arch), &options).unwrap().iter().map(|p| p.title()).collect();
            let want = [
                "l0.attn.q + l0.attn.k + l0.attn.v",
                "l0.attn.o",
                "l0.mlp.gate + l0.mlp.up",
                "l0.mlp.down",
                "l1.attn.q + l1.attn.k + l1.attn.v",
            ];
            assert_eq!(titles[..5], want, "{arch} {target}");
            assert_eq!(titles.len() % 4, 0, "{arch} {target}");
        }
    }
    let none = products(&tiny("llama"), &options("bf16", None)).unwrap_err();
    assert!(none.fault == Fault::User && none.message.contains("bf16 quantises no linear"), "{none}");
}

#[test]
fn a_plan_reads_back_and_a_build_obeys_it() {
    let plan = plan("llama", "fp8", &[0, 3]);
    let printed = plan.print().unwrap();
    assert_eq!(printed.lines().count(), plan.products.len() + 2, "{printed}");
    assert_eq!(Plan::parse("p", &printed).unwrap(), plan);
    let kept = ["l0.attn.q", "l0.attn.k", "l0.attn.v", "l0.mlp.down"];
    assert_eq!(plan.kept().collect::<Vec<_>>(), kept);
    let module = module_after(&tiny("llama"), Phase::Quantize, &options("fp8", Some(plan.clone()))).unwrap();
    for product in &plan.products {
        for linear in &product.linears {
            let elem = module.weights[module.weight_named(&linear.name).unwrap()].ty.elem;
            let want = if product.keep { "bf16".to_owned() } else { Scheme::FP8.to_string() };
            assert_eq!(elem.to_string(), want, "{}", linear.name);
        }
    }
    // The recipe comes after the plan.
    let recipe = Some("l0.attn.* = int8".to_owned());
    let both = BuildOptions { recipe, ..options("fp8", Some(plan.clone())) };
    let module = module_after(&tiny("llama"), Phase::Quantize, &both).unwrap();
    let elem = |name: &str| module.weights[module.weight_named(name).unwrap()].ty.elem.to_string();
    assert_eq!((elem("l0.attn.q"), elem("l0.mlp.down")), (Scheme::INT8.to_string(), "bf16".to_owned()));
    // What is kept is told in the engine.
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.engine");
    build(&tiny("llama"), &out, &options("fp8", Some(plan)), &mut |_| ()).unwrap();
    let engine = trtc_engine::EngineFile::open(&out).unwrap();
    let told = engine.manifest().provenance.options.join(" ");
    assert!(told.contains("--plan \"l0.attn.q l0.attn.k l0.attn.v l0.mlp.down\""), "{told}");
}

#[test]
fn a_plan_of_another_model_or_precision_is_refused() {
    let refused = |model: &str, precision: &str, plan: Plan| {
        let d = module_after(&tiny(model), Phase::Quantize, &options(precision, Some(plan))).unwrap_err();
        assert!(
            d.fault == Fault::User && d.help.as_deref().is_some_and(|h| h.contains("trtc calibrate")),
            "{d}"
        );
        d.message
    };
    let llama = || plan("llama", "fp8", &[0]);
    assert!(refused("llama", "int8", llama()).contains("for precision fp8"));
    assert!(refused("gemma3", "fp8", llama()).contains("architecture \"llama\""));
    let mut unknown = llama();
    unknown.products[0].linears[0].name = "l0.attn.*".to_owned();
    assert!(refused("llama", "fp8", unknown).contains("\"l0.attn.*\", and the model has no such linear"));
    let mut wide = llama();
    wide.products[1].linears[0].inputs += 1;
    assert!(refused("llama", "fp8", wide).contains("another model: its l0.attn.o is"));
    let mut short = llama();
    short.products.pop();
    assert!(refused("llama", "fp8", short).contains("it has no l"));
}

#[test]
fn a_damaged_plan_is_told_where() {
    let good = plan("llama", "fp8", &[1]).print().unwrap();
    let refused = |text: &str, word: &str| {
        let d = Plan::parse("my.json", text).unwrap_err();
        assert!(d.fault == Fault::User && d.to_string().contains("my.json"), "{d}");
        assert!(d.message.contains(word), "no {word:?} in {d}");
    };
    for cut in 0..good.len() - 2 {
        if good.is_char_boundary(cut) {
            assert!(Plan::parse("my.json", &good[..cut]).is_err(), "{cut}");
        }
    }
    refused("", "is not a plan");
    refused("[]", "is not a plan");
    refused("{\"version\": 1}", "missing field");
    refused(&good.replacen("\"version\":1", "\"version\":2,\"new\":[]", 1), "version 2");
    refused(&good.replacen("\"version\":1", "\"version\":-1", 1), "is not a plan");
    refused(&good.replacen("\"arch\"", "\"arch_\"", 1), "arch_");
    refused(&good.replacen("\"keep\":true", "\"keep\":1", 1), "is not a plan");
    refused(&good.replacen("\"keep\":true", "\"keep\":true,\"x\":0", 1), "unknown field");
    refused(&good.replacen("\"inputs\":", "\"inputs\":-", 1), "is not a plan");
    refused(&good.replacen("l0.attn.k", "l0.attn.q", 1), "lists \"l0.attn.q\" twice");
    let mut empty = plan("llama", "fp8", &[]);
    empty.products[2].linears.clear();
    refused(&empty.print().unwrap(), "product 3 of the plan has no linear");
    let mut huge = plan("llama", "fp8", &[]);
    huge.products[0].linears[0].outputs = u64::MAX;
    assert_eq!(Plan::parse("p", &huge.print().unwrap()).unwrap().products[0].elements(), u64::MAX);
}
