//! The table of all tests: opcodes of registers, and for each the forms that PTX offers. A family a file. What the
//! operands hold is in `inputs.rs`.

mod convert;
mod float;
mod half;
mod integer;
mod memory;
mod mma;
mod mma_scaled;
mod predicate;
mod warp;
mod wgmma;

use crate::numbers::{self, Format, Top};
use crate::test::{Kind, Range, Target, Test, one, packed};

pub const B16: Kind = one(numbers::B16);
pub const B32: Kind = one(numbers::U32);
pub const B64: Kind = one(numbers::B64);
pub const F16: Kind = one(numbers::F16);
pub const BF16: Kind = one(numbers::BF16);
pub const F32: Kind = one(numbers::F32);
pub const F64: Kind = one(numbers::F64);
pub const F16X2: Kind = packed(numbers::F16, 2);
pub const BF16X2: Kind = packed(numbers::BF16, 2);
pub const F32X2: Kind = packed(numbers::F32, 2);
pub const PRED: Kind = B16.predicate();
/// Shift counts, bit positions, lane numbers: 0 to a little more than there are bits.
pub const COUNT: Kind = B32.within(Range::Below(72));

/// An integer type by its PTX name, in the register that holds it: bytes lie in registers of 16 bits.
pub fn integer_kind(ty: &str) -> Kind {
    let bits: u32 = ty[1..].parse().unwrap_or(32);
    let top = if ty.starts_with('s') { Top::Signed } else { Top::Unsigned };
    one(Format { bits: bits.max(16), exp: 0, man: bits.max(16), pad: 0, top })
}

/// Every test.
pub fn all() -> Vec<Test> {
    let families = [
        integer::tests,
        predicate::tests,
        float::tests,
        half::tests,
        convert::tests,
        warp::tests,
        memory::tests,
        mma::tests,
        mma_scaled::tests,
        wgmma::tests,
    ];
    families.iter().flat_map(|tests| tests()).collect()
}

/// The tests of a target.
pub fn of(target: Target) -> Vec<Test> {
    all().into_iter().filter(|t| t.targets.contains(&target)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_records_have_values() {
        let mut names = BTreeSet::new();
        for test in all() {
            assert!(names.insert(test.name.clone()), "{} twice", test.name);
            assert!(test.total() > 0 && !test.outs.is_empty(), "{}", test.name);
            assert!(test.shared_bytes().is_multiple_of(16 * test.block), "{}", test.name);
        }
    }

    #[test]
    fn files_of_results_are_small() {
        for target in Target::ALL {
            let bytes: usize = of(target).iter().map(Test::output_bytes).sum();
            assert!(bytes < 16 << 20, "{bytes} bytes of outputs on {}", target.name());
        }
    }

    #[test]
    fn targets_have_what_they_add() {
        let has = |target, name: &str| of(target).iter().any(|t| t.name == name);
        assert!(has(Target::Sm80, "add.s32") && !has(Target::Sm80, "fma.rn.f32x2"));
        assert!(has(Target::Sm100a, "fma.rn.f32x2") && !has(Target::Sm90a, "fma.rn.f32x2"));
    }
}
