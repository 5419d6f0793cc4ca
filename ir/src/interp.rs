//! The reference interpreter: naive, obvious, in f32; the oracle that every pass, kernel and device is held to.

use crate::diag::Diag;
use crate::dtype::DType;
use crate::entity::{ValueId, WeightId};
use crate::module::Module;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a value is at run time.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Elements already rounded to the declared type.
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

/// The tokens of a step: runs of consecutive tokens, one for each request, in token order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// The runs.
    pub segments: Vec<Segment>,
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

/// Keys and values of one layer: for each request, position by position, `(kv_heads * head_dim)` each.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct KvState {
    /// `(key, value)` rows of each request.
    pub seqs: BTreeMap<usize, Vec<(Vec<f32>, Vec<f32>)>>,
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

/// Rounds to the nearest value of `dtype`, ties to even; saturates where the type has no infinity.
pub fn round(x: f32, dtype: DType) -> f32 {
    let _ = (x, dtype);
    unimplemented!()
}

/// Runs the step function on its inputs.
pub fn run(module: &Module, weights: &dyn Weights, inputs: &[Data]) -> Result<Vec<Data>, Diag> {
    let _ = (module, weights, inputs);
    unimplemented!()
}
