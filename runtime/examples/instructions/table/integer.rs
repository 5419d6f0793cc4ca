//! Integer arithmetic, shifts, bit fields, logic and moves between registers.

use super::{B16, B32, B64, COUNT, integer_kind};
use crate::numbers;
use crate::test::{ALL, FROM_90, Kind, Range, Test, packed};

/// Few threads: integer instructions have no rounding to look into.
const THREADS: u32 = 512;

const WIDTHS: [(&str, Kind); 3] = [("16", B16), ("32", B32), ("64", B64)];

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    arithmetic(&mut out);
    carries(&mut out);
    shifts(&mut out);
    bits(&mut out);
    logic(&mut out);
    packed_halves(&mut out);
    out.into_iter().map(|t| t.threads(THREADS)).collect()
}

fn arithmetic(out: &mut Vec<Test>) {
    for ty in ["u16", "s16", "u32", "s32", "u64", "s64"] {
        let k = integer_kind(ty);
        let twice = [k, k];
        for op in ["add", "sub", "mul.lo", "mul.hi", "min", "max"] {
            out.push(Test::plain(&format!("{op}.{ty}"), k, &twice));
        }
        for op in ["div", "rem"] {
            out.push(Test::plain(&format!("{op}.{ty}"), k, &[k, k.within(Range::NotZero)]));
        }
        for op in ["mad.lo", "mad.hi"] {
            out.push(Test::plain(&format!("{op}.{ty}"), k, &[k, k, k]));
        }
        if k.bits < 64 {
            let wide = integer_kind(&format!("{}{}", &ty[..1], 2 * k.bits));
            out.push(Test::plain(&format!("mul.wide.{ty}"), wide, &twice));
            out.push(Test::plain(&format!("mad.wide.{ty}"), wide, &[k, k, wide]));
        }
        out.push(Test::plain(&format!("sad.{ty}"), k, &[k, k, k]));
        if ty.starts_with('s') {
            out.push(Test::plain(&format!("abs.{ty}"), k, &[k]));
            out.push(Test::plain(&format!("neg.{ty}"), k, &[k]));
        }
    }
    let s32 = integer_kind("s32");
    for op in ["add.sat.s32", "sub.sat.s32"] {
        out.push(Test::plain(op, s32, &[s32, s32]));
    }
    out.push(Test::plain("mad.hi.sat.s32", s32, &[s32, s32, s32]));
    for op in ["min.relu.s32", "max.relu.s32"] {
        out.push(Test::plain(op, s32, &[s32, s32]).on(FROM_90, 80));
    }
    for ty in ["u32", "s32"] {
        let k = integer_kind(ty);
        for half in ["lo", "hi"] {
            out.push(Test::plain(&format!("mul24.{half}.{ty}"), k, &[k, k]));
            out.push(Test::plain(&format!("mad24.{half}.{ty}"), k, &[k, k, k]));
        }
    }
    for (op, types) in [("dp4a", ["u32", "s32"]), ("dp2a.lo", ["u32", "s32"]), ("dp2a.hi", ["u32", "s32"])] {
        for a in types {
            for b in types {
                out.push(Test::plain(&format!("{op}.{a}.{b}"), B32, &[B32, B32, B32]));
            }
        }
    }
}

/// Chains of two: the low words set the carry, the high words take it.
fn carries(out: &mut Vec<Test>) {
    for (ty, k) in [("u32", B32), ("u64", B64)] {
        for (low, high) in [("add.cc", "addc"), ("sub.cc", "subc")] {
            let body =
                format!("{low}.{ty} %d0, %a0, %a1;\n{high}.cc.{ty} %d1, %a2, %a3;\naddc.{ty} %d2, 0, 0;");
            out.push(Test::new(format!("{low}.{ty}/{high}"), &[k; 3], &[k; 4], body));
        }
        let body = format!(
            "mad.lo.cc.{ty} %d0, %a0, %a1, %a2;\nmadc.hi.cc.{ty} %d1, %a0, %a1, %a3;\naddc.{ty} %d2, 0, 0;"
        );
        out.push(Test::new(format!("mad.lo.cc.{ty}/madc.hi"), &[k; 3], &[k; 4], body));
    }
}

fn shifts(out: &mut Vec<Test>) {
    for (bits, k) in WIDTHS {
        out.push(Test::plain(&format!("shl.b{bits}"), k, &[k, COUNT]));
        for sign in ["b", "u", "s"] {
            out.push(Test::plain(&format!("shr.{sign}{bits}"), k, &[k, COUNT]));
        }
        out.push(Test::new(
            format!("shl.b{bits}/any count"),
            &[k, k],
            &[k, B32],
            format!("shl.b{bits} %d0, %a0, %a1;\nshr.s{bits} %d1, %a0, %a1;"),
        ));
    }
    for op in ["shf.l.clamp", "shf.r.clamp", "shf.l.wrap", "shf.r.wrap"] {
        out.push(Test::plain(&format!("{op}.b32"), B32, &[B32, B32, COUNT]));
    }
}

fn bits(out: &mut Vec<Test>) {
    for (bits, k) in &WIDTHS[1..] {
        for op in ["popc", "clz"] {
            out.push(Test::plain(&format!("{op}.b{bits}"), B32, &[*k]));
        }
        out.push(Test::plain(&format!("brev.b{bits}"), *k, &[*k]));
        for sign in ["u", "s"] {
            out.push(Test::plain(&format!("bfind.{sign}{bits}"), B32, &[*k]));
            out.push(Test::plain(&format!("bfind.shiftamt.{sign}{bits}"), B32, &[*k]));
            out.push(Test::plain(&format!("bfe.{sign}{bits}"), *k, &[*k, COUNT, COUNT]));
        }
        out.push(Test::plain(&format!("bfi.b{bits}"), *k, &[*k, *k, COUNT, COUNT]));
    }
    let large = B32.within(Range::Below(300));
    out.push(Test::new("bfe.u32/any position", &[B32], &[B32, large, large], "bfe.u32 %d0, %a0, %a1, %a2;"));
    out.push(Test::new("bfe.s32/any position", &[B32], &[B32, large, large], "bfe.s32 %d0, %a0, %a1, %a2;"));
    out.push(Test::new(
        "bfi.b32/any position",
        &[B32],
        &[B32, B32, large, large],
        "bfi.b32 %d0, %a0, %a1, %a2, %a3;",
    ));
    let offset = integer_kind("s32").within(Range::Below(40));
    out.push(Test::plain("fns.b32", B32, &[B32, B32.within(Range::Below(32)), offset]).threads(128));
    for mode in ["clamp", "wrap"] {
        out.push(Test::plain(&format!("bmsk.{mode}.b32"), B32, &[COUNT, COUNT]).on(ALL, 76));
        for sign in ["u", "s"] {
            let op = format!("szext.{mode}.{sign}32");
            out.push(Test::plain(&op, B32, &[B32, COUNT]).on(ALL, 76));
        }
    }
    for mode in ["", ".f4e", ".b4e", ".rc8", ".ecl", ".ecr", ".rc16"] {
        out.push(Test::plain(&format!("prmt.b32{mode}"), B32, &[B32, B32, B32]));
    }
}

fn logic(out: &mut Vec<Test>) {
    for (bits, k) in WIDTHS {
        for op in ["and", "or", "xor"] {
            out.push(Test::plain(&format!("{op}.b{bits}"), k, &[k, k]));
        }
        for op in ["not", "cnot"] {
            out.push(Test::plain(&format!("{op}.b{bits}"), k, &[k]));
        }
        for sign in ["b", "u", "s"] {
            out.push(Test::new(
                format!("selp.{sign}{bits}"),
                &[k],
                &[k, k, super::PRED],
                format!("selp.{sign}{bits} %d0, %a0, %a1, %qa2;"),
            ));
            let op = format!("slct.{sign}{bits}.s32");
            out.push(Test::plain(&op, k, &[k, k, integer_kind("s32")]));
        }
        out.push(Test::plain(&format!("mov.b{bits}"), k, &[k]));
    }
    out.push(Test::plain("slct.b32.f32", B32, &[B32, B32, super::F32]));
    out.push(Test::plain("slct.ftz.b32.f32", B32, &[B32, B32, super::F32]));
    // Every table of three inputs, eight tables a test.
    for first in (0..256).step_by(8) {
        let body: String =
            (0..8).map(|i| format!("lop3.b32 %d{i}, %a0, %a1, %a2, {:#04x};\n", first + i)).collect();
        out.push(Test::new(format!("lop3.b32/{first:#04x}"), &[B32; 8], &[B32; 3], body).threads(128));
    }
    for op in ["or", "and"] {
        let body = format!("lop3.{op}.b32 %d0|%qd1, %a0, %a1, %a2, 0x96, %qa3;");
        let ins = [B32, B32, B32, super::PRED];
        out.push(Test::new(format!("lop3.{op}.b32"), &[B32, super::PRED], &ins, body).on(ALL, 82));
    }
    let moves = [
        ("mov.b32/pack", "mov.b32 %d0, {%a0, %a1};", vec![B32], vec![B16, B16]),
        ("mov.b32/unpack", "mov.b32 {%d0, %d1}, %a0;", vec![B16, B16], vec![B32]),
        ("mov.b64/pack", "mov.b64 %d0, {%a0, %a1};", vec![B64], vec![B32, B32]),
        ("mov.b64/unpack", "mov.b64 {%d0, %d1}, %a0;", vec![B32, B32], vec![B64]),
        ("mov.b64/pack4", "mov.b64 %d0, {%a0, %a1, %a2, %a3};", vec![B64], vec![B16; 4]),
        ("mov.b64/unpack4", "mov.b64 {%d0, %d1, %d2, %d3}, %a0;", vec![B16; 4], vec![B64]),
    ];
    for (name, body, outs, ins) in moves {
        out.push(Test::new(name, &outs, &ins, body).threads(128));
    }
    out.push(
        Test::new(
            "mov.b128",
            &[B64, B64],
            &[B64, B64],
            ".reg .b128 %w;\nmov.b128 %w, {%a0, %a1};\nmov.b128 {%d1, %d0}, %w;",
        )
        .on(FROM_90, 83),
    );
}

/// Two integers of 16 bits in a register.
fn packed_halves(out: &mut Vec<Test>) {
    let halves = packed(numbers::B16, 2);
    for op in ["add", "min", "max"] {
        for ty in ["u16x2", "s16x2"] {
            out.push(Test::plain(&format!("{op}.{ty}"), halves, &[halves, halves]).on(FROM_90, 80));
        }
    }
    for op in ["min.relu.s16x2", "max.relu.s16x2"] {
        out.push(Test::plain(op, halves, &[halves, halves]).on(FROM_90, 80));
    }
}
