//! The emulator as a device: memory, launches of an engine's PTX, executed by this machine's processor as the PTX ISA
//! defines it. It takes an engine for any GPU and ends with the first fault of a kernel.
//!
//! Launches are executed at once, in order. What an instruction does is not here but in `trtc_emulator`.

mod dump;
mod tensor_map;

pub use dump::{Dump, DumpedLaunch};

use super::instants::Instants;
use super::launch::{Param, facts, grid, params, ptx};
use super::{Bindings, Buffer, Call, Device, Event, Fetch, Graph, Landed, Region, SharedBytes, StepDims};
use super::{meminfo, same_length};
use crate::error::Error;
use trtc_emulator::{Global, Limits, Sizes};
use trtc_engine::manifest::{Manifest, PtxKernel};

/// Memory in use.
struct Slot {
    address: u64,
    bytes: u64,
    /// What for.
    what: String,
}

/// A kernel, decoded.
struct Loaded {
    name: String,
    code: PtxKernel,
    /// The text, to be written with a launch.
    text: String,
    kernel: trtc_emulator::Kernel,
}

/// A launch whose addresses and sizes are fixed.
struct Prepared {
    /// Among the kernels.
    kernel: u32,
    grid: [u32; 3],
    params: Vec<Param>,
    dims: StepDims,
    /// Where in the model it comes from.
    loc: String,
}

/// The device.
pub struct EmulatorDevice {
    target: String,
    threads: usize,
    memory: Global,
    slots: Vec<Option<Slot>>,
    kernels: Vec<Loaded>,
    recordings: Vec<Vec<Prepared>>,
    landed: Landed,
    events: Instants,
    dump: Option<Dump>,
}

impl EmulatorDevice {
    /// A device for an engine, of as many threads as the machine has if none are given.
    ///
    /// # Errors
    /// The engine is not for a GPU.
    pub fn new(manifest: &Manifest, threads: Option<usize>) -> Result<EmulatorDevice, Error> {
        if manifest.capability.is_none() {
            let what =
                format!("the engine was built for {}, the emulator is for GPUs' code", manifest.target);
            return Err(Error::unsupported(what).help("run it with --device host"));
        }
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(EmulatorDevice {
            target: manifest.target.clone(),
            threads: threads.unwrap_or_else(all).max(1),
            memory: Global::default(),
            slots: Vec::new(),
            kernels: Vec::new(),
            recordings: Vec::new(),
            landed: Landed::default(),
            events: Instants::default(),
            dump: None,
        })
    }

    /// Writes launches to files from now on.
    pub fn dump_to(&mut self, dump: Dump) {
        self.dump = Some(dump);
    }

    fn slot(&self, buffer: Buffer) -> Result<&Slot, Error> {
        let slot = self.slots.get(buffer.0 as usize).and_then(Option::as_ref);
        slot.ok_or_else(|| Error::bug(format!("buffer {} does not exist", buffer.0)))
    }

    /// The address of a run of bytes that lies within its buffer.
    fn address(&self, region: Region) -> Result<u64, Error> {
        let slot = self.slot(region.buffer)?;
        match region.offset.checked_add(region.len) {
            Some(end) if end <= slot.bytes => Ok(slot.address + region.offset),
            _ => Err(Error::bug(format!(
                "bytes {}..+{} of {}, which has {}",
                region.offset, region.len, slot.what, slot.bytes
            ))),
        }
    }

    /// Refuses to take more than there is.
    fn has_room(bytes: u64, what: &str) -> Result<(), Error> {
        let free = meminfo::room();
        if bytes <= free {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "cannot take {bytes} bytes for {what}: this machine has {free} bytes free"
        ))
        .help(
            "give the cache less with --kv-memory, or build with a smaller --max-batch or --max-step-tokens",
        ))
    }

    fn hold(&mut self, address: u64, bytes: u64, what: &str) -> Result<Buffer, Error> {
        let index = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[index] = Some(Slot { address, bytes, what: what.to_owned() });
        u32::try_from(index).map(Buffer).map_err(|_| Error::bug("more buffers than a handle can number"))
    }

    /// Fixes a launch; `None` if it has no blocks.
    fn prepare(&self, call: &Call<'_>, bind: &Bindings, dims: StepDims) -> Result<Option<Prepared>, Error> {
        let (kernel, of) = call.kernel;
        let code = ptx(of)?;
        if self.kernels.get(kernel as usize).is_none() {
            return Err(Error::bug(format!("kernel {} was not loaded", of.name)));
        }
        let Some(grid) = grid(code, dims) else {
            return Ok(None);
        };
        let params = params(call.args, code, bind, dims, &|region| self.address(region))?;
        Ok(Some(Prepared { kernel, grid, params, dims, loc: call.loc.to_owned() }))
    }

    fn execute(&mut self, launch: &Prepared) -> Result<(), Error> {
        let Some(loaded) = self.kernels.get(launch.kernel as usize) else {
            return Err(Error::bug(format!("kernel {} was not loaded", launch.kernel)));
        };
        let code = &loaded.code;
        let sizes = Sizes { grid: launch.grid, block: code.block, shared: code.shared };
        let taken = self.dump.is_some().then(|| DumpedLaunch {
            kernel: loaded.name.clone(),
            entry: code.entry.clone(),
            loc: launch.loc.clone(),
            grid: sizes.grid,
            block: sizes.block,
            shared: sizes.shared,
            params: launch.params.clone(),
            text: loaded.text.clone(),
            memory: dump::memory(&self.memory, &launch.params),
        });
        let written = match (&mut self.dump, &taken) {
            (Some(dump), Some(taken)) => dump.before(taken)?,
            _ => None,
        };
        let words = tensor_map::bytes(&launch.params)?;
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let done = trtc_emulator::launch(
            &loaded.kernel,
            sizes,
            &words,
            &self.memory,
            self.threads,
            Limits::default(),
        );
        let Err(mut fault) = done else {
            return Ok(());
        };
        fault.kernel.clone_from(&loaded.name);
        fault.location = Some(launch.loc.clone());
        let error = Error::bug(format!("{fault}; {}", facts(code, launch.grid, launch.dims)));
        let path = match (&mut self.dump, &taken, written) {
            (Some(dump), Some(taken), None) => Some(dump.write(taken)?),
            (.., written) => written,
        };
        Err(match path {
            Some(path) => error.help(format!("trtc emulate {} executes this launch alone", path.display())),
            None => error.help(
                "trtc check ENGINE --device emulator --dump DIR writes a launch that faults to a file, which \
                 trtc emulate executes",
            ),
        })
    }
}

impl Device for EmulatorDevice {
    fn name(&self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        format!("emulator ({}, {} thread{plural})", self.target, self.threads)
    }

    fn free_memory(&self) -> u64 {
        meminfo::available()
    }

    fn total_memory(&self) -> u64 {
        meminfo::all()
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Buffer, Error> {
        EmulatorDevice::has_room(bytes, what)?;
        let address = self.memory.alloc(bytes, what);
        self.hold(address, bytes, what)
    }

    fn share(&mut self, bytes: SharedBytes, what: &str) -> Result<Buffer, Error> {
        let bytes = (*bytes).as_ref();
        EmulatorDevice::has_room(bytes.len() as u64, what)?;
        let address = self.memory.alloc_read_only(bytes, what);
        self.hold(address, bytes.len() as u64, what)
    }

    fn free(&mut self, buffer: Buffer) {
        if let Some(slot) = self.slots.get_mut(buffer.0 as usize).and_then(Option::take) {
            self.memory.free(slot.address);
        }
    }

    fn upload(&mut self, to: Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let at = self.address(Region { buffer: to, offset, len: bytes.len() as u64 })?;
        whole(self.memory.write(at, bytes))
    }

    fn download(&mut self, from: Buffer, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let at = self.address(Region { buffer: from, offset, len: into.len() as u64 })?;
        whole(self.memory.read(at, into))
    }

    fn fetch(&mut self, from: Region) -> Result<Fetch, Error> {
        let at = self.address(from)?;
        let (fetch, into) = self.landed.land(from.len as usize);
        whole(self.memory.read(at, into))?;
        Ok(fetch)
    }

    fn fetched(&mut self, fetch: Fetch, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.landed.take(fetch, take);
        Ok(())
    }

    fn copy(&mut self, from: Region, to: Region) -> Result<(), Error> {
        same_length(from, to)?;
        let (source, target) = (self.address(from)?, self.address(to)?);
        let mut bytes = vec![0; from.len as usize];
        whole(self.memory.read(source, &mut bytes))?;
        whole(self.memory.write(target, &bytes))
    }

    fn forget(&mut self, region: Region) -> Result<(), Error> {
        let at = self.address(region)?;
        whole(self.memory.forget(at, region.len))
    }

    fn load(
        &mut self,
        manifest: &Manifest,
        module: &dyn Fn(&str) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        self.recordings.clear();
        self.kernels.clear();
        for kernel in &manifest.kernels {
            let code = ptx(kernel)?;
            let text = String::from_utf8(module(&code.module)?)
                .map_err(|_| Error::user(format!("the PTX of kernel {} is not text", kernel.name)))?;
            let decoded = dump::entry(&kernel.name, &code.entry, &text)?;
            let (name, code) = (kernel.name.clone(), code.clone());
            self.kernels.push(Loaded { name, code, text, kernel: decoded });
        }
        Ok(())
    }

    fn launch(&mut self, call: Call<'_>, bind: &Bindings, dims: StepDims) -> Result<(), Error> {
        match self.prepare(&call, bind, dims)? {
            Some(launch) => self.execute(&launch),
            None => Ok(()),
        }
    }

    fn records_ahead(&self) -> bool {
        false
    }

    fn record(&mut self, calls: &[Call<'_>], bind: &Bindings, dims: StepDims) -> Result<Graph, Error> {
        let launches = calls.iter().filter_map(|call| self.prepare(call, bind, dims).transpose());
        let launches = launches.collect::<Result<_, _>>()?;
        self.recordings.push(launches);
        u32::try_from(self.recordings.len() - 1).map(Graph).map_err(|_| Error::bug("too many recordings"))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        let slot = self.recordings.get_mut(graph.0 as usize);
        let slot = slot.ok_or_else(|| Error::bug(format!("recording {} does not exist", graph.0)))?;
        // Out of the device while its launches use the device.
        let launches = std::mem::take(slot);
        let done = launches.iter().try_for_each(|launch| self.execute(launch));
        self.recordings[graph.0 as usize] = launches;
        done
    }

    fn event(&mut self) -> Result<Event, Error> {
        Ok(self.events.mark())
    }

    fn wait(&mut self, event: Event) -> Result<(), Error> {
        // Work is done when a call returns.
        self.events.at(event).map(|_| ())
    }

    fn elapsed(&mut self, from: Event, to: Event) -> Result<f64, Error> {
        self.events.elapsed(from, to)
    }
}

/// A buffer's bytes lie in one allocation.
fn whole(found: bool) -> Result<(), Error> {
    if found { Ok(()) } else { Err(Error::bug("a buffer has no memory")) }
}
