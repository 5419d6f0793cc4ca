//! One kernel at one number of tokens: inputs, launch, reference, comparison.

use super::memory::{Memory, Place};
use super::{Tolerance, op_of, sampling};
use crate::render::Failure;
use std::collections::BTreeMap;
use std::rc::Rc;
use trtc_engine::manifest::{Arg, Dtype, Kernel, Launch};
use trtc_ir::entity::{ValueId, WeightId};
use trtc_ir::interp::{self, Batch, Data, KvState, Segment, Tensor, Weights};
use trtc_ir::random::Random;
use trtc_ir::{DType, Dim, Elem, Module, Op, Sym, TensorType, Type};
use trtc_runtime::device::{Call, StepDims};

/// What a case came to.
pub struct Outcome {
    /// Greatest error, as a part of what is allowed.
    pub worst: f32,
    /// True if memory behind a result was written.
    pub overrun: bool,
}

impl Outcome {
    /// True if the kernel did what its contract says.
    pub fn passed(&self) -> bool {
        self.worst <= 1.0 && !self.overrun
    }
}

/// Weights by the contract's numbers.
struct Given(BTreeMap<WeightId, Rc<Tensor>>);

impl Weights for Given {
    fn load(&self, _: &Module, weight: WeightId) -> Result<Rc<Tensor>, String> {
        self.0.get(&weight).cloned().ok_or_else(|| format!("weight {weight:?} was not made"))
    }
}

/// Requests of a step: `(tokens before, tokens of the step)`, and the pages of each.
pub struct Requests {
    pub sizes: Vec<(usize, usize)>,
    pages: Vec<Vec<i32>>,
}

/// Pages that the requests of a step of `tokens` tokens can need.
pub fn pages_for(tokens: usize, page_tokens: usize) -> u64 {
    sizes(tokens, page_tokens, (usize::MAX, usize::MAX))
        .iter()
        .map(|(past, new)| (past + new).div_ceil(page_tokens) as u64)
        .sum()
}

/// A long request, and from three tokens on two that decode: one that begins, one in the middle of its pages. None is
/// above `longest` tokens, and all their tokens together, which one append stores, are not above `step`.
fn sizes(tokens: usize, page_tokens: usize, (longest, step): (usize, usize)) -> Vec<(usize, usize)> {
    let all = match tokens {
        0 => vec![],
        1 | 2 => vec![(2 * page_tokens + 3, tokens)],
        _ => vec![(page_tokens / 2, tokens - 2), (0, 1), (3 * page_tokens - 1, 1)],
    };
    let share = step.saturating_sub(tokens) / all.len().max(1);
    all.into_iter().map(|(past, new)| (past.min(longest.saturating_sub(new)).min(share), new)).collect()
}

impl Requests {
    fn new(memory: &Memory<'_>, tokens: usize, random: &mut Random) -> Requests {
        let m = memory.manifest();
        let page_tokens = m.kv.page_tokens.max(1) as usize;
        let sizes =
            sizes(tokens, page_tokens, (m.dims.max_seq_len as usize, m.dims.max_step_tokens as usize));
        Requests::of(sizes, page_tokens, random)
    }

    /// Requests of these sizes on pages in random order, counted from 0.
    pub fn of(sizes: Vec<(usize, usize)>, page_tokens: usize, random: &mut Random) -> Requests {
        let need = |&(past, new): &(usize, usize)| (past + new).div_ceil(page_tokens);
        let mut free: Vec<i32> = (0..sizes.iter().map(need).sum::<usize>() as i32).collect();
        let take = |size| {
            (0..need(size)).map(|_| free.swap_remove(random.below(free.len() as u64) as usize)).collect()
        };
        let pages = sizes.iter().map(take).collect();
        Requests { sizes, pages }
    }

    /// Pages that they hold together.
    pub fn pages(&self) -> u64 {
        self.pages.iter().map(|p| p.len() as u64).sum()
    }

    /// The same requests with everything in one step.
    fn all_at_once(&self) -> Requests {
        let sizes = self.sizes.iter().map(|(past, new)| (0, past + new)).collect();
        Requests { sizes, pages: self.pages.clone() }
    }

    /// Tokens of the step.
    pub fn tokens(&self) -> usize {
        self.sizes.iter().map(|(_, new)| new).sum()
    }

    fn positions(&self) -> Vec<i32> {
        self.sizes.iter().flat_map(|&(past, new)| past as i32..(past + new) as i32).collect()
    }

    fn batch(&self) -> Batch {
        let segment = |(seq, &(start, len))| Segment { seq, start, len };
        Batch { segments: self.sizes.iter().enumerate().map(segment).collect() }
    }

    /// Stores the step's tables.
    pub fn upload(&self, memory: &mut Memory<'_>) -> Result<(), Failure> {
        let mut starts = vec![0];
        let mut table = vec![];
        for ((_, new), pages) in self.sizes.iter().zip(&self.pages) {
            starts.push(starts.last().copied().unwrap_or(0) + *new as i32);
            let mut row = pages.clone();
            row.resize(memory.bind.table_width as usize, -1);
            table.extend(row);
        }
        let contexts: Vec<i32> = self.sizes.iter().map(|(past, new)| (past + new) as i32).collect();
        memory.ints(memory.bind.query_start, &starts)?;
        memory.ints(memory.bind.context, &contexts)?;
        memory.ints(memory.bind.block_table, &table)?;
        memory.ints(memory.bind.positions, &self.positions())
    }
}

/// Type of the elements of an activation.
pub fn dtype_of(ty: &TensorType) -> Result<Dtype, Failure> {
    match ty.elem {
        Elem::Plain(DType::F32) => Ok(Dtype::F32),
        Elem::Plain(DType::Bf16) => Ok(Dtype::Bf16),
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

/// Checks kernel `choice` of a launch with `tokens` tokens. `append` is the launch that fills the same cache.
pub fn check(
    memory: &mut Memory<'_>,
    (launch, kernel): (&Launch, (u32, &Kernel)),
    append: Option<&Launch>,
    tokens: u32,
    random: &mut Random,
) -> Result<Outcome, Failure> {
    let requests = Requests::new(memory, tokens as usize, random);
    let module = contract(kernel.1)?;
    let reads = matches!(op_of(&module), Some(Op::Attention(_)));
    let mut cache = empty(&requests, &module);
    if let (true, Some(append)) = (reads, append) {
        // Everything that the requests have so far, in one step.
        let before = requests.all_at_once();
        let all = before.tokens() as u32;
        let choice = append.choices.iter().find(|c| (c.from..=c.to).contains(&all));
        let index = choice.ok_or_else(|| Failure::bug(format!("no kernel appends {all} tokens")))?.kernel;
        let appends = &memory.manifest().kernels[index as usize];
        let module = contract(appends)?;
        let ran =
            run(memory, (append, (index, appends)), &module, &before, &empty(&before, &module), random)?;
        let stored = ran.want.into_iter().find_map(|d| if let Data::Kv(kv) = d { Some(kv) } else { None });
        cache = stored.ok_or_else(|| Failure::bug("an append does not give a cache"))?;
    }
    let ran = run(memory, (launch, kernel), &module, &requests, &cache, random)?;
    let tolerance = op_of(&module).map_or(Tolerance { ulps: 0.0, of_greatest: 0.0 }, Tolerance::of);
    let mut outcome = Outcome { worst: 0.0, overrun: false };
    let wanted = ran.want.iter().filter(|d| matches!(d, Data::Float(_) | Data::Int(_)));
    let mut tokens = Vec::new();
    for ((place, kind), want) in ran.places.into_iter().zip(wanted) {
        let (dtype, want) = match (kind, want) {
            (Kind::Float(dtype), Data::Float(want)) => (dtype, want),
            (_, want) => {
                let (got, whole) = memory.read_ints(place)?;
                outcome.overrun |= !whole;
                match (op_of(&module), want) {
                    (Some(Op::Sample(_)), _) => tokens = got,
                    (_, Data::Int(want)) if *want == got => {}
                    _ => outcome.worst = f32::INFINITY,
                }
                continue;
            }
        };
        let (got, whole) = memory.read(place, dtype)?;
        outcome.overrun |= !whole;
        if let (Some(Op::Sample(_)), [Data::Float(logits), Data::Float(draws)]) =
            (op_of(&module), &ran.inputs[..])
        {
            outcome.worst = outcome.worst.max(sampling::worst(logits, &draws.data, &tokens, &got));
            continue;
        }
        let greatest = want.data.iter().fold(0f32, |m, v| m.max(v.abs()));
        let parts = got.iter().zip(&want.data);
        let worst =
            parts.map(|(g, w)| tolerance.part(*g, *w, greatest, dtype == Dtype::Bf16)).fold(0.0, f32::max);
        outcome.worst = outcome.worst.max(worst);
    }
    Ok(outcome)
}

/// The contract of a kernel.
pub fn contract(kernel: &Kernel) -> Result<Module, Failure> {
    trtc_ir::text::parse(&kernel.contract, &kernel.name).map_err(|found| {
        let words = found.first().map(ToString::to_string).unwrap_or_default();
        Failure::bug(format!("the contract of kernel {} cannot be read: {words}", kernel.name))
    })
}

/// A cache in which every token before the step has keys and values of 0.
fn empty(requests: &Requests, module: &Module) -> Rc<KvState> {
    let kv = module.func.params.iter().find_map(|&p| module.func.values[p].ty.kv());
    let width = kv.map_or(0, |kv| kv.heads as usize * kv.head_dim as usize);
    let rows = |past: usize| vec![(vec![0.0; width], vec![0.0; width]); past];
    Rc::new(KvState {
        seqs: requests.sizes.iter().enumerate().map(|(s, (past, _))| (s, rows(*past))).collect(),
    })
}

/// What the elements of a result are.
#[derive(Clone, Copy)]
enum Kind {
    Float(Dtype),
    Ints,
}

fn is_ints(ty: &TensorType) -> bool {
    ty.elem == Elem::Plain(DType::I32)
}

/// What was computed from what, and where the device has put its results.
struct Done {
    inputs: Vec<Data>,
    want: Vec<Data>,
    places: Vec<(Place, Kind)>,
}

/// Launches a kernel on random inputs and evaluates its contract on the same.
fn run(
    memory: &mut Memory<'_>,
    (launch, kernel): (&Launch, (u32, &Kernel)),
    module: &Module,
    requests: &Requests,
    cache: &Rc<KvState>,
    random: &mut Random,
) -> Result<Done, Failure> {
    memory.clear()?;
    requests.upload(memory)?;
    let tokens = requests.tokens();
    let rows = tokens.min(memory.manifest().dims.max_logit_rows as usize);
    let dims = StepDims { tokens: tokens as u32, rows: rows as u32, seqs: requests.sizes.len() as u32 };

    let mut inputs = Vec::new();
    let mut arena = Vec::new();
    for &param in &module.func.params {
        inputs.push(match &module.func.values[param].ty {
            Type::Batch => Data::Batch(Rc::new(requests.batch())),
            Type::Kv(_) => Data::Kv(Rc::clone(cache)),
            // Rows of the step before, in the arena as a result is.
            Type::Tensor(ty) if is_ints(ty) && matches!(ty.dims[..], [Dim::Const(_)]) => {
                let ids: Vec<i32> =
                    dims_of(ty, dims).iter().flat_map(|&n| 0..n as i32).map(|i| 7 * i).collect();
                let place = memory.place(ids.len(), Dtype::F32)?;
                memory.write_ints(place, &ids)?;
                arena.push(place);
                Data::Int(ids)
            }
            Type::Tensor(ty) if is_ints(ty) => Data::Int(indices(memory, module, requests, rows, random)?),
            Type::Tensor(ty) if is_draws(module, param) => {
                let draws = sampling::draws(rows, random);
                memory.floats(memory.bind.draws, &draws)?;
                Data::Float(Tensor { dims: dims_of(ty, dims), data: draws })
            }
            Type::Tensor(ty) => {
                let (shape, dtype) = (dims_of(ty, dims), dtype_of(ty)?);
                let data: Vec<f32> = (0..shape.iter().product()).map(|_| random.signed() * 2.0).collect();
                let place = memory.place(data.len(), dtype)?;
                memory.write(place, &data, dtype)?;
                arena.push(place);
                Data::Float(Tensor { dims: shape, data })
            }
        });
    }
    let mut places = Vec::new();
    for &result in &module.func.results {
        if let Type::Tensor(ty) = &module.func.values[result].ty {
            let kind = if is_ints(ty) { Kind::Ints } else { Kind::Float(dtype_of(ty)?) };
            let dtype = if let Kind::Float(dtype) = kind { dtype } else { Dtype::F32 };
            let place = memory.place(dims_of(ty, dims).iter().product(), dtype)?;
            arena.push(place);
            places.push((place, kind));
        }
    }
    let args = in_arena(launch, &arena)?;
    let (mut weights, mut used) = (BTreeMap::new(), Vec::new());
    for arg in &args {
        if let Arg::Weight(i) = *arg {
            weights.insert(WeightId(weights.len() as u32), memory.weight(i)?);
            used.push(i);
        }
    }
    let call = Call { kernel, args: &args };
    memory.device.launch(call, &memory.bind, dims)?;
    if !memory.counters_rest()? {
        return Err(Failure::bug(format!("kernel {} leaves counters that are not 0", kernel.1.name)));
    }
    let want = interp::run(module, &Given(weights), &inputs).map_err(|d| {
        Failure::bug(format!("the contract of kernel {} cannot be evaluated: {}", kernel.1.name, d.message))
    })?;
    used.into_iter().for_each(|i| memory.forget(i));
    Ok(Done { inputs, want, places })
}

/// True if a parameter says how rows are sampled.
fn is_draws(module: &Module, param: ValueId) -> bool {
    matches!(op_of(module), Some(Op::Sample(op)) if op.draws == param)
}

/// The arguments of a launch with its activations at these places. Arguments are in the order of operands, then results;
/// so are a contract's tensors, and its weights.
pub fn in_arena(launch: &Launch, places: &[Place]) -> Result<Vec<Arg>, Failure> {
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
pub fn indices(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_to_the_engines_limits() {
        for tokens in 1..200 {
            for (longest, step) in [(256, 256), (300, 4096), (4096, 200), (200, 200)] {
                let all = sizes(tokens, 64, (longest, step));
                assert_eq!(all.iter().map(|(_, new)| new).sum::<usize>(), tokens);
                assert!(all.iter().all(|(past, new)| past + new <= longest), "{tokens} {all:?}");
                assert!(all.iter().map(|(past, new)| past + new).sum::<usize>() <= step, "{tokens} {all:?}");
            }
        }
    }
}
