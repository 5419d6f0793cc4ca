//! The state of an mbarrier.

use crate::memory::clocks::Knowledge;

/// Most arrivals that an mbarrier counts.
pub const MOST: u32 = (1 << 20) - 1;

/// An mbarrier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mbarrier {
    /// Arrivals of a phase.
    pub expected: u32,
    /// Arrivals that the phase still waits for.
    pub pending: u32,
    /// Bytes that it waits for besides; negative when they come before they are expected.
    pub bytes: i64,
    /// Phases that are complete.
    pub phase: u64,
    /// Its agent among the clocks.
    pub agent: u16,
    /// What the arrivals of this phase bring.
    pub gathering: Knowledge,
    /// What the phase before has left.
    pub given: Knowledge,
}
