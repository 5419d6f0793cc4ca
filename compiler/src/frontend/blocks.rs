//! The blocks that decoder-only transformers are made of, as ops of the graph IR, and the whole step function.
//!
//! One layer, with what a model may leave out in brackets:
//!
//! ```text
//! a = norm(x);  q, k, v = linear(a);  [norm of each head of q, k];  rope(q), rope(k);  append k, v;  attention
//! x = x + [norm](linear(attention))
//! m = norm(x);  x = x + [norm](linear(act(linear_gate(m)) * linear_up(m)))
//! ```
//!
//! The residual stream (embeddings and sums) has the residual type, logits are f32, everything else has the
//! activation type. Which of the switches a model sets is decided in `arch/`.

use crate::frontend::ImportOptions;
use crate::frontend::builder::Builder;
use crate::frontend::config::ModelConfig;
use crate::frontend::names::{self, Role};
use trtc_ir::ops::{Add, Attention, Embedding, GatedAct, GatherRows, KvAppend, Linear, RmsNorm, Rope};
use trtc_ir::{DType, Loc, Module, Sym, TensorType, Type, ValueId, WeightId};

/// The step's inputs besides caches.
struct Inputs {
    tokens: ValueId,
    positions: ValueId,
    rows: ValueId,
    batch: ValueId,
}

/// A projection: its weight, its bias if the model has one, and its module's name.
struct Projection {
    weight: Role,
    bias: Option<Role>,
    module: &'static str,
}

impl Projection {
    fn new(weight: Role, bias: Role, biased: bool, module: &'static str) -> Projection {
        Projection { weight, bias: biased.then_some(bias), module }
    }
}

/// What reads a norm: linears want their own type of activations.
enum Reader {
    Linear,
    Other,
}

/// A place in the model: where an op belongs, for its location and the names of its results.
struct Place {
    /// `model.layers.0`.
    path: String,
    /// `l0`.
    short: String,
    layer: usize,
}

impl Place {
    fn loc(&self, part: &str) -> Loc {
        Loc::name(format!("{}.{part}", self.path))
    }

    fn value(&self, part: &str) -> String {
        format!("{}_{part}", self.short)
    }
}

/// The graph of `config`: function `@forward` of `%tokens, %positions, %rows, %batch, %kv0...` to logits.
pub fn build(config: &ModelConfig, options: &ImportOptions, name: &str) -> Module {
    let mut b = Builder::new(config, options, name);
    b.forward();
    b.module
}

impl Builder<'_> {
    fn forward(&mut self) {
        let c = self.config;
        let ints = |sym| TensorType::rows(sym, &[], DType::I32);
        let f = &mut self.module.func;
        let inputs = Inputs {
            tokens: f.add_param("tokens", ints(Sym::T)),
            positions: f.add_param("positions", ints(Sym::T)),
            rows: f.add_param("rows", ints(Sym::L)),
            batch: f.add_param("batch", Type::Batch),
        };
        let caches: Vec<ValueId> = c
            .layers
            .iter()
            .enumerate()
            .map(|(l, layer)| {
                f.add_param(&format!("kv{l}"), Type::Kv(self.options.kv_type(c, l as u32, layer.window)))
            })
            .collect();

        let table = self.matrix(names::EMBED, None, u64::from(c.vocab), u64::from(c.hidden));
        let embed = Embedding { tokens: inputs.tokens, table, scale: c.embed_scale };
        let mut x = self.op(embed, "x", self.stream(), Loc::name("model.embed_tokens"));
        for (l, kv) in caches.into_iter().enumerate() {
            let at = Place { path: format!("model.layers.{l}"), short: format!("l{l}"), layer: l };
            x = self.attention_block(&at, x, kv, &inputs);
            x = self.mlp_block(&at, x);
        }
        let weight = self.vector(names::OUT_NORM, None, u64::from(c.hidden));
        let norm = RmsNorm { x, norm: self.norm_weight(weight) };
        let n = self.op(norm, "out", self.rows(&[u64::from(c.hidden)]), Loc::name("model.norm"));
        let hidden = TensorType::rows(Sym::L, &[u64::from(c.hidden)], self.options.act);
        let last = self.op(GatherRows { x: n, rows: inputs.rows }, "last", hidden, Loc::name("lm_head.rows"));
        let head = if c.tied {
            table
        } else {
            self.matrix(names::LM_HEAD, None, u64::from(c.vocab), u64::from(c.hidden))
        };
        let linear = Linear { x: last, weight: head, bias: None, residual: None };
        let logits = TensorType::rows(Sym::L, &[u64::from(c.vocab)], DType::F32);
        let logits = self.op(linear, "logits", logits, Loc::name("lm_head"));
        self.module.func.results = vec![logits];
    }

    /// `x + [norm](o(attention(norm(x))))`.
    fn attention_block(&mut self, at: &Place, x: ValueId, kv: ValueId, inputs: &Inputs) -> ValueId {
        let c = self.config;
        let (heads, kv_heads, dim) = (u64::from(c.heads), u64::from(c.kv_heads), u64::from(c.head_dim));
        let layer = c.layers[at.layer];
        let n = self.norm(at, names::ATTN_NORM, "input_layernorm", "attn_norm", x, Reader::Linear);
        let mut q = self.linear(
            at,
            Projection::new(names::Q, names::Q_BIAS, c.qkv_bias, "self_attn.q_proj"),
            "q",
            n,
            &[heads, dim],
        );
        let mut k = self.linear(
            at,
            Projection::new(names::K, names::K_BIAS, c.qkv_bias, "self_attn.k_proj"),
            "k",
            n,
            &[kv_heads, dim],
        );
        let v = self.linear(
            at,
            Projection::new(names::V, names::V_BIAS, c.qkv_bias, "self_attn.v_proj"),
            "v",
            n,
            &[kv_heads, dim],
        );
        if c.qk_norm {
            q = self.norm(at, names::Q_NORM, "self_attn.q_norm", "q_norm", q, Reader::Other);
            k = self.norm(at, names::K_NORM, "self_attn.k_norm", "k_norm", k, Reader::Other);
        }
        let freqs = self.rope_freqs(layer.rope);
        // Queries are multiplied next, keys are stored first, in the cache's type.
        let q = self.rope(at, "q_rope", q, inputs.positions, freqs, self.rows(&[heads, dim]));
        let k = self.rope(at, "k_rope", k, inputs.positions, freqs, self.wide(&[kv_heads, dim]));
        let kv_type = self.module.func.values[kv].ty.clone();
        let append = KvAppend { kv, k, v, batch: inputs.batch };
        let kv = self.op(append, &at.value("kv"), kv_type, at.loc("self_attn.kv"));
        let (batch, products) = (inputs.batch, self.options.attention);
        let attention = Attention { q, kv, batch, scale: c.attn_scale, softcap: None, products };
        let a = self.op(attention, &at.value("attn"), self.rows(&[heads * dim]), at.loc("self_attn"));
        let mut o = self.linear(
            at,
            Projection::new(names::O, names::O_BIAS, c.o_bias, "self_attn.o_proj"),
            "o",
            a,
            &[u64::from(c.hidden)],
        );
        if c.post_norms {
            o = self.norm(
                at,
                names::ATTN_POST_NORM,
                "post_attention_layernorm",
                "attn_post_norm",
                o,
                Reader::Other,
            );
        }
        self.op(Add { lhs: x, rhs: o }, &at.value("h"), self.stream(), at.loc("self_attn.add"))
    }

    /// `x + [norm](down(act(gate(norm(x))) * up(norm(x))))`.
    fn mlp_block(&mut self, at: &Place, x: ValueId) -> ValueId {
        let c = self.config;
        let (hidden, inner) = (u64::from(c.hidden), u64::from(c.intermediate));
        let (role, module) = if c.post_norms {
            (names::MLP_PRE_NORM, "pre_feedforward_layernorm")
        } else {
            (names::MLP_NORM, "post_attention_layernorm")
        };
        let n = self.norm(at, role, module, "mlp_norm", x, Reader::Linear);
        let gate = self.linear(
            at,
            Projection::new(names::GATE, names::GATE_BIAS, c.mlp_bias, "mlp.gate_proj"),
            "gate",
            n,
            &[inner],
        );
        let up = self.linear(
            at,
            Projection::new(names::UP, names::UP_BIAS, c.mlp_bias, "mlp.up_proj"),
            "up",
            n,
            &[inner],
        );
        let act = GatedAct { gate, up, act: c.act };
        let act = self.op(act, &at.value("act"), self.rows(&[inner]), at.loc("mlp.act_fn"));
        let mut down = self.linear(
            at,
            Projection::new(names::DOWN, names::DOWN_BIAS, c.mlp_bias, "mlp.down_proj"),
            "down",
            act,
            &[hidden],
        );
        if c.post_norms {
            down = self.norm(
                at,
                names::MLP_POST_NORM,
                "post_feedforward_layernorm",
                "mlp_post_norm",
                down,
                Reader::Other,
            );
        }
        self.op(Add { lhs: x, rhs: down }, &at.value("x"), self.stream(), at.loc("mlp.add"))
    }

    /// A norm over the last dimension of `x`, whatever that is.
    fn norm(
        &mut self,
        at: &Place,
        role: Role,
        module: &str,
        name: &str,
        x: ValueId,
        reader: Reader,
    ) -> ValueId {
        let inner = self.inner(x);
        let width = inner.last().copied().unwrap_or(1);
        let weight = self.vector(role, Some(at.layer), width);
        let norm = RmsNorm { x, norm: self.norm_weight(weight) };
        let ty = match reader {
            Reader::Linear => self.rows(&inner),
            Reader::Other => self.wide(&inner),
        };
        self.op(norm, &at.value(name), ty, at.loc(module))
    }

    /// `out` are the extents that the result's columns split into.
    fn linear(&mut self, at: &Place, p: Projection, name: &str, x: ValueId, out: &[u64]) -> ValueId {
        let (rows, columns) = (out.iter().product(), self.inner(x).iter().product());
        let weight = self.matrix(p.weight, Some(at.layer), rows, columns);
        let bias = p.bias.map(|role| self.vector(role, Some(at.layer), rows));
        let linear = Linear { x, weight, bias, residual: None };
        self.op(linear, &at.value(name), self.wide(out), at.loc(p.module))
    }

    fn rope(
        &mut self,
        at: &Place,
        name: &str,
        x: ValueId,
        pos: ValueId,
        freqs: WeightId,
        ty: TensorType,
    ) -> ValueId {
        self.op(Rope { x, pos, freqs }, &at.value(name), ty, at.loc("self_attn.rotary_emb"))
    }
}
