//! How fast requests have been taken in lately, and how long a client that is sent away should wait.
//!
//! Pure: the time is an argument.

use std::time::{Duration, Instant};

/// What happened this long ago counts 1/e.
const MEMORY: Duration = Duration::from_secs(20);
/// Bounds of the advice, seconds.
const ADVICE: (u64, u64) = (1, 60);

/// A rate of events: a count that decays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    count: f64,
    last: Option<Instant>,
}

impl Rate {
    /// An event happened.
    pub fn event(&mut self, now: Instant) {
        self.count = self.decayed(now) + 1.0;
        self.last = Some(now);
    }

    fn decayed(&self, now: Instant) -> f64 {
        let age = self.last.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        self.count * (-age / MEMORY.as_secs_f64()).exp()
    }

    /// Events a second.
    pub fn per_second(&self, now: Instant) -> f64 {
        self.decayed(now) / MEMORY.as_secs_f64()
    }

    /// `Retry-After` for who comes after `waiting` others: the time in which they are taken in, seconds.
    pub fn retry_after(&self, waiting: usize, now: Instant) -> u64 {
        let seconds = (waiting as f64 / self.per_second(now)).ceil();
        let (least, most) = ADVICE;
        if seconds.is_finite() { (seconds as u64).clamp(least, most) } else { most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_follows_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::default();
        assert_eq!(rate.retry_after(10, start), 60, "nothing was ever taken in");
        for i in 0..2000 {
            rate.event(start + Duration::from_millis(100 * i));
        }
        let now = start + Duration::from_secs(200);
        let per_second = rate.per_second(now);
        assert!((9.5..10.5).contains(&per_second), "{per_second}");
        assert_eq!(rate.retry_after(100, now), (100.0 / per_second).ceil() as u64);
        assert_eq!(rate.retry_after(0, now), 1);
        assert_eq!(rate.retry_after(1_000_000, now), 60);
        assert_eq!(rate.retry_after(1, now + Duration::from_secs(3600)), 60, "long ago");
    }
}
