//! What the warps of a cluster share: memory, barriers, clocks, copies under way, and the launch that they belong to.

use crate::async_copy::Queue;
use crate::barrier::Barrier;
use crate::decode::Kernel;
use crate::fault::{FaultKind, Outcome, trap_at};
use crate::mbarrier::Mbarrier;
use crate::memory::address;
use crate::memory::clocks::Knowledge;
use crate::memory::shared::Who;
use crate::memory::{Clocks, Global, Shared};
use crate::pending::Warpgroups;
use crate::tensor_memory::TensorMemory;
use crate::warp::{LANES, Warp};
use rustc_hash::FxHashMap;

/// Sizes and parameters of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Bytes of shared memory beyond those that the kernel declares.
    pub dynamic_shared: u32,
    /// Bytes of the parameters, as the kernel lays them out.
    pub params: Vec<u8>,
}

impl Launch {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Warps of a block.
    pub fn warps(&self) -> usize {
        self.threads().div_ceil(LANES as u32) as usize
    }

    /// Blocks of a cluster.
    pub fn blocks_of_cluster(&self) -> usize {
        self.cluster.iter().product::<u32>() as usize
    }

    /// Clusters of the grid.
    pub fn clusters(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product::<u64>() / self.blocks_of_cluster() as u64
    }

    /// The thread with a number in a block.
    pub fn thread(&self, number: u32) -> [u32; 3] {
        let [x, y, _] = self.block.map(|n| n.max(1));
        [number % x, number / x % y, number / x / y]
    }
}

/// A block.
#[derive(Default)]
pub struct Block {
    /// In the grid.
    pub id: [u32; 3],
    /// Shared memory.
    pub shared: Shared,
    /// Barriers by number.
    pub barriers: [Barrier; 16],
    /// By address in shared memory.
    pub mbarriers: FxHashMap<u64, Mbarrier>,
    /// Tensor memory.
    pub tensor: TensorMemory,
    /// What strong stores to shared memory have published, by address.
    pub flags: FxHashMap<u64, Knowledge>,
    /// Registers that warps have given up.
    pub free_registers: u32,
    /// Matrix instructions of its warpgroups.
    pub warpgroups: Warpgroups,
    /// The last operands of matrix instructions.
    pub(crate) gathered: crate::inst::Gathering,
    /// Threads that have not ended.
    pub alive: u32,
}

impl Block {
    /// Refuses an ordinary access to an mbarrier in use.
    #[inline]
    pub fn no_mbarrier(&self, address: u64, len: u64, lane: usize, doing: &str) -> Outcome<()> {
        if self.mbarriers.is_empty() || self.mbarriers.keys().all(|m| address >= m + 8 || *m >= address + len)
        {
            return Ok(());
        }
        let what = format!("{doing} at {address:#x} of shared memory, where an mbarrier is in use");
        trap_at(FaultKind::Mbarrier, lane, what)
    }
}

/// A cluster at work.
pub struct World<'a> {
    /// Code.
    pub kernel: &'a Kernel,
    /// The launch.
    pub launch: &'a Launch,
    /// Memory of the device.
    pub global: &'a Global,
    /// Its blocks by rank.
    pub blocks: &'a mut Vec<Block>,
    /// Who is ordered after whom.
    pub clocks: &'a mut Clocks,
    /// Bulk copies under way.
    pub queue: &'a mut Queue,
    /// The cluster's barrier.
    pub barrier: Barrier,
}

/// An instruction being executed.
pub struct Step<'a, 'w> {
    /// By whom.
    pub warp: &'a mut Warp,
    /// Threads that execute it: the guard has been looked at.
    pub mask: u32,
    /// Everything else.
    pub world: &'a mut World<'w>,
    /// Line of the PTX.
    pub line: u32,
}

impl Step<'_, '_> {
    /// The warp's block.
    pub fn block(&mut self) -> &mut Block {
        &mut self.world.blocks[self.warp.block]
    }

    /// The block that an address of shared memory is of, and the address there.
    #[inline]
    pub fn shared_of(&self, address: u64, lane: usize) -> Outcome<(usize, u64)> {
        // The common case is the own block.
        if address < 1 << address::SHARED_BITS {
            return Ok((self.warp.block, address));
        }
        match address::shared(address) {
            (Some(rank), offset) if rank < self.world.blocks.len() => Ok((rank, offset)),
            _ => {
                let n = self.world.blocks.len();
                let what = format!("{address:#x} is no address of shared memory of a cluster of {n} blocks");
                trap_at(FaultKind::OutOfBounds, lane, what)
            }
        }
    }

    /// An access of a thread to its own name.
    #[inline]
    pub fn who(&self, lane: usize) -> Who {
        let warp = self.warp.actor;
        Who { warp, lane, stamp: self.world.clocks.own(warp, lane) }
    }

    /// Reads `N` bytes of shared memory for a thread; `strong` if others may write them at the same time.
    #[inline]
    pub fn read_shared<const N: usize>(
        &mut self,
        lane: usize,
        address: u64,
        strong: bool,
    ) -> Outcome<[u8; N]> {
        let (block, address) = self.shared_of(address, lane)?;
        let mut who = self.who(lane);
        who.stamp.atomic = strong;
        let own = &mut self.world.blocks[block];
        let at = own.shared.place(address, N as u64, N as u64, lane, "a read")?;
        own.no_mbarrier(address, N as u64, lane, "a read")?;
        own.shared.note_read(self.world.clocks, at, N, who)?;
        Ok(own.shared.get(at))
    }

    /// Writes bytes to shared memory for a thread; `strong` if others may access them at the same time.
    #[inline]
    pub fn write_shared(&mut self, lane: usize, address: u64, bytes: &[u8], strong: bool) -> Outcome<()> {
        let (block, address) = self.shared_of(address, lane)?;
        let mut who = self.who(lane);
        who.stamp.atomic = strong;
        let own = &mut self.world.blocks[block];
        let len = bytes.len() as u64;
        let at = own.shared.place(address, len, len, lane, "a write")?;
        own.no_mbarrier(address, len, lane, "a write")?;
        if own.shared.repeats(at, bytes, who) {
            return Ok(());
        }
        own.shared.note_write(self.world.clocks, at, bytes.len(), who)?;
        own.shared.put(at, bytes);
        Ok(())
    }

    /// An atomic operation on shared memory: replaces `bytes` bytes by what `f` makes of them, and gives what was there.
    pub fn change_shared(
        &mut self,
        lane: usize,
        address: u64,
        bytes: u64,
        f: impl Fn(u64) -> u64,
    ) -> Outcome<u64> {
        let (block, address) = self.shared_of(address, lane)?;
        let mut who = self.who(lane);
        who.stamp.atomic = true;
        let own = &mut self.world.blocks[block];
        let at = own.shared.place(address, bytes, bytes, lane, "an atomic operation")?;
        own.no_mbarrier(address, bytes, lane, "an atomic operation")?;
        own.shared.note_read(self.world.clocks, at, bytes as usize, who)?;
        own.shared.note_write(self.world.clocks, at, bytes as usize, who)?;
        let old = own.shared.slice(at, bytes as usize).iter().rev().fold(0, |w, &b| w << 8 | u64::from(b));
        own.shared.put(at, &f(old).to_le_bytes()[..bytes as usize]);
        Ok(old)
    }

    /// A strong store orders what the thread has done before what those do who read it strongly.
    pub fn publish(&mut self, lane: usize, address: u64) -> Outcome<()> {
        let (block, address) = self.shared_of(address, lane)?;
        let actor = self.warp.actor;
        let flag = self.world.blocks[block].flags.entry(address).or_default();
        self.world.clocks.release(actor, flag);
        Ok(())
    }

    /// A strong load takes over what strong stores to the address have published.
    pub fn observe(&mut self, lane: usize, address: u64) -> Outcome<()> {
        let (block, address) = self.shared_of(address, lane)?;
        if let Some(flag) = self.world.blocks[block].flags.get(&address) {
            self.world.clocks.acquire(self.warp.actor, flag);
        }
        Ok(())
    }
}
