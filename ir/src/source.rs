//! What a weight's [`Source`](crate::module::Source) means: the order of rows, and the values of rotary tables.
//!
//! Pure functions; reading a checkpoint is not done here.

use crate::module::{RopeFreqs, RopeScaling, TensorRef};
use std::f32::consts::PI;

impl RopeFreqs {
    /// The table, `(dim / 2)` inverse frequencies, computed in f32 as the reference implementations do.
    ///
    /// Llama 3's scaling: wavelengths longer than `original / low` are divided by the factor, those shorter than
    /// `original / high` are kept, and a linear ramp lies between.
    pub fn values(&self) -> Vec<f32> {
        let theta = self.theta as f32;
        (0..self.dim / 2).map(|i| self.scaled(1.0 / theta.powf((2 * i) as f32 / self.dim as f32))).collect()
    }

    fn scaled(&self, plain: f32) -> f32 {
        match self.scaling {
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
    }
}

impl TensorRef {
    /// The stored row that is read as row `row` of `rows`. `None` if the rows do not split into heads of even size.
    ///
    /// Interleaved rotary order stores row `(half, i)` of a head at `(i, half)`.
    pub fn stored_row(&self, row: u64, rows: u64) -> Option<u64> {
        let Some(heads) = self.interleaved_heads.map(u64::from) else {
            return Some(row);
        };
        if heads == 0 || !rows.is_multiple_of(heads) || !(rows / heads).is_multiple_of(2) || row >= rows {
            return None;
        }
        let half = rows / heads / 2;
        let (head, within) = (row / (2 * half), row % (2 * half));
        Some(head * 2 * half + 2 * (within % half) + within / half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies() {
        let plain = RopeFreqs { dim: 4, theta: 10_000.0, scaling: RopeScaling::None };
        assert_eq!(plain.values(), [1.0, 0.01]);
        let linear = RopeFreqs { scaling: RopeScaling::Linear { factor: 4.0 }, ..plain };
        assert_eq!(linear.values(), [0.25, 0.0025]);
        let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let plain = RopeFreqs { dim: 64, theta: 500_000.0, scaling: RopeScaling::None };
        let (before, after) = (plain.values(), RopeFreqs { scaling, ..plain }.values());
        assert_eq!(after[0], before[0]);
        assert_eq!(after[31], before[31] / 8.0);
        let ramp = before.iter().zip(&after).filter(|(b, a)| *a < *b && **a > **b / 8.0).count();
        assert!((1..8).contains(&ramp), "{ramp} frequencies are on the ramp");
    }

    #[test]
    fn interleaved_rows_are_a_permutation_that_parts_even_from_odd() {
        let tensor = TensorRef { name: "q".into(), interleaved_heads: Some(2) };
        let rows: Vec<_> = (0..8).map(|r| tensor.stored_row(r, 8).unwrap()).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(tensor.stored_row(0, 6), None);
        assert_eq!(TensorRef { interleaved_heads: None, ..tensor }.stored_row(5, 6), Some(5));
    }
}
