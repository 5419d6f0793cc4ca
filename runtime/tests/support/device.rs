//! A device that executes the hash model's kernels on plain memory, checking every access.

use super::{attend, embed, logit};
use std::sync::{Arc, Mutex};
use trtc_engine::manifest::*;
use trtc_runtime::device::{
    Bindings, Buffer, Call, Device, Event, Fetch, Graph, Landed, Region, SharedBytes, StepDims,
};
use trtc_runtime::error::Error;

/// What a fake device was asked to do.
#[derive(Debug, Default)]
pub struct Log {
    pub launches: usize,
    pub records: usize,
    pub replays: usize,
    /// Sizes of each step, by its first launch or its replay.
    pub steps: Vec<StepDims>,
    /// So many launches or replays succeed.
    pub good: usize,
    /// After those so many fail.
    pub fail: usize,
    /// Content of the buffer for weights.
    pub weights: Vec<u8>,
    /// Bytes that were taken or shared.
    pub taken: u64,
}

enum Memory {
    Own(Vec<u8>),
    Shared(SharedBytes),
}

/// Executes the hash model's kernels on plain memory, checking every access.
pub struct FakeDevice {
    memory: Vec<Memory>,
    kv: Vec<KvLayer>,
    page_tokens: usize,
    graphs: Vec<(Vec<(Kernel, Vec<Arg>)>, Bindings, StepDims)>,
    weights: Option<Buffer>,
    pub log: Arc<Mutex<Log>>,
    /// Refuses to record.
    pub no_graphs: bool,
    /// Wants recordings when an engine is loaded.
    pub ahead: bool,
    /// Chooses as if there were no masks.
    pub no_masks: bool,
    landed: Landed,
}

impl FakeDevice {
    pub fn new() -> (FakeDevice, Arc<Mutex<Log>>) {
        let log = Arc::new(Mutex::new(Log::default()));
        let device = FakeDevice {
            memory: Vec::new(),
            kv: Vec::new(),
            page_tokens: 0,
            graphs: Vec::new(),
            weights: None,
            log: Arc::clone(&log),
            no_graphs: false,
            ahead: false,
            no_masks: false,
            landed: Landed::default(),
        };
        (device, log)
    }

    fn bytes(&self, buffer: Buffer) -> &[u8] {
        match &self.memory[buffer.0 as usize] {
            Memory::Own(bytes) => bytes,
            Memory::Shared(bytes) => (**bytes).as_ref(),
        }
    }

    fn ints(&self, buffer: Buffer, n: usize) -> Vec<i32> {
        self.bytes(buffer)[..4 * n].chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn ints_at(&self, buffer: Buffer, at: usize, n: usize) -> Vec<i32> {
        let bytes = &self.bytes(buffer)[at..at + 4 * n];
        bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn get(&self, buffer: Buffer, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(buffer)[8 * at..8 * at + 8].try_into().unwrap())
    }

    fn set(&mut self, buffer: Buffer, at: usize, bytes: &[u8]) {
        let Memory::Own(memory) = &mut self.memory[buffer.0 as usize] else {
            panic!("weights are read-only")
        };
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Where key and value of a position lie in a layer's buffer, in units of 8 bytes.
    fn slots(&self, bind: &Bindings, seq: usize, position: usize) -> (usize, usize) {
        let width = bind.table_width as usize;
        let table = self.ints(bind.block_table, (seq + 1) * width);
        let (page, slot) = (table[seq * width + position / self.page_tokens], position % self.page_tokens);
        let page = page as usize * 2 * self.page_tokens;
        (page + slot, page + self.page_tokens + slot)
    }

    fn execute(&mut self, kernel: &Kernel, args: &[Arg], bind: &Bindings, dims: StepDims) {
        let Code::Host(host) = &kernel.code else { panic!("PTX") };
        let arena = |i: usize| match args[i] {
            Arg::Arena(offset) => offset as usize / 8,
            other => panic!("{other:?}"),
        };
        let bytes = |i: usize| match args[i] {
            Arg::Arena(offset) => offset as usize,
            other => panic!("{other:?}"),
        };
        let weight = |i: usize| match args[i] {
            Arg::Weight(w) => bind.weights[w as usize].payload,
            other => panic!("{other:?}"),
        };
        let kv = |i: usize| match args[i] {
            Arg::Kv(l) => bind.kv[l as usize],
            other => panic!("{other:?}"),
        };
        let row = |device: &FakeDevice, region: Region, i: usize| {
            assert!(8 * (i as u64 + 1) <= region.len);
            let at = region.offset as usize + 8 * i;
            u64::from_le_bytes(device.bytes(region.buffer)[at..at + 8].try_into().unwrap())
        };
        let t = dims.tokens as usize;
        let positions = self.ints(bind.positions, t);
        let starts = self.ints(bind.query_start, dims.seqs as usize + 1);
        let contexts = self.ints(bind.context, dims.seqs as usize);
        assert_eq!((starts[0], *starts.last().unwrap()), (0, t as i32));
        let segments = |s: usize| starts[s] as usize..starts[s + 1] as usize;
        match host {
            HostKernel::Embedding { .. } => {
                let tokens = match args[0] {
                    Arg::Arena(at) => self.ints_at(bind.arena, at as usize, t),
                    _ => self.ints(bind.tokens, t),
                };
                for i in 0..t {
                    let h = embed(row(self, weight(1), tokens[i] as usize), positions[i] as u32);
                    self.set(bind.arena, 8 * (arena(2) + i), &h.to_le_bytes());
                }
            }
            HostKernel::KvAppend { .. } => {
                for s in 0..dims.seqs as usize {
                    for i in segments(s) {
                        let (k, v) = self.slots(bind, s, positions[i] as usize);
                        let (x, y) =
                            (self.get(bind.arena, arena(0) + i), self.get(bind.arena, arena(1) + i) ^ 5);
                        self.set(kv(3), 8 * k, &x.to_le_bytes());
                        self.set(kv(3), 8 * v, &y.to_le_bytes());
                    }
                }
            }
            HostKernel::Attention { .. } => {
                for s in 0..dims.seqs as usize {
                    let range = segments(s);
                    for i in range.clone() {
                        // Segments end where the context does.
                        let position = contexts[s] as usize - (range.end - i);
                        assert_eq!(positions[i] as usize, position);
                        let cached = (0..=position).map(|p| {
                            let (k, v) = self.slots(bind, s, p);
                            (self.get(kv(2), k), self.get(kv(2), v))
                        });
                        let h = attend(self.get(bind.arena, arena(0) + i), cached);
                        self.set(bind.arena, 8 * (arena(3) + i), &h.to_le_bytes());
                    }
                }
            }
            HostKernel::GatherRows { .. } => {
                for (l, r) in self.ints(bind.rows, dims.rows as usize).into_iter().enumerate() {
                    assert!((r as usize) < t);
                    let h = self.get(bind.arena, arena(0) + r as usize);
                    self.set(bind.arena, 8 * (arena(2) + l), &h.to_le_bytes());
                }
            }
            HostKernel::Linear { n, .. } => {
                for l in 0..dims.rows as usize {
                    let h = self.get(bind.arena, arena(0) + l);
                    for v in 0..*n as usize {
                        let x = logit(h, row(self, weight(1), v));
                        self.set(bind.arena, 8 * arena(2) + 4 * (l * *n as usize + v), &x.to_le_bytes());
                    }
                }
            }
            HostKernel::Feed { last } => {
                let last = self.ints_at(bind.arena, bytes(1), *last as usize);
                for (i, token) in self.ints(bind.tokens, t).into_iter().enumerate() {
                    let token = if token < 0 { last[(-1 - token) as usize] } else { token };
                    self.set(bind.arena, bytes(2) + 4 * i, &token.to_le_bytes());
                }
            }
            HostKernel::Sample { vocab } => {
                let draws = self.ints(bind.draws, dims.rows as usize * DRAW as usize);
                let draws: Vec<f32> = draws.into_iter().map(|b| f32::from_bits(b as u32)).collect();
                let words = vocab.div_ceil(32) as usize;
                for l in 0..dims.rows as usize {
                    let vocab = *vocab as usize;
                    let row = self.ints_at(bind.arena, bytes(0) + 4 * l * vocab, vocab);
                    let row: Vec<f32> = row.into_iter().map(|b| f32::from_bits(b as u32)).collect();
                    let draw = &draws[l * DRAW as usize..][..DRAW as usize];
                    let mask = (draw[DRAW_MASK] as usize).checked_sub(1).filter(|_| !self.no_masks);
                    let mask = mask.map(|i| self.ints_at(bind.masks, 4 * i * words, words));
                    let (token, logprob) = sampled(&row, draw, mask.as_deref());
                    self.set(bind.arena, bytes(3) + 4 * l, &token.to_le_bytes());
                    self.set(bind.arena, bytes(4) + 4 * l, &logprob.to_le_bytes());
                }
            }
            other => panic!("the hash model has no {other:?}"),
        }
    }

    fn refuse(&mut self) -> Result<(), Error> {
        let mut log = self.log.lock().unwrap();
        if log.good > 0 {
            log.good -= 1;
        } else if log.fail > 0 {
            log.fail -= 1;
            return Err(Error::bug("the device fell over"));
        }
        Ok(())
    }
}

impl Device for FakeDevice {
    fn name(&self) -> String {
        "fake".into()
    }

    fn free_memory(&self) -> u64 {
        1 << 20
    }

    /// Of which 3 MiB are in use.
    fn total_memory(&self) -> u64 {
        4 << 20
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Buffer, Error> {
        let buffer = Buffer(self.memory.len() as u32);
        self.memory.push(Memory::Own(vec![0; bytes as usize]));
        self.log.lock().unwrap().taken += bytes;
        if what == "weights" {
            self.weights = Some(buffer);
            self.log.lock().unwrap().weights = vec![0; bytes as usize];
        }
        Ok(buffer)
    }

    fn share(&mut self, bytes: SharedBytes, _: &str) -> Result<Buffer, Error> {
        self.log.lock().unwrap().taken += (*bytes).as_ref().len() as u64;
        self.memory.push(Memory::Shared(bytes));
        Ok(Buffer(self.memory.len() as u32 - 1))
    }

    fn free(&mut self, _: Buffer) {}

    fn upload(&mut self, to: Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.set(to, offset as usize, bytes);
        if self.weights == Some(to) {
            self.log.lock().unwrap().weights[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn download(&mut self, from: Buffer, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        into.copy_from_slice(&self.bytes(from)[offset as usize..][..into.len()]);
        Ok(())
    }

    fn fetch(&mut self, from: Region) -> Result<Fetch, Error> {
        let mut bytes = vec![0; from.len as usize];
        self.download(from.buffer, from.offset, &mut bytes)?;
        let (fetch, into) = self.landed.land(bytes.len());
        into.copy_from_slice(&bytes);
        Ok(fetch)
    }

    fn fetched(&mut self, fetch: Fetch, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.landed.take(fetch, take);
        Ok(())
    }

    fn records_ahead(&self) -> bool {
        self.ahead
    }

    fn copy(&mut self, from: Region, to: Region) -> Result<(), Error> {
        assert_eq!(from.len, to.len);
        let bytes = self.bytes(from.buffer)[from.offset as usize..][..from.len as usize].to_vec();
        self.set(to.buffer, to.offset as usize, &bytes);
        Ok(())
    }

    fn load(&mut self, manifest: &Manifest, _: &dyn Fn(&str) -> Result<Vec<u8>, Error>) -> Result<(), Error> {
        self.kv = manifest.kv.layers.clone();
        self.page_tokens = manifest.kv.page_tokens as usize;
        Ok(())
    }

    fn launch(&mut self, call: Call<'_>, bind: &Bindings, dims: StepDims) -> Result<(), Error> {
        self.refuse()?;
        let mut log = self.log.lock().unwrap();
        log.launches += 1;
        if call.kernel.0 == 0 {
            log.steps.push(dims);
        }
        drop(log);
        self.execute(call.kernel.1, call.args, bind, dims);
        Ok(())
    }

    fn record(&mut self, calls: &[Call<'_>], bind: &Bindings, dims: StepDims) -> Result<Graph, Error> {
        if self.no_graphs {
            return Err(Error::unsupported("no graphs"));
        }
        self.log.lock().unwrap().records += 1;
        let calls = calls.iter().map(|c| (c.kernel.1.clone(), c.args.to_vec())).collect();
        self.graphs.push((calls, bind.clone(), dims));
        Ok(Graph(self.graphs.len() as u32 - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        self.refuse()?;
        let (calls, bind, dims) = self.graphs[graph.0 as usize].clone();
        let mut log = self.log.lock().unwrap();
        log.replays += 1;
        log.steps.push(dims);
        drop(log);
        for (kernel, args) in &calls {
            self.execute(kernel, args, &bind, dims);
        }
        Ok(())
    }

    fn event(&mut self) -> Result<Event, Error> {
        Ok(Event(0))
    }

    fn wait(&mut self, _: Event) -> Result<(), Error> {
        Ok(())
    }

    fn elapsed(&mut self, _: Event, _: Event) -> Result<f64, Error> {
        Ok(0.0)
    }
}

/// What the runtime's own choice makes of a row, of which only the tokens of a mask may be chosen.
fn sampled(logits: &[f32], draw: &[f32], mask: Option<&[i32]>) -> (i32, f32) {
    let may = |t: usize| mask.is_none_or(|mask| mask[t / 32] >> (t % 32) & 1 == 1);
    let one = |(t, &x): (usize, &f32)| if may(t) { x } else { f32::NEG_INFINITY };
    let row: Vec<f32> = logits.iter().enumerate().map(one).collect();
    let u = ((draw[4] as u32) << 16) | draw[5] as u32;
    let w: Vec<f64> = row.iter().map(|&x| (f64::from(x) / f64::from(draw[0])).exp()).collect();
    let best = (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let mut left = f64::from(u) / 4_294_967_296.0 * w.iter().sum::<f64>();
    let drawn = w.iter().position(|w| {
        left -= w;
        left < 0.0
    });
    let token = if draw[0] == 0.0 { best } else { drawn.unwrap_or(best) };
    (token as i32, super::logprob(logits, token as u32) as f32)
}
