//! How fast an engine has been giving places back lately, and so how long who comes now would wait for one.
//!
//! Pure: the time is an argument. Only time in which somebody waits counts: what an engine does that has room says nothing
//! of how much it can do.

use std::time::{Duration, Instant};

/// What happened this long ago, in time that counts, weighs 1/e.
const MEMORY: Duration = Duration::from_secs(20);
/// With fewer places than these, and before a `MEMORY` is over, nothing is known.
const ENOUGH: f64 = 8.0;
/// Bounds of the advice, seconds.
const ADVICE: (u64, u64) = (1, 60);

/// A rate of places: a count and a time that decay alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// Places that were given back while somebody waited.
    places: f64,
    /// Time in which somebody waited, seconds.
    time: f64,
    /// Time counted in full; it tells how much is known.
    whole: f64,
    /// Up to when time was counted; none while nobody waits.
    since: Option<Instant>,
}

impl Rate {
    /// So many places were given back since the last call, and now somebody waits, or nobody.
    pub fn count(&mut self, places: u32, waits: bool, now: Instant) {
        if let Some(since) = self.since {
            let passed = now.saturating_duration_since(since).as_secs_f64();
            // Of a second t ago e^(-t/M) is left; over the time that passed that sums to M (1 - e^(-t/M)).
            let memory = MEMORY.as_secs_f64();
            let left = (-passed / memory).exp();
            self.places = self.places * left + f64::from(places);
            self.time = self.time * left + memory * (1.0 - left);
            self.whole += passed;
        }
        self.since = waits.then_some(now);
    }

    /// The time until so many places are given back; none if nothing is known of that.
    pub fn time_for(&self, places: u64) -> Option<Duration> {
        let known = self.whole >= MEMORY.as_secs_f64() || self.places >= ENOUGH;
        let seconds = places as f64 * self.time / self.places;
        known.then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// `Retry-After` for who is sent away while others wait for so many places: the time in which they have them,
    /// seconds.
    pub fn retry_after(&self, places: u64) -> u64 {
        let (least, most) = ADVICE;
        let seconds = self.time_for(places).map_or(most as f64, |time| time.as_secs_f64());
        (seconds.ceil() as u64).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTH: Duration = Duration::from_millis(100);

    /// One place each tenth of a second, so many times, while somebody waits; and when that is.
    fn steady(times: u32) -> (Rate, Instant) {
        let (mut rate, start) = (Rate::default(), Instant::now());
        rate.count(0, true, start);
        (1..=times).for_each(|i| rate.count(1, true, start + TENTH * i));
        (rate, start + TENTH * times)
    }

    #[test]
    fn the_wait_follows_the_rate() {
        for times in [20, 200, 2000] {
            let seconds = steady(times).0.time_for(100).map_or(0.0, |t| t.as_secs_f64());
            assert!((9.9..10.1).contains(&seconds), "after {times}: {seconds}");
        }
        let (rate, _) = steady(2000);
        assert_eq!((rate.retry_after(0), rate.retry_after(95), rate.retry_after(1_000_000)), (1, 10, 60));
        assert_eq!(rate.time_for(0), Some(Duration::ZERO));
    }

    #[test]
    fn nothing_is_known_of_an_engine_that_was_never_full() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        (0..1000).for_each(|i| rate.count(1, false, now + TENTH * i));
        assert_eq!((rate.time_for(1), rate.retry_after(1)), (None, 60));
        let (few, _) = steady(3);
        assert_eq!(few.time_for(1), None);
    }

    #[test]
    fn time_without_anybody_who_waits_does_not_count() {
        let (mut rate, end) = steady(100);
        let before = rate.time_for(50);
        rate.count(0, false, end);
        rate.count(0, true, end + Duration::from_secs(3600));
        assert_eq!(rate.time_for(50), before);
    }

    #[test]
    fn an_engine_that_gives_no_place_back_makes_waits_longer() {
        let (mut rate, end) = steady(100);
        rate.count(0, true, end + Duration::from_secs(60));
        assert!(rate.time_for(10) > Some(Duration::from_secs(10)));
        let mut stuck = Rate::default();
        stuck.count(0, true, end);
        stuck.count(0, true, end + Duration::from_secs(21));
        assert_eq!((stuck.time_for(1), stuck.retry_after(1)), (Some(Duration::MAX), 60));
        assert_eq!(stuck.time_for(0), Some(Duration::MAX), "0 / 0 is no time to promise");
    }
}
