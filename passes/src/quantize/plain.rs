//! `bf16` and `fp32`: weights as plain elements, rounded to nearest-even from what the checkpoint holds.

use super::WeightScheme;
use trtc_ir::{DType, Elem};

/// Plain bf16.
pub const BF16: WeightScheme = WeightScheme {
    name: "bf16",
    elem: |_| Some(Elem::Plain(DType::Bf16)),
    otherwise: None,
    needs: "nothing",
};

/// Plain f32.
pub const FP32: WeightScheme =
    WeightScheme { name: "fp32", elem: |_| Some(Elem::Plain(DType::F32)), otherwise: None, needs: "nothing" };
