//! `int4`: weight-only, `w = (q - zero) * scale` with a bf16 scale and a zero for each group of inputs.
//!
//! The group is the largest of 128, 64 and 32 that divides the inputs: a larger group costs fewer bytes (0.19 bits
//! a weight at 128, 0.75 at 32), and 128 is what AWQ and GPTQ checkpoints use. A width that none divides is stored
//! as int8 by a precision, and refused where a recipe asks for int4 by name.

use super::{INT8, WeightScheme};
use trtc_ir::{Elem, Scheme};

/// Group sizes, best first.
const GROUPS: [u32; 3] = [128, 64, 32];

/// Weight-only INT4.
pub const INT4: WeightScheme = WeightScheme {
    name: "int4",
    elem: |inputs| {
        let group = GROUPS.into_iter().find(|&g| inputs > 0 && inputs % u64::from(g) == 0)?;
        Some(Elem::Quant(Scheme::int4(group)))
    },
    otherwise: Some(&INT8),
    needs: "a number of inputs that 128, 64 or 32 divides",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_group_that_divides_is_taken() {
        let group = |n| (INT4.elem)(n);
        assert_eq!(group(4096), Some(Elem::Quant(Scheme::int4(128))));
        assert_eq!(group(192), Some(Elem::Quant(Scheme::int4(64))));
        assert_eq!(group(96), Some(Elem::Quant(Scheme::int4(32))));
        assert_eq!(group(100), None);
        assert_eq!(INT4.elem_or_otherwise(100), Some(Elem::Quant(Scheme::INT8)));
    }
}
