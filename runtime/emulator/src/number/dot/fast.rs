//! The fast path of tensor-core sums: lanes along n, integers of 32 bits, one kernel per instruction set.
//!
//! Where the largest exponent e of a group is far from the ends of `f32`, a product times 2^(F - e) is exact in `f32`,
//! and its conversion to an integer is the cut toward zero that the hardware does. A block of lanes in which any lane
//! is out of that range, or has an infinity or a NaN, takes the exact path.

use super::portable::Portable;
use super::{Arithmetic, Sum, ZERO, exact, exponent};
use crate::number::float::odd_f32;
use crate::number::format::Format;
use crate::number::half::f16_rn;

/// Most products of a group that this path adds.
pub const MAX_GROUP: usize = 32;

/// Products whose sum fits into 32 bits.
pub const HALF: usize = MAX_GROUP / 2;

/// Elements of A whose exponents stand on the stack: those of an `mma`.
const FEW: usize = 512;

/// Most fraction bits: an addend is then at most 2^27.
const MAX_FRACTION: i32 = 25;

/// Least exponent, and how far above it they go, with which products, addends and results are normal numbers of `f32`
/// or less than one unit.
#[inline(always)]
pub const fn safe(fraction_bits: i32) -> (i32, i32) {
    let low = fraction_bits - 120;
    (low, 120 - low)
}

/// Adds a group for `W` lanes.
pub trait Kernel<const W: usize>: Copy {
    /// Adds `row` times each column, shifted by the exponents of scales, to `c`; where a lane is not safe it answers
    /// no and adds nothing. `row` has at most `MAX_GROUP` elements.
    fn sum(
        self,
        rounding: Rounding,
        row: Row,
        columns: &Columns<W>,
        shift: Option<&[i32; W]>,
        c: &mut [f32; W],
    ) -> bool;
}

/// What a kernel needs of `Arithmetic`.
#[derive(Clone, Copy)]
pub struct Rounding {
    pub fraction_bits: i32,
    pub result: Sum,
}

/// Exponents of scales: of row i of A in group g at `a[i * groups + g]`, of column j of B at `b[g * n + j]`.
#[derive(Clone, Copy)]
pub struct Exponents<'a> {
    pub a: &'a [i32],
    pub b: &'a [i32],
}

/// A group's elements of a row of A.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub values: &'a [f32],
    pub exponents: &'a [i32],
}

/// A group's rows of B for `W` columns.
#[repr(align(64))]
pub struct Columns<const W: usize> {
    pub values: [[f32; W]; MAX_GROUP],
    pub exponents: [[i32; W]; MAX_GROUP],
}

#[derive(Clone, Copy)]
pub struct Task<'a> {
    pub arithmetic: &'a Arithmetic,
    /// m, n, k.
    pub shape: [usize; 3],
    pub a: &'a [f32],
    pub b: &'a [f32],
    pub scales: Option<Exponents<'a>>,
}

/// `dot::matmul` of checked slices; scales come with groups of `arithmetic.group`.
pub fn matmul(task: Task, d: &mut [f32]) {
    if task.shape.contains(&0) {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    {
        use super::x86::{matmul_8, matmul_16};
        // Of 8 columns, as `mma` has, 16 lanes would be half idle.
        if task.shape[1] > 8 && matmul_16(task, d) || matmul_8(task, d) {
            return;
        }
    }
    blocks::<16, _>(Portable, task, d);
}

#[inline(always)]
pub fn blocks<const W: usize, K: Kernel<W>>(kernel: K, task: Task, d: &mut [f32]) {
    let Task { arithmetic, shape: [m, n, k], a, b, scales } = task;
    let size = arithmetic.group.max(1);
    let groups = k.div_ceil(size);
    let possible = size <= MAX_GROUP && (0..=MAX_FRACTION).contains(&arithmetic.fraction_bits);
    let rounding = Rounding { fraction_bits: arithmetic.fraction_bits, result: arithmetic.result };
    let mut columns = Columns::<W> { values: [[0.0; W]; MAX_GROUP], exponents: [[ZERO; W]; MAX_GROUP] };
    let (mut few, mut many) = ([0; FEW], Vec::new());
    let exponents = if a.len() <= FEW {
        &mut few[..a.len()]
    } else {
        many.resize(a.len(), 0);
        &mut many[..]
    };
    for (out, x) in exponents.iter_mut().zip(a) {
        *out = exponent(*x, arithmetic.a_min);
    }
    for first in (0..n).step_by(W) {
        let width = W.min(n - first);
        for group in 0..groups {
            let start = group * size;
            let count = size.min(k - start);
            let mut of_b = [0; W];
            if let Some(scales) = scales {
                of_b[..width].copy_from_slice(&scales.b[group * n + first..][..width]);
            }
            if possible {
                columns.load(&b[start * n + first..], n, count, width, arithmetic.b_min);
            }
            for i in 0..m {
                let range = i * k + start..i * k + start + count;
                let row = Row { values: &a[range.clone()], exponents: &exponents[range] };
                let of_a = scales.map_or(0, |scales| scales.a[i * groups + group]);
                let out = &mut d[i * n + first..][..width];
                let shift = of_b.map(|of_b| of_b + of_a);
                let sum = |lanes: &mut [f32; W]| {
                    possible && kernel.sum(rounding, row, &columns, scales.map(|_| &shift), lanes)
                };
                // Whole blocks are added in place.
                let done = if let Ok(lanes) = <&mut [f32; W]>::try_from(&mut *out) {
                    sum(lanes)
                } else {
                    let mut lanes = [0.0; W];
                    lanes[..width].copy_from_slice(out);
                    let done = sum(&mut lanes);
                    out.copy_from_slice(&lanes[..width]);
                    done
                };
                if !done {
                    for (j, out) in out.iter_mut().enumerate() {
                        let column = b[start * n + first + j..].iter().step_by(n).copied();
                        *out = exact::group(arithmetic, row.values, column, of_a + of_b[j], *out);
                    }
                }
            }
        }
    }
}

impl<const W: usize> Columns<W> {
    #[inline(always)]
    fn load(&mut self, b: &[f32], stride: usize, count: usize, width: usize, min: i32) {
        for l in 0..count {
            match b[l * stride..].first_chunk::<W>() {
                Some(whole) if width == W => self.values[l] = *whole,
                _ => self.values[l][..width].copy_from_slice(&b[l * stride..][..width]),
            }
            for (out, x) in self.exponents[l].iter_mut().zip(&self.values[l]) {
                *out = exponent(*x, min);
            }
        }
    }
}

/// `sum * 2^power` to the nearest `f16`.
#[inline(always)]
pub fn nearest_f16(sum: f64, power: i32) -> f32 {
    let scale = f64::from_bits(((power + 1023) as u64) << 52);
    // A result that is zero is positive.
    Format::F16.decode(u32::from(f16_rn(odd_f32(sum * scale)))) + 0.0
}

/// Bits of a `f64` that the rounding of a sum drops.
#[inline(always)]
pub const fn dropped(result: Sum) -> u64 {
    match result {
        Sum::F32Short => (1 << (52 - 13)) - 1,
        Sum::F32 | Sum::F16 => (1 << (52 - 23)) - 1,
    }
}
