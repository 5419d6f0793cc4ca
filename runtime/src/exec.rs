//! Executes step plans on a device: places weights and cache, fills a step's buffers, launches, fetches logits.
//!
//! Knows how bytes lie and nothing of requests; which kernels run is in the manifest.

mod needs;
mod place;
mod stage;

pub use needs::footprint;
pub use place::{CACHE_SHARE, CacheSize};
pub use stage::Draw;

use crate::device::{Bindings, Call, Device, Fetch, Graph, Region, StepDims, launch};
use crate::error::{Error, Fault};
use crate::sched::{Plan, Scheduler};
use needs::Needs;
use rustc_hash::FxHashMap;
use stage::Stage;
use std::ops::Range;
use std::sync::Arc;
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Manifest, Steps};

/// A loaded engine on a device.
pub struct Executor {
    device: Box<dyn Device>,
    manifest: Arc<Manifest>,
    bind: Bindings,
    pages: u32,
    stage: Stage,
    /// Recorded decode steps.
    graphs: FxHashMap<StepDims, Graph>,
    records: bool,
    /// Numbers of requests that decode steps are padded to, ascending; none if they are not.
    buckets: Vec<u32>,
}

/// A step that was started: what comes back of it.
#[derive(Debug)]
pub struct Started {
    /// Tokens that the device chooses.
    tokens: Option<Fetch>,
    /// Their log-probabilities.
    logprobs: Option<Fetch>,
    /// Rows of logits, and the first of them.
    logits: Option<(Fetch, u32)>,
}

/// What is to come back of a step besides tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Rows of logits.
    pub logits: Range<u32>,
    /// Log-probabilities of the tokens that the device chooses.
    pub logprobs: bool,
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

/// Numbers of requests that decode steps are recorded for: each power of two up to 8, then in steps of at most an eighth of the
/// power of two before, up to `most`. Kernels serve up to a power of two: a step of so many is not padded beyond it.
fn buckets(most: u32) -> Vec<u32> {
    let next = |&n: &u32| Some(if n < 8 { 2 * n } else { n + ((1 << n.ilog2()) / 8).clamp(8, 32) });
    let mut list: Vec<u32> = std::iter::successors(Some(1), next).take_while(|&n| n < most).collect();
    list.push(most);
    list
}

/// Decode steps whose longest contexts have the same bound share a recording: powers of two from 512 on, above the last one
/// none, which is 0. No kernel shares out longer ones to more blocks.
fn bound(context: u32) -> u32 {
    if context > LAST_BOUND { 0 } else { context.next_power_of_two().max(FIRST_BOUND) }
}

const FIRST_BOUND: u32 = 512;
const LAST_BOUND: u32 = 4096;

/// The bounds of all contexts of up to `most` positions.
fn bounds(most: u32) -> impl Iterator<Item = u32> {
    let longest = std::iter::successors(Some(FIRST_BOUND), |&n| (n <= LAST_BOUND).then_some(2 * n));
    longest.take_while(move |&n| n == FIRST_BOUND || n < 2 * most).map(bound)
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
        let manifest = Arc::new(manifest.clone());
        let most = d.max_batch.min(d.max_step_tokens).min(d.max_logit_rows);
        let buckets = if ahead { buckets(most) } else { Vec::new() };
        let graphs = FxHashMap::default();
        let mut exec = Executor { device, manifest, bind, pages, stage, graphs, records: true, buckets };
        for i in 0..exec.buckets.len() {
            let n = exec.buckets[i];
            for context in bounds(d.max_seq_len) {
                exec.record(StepDims { tokens: n, rows: n, seqs: n, first: 0, context })?;
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

    /// Starts a plan. `draws` say how each row is sampled, one a row; `wanted` is what is to come back. Everything that is started is executed in order.
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
        if let Some(n) = bucket.filter(|_| plan.decode_only()) {
            self.stage.pad(n, self.pages as i32);
            dims = StepDims { tokens: n, rows: n, seqs: n, first: 0, context };
        }
        self.upload()?;
        if plan.decode_only() && self.records {
            self.replay(dims)?
        } else {
            self.launch((plan.kind, plan.single()), dims)?
        }
        let row = 4 * u64::from(self.manifest.model.vocab);
        let arena = self.bind.arena;
        let at = |offset, len| Region { buffer: arena, offset, len };
        let (rows, logits) = (u64::from(plan.rows), self.manifest.logits);
        let mut started = Started { tokens: None, logprobs: None, logits: None };
        if let Some(sampled) = self.manifest.sampled.filter(|_| rows > 0) {
            started.tokens = Some(self.device.fetch(at(sampled.tokens, 4 * rows))?);
            if wanted.logprobs {
                started.logprobs = Some(self.device.fetch(at(sampled.logprobs, 4 * rows))?);
            }
        }
        let wanted = wanted.logits;
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

    fn launch(&mut self, kind: (Steps, u32), dims: StepDims) -> Result<(), Error> {
        for call in calls(&self.manifest, kind, dims) {
            let (call, dims) = call?;
            self.device.launch(call, &self.bind, dims)?;
        }
        Ok(())
    }

    /// Executes a decode step from its recording, made the first time.
    fn replay(&mut self, dims: StepDims) -> Result<(), Error> {
        if let Some(&graph) = self.graphs.get(&dims) {
            return self.device.replay(graph);
        }
        self.record(dims)?;
        match self.graphs.get(&dims) {
            Some(&graph) => self.device.replay(graph),
            None => self.launch((Steps::Decode, 0), dims),
        }
    }

    /// Records a decode step, unless one that is executed alike was. A device that cannot record is not asked again.
    fn record(&mut self, dims: StepDims) -> Result<(), Error> {
        let calls = calls(&self.manifest, (Steps::Decode, 0), dims).map(|call| call.map(|(call, _)| call));
        let list: Vec<Call<'_>> = calls.collect::<Result<_, _>>()?;
        // Small grids are the same whatever the bound on contexts is.
        let same = |&(made, _): &(&StepDims, &Graph)| {
            let StepDims { context, .. } = *made;
            *made == StepDims { context, ..dims }
                && list.iter().all(|call| launch::same_with(call.kernel.1, dims, context))
        };
        if let Some((_, &graph)) = self.graphs.iter().find(same) {
            self.graphs.insert(dims, graph);
            return Ok(());
        }
        match self.device.record(&list, &self.bind, dims) {
            Ok(graph) => {
                self.graphs.insert(dims, graph);
            }
            Err(e) if e.fault == Fault::Unsupported => self.records = false,
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// The kernels of a step of a kind and these sizes, whose first `single` requests have one token each, in order, each with
/// the sizes of its part. A launch without a choice is of an op that another one computes; that there is one for each was checked with the manifest.
fn calls(
    manifest: &Manifest,
    (kind, single): (Steps, u32),
    dims: StepDims,
) -> impl Iterator<Item = Result<(Call<'_>, StepDims), Error>> {
    let chosen = manifest.launches.iter().filter_map(move |l| Some((l, l.choice(kind, dims.tokens)?)));
    let parts = move |(launch, choice)| launch::parts(launch, choice, dims, single).map(move |p| (launch, p));
    chosen.flat_map(parts).map(|(launch, (index, dims))| {
        let kernel = manifest.kernels.get(index as usize);
        let kernel =
            kernel.ok_or_else(|| Error::bug(format!("{}: there is no kernel {index}", launch.loc)))?;
        Ok((Call { kernel: (index, kernel), args: &launch.args, loc: &launch.loc }, dims))
    })
}

// Buffers are little-endian, as the engine file and all devices are.
const _: () = assert!(cfg!(target_endian = "little"));

/// A number of four bytes in which every bit pattern is a value.
trait Word: Copy {}
impl Word for i32 {}
impl Word for f32 {}

fn bytes<T: Word>(list: &[T]) -> &[u8] {
    // SAFETY: i32 and f32 have no padding, any byte is a valid u8, and the length is that of the slice.
    unsafe { std::slice::from_raw_parts(list.as_ptr().cast(), size_of_val(list)) }
}

fn floats(bytes: &[u8], into: &mut Vec<f32>) {
    into.extend(bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_have_few_bounds() {
        assert_eq!([1, 512, 513, 4096, 4097, 1 << 20].map(bound), [512, 512, 1024, 4096, 0, 0]);
        let all = |most| bounds(most).collect::<Vec<_>>();
        assert_eq!([all(1), all(512), all(2304)], [vec![512], vec![512], vec![512, 1024, 2048, 4096]]);
        assert_eq!(all(1 << 17), [512, 1024, 2048, 4096, 0]);
        for most in [1, 600, 1024, 5000] {
            assert!((1..=most).all(|n| all(most).contains(&bound(n))), "{most}");
        }
    }

    #[test]
    fn buckets_rise_to_the_limit() {
        assert_eq!(buckets(1), [1]);
        assert_eq!(buckets(6), [1, 2, 4, 6]);
        assert_eq!(buckets(64), [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]);
        let all = buckets(256);
        assert!(all.is_sorted() && all.last() == Some(&256) && all.len() < 32, "{all:?}");
        let all = buckets(500);
        assert!([64, 128, 256, 288, 480, 500].iter().all(|n| all.contains(n)), "{all:?}");
    }
}
