//! Types of values and weights: tensors with symbolic dimensions, KV caches, the batch.

use crate::dtype::DType;
use crate::quant::Scheme;
use std::fmt;

/// A symbolic dimension, one capital letter, bounded in the module's header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Sym(pub u8);

impl Sym {
    /// Tokens in the step, over all requests.
    pub const T: Sym = Sym(b'T');
    /// Rows for which logits are computed.
    pub const L: Sym = Sym(b'L');
}

impl fmt::Display for Sym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(self.0))
    }
}

/// One dimension of a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dim {
    /// Known when the engine is built.
    Const(u64),
    /// Known at each step.
    Sym(Sym),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Const(n) => write!(f, "{n}"),
            Dim::Sym(s) => write!(f, "{s}"),
        }
    }
}

/// What an element of a tensor is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Elem {
    /// A scalar.
    Plain(DType),
    /// A quantised value.
    Quant(Scheme),
}

impl Elem {
    /// Bits of one element, scales not counted.
    pub fn bits(self) -> u32 {
        match self {
            Elem::Plain(d) => d.bits(),
            Elem::Quant(s) => s.payload.bits(),
        }
    }

    /// The scalar type, if this is not quantised.
    pub fn plain(self) -> Option<DType> {
        match self {
            Elem::Plain(d) => Some(d),
            Elem::Quant(_) => None,
        }
    }
}

impl From<DType> for Elem {
    fn from(d: DType) -> Elem {
        Elem::Plain(d)
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Elem::Plain(d) => d.fmt(f),
            Elem::Quant(s) => s.fmt(f),
        }
    }
}

/// Bytes of a value of a step: its elements, then, at the next multiple of [`Bytes::ALIGN`], a scale for each row if
/// it is quantised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes {
    /// Bytes of the elements.
    pub payload: u64,
    /// Bytes of the scales; 0 if the value is not quantised.
    pub scales: u64,
}

impl Bytes {
    /// Alignment of both parts: what device allocators give, and enough for any vector or bulk copy.
    pub const ALIGN: u64 = 256;

    /// Where the scales begin, bytes after the payload's start; `None` beyond 64 bits.
    pub fn scales_at(&self) -> Option<u64> {
        self.payload.checked_next_multiple_of(Bytes::ALIGN)
    }

    /// Bytes of both; `None` beyond 64 bits.
    pub fn total(&self) -> Option<u64> {
        if self.scales == 0 { Some(self.payload) } else { self.scales_at()?.checked_add(self.scales) }
    }
}

/// A dense row-major tensor. Text form: `tensor<Tx4096xbf16>`, `tensor<64x64x!quant<i8:f32, channel>>`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    /// Extents, outermost first.
    pub dims: Vec<Dim>,
    /// Element type.
    pub elem: Elem,
}

impl TensorType {
    /// A tensor of known extents.
    pub fn fixed(dims: &[u64], elem: impl Into<Elem>) -> TensorType {
        TensorType { dims: dims.iter().map(|&d| Dim::Const(d)).collect(), elem: elem.into() }
    }

    /// A tensor whose outermost extent is symbolic: `(sym, dims...)`.
    pub fn rows(sym: Sym, dims: &[u64], elem: impl Into<Elem>) -> TensorType {
        let mut all = vec![Dim::Sym(sym)];
        all.extend(dims.iter().map(|&d| Dim::Const(d)));
        TensorType { dims: all, elem: elem.into() }
    }

    /// Product of all extents but the first; `None` if one of them is symbolic.
    pub fn width(&self) -> Option<u64> {
        self.dims.get(1..)?.iter().try_fold(1u64, |n, d| match d {
            Dim::Const(c) => n.checked_mul(*c),
            Dim::Sym(_) => None,
        })
    }

    /// Bytes in memory with each symbol at `greatest`; `None` if a symbol has none, or beyond 64 bits.
    pub fn bytes(&self, greatest: impl Fn(Sym) -> Option<u64>) -> Option<Bytes> {
        let all: Vec<u64> = self
            .dims
            .iter()
            .map(|d| match *d {
                Dim::Const(n) => Some(n),
                Dim::Sym(s) => greatest(s),
            })
            .collect::<Option<_>>()?;
        let bits = all.iter().try_fold(u64::from(self.elem.bits()), |n, &d| n.checked_mul(d))?;
        let scales = match self.elem {
            Elem::Quant(s) if s.is_activation() => all.first()?.checked_mul(s.scale.bytes(1))?,
            _ => 0,
        };
        Some(Bytes { payload: bits.div_ceil(8), scales })
    }

    /// The extents, if all are known.
    pub fn shape(&self) -> Option<Vec<u64>> {
        self.dims.iter().map(|d| if let Dim::Const(c) = d { Some(*c) } else { None }).collect()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensor<")?;
        for d in &self.dims {
            write!(f, "{d}x")?;
        }
        write!(f, "{}>", self.elem)
    }
}

/// One layer's key/value cache. Text form: `!llm.kv<layer 0, 8 heads, 128, bf16, window 512, page 32>`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KvType {
    /// Index among the layers that have a cache.
    pub layer: u32,
    /// Key/value heads.
    pub heads: u32,
    /// Elements of one head's key, and of its value.
    pub head_dim: u32,
    /// Stored element type. An e4m3 cache has an f32 scale for each key and each value of a head.
    pub dtype: DType,
    /// Tokens that a query sees, itself included; `None` sees all.
    pub window: Option<u32>,
    /// Tokens in a page; `None` until `kv-layout` has decided it.
    pub page: Option<u32>,
}

impl KvType {
    /// How each key and each value of a head is quantised, if the cache is not of plain floats.
    pub fn scheme(&self) -> Option<Scheme> {
        (self.dtype == DType::F8E4M3).then_some(Scheme::FP8_TOKEN)
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "!llm.kv<layer {}, {} heads, {}, {}", self.layer, self.heads, self.head_dim, self.dtype)?;
        if let Some(w) = self.window {
            write!(f, ", window {w}")?;
        }
        if let Some(p) = self.page {
            write!(f, ", page {p}")?;
        }
        f.write_str(">")
    }
}

/// The type of an SSA value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Type {
    /// A dense tensor.
    Tensor(TensorType),
    /// The state of one layer's cache.
    Kv(KvType),
    /// Which request each token belongs to: segments, context lengths, block tables. Text form: `!llm.batch`.
    Batch,
}

impl Type {
    /// The tensor type, if this is one.
    pub fn tensor(&self) -> Option<&TensorType> {
        if let Type::Tensor(t) = self { Some(t) } else { None }
    }

    /// The cache type, if this is one.
    pub fn kv(&self) -> Option<&KvType> {
        if let Type::Kv(k) = self { Some(k) } else { None }
    }
}

impl From<TensorType> for Type {
    fn from(t: TensorType) -> Type {
        Type::Tensor(t)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(t) => t.fmt(f),
            Type::Kv(k) => k.fmt(f),
            Type::Batch => f.write_str("!llm.batch"),
        }
    }
}
