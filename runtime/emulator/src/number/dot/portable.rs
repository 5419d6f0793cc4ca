//! The kernel of the fast path without instructions of a particular processor.

use super::fast::{Columns, HALF, Kernel, MAX_GROUP, Rounding, Row, dropped, nearest_f16, safe};
use super::{Sum, ZERO, exponent};

/// Lanes are elements of arrays.
#[derive(Clone, Copy)]
pub struct Portable;

impl<const W: usize> Kernel<W> for Portable {
    fn sum(
        self,
        rounding: Rounding,
        row: Row,
        columns: &Columns<W>,
        shift: Option<&[i32; W]>,
        c: &mut [f32; W],
    ) -> bool {
        let bits = rounding.fraction_bits;
        let shift = shift.copied().unwrap_or([0; W]);
        let rows = || row.exponents.iter().zip(row.values).zip(columns.exponents.iter().zip(&columns.values));
        let mut largest = [ZERO; W];
        for ((of_a, _), (of_b, _)) in rows() {
            for (largest, of_b) in largest.iter_mut().zip(of_b) {
                *largest = (*largest).max(of_a + of_b);
            }
        }
        let (low, span) = safe(bits);
        let mut scales = [0.0; W];
        for j in 0..W {
            let both = (largest[j] + shift[j]).max(exponent(c[j], rounding.result.min_exponent()));
            // All addends are zero: any exponent does.
            let zero = both < ZERO / 2;
            largest[j] = if zero { 0 } else { both };
            let of_products = if zero { 0 } else { both - shift[j] };
            if !(low..=low + span).contains(&largest[j]) || !(low..=low + span).contains(&of_products) {
                return false;
            }
            scales[j] = power_of_two(bits - of_products);
        }
        let mut sums = [0.0; W];
        for half in 0..2 {
            let mut addends = [0i32; W];
            for ((_, a), (_, b)) in rows().skip(half * HALF).take(HALF) {
                for j in 0..W {
                    addends[j] = addends[j].wrapping_add((a * b[j] * scales[j]) as i32);
                }
            }
            for (sum, addend) in sums.iter_mut().zip(addends) {
                *sum += f64::from(addend);
            }
        }
        for j in 0..W {
            let sum = sums[j] + (f64::from(c[j]) * f64::from(power_of_two(bits - largest[j]))).trunc();
            let power = largest[j] - bits;
            c[j] = match rounding.result {
                Sum::F16 => nearest_f16(sum, power),
                result => f64::from_bits(sum.to_bits() & !dropped(result)) as f32 * power_of_two(power),
            };
        }
        true
    }
}

fn power_of_two(power: i32) -> f32 {
    f32::from_bits(((power + 127) as u32) << 23)
}

const _: () = assert!(HALF * 2 == MAX_GROUP);
