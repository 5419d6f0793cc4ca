//! Integer products of tensor cores: 8-bit elements, sums in 32 bits.

use super::{ShapeError, check};

/// What a sum that leaves 32 bits becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The low 32 bits.
    Wrap,
    /// `.satfinite`: the nearest of the least and the greatest integer, of the whole sum.
    Clamp,
}

/// `d = a * b + d` of integers: A is m x k, B k x n, D m x n, row-major, elements of `s8` or `u8` widened.
///
/// # Errors
/// Where a slice does not have the shape's length.
pub fn matmul_i32(
    overflow: Overflow,
    [m, n, k]: [usize; 3],
    a: &[i32],
    b: &[i32],
    d: &mut [i32],
) -> Result<(), ShapeError> {
    check("A", m.saturating_mul(k), a.len())?;
    check("B", k.saturating_mul(n), b.len())?;
    check("D", m.saturating_mul(n), d.len())?;
    if n == 0 || k == 0 {
        return Ok(());
    }
    for (row, out) in a.chunks_exact(k).zip(d.chunks_exact_mut(n)) {
        match overflow {
            Overflow::Wrap => {
                for (x, b) in row.iter().zip(b.chunks_exact(n)) {
                    for (out, y) in out.iter_mut().zip(b) {
                        *out = out.wrapping_add(x.wrapping_mul(*y));
                    }
                }
            }
            Overflow::Clamp => {
                for (j, out) in out.iter_mut().enumerate() {
                    let products = row.iter().zip(b[j..].iter().step_by(n));
                    let sum = products.map(|(x, y)| i64::from(*x) * i64::from(*y)).sum::<i64>();
                    *out = (sum + i64::from(*out)).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
                }
            }
        }
    }
    Ok(())
}
