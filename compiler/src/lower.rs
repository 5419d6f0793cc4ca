//! From the planned module to the manifest: weights, kernels and the launch list.
//!
//! Pure translation between the IR's types and the engine file's; every decision was taken by a pass. Host kernels
//! are made here, because the runtime's functions are named in the manifest; GPU kernels come from codegen.

use crate::gpu::GpuCode;
use std::collections::BTreeMap;
use trtc_codegen::emit;
use trtc_codegen::kernels::{Count as Counted, Map, MapElem, MapRows};
use trtc_engine::manifest::{self as eng, Arg, Choice, Code, Count, HostKernel, Launch};
use trtc_ir::entity::{ValueId, WeightId};
use trtc_ir::module::{Packing, Source};
use trtc_ir::ops::Act;
use trtc_ir::types::{Elem, Sym};
use trtc_ir::{DType, Diag, Dim, Grain, Loc, Module, Op, OpData, Scheme, Steps, Target, TensorType, Type};

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
    let mut kernels: Vec<eng::Kernel> = Vec::new();
    let mut by_name: BTreeMap<&str, u32> = BTreeMap::new();
    let mut launches = Vec::new();
    for &id in &module.func.order {
        let data = &module.func.ops[id];
        let mut choices = Vec::new();
        for choice in &data.kernels {
            let code = match target.gpu {
                None => Code::Host(cx.host_kernel(data)?),
                Some(_) => Code::Ptx(ptx_kernel(compiled, &choice.kernel, &data.loc)?),
            };
            let kernel = match by_name.get(choice.kernel.as_str()) {
                Some(&index) => {
                    if kernels[index as usize].code != code {
                        let message = format!("two different kernels are called '{}'", choice.kernel);
                        return Err(Diag::bug(&data.loc, message));
                    }
                    index
                }
                None => {
                    let contract = trtc_ir::text::print(
                        &trtc_ir::extract::extract_op(module, id),
                        trtc_ir::text::PrintOptions::default(),
                    );
                    kernels.push(eng::Kernel { name: choice.kernel.clone(), code, contract });
                    by_name.insert(&choice.kernel, kernels.len() as u32 - 1);
                    kernels.len() as u32 - 1
                }
            };
            let steps = match choice.steps {
                Steps::Any => eng::Steps::Any,
                Steps::Decode => eng::Steps::Decode,
                Steps::Prefill => eng::Steps::Prefill,
            };
            choices.push(Choice { from: cx.count(choice.from)?, to: cx.count(choice.to)?, steps, kernel });
        }
        if choices.is_empty() {
            return Err(Diag::bug(&data.loc, format!("no kernel was selected for llm.{}", data.op.name())));
        }
        launches.push(Launch { choices, args: cx.args(data)?, loc: data.loc.to_string() });
    }
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

/// The container's tensor with a kernel's PTX.
pub(crate) fn ptx_tensor(kernel: &str) -> String {
    format!("kernel/{kernel}.ptx")
}

/// The container's tensor with a kernel's binary.
pub(crate) fn cubin_tensor(kernel: &str) -> String {
    format!("kernel/{kernel}.cubin")
}

/// How a compiled kernel is launched.
fn ptx_kernel(compiled: &GpuCode, name: &str, loc: &Loc) -> Result<eng::PtxKernel, Diag> {
    let kernel = compiled.kernels.iter().find(|k| k.name == name);
    let kernel = kernel.ok_or_else(|| Diag::bug(loc, format!("kernel {name} was not compiled")))?;
    let count = |of| match of {
        Counted::One => Count::One,
        Counted::Tokens => Count::Tokens,
        Counted::Rows => Count::Rows,
        Counted::Seqs => Count::Seqs,
    };
    Ok(eng::PtxKernel {
        module: ptx_tensor(name),
        cubin: compiled.cubins.contains_key(name).then(|| cubin_tensor(name)),
        entry: kernel.entry.clone(),
        grid: kernel.grid.map(|e| eng::Extent {
            of: count(e.of),
            div: e.div,
            plus: e.plus.map(count),
            mul: e.mul,
        }),
        block: kernel.block,
        shared: kernel.shared,
        scratch: kernel.scratch.map(|s| eng::Scratch {
            of: count(s.of),
            bytes: s.bytes,
            counters: s.counters,
        }),
        maps: kernel.maps.iter().map(|m| map(m, count)).collect(),
        dependent: kernel.dependent,
    })
}

/// A tensor map of a kernel.
fn map(m: &Map, count: impl Fn(Counted) -> Count) -> eng::Map {
    let elem = match m.elem {
        MapElem::U8 => eng::MapElem::U8,
        MapElem::Bf16 => eng::MapElem::Bf16,
        MapElem::F32 => eng::MapElem::F32,
    };
    let rows = match m.rows {
        MapRows::Fixed(n) => eng::MapRows::Fixed(n),
        MapRows::Most(of) => eng::MapRows::Most(count(of)),
        MapRows::Paged(n) => eng::MapRows::Paged(n),
    };
    eng::Map { arg: m.arg, elem, width: m.width, rows, tile: m.tile, swizzle: m.swizzle }
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

    /// The argument that a value becomes.
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
                (trtc_ir::Def::Param(_), "previous") => Ok(Arg::Arena(self.offset(v)?)),
                (trtc_ir::Def::Param(_), name) => {
                    let known = "tokens, positions, rows, draws, previous";
                    Err(Diag::user(&Loc::Unknown, format!("the step function has a parameter %{name}"))
                        .help(format!("the runtime binds {known}, a batch and caches")))
                }
            },
        }
    }

    /// The arguments of an op's kernel, in codegen's order; a quantised value is two, its elements and its scales.
    fn args(&self, data: &OpData) -> Result<Vec<Arg>, Diag> {
        let mut args = Vec::new();
        for arg in emit::arguments(&data.op, &data.results) {
            match arg {
                emit::Arg::Weight(w) => args.push(Arg::Weight(w.0)),
                emit::Arg::Value(v) => {
                    args.push(self.arg(v)?);
                    args.extend(self.scales(v)?.map(Arg::Arena));
                }
            }
        }
        Ok(args)
    }

    /// Arena offset of the scales of a quantised value.
    fn scales(&self, v: ValueId) -> Result<Option<u64>, Diag> {
        let value = &self.module.func.values[v];
        let Some(ty) = value.ty.tensor().filter(|ty| ty.elem.plain().is_none()) else {
            return Ok(None);
        };
        let after = ty.bytes(|sym| self.module.max_dim(sym)).and_then(|bytes| bytes.scales_at());
        let at = after.zip(value.offset).and_then(|(after, start)| start.checked_add(after));
        at.map(Some)
            .ok_or_else(|| self.bug(format!("the scales of %{} have no place in the arena", value.name)))
    }

    /// The host function of an op, with its constants.
    fn host_kernel(&self, data: &OpData) -> Result<HostKernel, Diag> {
        let result = |i: usize| {
            data.results
                .get(i)
                .copied()
                .ok_or_else(|| self.bug(format!("llm.{} has no result {i}", data.op.name())))
        };
        let out = result(0)?;
        let counts_rows = matches!(
            data.op,
            Op::RmsNorm(_) | Op::Quantize(_) | Op::Linear(_) | Op::GatherRows(_) | Op::Sample(_)
        );
        if !counts_rows
            && self.module.func.values[out].ty.tensor().is_some()
            && self.rows(out)? != Count::Tokens
        {
            let message = format!("the host device has no llm.{} over rows of logits", data.op.name());
            return Err(Diag::unsupported(&data.loc, message));
        }
        Ok(match &data.op {
            Op::Embedding(op) => {
                HostKernel::Embedding { width: self.width(out)?, scale: op.scale, out: self.dtype(out)? }
            }
            Op::RmsNorm(op) => {
                let width = self.last_dim(out)?;
                HostKernel::RmsNorm {
                    width,
                    per_token: self.width(out)? / width.max(1),
                    eps: op.norm.eps,
                    offset: op.norm.offset,
                    rows: self.rows(out)?,
                    x: self.dtype(op.x)?,
                    out: self.dtype(out)?,
                }
            }
            Op::AddRmsNorm(op) => HostKernel::AddRmsNorm {
                width: self.last_dim(out)?,
                eps: op.norm.eps,
                offset: op.norm.offset,
                x: self.dtype(op.x)?,
                residual: self.dtype(op.residual)?,
                h: self.dtype(out)?,
                out: self.dtype(result(1)?)?,
            },
            Op::Linear(op) => HostKernel::Linear {
                n: self.width(out)?,
                k: self.width(op.x)?,
                rows: self.rows(out)?,
                bias: op.bias.is_some(),
                residual: op.residual.map(|r| self.dtype(r)).transpose()?,
                x: self.dtype(op.x)?,
                out: self.dtype(out)?,
            },
            Op::Slice(op) => HostKernel::Slice {
                of: self.width(op.x)?,
                start: self.count(op.start)?,
                width: self.width(out)?,
                x: self.dtype(out)?,
            },
            Op::Add(op) => HostKernel::Add {
                width: self.width(out)?,
                lhs: self.dtype(op.lhs)?,
                rhs: self.dtype(op.rhs)?,
                out: self.dtype(out)?,
            },
            Op::Rope(op) => {
                let head_dim = self.last_dim(op.x)?;
                HostKernel::Rope {
                    heads: self.width(op.x)? / head_dim.max(1),
                    head_dim,
                    dim: self.rope_dim(op.freqs)?,
                    x: self.dtype(op.x)?,
                    out: self.dtype(out)?,
                }
            }
            Op::KvAppend(op) => HostKernel::KvAppend { x: self.dtype(op.k)? },
            Op::RopeKvAppend(op) => HostKernel::RopeKvAppend {
                heads: op.heads,
                dim: self.rope_dim(op.freqs)?,
                q_norm: op.q_norm.as_ref().map(|n| (n.eps, n.offset)),
                k_norm: op.k_norm.as_ref().map(|n| (n.eps, n.offset)),
                x: self.dtype(op.qkv)?,
                out: self.dtype(out)?,
            },
            Op::Attention(op) => {
                let kv = self.module.func.values[op.kv].ty.kv();
                let head_dim = kv.ok_or_else(|| self.bug("attention without a cache"))?.head_dim;
                HostKernel::Attention {
                    heads: self.width(op.q)? / head_dim.max(1),
                    scale: op.scale,
                    softcap: op.softcap,
                    x: self.dtype(op.q)?,
                    out: self.dtype(out)?,
                }
            }
            Op::GatedAct(op) => self.gated_act(op.act, false, op.gate, out)?,
            Op::GatedActPacked(op) => self.gated_act(op.act, true, op.x, out)?,
            Op::Feed(op) => HostKernel::Feed { last: self.last_dim(op.last)? },
            Op::Sample(op) => HostKernel::Sample { vocab: self.width(op.logits)? },
            Op::Quantize(op) => {
                HostKernel::Quantize { width: self.width(out)?, rows: self.rows(out)?, x: self.dtype(op.x)? }
            }
            Op::GatherRows(_) => HostKernel::GatherRows { width: self.width(out)?, x: self.dtype(out)? },
        })
    }

    fn gated_act(&self, function: Act, packed: bool, x: ValueId, out: ValueId) -> Result<HostKernel, Diag> {
        let act = match function {
            Act::Silu => eng::Act::Silu,
            Act::GeluTanh => eng::Act::GeluTanh,
        };
        Ok(HostKernel::GatedAct {
            width: self.width(out)?,
            act,
            packed,
            x: self.dtype(x)?,
            out: self.dtype(out)?,
        })
    }

    /// Rotated elements of a head: twice the table's length.
    fn rope_dim(&self, freqs: WeightId) -> Result<u32, Diag> {
        match self.module.weights[freqs].ty.shape().as_deref() {
            Some([half]) => self.count(2 * half),
            _ => Err(self.bug("a table of rotary frequencies must have one dimension")),
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
            let dtype = stored(kv.scheme().map_or(Elem::Plain(kv.dtype), Elem::Quant)).ok_or_else(|| {
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

/// How the engine stores an activation, or a vector of the cache.
fn stored(elem: Elem) -> Option<eng::Dtype> {
    match elem {
        Elem::Plain(DType::F32) => Some(eng::Dtype::F32),
        Elem::Plain(DType::Bf16) => Some(eng::Dtype::Bf16),
        Elem::Quant(Scheme::FP8_TOKEN) => Some(eng::Dtype::F8E4M3),
        _ => None,
    }
}
