//! The state of a warp: registers of 32 threads, predicates as masks, and the groups of threads that go their own ways.

use crate::memory::shared::Local;
use crate::pending::Pending;

/// Threads of a warp.
pub const LANES: usize = 32;
/// All of them.
pub const ALL: u32 = !0;
/// 32 bits of each thread.
pub type Row = [u32; LANES];
/// 64 bits of each thread.
pub type Wide = [u64; LANES];

/// The threads of a mask, from the first on.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        (left != 0).then(|| {
            let lane = left.trailing_zeros();
            left &= left - 1;
            lane as usize
        })
    })
}

/// Where a register's value lies: the first of its rows, or a predicate's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u32);

/// A value that an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A register's.
    Slot(Slot),
    /// The same for all.
    Constant(u64),
}

/// Why threads wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For the others of the warp, at an instruction that they execute together.
    Together,
    /// At a barrier of the block, until it has been completed more often than this.
    Barrier {
        /// Number.
        id: usize,
        /// Completions when the threads came.
        completed: u64,
    },
    /// At the cluster's barrier, likewise.
    Cluster {
        /// Completions when the threads came.
        completed: u64,
    },
    /// For a phase of an mbarrier; the instruction is executed again.
    Phase {
        /// Block in the cluster.
        block: usize,
        /// Address in its shared memory.
        address: u64,
        /// Parity of the phase that is to end.
        parity: bool,
    },
    /// For registers that other warps of the block give up; the instruction is executed again.
    Registers {
        /// How many, of all threads.
        wanted: u32,
    },
    /// For the other warps of the warpgroup to commit matrix instructions; the instruction is executed again.
    Warpgroup {
        /// How many groups.
        groups: u64,
    },
    /// Until so many columns of tensor memory are free; the instruction is executed again.
    Columns(u32),
    /// Until other blocks or copies have gone on; the instruction is executed again.
    Progress,
}

/// Threads that are at one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Index of the instruction.
    pub at: usize,
    /// Threads.
    pub mask: u32,
    /// What they wait for, if they wait.
    pub wait: Option<Wait>,
}

/// A warp.
#[derive(Default)]
pub struct Warp {
    /// Number in the cluster, all blocks counted through.
    pub actor: usize,
    /// Rank of its block in the cluster.
    pub block: usize,
    /// Number in the block.
    pub index: usize,
    /// Threads that exist.
    pub born: u32,
    /// Threads that have not ended, apart from each other as they are.
    pub groups: Vec<Group>,
    /// Values of registers.
    pub rows: Vec<Row>,
    /// Values of predicates, a bit a thread.
    pub preds: Vec<u32>,
    /// Threads that have written a register, of those registers where it is not certain beforehand.
    pub written: Vec<u32>,
    /// Registers in use by a matrix instruction under way, by slot: the instruction's line, or 0.
    pub in_flight: Vec<u32>,
    /// Registers of matrix instructions that were written since the last `wgmma.fence`, by slot.
    pub unfenced: Vec<bool>,
    /// Carry flags, a bit a thread.
    pub carry: u32,
    /// Registers of a thread, as `setmaxnreg` counts them.
    pub registers: u32,
    /// Memory of its threads.
    pub local: Local,
    /// Copies and matrix instructions under way.
    pub pending: Pending,
    /// Instructions executed, once a warp.
    pub steps: u64,
    /// Instructions executed, once a thread.
    pub thread_steps: u64,
}

impl Warp {
    /// Threads that have not ended.
    pub fn alive(&self) -> u32 {
        self.groups.iter().fold(0, |m, g| m | g.mask)
    }

    /// A value of 32 bits of every thread.
    #[inline(always)]
    pub fn get(&self, source: Source) -> Row {
        match source {
            Source::Slot(Slot(s)) => self.rows[s as usize],
            Source::Constant(c) => [c as u32; LANES],
        }
    }

    /// A value of 64 bits of every thread.
    #[inline(always)]
    pub fn get_wide(&self, source: Source) -> Wide {
        match source {
            Source::Slot(Slot(s)) => {
                let (low, high) = (&self.rows[s as usize], &self.rows[s as usize + 1]);
                std::array::from_fn(|i| u64::from(low[i]) | u64::from(high[i]) << 32)
            }
            Source::Constant(c) => [c; LANES],
        }
    }

    /// Stores 32 bits of the threads of a mask.
    #[inline(always)]
    pub fn set(&mut self, slot: Slot, mask: u32, value: &Row) {
        let row = &mut self.rows[slot.0 as usize];
        if mask == ALL {
            *row = *value;
        } else {
            for i in 0..LANES {
                row[i] = if mask >> i & 1 == 1 { value[i] } else { row[i] };
            }
        }
    }

    /// Stores 64 bits of the threads of a mask.
    #[inline(always)]
    pub fn set_wide(&mut self, slot: Slot, mask: u32, value: &Wide) {
        self.set(slot, mask, &std::array::from_fn(|i| value[i] as u32));
        self.set(Slot(slot.0 + 1), mask, &std::array::from_fn(|i| (value[i] >> 32) as u32));
    }

    /// Stores bits of a predicate.
    #[inline(always)]
    pub fn set_pred(&mut self, slot: Slot, mask: u32, value: u32) {
        let old = &mut self.preds[slot.0 as usize];
        *old = *old & !mask | value & mask;
    }

    /// A predicate.
    #[inline(always)]
    pub fn pred(&self, source: Source) -> u32 {
        match source {
            Source::Slot(Slot(s)) => self.preds[s as usize],
            Source::Constant(c) => {
                if c != 0 {
                    ALL
                } else {
                    0
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_mask() {
        let mut w = Warp { rows: vec![[0; LANES]; 2], preds: vec![0b0110], ..Warp::default() };
        w.set_wide(Slot(0), 0b101, &[0x1_0000_0002; LANES]);
        let wide = w.get_wide(Source::Slot(Slot(0)));
        assert_eq!(wide[..4], [0x1_0000_0002, 0, 0x1_0000_0002, 0]);
        w.set_pred(Slot(0), 0b0011, 0b0101);
        assert_eq!(w.preds[0], 0b0101);
        assert_eq!(lanes(0b1001_0001).collect::<Vec<_>>(), [0, 4, 7]);
        assert_eq!(w.pred(Source::Constant(1)), ALL);
    }
}
