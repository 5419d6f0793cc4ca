//! Random modules: of any shape the text form can hold, not of any meaning.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use trtc_ir::ops::*;
use trtc_ir::random::Random;
use trtc_ir::*;

/// Names plain and odd.
const NAMES: &[&str] =
    &["x", "l0.attn.q", "a-b", "0", "a b", "\"", "\\n\n", "é%@", "tensor", "loc", "_", "u{41}"];

pub struct Gen(pub Random);

impl Gen {
    pub fn new(seed: u64) -> Gen {
        Gen(Random::new(seed))
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Gen) -> T) -> Option<T> {
        if self.below(2) == 0 { Some(make(self)) } else { None }
    }

    fn name(&mut self) -> String {
        self.pick(NAMES).to_owned()
    }

    fn u32(&mut self) -> u32 {
        self.pick(&[0, 1, 8, 32, 128, u32::MAX])
    }

    fn u64(&mut self) -> u64 {
        self.pick(&[0, 1, 2, 64, 4096, 1 << 40, u64::MAX])
    }

    fn f64(&mut self) -> f64 {
        self.pick(&[0.0, -0.0, 1.0, 1e4, 1e-300, 1.0 / 3.0, -2.5e20, f64::INFINITY, 123456789.0, 0.1])
    }

    fn f32(&mut self) -> f32 {
        let bits = f32::from_bits(self.0.next() as u32);
        let random = if bits.is_nan() { 0.5 } else { bits };
        self.pick(&[0.0, -0.0, 1.0, 1e-5, 1e-6, 0.088388346, -3.0, f32::INFINITY, f32::MAX, random, random])
    }

    fn dtype(&mut self) -> DType {
        let all: Vec<_> = DType::all().collect();
        self.pick(&all)
    }

    fn elem(&mut self) -> Elem {
        if self.below(3) > 0 {
            return Elem::Plain(self.dtype());
        }
        let grain = match self.below(5) {
            0 => Grain::Tensor,
            1 => Grain::Channel,
            2 => Grain::Token,
            3 => Grain::Group(self.u32()),
            _ => Grain::Block(self.u32(), self.u32()),
        };
        Elem::Quant(Scheme { payload: self.dtype(), scale: self.dtype(), grain, zero: self.below(2) == 0 })
    }

    fn tensor(&mut self) -> TensorType {
        let dims = (0..self.below(4)).map(|_| match self.below(3) {
            0 => Dim::Sym(Sym(self.pick(b"TLXZ"))),
            _ => Dim::Const(self.u64()),
        });
        TensorType { dims: dims.collect(), elem: self.elem() }
    }

    fn ty(&mut self) -> Type {
        match self.below(5) {
            0 => Type::Batch,
            1 => Type::Kv(KvType {
                layer: self.u32(),
                heads: self.u32(),
                head_dim: self.u32(),
                dtype: self.dtype(),
                window: self.maybe(Gen::u32),
                page: self.maybe(Gen::u32),
            }),
            _ => Type::Tensor(self.tensor()),
        }
    }

    fn single_loc(&mut self) -> Loc {
        if self.below(2) == 0 {
            Loc::Name(self.name())
        } else {
            Loc::File { path: self.name(), line: self.u32(), col: self.u32() }
        }
    }

    fn loc(&mut self) -> Loc {
        match self.below(4) {
            0 => Loc::Unknown,
            1 => Loc::Fused((0..self.below(4)).map(|_| self.single_loc()).collect()),
            _ => self.single_loc(),
        }
    }

    fn norm(&mut self, weights: &[WeightId]) -> RmsNormWeight {
        RmsNormWeight { weight: self.pick(weights), eps: self.f32(), offset: self.f32() }
    }

    /// Any op over these values and weights.
    pub fn op(&mut self, v: &[ValueId], w: &[WeightId]) -> Op {
        let act = self.pick(&[Act::Silu, Act::GeluTanh]);
        match self.below(15) {
            0 => Embedding { tokens: self.pick(v), table: self.pick(w), scale: self.f32() }.into(),
            1 => RmsNorm { x: self.pick(v), norm: self.norm(w) }.into(),
            2 => Linear {
                x: self.pick(v),
                weight: self.pick(w),
                bias: self.maybe(|g| g.pick(w)),
                residual: self.maybe(|g| g.pick(v)),
            }
            .into(),
            3 => Slice { x: self.pick(v), start: self.pick(&[0, 1, 4096, i64::MAX as u64]) }.into(),
            4 => Add { lhs: self.pick(v), rhs: self.pick(v) }.into(),
            5 => Rope { x: self.pick(v), pos: self.pick(v), freqs: self.pick(w) }.into(),
            6 => KvAppend { kv: self.pick(v), k: self.pick(v), v: self.pick(v), batch: self.pick(v) }.into(),
            7 => Attention {
                q: self.pick(v),
                kv: self.pick(v),
                batch: self.pick(v),
                scale: self.f32(),
                softcap: self.maybe(Gen::f32),
                products: self.maybe(Gen::dtype),
            }
            .into(),
            8 => GatedAct { gate: self.pick(v), up: self.pick(v), act }.into(),
            9 => GatherRows { x: self.pick(v), rows: self.pick(v) }.into(),
            10 => AddRmsNorm { x: self.pick(v), residual: self.pick(v), norm: self.norm(w) }.into(),
            11 => RopeKvAppend {
                qkv: self.pick(v),
                pos: self.pick(v),
                kv: self.pick(v),
                batch: self.pick(v),
                heads: self.u32(),
                freqs: self.pick(w),
                q_norm: self.maybe(|g| g.norm(w)),
                k_norm: self.maybe(|g| g.norm(w)),
            }
            .into(),
            12 => Quantize { x: self.pick(v) }.into(),
            13 => GatedLinear { x: self.pick(v), weight: self.pick(w), bias: self.maybe(|g| g.pick(w)), act }
                .into(),
            _ => GatedActPacked { x: self.pick(v), act }.into(),
        }
    }

    fn weight(&mut self, i: usize) -> Weight {
        let source = if self.below(3) == 0 {
            let scaling = match self.below(3) {
                0 => RopeScaling::None,
                1 => RopeScaling::Linear { factor: self.f64() },
                _ => RopeScaling::Llama3 {
                    factor: self.f64(),
                    low: self.f64(),
                    high: self.f64(),
                    original: self.f64(),
                },
            };
            Source::Rope(RopeFreqs { dim: self.u32(), theta: self.f64(), scaling })
        } else {
            let parts = (0..self.below(4))
                .map(|_| TensorRef { name: self.name(), interleaved_heads: self.maybe(Gen::u32) });
            Source::Tensors(parts.collect())
        };
        let packing = self.maybe(|g| g.pick(&[Packing::Rows, Packing::Panel16, Packing::Fragment16]));
        Weight { name: format!("{}{i}", self.name()), ty: self.tensor(), source, packing }
    }

    /// A module with everything in it that the text form knows.
    pub fn module(&mut self) -> Module {
        let mut m = Module {
            name: self.name(),
            arch: self.maybe(Gen::name).unwrap_or_default(),
            target: self.maybe(Gen::name),
            precision: self.maybe(Gen::name),
            deterministic: self.below(2) == 1,
            dims: (0..self.below(3)).map(|i| (Sym(b"TLX"[i]), self.u64(), self.u64())).collect(),
            arena: self.maybe(Gen::u64),
            ..Module::default()
        };
        m.func.name = self.name();
        let weights: Vec<_> = (0..1 + self.below(4)).map(|i| m.weights.push(self.weight(i))).collect();
        let mut values: Vec<ValueId> = Vec::new();
        for i in 0..1 + self.below(4) {
            let (name, ty) = (format!("{}{i}", self.name()), self.ty());
            values.push(m.func.add_param(&name, ty));
        }
        for i in 0..self.below(8) {
            let op = self.op(&values, &weights);
            let names: Vec<_> =
                (0..self.below(3)).map(|r| (format!("{}v{i}.{r}", self.name()), self.ty())).collect();
            let names: Vec<_> = names.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
            let loc = self.loc();
            let made = m.func.append(op, &names, loc);
            let id = *m.func.order.last().unwrap();
            m.func.ops[id].kernels = (0..self.below(3))
                .map(|_| KernelChoice {
                    from: self.u64(),
                    to: self.u64(),
                    steps: [Steps::Any, Steps::Decode, Steps::Prefill, Steps::Single][self.below(4)],
                    with: if self.below(3) == 0 { Some(self.pick(&values)) } else { None },
                    kernel: self.name(),
                })
                .collect();
            values.extend(made);
        }
        for &v in &values {
            m.func.values[v].offset = if self.below(3) == 0 { Some(self.u64()) } else { None };
        }
        m.func.results = (0..self.below(3)).map(|_| self.pick(&values)).collect();
        m
    }
}
