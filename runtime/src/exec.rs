//! Executes step plans on a device: places weights and cache, fills a step's buffers, launches, fetches logits.
//!
//! Knows how bytes lie and nothing of requests; which kernels run is in the manifest.

mod place;

pub use place::CacheSize;

use crate::device::{Bindings, Buffer, Call, Device, Graph, StepDims};
use crate::error::{Error, Fault};
use crate::sched::{Plan, Scheduler};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use trtc_engine::EngineFile;
use trtc_engine::manifest::Manifest;

/// A loaded engine on a device.
pub struct Executor {
    device: Box<dyn Device>,
    manifest: Arc<Manifest>,
    bind: Bindings,
    pages: u32,
    stage: Stage,
    /// `(rows, vocab)` of the last step.
    logits: Vec<f32>,
    /// Recorded decode steps.
    graphs: FxHashMap<StepDims, Graph>,
    records: bool,
}

/// A step's buffers on this side.
#[derive(Default)]
struct Stage {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    rows: Vec<i32>,
    query_start: Vec<i32>,
    context: Vec<i32>,
    /// `(max_batch, table_width)`: what the device has, but for the entries of `changed`.
    table: Vec<i32>,
    changed: std::ops::Range<usize>,
}

impl Stage {
    /// Writes an entry of the block table, and notes it if it is new there.
    fn set_page(&mut self, at: usize, page: i32) {
        if self.table[at] != page {
            self.table[at] = page;
            let c = &self.changed;
            self.changed = if c.is_empty() { at..at + 1 } else { c.start.min(at)..c.end.max(at + 1) };
        }
    }

    /// Lays out a plan: tokens of all chunks one after the other.
    fn fill(&mut self, plan: &Plan, sched: &Scheduler, table_width: usize) -> Result<(), Error> {
        for list in
            [&mut self.tokens, &mut self.positions, &mut self.rows, &mut self.query_start, &mut self.context]
        {
            list.clear();
        }
        self.query_start.push(0);
        for (s, chunk) in plan.chunks.iter().enumerate() {
            let gone = || Error::bug(format!("sequence {} of the plan is gone", chunk.seq.0));
            let seq = sched.sequence(chunk.seq).ok_or_else(gone)?;
            let end = chunk.start + chunk.len;
            let tokens = seq.tokens().get(chunk.start as usize..end as usize).ok_or_else(gone)?;
            self.tokens.extend(tokens.iter().map(|&t| t as i32));
            self.positions.extend(chunk.start as i32..end as i32);
            let after = self.tokens.len() as i32;
            self.rows.extend(after - chunk.rows as i32..after);
            self.query_start.push(after);
            self.context.push(end as i32);
            let used = sched.pool().pages_for(end) as usize;
            for (i, &page) in seq.pages().iter().take(used).enumerate() {
                self.set_page(s * table_width + i, page as i32);
            }
        }
        Ok(())
    }
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
        let arena = device.alloc(manifest.arena, "activations")?;
        let mut ints = |n: u64, what: &str| device.alloc(4 * n, what);
        let (max_step, max_batch) = (u64::from(d.max_step_tokens), u64::from(d.max_batch));
        let tokens = ints(max_step, "token ids")?;
        let positions = ints(max_step, "positions")?;
        let rows = ints(u64::from(d.max_logit_rows), "rows of logits")?;
        let query_start = ints(max_batch + 1, "segments")?;
        let context = ints(max_batch, "context lengths")?;
        let table_width = d.max_seq_len.div_ceil(manifest.kv.page_tokens);
        let table_len = max_batch * u64::from(table_width);
        let block_table = ints(table_len, "block tables")?;
        let (scratch, counters) = manifest.scratch(&d);
        let scratch = device.alloc(scratch, "scratch memory")?;
        let counters = device.alloc(4 * counters, "counters")?;
        let (pages, kv) = place::cache(&mut *device, manifest, cache)?;
        let bind = Bindings {
            arena,
            weights,
            kv,
            tokens,
            positions,
            rows,
            query_start,
            context,
            block_table,
            table_width,
            scratch,
            counters,
        };
        let mut stage = Stage::default();
        let short = |_| Error::user(format!("no memory for block tables of {table_len} entries"));
        stage.table.try_reserve_exact(table_len as usize).map_err(short)?;
        stage.table.resize(table_len as usize, 0);
        for list in [&mut stage.tokens, &mut stage.positions] {
            list.reserve(d.max_step_tokens as usize);
        }
        stage.rows.reserve(d.max_logit_rows as usize);
        for list in [&mut stage.query_start, &mut stage.context] {
            list.reserve(d.max_batch as usize + 1);
        }
        let manifest = Arc::new(manifest.clone());
        let graphs = FxHashMap::default();
        Ok(Executor { device, manifest, bind, pages, stage, logits: Vec::new(), graphs, records: true })
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Pages of the cache.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Computes a plan. Gives the logits of its rows, `(plan.rows, vocab)`, in the order of the chunks.
    pub fn run(&mut self, plan: &Plan, sched: &Scheduler) -> Result<&mut [f32], Error> {
        self.stage.fill(plan, sched, self.bind.table_width as usize)?;
        self.upload()?;
        let dims = StepDims { tokens: plan.tokens, rows: plan.rows, seqs: plan.chunks.len() as u32 };
        if plan.decode_only() && self.records {
            self.replay(dims)?
        } else {
            self.launch(dims)?
        }
        let len = plan.rows as usize * self.manifest.model.vocab as usize;
        if self.logits.len() < len {
            self.logits.resize(len, 0.0);
        }
        let logits = &mut self.logits[..len];
        if len > 0 {
            self.device.download(self.bind.arena, self.manifest.logits, bytes_mut(logits))?;
        }
        Ok(logits)
    }

    fn upload(&mut self) -> Result<(), Error> {
        let (stage, bind) = (&mut self.stage, &self.bind);
        let lists: [(Buffer, &[i32]); 5] = [
            (bind.tokens, &stage.tokens),
            (bind.positions, &stage.positions),
            (bind.rows, &stage.rows),
            (bind.query_start, &stage.query_start),
            (bind.context, &stage.context),
        ];
        for (buffer, list) in lists {
            if !list.is_empty() {
                self.device.upload(buffer, 0, bytes(list))?;
            }
        }
        if !stage.changed.is_empty() {
            let at = 4 * stage.changed.start as u64;
            self.device.upload(bind.block_table, at, bytes(&stage.table[stage.changed.clone()]))?;
            stage.changed = 0..0;
        }
        Ok(())
    }

    fn launch(&mut self, dims: StepDims) -> Result<(), Error> {
        for call in calls(&self.manifest, dims.tokens) {
            self.device.launch(call?, &self.bind, dims)?;
        }
        Ok(())
    }

    /// Executes a decode step from its recording, made the first time. A device that cannot record is not asked again.
    fn replay(&mut self, dims: StepDims) -> Result<(), Error> {
        if let Some(&graph) = self.graphs.get(&dims) {
            return self.device.replay(graph);
        }
        let list: Vec<Call<'_>> = calls(&self.manifest, dims.tokens).collect::<Result<_, _>>()?;
        match self.device.record(&list, &self.bind, dims) {
            Ok(graph) => {
                self.graphs.insert(dims, graph);
                self.device.replay(graph)
            }
            Err(e) if e.fault == Fault::Unsupported => {
                self.records = false;
                self.launch(dims)
            }
            Err(e) => Err(e),
        }
    }
}

/// The kernels of a step of `tokens` tokens, in order.
fn calls(manifest: &Manifest, tokens: u32) -> impl Iterator<Item = Result<Call<'_>, Error>> {
    manifest.launches.iter().map(move |launch| {
        let choice = launch.choices.iter().find(|c| (c.from..=c.to).contains(&tokens));
        let kernel = choice.and_then(|c| Some((c.kernel, manifest.kernels.get(c.kernel as usize)?)));
        let none = || Error::bug(format!("{}: no kernel for {tokens} tokens", launch.loc));
        Ok(Call { kernel: kernel.ok_or_else(none)?, args: &launch.args })
    })
}

// Buffers are little-endian, as the engine file and all devices are.
const _: () = assert!(cfg!(target_endian = "little"));

fn bytes(list: &[i32]) -> &[u8] {
    // SAFETY: i32 has no padding, any byte is a valid u8, and the length is that of the slice.
    unsafe { std::slice::from_raw_parts(list.as_ptr().cast(), size_of_val(list)) }
}

fn bytes_mut(list: &mut [f32]) -> &mut [u8] {
    // SAFETY: as in `bytes`; any bit pattern is a valid f32.
    unsafe { std::slice::from_raw_parts_mut(list.as_mut_ptr().cast(), size_of_val(list)) }
}
