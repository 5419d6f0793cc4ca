//! What a warp has issued and not waited for: copies of `cp.async`, bulk groups, matrix instructions.

use crate::memory::clocks::Stamp;
use crate::warp::{LANES, Slot};
use rustc_hash::FxHashMap;

/// Warps of a warpgroup.
pub const WARPGROUP: usize = 4;

/// One `cp.async` of a warp: a copy of each thread.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Threads that copy.
    pub mask: u32,
    /// Where to in shared memory.
    pub to: [u64; LANES],
    /// Where from in global memory.
    pub from: [u64; LANES],
    /// Bytes that are read; the rest up to `size` is zero.
    pub read: [u32; LANES],
    /// Bytes that are written.
    pub size: u32,
    /// What it leaves behind.
    pub stamp: Stamp,
    /// Line of the PTX.
    pub line: u32,
}

/// Copies that were committed together.
#[derive(Clone, Debug)]
pub struct CopyGroup {
    /// Threads that committed.
    pub mask: u32,
    /// Copies, in order.
    pub copies: Vec<Copy>,
}

/// All of a warp.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// Copies that are in no group yet.
    pub open: Vec<Copy>,
    /// Groups, oldest first.
    pub groups: Vec<CopyGroup>,
    /// Matrix instructions.
    pub matrix: Matrix,
    /// Bulk copies that the warp's threads wait for themselves.
    pub bulk: Bulk,
    /// Threads that have arrived at the cluster's barrier and not waited.
    pub cluster: u32,
    /// The barrier's completions when those threads came.
    pub cluster_completed: u64,
    /// What has to do with tensor memory.
    pub tensor: crate::tensor_memory::Issuer,
    /// True after `fence.mbarrier_init`.
    pub init_fenced: bool,
}

/// A register that a matrix instruction uses: its index among those of matrix instructions, and the instruction's line.
pub type InUse = (u32, u32);

/// `wgmma` under way.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// Registers of instructions that are in no group yet.
    pub open: Vec<InUse>,
    /// The last stamp of those.
    pub open_stamp: Option<Stamp>,
    /// Groups, oldest first: registers, and the last stamp.
    pub groups: Vec<(Vec<InUse>, Option<Stamp>)>,
    /// Sums that are not in their registers yet.
    pub kept: Vec<Kept>,
    /// Instructions so far.
    pub issued: u64,
    /// By index: the shape and type of the instruction whose accumulator a register is; 0 if it is none.
    pub shapes: Vec<u32>,
    /// Registers of tensor-memory loads that were not waited for.
    pub loads: Vec<u32>,
}

/// Sums of accumulators in use by instructions under way. Nobody may read the registers until the wait, so the sums stay
/// in the order of a matrix until then.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The accumulators: places, and indices among registers of matrix instructions.
    pub registers: Vec<(Slot, u32)>,
    /// `(16, n)`.
    pub sums: Vec<f32>,
    /// True if a register holds two sums in f16.
    pub halves: bool,
}

/// What the four warps of a warpgroup have in common: each `wgmma` is one instruction of all of them, and complete when
/// all have issued it.
#[derive(Clone, Debug, Default)]
pub struct Warpgroups {
    /// Groups that each warp of a block has committed.
    pub committed: Vec<u64>,
    /// Of the instructions that some warps have issued and others not, by warpgroup and number: the stamp, the line, and
    /// how many warps have issued it.
    pub issued: FxHashMap<(usize, u64), (Stamp, u32, usize)>,
}

impl Warpgroups {
    /// Starts a block of so many warps.
    pub fn start(&mut self, warps: usize) {
        self.committed.clear();
        self.committed.resize(warps, 0);
        self.issued.clear();
    }

    /// True if all warps of a warp's group have committed so many groups.
    pub fn have(&self, warp: usize, groups: u64) -> bool {
        let first = warp / WARPGROUP * WARPGROUP;
        self.committed.iter().skip(first).take(WARPGROUP).all(|&n| n >= groups)
    }
}

/// Groups of bulk copies of a warp, of each thread.
#[derive(Clone, Debug, Default)]
pub struct Bulk {
    /// Groups that each thread has committed.
    pub committed: [u32; LANES],
    /// Copies that were not waited for: thread, group and what they leave behind.
    pub stamps: Vec<(usize, u32, Stamp)>,
}

impl Pending {
    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Pending::default();
    }
}
