//! Values in e4m3 with a scale for each row: made up, and compared.
//!
//! A kernel rounds what it computed to e4m3, so the least error before it can become a whole step. One step is allowed,
//! but of few elements: all of them a step too low is wrong. How few, and what is allowed besides, depends on what was
//! computed ([`By`]).

use super::products::Cut;
use crate::render::Failure;
use trtc_ir::numerics::{decode, round};
use trtc_ir::quant::{dequantize, quantize};
use trtc_ir::{DType, Scheme};

/// Elements that may be off in any case.
const AT_LEAST: usize = 2;
/// The greatest of many results, in standard deviations of theirs. A row of few has a lesser one, for the same sums.
const GREATEST: f32 = 4.0;
/// How far a scale may be off, as a part of it.
const SCALE: f32 = 1e-3;

/// What has made the elements of rows.
#[derive(Clone, Copy)]
pub enum By {
    /// Attention, which rounds its weights to 16 bits.
    Attention,
    /// Arithmetic in f32, and products of whose sums matrix units cut so much off: close to 0 that is many steps.
    Sums(Cut),
}

impl By {
    /// The part of elements that may be a step off.
    fn off_by_a_step(self) -> f32 {
        match self {
            // Of a row's greatest, elements are a quarter and their steps a twelfth of that; what is cut off is 0.8 of its standard
            // deviation, a fifth of `of_greatest`, in the mean.
            By::Sums(cut) => 0.01 + 8.0 * cut.of_greatest(),
            By::Attention => 0.25,
        }
    }

    /// What an element may be off by before it is rounded, as a part of it and of the greatest of many such elements; the greatest of
    /// a row and so its scale, of that.
    fn off(self) -> [f32; 2] {
        match self {
            By::Sums(cut) => [cut.of_result(), cut.of_greatest()],
            By::Attention => [0.0; 2],
        }
    }
}

/// Rows on their way to a device.
pub struct Rows {
    /// Codes.
    pub codes: Vec<u8>,
    /// One for each row.
    pub scales: Vec<f32>,
    /// What they stand for.
    pub values: Vec<f32>,
}

/// Quantises rows of `width` values.
pub fn quantised(values: &[f32], width: usize) -> Result<Rows, Failure> {
    let bug = |e: trtc_ir::quant::QuantError| Failure::bug(format!("an input cannot be quantised: {e}"));
    let rows = values.len() / width.max(1);
    let stored = quantize(values, rows, width, Scheme::FP8_TOKEN).map_err(bug)?;
    let values = dequantize(&stored, rows, width, Scheme::FP8_TOKEN).map_err(bug)?;
    Ok(Rows { codes: stored.payload.iter().map(|&q| q as u8).collect(), scales: stored.scales, values })
}

/// The error of rows that a device has made, as a part of what is allowed: up to 1 is right.
pub fn worst(codes: &[u8], scales: &[f32], want: &[f32], by: By) -> f32 {
    let width = want.len() / scales.len().max(1);
    let (mut worst, mut off) = (0f32, 0);
    let [of_result, of_greatest] = by.off();
    for ((codes, &scale), want) in codes.chunks(width).zip(scales).zip(want.chunks(width)) {
        let greatest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        let deviation = (want.iter().map(|v| v * v).sum::<f32>() / width as f32).sqrt();
        let of_many = of_greatest * (GREATEST * deviation / greatest).max(1.0);
        // A row of zeros has any scale that is a number.
        let wanted = if greatest == 0.0 { scale } else { greatest / DType::F8E4M3.max() };
        worst = worst.max(part((scale - wanted).abs() / wanted, SCALE + of_result + of_greatest));
        for (&code, &want) in codes.iter().zip(want) {
            let got = decode(code, DType::F8E4M3).unwrap_or(f32::NAN);
            let want = round(want / wanted, DType::F8E4M3);
            off += usize::from(got != want);
            let allowed = step(want) + of_result * want.abs() + of_many * DType::F8E4M3.max();
            worst = worst.max(part((got - want).abs(), allowed));
        }
    }
    let allowed = ((want.len() as f32 * by.off_by_a_step()) as usize).max(AT_LEAST);
    worst.max(off as f32 / allowed as f32)
}

/// Spacing of e4m3 above a value.
fn step(value: f32) -> f32 {
    // Three bits follow the first; below 2^-6 the spacing stays.
    2f32.powi(value.abs().max(2f32.powi(-6)).log2().floor() as i32 - 3)
}

fn part(off: f32, allowed: f32) -> f32 {
    if off.is_nan() { f32::INFINITY } else { off / allowed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_ir::random::Random;

    const FLOATS: By = By::Sums(Cut::NONE);

    fn rows() -> Rows {
        let mut random = Random::new(3);
        let values: Vec<f32> = (0..4 * 256).map(|_| random.signed() * 2.0).collect();
        quantised(&values, 256).expect("finite")
    }

    #[test]
    fn what_is_stored_is_right() {
        let r = rows();
        assert_eq!(worst(&r.codes, &r.scales, &r.values, FLOATS), 0.0);
        assert_eq!(worst(&[0; 8], &[1.0], &[0.0; 8], FLOATS), 0.0);
    }

    #[test]
    fn one_step_is_allowed_of_few_and_two_of_none() {
        let r = rows();
        // Neither the greatest of a row, nor 0.
        let at: Vec<usize> =
            (0..r.codes.len()).filter(|&i| (1..0x70).contains(&(r.codes[i] & 0x7f))).collect();
        let moved = |count: usize, by: u8| {
            let mut codes = r.codes.clone();
            at[..count].iter().for_each(|&i| codes[i] += by);
            worst(&codes, &r.scales, &r.values, FLOATS)
        };
        assert_eq!(moved(1, 1), 1.0);
        assert_eq!(moved(10, 1), 1.0);
        assert!(moved(11, 1) > 1.0 && moved(1, 2) > 1.0);
    }

    #[test]
    fn products_of_e4m3_may_be_further_off_but_only_close_to_0() {
        // Steps of 2^-9 around 0, of 32 around 448: what is allowed besides a step around 0 is 2^-11 of 448, where that is four
        // standard deviations.
        let products = By::Sums(Cut { sums: 4.0, last: 2f32.powi(-13) });
        let value = |code| decode(code, DType::F8E4M3).expect("a number");
        let of = |code: u8, greatest: usize, by| {
            let mut codes = [0; 16];
            codes[..greatest].fill(0x7e);
            let want = codes.map(value);
            codes[15] = code;
            worst(&codes, &[1.0], &want, by)
        };
        assert!(value(0x26) <= 0.21875 && of(0x26, 1, products) <= 1.0 && of(0x26, 1, FLOATS) > 1.0);
        assert!(value(0x27) > 0.21875 && of(0x27, 1, products) > 1.0);
        // The greatest is two standard deviations.
        assert!(value(0x2e) <= 0.4375 && of(0x2e, 4, products) <= 1.0 && of(0x2f, 4, products) > 1.0);
        let two_steps = |by| worst(&[0x7c, 0, 0, 0], &[1.0], &[448.0, 0.0, 0.0, 0.0], by);
        assert!(two_steps(products) > 1.0);
    }

    #[test]
    fn scales_and_codes_that_are_no_numbers_are_wrong() {
        let r = rows();
        let scaled = |by: f32| {
            let scales: Vec<f32> = r.scales.iter().map(|s| s * by).collect();
            worst(&r.codes, &scales, &r.values, FLOATS)
        };
        assert!(scaled(1.0 + 1e-4) < 1.0 && scaled(1.01) > 1.0 && scaled(f32::NAN) > 1.0);
        let mut codes = r.codes.clone();
        codes[7] = 0x7f;
        assert_eq!(worst(&codes, &r.scales, &r.values, FLOATS), f32::INFINITY);
        assert_eq!(worst(&[0xff; 8], &[1.0], &[0.0; 8], FLOATS), f32::INFINITY);
        assert!(worst(&[0; 8], &[f32::NAN], &[0.0; 8], FLOATS) > 1.0);
    }
}
