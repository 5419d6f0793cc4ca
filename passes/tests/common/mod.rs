//! Import-like modules of tiny two-layer models, and runs of the interpreter.
//!
//! The graphs have the shape that frontends emit; nothing here is read from a checkpoint.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::rc::Rc;
use trtc_ir::interp::{self, Batch, Data, KvState, Segment, Tensor, Weights};
use trtc_ir::ops::{
    Act, Add, Attention, Embedding, GatedAct, GatherRows, KvAppend, Linear, RmsNorm, RmsNormWeight, Rope,
};
use trtc_ir::random::Random;
use trtc_ir::types::Sym;
use trtc_ir::{
    DType, KvType, Loc, Module, Op, RopeFreqs, RopeScaling, Source, TensorRef, TensorType, Type, ValueId,
    Weight, WeightId,
};

pub const HIDDEN: u64 = 32;
pub const HEADS: u64 = 4;
pub const KV_HEADS: u64 = 2;
pub const HEAD_DIM: u64 = 8;
pub const MLP: u64 = 48;
pub const VOCAB: u64 = 40;
pub const LAYERS: u64 = 2;

/// What sets the models apart.
#[derive(Clone, Copy, Default)]
pub struct Shape {
    /// Biases on q, k and v.
    pub bias: bool,
    /// Per-head norms on q and k.
    pub qk_norm: bool,
    /// Norms of a layer's outputs before they are added, weights stored as `w - 1`, tanh GELU, scaled embedding.
    pub gemma: bool,
    /// One table for embedding and logits.
    pub tied: bool,
}

pub const LLAMA: Shape = Shape { bias: false, qk_norm: false, gemma: false, tied: false };
pub const QWEN2: Shape = Shape { bias: true, ..LLAMA };
pub const QWEN3: Shape = Shape { qk_norm: true, tied: true, ..LLAMA };
pub const GEMMA3: Shape = Shape { qk_norm: true, gemma: true, tied: true, ..LLAMA };
pub const SHAPES: [(&str, Shape); 4] =
    [("llama", LLAMA), ("qwen2", QWEN2), ("qwen3", QWEN3), ("gemma3", GEMMA3)];

/// Builds a module op by op.
pub struct Builder {
    pub m: Module,
    act: DType,
    shape: Shape,
}

impl Builder {
    pub fn new(name: &str, shape: Shape, act: DType) -> Builder {
        let mut m = Module { name: name.into(), arch: name.into(), ..Module::default() };
        m.dims = vec![(Sym::T, 1, 64), (Sym::L, 1, 8)];
        m.func.name = "step".into();
        Builder { m, act, shape }
    }

    pub fn weight(&mut self, name: &str, dims: &[u64], dtype: DType) -> WeightId {
        let source =
            Source::Tensors(vec![TensorRef { name: format!("ckpt.{name}"), interleaved_heads: None }]);
        let ty = TensorType::fixed(dims, dtype);
        self.m.weights.push(Weight { name: name.into(), ty, source, packing: None })
    }

    fn rows(&self, sym: Sym, dims: &[u64]) -> Type {
        TensorType::rows(sym, dims, self.act).into()
    }

    fn op(&mut self, op: impl Into<Op>, name: &str, ty: Type, loc: &str) -> ValueId {
        self.m.func.append(op.into(), &[(name, ty)], Loc::name(loc))[0]
    }

    pub fn linear(&mut self, x: ValueId, weight: &str, dims: &[u64], bias: bool, name: &str) -> ValueId {
        let input = self.m.func.values[x].ty.tensor().and_then(TensorType::width).expect("a tensor");
        let out = dims.iter().product();
        let w = self.weight(weight, &[out, input], self.act);
        let bias = bias.then(|| self.weight(&format!("{weight}.bias"), &[out], DType::F32));
        let ty = self.rows(Sym::T, dims);
        self.op(Linear { x, weight: w, bias, residual: None }, name, ty, weight)
    }

    pub fn norm(&mut self, x: ValueId, weight: &str, width: u64, name: &str) -> ValueId {
        let w = self.weight(weight, &[width], DType::F32);
        let offset = if self.shape.gemma { 1.0 } else { 0.0 };
        let ty = self.m.func.values[x].ty.clone();
        self.op(RmsNorm { x, norm: RmsNormWeight { weight: w, eps: 1e-6, offset } }, name, ty, weight)
    }

    pub fn add(&mut self, lhs: ValueId, rhs: ValueId, name: &str, loc: &str) -> ValueId {
        let ty = self.m.func.values[lhs].ty.clone();
        self.op(Add { lhs, rhs }, name, ty, loc)
    }
}

/// A whole two-layer model as a frontend emits it.
pub fn model(name: &str, shape: Shape, act: DType) -> Module {
    let mut b = Builder::new(name, shape, act);
    let tokens = b.m.func.add_param("tokens", TensorType::rows(Sym::T, &[], DType::I32));
    let pos = b.m.func.add_param("pos", TensorType::rows(Sym::T, &[], DType::I32));
    let rows = b.m.func.add_param("rows", TensorType::rows(Sym::L, &[], DType::I32));
    let batch = b.m.func.add_param("batch", Type::Batch);
    let kvs: Vec<(ValueId, KvType)> = (0..LAYERS as u32)
        .map(|layer| {
            let window = (shape.gemma && layer == 0).then_some(3);
            let ty = KvType {
                layer,
                heads: KV_HEADS as u32,
                head_dim: HEAD_DIM as u32,
                dtype: act,
                window,
                page: None,
            };
            (b.m.func.add_param(&format!("kv{layer}"), Type::Kv(ty.clone())), ty)
        })
        .collect();

    let table = b.weight("embed", &[VOCAB, HIDDEN], act);
    let scale = if shape.gemma { 5.5 } else { 1.0 };
    let wide = b.rows(Sym::T, &[HIDDEN]);
    let mut x = b.op(Embedding { tokens, table, scale }, "x", wide, "embed");
    let mut freqs = None;
    for (layer, (kv, kv_ty)) in kvs.into_iter().enumerate() {
        let l = |leaf: &str| format!("l{layer}.{leaf}");
        let n = b.norm(x, &l("attn.norm"), HIDDEN, "n");
        let mut q = b.linear(n, &l("attn.q"), &[HEADS, HEAD_DIM], shape.bias, "q");
        let mut k = b.linear(n, &l("attn.k"), &[KV_HEADS, HEAD_DIM], shape.bias, "k");
        let v = b.linear(n, &l("attn.v"), &[KV_HEADS, HEAD_DIM], shape.bias, "v");
        if shape.qk_norm {
            q = b.norm(q, &l("attn.q_norm"), HEAD_DIM, "qn");
            k = b.norm(k, &l("attn.k_norm"), HEAD_DIM, "kn");
        }
        let freqs = *freqs.get_or_insert_with(|| {
            let dim = HEAD_DIM as u32;
            let source = Source::Rope(RopeFreqs { dim, theta: 1e4, scaling: RopeScaling::None });
            let ty = TensorType::fixed(&[HEAD_DIM / 2], DType::F32);
            b.m.weights.push(Weight { name: "rope".into(), ty, source, packing: None })
        });
        let (q_ty, k_ty) = (b.m.func.values[q].ty.clone(), b.m.func.values[k].ty.clone());
        let qr = b.op(Rope { x: q, pos, freqs }, "qr", q_ty, &l("attn.rope"));
        let kr = b.op(Rope { x: k, pos, freqs }, "kr", k_ty, &l("attn.rope"));
        let kv = b.op(KvAppend { kv, k: kr, v, batch }, "kv", Type::Kv(kv_ty), &l("attn.kv"));
        let flat = b.rows(Sym::T, &[HEADS * HEAD_DIM]);
        let attention = Attention { q: qr, kv, batch, scale: 0.35, softcap: None, products: None };
        let a = b.op(attention, "a", flat, &l("attn"));
        let mut o = b.linear(a, &l("attn.o"), &[HIDDEN], false, "o");
        if shape.gemma {
            o = b.norm(o, &l("attn.post_norm"), HIDDEN, "on");
        }
        x = b.add(x, o, "h", &l("attn.add"));
        let n = b.norm(x, &l("mlp.norm"), HIDDEN, "n");
        let gate = b.linear(n, &l("mlp.gate"), &[MLP], false, "gate");
        let up = b.linear(n, &l("mlp.up"), &[MLP], false, "up");
        let act = if shape.gemma { Act::GeluTanh } else { Act::Silu };
        let ty = b.rows(Sym::T, &[MLP]);
        let g = b.op(GatedAct { gate, up, act }, "g", ty, &l("mlp.act"));
        let mut down = b.linear(g, &l("mlp.down"), &[HIDDEN], false, "down");
        if shape.gemma {
            down = b.norm(down, &l("mlp.post_norm"), HIDDEN, "dn");
        }
        x = b.add(x, down, "x", &l("mlp.add"));
    }
    let n = b.norm(x, "norm", HIDDEN, "n");
    let picked = b.rows(Sym::L, &[HIDDEN]);
    let last = b.op(GatherRows { x: n, rows }, "last", picked, "rows");
    let head = if shape.tied { table } else { b.weight("lm_head", &[VOCAB, HIDDEN], act) };
    let ty = TensorType::rows(Sym::L, &[VOCAB], DType::F32).into();
    let logits = b.op(Linear { x: last, weight: head, bias: None, residual: None }, "logits", ty, "lm_head");
    b.m.func.results.push(logits);
    b.m
}

/// Two requests: three tokens of a new one, and two after the four that a second one has in its cache.
pub fn inputs() -> Vec<Data> {
    let mut random = Random::new(3);
    let mut row = || (0..KV_HEADS * HEAD_DIM).map(|_| random.signed()).collect::<Vec<f32>>();
    let mut data = vec![
        Data::Int(vec![3, 17, 39, 0, 8]),
        Data::Int(vec![0, 1, 2, 4, 5]),
        Data::Int(vec![2, 4]),
        Data::Batch(Rc::new(Batch {
            segments: vec![Segment { seq: 0, start: 0, len: 3 }, Segment { seq: 5, start: 4, len: 2 }],
        })),
    ];
    for _ in 0..LAYERS {
        let seqs = [(5, (0..4).map(|_| (row(), row())).collect())].into_iter().collect();
        data.push(Data::Kv(Rc::new(KvState { seqs })));
    }
    data
}

/// The logits of a module.
pub fn logits(module: &Module, weights: &dyn Weights) -> Tensor {
    let out = interp::run(module, weights, &inputs()).unwrap_or_else(|d| panic!("{d}"));
    match out.into_iter().next() {
        Some(Data::Float(t)) => t,
        other => panic!("expected logits, found {other:?}"),
    }
}

/// Asserts that two tensors agree to `tol`, relative to the larger of 1 and the magnitude.
pub fn assert_close(what: &str, a: &Tensor, b: &Tensor, tol: f32) {
    assert_eq!(a.dims, b.dims, "{what}");
    let spread = a.data.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert!(spread > 0.1 && spread.is_finite(), "{what}: the logits say nothing, the largest is {spread}");
    for (i, (x, y)) in a.data.iter().zip(&b.data).enumerate() {
        assert!((x - y).abs() <= tol * x.abs().max(1.0), "{what}: element {i} is {x} before and {y} after");
    }
}

/// Names of the ops in order.
pub fn ops(module: &Module) -> Vec<&'static str> {
    module.func.order.iter().map(|&o| module.func.ops[o].op.name()).collect()
}
