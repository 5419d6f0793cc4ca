//! A device that computes nothing and otherwise behaves as a GPU does: it keeps memory, takes launches and recordings,
//! copies what is uploaded, and its steps choose tokens, which stay on the device until they are fetched.
//!
//! What a step costs on it is what the host's own work costs. It is no `--device`: engines do not find it by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use trtc_engine::manifest::{Arg, Code, HostKernel, Manifest};
use trtc_runtime::device::{
    Bindings, Buffer, Call, Device, Event, Fetch, Graph, Landed, Region, SharedBytes, StepDims,
};
use trtc_runtime::error::Error;

/// What the device was asked to do.
#[derive(Debug, Default)]
pub struct Counts {
    /// Copies to the device.
    pub uploads: AtomicU64,
    /// Their bytes.
    pub uploaded: AtomicU64,
    /// Copies from the device.
    pub fetches: AtomicU64,
    /// Recordings that were executed.
    pub replays: AtomicU64,
}

impl Counts {
    /// Uploads, bytes of them, fetches and replays so far.
    pub fn read(&self) -> [u64; 4] {
        [&self.uploads, &self.uploaded, &self.fetches, &self.replays].map(|n| n.load(Ordering::Relaxed))
    }
}

/// Where a step leaves the tokens it chooses, and below which number they are.
#[derive(Clone, Copy)]
struct Chooses {
    arena: Buffer,
    tokens: u64,
    vocab: u32,
    rows: u32,
}

impl Chooses {
    fn of(call: &Call<'_>, bind: &Bindings, dims: StepDims) -> Option<Chooses> {
        match (&call.kernel.1.code, call.args) {
            (Code::Host(HostKernel::Sample { vocab }), [_, _, _, Arg::Arena(tokens), _]) => {
                Some(Chooses { arena: bind.arena, tokens: *tokens, vocab: *vocab, rows: dims.rows })
            }
            _ => None,
        }
    }
}

/// The device.
#[derive(Default)]
pub struct NullDevice {
    memory: Vec<Vec<u8>>,
    recordings: Vec<Option<Chooses>>,
    landed: Landed,
    random: u64,
    counts: Arc<Counts>,
}

impl NullDevice {
    /// A device, and what it will have been asked to do.
    pub fn new() -> (NullDevice, Arc<Counts>) {
        let device = NullDevice::default();
        let counts = Arc::clone(&device.counts);
        (device, counts)
    }

    fn bytes(&mut self, region: Region) -> Result<&mut [u8], Error> {
        let memory = self.memory.get_mut(region.buffer.0 as usize);
        let (start, end) = (region.offset as usize, (region.offset + region.len) as usize);
        let bytes = memory.and_then(|m| m.get_mut(start..end));
        bytes.ok_or_else(|| Error::bug(format!("{region:?} is not memory of the device")))
    }

    /// What a step does: some token for each row.
    fn choose(&mut self, chooses: Chooses) -> Result<(), Error> {
        let Chooses { arena: buffer, tokens: offset, vocab, rows } = chooses;
        let mut random = self.random;
        let len = 4 * u64::from(rows);
        for token in self.bytes(Region { buffer, offset, len })?.chunks_exact_mut(4) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            token.copy_from_slice(&((random >> 33) as u32 % vocab).to_le_bytes());
        }
        self.random = random;
        Ok(())
    }
}

impl Device for NullDevice {
    fn name(&self) -> String {
        "null".into()
    }

    fn free_memory(&self) -> u64 {
        self.total_memory()
    }

    fn total_memory(&self) -> u64 {
        1 << 30
    }

    fn alloc(&mut self, bytes: u64, _: &str) -> Result<Buffer, Error> {
        self.memory.push(vec![0; bytes as usize]);
        Ok(Buffer(self.memory.len() as u32 - 1))
    }

    fn share(&mut self, bytes: SharedBytes, _: &str) -> Result<Buffer, Error> {
        self.memory.push((*bytes).as_ref().to_vec());
        Ok(Buffer(self.memory.len() as u32 - 1))
    }

    fn free(&mut self, _: Buffer) {}

    fn upload(&mut self, buffer: Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.counts.uploads.fetch_add(1, Ordering::Relaxed);
        self.counts.uploaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.bytes(Region { buffer, offset, len: bytes.len() as u64 })?.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, buffer: Buffer, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        into.copy_from_slice(self.bytes(Region { buffer, offset, len: into.len() as u64 })?);
        Ok(())
    }

    fn fetch(&mut self, from: Region) -> Result<Fetch, Error> {
        self.counts.fetches.fetch_add(1, Ordering::Relaxed);
        let mut landed = std::mem::take(&mut self.landed);
        let (fetch, into) = landed.land(from.len as usize);
        let copied = self.bytes(from).map(|bytes| into.copy_from_slice(bytes));
        self.landed = landed;
        copied.map(|()| fetch)
    }

    fn fetched(&mut self, fetch: Fetch, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.landed.take(fetch, take);
        Ok(())
    }

    fn copy(&mut self, _: Region, _: Region) -> Result<(), Error> {
        Ok(())
    }

    fn load(&mut self, _: &Manifest, _: &dyn Fn(&str) -> Result<Vec<u8>, Error>) -> Result<(), Error> {
        Ok(())
    }

    fn launch(&mut self, call: Call<'_>, bind: &Bindings, dims: StepDims) -> Result<(), Error> {
        Chooses::of(&call, bind, dims).map_or(Ok(()), |chooses| self.choose(chooses))
    }

    fn records_ahead(&self) -> bool {
        true
    }

    fn record(&mut self, calls: &[Call<'_>], bind: &Bindings, dims: StepDims) -> Result<Graph, Error> {
        self.recordings.push(calls.iter().find_map(|call| Chooses::of(call, bind, dims)));
        Ok(Graph(self.recordings.len() as u32 - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        self.counts.replays.fetch_add(1, Ordering::Relaxed);
        let recorded = self.recordings.get(graph.0 as usize).copied();
        let recorded = recorded.ok_or_else(|| Error::bug(format!("{graph:?} was not recorded")))?;
        recorded.map_or(Ok(()), |chooses| self.choose(chooses))
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
