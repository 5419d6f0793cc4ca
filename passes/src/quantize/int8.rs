//! `int8`: weight-only, symmetric, `w = q * scale` with one f32 scale for each output channel.
//!
//! Any width divides, so it is also what other schemes fall back to. Activations stay as they are.

use super::WeightScheme;
use trtc_ir::{Elem, Scheme};

/// Weight-only INT8.
pub const INT8: WeightScheme = WeightScheme {
    name: "int8",
    elem: |_| Some(Elem::Quant(Scheme::INT8)),
    otherwise: None,
    needs: "nothing",
};
