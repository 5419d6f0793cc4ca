//! The module in the making: weights on first use, types by the options, ops appended one by one.
//!
//! Which ops there are is not decided here (`blocks.rs`).

use crate::frontend::ImportOptions;
use crate::frontend::config::ModelConfig;
use crate::frontend::names::{self, Role};
use std::collections::BTreeMap;
use trtc_ir::ops::RmsNormWeight;
use trtc_ir::{
    DType, Dim, KvType, Loc, Module, Op, RopeFreqs, Source, Sym, TensorRef, TensorType, Type, ValueId,
    Weight, WeightId,
};

/// Builds the graph of a model.
pub struct Builder<'a> {
    pub config: &'a ModelConfig,
    pub options: &'a ImportOptions,
    pub module: Module,
    by_name: BTreeMap<String, WeightId>,
    ropes: Vec<(RopeFreqs, WeightId)>,
}

impl<'a> Builder<'a> {
    /// An empty step function.
    pub fn new(config: &'a ModelConfig, options: &'a ImportOptions, name: &str) -> Builder<'a> {
        let mut module = Module {
            name: name.to_owned(),
            arch: config.arch.to_owned(),
            dims: vec![(Sym::T, 1, options.max_step_tokens), (Sym::L, 1, options.max_logit_rows)],
            ..Module::default()
        };
        module.func.name = "forward".into();
        Builder { config, options, module, by_name: BTreeMap::new(), ropes: Vec::new() }
    }

    pub fn norm_weight(&self, weight: WeightId) -> RmsNormWeight {
        RmsNormWeight { weight, eps: self.config.norm_eps, offset: self.config.norm_offset }
    }

    /// One table for each distinct set of frequencies.
    pub fn rope_freqs(&mut self, freqs: RopeFreqs) -> WeightId {
        if let Some((_, id)) = self.ropes.iter().find(|(f, _)| *f == freqs) {
            return *id;
        }
        let id = self.module.weights.push(Weight {
            name: format!("rope.{}", self.ropes.len()),
            ty: TensorType::fixed(&[u64::from(freqs.dim / 2)], DType::F32),
            source: Source::Rope(freqs),
            packing: None,
        });
        self.ropes.push((freqs, id));
        id
    }

    pub fn matrix(&mut self, role: Role, layer: Option<usize>, out: u64, input: u64) -> WeightId {
        self.weight(role, layer, TensorType::fixed(&[out, input], self.options.weight))
    }

    pub fn vector(&mut self, role: Role, layer: Option<usize>, width: u64) -> WeightId {
        self.weight(role, layer, TensorType::fixed(&[width], DType::F32))
    }

    pub fn weight(&mut self, role: Role, layer: Option<usize>, ty: TensorType) -> WeightId {
        let symbol = role.symbol(layer);
        if let Some(id) = self.by_name.get(&symbol) {
            return *id;
        }
        let c = self.config;
        let heads = match role {
            names::Q | names::Q_BIAS => Some(c.heads),
            names::K | names::K_BIAS => Some(c.kv_heads),
            _ => None,
        };
        let interleaved_heads = heads.filter(|_| c.interleaved);
        let tensor = TensorRef { name: role.tensor(layer, &c.naming), interleaved_heads };
        let weight =
            Weight { name: symbol.clone(), ty, source: Source::Tensors(vec![tensor]), packing: None };
        let id = self.module.weights.push(weight);
        self.by_name.insert(symbol, id);
        id
    }

    /// Type of the residual stream.
    pub fn stream(&self) -> TensorType {
        TensorType::rows(Sym::T, &[u64::from(self.config.hidden)], self.options.residual)
    }

    /// Type of an activation with these inner extents.
    pub fn rows(&self, inner: &[u64]) -> TensorType {
        TensorType::rows(Sym::T, inner, self.options.act)
    }

    /// `(T, inner...)` of the type of what no product reads.
    pub fn wide(&self, inner: &[u64]) -> TensorType {
        TensorType::rows(Sym::T, inner, self.options.residual)
    }

    /// All extents of a value but the first.
    pub fn inner(&self, value: ValueId) -> Vec<u64> {
        let ty = self.module.func.values[value].ty.tensor();
        let dims = ty.map(|t| t.dims.get(1..).unwrap_or_default()).unwrap_or_default();
        dims.iter().filter_map(|d| if let Dim::Const(n) = d { Some(*n) } else { None }).collect()
    }

    /// Appends an op with one result.
    pub fn op(&mut self, op: impl Into<Op>, name: &str, ty: impl Into<Type>, loc: Loc) -> ValueId {
        self.module.func.append(op.into(), &[(name, ty.into())], loc)[0]
    }
}

impl ImportOptions {
    /// The cache of a layer. A window that covers the longest sequence is none.
    pub fn kv_type(&self, config: &ModelConfig, layer: u32, window: Option<u32>) -> KvType {
        KvType {
            layer,
            heads: config.kv_heads,
            head_dim: config.head_dim,
            dtype: self.kv,
            window: window.filter(|&w| u64::from(w) < self.max_seq_len),
            page: None,
        }
    }
}
