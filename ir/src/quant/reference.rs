//! Reference quantisation: the bit-exact definition of what an unaided quantiser stores, a row at a time.
//!
//! For each block of a row, with `lo = min(0, values)`, `hi = max(0, values)`, and rounding to nearest, ties to even:
//!
//! | zero points | scale, rounded to the scheme's type | zero | payload |
//! |---|---|---|---|
//! | no | `max(hi, -lo) / max` | - | `clamp(round(w / scale), -max, max)` |
//! | no, e4m3 of an activation | `max(hi, -lo) / 448` | - | `e4m3(w / scale)`, beyond the largest the largest |
//! | no, e4m3 of a weight | that or up to an octave more, see below | - | as above |
//! | yes | `(hi - lo) / (max - min)` | `clamp(round(-lo / scale) + min, min, max)` | `clamp(round(w / scale) + zero, min, max)` |
//!
//! `min..max` is the payload's range: -128..127 for i8, -8..7 for i4; an e4m3 is kept as its bits. A scale below the least normal f32, as that of
//! a block of zeros, becomes 1. A value is `(payload - zero) * scale`, one subtraction and one multiplication in f32.
//! All arithmetic is in f32. The scale of a row of e4m3 weights is that of `scale.rs`, the first of
//! `max(hi, -lo) / 448 * 2^(i/8)`, `i` in 0..8, with the least sum of squared errors. Scales that span rows, and other float payloads, need a calibrated quantiser: not here.

use super::{Grain, Scheme, scale::least_squares};
use crate::dtype::DType;
use crate::numerics::{decode, encode, integer, round};
use std::fmt;

/// A quantised matrix.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Quantized {
    /// `(n, k)`; for float payloads their bits.
    pub payload: Vec<i8>,
    /// `(n, scales_per_row)`.
    pub scales: Vec<f32>,
    /// As the scales; empty if the scheme has no zero points.
    pub zeros: Vec<i8>,
}

/// Why a row was not quantised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QuantError {
    /// The scheme's scales span rows, or its payload is not i8, i4 or e4m3.
    Unsupported(Scheme),
    /// An element is infinite or NaN, or two of one block are too far apart for an f32 difference.
    NotFinite {
        /// The element, or the first one of the block.
        column: usize,
        /// What was found.
        value: f32,
    },
    /// A buffer's length does not fit the row.
    Length {
        /// Which buffer.
        buffer: &'static str,
        /// Its length.
        found: usize,
        /// The length that fits.
        wanted: usize,
    },
}

impl fmt::Display for QuantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuantError::Unsupported(scheme) => write!(f, "{scheme} cannot be computed a row at a time"),
            QuantError::NotFinite { column, value } => {
                write!(f, "the value {value} in column {column} is not finite")
            }
            QuantError::Length { buffer, found, wanted } => {
                write!(f, "the buffer for the {buffer} has {found} elements, expected {wanted}")
            }
        }
    }
}

impl std::error::Error for QuantError {}

/// Least and greatest payload, if rows of the scheme stand alone.
fn range(scheme: Scheme) -> Result<(f32, f32), QuantError> {
    let alone = matches!(scheme.grain, Grain::Channel | Grain::Token | Grain::Group(1..));
    match scheme.payload {
        DType::I8 if alone => Ok((-128.0, 127.0)),
        DType::I4 if alone => Ok((-8.0, 7.0)),
        DType::F8E4M3 if alone && !scheme.zero => Ok((-scheme.payload.max(), scheme.payload.max())),
        _ => Err(QuantError::Unsupported(scheme)),
    }
}

/// Elements that share a scale in a row of `width`.
fn block(scheme: Scheme, width: usize) -> usize {
    match scheme.grain {
        Grain::Group(n) => n as usize,
        _ => width.max(1),
    }
}

fn lengths(scheme: Scheme, width: usize, found: [usize; 3]) -> Result<(), QuantError> {
    let scales = width.div_ceil(block(scheme, width));
    let wanted = [width, scales, if scheme.zero { scales } else { found[2] }];
    for (i, buffer) in ["payload", "scales", "zero points"].into_iter().enumerate() {
        if found[i] != wanted[i] {
            return Err(QuantError::Length { buffer, found: found[i], wanted: wanted[i] });
        }
    }
    Ok(())
}

/// Quantises one row into `payload` (as long as the row), `scales` (one for each block) and `zeros` (likewise, left
/// alone if the scheme has no zero points). A row with an error leaves the buffers in part written.
pub fn quantize_row(
    row: &[f32],
    scheme: Scheme,
    payload: &mut [i8],
    scales: &mut [f32],
    zeros: &mut [i8],
) -> Result<(), QuantError> {
    let (min, max) = range(scheme)?;
    lengths(scheme, row.len(), [payload.len(), scales.len(), zeros.len()])?;
    if let Some(column) = row.iter().position(|x| !x.is_finite()) {
        return Err(QuantError::NotFinite { column, value: row[column] });
    }
    let size = block(scheme, row.len());
    for (b, (values, payload)) in row.chunks(size).zip(payload.chunks_mut(size)).enumerate() {
        let (mut lo, mut hi) = (0f32, 0f32);
        for &x in values {
            lo = lo.min(x);
            hi = hi.max(x);
        }
        let spread = if scheme.zero { (hi - lo) / (max - min) } else { hi.max(-lo) / max };
        let mut scale = round(spread, scheme.scale);
        if !scale.is_finite() {
            return Err(QuantError::NotFinite { column: b * size, value: scale });
        }
        if scale < f32::MIN_POSITIVE {
            scale = 1.0;
        } else if scheme.payload.is_float() && scheme.grain == Grain::Channel {
            scale = least_squares(values, scale, scheme.scale);
        }
        scales[b] = scale;
        if scheme.payload.is_float() {
            for (q, x) in payload.iter_mut().zip(values) {
                *q = encode(x / scale, scheme.payload).unwrap_or(0) as i8;
            }
            continue;
        }
        let (zero, least) = if scheme.zero {
            let zero = integer(-lo / scale, 0.0, max - min) + min;
            zeros[b] = zero as i8;
            (zero, min)
        } else {
            (0.0, -max)
        };
        for (q, x) in payload.iter_mut().zip(values) {
            *q = ((x / scale).round_ties_even() + zero).clamp(least, max) as i8;
        }
    }
    Ok(())
}

/// The values of one row. `zeros` is not read if the scheme has no zero points.
pub fn dequantize_row(
    payload: &[i8],
    scales: &[f32],
    zeros: &[i8],
    scheme: Scheme,
    out: &mut [f32],
) -> Result<(), QuantError> {
    range(scheme)?;
    lengths(scheme, out.len(), [payload.len(), scales.len(), zeros.len()])?;
    let size = block(scheme, out.len());
    for (b, (out, payload)) in out.chunks_mut(size).zip(payload.chunks(size)).enumerate() {
        if scheme.payload.is_float() {
            for (x, q) in out.iter_mut().zip(payload) {
                *x = decode(*q as u8, scheme.payload).unwrap_or(0.0) * scales[b];
            }
            continue;
        }
        let zero = if scheme.zero { i16::from(zeros[b]) } else { 0 };
        for (x, q) in out.iter_mut().zip(payload) {
            *x = f32::from(i16::from(*q) - zero) * scales[b];
        }
    }
    Ok(())
}

/// Makes of each row of `width` values what is left of it when it is stored in the scheme.
pub fn round_rows(values: &mut [f32], width: usize, scheme: Scheme) -> Result<(), QuantError> {
    let width = width.max(1);
    let n = values.len() / width;
    let stored = quantize(values, n, width, scheme)?;
    values.copy_from_slice(&dequantize(&stored, n, width, scheme)?);
    Ok(())
}

/// Quantises `(n, k)` row-major values.
pub fn quantize(values: &[f32], n: usize, k: usize, scheme: Scheme) -> Result<Quantized, QuantError> {
    range(scheme)?;
    let elements = elements(n, k, values.len(), "values")?;
    let per_row = k.div_ceil(block(scheme, k));
    let zeros_per_row = if scheme.zero { per_row } else { 0 };
    let mut out = Quantized {
        payload: vec![0; elements],
        scales: vec![0.0; n * per_row],
        zeros: vec![0; n * zeros_per_row],
    };
    for r in 0..n {
        quantize_row(
            &values[r * k..(r + 1) * k],
            scheme,
            &mut out.payload[r * k..(r + 1) * k],
            &mut out.scales[r * per_row..(r + 1) * per_row],
            &mut out.zeros[r * zeros_per_row..(r + 1) * zeros_per_row],
        )?;
    }
    Ok(out)
}

/// The values of an `(n, k)` matrix, row-major.
pub fn dequantize(q: &Quantized, n: usize, k: usize, scheme: Scheme) -> Result<Vec<f32>, QuantError> {
    range(scheme)?;
    let elements = elements(n, k, q.payload.len(), "payload")?;
    let per_row = k.div_ceil(block(scheme, k));
    let zeros_per_row = if scheme.zero { per_row } else { 0 };
    for (buffer, found, wanted) in
        [("scales", q.scales.len(), n * per_row), ("zero points", q.zeros.len(), n * zeros_per_row)]
    {
        if found != wanted {
            return Err(QuantError::Length { buffer, found, wanted });
        }
    }
    let mut out = vec![0.0; elements];
    for r in 0..n {
        dequantize_row(
            &q.payload[r * k..(r + 1) * k],
            &q.scales[r * per_row..(r + 1) * per_row],
            &q.zeros[r * zeros_per_row..(r + 1) * zeros_per_row],
            scheme,
            &mut out[r * k..(r + 1) * k],
        )?;
    }
    Ok(out)
}

fn elements(n: usize, k: usize, found: usize, buffer: &'static str) -> Result<usize, QuantError> {
    match n.checked_mul(k) {
        Some(wanted) if wanted == found => Ok(found),
        wanted => Err(QuantError::Length { buffer, found, wanted: wanted.unwrap_or(usize::MAX) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn int8_by_hand() {
        let q = quantize(&[12.7, -0.05, 0.15, -12.7, 0.0, 0.0, 0.0, 0.0], 2, 4, Scheme::INT8).unwrap();
        assert_eq!(q.scales[0], 12.7 / 127.0);
        // 0.05 / 0.1 and 0.15 / 0.1 are ties, or next to them: to even.
        assert_eq!(q.payload[..4], [127, 0, 2, -127]);
        assert_eq!((q.scales[1], &q.payload[4..]), (1.0, &[0i8; 4][..]));
        assert!(q.zeros.is_empty());
        assert_eq!(dequantize(&q, 2, 4, Scheme::INT8).unwrap()[..2], [12.7 / 127.0 * 127.0, 0.0]);
    }

    #[test]
    fn int4_by_hand() {
        // The first group: scale (14 + 1) / 15 = 1, zero = 1 - 8. The second has no negative value: zero -8.
        let q = quantize(&[-1.0, 14.0, 0.0, 2.4, 0.0, 3.75, 7.5, 30.0], 1, 8, Scheme::int4(4)).unwrap();
        assert_eq!(q.scales, [1.0, 2.0]);
        assert_eq!(q.zeros, [-7, -8]);
        assert_eq!(q.payload, [-8, 7, -7, -5, -8, -6, -4, 7]);
        let values = dequantize(&q, 1, 8, Scheme::int4(4)).unwrap();
        assert_eq!(values, [-1.0, 14.0, 0.0, 2.0, 0.0, 4.0, 8.0, 30.0]);
    }

    #[test]
    fn fp8_by_hand() {
        // The largest is 448 scales of 0.5; 8.5 scales lie between the codes of 8 and 9, to even; 2^-10 is half of the
        // least code, to even; the least code is 2^-9.
        let row = [224.0, -4.25, 2f32.powi(-11), 1.5 * 2f32.powi(-10), -0.0, 0.5];
        let q = quantize(&[row, [0.0; 6]].concat(), 2, 6, Scheme::FP8_TOKEN).unwrap();
        assert_eq!(q.scales, [0.5, 1.0]);
        let codes = [0x7eu8, 0xd0, 0x00, 0x02, 0x80, 0x38].map(|c| c as i8);
        assert_eq!(q.payload[..6], codes);
        assert_eq!(q.payload[6..], [0; 6]);
        assert!(q.zeros.is_empty());
        let values = dequantize(&q, 2, 6, Scheme::FP8_TOKEN).unwrap();
        assert_eq!(values[..6], [224.0, -4.0, 0.0, 2f32.powi(-9), -0.0, 0.5]);
        // A scale below the least normal f32 becomes 1, and the row zero.
        let tiny = quantize(&[1e-37, -2e-37], 1, 2, Scheme::FP8_TOKEN).unwrap();
        assert_eq!((tiny.scales[0], &tiny.payload[..]), (1.0, &[0, 0x80u8 as i8][..]));
    }

    #[test]
    fn fp8_weights_choose_their_scale() {
        // All four are codes of the least scale, and at no other are all exact.
        let row = [448.0, 208.0, 10.0, -20.0];
        assert_eq!(quantize(&row, 1, 4, Scheme::FP8).unwrap().scales, [1.0]);
        let row = [448.0, 424.0, 424.0, 424.0]; // 424 is between two codes; a greater scale has it nearer to one
        let q = quantize(&row, 1, 4, Scheme::FP8).unwrap();
        let token = quantize(&row, 1, 4, Scheme::FP8_TOKEN).unwrap();
        let error = |q: &Quantized| {
            let back = dequantize(q, 1, 4, Scheme::FP8).unwrap();
            row.iter().zip(&back).map(|(x, y)| (x - y) * (x - y)).sum::<f32>()
        };
        assert_eq!(token.scales, [1.0]);
        assert!(q.scales[0] > 1.0 && q.scales[0] < 2.0 && error(&q) < error(&token), "{q:?}");
        assert_eq!(quantize(&[1e-37, -2e-37], 1, 2, Scheme::FP8).unwrap().scales, [1.0]);
    }

    #[test]
    fn rounding_rows_is_storing_them() {
        let mut values = [1.0, 300.0, -448.0, 3.0, 0.1, 0.2];
        round_rows(&mut values, 3, Scheme::FP8_TOKEN).unwrap();
        assert_eq!(values[..3], [1.0, 288.0, -448.0]);
        assert_eq!(values[3], 3.0 / 448.0 * 448.0);
        assert!(round_rows(&mut values, 4, Scheme::FP8_TOKEN).is_err(), "6 is not a multiple of 4");
    }

    #[test]
    fn the_last_group_may_be_short_and_scales_are_bf16() {
        let q = quantize(&[1.0, 1.0, 1.0, 0.3, -0.7], 1, 5, Scheme::int4(3)).unwrap();
        assert_eq!(q.scales.len(), 2);
        assert!(q.scales.iter().all(|&s| round(s, DType::Bf16) == s && s != 1.0));
    }

    #[test]
    fn what_cannot_be_quantised_is_an_error() {
        let row = [0.0, f32::NAN];
        let mut zeros = [0i8; 1];
        let error = quantize_row(&row, Scheme::INT8, &mut [0; 2], &mut [0.0], &mut []).unwrap_err();
        assert!(matches!(error, QuantError::NotFinite { column: 1, .. }), "{error}");
        let error =
            quantize_row(&[f32::MAX, -f32::MAX], Scheme::int4(2), &mut [0; 2], &mut [0.0], &mut zeros);
        assert!(matches!(error, Err(QuantError::NotFinite { column: 0, .. })));
        let error = quantize_row(&[1.0], Scheme::INT8, &mut [0; 2], &mut [0.0], &mut []).unwrap_err();
        assert_eq!(error, QuantError::Length { buffer: "payload", found: 2, wanted: 1 });
        for bad in [
            Scheme { grain: Grain::Tensor, ..Scheme::INT8 },
            Scheme { payload: DType::F8E5M2, ..Scheme::FP8 },
            Scheme { zero: true, ..Scheme::FP8 },
            Scheme::int4(0),
        ] {
            assert_eq!(quantize(&[1.0], 1, 1, bad), Err(QuantError::Unsupported(bad)));
        }
        assert!(quantize(&[1.0], usize::MAX, 2, Scheme::INT8).is_err());
    }

    fn rows() -> impl Strategy<Value = (usize, Vec<f32>)> {
        (1usize..70, -30i32..30).prop_flat_map(|(k, exponent)| {
            let unit = 2f32.powi(exponent);
            let values = prop::collection::vec((-1f32..1.0).prop_map(move |x| x * unit), 3 * k);
            values.prop_map(move |v| (k, v))
        })
    }

    proptest! {
        #[test]
        fn int8_error_is_half_a_step((k, values) in rows()) {
            let q = quantize(&values, 3, k, Scheme::INT8).unwrap();
            let back = dequantize(&q, 3, k, Scheme::INT8).unwrap();
            for (i, (x, y)) in values.iter().zip(&back).enumerate() {
                prop_assert!((x - y).abs() <= q.scales[i / k] * 0.5001, "{x} {y}");
            }
        }

        #[test]
        fn int4_error_is_half_a_step_and_the_rounding_of_the_scale((k, values) in rows(), group in 1usize..40) {
            let scheme = Scheme::int4(group as u32);
            let q = quantize(&values, 3, k, scheme).unwrap();
            let back = dequantize(&q, 3, k, scheme).unwrap();
            let per_row = k.div_ceil(group);
            for (i, (x, y)) in values.iter().zip(&back).enumerate() {
                // A bf16 scale is off by up to 2^-8 of itself, over at most 15 steps.
                let step = q.scales[i / k * per_row + i % k / group];
                prop_assert!((x - y).abs() <= step * (0.5 + 15.0 / 256.0 + 0.001), "{x} {y} {step}");
            }
        }

        #[test]
        fn fp8_error_is_half_a_step_of_three_bits((k, values) in rows()) {
            let q = quantize(&values, 3, k, Scheme::FP8).unwrap();
            let back = dequantize(&q, 3, k, Scheme::FP8).unwrap();
            for (i, (x, y)) in values.iter().zip(&back).enumerate() {
                // Below 2^-6 scales the codes are 2^-9 apart.
                let half = (x.abs() / 16.0).max(q.scales[i / k] * 2f32.powi(-10)) * 1.0001;
                prop_assert!((x - y).abs() <= half, "{x} {y}");
            }
        }

        #[test]
        fn values_on_the_grid_are_kept((k, values) in rows()) {
            for scheme in [Scheme::INT8, Scheme::FP8_TOKEN, Scheme::int4(16)] {
                let once = dequantize(&quantize(&values, 3, k, scheme).unwrap(), 3, k, scheme).unwrap();
                let q = quantize(&once, 3, k, scheme).unwrap();
                let twice = dequantize(&q, 3, k, scheme).unwrap();
                for (x, y) in once.iter().zip(&twice) {
                    let step = q.scales.iter().copied().fold(0.0, f32::max);
                    prop_assert!((x - y).abs() <= 0.56 * step, "{x} {y}");
                }
            }
        }
    }
}
