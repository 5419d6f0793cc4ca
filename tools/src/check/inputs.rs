//! The inputs of a launch: random, on the device where the launch wants them, and as its contract takes them.

use super::memory::{Memory, Place};
use super::quantised::quantised;
use super::requests::Requests;
use super::{op_of, sampling};
use crate::render::Failure;
use std::rc::Rc;
use trtc_engine::manifest::{Arg, Dtype, Launch};
use trtc_ir::entity::ValueId;
use trtc_ir::interp::{Data, KvState, Tensor};
use trtc_ir::random::Random;
use trtc_ir::{DType, Dim, Elem, Module, Op, Scheme, Sym, TensorType, Type};
use trtc_runtime::device::StepDims;

/// What the elements of a result are.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Floats of this type.
    Float(Dtype),
    /// e4m3, with f32 scales here, one for each row.
    Scaled(Place),
    /// Integers, as wide as f32.
    Ints,
}

/// A launch with its activations in place.
pub struct Laid {
    /// What the contract takes.
    pub inputs: Vec<Data>,
    /// The arguments.
    pub args: Vec<Arg>,
    /// Where the results will be.
    pub results: Vec<(Place, Kind)>,
}

/// Makes the inputs of a launch and takes room for its results.
pub fn lay(
    memory: &mut Memory<'_>,
    launch: &Launch,
    module: &Module,
    (requests, dims): (&Requests, StepDims),
    cache: &Rc<KvState>,
    random: &mut Random,
) -> Result<Laid, Failure> {
    // Tokens that an op before has looked up, as the results of any op.
    let ids_in_arena =
        matches!((op_of(module), launch.args.first()), (Some(Op::Embedding(_)), Some(Arg::Arena(_))));
    let (mut inputs, mut arena) = (Vec::new(), Vec::new());
    for &param in &module.func.params {
        inputs.push(match &module.func.values[param].ty {
            Type::Batch => Data::Batch(Rc::new(requests.batch())),
            Type::Kv(_) => Data::Kv(Rc::clone(cache)),
            Type::Tensor(_) if role(module, param) == Some(Role::Masks) => {
                let masks = sampling::masks(dims.rows as usize, vocab(module), random);
                memory.ints(memory.bind.masks, &masks)?;
                Data::Int(masks)
            }
            Type::Tensor(ty) if is_ints(ty) => {
                // Of a known number are only the tokens of the step before.
                let previous = matches!(ty.dims[..], [Dim::Const(_)]);
                let ids: Vec<i32> = if previous {
                    dims_of(ty, dims).iter().flat_map(|&n| 0..n as i32).map(|i| 7 * i).collect()
                } else {
                    indices(memory, module, requests, dims.rows as usize, random)?
                };
                if previous || ids_in_arena {
                    let place = memory.place(ids.len(), Dtype::F32)?;
                    memory.write_ints(place, &ids)?;
                    arena.push(place);
                }
                Data::Int(ids)
            }
            Type::Tensor(ty) if role(module, param) == Some(Role::Draws) => {
                let draws = sampling::draws(dims.rows as usize, random);
                memory.floats(memory.bind.draws, &draws)?;
                Data::Float(Tensor { dims: dims_of(ty, dims), data: draws })
            }
            Type::Tensor(ty) => {
                let (shape, dtype) = (dims_of(ty, dims), dtype_of(ty)?);
                let mut data: Vec<f32> = (0..shape.iter().product()).map(|_| random.signed() * 2.0).collect();
                let place = memory.place(data.len(), dtype)?;
                arena.push(place);
                if role(module, param) == Some(Role::Logits) {
                    sampling::without_probability(&mut data, vocab(module));
                }
                if dtype == Dtype::F8E4M3 {
                    let rows = quantised(&data, data.len() / shape[0].max(1))?;
                    let scales = memory.place(rows.scales.len(), Dtype::F32)?;
                    memory.write_bytes(place, &rows.codes)?;
                    memory.write(scales, &rows.scales, Dtype::F32)?;
                    arena.push(scales);
                    data = rows.values;
                } else {
                    memory.write(place, &data, dtype)?;
                }
                Data::Float(Tensor { dims: shape, data })
            }
        });
    }
    let mut results = Vec::new();
    for ty in module.func.results.iter().filter_map(|&v| module.func.values[v].ty.tensor()) {
        let dtype = if is_ints(ty) { Dtype::F32 } else { dtype_of(ty)? };
        let shape = dims_of(ty, dims);
        let place = memory.place(shape.iter().product(), dtype)?;
        arena.push(place);
        let kind = match dtype {
            _ if is_ints(ty) => Kind::Ints,
            Dtype::F8E4M3 => {
                let scales = memory.place(shape[0], Dtype::F32)?;
                arena.push(scales);
                Kind::Scaled(scales)
            }
            _ => Kind::Float(dtype),
        };
        results.push((place, kind));
    }
    Ok(Laid { inputs, args: in_arena(launch, &arena)?, results })
}

/// True of a tensor of integers.
pub fn is_ints(ty: &TensorType) -> bool {
    ty.elem == Elem::Plain(DType::I32)
}

/// Type of the elements of an activation.
pub fn dtype_of(ty: &TensorType) -> Result<Dtype, Failure> {
    match ty.elem {
        Elem::Plain(DType::F32) => Ok(Dtype::F32),
        Elem::Plain(DType::Bf16) => Ok(Dtype::Bf16),
        Elem::Quant(Scheme::FP8_TOKEN) => Ok(Dtype::F8E4M3),
        other => Err(Failure::bug(format!("a contract has a tensor of {other}"))),
    }
}

/// Extents with the step's sizes put in.
pub fn dims_of(ty: &TensorType, dims: StepDims) -> Vec<usize> {
    let one = |d: &Dim| match *d {
        Dim::Const(n) => n as usize,
        Dim::Sym(Sym::T) => dims.tokens as usize,
        Dim::Sym(_) => dims.rows as usize,
    };
    ty.dims.iter().map(one).collect()
}

/// What a parameter is to `llm.sample`.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Logits,
    Draws,
    Masks,
}

fn role(module: &Module, param: ValueId) -> Option<Role> {
    let Some(Op::Sample(op)) = op_of(module) else { return None };
    let roles = [(op.logits, Role::Logits), (op.draws, Role::Draws), (op.masks, Role::Masks)];
    roles.into_iter().find_map(|(value, role)| (value == param).then_some(role))
}

/// Logits of a row that is sampled.
fn vocab(module: &Module) -> usize {
    let Some(Op::Sample(op)) = op_of(module) else { return 0 };
    let width = module.func.values[op.logits].ty.tensor().and_then(TensorType::width);
    width.map_or(0, |n| n as usize)
}

/// The arguments of a launch with its activations at these places. Arguments are in the order of operands, then results;
/// so are a contract's tensors, and its weights.
fn in_arena(launch: &Launch, places: &[Place]) -> Result<Vec<Arg>, Failure> {
    let mut left = places.iter();
    let one = |arg: &Arg| match *arg {
        Arg::Arena(_) => left
            .next()
            .map(|place| Arg::Arena(place.at))
            .ok_or_else(|| Failure::bug("a launch has more tensors than its contract")),
        other => Ok(other),
    };
    launch.args.iter().map(one).collect()
}

/// Integers that an op takes: token ids, positions, or numbers of rows.
fn indices(
    memory: &mut Memory<'_>,
    module: &Module,
    requests: &Requests,
    rows: usize,
    random: &mut Random,
) -> Result<Vec<i32>, Failure> {
    let tokens = requests.tokens();
    match op_of(module) {
        Some(Op::Embedding(op)) => {
            let vocab = module.weights[op.table].ty.shape().and_then(|s| s.first().copied()).unwrap_or(1);
            let ids: Vec<i32> = (0..tokens).map(|_| random.below(vocab) as i32).collect();
            memory.ints(memory.bind.tokens, &ids)?;
            Ok(ids)
        }
        Some(Op::Feed(op)) => {
            let last = module.func.values[op.last].ty.tensor().map_or(1, |t| dims_of(t, StepDims::NONE)[0]);
            let ids: Vec<i32> = (0..tokens)
                .map(|t| if t % 3 == 1 { -1 - random.below(last as u64) as i32 } else { t as i32 })
                .collect();
            memory.ints(memory.bind.tokens, &ids)?;
            Ok(ids)
        }
        Some(Op::GatherRows(_)) => {
            let mut picked: Vec<i32> = (0..rows).map(|_| random.below(tokens as u64) as i32).collect();
            picked.sort_unstable();
            memory.ints(memory.bind.rows, &picked)?;
            Ok(picked)
        }
        _ => Ok(requests.positions()),
    }
}
