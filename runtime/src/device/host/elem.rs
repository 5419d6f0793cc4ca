//! Element types as kernels read and write them, and the elementary functions, branch-free so that they vectorise.
//!
//! All arithmetic is in f32; a result is rounded once, when it is stored.

use half::bf16;

/// An element of an activation, a cache or a plain weight.
pub trait Elem: Copy + Send + Sync + 'static {
    /// True if panels hold pairs of them (see `trtc_engine::layout`).
    const PAIRS: bool;

    /// The value.
    fn get(self) -> f32;

    /// The nearest element, ties to even.
    fn put(x: f32) -> Self;
}

impl Elem for f32 {
    const PAIRS: bool = false;

    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    #[inline(always)]
    fn put(x: f32) -> f32 {
        x
    }
}

impl Elem for bf16 {
    const PAIRS: bool = true;

    #[inline(always)]
    fn get(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn put(x: f32) -> bf16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
    }
}

/// Floats of either type that a kernel reads.
#[derive(Clone, Copy, Debug)]
pub enum Floats<'a> {
    /// f32.
    F32(&'a [f32]),
    /// bf16.
    Bf16(&'a [bf16]),
}

/// Floats of either type that a kernel writes.
#[derive(Debug)]
pub enum FloatsMut<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// bf16.
    Bf16(&'a mut [bf16]),
}

/// Rows that a kernel reads, of any type.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Floats.
    Floats(Floats<'a>),
    /// Codes of e4m3, and a scale for each row.
    E4m3(&'a [u8], &'a [f32]),
}

/// Rows that a kernel writes, of any type.
#[derive(Debug)]
pub enum RowsMut<'a> {
    /// Floats.
    Floats(FloatsMut<'a>),
    /// Codes of e4m3, and a scale for each row.
    E4m3(&'a mut [u8], &'a mut [f32]),
}

/// Evaluates an expression with each named `Floats` or `FloatsMut` bound to its slice.
macro_rules! typed {
    ($x:pat = $value:expr => $body:expr) => {
        match $value {
            $crate::device::host::elem::Floats::F32($x) => $body,
            $crate::device::host::elem::Floats::Bf16($x) => $body,
        }
    };
}
pub(super) use typed;

/// Likewise for slices that are written.
macro_rules! typed_mut {
    ($x:pat = $value:expr => $body:expr) => {
        match $value {
            $crate::device::host::elem::FloatsMut::F32($x) => $body,
            $crate::device::host::elem::FloatsMut::Bf16($x) => $body,
        }
    };
}
pub(super) use typed_mut;

/// `a * b + c`, in one rounding where that is an instruction.
#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Below it `e^x` counts as 0.
const LOW: f32 = -87.0;

/// `e^x` within 1e-7 of the value, relative. Below -87 it is 0, NaN stays NaN.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    const HIGH: f32 = 88.722_83; // 128 ln 2
    let c = if LOW > x { LOW } else { x };
    let c = if HIGH < c { HIGH } else { c };
    let (y, shifted) = exp_parts::<FMA>(c);
    // 2^n is added to the exponent, which also reaches n = 128.
    let y = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    let y = if x < LOW { 0.0 } else { y };
    let y = if x >= HIGH { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// `x = n ln 2 + r`, `|r| <= ln 2 / 2`: gives `e^r`, and a float with n in its low bits.
///
/// `e^r = 1 + r + r^2 q(r)`, q of degree 4 with the least greatest relative error (3e-9).
#[inline(always)]
fn exp_parts<const FMA: bool>(x: f32) -> (f32, f32) {
    // 1.5 * 2^23: a sum with it has the rounded integer in its low bits.
    const MAGIC: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has 9 significant bits, so its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<FMA>(n, -LN2_LOW, fma::<FMA>(n, -LN2_HIGH, x));
    let q = fma::<FMA>(1.381_454e-3, r, 8.368_745e-3);
    let q = fma::<FMA>(q, r, 4.166_839e-2);
    let q = fma::<FMA>(q, r, 1.666_652e-1);
    let q = fma::<FMA>(q, r, 4.999_999_3e-1);
    (fma::<FMA>(q, r * r, r) + 1.0, shifted)
}

/// `e^x` for x up to 0, as [`exp`] but with less to look after.
#[inline(always)]
pub fn exp_of_negative<const FMA: bool>(x: f32) -> f32 {
    let c = if LOW > x { LOW } else { x };
    let (y, shifted) = exp_parts::<FMA>(c);
    // A product, so that NaN stays NaN.
    let y = y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LOW { 0.0 } else { y }
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub fn silu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

/// `x / 2 (1 + tanh(u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, which is `x / (1 + e^-2u)`.
#[inline(always)]
pub fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let u = SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp::<FMA>(-2.0 * u))
}

/// `tanh(x)` with an absolute error of 1e-7: `1 - 2 / (1 + e^2x)`.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp::<FMA>(2.0 * x))
}

/// Sum over 32 lanes in a fixed tree. Arrays of each size, which stay in registers.
#[inline(always)]
pub fn lane_sum(lanes: [f32; 32]) -> f32 {
    let a: [f32; 16] = std::array::from_fn(|i| lanes[i] + lanes[i + 16]);
    let a: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
    let a: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
    (a[0] + a[2]) + (a[1] + a[3])
}

/// Sum of `f(x)`, by 32 lanes in the order of the elements, so it depends on nothing but the elements.
#[inline(always)]
pub fn sum_by<X: Elem>(x: &[X], add: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; 32];
    let mut chunks = x.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = add(*lane, v.get());
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = add(*lane, v.get());
    }
    lane_sum(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0f64;
        let mut x = -87.0f32;
        while x < 88.7 {
            for y in [exp::<true>(x), exp::<false>(x)] {
                let want = f64::from(x).exp();
                worst = worst.max(((f64::from(y) - want) / want).abs());
            }
            if x <= 0.0 {
                assert_eq!(exp::<true>(x), exp_of_negative::<true>(x), "{x}");
                assert_eq!(exp::<false>(x), exp_of_negative::<false>(x), "{x}");
            }
            x += 0.000_731;
        }
        assert!(worst < 1.5e-7, "relative error {worst:e}");
        assert_eq!(exp::<true>(0.0), 1.0);
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(-200.0), 0.0);
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp::<true>(100.0), f32::INFINITY);
        assert!(exp::<true>(f32::NAN).is_nan() && exp_of_negative::<true>(f32::NAN).is_nan());
        assert_eq!(exp_of_negative::<true>(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for bits in (0..=u32::MAX).step_by(104_729) {
            let x = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Elem>::put(x), bf16::from_f32(x));
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#x}");
        }
    }

    #[test]
    fn activations_are_close() {
        for i in -2000..2000 {
            let x = i as f32 * 0.01;
            let xd = f64::from(x);
            let s = xd / (1.0 + (-xd).exp());
            let u = (2.0 / std::f64::consts::PI).sqrt() * (xd + 0.044715 * xd * xd * xd);
            let g = xd / 2.0 * (1.0 + u.tanh());
            assert!((f64::from(silu::<true>(x)) - s).abs() <= 3e-7 * s.abs() + 1e-9, "silu {x}");
            assert!((f64::from(gelu_tanh::<true>(x)) - g).abs() <= 2e-6 * g.abs() + 1e-7, "gelu {x}");
            assert!((f64::from(tanh::<true>(x)) - xd.tanh()).abs() <= 2e-7, "tanh {x}");
        }
        assert_eq!(silu::<true>(-200.0), 0.0);
        assert_eq!(silu::<true>(200.0), 200.0);
    }
}
