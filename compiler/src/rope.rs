//! Values of the rotary frequency tables: `(dim / 2)` inverse frequencies, computed in f32 as the reference
//! implementations do, so that angles agree to the last bit that matters at long positions.

use std::f32::consts::PI;
use trtc_ir::{RopeFreqs, RopeScaling};

/// The table. Llama 3's scaling is that of the Llama 3.1 release: wavelengths longer than `original / low` are
/// divided by the factor, those shorter than `original / high` are kept, and a linear ramp lies between.
pub(crate) fn frequencies(rope: &RopeFreqs) -> Vec<f32> {
    (0..rope.dim / 2)
        .map(|i| {
            let plain = 1.0 / (rope.theta as f32).powf((2 * i) as f32 / rope.dim as f32);
            match rope.scaling {
                RopeScaling::None => plain,
                RopeScaling::Linear { factor } => plain / factor as f32,
                RopeScaling::Llama3 { factor, low, high, original } => {
                    let (factor, low, high, original) = (factor as f32, low as f32, high as f32, original as f32);
                    let wavelength = 2.0 * PI / plain;
                    if wavelength > original / low {
                        plain / factor
                    } else if wavelength < original / high {
                        plain
                    } else {
                        let keep = (original / wavelength - low) / (high - low);
                        (1.0 - keep) * plain / factor + keep * plain
                    }
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(scaling: RopeScaling) -> Vec<f32> {
        frequencies(&RopeFreqs { dim: 64, theta: 500_000.0, scaling })
    }

    #[test]
    fn scaling_divides_low_frequencies_and_keeps_high_ones() {
        let plain = table(RopeScaling::None);
        let scaled = table(RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 });
        assert_eq!(plain[0], 1.0);
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[31], plain[31] / 8.0);
        assert!(plain.iter().zip(&scaled).all(|(p, s)| *s <= *p && *s >= p / 8.0));
        assert!(plain.iter().zip(&scaled).any(|(p, s)| *s < *p * 0.99 && *s > p / 7.9), "there is a ramp");
        let linear = table(RopeScaling::Linear { factor: 4.0 });
        assert!(plain.iter().zip(&linear).all(|(p, l)| *l == p / 4.0));
    }
}
