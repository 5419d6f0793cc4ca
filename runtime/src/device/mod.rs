//! What the runtime asks of a device, and the list of devices.
//!
//! A device owns memory and executes launches in order. It knows nothing of requests: which token belongs to whom
//! is data in the step's buffers.

mod cuda;
pub mod emulator;
pub mod host;
mod instants;
mod landed;
pub(crate) mod launch;
mod meminfo;

pub use cuda::{CudaDevice, present as cuda_present};
pub use emulator::EmulatorDevice;
pub use landed::Landed;
pub use launch::{Param, parts};

use crate::error::Error;
use std::sync::Arc;
use trtc_engine::manifest::{Arg, Dims, Kernel, Manifest};

/// Device memory, by handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer(pub u32);

/// A run of bytes in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The buffer.
    pub buffer: Buffer,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Where a weight lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightRegions {
    /// Elements.
    pub payload: Region,
    /// Scales of a quantised weight.
    pub scale: Option<Region>,
    /// Zero points.
    pub zero: Option<Region>,
}

/// Everything that [`Arg`]s refer to, bound once when an engine is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Bindings {
    /// Activations.
    pub arena: Buffer,
    /// In the manifest's order.
    pub weights: Vec<WeightRegions>,
    /// One buffer a layer, pages one after the other; how keys and values lie in a page is up to the kernels.
    pub kv: Vec<Buffer>,
    /// Token ids of the step, `(T)` i32.
    pub tokens: Buffer,
    /// Position of each token in its request, `(T)` i32.
    pub positions: Buffer,
    /// Rows for which logits are wanted, `(L)` i32.
    pub rows: Buffer,
    /// How each row of logits is sampled, `(L, DRAW)` f32.
    pub draws: Buffer,
    /// Tokens that may be chosen, a bit each, as far as draws name them: `(max_batch, ceil(vocab / 32))` i32.
    pub masks: Buffer,
    /// First token of each request, `(S + 1)` i32; the last entry is T.
    pub query_start: Buffer,
    /// Tokens in the cache after this step for each request, `(S)` i32.
    pub context: Buffer,
    /// Pages of each request, `(S, table_width)` i32.
    pub block_table: Buffer,
    /// Entries of a block table's row.
    pub table_width: u32,
    /// Pages of each layer's cache.
    pub pages: u32,
    /// What the buffers are large enough for.
    pub limits: Dims,
    /// Memory in which the blocks of one launch exchange what they have.
    pub scratch: Buffer,
    /// Their counters, i32, 0 between launches.
    pub counters: Buffer,
}

/// Sizes of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepDims {
    /// T, tokens.
    pub tokens: u32,
    /// L, rows of logits.
    pub rows: u32,
    /// S, requests.
    pub seqs: u32,
    /// Requests before them that another launch computes: rows of the batch's tables that are passed over.
    pub first: u32,
    /// No context of the step is longer; 0 if nobody knows.
    pub context: u32,
}

impl StepDims {
    /// A step of nothing.
    pub const NONE: StepDims = StepDims { tokens: 0, rows: 0, seqs: 0, first: 0, context: 0 };
}

/// One kernel with its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Index into the manifest's kernels, and the kernel.
    pub kernel: (u32, &'a Kernel),
    /// Arguments.
    pub args: &'a [Arg],
    /// Where in the model it comes from.
    pub loc: &'a str,
}

/// A recorded sequence of launches, by handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph(pub u32);

/// A copy to the host under way, by handle.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetch(pub u32);

/// A point in the device's work, by handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub u32);

/// Bytes that a device may use in place for as long as it lives: a mapped engine file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A device. Work is executed in the order of the calls; `download`, `wait` and `elapsed` wait for it.
pub trait Device: Send {
    /// Name for people: `host (AMD EPYC, 2 threads, AVX-512 BF16)`.
    fn name(&self) -> String;

    /// Free memory for caches, bytes.
    fn free_memory(&self) -> u64;

    /// All memory that the device has, in use or not, bytes.
    fn total_memory(&self) -> u64;

    /// Takes zeroed memory; `what` names its purpose in the error.
    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Buffer, Error>;

    /// Makes read-only bytes available, in place where the device can.
    fn share(&mut self, bytes: SharedBytes, what: &str) -> Result<Buffer, Error>;

    /// Gives memory back.
    fn free(&mut self, buffer: Buffer);

    /// Copies to the device.
    fn upload(&mut self, to: Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Copies from the device, after all work before.
    fn download(&mut self, from: Buffer, offset: u64, into: &mut [u8]) -> Result<(), Error>;

    /// Starts a copy of a region from the device, after all work before and before all work after it.
    fn fetch(&mut self, from: Region) -> Result<Fetch, Error>;

    /// Waits for a copy and gives its bytes to `take`.
    fn fetched(&mut self, fetch: Fetch, take: &mut dyn FnMut(&[u8])) -> Result<(), Error>;

    /// Copies within the device. Both regions have the same length and do not overlap.
    fn copy(&mut self, from: Region, to: Region) -> Result<(), Error>;

    /// Says that what lies there is not to be read before it is written again. A device that watches reads holds it
    /// against who does; to others it is nothing.
    ///
    /// # Errors
    /// The region does not lie in its buffer.
    fn forget(&mut self, _region: Region) -> Result<(), Error> {
        Ok(())
    }

    /// Prepares the kernels of an engine; `module` gives a container tensor's bytes.
    fn load(
        &mut self,
        manifest: &Manifest,
        module: &dyn Fn(&str) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error>;

    /// Executes one kernel.
    fn launch(&mut self, call: Call<'_>, bind: &Bindings, dims: StepDims) -> Result<(), Error>;

    /// True if recordings are better made when an engine is loaded, for certain numbers of requests that steps are
    /// padded to: making one takes long, a larger step does not.
    fn records_ahead(&self) -> bool;

    /// Records launches for these sizes; token values, positions, tables and contexts are read at replay.
    fn record(&mut self, calls: &[Call<'_>], bind: &Bindings, dims: StepDims) -> Result<Graph, Error>;

    /// Executes what was recorded.
    fn replay(&mut self, graph: Graph) -> Result<(), Error>;

    /// Marks the point reached.
    fn event(&mut self) -> Result<Event, Error>;

    /// Waits until the device has passed the point.
    fn wait(&mut self, event: Event) -> Result<(), Error>;

    /// Seconds between two points.
    fn elapsed(&mut self, from: Event, to: Event) -> Result<f64, Error>;
}

/// Refuses to copy a region to one of another length.
fn same_length(from: Region, to: Region) -> Result<(), Error> {
    if from.len == to.len {
        return Ok(());
    }
    Err(Error::bug(format!("a copy of {} bytes into a region of {}", from.len, to.len)))
}
