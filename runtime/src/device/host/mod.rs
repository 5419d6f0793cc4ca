//! The host device: the kernels of the `host` target on this machine's processor, with SIMD and several threads.
//!
//! Launches are executed at once, in order. Every row of a result is computed in the same order of operations
//! whatever else is in the step and however many threads there are.

#![allow(clippy::needless_range_loop, reason = "register tiles are indexed by constants, which unrolls them")]

mod args;
mod attention;
mod bandwidth;
mod batch;
mod cache;
mod e4m3;
mod elem;
mod isa;
mod launch;
mod linear;
mod memory;
mod pool;
mod rope;
mod rows;
mod scratch;
mod simd;
#[cfg(test)]
mod tests;

pub use bandwidth::read_bandwidth;
pub use isa::Isa;
pub use pool::cores;

use self::args::Loaded;
use self::launch::{Machine, execute};
use self::memory::Memory;
use self::pool::Pool;
use self::rope::Tables;
use self::scratch::Scratch;
use super::instants::Instants;
use super::meminfo;
use super::{Bindings, Buffer, Call, Device, Event, Fetch, Graph, Landed, Region, SharedBytes, StepDims};
use crate::error::Error;
use trtc_engine::manifest::{Arg, Code, HostKernel, Kernel, Manifest};

/// How the host device works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// Threads; `None` takes one for each physical core that the process may use.
    pub threads: Option<usize>,
}

/// A launch that was recorded.
struct Recorded {
    name: String,
    kernel: HostKernel,
    args: Vec<Arg>,
}

/// Launches that were recorded, with what they refer to.
struct Recording {
    calls: Vec<Recorded>,
    bind: Bindings,
    dims: StepDims,
}

/// The device.
pub struct HostDevice {
    memory: Memory,
    machine: Machine,
    loaded: Option<Loaded>,
    recordings: Vec<Recording>,
    landed: Landed,
    events: Instants,
}

impl HostDevice {
    /// Starts the device's threads, for the best instruction set that the processor has.
    ///
    /// # Errors
    /// Threads cannot be started.
    pub fn new(options: HostOptions) -> Result<HostDevice, Error> {
        HostDevice::with_isa(options, Isa::detect())
    }

    /// The same for a certain instruction set: to test it, or to measure what another gains.
    ///
    /// # Errors
    /// The processor does not have the instruction set, or threads cannot be started.
    pub fn with_isa(options: HostOptions, isa: Isa) -> Result<HostDevice, Error> {
        if !isa.available() {
            let best = Isa::detect().name();
            return Err(Error::unsupported(format!("this processor has no {}", isa.name()))
                .help(format!("ask for {best} or less")));
        }
        let threads = options.threads.unwrap_or_else(cores).max(1);
        let machine = Machine {
            pool: Pool::new(threads)?,
            isa,
            scratch: Scratch::new(threads),
            tables: Tables::default(),
        };
        Ok(HostDevice {
            memory: Memory::default(),
            machine,
            loaded: None,
            recordings: Vec::new(),
            landed: Landed::default(),
            events: Instants::default(),
        })
    }

    /// Threads that work.
    pub fn threads(&self) -> usize {
        self.machine.pool.threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.machine.isa
    }
}

/// The host function of a kernel.
fn host(kernel: &Kernel) -> Result<&HostKernel, Error> {
    match &kernel.code {
        Code::Host(k) => Ok(k),
        Code::Ptx(_) => Err(Error::user(format!("kernel {} is GPU code", kernel.name))
            .help("this engine was built for a GPU; build it again with --target host")),
    }
}

fn in_kernel(name: &str) -> impl Fn(Error) -> Error + '_ {
    move |e| Error { message: format!("kernel {name}: {}", e.message), ..e }
}

fn not_loaded() -> Error {
    Error::bug("a kernel was launched before an engine was loaded")
}

impl Device for HostDevice {
    fn name(&self) -> String {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
        let model = model.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
        let threads = self.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("host ({model}, {threads} thread{plural}, {})", self.isa().name())
    }

    fn free_memory(&self) -> u64 {
        meminfo::available()
    }

    fn total_memory(&self) -> u64 {
        meminfo::all()
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Buffer, Error> {
        self.memory.alloc(bytes, what)
    }

    fn share(&mut self, bytes: SharedBytes, _what: &str) -> Result<Buffer, Error> {
        self.memory.share(bytes)
    }

    fn free(&mut self, buffer: Buffer) {
        self.memory.free(buffer);
    }

    fn upload(&mut self, to: Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory.upload(to, offset, bytes)
    }

    fn download(&mut self, from: Buffer, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        self.memory.download(from, offset, into)
    }

    fn fetch(&mut self, from: Region) -> Result<Fetch, Error> {
        let (fetch, into) = self.landed.land(from.len as usize);
        self.memory.download(from.buffer, from.offset, into)?;
        Ok(fetch)
    }

    fn fetched(&mut self, fetch: Fetch, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        self.landed.take(fetch, take);
        Ok(())
    }

    fn copy(&mut self, from: Region, to: Region) -> Result<(), Error> {
        super::same_length(from, to)?;
        self.memory.copy(from, to)
    }

    fn load(
        &mut self,
        manifest: &Manifest,
        _module: &dyn Fn(&str) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        for kernel in &manifest.kernels {
            host(kernel)?;
        }
        cache::check(&manifest.kv)?;
        let (weights, kv) = (manifest.weights.clone(), manifest.kv.clone());
        self.loaded = Some(Loaded { weights, kv, dims: manifest.dims });
        self.recordings.clear();
        Ok(())
    }

    fn launch(&mut self, call: Call<'_>, bind: &Bindings, dims: StepDims) -> Result<(), Error> {
        let kernel = call.kernel.1;
        let loaded = self.loaded.as_ref().ok_or_else(not_loaded)?;
        let code = host(kernel)?;
        execute(&mut self.machine, &mut self.memory, loaded, code, call.args, bind, dims)
            .map_err(in_kernel(&kernel.name))
    }

    fn records_ahead(&self) -> bool {
        false
    }

    fn record(&mut self, calls: &[Call<'_>], bind: &Bindings, dims: StepDims) -> Result<Graph, Error> {
        let record = |call: &Call<'_>| {
            let kernel = host(call.kernel.1)?.clone();
            Ok(Recorded { name: call.kernel.1.name.clone(), kernel, args: call.args.to_vec() })
        };
        let calls = calls.iter().map(record).collect::<Result<_, Error>>()?;
        self.recordings.push(Recording { calls, bind: bind.clone(), dims });
        u32::try_from(self.recordings.len() - 1).map(Graph).map_err(|_| Error::bug("too many recordings"))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        let loaded = self.loaded.as_ref().ok_or_else(not_loaded)?;
        let recording = self.recordings.get(graph.0 as usize);
        let r = recording.ok_or_else(|| Error::bug(format!("recording {} does not exist", graph.0)))?;
        for call in &r.calls {
            execute(&mut self.machine, &mut self.memory, loaded, &call.kernel, &call.args, &r.bind, r.dims)
                .map_err(in_kernel(&call.name))?;
        }
        Ok(())
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
