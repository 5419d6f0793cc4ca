//! What is wrong with a kernel, where, and what to do about it.

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An access to memory that nobody has allocated, or behind the end of it.
    OutOfBounds,
    /// An address that is not a multiple of the access's size, or of what an instruction asks for.
    Misaligned,
    /// A write to memory that is only to be read.
    ReadOnly,
    /// A read of memory that nobody has written.
    UninitialisedMemory,
    /// A read of a register that this thread has not written.
    UninitialisedRegister,
    /// Two threads use the same bytes of shared memory, one writes, and nothing orders them.
    Race,
    /// The asynchronous proxy reads or overwrites what was written without `fence.proxy.async`.
    MissingProxyFence,
    /// A register of a matrix instruction that is under way is read or written.
    RegisterInFlight,
    /// `wgmma` uses registers that were written after the last `wgmma.fence`.
    MissingWgmmaFence,
    /// An mbarrier that is not initialised, overflows, or is overwritten.
    Mbarrier,
    /// Threads wait, and nobody is left who could end it.
    Deadlock,
    /// The threads of a warp do not execute an instruction together that asks for it.
    Divergence,
    /// More registers, shared memory or threads than there are.
    Budget,
    /// A tensor map, or coordinates and addresses that do not fit one.
    TensorMap,
    /// A descriptor of a matrix or an instruction.
    Descriptor,
    /// Tensor memory that is not allocated, or not this warp's.
    TensorMemory,
    /// An operand that the ISA leaves undefined.
    Undefined,
    /// The kernel executed `trap`.
    Trap,
    /// More instructions than a block is allowed: an endless loop.
    Runaway,
}

/// A fault of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Kind.
    pub kind: FaultKind,
    /// What happened, in words.
    pub what: String,
    /// Entry point of the kernel.
    pub kernel: String,
    /// Line of the PTX, from 1; 0 if it has none.
    pub line: u32,
    /// That line.
    pub text: String,
    /// Block in the grid.
    pub block: [u32; 3],
    /// Thread in the block; of a warp's common fault its first.
    pub thread: [u32; 3],
    /// Where the kernel comes from, if whoever launched it has said so.
    pub location: Option<String>,
}

impl std::error::Error for Fault {}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [bx, by, bz] = self.block;
        let [x, y, z] = self.thread;
        write!(f, "kernel {}, block ({bx}, {by}, {bz}), thread ({x}, {y}, {z})", self.kernel)?;
        if self.line > 0 {
            write!(f, ", line {}: {}", self.line, self.text.trim())?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(location) = &self.location {
            write!(f, " (in {location})")?;
        }
        Ok(())
    }
}

/// A fault where it arises: who and where is added by those who know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Kind.
    pub kind: FaultKind,
    /// What happened.
    pub what: String,
    /// The thread of the warp, if it is one thread's fault.
    pub lane: Option<u32>,
    /// Line of the PTX, if it is another than the one being executed.
    pub line: Option<u32>,
}

/// What an instruction gives, or the fault that it is.
pub type Outcome<T> = Result<T, Box<Trap>>;

/// A fault of a warp.
pub fn trap<T>(kind: FaultKind, what: impl Into<String>) -> Outcome<T> {
    Err(Box::new(Trap { kind, what: what.into(), lane: None, line: None }))
}

/// A fault of one thread.
pub fn trap_at<T>(kind: FaultKind, lane: usize, what: impl Into<String>) -> Outcome<T> {
    Err(Box::new(Trap { kind, what: what.into(), lane: Some(lane as u32), line: None }))
}

/// The same fault, of a thread.
pub fn of_lane<T>(outcome: Outcome<T>, lane: usize) -> Outcome<T> {
    outcome.map_err(|mut trap| {
        trap.lane.get_or_insert(lane as u32);
        trap
    })
}
