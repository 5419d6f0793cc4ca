//! One kernel at one number of tokens: inputs, launch, reference, comparison.

use super::caches::{empty, stored};
use super::inputs::{Kind, Laid, lay};
use super::memory::{Memory, Place};
use super::products::Cut;
use super::quantised::By;
use super::requests::{Requests, most_tokens};
use super::{Tolerance, appends, op_of, quantised, rounded, sampling};
use crate::render::Failure;
use std::collections::BTreeMap;
use std::rc::Rc;
use trtc_engine::manifest::{Arg, Choice, Dtype, Kernel, Launch, Steps};
use trtc_ir::entity::WeightId;
use trtc_ir::interp::{self, Data, KvState, Tensor, Weights};
use trtc_ir::random::Random;
use trtc_ir::{Module, Op};
use trtc_runtime::device::{Call, StepDims, parts};

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

/// Checks a kernel of a launch with `tokens` tokens, in steps that `choice` says it serves, beside the kernel for single tokens if
/// it leaves them to one. `users` are the launches that use the same cache, in order: the first that a step has appends.
pub fn check(
    memory: &mut Memory<'_>,
    (launch, choice): (&Launch, &Choice),
    users: &[&Launch],
    tokens: u32,
    random: &mut Random,
) -> Result<Outcome, Failure> {
    let kernel = &memory.manifest().kernels[choice.kernel as usize];
    let requests = Requests::new(memory, choice.steps, tokens as usize, random);
    let module = contract(kernel)?;
    let reads = matches!(op_of(&module), Some(Op::Attention(_)));
    let (mut cache, mut of_cache) = (empty(&requests.sizes(), &module), 0f32);
    if reads {
        memory.poison_cache(launch)?;
        cache = Rc::new(KvState::default());
        let mut cut = Cut::NONE;
        let most = most_tokens(tokens as usize, memory.manifest());
        // Everything that the requests have so far. A kernel that appends by itself finds in its cache what it has stored
        // a step before.
        let steps = if appends(&module) { requests.steps_before(most) } else { requests.steps_so_far(most) };
        for before in steps {
            let (all, seqs) = (before.tokens() as u32, before.count());
            let kind = Steps::of(all, seqs);
            let append = users.iter().find_map(|l| Some((*l, l.choice(kind, all)?)));
            let append = append.ok_or_else(|| Failure::bug(format!("no kernel appends {all} tokens")))?;
            let appending = contract(&memory.manifest().kernels[append.1.kernel as usize])?;
            cut = cut.most(Cut::of(&appending, &memory.manifest().target));
            let ran = run(memory, append, &appending, &before, &cache, random)?;
            let kv = ran.want.into_iter().find_map(|d| if let Data::Kv(kv) = d { Some(kv) } else { None });
            cache = kv.ok_or_else(|| Failure::bug("an append does not give a cache"))?;
        }
        (cache, of_cache) = stored(memory, launch, requests.tables(), (cache, By::Sums(cut)))?;
    }
    let ran = run(memory, (launch, choice), &module, &requests, &cache, random)?;
    let tolerance = Tolerance::of(&module, (&memory.manifest().target, choice.steps));
    // A cache that is as right as it has to be says nothing of the kernel.
    let of_cache = if of_cache <= 1.0 { 0.0 } else { of_cache };
    let mut outcome = Outcome { worst: if ran.rounds { of_cache } else { f32::INFINITY }, overrun: false };
    let mut tokens = Vec::new();
    let wanted = ran.want.iter().filter(|d| matches!(d, Data::Float(_) | Data::Int(_)));
    for ((place, kind), want) in ran.places.into_iter().zip(wanted) {
        let (dtype, want) = match (kind, want) {
            (Kind::Float(dtype), Data::Float(want)) => (dtype, want),
            (Kind::Scaled(scales), Data::Float(want)) => {
                let (codes, whole) = memory.read_bytes(place)?;
                let (scales, both) = memory.read(scales, Dtype::F32)?;
                outcome.overrun |= !(whole && both);
                let by = if reads { By::Attention } else { By::Sums(Cut::NONE) };
                outcome.worst = outcome.worst.max(quantised::worst(&codes, &scales, &want.data, by));
                continue;
            }
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
        if let (Some(Op::Sample(_)), [Data::Float(logits), Data::Float(draws), Data::Int(masks)]) =
            (op_of(&module), &ran.inputs[..])
        {
            let worst = sampling::worst(logits, (&draws.data, masks), &tokens, &got);
            outcome.worst = outcome.worst.max(worst);
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

/// What was computed from what, where the device has put its results, and whether it rounds queries, if it is to.
struct Done {
    inputs: Vec<Data>,
    want: Vec<Data>,
    places: Vec<(Place, Kind)>,
    rounds: bool,
}

/// Launches the kernels of a choice on random inputs and evaluates their contract on the same.
fn run(
    memory: &mut Memory<'_>,
    (launch, choice): (&Launch, &Choice),
    module: &Module,
    requests: &Requests,
    cache: &Rc<KvState>,
    random: &mut Random,
) -> Result<Done, Failure> {
    memory.clear()?;
    requests.upload(memory)?;
    let tokens = requests.tokens();
    let rows = tokens.min(memory.manifest().dims.max_logit_rows as usize);
    let (seqs, context) = (requests.count(), requests.longest() as u32);
    let dims = StepDims { tokens: tokens as u32, rows: rows as u32, seqs, first: 0, context };

    let Laid { inputs, args, results } = lay(memory, launch, module, (requests, dims), cache, random)?;
    let (mut weights, mut used) = (BTreeMap::new(), Vec::new());
    for arg in &args {
        if let Arg::Weight(i) = *arg {
            weights.insert(WeightId(weights.len() as u32), memory.weight(i)?);
            used.push(i);
        }
    }
    let execute = |memory: &mut Memory<'_>| {
        for (index, dims) in parts(launch, choice, dims, requests.single()) {
            let kernel = &memory.manifest().kernels[index as usize];
            let call = Call { kernel: (index, kernel), args: &args, loc: &launch.loc };
            memory.device.launch(call, &memory.bind, dims)?;
            if !memory.counters_rest()? {
                return Err(Failure::bug(format!("kernel {} leaves counters that are not 0", kernel.name)));
            }
        }
        Ok(())
    };
    execute(memory)?;
    let want = interp::run(module, &Given(weights), &inputs).map_err(|d| {
        let name = &memory.manifest().kernels[choice.kernel as usize].name;
        Failure::bug(format!("the contract of kernel {name} cannot be evaluated: {}", d.message))
    })?;
    used.into_iter().for_each(|i| memory.forget(i));
    let rounds = rounded::holds(memory, module, (&args, &inputs), &results, execute)?;
    Ok(Done { inputs, want, places: results, rounds })
}
