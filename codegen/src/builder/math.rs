//! Functions of floating-point values, the approximate ones with their error.

use super::asm::Effect;
use super::{Bf16, Builder, F32, I16, I32, IntoVal, Val, Vector};
use trtc_ir::DType;

impl Builder {
    /// `a * times + plus` of two bf16 in each register, rounded once.
    pub fn fma_bf16x2<'b>(
        &'b self,
        a: Val<'b, I32>,
        times: impl IntoVal<'b, I32>,
        plus: Val<'b, I32>,
    ) -> Val<'b, I32> {
        let times = times.into_val(self);
        self.ptx_value(Effect::Pure, "fma.rn.bf16x2 $0, $1, $2, $3;", &[a.raw(), times.raw(), plus.raw()])
    }

    /// e4m3 codes of four values, the first in the lowest byte: rounded to nearest, ties to even; what is beyond the
    /// largest becomes it.
    pub fn to_e4m3<'b>(&'b self, values: [Val<'b, F32>; 4]) -> Val<'b, I32> {
        self.need("conversions to e4m3", self.gpu.matrix_types.contains(&DType::F8E4M3));
        self.need_ptx(78);
        let two = |low: Val<'b, F32>, high: Val<'b, F32>| -> Val<'b, I16> {
            let text = "cvt.rn.satfinite.e4m3x2.f32 $0, $1, $2;";
            self.ptx_value(Effect::Pure, text, &[high.raw(), low.raw()])
        };
        let [a, b, c, d] = values;
        self.vector([two(a, b), two(c, d)]).bitcast()
    }

    /// Codes of eight values, `values / scale`.
    ///
    /// The quotient by the inverse is corrected to the rounded one, as a division would give it: values that have few bits
    /// themselves often lie in the middle between two codes.
    pub fn e4m3_codes<'b>(
        &'b self,
        values: [Val<'b, F32>; 8],
        [scale, inverse]: [Val<'b, F32>; 2],
    ) -> Val<'b, Vector<I32, 2>> {
        let [a0, a1, a2, a3, a4, a5, a6, a7] = values.map(|v| {
            let near = v * inverse;
            (-near).fma(scale, v).fma(inverse, near)
        });
        self.vector([self.to_e4m3([a0, a1, a2, a3]), self.to_e4m3([a4, a5, a6, a7])])
    }

    /// Two of a word's four e4m3 codes, counted from the lowest byte, as bf16: their values times 2^-120, exact; a code of
    /// NaN becomes 480 times that. Signs are spread over the upper bytes of the halves, exponents go where those of bf16 are,
    /// without the difference of the biases.
    pub fn e4m3_as_bf16<'b>(&'b self, word: Val<'b, I32>, [low, high]: [u32; 2]) -> Val<'b, I32> {
        // Bit 3 of a selector is for the byte's sign.
        let spread = |code: u32| code | (code | 8) << 4;
        let halves = self.permute_bytes(word, word, spread(low) | spread(high) << 8);
        (halves << 4) & i32::from_ne_bytes(0x87f0_87f0u32.to_ne_bytes())
    }

    /// Two of a word's four e4m3 codes, those of its lower or its upper half, as f16: exact, a code of NaN becomes one.
    pub fn e4m3_as_f16<'b>(&'b self, word: Val<'b, I32>, upper: bool) -> Val<'b, I32> {
        self.need("conversions from e4m3", self.gpu.matrix_types.contains(&DType::F8E4M3));
        self.need_ptx(78);
        let [low, high] = word.bitcast::<Vector<I16, 2>>().elements();
        let half = if upper { high } else { low };
        self.ptx_value(Effect::Pure, "cvt.rn.f16x2.e4m3x2 $0, $1;", &[half.raw()])
    }

    /// `a * b` of two f16 in each register.
    pub fn mul_f16x2<'b>(&'b self, a: Val<'b, I32>, b: Val<'b, I32>) -> Val<'b, I32> {
        self.ptx_value(Effect::Pure, "mul.rn.f16x2 $0, $1, $2;", &[a.raw(), b.raw()])
    }

    /// Two values rounded to f16 in one register, `low` in the lower half; infinity from 65520 on.
    pub fn pack_f16<'b>(&'b self, low: Val<'b, F32>, high: Val<'b, F32>) -> Val<'b, I32> {
        self.ptx_value(Effect::Pure, "cvt.rn.f16x2.f32 $0, $1, $2;", &[high.raw(), low.raw()])
    }

    /// Bytes of two words: `selector` has for each byte of the result, the lowest first, four bits: 0 to 3 for the bytes of
    /// `low`, 4 to 7 for those of `high`, and 8 more for eight times the byte's sign.
    pub fn permute_bytes<'b>(&'b self, low: Val<'b, I32>, high: Val<'b, I32>, selector: u32) -> Val<'b, I32> {
        let selector = selector.into_val(self);
        self.ptx_value(Effect::Pure, "prmt.b32 $0, $1, $2, $3;", &[low.raw(), high.raw(), selector.raw()])
    }

    /// The scale of values up to `amax` in e4m3, and its inverse, for [`Builder::e4m3_codes`]. The scale is `amax / 448`, as
    /// its definition has it, and 1 where that is 0 or less than f32 can divide by.
    pub fn e4m3_scale<'b>(&'b self, amax: Val<'b, F32>) -> [Val<'b, F32>; 2] {
        let scale = amax.div_nearest(DType::F8E4M3.max());
        let scale = scale.lt(f32::MIN_POSITIVE).select(1.0f32, scale);
        [scale, self.value(1.0f32).div_nearest(scale)]
    }

    /// `2^e` and `2^-e` of a row of e4m3 times a power of two, whose greatest magnitude is `amax`: [`trtc_ir::quant::power_of`].
    pub fn e4m3_power<'b>(&'b self, amax: Val<'b, F32>) -> [Val<'b, F32>; 2] {
        // 448 is 1.75 * 2^8: a mantissa above 1.75 carries into the exponent.
        let next = (amax.bitcast::<I32>() + 0x1f_ffff) & 0x7f80_0000;
        let power = (next - (8 << 23)).max((127 - 117) << 23);
        [power.bitcast(), (self.value(254 << 23) - power).bitcast()]
    }

    /// Values of a row that `lanes` adjacent lanes have together (a power of two), rounded to e4m3 times a power of two as
    /// [`trtc_ir::quant::round_row`] does. Lanes may repeat values; all take part.
    pub fn round_e4m3<'b, const N: usize>(
        &'b self,
        values: [Val<'b, F32>; N],
        lanes: u32,
    ) -> [Val<'b, F32>; N] {
        let amax = values.iter().fold(self.value(0.0f32), |most, x| most.max(x.abs()));
        let by = self.e4m3_power(self.max_lanes(amax, lanes));
        values.map(|x| x.to_nearest_e4m3(by))
    }

    /// `a & mask | bits` in one instruction, which ptxas does not make of two with constants.
    pub fn and_or<'b>(
        &'b self,
        a: Val<'b, I32>,
        mask: impl IntoVal<'b, I32>,
        bits: impl IntoVal<'b, I32>,
    ) -> Val<'b, I32> {
        let (mask, bits) = (mask.into_val(self), bits.into_val(self));
        let text = "lop3.b32 $0, $1, $2, $3, 0xea;";
        self.ptx_value(Effect::Pure, text, &[a.raw(), mask.raw(), bits.raw()])
    }
}

impl<'b> Val<'b, Bf16> {
    /// Exact.
    pub fn to_f32(self) -> Val<'b, F32> {
        self.convert("llvm.fpext")
    }
}

impl<'b> Val<'b, F32> {
    /// Rounded to nearest, ties to even.
    pub fn to_bf16(self) -> Val<'b, Bf16> {
        self.convert("llvm.fptrunc")
    }

    /// `self * times + plus`, rounded once.
    pub fn fma(self, times: impl IntoVal<'b, F32>, plus: impl IntoVal<'b, F32>) -> Val<'b, F32> {
        let (times, plus) = (times.into_val(self.b), plus.into_val(self.b));
        self.b.op(format_args!("llvm.intr.fma({self}, {times}, {plus}) : (f32, f32, f32) -> f32"))
    }

    /// The nearest e4m3 number times a power of two, ties to even, by the power and its inverse; the value is at most 448 of it.
    /// By arithmetic that every target has; conversions to e4m3 are of sm_89 and newer ones.
    pub fn to_nearest_e4m3(self, [power, inverse]: [Val<'b, F32>; 2]) -> Val<'b, F32> {
        let x = self * inverse;
        // Three bits follow the first one, and below 2^-6 the spacing stays. 1.5 * 2^20 times a power of two has 2^-3 of that for
        // its last bit.
        let first: Val<'b, F32> = (x.bitcast::<I32>() & 0x7f80_0000).bitcast();
        let around = first.max(0.015_625f32) * (1.5 * 1_048_576.0f32);
        (x + around - around) * power
    }

    /// The larger one; a number if one of them is NaN.
    pub fn max(self, other: impl IntoVal<'b, F32>) -> Val<'b, F32> {
        let other = other.into_val(self.b);
        self.b.op(format_args!("llvm.intr.maxnum({self}, {other}) : (f32, f32) -> f32"))
    }

    /// The magnitude.
    pub fn abs(self) -> Val<'b, F32> {
        self.b.op(format_args!("llvm.intr.fabs({self}) : (f32) -> f32"))
    }

    /// `self / by`, rounded to nearest: many instructions.
    pub fn div_nearest(self, by: impl IntoVal<'b, F32>) -> Val<'b, F32> {
        let by = by.into_val(self.b);
        self.b.op(format_args!("llvm.fdiv {self}, {by} : f32"))
    }

    /// The nearest whole number, ties to even.
    pub fn round_even(self) -> Val<'b, F32> {
        self.b.op(format_args!("llvm.intr.rint({self}) : (f32) -> f32"))
    }

    /// `2^self`, `ex2.approx`: relative error 2^-22.
    pub fn exp2(self) -> Val<'b, F32> {
        self.b
            .op(format_args!("llvm.intr.exp2({self}) {{fastmathFlags = #llvm.fastmath<afn>}} : (f32) -> f32"))
    }

    /// Base-2 logarithm, `lg2.approx`: absolute error 2^-22 around 1, relative error 2^-22 elsewhere.
    pub fn log2(self) -> Val<'b, F32> {
        self.b.ptx_value(Effect::Pure, "lg2.approx.f32 $0, $1;", &[self.raw()])
    }

    /// The whole number towards 0; within i32.
    pub fn to_i32(self) -> Val<'b, I32> {
        self.convert("llvm.fptosi")
    }

    /// `2^self`, `ex2.approx.ftz`: relative error 2^-22; 0 where the result is below 2^-126.
    pub fn exp2_flush(self) -> Val<'b, F32> {
        self.intrinsic("ex2.approx.ftz.f")
    }

    /// `1 / sqrt(self)`, `rsqrt.approx`: relative error 2^-22.9.
    pub fn rsqrt(self) -> Val<'b, F32> {
        self.intrinsic("rsqrt.approx.f")
    }

    /// `sin.approx`: absolute error 2^-20.5 in -pi..pi, where the argument has to be.
    pub fn sin_approx(self) -> Val<'b, F32> {
        self.intrinsic("sin.approx.f")
    }

    /// `cos.approx`: absolute error 2^-20.5 in -pi..pi, where the argument has to be.
    pub fn cos_approx(self) -> Val<'b, F32> {
        self.intrinsic("cos.approx.f")
    }

    /// `self / by`, `div.approx`: 2 ulp; 0 where `by` is above 2^126.
    pub fn div_approx(self, by: Val<'b, F32>) -> Val<'b, F32> {
        self.b.op(format_args!(
            "llvm.call_intrinsic \"llvm.nvvm.div.approx.f\"({self}, {by}) : (f32, f32) -> f32"
        ))
    }

    fn intrinsic(self, name: &str) -> Val<'b, F32> {
        self.b.op(format_args!("llvm.call_intrinsic \"llvm.nvvm.{name}\"({self}) : (f32) -> f32"))
    }
}
