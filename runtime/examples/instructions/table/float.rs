//! Arithmetic of f32, f64 and pairs of f32, and approximate functions. Halves are in `half.rs`.

use super::{B32, BF16, F16, F32, F32X2, F64};
use crate::test::{ALL, FROM_86, FROM_100, Kind, Test};

const ROUNDINGS: [&str; 4] = ["rn", "rz", "rm", "rp"];

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    single(&mut out);
    double(&mut out);
    pairs(&mut out);
    mixed(&mut out);
    approximate(&mut out);
    out
}

/// A form on 2048 threads, which have all pairs of edge values among them.
fn push(out: &mut Vec<Test>, op: &str, kind: Kind, operands: usize) {
    let all = [kind; 3];
    out.push(Test::plain(op, kind, &all[..operands]).threads(2048));
}

fn single(out: &mut Vec<Test>) {
    for rounding in ROUNDINGS {
        for ftz in ["", ".ftz"] {
            for sat in ["", ".sat"] {
                for (op, operands) in [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)] {
                    push(out, &format!("{op}.{rounding}{ftz}{sat}.f32"), F32, operands);
                }
            }
            push(out, &format!("div.{rounding}{ftz}.f32"), F32, 2);
            push(out, &format!("rcp.{rounding}{ftz}.f32"), F32, 1);
            push(out, &format!("sqrt.{rounding}{ftz}.f32"), F32, 1);
        }
    }
    for ftz in ["", ".ftz"] {
        for op in ["neg", "abs"] {
            push(out, &format!("{op}{ftz}.f32"), F32, 1);
        }
        for op in ["min", "max"] {
            for nan in ["", ".NaN"] {
                push(out, &format!("{op}{ftz}{nan}.f32"), F32, 2);
                let xor = format!("{op}{ftz}{nan}.xorsign.abs.f32");
                out.push(Test::plain(&xor, F32, &[F32, F32]).threads(2048).on(FROM_86, 0));
                let three = format!("{op}{ftz}{nan}.f32/3");
                let body = format!("{op}{ftz}{nan}.f32 %d0, %a0, %a1, %a2;");
                out.push(Test::new(three, &[F32], &[F32; 3], body).on(FROM_100, 88));
            }
        }
    }
    push(out, "copysign.f32", F32, 2);
}

fn double(out: &mut Vec<Test>) {
    for rounding in ROUNDINGS {
        for (op, operands) in
            [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3), ("div", 2), ("rcp", 1), ("sqrt", 1)]
        {
            let test = Test::plain(&format!("{op}.{rounding}.f64"), F64, &[F64; 3][..operands]);
            out.push(test.threads(2048));
        }
    }
    for (op, operands) in [("neg", 1), ("abs", 1), ("min", 2), ("max", 2), ("copysign", 2)] {
        out.push(Test::plain(&format!("{op}.f64"), F64, &[F64; 3][..operands]));
    }
    for op in ["rcp.approx.ftz.f64", "rsqrt.approx.f64", "rsqrt.approx.ftz.f64"] {
        out.push(Test::plain(op, F64, &[F64]));
    }
}

fn pairs(out: &mut Vec<Test>) {
    for rounding in ROUNDINGS {
        for ftz in ["", ".ftz"] {
            for (op, operands) in [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)] {
                let op = format!("{op}.{rounding}{ftz}.f32x2");
                out.push(Test::plain(&op, F32X2, &[F32X2; 3][..operands]).on(FROM_100, 86));
            }
        }
    }
}

/// f32 results of operands of which some are halves.
fn mixed(out: &mut Vec<Test>) {
    for (ty, half) in [("f16", F16), ("bf16", BF16)] {
        for rounding in ROUNDINGS {
            for sat in ["", ".sat"] {
                let name = |op: &str| format!("{op}.{rounding}{sat}.f32.{ty}");
                for op in ["add", "sub"] {
                    out.push(Test::plain(&name(op), F32, &[half, F32]).on(FROM_100, 86));
                }
                out.push(Test::plain(&name("fma"), F32, &[half, half, F32]).on(FROM_100, 86));
            }
        }
    }
}

fn approximate(out: &mut Vec<Test>) {
    for op in ["ex2", "lg2", "sin", "cos", "rcp", "rsqrt", "sqrt"] {
        for ftz in ["", ".ftz"] {
            out.push(Test::plain(&format!("{op}.approx{ftz}.f32"), F32, &[F32]).threads(8192));
        }
    }
    for mode in ["approx", "full"] {
        for ftz in ["", ".ftz"] {
            out.push(Test::plain(&format!("div.{mode}{ftz}.f32"), F32, &[F32, F32]).threads(8192));
        }
    }
    out.push(Test::plain("tanh.approx.f32", F32, &[F32]).threads(8192).on(ALL, 70));
    // Every exponent with 32 mantissas each: what an approximation does over its whole domain.
    for op in
        ["ex2.approx.ftz.f32", "lg2.approx.f32", "rsqrt.approx.f32", "rcp.approx.f32", "tanh.approx.f32"]
    {
        let body = format!(
            "shl.b32 %t0, %thread, 18;\nand.b32 %t1, %a0, 0x3ffff;\nor.b32 %t0, %t0, %t1;\n{op} %d0, %t0;"
        );
        out.push(Test::new(format!("{op}/sweep"), &[F32], &[B32], body).threads(16384));
    }
}
