//! What the products of a kernel may be off by because matrix units cut off what they add.
//!
//! A unit adds a group of products to the sum so far, and cuts the result off, toward 0, so many bits behind its first one; 13 where the
//! factors are e4m3, but for Blackwell. (The table is the emulator's, `runtime/emulator/src/number/dot.rs`, with its sources.) K inputs are
//! `N = K / group` sums. With u the last of those bits,
//!
//! * each cuts off half of u in the mean, of a sum that is no greater than the result where the result is great: `N u / 2` of it;
//! * what is cut off the addends has either sign. In a random walk of N sums it grows to `0.4 u sqrt(N)` of the greatest of many results, five
//!   standard deviations of it to `2 u sqrt(N)`.
//!
//! Not here: other orders of sums in f32, which every tolerance has room for.

use trtc_ir::ops::{GatedLinear, Linear};
use trtc_ir::target::{Gpu, MatrixUnit};
use trtc_ir::{DType, Elem, Module, Op, Scheme, Target};

/// How often sums are cut off, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Sums that are cut off, one after the other.
    pub sums: f32,
    /// The last bit that is kept, as a part of the first.
    pub last: f32,
}

impl Cut {
    /// Nothing is.
    pub const NONE: Cut = Cut { sums: 0.0, last: 0.0 };

    /// What the products of a contract suffer on a target; of several the most.
    pub fn of(contract: &Module, target: &str) -> Cut {
        let Some(gpu) = Target::named(target).and_then(|target| target.gpu.as_ref()) else {
            return Cut::NONE;
        };
        let of_op = |op: &Op| match op {
            Op::Linear(Linear { weight, .. }) => Some((*weight, 1.0)),
            // The error of a product of two is the sum of theirs.
            Op::GatedLinear(GatedLinear { weight, .. }) => Some((*weight, 2.0)),
            _ => None,
        };
        let products = contract.func.order.iter().filter_map(|&id| of_op(&contract.func.ops[id].op));
        let cuts = products.map(|(weight, factors)| {
            let ty = &contract.weights[weight].ty;
            let inputs = ty.shape().and_then(|shape| shape.last().copied()).unwrap_or(0) as f32;
            let short = ty.elem == Elem::Quant(Scheme::FP8) && is_short(gpu);
            let warpgroups = gpu.matrix.contains(&MatrixUnit::Wgmma);
            let bytes = if warpgroups { 32.0 } else { 16.0 };
            let (group, bits) = if short { (bytes, 13) } else { (bytes / 2.0, 23) };
            Cut { sums: factors * (inputs / group).ceil(), last: 2f32.powi(-bits) }
        });
        cuts.max_by(|a, b| a.of_result().total_cmp(&b.of_result())).unwrap_or(Cut::NONE)
    }

    /// A part of each result.
    pub fn of_result(self) -> f32 {
        self.sums * self.last / 2.0
    }

    /// A part of the greatest result.
    pub fn of_greatest(self) -> f32 {
        2.0 * self.sums.sqrt() * self.last
    }
}

/// True of a GPU that multiplies e4m3 and keeps few bits of the sums.
fn is_short(gpu: &Gpu) -> bool {
    gpu.matrix_types.contains(&DType::F8E4M3) && gpu.capability.0 < 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_ir::random::Random;

    /// A sum of products as a unit with 13 bits for groups of 32 makes it.
    fn cut_off(products: &[f64]) -> f64 {
        let exponent = |v: f64| v.abs().max(f64::MIN_POSITIVE).log2().floor() as i32;
        let cut = |v: f64, last: i32| (v / 2f64.powi(last)).trunc() * 2f64.powi(last);
        products.chunks(32).fold(0.0, |sum, group| {
            let addends = || group.iter().copied().chain([sum]);
            let last = addends().map(exponent).max().unwrap_or(0) - 13;
            let sum = addends().map(|v| cut(v, last)).sum::<f64>();
            cut(sum, exponent(sum) - 13)
        })
    }

    #[test]
    fn what_units_cut_off_is_within_the_bound_and_not_far_within() {
        let mut random = Random::new(5);
        for inputs in [64, 512, 4096, 14_336] {
            let cut = Cut { sums: inputs as f32 / 32.0, last: 2f32.powi(-13) };
            let mut results = Vec::new();
            for _ in 0..400 {
                let products: Vec<f64> =
                    (0..inputs).map(|_| f64::from(random.signed() * random.signed())).collect();
                results.push((cut_off(&products), products.iter().sum::<f64>()));
            }
            let greatest = results.iter().fold(0f64, |most, (_, want)| most.max(want.abs()));
            let part = |&(got, want): &(f64, f64)| {
                let allowed =
                    f64::from(cut.of_result()) * want.abs() + f64::from(cut.of_greatest()) * greatest;
                (got - want).abs() / allowed
            };
            let worst = results.iter().map(part).fold(0.0, f64::max);
            assert!((0.15..1.0).contains(&worst), "{inputs} inputs: {worst}");
        }
    }

    #[test]
    fn only_units_for_e4m3_keep_few_bits() {
        let of = |elem: &str, x: &str, target: &str| {
            let text = format!(
                "llm.module @k dims(T in 1..64) {{\n  llm.weight @w : tensor<32x4096x{elem}> from [\"w\"]\n  \
                 llm.func @f(%x: tensor<Tx4096x{x}>) {{\n    %y = llm.linear %x, @w : tensor<Tx32xf32>\n    \
                 llm.return %y\n  }}\n}}\n"
            );
            Cut::of(&trtc_ir::text::parse(&text, "contract").expect("a module"), target)
        };
        let e4m3 = |target| of("!quant<f8E4M3FN:f32, channel>", "!quant<f8E4M3FN:f32, token>", target);
        let bf16 = |target| of("bf16", "bf16", target);
        let bits = |sums, bits: i32| Cut { sums, last: 2f32.powi(-bits) };
        assert_eq!((e4m3("sm_89"), e4m3("sm_90")), (bits(256.0, 13), bits(128.0, 13)));
        assert_eq!((bf16("sm_80"), bf16("sm_90")), (bits(512.0, 23), bits(256.0, 23)));
        assert_eq!((e4m3("sm_80"), e4m3("sm_120")), (bits(512.0, 23), bits(512.0, 23)));
        assert_eq!((e4m3("host"), bf16("host")), (Cut::NONE, Cut::NONE));
    }
}
