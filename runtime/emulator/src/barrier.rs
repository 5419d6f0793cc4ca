//! Barriers of a block (`bar`, `barrier`) and of a cluster: who has come, and what they leave for each other.

use crate::memory::clocks::Knowledge;

/// A barrier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Barrier {
    /// Threads that have come.
    pub arrived: u32,
    /// Threads that it waits for, if those who came have said so.
    pub expected: Option<u32>,
    /// How often it was completed.
    pub completed: u64,
    /// What those who came have done.
    pub gathering: Knowledge,
    /// What those who are let go take with them.
    pub given: Knowledge,
}

impl Barrier {
    /// Lets everybody go if `of` threads have come; true if it did.
    pub fn complete(&mut self, of: u32) -> bool {
        if self.arrived < self.expected.unwrap_or(of) || self.arrived == 0 {
            return false;
        }
        self.given = std::mem::take(&mut self.gathering);
        self.arrived = 0;
        self.expected = None;
        self.completed += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_completes_it() {
        let mut b = Barrier { arrived: 32, ..Barrier::default() };
        assert!(!b.complete(64));
        b.arrived += 32;
        assert!(b.complete(64));
        assert_eq!((b.arrived, b.completed), (0, 1));
        assert!(!b.complete(0));
        (b.arrived, b.expected) = (64, Some(96));
        assert!(!b.complete(64));
    }
}
