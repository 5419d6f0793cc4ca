//! Bulk copies that were issued and have not happened yet. They happen as late as they may: when every warp waits, or
//! when a thread waits for its own; a kernel that does not wait finds what was there before.

use crate::fault::Outcome;
use crate::memory::Global;
use crate::world::Block;
use std::collections::VecDeque;

/// What a copy has to do with: the blocks of the cluster, and memory.
pub struct Place<'a> {
    /// Blocks by rank.
    pub blocks: &'a mut [Block],
    /// Memory of the device.
    pub global: &'a Global,
    /// Who is ordered after whom.
    pub clocks: &'a mut crate::memory::Clocks,
}

/// A copy's work.
pub type Work = Box<dyn FnOnce(&mut Place<'_>) -> Outcome<()> + Send>;

/// A copy.
pub struct Issued {
    /// Warp in the cluster, and thread, that issued it.
    pub by: (usize, usize),
    /// The bulk group of the thread that it belongs to, if it completes by groups.
    pub group: Option<u32>,
    /// Line of the PTX.
    pub line: u32,
    /// What happens.
    pub work: Work,
}

/// Copies in the order in which they were issued.
#[derive(Default)]
pub struct Queue {
    issued: VecDeque<Issued>,
}

impl Queue {
    /// Adds one.
    pub fn push(&mut self, copy: Issued) {
        self.issued.push_back(copy);
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<Issued> {
        self.issued.pop_front()
    }

    /// Takes those of a thread's groups before `group` out, in order.
    pub fn of_groups(&mut self, by: (usize, usize), group: u32) -> Vec<Issued> {
        let mut rest = VecDeque::new();
        let mut out = Vec::new();
        for copy in self.issued.drain(..) {
            if copy.by == by && copy.group.is_some_and(|g| g < group) {
                out.push(copy);
            } else {
                rest.push_back(copy);
            }
        }
        self.issued = rest;
        out
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.issued.clear();
    }
}
