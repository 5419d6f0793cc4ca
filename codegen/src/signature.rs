//! Names of kernels: an op with its constants, element types and widths, so that ops which compute the same share one.
//!
//! `linear.n4096.k4096.tokens.x-bf16.w-bf16.out-bf16`, and then a suffix. Layers, offsets and the values of weights are not part of it.

use crate::kernels::Count;
use std::fmt::{self, Display, Write as _};
use trtc_ir::ops::{Act, RmsNormWeight};
use trtc_ir::{Dim, Elem, Grain, KvType, Module, Op, OpData, Sym, TensorType, ValueId, WeightId};

/// What distinguishes a kernel from its op's others by name; nothing if there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suffix {
    /// A word, or none.
    pub word: &'static str,
    /// The number of rows that it is made for, behind the word.
    pub rows: Option<u64>,
}

impl Suffix {
    /// A word alone.
    pub const fn word(word: &'static str) -> Suffix {
        Suffix { word, rows: None }
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word)?;
        self.rows.map_or(Ok(()), |rows| write!(f, "{rows}"))
    }
}

/// Looks types up for an op of `module`.
#[derive(Clone, Copy)]
pub struct Types<'a> {
    /// The module around the op.
    pub module: &'a Module,
}

impl<'a> Types<'a> {
    /// Type of a value that has to be a tensor.
    pub fn tensor(self, value: ValueId) -> Result<&'a TensorType, String> {
        let value = &self.module.func.values[value];
        value.ty.tensor().ok_or_else(|| format!("%{} is {}, not a tensor", value.name, value.ty))
    }

    /// Type of a value that has to be a cache.
    pub fn kv(self, value: ValueId) -> Result<&'a KvType, String> {
        let value = &self.module.func.values[value];
        value.ty.kv().ok_or_else(|| format!("%{} is {}, not a cache", value.name, value.ty))
    }

    /// Type of a weight.
    pub fn weight(self, weight: WeightId) -> &'a TensorType {
        &self.module.weights[weight].ty
    }

    /// The `index`-th result of an op, a tensor.
    pub fn result(self, op: &OpData, index: usize) -> Result<&'a TensorType, String> {
        let id =
            op.results.get(index).ok_or_else(|| format!("llm.{} has no result {index}", op.op.name()))?;
        self.tensor(*id)
    }
}

/// Product of all extents but the first.
pub fn width(ty: &TensorType) -> Result<u32, String> {
    let width = ty.width().ok_or_else(|| format!("{ty} has more than one symbolic extent"))?;
    narrow(width, ty)
}

/// The last extent, and how many rows of it one index of the first has.
pub fn rows_of_last(ty: &TensorType) -> Result<(u32, u32), String> {
    let (Some(Dim::Const(last)), width) = (ty.dims.last(), width(ty)?) else {
        return Err(format!("the last extent of {ty} is symbolic"));
    };
    let last = narrow(*last, ty)?;
    Ok((last, width.checked_div(last).unwrap_or(0)))
}

/// An extent of a weight.
pub fn extent(ty: &TensorType, index: usize) -> Result<u32, String> {
    match ty.dims.get(index) {
        Some(Dim::Const(n)) => narrow(*n, ty),
        _ => Err(format!("{ty} has no constant extent {index}")),
    }
}

fn narrow(n: u64, ty: &TensorType) -> Result<u32, String> {
    i32::try_from(n).map(|n| n as u32).map_err(|_| format!("{n} elements in a row of {ty} are too many"))
}

/// What counts the rows of a tensor.
pub fn counted(ty: &TensorType) -> Result<Count, String> {
    match ty.dims.first() {
        Some(Dim::Sym(Sym::T)) => Ok(Count::Tokens),
        Some(Dim::Sym(Sym::L)) => Ok(Count::Rows),
        _ => Err(format!("the rows of {ty} are neither tokens nor rows of logits")),
    }
}

/// A name that grows part by part.
struct Name(String);

impl Name {
    fn with(mut self, part: impl Display) -> Name {
        let _ = write!(self.0, ".{part}");
        self
    }

    /// `key` and a number, omitted where it is the default.
    fn unless(self, key: &str, value: f32, default: f32) -> Name {
        if value == default { self } else { self.with(format_args!("{key}{value:e}")) }
    }

    fn elem(self, key: &str, elem: Elem) -> Name {
        match elem {
            Elem::Plain(d) => self.with(format_args!("{key}-{d}")),
            Elem::Quant(s) => {
                let grain = match s.grain {
                    Grain::Tensor => "tensor".to_owned(),
                    Grain::Channel => "channel".to_owned(),
                    Grain::Token => "token".to_owned(),
                    Grain::Group(n) => format!("group{n}"),
                    Grain::Block(r, c) => format!("block{r}x{c}"),
                };
                let zero = if s.zero { "-zero" } else { "" };
                self.with(format_args!("{key}-{}-{}-{grain}{zero}", s.payload, s.scale))
            }
        }
    }

    fn rows(self, ty: &TensorType) -> Result<Name, String> {
        Ok(self.with(match counted(ty)? {
            Count::Rows => "rows",
            _ => "tokens",
        }))
    }

    fn norm(self, key: &str, types: Types<'_>, norm: &RmsNormWeight) -> Name {
        let name = self.with(format_args!("{key}eps{:e}", norm.eps)).unless("off", norm.offset, 0.0);
        name.elem(&format!("{key}w"), types.weight(norm.weight).elem)
    }

    fn cache(self, kv: &KvType) -> Name {
        let name = self.with(format_args!("kv{}x{}-{}", kv.heads, kv.head_dim, kv.dtype));
        match kv.page {
            Some(page) => name.with(format_args!("page{page}")),
            None => name,
        }
    }
}

fn act(act: Act) -> &'static str {
    match act {
        Act::Silu => "silu",
        Act::GeluTanh => "gelu_tanh",
    }
}

/// The signature of an op; an error says what of its types is unexpected.
pub fn signature(module: &Module, data: &OpData) -> Result<String, String> {
    let t = Types { module };
    let name = Name(data.op.name().to_owned());
    let name = match &data.op {
        Op::Embedding(op) => {
            let (table, y) = (t.weight(op.table), t.result(data, 0)?);
            let name = name.with(format_args!("w{}", width(y)?)).unless("scale", op.scale, 1.0);
            name.elem("w", table.elem).elem("out", y.elem)
        }
        Op::RmsNorm(op) => {
            let (x, y) = (t.tensor(op.x)?, t.result(data, 0)?);
            let (last, per_row) = rows_of_last(x)?;
            let name = name.with(format_args!("w{last}")).with(format_args!("per{per_row}")).rows(x)?;
            name.norm("", t, &op.norm).elem("x", x.elem).elem("out", y.elem)
        }
        Op::AddRmsNorm(op) => {
            let (x, r) = (t.tensor(op.x)?, t.tensor(op.residual)?);
            let (h, y) = (t.result(data, 0)?, t.result(data, 1)?);
            let (last, per_row) = rows_of_last(x)?;
            let name = name.with(format_args!("w{last}")).with(format_args!("per{per_row}")).rows(x)?;
            let name = name.norm("", t, &op.norm).elem("x", x.elem).elem("res", r.elem);
            name.elem("h", h.elem).elem("out", y.elem)
        }
        Op::Linear(op) => {
            let (x, w, y) = (t.tensor(op.x)?, t.weight(op.weight), t.result(data, 0)?);
            let name = name.with(format_args!("n{}", extent(w, 0)?)).with(format_args!("k{}", extent(w, 1)?));
            let mut name = name.rows(x)?.elem("x", x.elem).elem("w", w.elem);
            if let Some(bias) = op.bias {
                name = name.elem("bias", t.weight(bias).elem);
            }
            if let Some(residual) = op.residual {
                name = name.elem("res", t.tensor(residual)?.elem);
            }
            name.elem("out", y.elem)
        }
        Op::Slice(op) => {
            let (x, y) = (t.tensor(op.x)?, t.result(data, 0)?);
            let name = name.with(format_args!("of{}", width(x)?)).with(format_args!("at{}", op.start));
            name.with(format_args!("w{}", width(y)?)).rows(x)?.elem("x", x.elem).elem("out", y.elem)
        }
        Op::Add(op) => {
            let (l, r, y) = (t.tensor(op.lhs)?, t.tensor(op.rhs)?, t.result(data, 0)?);
            let name = name.with(format_args!("w{}", width(y)?)).rows(y)?;
            name.elem("lhs", l.elem).elem("rhs", r.elem).elem("out", y.elem)
        }
        Op::Rope(op) => {
            let (x, y) = (t.tensor(op.x)?, t.result(data, 0)?);
            let (head_dim, heads) = rows_of_last(x)?;
            let name = name.with(format_args!("h{heads}x{head_dim}"));
            let name = name.with(format_args!("dim{}", 2 * extent(t.weight(op.freqs), 0)?));
            name.elem("x", x.elem).elem("out", y.elem)
        }
        Op::KvAppend(op) => {
            let (k, v) = (t.tensor(op.k)?, t.tensor(op.v)?);
            name.cache(t.kv(op.kv)?).elem("k", k.elem).elem("v", v.elem)
        }
        Op::RopeKvAppend(op) => {
            let (x, y) = (t.tensor(op.qkv)?, t.result(data, 0)?);
            let mut name = name.with(format_args!("h{}", op.heads)).cache(t.kv(op.kv)?);
            name = name.with(format_args!("dim{}", 2 * extent(t.weight(op.freqs), 0)?));
            for (key, norm) in [("q", &op.q_norm), ("k", &op.k_norm)] {
                if let Some(norm) = norm {
                    name = name.norm(key, t, norm);
                }
            }
            name.elem("x", x.elem).elem("out", y.elem)
        }
        Op::Attention(op) => {
            let (q, y, kv) = (t.tensor(op.q)?, t.result(data, 0)?, t.kv(op.kv)?);
            let (_, heads) = rows_of_last(q)?;
            let mut name =
                name.with(format_args!("h{heads}")).cache(kv).with(format_args!("scale{:e}", op.scale));
            if let Some(cap) = op.softcap {
                name = name.with(format_args!("cap{cap:e}"));
            }
            if let Some(window) = kv.window {
                name = name.with(format_args!("window{window}"));
            }
            if let Some(dtype) = op.products {
                name = name.with(format_args!("products-{dtype}"));
            }
            name.elem("q", q.elem).elem("out", y.elem)
        }
        Op::GatedAct(op) => {
            let (gate, up, y) = (t.tensor(op.gate)?, t.tensor(op.up)?, t.result(data, 0)?);
            let name = name.with(act(op.act)).with(format_args!("w{}", width(y)?)).rows(y)?;
            name.elem("gate", gate.elem).elem("up", up.elem).elem("out", y.elem)
        }
        Op::GatedActPacked(op) => {
            let (x, y) = (t.tensor(op.x)?, t.result(data, 0)?);
            let name = name.with(act(op.act)).with(format_args!("w{}", width(y)?)).rows(y)?;
            name.elem("x", x.elem).elem("out", y.elem)
        }
        Op::GatedLinear(op) => {
            let (x, w, y) = (t.tensor(op.x)?, t.weight(op.weight), t.result(data, 0)?);
            let name = name.with(act(op.act)).with(format_args!("n{}", extent(w, 0)?));
            let mut name = name.with(format_args!("k{}", extent(w, 1)?)).rows(x)?;
            name = name.elem("x", x.elem).elem("w", w.elem);
            if let Some(bias) = op.bias {
                name = name.elem("bias", t.weight(bias).elem);
            }
            name.elem("out", y.elem)
        }
        Op::Feed(op) => name.with(format_args!("of{}", extent(t.tensor(op.last)?, 0)?)),
        Op::Sample(op) => name.with(format_args!("v{}", width(t.tensor(op.logits)?)?)),
        Op::Quantize(op) => {
            let (x, y) = (t.tensor(op.x)?, t.result(data, 0)?);
            name.with(format_args!("w{}", width(x)?)).rows(x)?.elem("x", x.elem).elem("out", y.elem)
        }
        Op::GatherRows(op) => {
            let (x, y) = (t.tensor(op.x)?, t.result(data, 0)?);
            name.with(format_args!("w{}", width(x)?)).elem("x", x.elem).elem("out", y.elem)
        }
    };
    Ok(name.0)
}
