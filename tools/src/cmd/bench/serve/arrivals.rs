//! When requests are sent: a Poisson process, or one whose gaps have a gamma distribution. Numbers only; nobody waits
//! here.

use std::time::Duration;
use trtc_ir::random::Random;

/// When each of `count` requests is sent, from the first one on: all at once without a rate.
///
/// Gaps have a gamma distribution of shape `burstiness` and mean `1 / rate`: 1 is a Poisson process, less comes in bursts,
/// more is steadier. They are scaled to take `(count - 1) / rate` together, so that runs with other seeds have the same
/// rate.
pub fn arrivals(count: usize, rate: Option<f64>, burstiness: f64, seed: u64) -> Vec<Duration> {
    let Some(rate) = rate else { return vec![Duration::ZERO; count] };
    let mut random = Random::named(seed, "arrivals");
    let mut times = Vec::with_capacity(count);
    let mut time = 0.0;
    for i in 0..count {
        if i > 0 {
            time += gamma(&mut random, burstiness);
        }
        times.push(time);
    }
    let whole = count.saturating_sub(1) as f64 / rate;
    // Without a gap, or with gaps that are all 0, there is nothing to scale.
    let scale = if time > 0.0 { whole / time } else { 0.0 };
    times.iter().map(|t| Duration::try_from_secs_f64(t * scale).unwrap_or(Duration::MAX)).collect()
}

/// Uniform in 0..1, without 0.
fn uniform(random: &mut Random) -> f64 {
    ((random.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// Normal, mean 0 and variance 1 (Box and Muller).
fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * uniform(random).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(random)).cos()
}

/// Gamma of a shape, with scale 1: by Marsaglia and Tsang (2000), "A simple method for generating gamma variables".
fn gamma(random: &mut Random, shape: f64) -> f64 {
    if shape == 1.0 {
        return -uniform(random).ln();
    }
    if shape < 1.0 {
        return gamma(random, shape + 1.0) * uniform(random).powf(1.0 / shape);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(random);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && uniform(random).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_the_mean_and_variance_of_their_distribution() {
        for shape in [0.25, 1.0, 4.0] {
            let mut random = Random::new(7);
            let n = 40_000;
            let values: Vec<f64> = (0..n).map(|_| gamma(&mut random, shape)).collect();
            let mean = values.iter().sum::<f64>() / f64::from(n);
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / f64::from(n);
            assert!((mean / shape - 1.0).abs() < 0.05, "shape {shape}: mean {mean}");
            assert!((variance / shape - 1.0).abs() < 0.1, "shape {shape}: variance {variance}");
            assert!(values.iter().all(|v| *v >= 0.0));
        }
    }

    #[test]
    fn arrivals_begin_at_once_and_have_the_rate() {
        let times = arrivals(101, Some(20.0), 1.0, 3);
        assert_eq!((times.len(), times[0]), (101, Duration::ZERO));
        assert!(times.is_sorted());
        assert!((times[100].as_secs_f64() - 5.0).abs() < 1e-6, "{:?}", times[100]);
        assert_eq!(times, arrivals(101, Some(20.0), 1.0, 3), "a seed gives the same times");
        assert_ne!(times, arrivals(101, Some(20.0), 1.0, 4));
        assert_eq!(arrivals(3, None, 1.0, 3), [Duration::ZERO; 3]);
        assert_eq!(arrivals(1, Some(1e-6), 0.001, 3), [Duration::ZERO]);
        assert!(arrivals(0, Some(1.0), 1.0, 3).is_empty());
    }

    #[test]
    fn burstiness_changes_how_steady_arrivals_are() {
        // Squared coefficient of variation of the gaps: 1 / shape.
        let spread = |burstiness| {
            let times = arrivals(20_001, Some(1.0), burstiness, 5);
            let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
            gaps.iter().map(|g| (g - 1.0).powi(2)).sum::<f64>() / gaps.len() as f64
        };
        assert!(spread(0.5) > 1.7 && (spread(1.0) - 1.0).abs() < 0.1 && spread(100.0) < 0.02);
    }
}
