//! Block-scaled products: `kind::mxf8f6f4`, `kind::mxf4` and `kind::mxf4nvf4`.
//!
//! A scale belongs to a row of A, or a column of B, and a block of k. Scales that are powers of two only move the
//! exponents of products. Products of 4-bit elements (k = 64 an instruction) are added exactly in runs of 16, each run
//! is multiplied by the significands of its two scales and aligned by the sum of their exponents, 35 bits are kept.
//! Source: arXiv 2511.10909.

use super::fast::{self, Exponents};
use super::{Arithmetic, SPECIAL, ShapeError, Sum, ZERO, check, exact, exponent};
use crate::number::format::{Format, NAN_F32};

/// Elements of a run of 4-bit products that is added before it is scaled.
const RUN: usize = 16;

/// Elements of k that an instruction on 4-bit products takes at once.
const FOUR_BIT_GROUP: usize = 64;

/// Fraction bits kept of scaled runs.
const FOUR_BIT_FRACTION: i32 = 35;

/// The scales of a product.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// `Ue8m0` or `Ue4m3`.
    pub format: Format,
    /// Elements of k for one scale: 32 (`scale_vec::1X` of k = 32, `2X` of k = 64) or 16 (`4X` of k = 64).
    pub block: usize,
    /// Codes for A, m x (k / block), row-major.
    pub a: &'a [u8],
    /// Codes for B, (k / block) x n, row-major.
    pub b: &'a [u8],
}

/// What is wrong with a scaled product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaledError {
    /// A slice does not fit the shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// No instruction has such scales.
    #[error("no instruction scales blocks of {block} elements by {format:?}")]
    Scales {
        /// Elements for one scale.
        block: usize,
        /// Their format.
        format: Format,
    },
}

/// `d = (a * scale of a) * (b * scale of b) + d`, as `matmul`.
///
/// `four_bit` is `kind::mxf4` and `kind::mxf4nvf4`, whose sums are always of type `f32`; otherwise it is
/// `kind::mxf8f6f4`, which has scales `Ue8m0` of 32 elements only. E2m1 elements may come in either.
///
/// # Errors
/// Where a slice does not have the shape's length, or no instruction has such scales.
pub fn matmul_scaled(
    arithmetic: &Arithmetic,
    four_bit: bool,
    [m, n, k]: [usize; 3],
    a: &[f32],
    b: &[f32],
    scales: Scales,
    d: &mut [f32],
) -> Result<(), ScaledError> {
    let Scales { format, block, .. } = scales;
    let known = match (four_bit, format) {
        (false, Format::Ue8m0) => block == 32 && arithmetic.group == 32,
        (true, Format::Ue8m0 | Format::Ue4m3) => block == 32 || block == 16,
        _ => false,
    };
    if !known {
        return Err(ScaledError::Scales { block, format });
    }
    check("A", m.saturating_mul(k), a.len())?;
    check("B", k.saturating_mul(n), b.len())?;
    check("D", m.saturating_mul(n), d.len())?;
    let blocks = k.div_ceil(block);
    check("the scales of A", m.saturating_mul(blocks), scales.a.len())?;
    check("the scales of B", blocks.saturating_mul(n), scales.b.len())?;
    if four_bit {
        four_bits([m, n, k], a, b, scales, d);
    } else {
        let exponents = |codes: &[u8]| codes.iter().map(|code| scale_exponent(*code)).collect::<Vec<_>>();
        let (of_a, of_b) = (exponents(scales.a), exponents(scales.b));
        let exponents = Some(Exponents { a: &of_a, b: &of_b });
        fast::matmul(fast::Task { arithmetic, shape: [m, n, k], a, b, scales: exponents }, d);
        // A scale that is NaN makes all its products NaN, also those of zeros.
        for (i, row) in d.chunks_exact_mut(n.max(1)).enumerate() {
            let nan_row = scales.a[i * blocks..][..blocks].contains(&0xff);
            for (j, out) in row.iter_mut().enumerate() {
                if nan_row || scales.b[j..].iter().step_by(n).any(|code| *code == 0xff) {
                    *out = NAN_F32;
                }
            }
        }
    }
    Ok(())
}

fn scale_exponent(code: u8) -> i32 {
    i32::from(code) - 127
}

/// A scale as a significand with 3 fraction bits and an exponent; `None` is NaN.
fn scale_parts(format: Format, code: u8) -> Option<(i64, i32)> {
    if format == Format::Ue8m0 {
        return (code != 0xff).then_some((8, scale_exponent(code)));
    }
    let (field, fraction) = (i32::from(code >> 3 & 15), i64::from(code & 7));
    match (field, fraction) {
        (15, 7) => None,
        (0, _) => Some((fraction, Format::Ue4m3.min_exponent())),
        _ => Some((fraction + 8, field - 7)),
    }
}

fn four_bits([m, n, k]: [usize; 3], a: &[f32], b: &[f32], scales: Scales, d: &mut [f32]) {
    let blocks = k.div_ceil(scales.block);
    for i in 0..m {
        for j in 0..n {
            let mut c = d[i * n + j];
            for start in (0..k).step_by(FOUR_BIT_GROUP) {
                let runs = (start..k.min(start + FOUR_BIT_GROUP)).step_by(RUN).map(|first| {
                    let run = first..k.min(first + RUN);
                    // Products are multiples of 1/4 and at most 36: the sum is exact.
                    let sum: f32 = run.map(|l| a[i * k + l] * b[l * n + j]).sum();
                    let block = first / scales.block;
                    let of_a = scale_parts(scales.format, scales.a[i * blocks + block])?;
                    let of_b = scale_parts(scales.format, scales.b[block * n + j])?;
                    // 2 + 3 + 3 bits below the binary point.
                    Some(((sum * 4.0) as i64 * of_a.0 * of_b.0, of_a.1 + of_b.1))
                });
                c = four_bit_group(runs, c);
            }
            d[i * n + j] = c;
        }
    }
}

/// Fraction bits of a scaled run.
const RUN_FRACTION: i32 = 8;

fn four_bit_group(runs: impl Iterator<Item = Option<(i64, i32)>>, c: f32) -> f32 {
    let of_c = exponent(c, Format::F32.min_exponent());
    let mut terms = [(0, ZERO); FOUR_BIT_GROUP / RUN];
    let mut largest = of_c;
    for (term, run) in terms.iter_mut().zip(runs) {
        let Some((sum, power)) = run else { return NAN_F32 };
        if sum != 0 {
            *term = (sum, power);
            largest = largest.max(power);
        }
    }
    if of_c == SPECIAL {
        return if c.is_nan() { NAN_F32 } else { c };
    }
    if largest == ZERO {
        return 0.0;
    }
    let mut sum =
        exact::cut(exact::significand_of(c, of_c), exact::FRACTION - FOUR_BIT_FRACTION + largest - of_c);
    for (term, power) in terms {
        sum += exact::cut(term, RUN_FRACTION - FOUR_BIT_FRACTION + largest - power);
    }
    exact::finish(Sum::F32, sum, largest - FOUR_BIT_FRACTION)
}
