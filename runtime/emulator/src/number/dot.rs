//! What NVIDIA's tensor cores compute: the sums of `mma`, `wgmma` and `tcgen05.mma`.
//!
//! Tensor cores do not add in IEEE arithmetic. For each output they take a group of products and the accumulator,
//! align all of them to the largest exponent, cut every addend off (toward zero) some bits below that, add exactly
//! and round once; the result is the accumulator of the next group. `Arithmetic` is the parameters of that, and
//! `arithmetic` the table of them for each generation. Values come decoded (`format`), row-major; how they lie in
//! registers or shared memory is not known here.
//!
//! Sources: Xie et al., "MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix Cores", arXiv 2511.10909;
//! Fasi et al., "Numerical behavior of NVIDIA tensor cores", PeerJ CS 2021; Khattak and Mikaitis, "Accurate Models of
//! NVIDIA Tensor Cores", arXiv 2512.07004. For sm_90 it agrees bit for bit with an H100 on random operands of every
//! kind (`mma.sync` and `wgmma` on `bf16`, `f16`, `tf32` and 8-bit floats).

mod exact;
mod fast;
mod integer;
mod portable;
mod scaled;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use integer::{Overflow, matmul_i32};
pub use scaled::{ScaledError, Scales, matmul_scaled};

use super::float::add_rn;
use super::format::{Format, Round, Saturate};

/// A generation of tensor cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// sm_80, sm_86, sm_87.
    Ampere,
    /// sm_89.
    Ada,
    /// sm_90.
    Hopper,
    /// sm_100, sm_103.
    Blackwell,
    /// sm_120, sm_121.
    RtxBlackwell,
}

impl Generation {
    /// That of a chip, by its compute capability as a number of two or three digits.
    #[must_use]
    pub const fn of(sm: u32) -> Option<Generation> {
        Some(match sm {
            80 | 86 | 87 | 88 => Self::Ampere,
            89 => Self::Ada,
            90 => Self::Hopper,
            100..=110 => Self::Blackwell,
            120 | 121 => Self::RtxBlackwell,
            _ => return None,
        })
    }
}

/// What an exact sum becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sum {
    /// `f32`, rounded toward zero; an exponent above its range is infinity.
    F32,
    /// As `F32` with only 13 bits of fraction, the others zero.
    F32Short,
    /// `f16`, rounded to nearest even.
    F16,
}

/// How a tensor core adds: the parameters of one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arithmetic {
    /// Products added at once, before a rounding. A `k` that is no multiple ends in a smaller group.
    pub group: usize,
    /// Bits kept below the binary point of the addend with the largest exponent.
    pub fraction_bits: i32,
    /// The result of each group.
    pub result: Sum,
    /// Least exponent of an element of A; a subnormal one is aligned as if it had this.
    pub a_min: i32,
    /// Least exponent of an element of B.
    pub b_min: i32,
    /// Whether it is `mma.sync` of 8-bit floats by instructions on `f16`, see `mma_arithmetic`.
    pub emulated: bool,
}

/// Slices whose lengths do not fit the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operand} has {found} elements where the shape has {expected}")]
pub struct ShapeError {
    /// Which operand.
    pub operand: &'static str,
    /// What the shape asks for.
    pub expected: usize,
    /// The slice's length.
    pub found: usize,
}

/// Exponent that stands for a zero: below that of any product.
const ZERO: i32 = -10_000;

/// Exponent that stands for infinity or NaN: above that of any product, also beside a zero.
const SPECIAL: i32 = 20_000;

impl Sum {
    /// Bits of fraction that are kept.
    #[must_use]
    pub const fn fraction_bits(self) -> i32 {
        match self {
            Self::F32 => 23,
            Self::F32Short => 13,
            Self::F16 => 10,
        }
    }

    /// Least exponent of an accumulator.
    const fn min_exponent(self) -> i32 {
        match self {
            Self::F32 | Self::F32Short => Format::F32.min_exponent(),
            Self::F16 => Format::F16.min_exponent(),
        }
    }
}

/// How the native instructions of a generation multiply `a` by `b` into `accumulator`, `None` where none does.
///
/// Scaled products (`kind::mxf8f6f4`) of 8, 6 and 4-bit elements have the same arithmetic; `matmul_scaled` takes it
/// with scales. Where `mma.sync` has no native instruction, `mma_arithmetic` is to be asked.
#[must_use]
pub fn arithmetic(generation: Generation, a: Format, b: Format, accumulator: Format) -> Option<Arithmetic> {
    use Format::{Bf16, E2m1, E2m3, E3m2, E4m3, E5m2, F16, F32, Tf32};
    use Generation::{Ada, Ampere, Blackwell, Hopper, RtxBlackwell};
    // (A and B, products at once, fraction bits, short result)
    let (group, fraction_bits, short) = match (generation, a, b) {
        (Ampere | Ada, Tf32, Tf32) => (4, 24, false),
        (Ampere | Ada, F16, F16) | (Ampere | Ada, Bf16, Bf16) => (8, 24, false),
        (Ada, E4m3 | E5m2, E4m3 | E5m2) => (16, 13, true),
        (Hopper | Blackwell | RtxBlackwell, Tf32, Tf32) => (8, 25, false),
        (Hopper | Blackwell | RtxBlackwell, F16, F16) => (16, 25, false),
        (Hopper | Blackwell | RtxBlackwell, Bf16, Bf16) => (16, 25, false),
        (Hopper, E4m3 | E5m2, E4m3 | E5m2) => (32, 13, true),
        (Blackwell | RtxBlackwell, E4m3 | E5m2 | E3m2 | E2m3 | E2m1, E4m3 | E5m2 | E3m2 | E2m3 | E2m1) => {
            (32, 25, false)
        }
        _ => return None,
    };
    let result = match accumulator {
        F32 if short => Sum::F32Short,
        F32 => Sum::F32,
        F16 if !matches!(a, Tf32 | Bf16) => Sum::F16,
        _ => return None,
    };
    Some(Arithmetic {
        group,
        fraction_bits,
        result,
        a_min: a.min_exponent(),
        b_min: b.min_exponent(),
        emulated: false,
    })
}

/// As `arithmetic`, for `mma.sync`.
///
/// The tensor cores of sm_90 and sm_100 take 8-bit floats from shared memory only (`wgmma`, `tcgen05.mma`). Their
/// `mma.sync` of those is two instructions on `f16`, which holds the values exactly, each on half of k: the products of
/// the first, whose k is 0 or 1 modulo 4, are added to zero, then those of the second, where it is 2 or 3 (the two
/// halves of a register), and the accumulator is added to that with rounding to nearest even. So measured on an H100
/// with k of 16 and 32, assumed of sm_100.
#[must_use]
pub fn mma_arithmetic(
    generation: Generation,
    a: Format,
    b: Format,
    accumulator: Format,
) -> Option<Arithmetic> {
    let eight = |format| matches!(format, Format::E4m3 | Format::E5m2);
    match generation {
        Generation::Hopper | Generation::Blackwell if eight(a) && eight(b) => {
            let found = arithmetic(generation, Format::F16, Format::F16, accumulator)?;
            Some(Arithmetic { emulated: true, ..found })
        }
        _ => arithmetic(generation, a, b, accumulator),
    }
}

/// The k of an emulated `mma.sync`.
const EMULATED_K: usize = 32;

/// `d = a * b + d` as a tensor core computes it: A is m x k, B k x n, D m x n, all row-major and decoded.
///
/// One call is one instruction or several that follow each other along k. NaN in, infinity times zero and infinities
/// of both signs give the canonical NaN.
///
/// # Errors
/// Where a slice does not have the shape's length.
pub fn matmul(
    arithmetic: &Arithmetic,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    b: &[f32],
    d: &mut [f32],
) -> Result<(), ShapeError> {
    check("A", m.saturating_mul(k), a.len())?;
    check("B", k.saturating_mul(n), b.len())?;
    check("D", m.saturating_mul(n), d.len())?;
    if arithmetic.emulated {
        for start in (0..k).step_by(EMULATED_K) {
            emulated(arithmetic, [m, n, k], start, a, b, d);
        }
    } else {
        fast::matmul(fast::Task { arithmetic, shape: [m, n, k], a, b, scales: None }, d);
    }
    Ok(())
}

/// One `mma.sync` of the elements from `start` on, as `mma_arithmetic` says.
fn emulated(
    arithmetic: &Arithmetic,
    [m, n, k]: [usize; 3],
    start: usize,
    a: &[f32],
    b: &[f32],
    d: &mut [f32],
) {
    let elements = start..k.min(start + EMULATED_K);
    let (first, second): (Vec<_>, Vec<_>) = elements.partition(|l| l % 4 < 2);
    let arithmetic = &Arithmetic { group: first.len(), ..*arithmetic };
    let order = [first, second].concat();
    let part_of_a: Vec<f32> = (0..m).flat_map(|i| order.iter().map(move |l| a[i * k + l])).collect();
    let part_of_b: Vec<f32> = order.iter().flat_map(|l| b[l * n..][..n].iter().copied()).collect();
    let mut sums = vec![0.0; d.len()];
    let task =
        fast::Task { arithmetic, shape: [m, n, order.len()], a: &part_of_a, b: &part_of_b, scales: None };
    fast::matmul(task, &mut sums);
    for (out, sum) in d.iter_mut().zip(sums) {
        *out = match arithmetic.result {
            Sum::F32 | Sum::F32Short => add_rn(sum, *out),
            Sum::F16 => {
                // The sum of two f16 is exact in f64.
                let sum = f64::from(sum) + f64::from(*out);
                Format::F16.decode(Format::F16.encode(sum, Round::Near, Saturate::NONE))
            }
        };
    }
}

fn check(operand: &'static str, expected: usize, found: usize) -> Result<(), ShapeError> {
    if expected == found { Ok(()) } else { Err(ShapeError { operand, expected, found }) }
}

/// The exponent by which `x` is aligned: at least `min`, `ZERO` for zero, `SPECIAL` for infinity and NaN.
#[inline(always)]
fn exponent(x: f32, min: i32) -> i32 {
    let bits = x.to_bits() & 0x7fff_ffff;
    let finite = ((bits >> 23) as i32 - 127).max(min);
    let nonzero = if bits >= 0x7f80_0000 { SPECIAL } else { finite };
    if bits == 0 { ZERO } else { nonzero }
}

#[cfg(test)]
mod tests;
