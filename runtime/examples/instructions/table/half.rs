//! Arithmetic and approximate functions of f16 and bf16, alone and in pairs.

use super::{BF16, BF16X2, F16, F16X2};
use crate::test::{FROM_86, FROM_90, Kind, Test};

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    for (ty, kind) in [("f16", F16), ("f16x2", F16X2)] {
        halves(&mut out, ty, kind);
    }
    for (ty, kind) in [("bf16", BF16), ("bf16x2", BF16X2)] {
        brains(&mut out, ty, kind);
    }
    out
}

fn push(out: &mut Vec<Test>, op: String, kind: Kind, operands: usize) -> &mut Test {
    let at = out.len();
    out.push(Test::plain(&op, kind, &[kind; 3][..operands]).threads(2048));
    &mut out[at]
}

fn halves(out: &mut Vec<Test>, ty: &str, kind: Kind) {
    for ftz in ["", ".ftz"] {
        for sat in ["", ".sat"] {
            for (op, operands) in [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)] {
                push(out, format!("{op}.rn{ftz}{sat}.{ty}"), kind, operands);
            }
        }
        push(out, format!("fma.rn{ftz}.relu.{ty}"), kind, 3);
        for op in ["neg", "abs"] {
            push(out, format!("{op}{ftz}.{ty}"), kind, 1);
        }
        for op in ["min", "max"] {
            for nan in ["", ".NaN"] {
                push(out, format!("{op}{ftz}{nan}.{ty}"), kind, 2);
            }
        }
    }
    for op in ["min", "max"] {
        for nan in ["", ".NaN"] {
            push(out, format!("{op}{nan}.xorsign.abs.{ty}"), kind, 2).targets = FROM_86;
        }
    }
    // Without the rounding's name, products and sums may be fused; alone they are the same.
    push(out, format!("add.{ty}"), kind, 2);
    push(out, format!("mul.{ty}"), kind, 2);
    push(out, format!("tanh.approx.{ty}"), kind, 1);
    push(out, format!("ex2.approx.{ty}"), kind, 1);
    let oob = push(out, format!("fma.rn.oob.{ty}"), kind, 3);
    (oob.targets, oob.version) = (FROM_90, 81);
}

fn brains(out: &mut Vec<Test>, ty: &str, kind: Kind) {
    for op in ["add", "sub", "mul"] {
        let test = push(out, format!("{op}.rn.{ty}"), kind, 2);
        (test.targets, test.version) = (FROM_90, 78);
    }
    for op in ["fma.rn", "fma.rn.relu"] {
        push(out, format!("{op}.{ty}"), kind, 3);
    }
    for op in ["neg", "abs"] {
        push(out, format!("{op}.{ty}"), kind, 1);
    }
    for op in ["min", "max"] {
        for nan in ["", ".NaN"] {
            push(out, format!("{op}{nan}.{ty}"), kind, 2);
            push(out, format!("{op}{nan}.xorsign.abs.{ty}"), kind, 2).targets = FROM_86;
        }
    }
    for op in ["tanh.approx", "ex2.approx.ftz"] {
        let test = push(out, format!("{op}.{ty}"), kind, 1);
        (test.targets, test.version) = (FROM_90, 78);
    }
    let oob = push(out, format!("fma.rn.oob.{ty}"), kind, 3);
    (oob.targets, oob.version) = (FROM_90, 81);
}
