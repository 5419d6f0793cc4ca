//! What the products of a kernel may be off by because matrix units cut off what they add.
//!
//! A unit adds a group of products to the sum so far, and cuts the result off, toward 0, so many bits behind its first one
//! (`trtc_emulator::number::dot`, with its sources). K inputs are `N = K / group` sums. With u the last of those bits,
//!
//! * each cuts off half of u in the mean, of a sum that is no greater than the result where the result is great: `N u / 2` of it;
//! * what is cut off the addends has either sign. In a random walk of N sums it grows to `0.4 u sqrt(N)` of the greatest of many results, five
//!   standard deviations of it to `2 u sqrt(N)`.
//!
//! Not here: other orders of sums in f32, which every tolerance has room for.

use trtc_emulator::number::dot::{Arithmetic, Generation, arithmetic};
use trtc_emulator::number::format::Format;
use trtc_ir::ops::{GatedLinear, Linear};
use trtc_ir::target::Gpu;
use trtc_ir::{DType, Elem, Module, Op, OpData, OpId, Scheme, Target};

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
        let cuts = products(contract).map(|Factors { weights, inputs, count }| {
            unit_for(gpu, weights).map_or(Cut::NONE, |unit| Cut::by(&unit, count * inputs))
        });
        cuts.fold(Cut::NONE, Cut::most)
    }

    /// What a unit cuts off of so many inputs.
    fn by(unit: &Arithmetic, inputs: f32) -> Cut {
        let sums = (inputs / unit.group as f32).ceil();
        Cut { sums, last: 2f32.powi(-unit.result.fraction_bits()) }
    }

    /// The greater of two.
    pub fn most(self, other: Cut) -> Cut {
        if self.of_result() < other.of_result() { other } else { self }
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

/// A product of a contract.
struct Factors<'a> {
    weights: &'a Elem,
    inputs: f32,
    /// Products that are multiplied with each other: the error is the sum of theirs.
    count: f32,
}

fn products(contract: &Module) -> impl Iterator<Item = Factors<'_>> {
    let of_op = |op: &Op| match op {
        Op::Linear(Linear { weight, .. }) => Some((*weight, 1.0)),
        Op::GatedLinear(GatedLinear { weight, .. }) => Some((*weight, 2.0)),
        _ => None,
    };
    contract.func.order.iter().filter_map(move |&id| of_op(&contract.func.ops[id].op)).map(
        |(weight, count)| {
            let ty = &contract.weights[weight].ty;
            let inputs = ty.shape().and_then(|shape| shape.last().copied()).unwrap_or(0);
            Factors { weights: &ty.elem, inputs: inputs as f32, count }
        },
    )
}

/// What products may be off by, as a part of the greatest result, because a norm in front of them, in the same kernel, rounds to the other
/// bf16 what is next to the middle of two: an element is then off by their distance, up to `2^-7` of itself. Elements and weights
/// are up to four of their standard deviations, and the greatest of many results of K inputs is about four of theirs, `sqrt(K)` times
/// the product of those.
pub fn norms_round(contract: &Module) -> f32 {
    let is_norm = |&id: &OpId| {
        let OpData { op, results, .. } = &contract.func.ops[id];
        let made = results.first().and_then(|&v| contract.func.values[v].ty.tensor());
        matches!(op, Op::RmsNorm(_)) && made.is_some_and(|ty| ty.elem == Elem::Plain(DType::Bf16))
    };
    if !contract.func.order.iter().any(is_norm) {
        return 0.0;
    }
    let off = |Factors { inputs, count, .. }: Factors<'_>| count * 4.0 * 2f32.powi(-7) / inputs.sqrt();
    products(contract).map(off).fold(0.0, f32::max)
}

/// How a GPU adds products with such weights: what it does not multiply natively becomes bf16.
fn unit_for(gpu: &Gpu, weights: &Elem) -> Option<Arithmetic> {
    let (major, minor) = gpu.capability;
    let generation = Generation::of(10 * major + minor)?;
    let of = |format| arithmetic(generation, format, format, Format::F32);
    let own = if *weights == Elem::Quant(Scheme::FP8) { of(Format::E4m3) } else { None };
    own.or_else(|| of(Format::Bf16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_emulator::number::dot::matmul;
    use trtc_ir::numerics::round;
    use trtc_ir::random::Random;

    /// Results of a kind of products of so many inputs on a Hopper, each beside what it should be.
    fn results(unit: &Arithmetic, dtype: DType, inputs: usize) -> Vec<(f64, f64)> {
        const ROWS: usize = 20;
        let mut random = Random::new(5);
        let mut factors =
            || (0..ROWS * inputs).map(|_| round(random.signed() * 448.0, dtype)).collect::<Vec<f32>>();
        // (rows, inputs) and (inputs, rows).
        let (a, b) = (factors(), factors());
        let mut got = vec![0f32; ROWS * ROWS];
        matmul(unit, ROWS, ROWS, inputs, &a, &b, &mut got).expect("shapes");
        let want = |at: usize| {
            let product =
                |i: usize| f64::from(a[at / ROWS * inputs + i]) * f64::from(b[i * ROWS + at % ROWS]);
            (0..inputs).map(product).sum::<f64>()
        };
        got.iter().enumerate().map(|(at, &got)| (f64::from(got), want(at))).collect()
    }

    #[test]
    fn what_units_cut_off_is_within_the_bound_and_not_far_within() {
        for (format, dtype) in [(Format::E4m3, DType::F8E4M3), (Format::Bf16, DType::Bf16)] {
            let unit = arithmetic(Generation::Hopper, format, format, Format::F32).expect("a unit");
            for inputs in [64, 512, 4096, 14_336] {
                let cut = Cut::by(&unit, inputs as f32);
                let results = results(&unit, dtype, inputs);
                let greatest = results.iter().fold(0f64, |most, (_, want)| most.max(want.abs()));
                let part = |&(got, want): &(f64, f64)| {
                    let of_result = f64::from(cut.of_result()) * want.abs();
                    (got - want).abs() / (of_result + f64::from(cut.of_greatest()) * greatest)
                };
                let worst = results.iter().map(part).fold(0.0, f64::max);
                assert!((0.1..1.0).contains(&worst), "{inputs} inputs in {dtype}: {worst}");
            }
        }
    }

    #[test]
    fn some_units_for_e4m3_keep_few_bits() {
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
        assert_eq!((e4m3("sm_80"), e4m3("sm_120")), (bits(512.0, 23), bits(128.0, 23)));
        assert_eq!((e4m3("host"), bf16("host")), (Cut::NONE, Cut::NONE));
    }

    #[test]
    fn norms_in_front_of_a_product_move_results_by_less_than_an_input_that_is_left_out() {
        let of = |norm: &str, inputs: u32| {
            let text = format!(
                "llm.module @k dims(T in 1..64) {{\n  llm.weight @n : tensor<{inputs}xf32> from [\"n\"]\n  \
                 llm.weight @w : tensor<32x{inputs}xbf16> from [\"w\"]\n  \
                 llm.func @f(%x: tensor<Tx{inputs}xbf16>) {{\n    {norm}\n    \
                 %y = llm.linear %r, @w : tensor<Tx32xbf16>\n    llm.return %y\n  }}\n}}\n"
            );
            norms_round(&trtc_ir::text::parse(&text, "contract").expect("a module"))
        };
        for inputs in [64, 4096, 14_336] {
            let norm = format!("%r = llm.rms_norm %x, @n {{eps = 1e-6}} : tensor<Tx{inputs}xbf16>");
            let moved = of(&norm, inputs);
            // A product of two standard deviations beside the greatest result, four of `sqrt(K)` times as much.
            let left_out = 0.25 / (inputs as f32).sqrt();
            assert!(0.0 < moved && 4.0 * moved < left_out, "{inputs}: {moved}");
        }
        assert_eq!(of("%r = llm.add %x, %x : tensor<Tx64xbf16>", 64), 0.0);
    }
}
