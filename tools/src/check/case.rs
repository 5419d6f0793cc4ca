//! One kernel at one number of tokens: inputs, launch, reference, comparison.

use super::caches::{empty, stored};
use super::inputs::{Kind, Laid, lay};
use super::memory::{Memory, Place};
use super::{Tolerance, appends, multiplies_e4m3, op_of, quantised, rounded, sampling};
use crate::render::Failure;
use std::collections::BTreeMap;
use std::rc::Rc;
use trtc_engine::manifest::{Arg, Choice, Dtype, Kernel, Launch, Manifest, Steps};
use trtc_ir::entity::WeightId;
use trtc_ir::interp::{self, Batch, Data, KvState, Segment, Tensor, Weights};
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

/// Tokens that an append before an attention stores at once, if the engine's steps hold as many.
const APPEND: usize = 256;

/// A request's tokens in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Which request.
    seq: usize,
    /// Tokens before.
    past: usize,
    /// Tokens of the step.
    new: usize,
}

/// Requests of a step, and the pages of each by its number.
pub struct Requests {
    runs: Vec<Run>,
    pages: Rc<Vec<Vec<i32>>>,
}

/// Pages that the requests of a step of `tokens` tokens of either kind can need.
pub fn pages_for(tokens: usize, m: &Manifest) -> u64 {
    let page_tokens = m.kv.page_tokens.max(1) as usize;
    let pages = |steps: Steps| {
        let all = runs(steps, tokens, page_tokens, m.dims.max_seq_len as usize);
        all.iter().map(|r| (r.past + r.new).div_ceil(page_tokens) as u64).sum::<u64>()
    };
    pages(Steps::Decode).max(pages(Steps::Prefill))
}

/// Tokens of the largest step of a check of `tokens` tokens, appends included.
pub fn most_tokens(tokens: usize, m: &Manifest) -> usize {
    tokens.max(APPEND.min(m.dims.max_step_tokens as usize))
}

/// The requests of a step. Of a decode step one token each: one has a long context, others begin or end at the bounds
/// of pages or in the middle, and if there are many the contexts of the rest are short. Of any other step one long run,
/// and from three tokens on a request with one token before it and one behind it. None is above `longest` tokens.
fn runs(steps: Steps, tokens: usize, page: usize, longest: usize) -> Vec<Run> {
    let all: Vec<(usize, usize)> = match (steps, tokens) {
        (_, 0) => vec![],
        (Steps::Decode | Steps::Single, _) => {
            let first = [33 * page, 0, 3 * page - 1, 2 * page + 3, 1, page / 2, 9 * page, page - 1];
            let rest = [1, 0, page / 2].into_iter().cycle();
            first.into_iter().chain(rest).take(tokens).map(|past| (past, 1)).collect()
        }
        (_, 1 | 2) => vec![(2 * page + 3, tokens)],
        _ => vec![(3 * page - 1, 1), (2 * page + 3, tokens - 2), (0, 1)],
    };
    let run = |(seq, (past, new)): (usize, (usize, usize))| Run {
        seq,
        past: past.min(longest.saturating_sub(new)),
        new,
    };
    all.into_iter().enumerate().map(run).collect()
}

impl Requests {
    fn new(memory: &Memory<'_>, steps: Steps, tokens: usize, random: &mut Random) -> Requests {
        let m = memory.manifest();
        let page_tokens = m.kv.page_tokens.max(1) as usize;
        let runs = runs(steps, tokens, page_tokens, m.dims.max_seq_len as usize);
        Requests::on_pages(runs, page_tokens, random)
    }

    /// Positions of the longest context.
    pub fn longest(&self) -> usize {
        self.runs.iter().map(|run| run.past + run.new).max().unwrap_or(0)
    }

    /// How many requests at the beginning have one token.
    fn single(&self) -> u32 {
        self.runs.iter().take_while(|run| run.new == 1).count() as u32
    }

    /// The steps of at most `most` tokens that bring the same requests to where this one leaves them.
    fn steps_so_far(&self, most: usize) -> Vec<Requests> {
        self.steps_to(|run| run.past + run.new, most)
    }

    /// The steps that bring them to where this one finds them; the last of these decodes.
    fn steps_before(&self, most: usize) -> Vec<Requests> {
        let mut steps = self.steps_to(|run| run.past.saturating_sub(1), most);
        let last = |run: &Run| Some(Run { past: run.past.checked_sub(1)?, new: 1, ..*run });
        let runs: Vec<Run> = self.runs.iter().filter_map(last).collect();
        if !runs.is_empty() {
            steps.push(Requests { runs, pages: Rc::clone(&self.pages) });
        }
        steps
    }

    /// The steps of at most `most` tokens that bring each request to `end` tokens.
    fn steps_to(&self, end: impl Fn(&Run) -> usize, most: usize) -> Vec<Requests> {
        let mut steps: Vec<Vec<Run>> = vec![];
        let mut room = 0;
        for run in &self.runs {
            let (mut past, end) = (0, end(run));
            while past < end {
                if room == 0 {
                    steps.push(vec![]);
                    room = most.max(1);
                }
                let new = room.min(end - past);
                if let Some(step) = steps.last_mut() {
                    step.push(Run { past, new, ..*run });
                }
                (past, room) = (past + new, room - new);
            }
        }
        steps.into_iter().map(|runs| Requests { runs, pages: Rc::clone(&self.pages) }).collect()
    }

    /// Requests of `(tokens before, tokens of the step)` on pages in random order, counted from 0.
    pub fn of(sizes: Vec<(usize, usize)>, page_tokens: usize, random: &mut Random) -> Requests {
        let runs: Vec<Run> =
            sizes.into_iter().enumerate().map(|(seq, (past, new))| Run { seq, past, new }).collect();
        Requests::on_pages(runs, page_tokens, random)
    }

    fn on_pages(runs: Vec<Run>, page_tokens: usize, random: &mut Random) -> Requests {
        let need = |r: &Run| (r.past + r.new).div_ceil(page_tokens);
        let mut free: Vec<i32> = (0..runs.iter().map(need).sum::<usize>() as i32).collect();
        let take =
            |r| (0..need(r)).map(|_| free.swap_remove(random.below(free.len() as u64) as usize)).collect();
        let pages = runs.iter().map(take).collect();
        Requests { runs, pages: Rc::new(pages) }
    }

    /// `(tokens before, tokens of the step)` of each run.
    pub fn sizes(&self) -> Vec<(usize, usize)> {
        self.runs.iter().map(|r| (r.past, r.new)).collect()
    }

    /// Pages that they hold together.
    pub fn pages(&self) -> u64 {
        self.pages.iter().map(|p| p.len() as u64).sum()
    }

    /// Tokens of the step.
    pub fn tokens(&self) -> usize {
        self.runs.iter().map(|r| r.new).sum()
    }

    /// Position of each token.
    pub fn positions(&self) -> Vec<i32> {
        self.runs.iter().flat_map(|r| r.past as i32..(r.past + r.new) as i32).collect()
    }

    /// As the interpreter takes them.
    pub fn batch(&self) -> Batch {
        let segment = |r: &Run| Segment { seq: r.seq, start: r.past, len: r.new };
        Batch { segments: self.runs.iter().map(segment).collect() }
    }

    /// Stores the step's tables.
    pub fn upload(&self, memory: &mut Memory<'_>) -> Result<(), Failure> {
        let mut starts = vec![0];
        let mut table = vec![];
        let page_tokens = memory.manifest().kv.page_tokens.max(1) as usize;
        for run in &self.runs {
            starts.push(starts.last().copied().unwrap_or(0) + run.new as i32);
            // Behind the pages in use stands what no kernel may follow.
            let used = (run.past + run.new).div_ceil(page_tokens);
            let mut row: Vec<i32> = self.pages[run.seq].iter().copied().take(used).collect();
            row.resize(memory.bind.table_width as usize, -1);
            table.extend(row);
        }
        let contexts: Vec<i32> = self.runs.iter().map(|r| (r.past + r.new) as i32).collect();
        memory.ints(memory.bind.query_start, &starts)?;
        memory.ints(memory.bind.context, &contexts)?;
        memory.ints(memory.bind.block_table, &table)?;
        memory.ints(memory.bind.positions, &self.positions())
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
    let (mut cache, mut of_cache, mut by) = (empty(&requests.sizes(), &module), 0f32, quantised::By::Floats);
    if reads {
        memory.poison_cache(launch)?;
        cache = Rc::new(KvState::default());
        let most = most_tokens(tokens as usize, memory.manifest());
        // Everything that the requests have so far. A kernel that appends by itself finds in its cache what it has stored
        // a step before.
        let steps = if appends(&module) { requests.steps_before(most) } else { requests.steps_so_far(most) };
        for before in steps {
            let (all, seqs) = (before.tokens() as u32, before.runs.len() as u32);
            let kind = Steps::of(all, seqs);
            let append = users.iter().find_map(|l| Some((*l, l.choice(kind, all)?)));
            let append = append.ok_or_else(|| Failure::bug(format!("no kernel appends {all} tokens")))?;
            let appending = contract(&memory.manifest().kernels[append.1.kernel as usize])?;
            by = if multiplies_e4m3(&appending) { quantised::By::Products } else { by };
            let ran = run(memory, append, &appending, &before, &cache, random)?;
            let kv = ran.want.into_iter().find_map(|d| if let Data::Kv(kv) = d { Some(kv) } else { None });
            cache = kv.ok_or_else(|| Failure::bug("an append does not give a cache"))?;
        }
        (cache, of_cache) = stored(memory, launch, &requests.pages, (cache, by))?;
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
                let by = if reads { quantised::By::Attention } else { quantised::By::Floats };
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
    let (seqs, context) = (requests.runs.len() as u32, requests.longest() as u32);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_to_the_engines_limits() {
        for steps in [Steps::Any, Steps::Decode, Steps::Prefill, Steps::Single] {
            for (tokens, longest) in (1..200).flat_map(|t| [200, 300, 4096].map(|l| (t, l))) {
                let all = runs(steps, tokens, 64, longest);
                assert_eq!(all.iter().map(|r| r.new).sum::<usize>(), tokens);
                assert!(all.iter().all(|r| r.past + r.new <= longest), "{tokens} {all:?}");
                if matches!(steps, Steps::Decode | Steps::Single) {
                    assert!(all.len() == tokens && all.iter().all(|r| r.new == 1));
                }
            }
        }
    }

    #[test]
    fn appends_store_every_token_once_and_in_order() {
        let all = Requests { runs: runs(Steps::Decode, 40, 16, 300), pages: Rc::new(vec![]) };
        for most in [1, 7, 256, 1000] {
            let mut stored = vec![0; all.runs.len()];
            for step in all.steps_so_far(most) {
                assert!((1..=most).contains(&step.tokens()));
                for run in step.runs {
                    assert_eq!(stored[run.seq], run.past);
                    stored[run.seq] += run.new;
                }
            }
            assert!(all.runs.iter().all(|r| stored[r.seq] == r.past + r.new));

            let mut stored = vec![0; all.runs.len()];
            let steps = all.steps_before(most);
            assert!(steps.last().is_some_and(|step| step.runs.iter().all(|r| r.new == 1)));
            for run in steps.into_iter().flat_map(|step| step.runs) {
                assert_eq!(stored[run.seq], run.past);
                stored[run.seq] += run.new;
            }
            assert!(all.runs.iter().all(|r| stored[r.seq] == r.past));
        }
    }
}
