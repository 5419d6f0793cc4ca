//! Histograms of counters: recording is two additions and takes no lock.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds of times, seconds: from a millisecond to ten minutes, close enough to tell percentiles by.
pub const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
/// Bounds of the time between tokens, seconds.
pub const TOKEN_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0];
/// Bounds of lengths, tokens.
pub const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0,
    50_000.0, 100_000.0,
];

/// Counts of values by range, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One a bound, and one for what is above all of them.
    counts: Vec<AtomicU64>,
    /// Of the values times `scale`.
    sum: AtomicU64,
    /// What makes values whole numbers.
    scale: f64,
}

impl Histogram {
    /// Of times; sums are kept in nanoseconds.
    pub fn times(bounds: &'static [f64]) -> Histogram {
        Histogram::new(bounds, 1e9)
    }

    /// Of counts.
    pub fn counts(bounds: &'static [f64]) -> Histogram {
        Histogram::new(bounds, 1.0)
    }

    fn new(bounds: &'static [f64], scale: f64) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0), scale }
    }

    /// Counts a time.
    pub fn time(&self, time: Duration) {
        self.record(time.as_secs_f64(), u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts a number.
    pub fn count(&self, n: u64) {
        self.record(n as f64, n);
    }

    fn record(&self, value: f64, whole: u64) {
        let at = self.bounds.partition_point(|&bound| bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(whole, Ordering::Relaxed);
    }

    /// Appends the series in Prometheus' text format; `labels` are those without braces.
    pub fn write(&self, name: &str, labels: &str, out: &mut String) {
        let mut below = 0;
        for (count, bound) in self.counts.iter().zip(self.bounds.iter().map(Some).chain([None])) {
            below += count.load(Ordering::Relaxed);
            let bound = bound.map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / self.scale;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {below}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_up_to_their_bound() {
        let h = Histogram::counts(TOKENS);
        [1, 2, 3, 5, 200_000].iter().for_each(|&n| h.count(n));
        let mut out = String::new();
        h.write("x", "model=\"m\"", &mut out);
        for line in [
            "x_bucket{model=\"m\",le=\"1\"} 1",
            "x_bucket{model=\"m\",le=\"2\"} 2",
            "x_bucket{model=\"m\",le=\"5\"} 4",
            "x_bucket{model=\"m\",le=\"100000\"} 4",
            "x_bucket{model=\"m\",le=\"+Inf\"} 5",
            "x_sum{model=\"m\"} 200011",
            "x_count{model=\"m\"} 5",
        ] {
            assert!(out.lines().any(|l| l == line), "no {line:?} in {out}");
        }
    }

    #[test]
    fn times_are_in_seconds() {
        let h = Histogram::times(SECONDS);
        h.time(Duration::from_millis(250));
        h.time(Duration::from_millis(250));
        let mut out = String::new();
        h.write("t", "model=\"m\"", &mut out);
        assert!(out.contains("t_bucket{model=\"m\",le=\"0.1\"} 0\n"), "{out}");
        assert!(out.contains("t_bucket{model=\"m\",le=\"0.25\"} 2\n"), "{out}");
        assert!(out.contains("t_sum{model=\"m\"} 0.5\n"), "{out}");
    }
}
