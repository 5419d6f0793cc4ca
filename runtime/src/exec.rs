//! Executes step plans on a device: places weights and cache, fills a step's buffers, launches, fetches logits.
//!
//! Knows how bytes lie and nothing of requests; which kernels run is in the manifest.

mod masks;
mod needs;
mod place;
mod sizes;
mod stage;
mod words;

pub use needs::footprint;
pub use place::{CACHE_SHARE, CacheSize};
pub use stage::Draw;

use crate::device::{Bindings, Call, Device, Fetch, Graph, Region, StepDims, launch};
use crate::error::{Error, Fault};
use crate::sched::{Plan, Scheduler};
use masks::Masks;
use needs::Needs;
use rustc_hash::FxHashMap;
use sizes::{bound, bounds, buckets};
use stage::Stage;
use std::ops::Range;
use std::sync::Arc;
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Arg, Launch, Manifest, Steps};
use words::{bytes, floats};

/// A loaded engine on a device.
pub struct Executor {
    device: Box<dyn Device>,
    manifest: Arc<Manifest>,
    bind: Bindings,
    pages: u32,
    stage: Stage,
    masks: Masks,
    /// The first launch that reads masks: with it the choice of tokens begins.
    choice: usize,
    /// Recorded decode steps.
    graphs: FxHashMap<(Part, StepDims), Graph>,
    records: bool,
    /// Numbers of requests that decode steps are padded to, ascending; none if they are not.
    buckets: Vec<u32>,
}

/// Which launches of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Whole,
    /// Those before the choice of tokens.
    Logits,
    /// Those from there on.
    Choice,
}

/// What is executed of a step, and what is to come back.
#[derive(Clone, Debug)]
struct Run {
    kind: (Steps, u32),
    dims: StepDims,
    /// It can be a recording.
    decodes: bool,
    /// Rows that are somebody's.
    rows: u32,
    wanted: Wanted,
}

/// A step that was started: what comes back of it.
#[derive(Debug)]
pub struct Started {
    /// What is left of it to start, once masks are known.
    left: Option<Run>,
    /// Tokens that the device chooses.
    tokens: Option<Fetch>,
    /// Their log-probabilities.
    logprobs: Option<Fetch>,
    /// Rows of logits, and the first of them.
    logits: Option<(Fetch, u32)>,
}

impl Started {
    /// True if nothing of the step is left to start.
    pub fn is_whole(&self) -> bool {
        self.left.is_none()
    }
}

/// What is to come back of a step besides tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Rows of logits.
    pub logits: Range<u32>,
    /// Log-probabilities of the tokens that the device chooses.
    pub logprobs: bool,
    /// Tokens are chosen only once [`Executor::choose`] is called: draws name masks that are not known yet.
    pub masks: bool,
}

/// What came back of a step.
#[derive(Debug, Default)]
pub struct Done {
    /// One a row, if the device samples.
    pub tokens: Vec<i32>,
    /// Likewise, if they were asked for.
    pub logprobs: Vec<f32>,
    /// The first row of `logits`.
    pub first: u32,
    /// `(rows, vocab)` of the rows that were asked for.
    pub logits: Vec<f32>,
}

impl Executor {
    /// Places an engine on a device. `threads` helps to make dummy weights.
    pub fn new(
        device: Box<dyn Device>,
        file: &EngineFile,
        cache: CacheSize,
        threads: usize,
    ) -> Result<Executor, Error> {
        let mut device = device;
        let manifest = file.manifest();
        let module = |name: &str| Ok(file.tensor(name).map_err(Error::from)?.to_vec());
        device.load(manifest, &module)?;
        let weights = place::weights(&mut *device, file, threads)?;
        let d = manifest.dims;
        let needs = Needs::of(manifest);
        let table_width = needs.table_width;
        let arena = device.alloc(needs.arena, "activations")?;
        let tokens = device.alloc(needs.tokens, "token ids")?;
        let positions = device.alloc(needs.positions, "positions")?;
        let rows = device.alloc(needs.rows, "rows of logits")?;
        let draws = device.alloc(needs.draws, "draws")?;
        let masks = device.alloc(needs.masks, "masks")?;
        let query_start = device.alloc(needs.query_start, "segments")?;
        let context = device.alloc(needs.context, "context lengths")?;
        let block_table = device.alloc(needs.block_table, "block tables")?;
        let scratch = device.alloc(needs.scratch, "scratch memory")?;
        let counters = device.alloc(needs.counters, "counters")?;
        let ahead = device.records_ahead();
        let (pages, kv) = place::cache(&mut *device, manifest, cache, ahead)?;
        let bind = Bindings {
            arena,
            weights,
            kv,
            tokens,
            positions,
            rows,
            draws,
            masks,
            query_start,
            context,
            block_table,
            table_width,
            // One more is nobody's where steps are padded.
            pages: pages + u32::from(ahead),
            limits: d,
            scratch,
            counters,
        };
        let stage = Stage::new(&d, table_width as usize)?;
        let masks = Masks::new(needs.mask_words);
        let choice = manifest.launches.iter().position(|l| l.args.contains(&Arg::Masks));
        let choice = choice.unwrap_or(manifest.launches.len());
        let manifest = Arc::new(manifest.clone());
        let most = d.max_batch.min(d.max_step_tokens).min(d.max_logit_rows);
        let buckets = if ahead { buckets(most) } else { Vec::new() };
        let graphs = FxHashMap::default();
        let mut exec =
            Executor { device, manifest, bind, pages, stage, masks, choice, graphs, records: true, buckets };
        for i in 0..exec.buckets.len() {
            let n = exec.buckets[i];
            for context in bounds(d.max_seq_len) {
                exec.record(Part::Whole, StepDims { tokens: n, rows: n, seqs: n, first: 0, context })?;
            }
        }
        Ok(exec)
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Pages of the cache.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// True if steps choose tokens themselves.
    pub fn samples(&self) -> bool {
        self.manifest.sampled.is_some()
    }

    /// Starts a plan. `draws` say how each row is sampled, one a row; `wanted` is what is to come back. Everything that is
    /// started is executed in order. Of a step with masks only the logits are computed until [`Executor::choose`].
    pub fn start(
        &mut self,
        plan: &Plan,
        sched: &Scheduler,
        draws: &[Draw],
        wanted: Wanted,
    ) -> Result<Started, Error> {
        self.stage.fill(plan, sched, draws)?;
        let seqs = plan.chunks.len() as u32;
        let context = bound(self.stage.longest());
        let mut dims = StepDims { tokens: plan.tokens, rows: plan.rows, seqs, first: 0, context };
        let bucket = self.buckets.iter().copied().find(|&b| b >= seqs);
        let decodes = plan.decode_only();
        if let Some(n) = bucket.filter(|_| decodes) {
            self.stage.pad(n, self.pages as i32);
            dims = StepDims { tokens: n, rows: n, seqs: n, first: 0, context };
        }
        self.upload()?;
        let run = Run { kind: (plan.kind, plan.single()), dims, decodes, rows: plan.rows, wanted };
        self.execute(if run.wanted.masks { Part::Logits } else { Part::Whole }, &run)?;
        self.stage.started(plan);
        if run.wanted.masks {
            return Ok(Started { left: Some(run), tokens: None, logprobs: None, logits: None });
        }
        self.fetch(&run)
    }

    /// Says which tokens mask `index` has, a bit each, for the step that is chosen next. There are as many masks as requests in
    /// a step.
    pub fn set_mask(&mut self, index: u32, mask: &[u32]) {
        self.masks.set(index as usize, mask);
    }

    /// Starts what was left of a step until its masks were known; nothing of a step without. Not after another step was started.
    pub fn choose(&mut self, started: &mut Started) -> Result<(), Error> {
        let Some(run) = started.left.take() else { return Ok(()) };
        self.masks.upload(&mut *self.device, self.bind.masks)?;
        self.execute(Part::Choice, &run)?;
        *started = self.fetch(&run)?;
        Ok(())
    }

    /// Queues copies of what is to come back of a step.
    fn fetch(&mut self, run: &Run) -> Result<Started, Error> {
        let row = 4 * u64::from(self.manifest.model.vocab);
        let arena = self.bind.arena;
        let at = |offset, len| Region { buffer: arena, offset, len };
        let (rows, logits) = (u64::from(run.rows), self.manifest.logits);
        let mut started = Started { left: None, tokens: None, logprobs: None, logits: None };
        if let Some(sampled) = self.manifest.sampled.filter(|_| rows > 0) {
            started.tokens = Some(self.device.fetch(at(sampled.tokens, 4 * rows))?);
            if run.wanted.logprobs {
                started.logprobs = Some(self.device.fetch(at(sampled.logprobs, 4 * rows))?);
            }
        }
        let wanted = &run.wanted.logits;
        if !wanted.is_empty() {
            let (first, count) = (u64::from(wanted.start), u64::from(wanted.end - wanted.start));
            let fetch = self.device.fetch(at(logits + first * row, count * row))?;
            started.logits = Some((fetch, wanted.start));
        }
        Ok(started)
    }

    /// Waits for a step and takes what came back into `done`.
    pub fn finish(&mut self, started: Started, done: &mut Done) -> Result<(), Error> {
        done.tokens.clear();
        done.logprobs.clear();
        done.logits.clear();
        if let Some(tokens) = started.tokens {
            self.device.fetched(tokens, &mut |b| {
                done.tokens.extend(b.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]])));
            })?;
        }
        if let Some(logprobs) = started.logprobs {
            self.device.fetched(logprobs, &mut |b| floats(b, &mut done.logprobs))?;
        }
        if let Some((logits, first)) = started.logits {
            done.first = first;
            self.device.fetched(logits, &mut |b| floats(b, &mut done.logits))?;
        }
        Ok(())
    }

    /// Copies to the device what it does not have yet.
    fn upload(&mut self) -> Result<(), Error> {
        let done = self.upload_changes();
        if done.is_err() {
            self.stage.forget_lists();
        }
        done
    }

    fn upload_changes(&mut self) -> Result<(), Error> {
        let (stage, bind, device) = (&mut self.stage, &self.bind, &mut *self.device);
        for (buffer, list) in [
            (bind.tokens, &mut stage.tokens),
            (bind.positions, &mut stage.positions),
            (bind.rows, &mut stage.rows),
            (bind.query_start, &mut stage.query_start),
            (bind.context, &mut stage.context),
        ] {
            if let Some(list) = list.change() {
                device.upload(buffer, 0, bytes(list))?;
            }
        }
        if self.manifest.sampled.is_some()
            && let Some(draws) = stage.draws.change()
        {
            device.upload(bind.draws, 0, bytes(draws.as_flattened()))?;
        }
        for run in &stage.changed {
            device.upload(bind.block_table, 4 * run.start as u64, bytes(&stage.table[run.clone()]))?;
        }
        stage.changed.clear();
        Ok(())
    }

    /// Executes a part of a step: of a decode step a recording, unless that is a launch or two.
    fn execute(&mut self, part: Part, run: &Run) -> Result<(), Error> {
        if run.decodes && self.records && part != Part::Choice {
            self.replay(part, run.dims)
        } else {
            self.launch(part, run.kind, run.dims)
        }
    }

    fn launch(&mut self, part: Part, kind: (Steps, u32), dims: StepDims) -> Result<(), Error> {
        for call in calls(&self.manifest, self.launches(part), kind, dims) {
            let (call, dims) = call?;
            self.device.launch(call, &self.bind, dims)?;
        }
        Ok(())
    }

    fn launches(&self, part: Part) -> Range<usize> {
        let all = self.manifest.launches.len();
        match part {
            Part::Whole => 0..all,
            Part::Logits => 0..self.choice,
            Part::Choice => self.choice..all,
        }
    }

    /// Executes a part of a decode step from its recording, made the first time.
    fn replay(&mut self, part: Part, dims: StepDims) -> Result<(), Error> {
        if let Some(&graph) = self.graphs.get(&(part, dims)) {
            return self.device.replay(graph);
        }
        self.record(part, dims)?;
        match self.graphs.get(&(part, dims)) {
            Some(&graph) => self.device.replay(graph),
            None => self.launch(part, (Steps::Decode, 0), dims),
        }
    }

    /// Records a part of a decode step, unless one that is executed alike was. A device that cannot record is not asked again.
    fn record(&mut self, part: Part, dims: StepDims) -> Result<(), Error> {
        let calls = calls(&self.manifest, self.launches(part), (Steps::Decode, 0), dims);
        let list: Vec<Call<'_>> = calls.map(|call| call.map(|(call, _)| call)).collect::<Result<_, _>>()?;
        // Small grids are the same whatever the bound on contexts is.
        let same = |&(made, _): &(&(Part, StepDims), &Graph)| {
            let (_, StepDims { context, .. }) = *made;
            *made == (part, StepDims { context, ..dims })
                && list.iter().all(|call| launch::same_with(call.kernel.1, dims, context))
        };
        if let Some((_, &graph)) = self.graphs.iter().find(same) {
            self.graphs.insert((part, dims), graph);
            return Ok(());
        }
        match self.device.record(&list, &self.bind, dims) {
            Ok(graph) => {
                self.graphs.insert((part, dims), graph);
            }
            Err(e) if e.fault == Fault::Unsupported => self.records = false,
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// The kernels of some launches of a step of a kind and these sizes, whose first `single` requests have one token each, in
/// order, each with the sizes of its part. A launch without a choice is of an op that another one computes; that there is one for
/// each was checked with the manifest.
fn calls(
    manifest: &Manifest,
    launches: Range<usize>,
    (kind, single): (Steps, u32),
    dims: StepDims,
) -> impl Iterator<Item = Result<(Call<'_>, StepDims), Error>> {
    let launches: &[Launch] = manifest.launches.get(launches).unwrap_or_default();
    let chosen = launches.iter().filter_map(move |l| Some((l, l.choice(kind, dims.tokens)?)));
    let parts = move |(launch, choice)| launch::parts(launch, choice, dims, single).map(move |p| (launch, p));
    chosen.flat_map(parts).map(|(launch, (index, dims))| {
        let kernel = manifest.kernels.get(index as usize);
        let kernel =
            kernel.ok_or_else(|| Error::bug(format!("{}: there is no kernel {index}", launch.loc)))?;
        Ok((Call { kernel: (index, kernel), args: &launch.args, loc: &launch.loc }, dims))
    })
}
