//! The reference interpreter: naive, obvious, in f32; the oracle that every pass, kernel and device is held to.
//!
//! Each op's semantics is in the op's own file; here are the values, and the loop that runs a function.

pub use crate::numerics::round;
pub use crate::random::RandomWeights;

use crate::diag::Diag;
use crate::dtype::DType;
use crate::entity::{ValueId, WeightId};
use crate::loc::Loc;
use crate::module::Module;
use crate::quant::round_rows;
use crate::types::{Dim, Elem, KvType, Sym, TensorType, Type};
use crate::verify;
use crate::view;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What a value is at run time.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Elements already rounded to the declared type; of a quantised one, the values that it stands for.
    Float(Tensor),
    /// Integers.
    Int(Vec<i32>),
    /// One layer's cache.
    Kv(Rc<KvState>),
    /// Which request each token belongs to.
    Batch(Rc<Batch>),
}

/// A dense row-major tensor of f32.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tensor {
    /// Extents, outermost first.
    pub dims: Vec<usize>,
    /// Elements.
    pub data: Vec<f32>,
}

impl Tensor {
    /// Number of rows: the outermost extent.
    pub fn rows(&self) -> usize {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.dims.get(1..).unwrap_or_default().iter().product()
    }

    /// The elements in runs of `width`.
    pub(crate) fn chunks(&self, width: usize) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact(width.max(1))
    }
}

/// The tokens of a step: runs of consecutive tokens, one for each request, in token order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// The runs.
    pub segments: Vec<Segment>,
}

impl Batch {
    /// Tokens of all requests together.
    pub fn tokens(&self) -> usize {
        self.segments.iter().map(|s| s.len).sum()
    }
}

/// The tokens of one request in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which request; any number that is its own.
    pub seq: usize,
    /// Position of the first token, the number of tokens already in the cache.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
}

/// Keys and values of one token, `(kv_heads * head_dim)` each.
pub type KvRow = (Vec<f32>, Vec<f32>);

/// Keys and values of one layer: for each request, position by position, `(kv_heads * head_dim)` each.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct KvState {
    /// `(key, value)` rows of each request.
    pub seqs: BTreeMap<usize, Vec<KvRow>>,
}

/// Where weights come from, dequantised: `(out, in)` in the logical type's shape.
pub trait Weights {
    /// The values of a weight.
    fn load(&self, module: &Module, weight: WeightId) -> Result<Rc<Tensor>, String>;
}

/// What an op sees when it is evaluated.
pub struct EvalCx<'a> {
    /// The module.
    pub module: &'a Module,
    /// Values computed so far.
    pub values: &'a BTreeMap<ValueId, Data>,
    /// Weights.
    pub weights: &'a dyn Weights,
    /// The results that the op has to make, in order.
    pub results: &'a [ValueId],
}

impl<'a> EvalCx<'a> {
    fn data(&self, value: ValueId) -> Result<&'a Data, String> {
        self.values.get(&value).ok_or_else(|| format!("{value:?} has not been computed"))
    }

    /// A float tensor.
    pub fn float(&self, value: ValueId) -> Result<&'a Tensor, String> {
        match self.data(value)? {
            Data::Float(t) => Ok(t),
            other => Err(format!("expected floats, found {}", other.kind())),
        }
    }

    /// A vector of integers.
    pub fn ints(&self, value: ValueId) -> Result<&'a [i32], String> {
        match self.data(value)? {
            Data::Int(v) => Ok(v),
            other => Err(format!("expected integers, found {}", other.kind())),
        }
    }

    /// A cache and its type.
    pub fn kv(&self, value: ValueId) -> Result<(&'a KvState, &'a KvType), String> {
        match (self.data(value)?, self.module.func.values.get(value).map(|v| &v.ty)) {
            (Data::Kv(state), Some(Type::Kv(ty))) => Ok((state, ty)),
            (other, _) => Err(format!("expected a cache, found {}", other.kind())),
        }
    }

    /// The batch; an error if it does not have `tokens` tokens.
    pub fn batch(&self, value: ValueId, tokens: usize) -> Result<&'a Batch, String> {
        match self.data(value)? {
            Data::Batch(b) if b.tokens() == tokens => Ok(b),
            Data::Batch(b) => {
                Err(format!("the batch has {} tokens but the tensor {tokens} rows", b.tokens()))
            }
            other => Err(format!("expected a batch, found {}", other.kind())),
        }
    }

    /// A weight's values.
    pub fn weight(&self, weight: WeightId) -> Result<Rc<Tensor>, String> {
        let Some(w) = self.module.weights.get(weight) else {
            return Err(format!("there is no weight {weight:?}"));
        };
        let tensor =
            self.weights.load(self.module, weight).map_err(|e| format!("weight @{}: {e}", w.name))?;
        let wanted: Option<Vec<u64>> = w.ty.shape();
        let found: Vec<u64> = tensor.dims.iter().map(|&d| d as u64).collect();
        if wanted.as_ref() != Some(&found) || tensor.data.len() != tensor.dims.iter().product::<usize>() {
            return Err(format!("weight @{} is {} but its values have the shape {found:?}", w.name, w.ty));
        }
        Ok(tensor)
    }

    /// Type of the `i`-th result.
    pub fn result_type(&self, i: usize) -> Result<&'a Type, String> {
        let value = self.results.get(i).and_then(|&v| self.module.func.values.get(v));
        value.map(|v| &v.ty).ok_or_else(|| format!("there is no result {i}"))
    }

    /// The `i`-th result from its elements: rounds them to the declared type, or quantises each row, and gives them the
    /// declared shape.
    pub fn finish(&self, i: usize, rows: usize, mut data: Vec<f32>) -> Result<Data, String> {
        let ty = self.result_type(i)?;
        let Some(t) = ty.tensor() else {
            return Err(format!("result {i} must be a tensor, found {ty}"));
        };
        let mut dims = vec![rows];
        for d in t.dims.get(1..).unwrap_or_default() {
            match d {
                Dim::Const(n) => dims.push(*n as usize),
                Dim::Sym(_) => return Err(format!("result {i} has an inner symbolic dimension: {ty}")),
            }
        }
        if dims.iter().product::<usize>() != data.len() {
            return Err(format!(
                "result {i} is {ty} but {} elements were computed for {rows} rows",
                data.len()
            ));
        }
        store(&mut data, dims.get(1..).unwrap_or_default().iter().product(), t.elem)
            .map_err(|e| format!("result {i}: {e}"))?;
        Ok(Data::Float(Tensor { dims, data }))
    }
}

/// Makes of rows of `width` values what is left of them in elements of a type.
fn store(data: &mut [f32], width: usize, elem: Elem) -> Result<(), String> {
    match elem {
        Elem::Plain(DType::F32) => {}
        Elem::Plain(dtype) => data.iter_mut().for_each(|x| *x = round(*x, dtype)),
        Elem::Quant(scheme) => round_rows(data, width, scheme).map_err(|e| e.to_string())?,
    }
    Ok(())
}

impl Data {
    fn kind(&self) -> &'static str {
        match self {
            Data::Float(_) => "floats",
            Data::Int(_) => "integers",
            Data::Kv(_) => "a cache",
            Data::Batch(_) => "a batch",
        }
    }
}

/// Runs the step function on its inputs, one for each parameter; floats are rounded to the parameter's type, rows of a
/// quantised one quantised.
///
/// Returns one value for each function result. The error names the op and where it comes from; the module is
/// verified first, so wrong shapes are errors too.
pub fn run(module: &Module, weights: &dyn Weights, inputs: &[Data]) -> Result<Vec<Data>, Diag> {
    if let Err(found) = verify::verify(module) {
        let more = found.len() - 1;
        let first =
            found.into_iter().next().unwrap_or_else(|| Diag::bug(&Loc::Unknown, "the module is invalid"));
        return Err(if more > 0 { first.note(format!("{more} more errors were found")) } else { first });
    }
    let func = &module.func;
    let mut values = bind(module, inputs).map_err(|e| Diag::user(&Loc::name(func.name.as_str()), e))?;
    let last_use: BTreeMap<ValueId, usize> = view::liveness(func).iter().map(|i| (i.value, i.to)).collect();
    for (at, &id) in func.order.iter().enumerate() {
        let data = &func.ops[id];
        let mut cx = EvalCx { module, values: &values, weights, results: &data.results };
        let made = data
            .op
            .eval(&mut cx)
            .map_err(|e| Diag::user(&data.loc, format!("llm.{}: {e}", data.op.name())))?;
        if made.len() != data.results.len() {
            let message =
                format!("llm.{} made {} of {} results", data.op.name(), made.len(), data.results.len());
            return Err(Diag::bug(&data.loc, message));
        }
        values.extend(data.results.iter().copied().zip(made));
        values.retain(|v, _| last_use.get(v).is_some_and(|&last| last > at));
    }
    let result = |v: &ValueId| {
        values.get(v).cloned().ok_or_else(|| Diag::bug(&Loc::Unknown, format!("{v:?} was not computed")))
    };
    func.results.iter().map(result).collect()
}

/// Gives each parameter its input, and checks that the inputs have the parameters' types with one value for each
/// symbolic dimension.
fn bind(module: &Module, inputs: &[Data]) -> Result<BTreeMap<ValueId, Data>, String> {
    let func = &module.func;
    if inputs.len() != func.params.len() {
        return Err(format!(
            "@{} has {} parameters, found {} inputs",
            func.name,
            func.params.len(),
            inputs.len()
        ));
    }
    let mut syms = BTreeMap::new();
    let mut bound = BTreeMap::new();
    for (&param, input) in func.params.iter().zip(inputs) {
        let value = &func.values[param];
        let wrong = |found: String| format!("parameter %{} is {}, found {found}", value.name, value.ty);
        let data = match (&value.ty, input) {
            (Type::Tensor(t), Data::Float(x)) => {
                if t.elem.plain().is_some_and(|d| !d.is_float()) {
                    return Err(wrong(input.kind().into()));
                }
                if x.data.len() != x.dims.iter().product::<usize>() {
                    return Err(wrong(format!("{} elements in the shape {:?}", x.data.len(), x.dims)));
                }
                bind_dims(module, t, &x.dims, &mut syms).map_err(wrong)?;
                let mut x = x.clone();
                let width = x.width();
                store(&mut x.data, width, t.elem).map_err(wrong)?;
                Data::Float(x)
            }
            (Type::Tensor(t), Data::Int(v)) if t.elem.plain().is_some_and(|d| !d.is_float()) => {
                // Integers come without a shape: as many rows as there are.
                let known = |dim: &Dim| if let Dim::Const(n) = *dim { n as usize } else { 1 };
                let inner: Vec<usize> = t.dims.iter().skip(1).map(known).collect();
                let width = inner.iter().product::<usize>().max(1);
                if v.len() % width != 0 {
                    return Err(wrong(format!("{} integers", v.len())));
                }
                let shape: Vec<usize> = std::iter::once(v.len() / width).chain(inner).collect();
                bind_dims(module, t, &shape, &mut syms).map_err(wrong)?;
                input.clone()
            }
            (Type::Kv(t), Data::Kv(state)) => {
                let width = t.heads as usize * t.head_dim as usize;
                if state.seqs.values().flatten().any(|(k, v)| k.len() != width || v.len() != width) {
                    return Err(wrong(format!("a cache whose rows are not of {width} elements")));
                }
                input.clone()
            }
            (Type::Batch, Data::Batch(batch)) => {
                let mut seen = BTreeSet::new();
                if let Some(s) = batch.segments.iter().find(|s| !seen.insert(s.seq)) {
                    return Err(wrong(format!("two runs of tokens of request {}", s.seq)));
                }
                input.clone()
            }
            _ => return Err(wrong(input.kind().into())),
        };
        bound.insert(param, data);
    }
    Ok(bound)
}

fn bind_dims(
    module: &Module,
    t: &TensorType,
    dims: &[usize],
    syms: &mut BTreeMap<Sym, u64>,
) -> Result<(), String> {
    let found = || format!("the shape {dims:?}");
    if dims.len() != t.dims.len() {
        return Err(found());
    }
    for (dim, &n) in t.dims.iter().zip(dims) {
        let n = n as u64;
        match *dim {
            Dim::Const(c) if c == n => {}
            Dim::Const(_) => return Err(found()),
            Dim::Sym(s) => {
                let bounds = module.dims.iter().find(|d| d.0 == s).map(|d| (d.1, d.2));
                match bounds {
                    Some((min, max)) if min <= n && n <= max => {}
                    Some((min, max)) => return Err(format!("{s} = {n}, which is not in {min}..{max}")),
                    None => return Err(format!("{s}, which has no bounds")),
                }
                if *syms.entry(s).or_insert(n) != n {
                    return Err(format!("{s} = {n} where it was {} before", syms[&s]));
                }
            }
        }
    }
    Ok(())
}
