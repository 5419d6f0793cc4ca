//! The state of an mbarrier, and how arrivals and bytes change it (PTX ISA 9.7.13.15, "mbarrier").
//!
//! A phase is complete when no arrival and no byte is pending. Where mbarriers lie and who waits is not known here.

use crate::fault::{FaultKind, Outcome, trap};
use crate::memory::clocks::{Knowledge, Stamp};

/// Most arrivals that an mbarrier counts; also the most bytes that may be pending, either way.
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
    /// What initialised it.
    pub born: Stamp,
    /// What the arrivals of this phase bring.
    pub gathering: Knowledge,
    /// What the phase before has left.
    pub given: Knowledge,
}

/// Marks a word as the state that an arrival returns.
const STATE: u64 = 1 << 63;
/// Bits of the count in a state.
const COUNT_BITS: u32 = 20;

/// The phase and the pending arrivals of a state, or `None` of a word that is no state.
pub fn read_state(word: u64) -> Option<(u64, u32)> {
    let count = (word & u64::from(MOST)) as u32;
    (word & STATE != 0).then_some(((word & !STATE) >> COUNT_BITS, count))
}

impl Mbarrier {
    /// A new one that waits for `count` arrivals, 1 to [`MOST`].
    pub fn new(count: u32, agent: u16, born: Stamp) -> Outcome<Mbarrier> {
        if count == 0 || count > MOST {
            return trap(
                FaultKind::Mbarrier,
                format!("an mbarrier of {count} arrivals; it takes 1 to {MOST}"),
            );
        }
        Ok(Mbarrier { expected: count, pending: count, agent, born, ..Mbarrier::default() })
    }

    /// What an arrival returns: the phase and its pending arrivals, as they are before it.
    pub fn state(&self) -> u64 {
        STATE | (self.phase << COUNT_BITS) & !STATE | u64::from(self.pending)
    }

    /// Parity of the phase that is under way.
    pub fn parity(&self) -> bool {
        self.phase & 1 == 1
    }

    /// `count` arrivals; `last` of a form that may complete the phase.
    pub fn arrive(&mut self, count: u32, drop: bool, last: bool) -> Outcome<()> {
        if count == 0 || count > self.pending {
            let what = format!(
                "{count} arrivals at an mbarrier that waits for {} of {} in phase {}",
                self.pending, self.expected, self.phase
            );
            return trap(FaultKind::Mbarrier, what);
        }
        if drop {
            self.expected -= count;
        }
        self.pending -= count;
        if !last && self.pending == 0 && self.bytes == 0 {
            return trap(FaultKind::Mbarrier, "an arrival with .noComplete completes the phase");
        }
        self.settle();
        Ok(())
    }

    /// More bytes are to come.
    pub fn expect(&mut self, bytes: u32) -> Outcome<()> {
        self.change(i64::from(bytes))
    }

    /// Bytes have come, which may complete the phase.
    pub fn complete(&mut self, bytes: u32) -> Outcome<()> {
        self.change(-i64::from(bytes))?;
        self.settle();
        Ok(())
    }

    fn change(&mut self, by: i64) -> Outcome<()> {
        let after = self.bytes + by;
        if after.unsigned_abs() > u64::from(MOST) {
            let what = format!("{after} bytes are pending on an mbarrier; it counts up to {MOST}");
            return trap(FaultKind::Mbarrier, what);
        }
        self.bytes = after;
        Ok(())
    }

    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.expected;
            self.given = std::mem::take(&mut self.gathering);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: u32) -> Mbarrier {
        Mbarrier::new(count, 0, Stamp::default()).unwrap()
    }

    #[test]
    fn a_phase_waits_for_arrivals_and_bytes() {
        let mut m = of(2);
        m.arrive(1, false, true).unwrap();
        m.expect(64).unwrap();
        assert_eq!(read_state(m.state()), Some((0, 1)));
        m.arrive(1, false, true).unwrap();
        assert_eq!((m.phase, m.bytes), (0, 64));
        assert_eq!(m.arrive(1, false, true).err().unwrap().kind, FaultKind::Mbarrier);
        m.complete(64).unwrap();
        assert_eq!((m.phase, m.pending, m.parity()), (1, 2, true));
    }

    #[test]
    fn bytes_may_come_before_they_are_expected() {
        let mut m = of(1);
        m.complete(16).unwrap();
        assert_eq!((m.phase, m.bytes), (0, -16));
        m.expect(16).unwrap();
        m.arrive(1, false, true).unwrap();
        assert_eq!(m.phase, 1);
    }

    #[test]
    fn who_drops_out_is_not_waited_for_again() {
        let mut m = of(2);
        m.arrive(1, true, true).unwrap();
        m.arrive(1, false, true).unwrap();
        assert_eq!((m.phase, m.expected, m.pending), (1, 1, 1));
    }

    #[test]
    fn counts_have_limits() {
        let kind = |o: Outcome<Mbarrier>| o.err().map(|t| t.kind);
        assert_eq!(kind(Mbarrier::new(0, 0, Stamp::default())), Some(FaultKind::Mbarrier));
        assert_eq!(kind(Mbarrier::new(MOST + 1, 0, Stamp::default())), Some(FaultKind::Mbarrier));
        let mut m = of(MOST);
        assert!(m.expect(MOST).is_ok() && m.expect(1).is_err());
        assert!(of(1).arrive(1, false, false).is_err() && of(2).arrive(1, false, false).is_ok());
        assert_eq!(read_state(7), None);
    }
}
