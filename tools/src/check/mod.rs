//! Kernels of an engine on its device, compared with the reference semantics of their contracts.
//!
//! A kernel gets random inputs and weights of its own; the memory that it writes is filled with NaN before, and what
//! lies behind it must stay so. A kernel that reads the cache reads what the engine's own append has stored there: how
//! keys and values lie in a page is between a device's kernels, but for e4m3 on GPUs (`caches.rs`). Nothing here times anything; `trtc bench kernel` uses the
//! same memory, tables and contracts.

pub mod caches;
pub mod case;
pub mod inputs;
pub mod memory;
pub mod products;
pub mod quantised;
pub mod requests;
pub mod rounded;
pub mod sampling;

pub use case::{Outcome, check};

use crate::render::Failure;
use memory::Memory;
use products::{Cut, norms_round};
use trtc_engine::EngineFile;
use trtc_engine::manifest::{Arg, Dtype, Steps};
use trtc_ir::target::MatrixUnit;
use trtc_ir::{DType, Module, Op, Target, ValueId};
use trtc_runtime::device::Device;

/// How far a result may be off: units in the last place of the result's type, a part of the result and one of the greatest result.
pub struct Tolerance {
    ulps: f32,
    of_result: f32,
    of_greatest: f32,
}

impl Tolerance {
    const EXACT: Tolerance = Tolerance { ulps: 0.0, of_result: 0.0, of_greatest: 0.0 };
    const ATTENTION: Tolerance = Tolerance { ulps: 2.0, of_result: 0.0, of_greatest: 4e-3 };

    /// For an op. Sums are added up in another order than the reference's; attention besides reads keys that were
    /// rounded after a rotation in approximate arithmetic, where they are not e4m3 (`caches.rs`); the key of a chain that appends to an e4m3 cache may be rounded to
    /// the next code, which moves its score by up to a fourteenth of its greatest element; so may a chain's query that is rounded, but it
    /// moves those of all keys at once, each another way. Matrix units cut off what they add (`products.rs`).
    fn of(module: &Module, (target, steps): (&str, Steps)) -> Tolerance {
        let Some(op) = op_of(module) else { return Tolerance::EXACT };
        match op {
            Op::Attention(_) if rounds_keys(module) => {
                Tolerance { of_greatest: 1.5e-2, ..Tolerance::ATTENTION }
            }
            Op::Attention(op) if op.products.is_some() && appends(module) => {
                Tolerance { of_greatest: 8e-3, ..Tolerance::ATTENTION }
            }
            // Weights may be rounded: each by 2^-4 of itself, and a value is no more than the greatest result, which may be of a single
            // key. Only there are kernels that have a use for it.
            Op::Attention(op)
                if op.products.is_some()
                    && is_e4m3(module, op.kv)
                    && steps != Steps::Decode
                    && rounds_weights(target) =>
            {
                Tolerance { of_greatest: 0.0625, ..Tolerance::ATTENTION }
            }
            Op::Attention(_) => Tolerance::ATTENTION,
            _ => {
                let cut = Cut::of(module, target);
                let of_greatest = 5e-6 + cut.of_greatest() + norms_round(module);
                Tolerance { ulps: 1.01, of_result: cut.of_result(), of_greatest }
            }
        }
    }

    /// The part of the tolerance that an error takes: up to 1 is right. NaN is as wrong as can be.
    fn part(&self, got: f32, want: f32, greatest: f32, bf16: bool) -> f32 {
        // Spacing of the type's numbers around the result, at least that of the least normal ones.
        let unit = if bf16 { 2f32.powi(-7) } else { f32::EPSILON };
        let spacing = unit * 2f32.powi(want.abs().max(f32::MIN_POSITIVE).log2().floor() as i32);
        let allowed = self.ulps * spacing + self.of_result * want.abs() + self.of_greatest * greatest;
        let off = (got - want).abs() / allowed;
        if got == want {
            0.0
        } else if off.is_nan() {
            f32::INFINITY
        } else {
            off
        }
    }
}

/// Memory for checks of up to `tokens` tokens.
pub fn memory_for(
    device: Box<dyn Device>,
    file: &EngineFile,
    tokens: u32,
    seed: u64,
) -> Result<Memory<'_>, Failure> {
    let m = file.manifest();
    let pages = (1..=tokens as usize).map(|t| requests::pages_for(t, m)).max().unwrap_or(0);
    let most = requests::most_tokens(tokens as usize, m) as u64;
    // Whatever a launch reads and writes lies within the engine's own arena, at its greatest step.
    let step = u64::from(m.dims.max_step_tokens.max(1));
    let tensors = m.launches.iter().map(|l| l.args.iter().filter(|a| matches!(a, Arg::Arena(_))).count());
    let guards = tensors.max().unwrap_or(0) as u64 * 1024;
    let logits = u64::from(m.model.vocab) * most * Dtype::F32.bytes();
    let arena = (m.arena.div_ceil(step) * most).max(logits) * 3 + guards;
    Memory::new(device, file, (arena, most, pages), seed)
}

/// The op of a contract; of a chain the one that ends it.
pub fn op_of(contract: &Module) -> Option<&Op> {
    contract.func.order.last().map(|&id| &contract.func.ops[id].op)
}

/// True if a kernel stores keys and values in the cache.
pub fn appends(contract: &Module) -> bool {
    contract.func.results.iter().any(|&v| contract.func.values[v].ty.kv().is_some())
}

/// True if a kernel makes keys of an e4m3 cache.
fn rounds_keys(contract: &Module) -> bool {
    appends(contract) && contract.func.results.iter().any(|&v| is_e4m3(contract, v))
}

/// True if a target has kernels of attention that round weights: the host, and GPUs with `wgmma`.
fn rounds_weights(target: &str) -> bool {
    let gpu = Target::named(target).and_then(|target| target.gpu.as_ref());
    gpu.is_none_or(|gpu| gpu.matrix.contains(&MatrixUnit::Wgmma))
}

/// True of an e4m3 cache.
fn is_e4m3(contract: &Module, value: ValueId) -> bool {
    contract.func.values[value].ty.kv().is_some_and(|kv| kv.dtype == DType::F8E4M3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_measured_in_units_of_the_type() {
        let t = Tolerance { ulps: 1.0, ..Tolerance::EXACT };
        assert_eq!(t.part(1.0, 1.0, 1.0, true), 0.0);
        assert_eq!(t.part(1.0 + 2f32.powi(-7), 1.0, 1.0, true), 1.0);
        assert_eq!(t.part(1.0 + f32::EPSILON, 1.0, 1.0, false), 1.0);
        assert_eq!(t.part(6.0, 4.0, 1.0, true), 64.0);
        assert_eq!(t.part(f32::NAN, 4.0, 1.0, true), f32::INFINITY);
        assert_eq!(Tolerance { of_greatest: 0.5, ..Tolerance::EXACT }.part(3.0, 2.0, 4.0, false), 0.5);
    }
}
