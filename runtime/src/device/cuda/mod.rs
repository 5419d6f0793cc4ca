//! An NVIDIA GPU: memory, launches of an engine's PTX, decode steps as CUDA graphs.
//!
//! Everything goes through one queue, in order. The driver compiles the PTX when an engine is loaded and keeps the
//! result in its own cache; where the engine has binaries for exactly this GPU, it loads those. Kernels' geometry comes
//! from the manifest, parameters from the bindings, as `trtc_codegen::kernels` lays down (`launch.rs`).

mod driver;
mod elf;
mod launch;
mod queue;
mod staging;

pub use driver::present;

use super::{Bindings, Buffer, Call, Device, Event, Fetch, Graph, Region, SharedBytes, StepDims};
use crate::error::Error;
use driver::{Address, Context, Function, Mark, Memory, Module, Recording, Stream, cannot, words};
use staging::{Landings, Uploads};
use std::collections::BTreeMap;
use trtc_engine::manifest::Manifest;

/// Marks that are remembered.
const EVENTS: usize = 4096;

/// Memory in use.
struct Slot {
    memory: Memory,
    bytes: u64,
    /// What for.
    what: String,
}

/// A compiled kernel.
struct Kernel {
    function: Function,
    /// Keeps the code.
    _module: Module,
}

/// The device. Fields are dropped in this order: the context last.
pub struct CudaDevice {
    recordings: Vec<Recording>,
    marks: Vec<Mark>,
    next_mark: u32,
    kernels: Vec<Kernel>,
    slots: Vec<Option<Slot>>,
    uploads: Uploads,
    landings: Landings,
    stream: Stream,
    context: Context,
    capability: (u32, u32),
}

impl CudaDevice {
    /// Opens GPU `ordinal`. The driver's library is [`present`].
    ///
    /// # Errors
    /// There is no such GPU, or the driver refuses it.
    pub fn open(ordinal: u32) -> Result<CudaDevice, Error> {
        let context = Context::open(ordinal)?;
        let capability = context.capability()?;
        let stream = Stream::new().map_err(cannot("make a queue"))?;
        Ok(CudaDevice {
            recordings: Vec::new(),
            marks: Vec::new(),
            next_mark: 0,
            kernels: Vec::new(),
            slots: Vec::new(),
            uploads: Uploads::default(),
            landings: Landings::default(),
            stream,
            context,
            capability,
        })
    }

    /// Compute capability.
    pub fn capability(&self) -> (u32, u32) {
        self.capability
    }

    fn slot(&self, buffer: Buffer) -> Result<&Slot, Error> {
        let slot = self.slots.get(buffer.0 as usize).and_then(Option::as_ref);
        slot.ok_or_else(|| Error::bug(format!("buffer {} does not exist", buffer.0)))
    }

    /// The address of a run of bytes that lies within its buffer.
    fn address(&self, region: Region) -> Result<Address, Error> {
        let slot = self.slot(region.buffer)?;
        match region.offset.checked_add(region.len) {
            Some(end) if end <= slot.bytes => Ok(slot.memory.address() + region.offset),
            _ => Err(Error::bug(format!(
                "bytes {}..+{} of {}, which has {}",
                region.offset, region.len, slot.what, slot.bytes
            ))),
        }
    }

    /// Takes memory that nothing has written yet.
    fn take(&mut self, bytes: u64, what: &str) -> Result<Buffer, Error> {
        self.context.make_current()?;
        let taken = usize::try_from(bytes).ok().map(Memory::take);
        let memory = match taken {
            Some(Ok(memory)) => memory,
            Some(Err(e)) => return Err(self.out_of_memory(bytes, what, &words(e))),
            None => return Err(self.out_of_memory(bytes, what, "more than this machine addresses")),
        };
        let slot = Slot { memory, bytes, what: what.to_owned() };
        let index = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[index] = Some(slot);
        u32::try_from(index).map(Buffer).map_err(|_| Error::bug("more buffers than a handle can number"))
    }

    /// What takes how much.
    fn out_of_memory(&self, bytes: u64, what: &str, why: &str) -> Error {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        // A layer's cache is a buffer of its own: what counts is what all of them take.
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for slot in self.slots.iter().flatten() {
            *sums.entry(&slot.what).or_default() += slot.bytes;
        }
        let mut largest: Vec<(&str, u64)> = sums.into_iter().collect();
        largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let held: Vec<String> =
            largest.iter().take(4).map(|(what, bytes)| format!("{what} {}", mib(*bytes))).collect();
        let held = if held.is_empty() { "nothing".to_owned() } else { held.join(", ") };
        let (free, all) = self.context.memory().unwrap_or((0, 0));
        Error::unsupported(format!(
            "cannot take {} on the GPU for {what}: {why}; {} of {} are free, trtc holds {held}",
            mib(bytes),
            mib(free),
            mib(all)
        ))
        .help(
            "give the cache less with --gpu-memory-fraction or --kv-memory, or build with a smaller --max-batch or \
             --max-step-tokens",
        )
    }

    fn mark(&self, event: Event) -> Result<&Mark, Error> {
        let age = self.next_mark.wrapping_sub(event.0);
        let known = age >= 1 && age as usize <= self.marks.len();
        let mark = self.marks.get(event.0 as usize % EVENTS).filter(|_| known);
        mark.ok_or_else(|| Error::bug(format!("event {} is not among the last {EVENTS}", event.0)))
    }
}

/// What a recording can fail with.
enum Failed {
    Driver(driver::Failure),
    Launch(Error),
}

impl From<driver::Failure> for Failed {
    fn from(e: driver::Failure) -> Failed {
        Failed::Driver(e)
    }
}

impl Device for CudaDevice {
    fn name(&self) -> String {
        let (major, minor) = self.capability;
        format!(
            "cuda:{} ({}, compute capability {major}.{minor})",
            self.context.ordinal(),
            self.context.name()
        )
    }

    fn free_memory(&self) -> u64 {
        self.context.memory().map_or(0, |(free, _)| free)
    }

    fn total_memory(&self) -> u64 {
        self.context.memory().map_or(0, |(_, all)| all)
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Buffer, Error> {
        let buffer = self.take(bytes, what)?;
        let at = self.slot(buffer)?.memory.address();
        if bytes == 0 {
            return Ok(buffer);
        }
        // SAFETY: the memory just taken; it is given back only after the queue has finished.
        unsafe { self.stream.zero(at, bytes as usize) }.map_err(cannot(format_args!("clear {what}")))?;
        Ok(buffer)
    }

    fn share(&mut self, bytes: SharedBytes, what: &str) -> Result<Buffer, Error> {
        let bytes = (*bytes).as_ref();
        let buffer = self.take(bytes.len() as u64, what)?;
        self.upload(buffer, 0, bytes)?;
        Ok(buffer)
    }

    fn free(&mut self, buffer: Buffer) {
        // Work that uses it may be under way. What cannot be waited for has failed, and has been reported or will be.
        let _ = self.context.make_current();
        let _ = self.stream.finish();
        if let Some(slot) = self.slots.get_mut(buffer.0 as usize) {
            *slot = None;
        }
    }

    fn upload(&mut self, to: Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.context.make_current()?;
        let at = self.address(Region { buffer: to, offset, len: bytes.len() as u64 })?;
        let done = if bytes.len() <= staging::STAGED {
            // SAFETY: within the buffer, which is given back only after the queue has finished.
            unsafe { self.uploads.write(&self.stream, at, bytes) }
        } else {
            // SAFETY: as above.
            unsafe { self.stream.write(at, bytes) }
        };
        done.map_err(cannot("copy to the GPU"))
    }

    fn fetch(&mut self, from: Region) -> Result<Fetch, Error> {
        self.context.make_current()?;
        let at = self.address(from)?;
        // SAFETY: within the buffer, which is given back only after the queue has finished.
        let slot = unsafe { self.landings.start(&self.stream, at, from.len as usize) };
        Ok(Fetch(slot.map_err(cannot("copy from the GPU"))? as u32))
    }

    fn fetched(&mut self, fetch: Fetch, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.context.make_current()?;
        match self.landings.finish(fetch.0 as usize, take).map_err(cannot("compute a step on the GPU"))? {
            true => Ok(()),
            false => Err(Error::bug(format!("no copy {} is under way", fetch.0))),
        }
    }

    fn download(&mut self, from: Buffer, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        self.context.make_current()?;
        let at = self.address(Region { buffer: from, offset, len: into.len() as u64 })?;
        // SAFETY: within the buffer.
        unsafe { self.stream.read(at, into) }.map_err(cannot("copy from the GPU"))
    }

    fn copy(&mut self, from: Region, to: Region) -> Result<(), Error> {
        super::same_length(from, to)?;
        self.context.make_current()?;
        let (source, target) = (self.address(from)?, self.address(to)?);
        // SAFETY: both within buffers, which are given back only after the queue has finished.
        let copied = unsafe { self.stream.copy(source, target, to.len as usize) };
        copied.map_err(cannot("copy within the GPU"))
    }

    fn load(
        &mut self,
        manifest: &Manifest,
        module: &dyn Fn(&str) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        self.context.make_current()?;
        self.recordings.clear();
        let exact = manifest.capability == Some(self.capability);
        let compile = |kernel: &trtc_engine::manifest::Kernel| {
            let code = super::launch::ptx(kernel)?;
            // A binary that the driver does not take, as one of a newer assembler, is made up for by the PTX.
            let loaded = match &code.cubin {
                Some(cubin) if exact => Module::binary(&module(cubin)?).ok(),
                _ => None,
            };
            let compiled = match loaded {
                Some(loaded) => loaded,
                None => Module::compile(&module(&code.module)?).map_err(|why| {
                    Error::unsupported(format!("the driver does not compile kernel {}: {why}", kernel.name))
                        .help("a newer driver may; or build the engine for this GPU's own target")
                })?,
            };
            let function = compiled.function(&code.entry, code.shared);
            let function =
                function.map_err(cannot(format_args!("find kernel {} in its code", kernel.name)))?;
            Ok::<_, Error>(Kernel { function, _module: compiled })
        };
        self.kernels = manifest.kernels.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn launch(&mut self, call: Call<'_>, bind: &Bindings, dims: StepDims) -> Result<(), Error> {
        self.context.make_current()?;
        self.start(&call, bind, dims)
    }

    fn records_ahead(&self) -> bool {
        true
    }

    fn record(&mut self, calls: &[Call<'_>], bind: &Bindings, dims: StepDims) -> Result<Graph, Error> {
        self.context.make_current()?;
        let recorded = self.stream.record(|| {
            calls.iter().try_for_each(|call| self.start(call, bind, dims).map_err(Failed::Launch))
        });
        let recording = recorded.map_err(|e| match e {
            Failed::Driver(e) => cannot("record a step")(e),
            Failed::Launch(e) => e,
        })?;
        self.recordings.push(recording);
        u32::try_from(self.recordings.len() - 1).map(Graph).map_err(|_| Error::bug("too many recordings"))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        self.context.make_current()?;
        let recording = self.recordings.get(graph.0 as usize);
        let recording =
            recording.ok_or_else(|| Error::bug(format!("recording {} does not exist", graph.0)))?;
        // SAFETY: as in `start`: what was recorded refers to memory that is held as long as the device.
        unsafe { self.stream.replay(recording) }.map_err(cannot("start a recorded step"))
    }

    fn event(&mut self) -> Result<Event, Error> {
        self.context.make_current()?;
        let (event, mark) = (self.next_mark, self.stream.mark().map_err(cannot("mark a point"))?);
        match self.marks.get_mut(event as usize % EVENTS) {
            Some(slot) => *slot = mark,
            None => self.marks.push(mark),
        }
        self.next_mark = event.wrapping_add(1);
        Ok(Event(event))
    }

    fn wait(&mut self, event: Event) -> Result<(), Error> {
        self.context.make_current()?;
        self.mark(event)?.wait().map_err(cannot("wait for the GPU"))
    }

    fn elapsed(&mut self, from: Event, to: Event) -> Result<f64, Error> {
        self.wait(from)?;
        self.wait(to)?;
        let milliseconds = self.mark(from)?.until(self.mark(to)?).map_err(cannot("time the GPU"))?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // Handles are given back in a context that is current, and not under running work.
        let _ = self.context.make_current();
        let _ = self.stream.finish();
    }
}
