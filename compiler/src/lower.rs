//! From the planned module to the manifest: weights, kernels and the launch list.
//!
//! Pure translation between the IR's types and the engine file's; every decision was taken by a pass. Host kernels
//! are made here (`host.rs`), because the runtime's functions are named in the manifest; GPU kernels come from codegen
//! (`ptx.rs`). Which op becomes which launches is in `launches.rs`.

mod host;
mod launches;
mod ptx;

pub(crate) use ptx::{cubin_tensor, ptx_tensor};

use crate::gpu::GpuCode;
use std::collections::BTreeMap;
use trtc_engine::manifest::{self as eng, Arg, Count, Launch};
use trtc_ir::entity::{ValueId, WeightId};
use trtc_ir::module::{Packing, Source};
use trtc_ir::types::{Elem, Sym};
use trtc_ir::{DType, Diag, Dim, Grain, Loc, Module, Scheme, Target, TensorType, Type};

/// The parts of the manifest that come from the module.
pub(crate) struct Lowered {
    pub weights: Vec<eng::Weight>,
    pub kernels: Vec<eng::Kernel>,
    pub launches: Vec<Launch>,
    pub kv: eng::Kv,
    /// Arena offset of the logits.
    pub logits: u64,
    /// Where the chosen tokens are.
    pub sampled: Option<eng::Sampled>,
}

/// Translates a planned module; `compiled` is the code of a GPU target, empty for the host.
pub(crate) fn lower(module: &Module, target: &Target, compiled: &GpuCode) -> Result<Lowered, Diag> {
    let cx = Cx { module };
    let (kernels, launches) = cx.launches(target, compiled)?;
    let (logits, sampled) = match *module.func.results.as_slice() {
        [logits] => (cx.offset(logits)?, None),
        [logits, tokens, logprobs] => {
            let sampled = eng::Sampled { tokens: cx.offset(tokens)?, logprobs: cx.offset(logprobs)? };
            (cx.offset(logits)?, Some(sampled))
        }
        ref more => {
            let found = format!("the step function returns {} values", more.len());
            return Err(cx.bug(format!("{found}, expected logits, or logits, tokens and log-probabilities")));
        }
    };
    let weights = module.weights.ids().map(|w| cx.weight(w)).collect::<Result<_, _>>()?;
    Ok(Lowered { weights, kernels, launches, kv: cx.kv()?, logits, sampled })
}

struct Cx<'a> {
    module: &'a Module,
}

impl Cx<'_> {
    fn bug(&self, message: impl Into<String>) -> Diag {
        Diag::bug(&Loc::Unknown, message)
    }

    fn count(&self, n: u64) -> Result<u32, Diag> {
        u32::try_from(n).map_err(|_| self.bug(format!("{n} is more than the engine format counts")))
    }

    fn tensor(&self, v: ValueId) -> Result<&TensorType, Diag> {
        let value = &self.module.func.values[v];
        value
            .ty
            .tensor()
            .ok_or_else(|| self.bug(format!("%{} is {}, expected a tensor", value.name, value.ty)))
    }

    /// Elements of a row: all dimensions but the first.
    fn width(&self, v: ValueId) -> Result<u32, Diag> {
        let ty = self.tensor(v)?;
        let width = ty.width().ok_or_else(|| self.bug(format!("{ty} has an inner symbolic dimension")))?;
        self.count(width)
    }

    fn last_dim(&self, v: ValueId) -> Result<u32, Diag> {
        match self.tensor(v)?.dims.last() {
            Some(Dim::Const(n)) => self.count(*n),
            _ => Err(self.bug("a tensor's last dimension is symbolic")),
        }
    }

    fn rows(&self, v: ValueId) -> Result<Count, Diag> {
        match self.tensor(v)?.dims.first() {
            Some(Dim::Sym(Sym::T)) => Ok(Count::Tokens),
            Some(Dim::Sym(Sym::L)) => Ok(Count::Rows),
            _ => Err(self.bug(format!("%{} has no symbolic rows", self.module.func.values[v].name))),
        }
    }

    fn dtype(&self, v: ValueId) -> Result<eng::Dtype, Diag> {
        let ty = self.tensor(v)?;
        stored(ty.elem).ok_or_else(|| {
            Diag::unsupported(
                &Loc::Unknown,
                format!("the host device has no activations of type {}", ty.elem),
            )
        })
    }

    fn offset(&self, v: ValueId) -> Result<u64, Diag> {
        let value = &self.module.func.values[v];
        value.offset.ok_or_else(|| self.bug(format!("%{} has no place in the arena", value.name)))
    }

    /// Where the scales of a quantised value begin.
    fn scales(&self, v: ValueId) -> Result<u64, Diag> {
        let bytes = self.tensor(v)?.bytes(|sym| self.module.max_dim(sym));
        let at = bytes.and_then(|b| b.scales_at()).and_then(|at| at.checked_add(self.offset(v).ok()?));
        at.ok_or_else(|| {
            self.bug(format!("%{} has no place for its scales", self.module.func.values[v].name))
        })
    }

    /// The argument that a value becomes; that of a quantised one is followed by its scales.
    fn arg(&self, v: ValueId) -> Result<Arg, Diag> {
        let value = &self.module.func.values[v];
        match &value.ty {
            Type::Batch => Ok(Arg::Batch),
            Type::Kv(kv) => Ok(Arg::Kv(kv.layer)),
            Type::Tensor(_) => match (value.def, value.name.as_str()) {
                (trtc_ir::Def::Op(..), _) => Ok(Arg::Arena(self.offset(v)?)),
                (trtc_ir::Def::Param(_), "tokens") => Ok(Arg::Tokens),
                (trtc_ir::Def::Param(_), "positions") => Ok(Arg::Positions),
                (trtc_ir::Def::Param(_), "rows") => Ok(Arg::Rows),
                (trtc_ir::Def::Param(_), "draws") => Ok(Arg::Draws),
                (trtc_ir::Def::Param(_), "masks") => Ok(Arg::Masks),
                (trtc_ir::Def::Param(_), "previous") => Ok(Arg::Arena(self.offset(v)?)),
                (trtc_ir::Def::Param(_), name) => {
                    let known = "tokens, positions, rows, draws, masks, previous";
                    Err(Diag::user(&Loc::Unknown, format!("the step function has a parameter %{name}"))
                        .help(format!("the runtime binds {known}, a batch and caches")))
                }
            },
        }
    }

    fn weight(&self, id: WeightId) -> Result<eng::Weight, Diag> {
        let w = &self.module.weights[id];
        let shape = w.ty.shape().ok_or_else(|| self.bug(format!("@{} has a symbolic dimension", w.name)))?;
        let encoding = match w.ty.elem {
            Elem::Plain(DType::F32) => eng::Encoding::F32,
            Elem::Plain(DType::Bf16) => eng::Encoding::Bf16,
            Elem::Quant(s) => match (s.payload, s.grain, s.zero) {
                (DType::I8, Grain::Channel, false) => eng::Encoding::I8Channel,
                (DType::F8E4M3, Grain::Channel, false) => eng::Encoding::F8Channel,
                (DType::I4, Grain::Group(group), true) => eng::Encoding::I4Group { group },
                _ => return Err(unstorable(&w.name, &w.ty)),
            },
            Elem::Plain(_) => return Err(unstorable(&w.name, &w.ty)),
        };
        let layout = match w.packing {
            Some(Packing::Rows) => eng::Layout::Rows,
            Some(Packing::Panel16) => eng::Layout::Panel16,
            Some(Packing::Fragment16) => eng::Layout::Fragment16,
            None => return Err(self.bug(format!("no packing was selected for @{}", w.name))),
        };
        let computed = matches!(w.source, Source::Rope(_));
        Ok(eng::Weight { name: w.name.clone(), shape, encoding, layout, computed })
    }

    fn kv(&self) -> Result<eng::Kv, Diag> {
        let mut layers = BTreeMap::new();
        let mut shared: Option<(u32, eng::Dtype)> = None;
        for &param in &self.module.func.params {
            let Some(kv) = self.module.func.values[param].ty.kv() else {
                continue;
            };
            let page = kv.page.ok_or_else(|| self.bug(format!("layer {} has no page size", kv.layer)))?;
            let elem = kv.scheme().map_or(Elem::Plain(kv.dtype), Elem::Quant);
            let dtype = stored(elem).ok_or_else(|| {
                Diag::unsupported(&Loc::Unknown, format!("the host device has no {} cache", kv.dtype))
            })?;
            if *shared.get_or_insert((page, dtype)) != (page, dtype) {
                return Err(self.bug("layers differ in page size or type of their cache"));
            }
            layers
                .insert(kv.layer, eng::KvLayer { heads: kv.heads, head_dim: kv.head_dim, window: kv.window });
        }
        if !layers.keys().copied().eq(0..layers.len() as u32) {
            return Err(self.bug("the caches' layers are not numbered from 0"));
        }
        let (page_tokens, dtype) = shared.ok_or_else(|| self.bug("the step function has no cache"))?;
        Ok(eng::Kv { page_tokens, dtype, layers: layers.into_values().collect() })
    }
}

fn unstorable(name: &str, ty: &TensorType) -> Diag {
    Diag::unsupported(&Loc::name(name), format!("the engine format cannot store @{name} as {ty}"))
}

/// The engine's type of activations and caches.
fn stored(elem: Elem) -> Option<eng::Dtype> {
    match elem {
        Elem::Quant(Scheme::FP8_TOKEN) => Some(eng::Dtype::F8E4M3),
        Elem::Plain(DType::F32) => Some(eng::Dtype::F32),
        Elem::Plain(DType::Bf16) => Some(eng::Dtype::Bf16),
        _ => None,
    }
}
