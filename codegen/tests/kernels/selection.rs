//! Selection and emission over a small model made by hand.

use std::collections::BTreeSet;
use trtc_codegen::emit::{Arg, EmitOptions, arguments, emit};
use trtc_codegen::kernels::ArgKind;
use trtc_codegen::select::select;
use trtc_ir::ops::{
    Act, Add, AddRmsNorm, Attention, Embedding, GatedAct, GatedActPacked, GatherRows, KvAppend, Linear,
    RmsNorm, RmsNormWeight, Rope, RopeKvAppend, Slice,
};
use trtc_ir::{
    DType, Elem, Fault, KvType, Loc, Module, Op, Packing, Scheme, Source, Steps, Sym, Target, TensorType,
    Type, ValueId, Weight, WeightId,
};

const HIDDEN: u64 = 64;
const HEADS: u64 = 4;
const KV_HEADS: u64 = 2;
const HEAD_DIM: u64 = 16;
const FFN: u64 = 128;
const VOCAB: u64 = 96;

struct Model {
    module: Module,
    dtype: DType,
}

impl Model {
    fn new(dtype: DType) -> Model {
        let mut module = Module { name: "tiny".into(), arch: "llama".into(), ..Module::default() };
        module.dims = vec![(Sym::T, 1, 512), (Sym::L, 1, 32)];
        module.func.name = "step".into();
        Model { module, dtype }
    }

    fn weight(&mut self, name: &str, shape: &[u64], elem: impl Into<Elem>) -> WeightId {
        self.module.weights.push(Weight {
            name: name.into(),
            ty: TensorType::fixed(shape, elem),
            source: Source::Tensors(vec![]),
            packing: None,
        })
    }

    fn norm(&mut self, name: &str) -> RmsNormWeight {
        RmsNormWeight { weight: self.weight(name, &[HIDDEN], DType::Bf16), eps: 1e-5, offset: 0.0 }
    }

    fn tokens(&self, inner: &[u64]) -> Type {
        TensorType::rows(Sym::T, inner, self.dtype).into()
    }

    fn op(&mut self, op: impl Into<Op>, results: &[(&str, Type)], at: &str) -> Vec<ValueId> {
        self.module.func.append(op.into(), results, Loc::name(at))
    }

    fn linear(
        &mut self,
        x: ValueId,
        weight: WeightId,
        residual: Option<ValueId>,
        out: Type,
        at: &str,
    ) -> ValueId {
        self.op(Linear { x, weight, bias: None, residual }, &[(at, out)], at)[0]
    }
}

fn kv_type() -> Type {
    let (heads, head_dim) = (KV_HEADS as u32, HEAD_DIM as u32);
    Type::Kv(KvType { layer: 0, heads, head_dim, dtype: DType::Bf16, window: None, page: Some(32) })
}

/// Two fused layers between an embedding and logits whose matrix is the embedding table.
fn model(dtype: DType) -> Module {
    let mut m = Model::new(dtype);
    let tokens = m.module.func.add_param("tokens", TensorType::rows(Sym::T, &[], DType::I32));
    let pos = m.module.func.add_param("pos", TensorType::rows(Sym::T, &[], DType::I32));
    let rows = m.module.func.add_param("rows", TensorType::rows(Sym::L, &[], DType::I32));
    let batch = m.module.func.add_param("batch", Type::Batch);
    let kv = m.module.func.add_param("kv", kv_type());
    let table = m.weight("embed", &[VOCAB, HIDDEN], DType::Bf16);
    let freqs = m.weight("rope", &[HEAD_DIM / 2], DType::F32);
    let hidden = m.tokens(&[HIDDEN]);

    let mut x = m.op(Embedding { tokens, table, scale: 1.0 }, &[("x", hidden.clone())], "embed")[0];
    let mut kv = kv;
    for layer in 0..2 {
        let at = |what: &str| format!("layers.{layer}.{what}");
        let norm = m.norm(&at("attn.norm"));
        let n = m.op(RmsNorm { x, norm }, &[("n", hidden.clone())], &at("attn.norm"))[0];
        let merged = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
        let w = m.weight(&at("qkv"), &[merged, HIDDEN], DType::Bf16);
        let ty = m.tokens(&[merged]);
        let qkv = m.linear(n, w, None, ty, &at("qkv"));
        let (q_norm, k_norm) = (None, None);
        let op = RopeKvAppend { qkv, pos, kv, batch, heads: HEADS as u32, freqs, q_norm, k_norm };
        let ty = m.tokens(&[HEADS, HEAD_DIM]);
        let made = m.op(op, &[("q", ty.clone()), ("kv", kv_type())], &at("rope"));
        kv = made[1];
        let op = Attention { q: made[0], kv, batch, scale: 0.25, softcap: None, products: None };
        let a = m.op(op, &[("a", ty)], &at("attention"))[0];
        let w = m.weight(&at("o"), &[HIDDEN, HIDDEN], DType::Bf16);
        let h = m.linear(a, w, Some(x), hidden.clone(), &at("o"));
        let norm = m.norm(&at("mlp.norm"));
        let n = m.op(RmsNorm { x: h, norm }, &[("n", hidden.clone())], &at("mlp.norm"))[0];
        let w = m.weight(&at("gate_up"), &[2 * FFN, HIDDEN], DType::Bf16);
        let ty = m.tokens(&[2 * FFN]);
        let g = m.linear(n, w, None, ty, &at("gate_up"));
        let ty = m.tokens(&[FFN]);
        let s = m.op(GatedActPacked { x: g, act: Act::Silu }, &[("s", ty)], &at("act"))[0];
        let w = m.weight(&at("down"), &[HIDDEN, FFN], DType::Bf16);
        x = m.linear(s, w, Some(h), hidden.clone(), &at("down"));
    }
    let last: Type = TensorType::rows(Sym::L, &[HIDDEN], dtype).into();
    let x = m.op(GatherRows { x, rows }, &[("x", last.clone())], "gather")[0];
    let norm = m.norm("norm");
    let n = m.op(RmsNorm { x, norm }, &[("n", last)], "norm")[0];
    let logits = m.linear(n, table, None, TensorType::rows(Sym::L, &[VOCAB], DType::F32).into(), "lm_head");
    m.module.func.results = vec![logits];
    m.module
}

/// The ops that only unfused modules have.
fn unfused() -> Module {
    let mut m = Model::new(DType::F32);
    let x = m.module.func.add_param("x", m.tokens(&[HIDDEN]));
    let pos = m.module.func.add_param("pos", TensorType::rows(Sym::T, &[], DType::I32));
    let batch = m.module.func.add_param("batch", Type::Batch);
    let kv = m.module.func.add_param("kv", kv_type());
    let freqs = m.weight("rope", &[HEAD_DIM / 2], DType::F32);
    let ty = m.tokens(&[KV_HEADS, HEAD_DIM]);
    let k = m.op(Slice { x, start: 32 }, &[("k", ty.clone())], "k")[0];
    let k = m.op(Rope { x: k, pos, freqs }, &[("k", ty)], "rope")[0];
    m.op(KvAppend { kv, k, v: k, batch }, &[("kv", kv_type())], "append");
    let hidden = m.tokens(&[HIDDEN]);
    let g = m.op(GatedAct { gate: x, up: x, act: Act::GeluTanh }, &[("g", hidden.clone())], "act")[0];
    let s = m.op(Add { lhs: g, rhs: x }, &[("s", hidden.clone())], "add")[0];
    let norm = m.norm("norm");
    let op = AddRmsNorm { x: s, residual: x, norm };
    let made = m.op(op, &[("h", hidden.clone()), ("n", hidden)], "add_norm");
    m.module.func.results = made;
    m.module
}

fn target(name: &str) -> &'static Target {
    Target::named(name).unwrap()
}

fn names(module: &Module) -> Vec<String> {
    let kernels = module.func.order.iter().flat_map(|&id| &module.func.ops[id].kernels);
    kernels.map(|k| format!("{}..={} {}", k.from, k.to, k.kernel)).collect()
}

#[test]
fn the_host_serves_every_op() {
    for mut module in [model(DType::F32), model(DType::Bf16), unfused()] {
        let done = select(&mut module, target("host")).unwrap();
        assert!(done.changed && done.missing.is_empty());
        assert_eq!(done.unsupported(target("host")), None);
        for &id in &module.func.order {
            let [k] = &module.func.ops[id].kernels[..] else { panic!("one kernel an op") };
            assert_eq!((k.from, k.to), (1, 512));
            assert!(k.kernel.starts_with(&format!("host.{}.", module.func.ops[id].op.name())));
        }
        assert!(!select(&mut module, target("host")).unwrap().changed, "selecting again changes nothing");
        assert_eq!(emit(&module, target("host"), EmitOptions::default()).unwrap(), []);
    }
}

#[test]
fn ops_that_compute_the_same_share_a_kernel() {
    let mut module = model(DType::Bf16);
    select(&mut module, target("host")).unwrap();
    insta::assert_snapshot!("host_names", names(&module).join("\n"));
    let all: BTreeSet<String> = names(&module).into_iter().collect();
    // Nine ops of a layer (the two norms are alike), both layers alike; four kernels around them.
    assert_eq!(all.len(), 8 + 4);
}

#[test]
fn matrices_lie_as_their_kernels_read_them_and_the_rest_in_rows() {
    let mut module = model(DType::Bf16);
    select(&mut module, target("host")).unwrap();
    let packing = |m: &Module, name: &str| m.weights[m.weight_named(name).unwrap()].packing.unwrap();
    for name in ["layers.0.qkv", "layers.1.down", "embed"] {
        assert_eq!(packing(&module, name), Packing::Panel16, "{name}");
    }
    for name in ["rope", "norm", "layers.1.attn.norm"] {
        assert_eq!(packing(&module, name), Packing::Rows, "{name}");
    }
    select(&mut module, target("sm_90")).unwrap();
    assert!(module.weights.iter().all(|(_, w)| w.packing == Some(Packing::Rows)));
    let down = module.weight_named("layers.1.down").unwrap();
    module.weights[down].ty.elem = Elem::Quant(Scheme::INT8);
    select(&mut module, target("sm_90")).unwrap();
    assert_eq!(packing(&module, "layers.1.down"), Packing::Fragment16);
    assert_eq!(packing(&module, "layers.0.down"), Packing::Rows);
    select(&mut module, target("host")).unwrap();
    assert_eq!(packing(&module, "layers.1.down"), Packing::Panel16);
}

#[test]
fn a_gpu_reports_all_ops_without_a_kernel_at_once() {
    for gpu in ["sm_80", "sm_90", "sm_120"] {
        for mut module in [model(DType::Bf16), unfused()] {
            let done = select(&mut module, target(gpu)).unwrap();
            assert_eq!(done.unsupported(target(gpu)), None);
        }
    }
    let mut module = model(DType::F32);
    let w = module.weight_named("layers.1.down").unwrap();
    module.weights[w].ty.elem = Elem::Quant(Scheme::INT8);
    let diag = select(&mut module, target("sm_80")).unwrap().unsupported(target("sm_80")).unwrap();
    assert_eq!(diag.fault, Fault::Unsupported);
    insta::assert_snapshot!("missing_f32", diag.to_string());
}

#[test]
fn ranges_are_adjacent_and_cover_all_token_counts() {
    for (max_rows, logits) in [(16, 1), (32, 2), (512, 3)] {
        let mut module = model(DType::Bf16);
        module.dims[1].2 = max_rows;
        select(&mut module, target("sm_80")).unwrap();
        for &id in &module.func.order {
            for kind in Steps::KINDS {
                let chained = module.func.chains().filter(|(op, _)| *op == id).map(|(_, k)| k);
                let all = module.func.ops[id].kernels.iter().chain(chained);
                let mut kernels: Vec<_> = all.filter(|k| k.steps.serve(kind)).collect();
                kernels.sort_by_key(|k| k.from);
                assert_eq!((kernels[0].from, kernels[kernels.len() - 1].to), (1, 512));
                assert!(kernels.windows(2).all(|w| w[0].to + 1 == w[1].from && w[0].from <= w[0].to));
            }
        }
        let lm_head = module.func.order.last().unwrap();
        assert_eq!(module.func.ops[*lm_head].kernels.len(), logits, "at most {max_rows} rows");
    }
}

#[test]
fn decode_steps_and_prompts_have_their_own_attention() {
    let mut module = model(DType::Bf16);
    select(&mut module, target("sm_80")).unwrap();
    let id =
        *module.func.order.iter().find(|id| matches!(module.func.ops[**id].op, Op::Attention(_))).unwrap();
    let kernels = &module.func.ops[id].kernels;
    let steps: Vec<_> = kernels.iter().map(|k| (k.steps, k.from, k.to)).collect();
    assert_eq!(steps, [(Steps::Decode, 1, 512), (Steps::Prefill, 1, 512), (Steps::Single, 1, 512)]);
    assert!(kernels[0].kernel.ends_with(".decode") && kernels[1].kernel.ends_with(".prefill"));
    assert_eq!(kernels[0].kernel, kernels[2].kernel);
    // Which tokens are alone in a step depends on the others.
    module.deterministic = true;
    select(&mut module, target("sm_80")).unwrap();
    assert_eq!(module.func.ops[id].kernels.len(), 2);
    module.deterministic = false;
    // What the kernel for prompts does not serve, the one for decoding does.
    if let Op::Attention(op) = &mut module.func.ops[id].op {
        op.scale = -1.0;
    }
    select(&mut module, target("sm_80")).unwrap();
    let [only] = &module.func.ops[id].kernels[..] else { panic!("one kernel") };
    assert_eq!((only.steps, only.from, only.to), (Steps::Any, 1, 512));
}

#[test]
fn attention_of_decode_steps_takes_in_what_makes_its_queries() {
    use Steps::{Any, Decode, Prefill, Single};
    let of = |module: &Module, op: &str| -> Vec<Vec<(Steps, Option<ValueId>)>> {
        let data = module.func.order.iter().map(|&id| &module.func.ops[id]).filter(|d| d.op.name() == op);
        data.map(|d| d.kernels.iter().map(|k| (k.steps, k.with)).collect()).collect()
    };
    let mut module = model(DType::Bf16);
    let ops = module.func.order.iter().map(|&id| &module.func.ops[id].op);
    let q = ops.filter_map(|op| if let Op::Attention(a) = op { Some(a.q) } else { None }).nth(1).unwrap();
    let (made, read) = (vec![(Any, None)], vec![(Decode, None), (Prefill, None), (Single, None)]);
    for gpu in ["sm_80", "sm_90", "sm_120"] {
        select(&mut module, target(gpu)).unwrap();
        // The cache of the first layer has another reader: the second one. Of more than 64 requests queries are made before.
        assert_eq!(
            of(&module, "rope_kv_append"),
            [made.clone(), vec![(Prefill, None), (Any, None)]],
            "{gpu}"
        );
        let chain = vec![(Decode, Some(q)), (Prefill, None), (Single, None), (Decode, None)];
        assert_eq!(of(&module, "attention"), [read.clone(), chain], "{gpu}");
        let chains: Vec<_> = module.func.chains().filter(|(_, k)| k.steps == Decode).collect();
        let [(maker, choice)] = chains[..] else { panic!("{chains:?}") };
        assert_eq!((module.func.def_op(q), choice.from, choice.to), (Some(maker), 1, 64));
        assert!(choice.kernel.contains(".rope_kv_append.") && choice.kernel.contains(".attention."));
    }
    // Queries that are returned have to be made.
    module.func.results.push(q);
    select(&mut module, target("sm_90")).unwrap();
    assert_eq!(of(&module, "rope_kv_append"), [made.clone(), made]);
    assert_eq!(of(&module, "attention"), [read.clone(), read]);
    assert!(module.func.chains().all(|(_, k)| k.steps == Any));
}

#[test]
fn streamed_products_of_one_token_take_in_what_makes_it() {
    let mut module = model(DType::Bf16);
    select(&mut module, target("sm_90")).unwrap();
    let products = |module: &Module| -> Vec<(u64, bool)> {
        let data = module.func.order.iter().map(|&id| &module.func.ops[id]);
        let linear = data.filter(|d| d.op.name() == "linear");
        linear.map(|d| (d.kernels[0].to, d.kernels[0].with.is_some())).collect()
    };
    // Query, key and value, output, gate and up, down of either layer, and the logits.
    let layer = [(1, true), (1, false), (1, true), (1, false)];
    assert_eq!(products(&module), [&layer[..], &layer, &[(1, true)]].concat());
    let norms =
        module.func.order.iter().map(|&id| &module.func.ops[id]).filter(|d| d.op.name() == "rms_norm");
    assert!(norms.clone().count() >= 5 && norms.clone().all(|d| d.kernels[0].from == 2));
    // Others do not stream.
    select(&mut module, target("sm_80")).unwrap();
    assert!(products(&module).iter().all(|&(_, chained)| !chained));
}

#[test]
fn small_tiles_serve_where_large_ones_are_few() {
    let mut module = model(DType::Bf16);
    for (name, n) in [("layers.0.gate_up", 4096), ("layers.1.gate_up", 2 * 14336)] {
        let w = module.weight_named(name).unwrap();
        module.weights[w].ty = TensorType::fixed(&[n, HIDDEN], Elem::Quant(Scheme::INT8));
    }
    select(&mut module, target("sm_90")).unwrap();
    let ranges = |name: &str| -> Vec<(u64, String)> {
        let w = module.weight_named(name).unwrap();
        let mut data = module.func.order.iter().map(|&id| &module.func.ops[id]);
        let linear = data.find(|d| matches!(&d.op, Op::Linear(op) if op.weight == w)).unwrap();
        let last = |k: &str| k.rsplit('.').next().unwrap().to_owned();
        linear.kernels.iter().map(|k| (k.to, last(&k.kernel))).collect()
    };
    let all = [(8, "least"), (16, "few"), (64, "some"), (384, "more"), (512, "many")];
    assert_eq!(ranges("layers.0.gate_up"), all.map(|(to, name)| (to, name.to_owned())));
    let large = [all[0], all[1], all[2], all[4]];
    assert_eq!(ranges("layers.1.gate_up"), large.map(|(to, name)| (to, name.to_owned())));
}

#[test]
fn a_selected_module_is_emitted_once_per_kernel_and_always_alike() {
    for mut module in [model(DType::Bf16), unfused()] {
        select(&mut module, target("sm_90")).unwrap();
        emitted(&module, target("sm_90"));
    }
}

fn emitted(module: &Module, gpu: &Target) {
    let kernels = emit(module, gpu, EmitOptions::default()).unwrap();
    let wanted: BTreeSet<&str> = module
        .func
        .order
        .iter()
        .flat_map(|&id| &module.func.ops[id].kernels)
        .map(|k| k.kernel.as_str())
        .collect();
    let made: Vec<&str> = kernels.iter().map(|k| k.name.as_str()).collect();
    assert_eq!(made, wanted.into_iter().collect::<Vec<_>>());
    assert_eq!(kernels, emit(module, gpu, EmitOptions { threads: 1, ..EmitOptions::default() }).unwrap());
    for k in &kernels {
        assert!(k.ptx.contains(&format!(".visible .entry {}(", k.entry)));
        super::assemble(&k.entry, &k.ptx, k.arch);
    }
    // As many arguments as its ops have, and a batch where theirs is.
    for &id in &module.func.order {
        let data = &module.func.ops[id];
        for choice in &data.kernels {
            let before = module.func.chained(choice).map(|id| &module.func.ops[id]);
            let args = arguments(&before.into_iter().chain([data]).collect::<Vec<_>>());
            let kernel = kernels.iter().find(|k| k.name == choice.kernel).unwrap();
            assert_eq!(kernel.args.len(), args.len(), "{}", kernel.name);
            for (kind, arg) in kernel.args.iter().zip(&args) {
                let batch = matches!(arg, Arg::Value(v) if module.func.values[*v].ty == Type::Batch);
                assert_eq!(*kind == ArgKind::Batch, batch);
            }
        }
    }
}

#[test]
fn modules_without_bounds_are_refused() {
    let mut module = model(DType::Bf16);
    module.dims.clear();
    let e = select(&mut module, target("host")).unwrap_err();
    assert!(e.message.contains("no bound on the dimension T"), "{e}");
}
