//! Comparisons: every relation of every type, with what is combined into their results; selections and predicates.

use super::{B16, B32, B64, BF16, BF16X2, F16, F16X2, F32, F64, PRED, integer_kind};
use crate::test::{ALL, FROM_90, Kind, Test};

const FLOAT: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    integers(&mut out);
    floats(&mut out);
    combined(&mut out);
    predicates(&mut out);
    out
}

fn setp(name: String, kind: Kind) -> Test {
    let body = format!("{name} %qd0, %a0, %a1;");
    Test::new(name, &[PRED], &[kind, kind], body)
}

fn integers(out: &mut Vec<Test>) {
    for ty in ["u16", "s16", "u32", "s32", "u64", "s64"] {
        for relation in ["eq", "ne", "lt", "le", "gt", "ge"] {
            out.push(setp(format!("setp.{relation}.{ty}"), integer_kind(ty)).threads(512));
        }
        if ty.starts_with('u') {
            for relation in ["lo", "ls", "hi", "hs"] {
                out.push(setp(format!("setp.{relation}.{ty}"), integer_kind(ty)).threads(512));
            }
        }
    }
    for (ty, kind) in [("b16", B16), ("b32", B32), ("b64", B64)] {
        for relation in ["eq", "ne"] {
            out.push(setp(format!("setp.{relation}.{ty}"), kind).threads(512));
        }
    }
}

/// As many threads as pairs of edge values need.
fn floats(out: &mut Vec<Test>) {
    let from = out.len();
    for relation in FLOAT {
        for (ty, kind) in [("f32", F32), ("f64", F64), ("f16", F16)] {
            out.push(setp(format!("setp.{relation}.{ty}"), kind));
        }
        out.push(setp(format!("setp.{relation}.bf16"), BF16).on(FROM_90, 78));
        for (ty, kind) in [("f32", F32), ("f16", F16)] {
            out.push(setp(format!("setp.{relation}.ftz.{ty}"), kind));
        }
        for (ty, kind, targets) in
            [("f16x2", F16X2, ALL), ("ftz.f16x2", F16X2, ALL), ("bf16x2", BF16X2, FROM_90)]
        {
            let name = format!("setp.{relation}.{ty}");
            let body = format!("{name} %qd0|%qd1, %a0, %a1;");
            out.push(Test::new(name, &[PRED; 2], &[kind; 2], body).on(targets, 78));
        }
        let set = format!("set.{relation}.f32.f32");
        out.push(Test::plain(&set, F32, &[F32, F32]));
        out.push(Test::plain(&format!("set.{relation}.u32.f32"), B32, &[F32, F32]));
        out.push(Test::plain(&format!("set.{relation}.ftz.s32.f32"), B32, &[F32, F32]));
        out.push(Test::plain(&format!("set.{relation}.f16.f16"), F16, &[F16, F16]));
        out.push(Test::plain(&format!("set.{relation}.f16x2.f16x2"), F16X2, &[F16X2, F16X2]));
    }
    for kind in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
        for (ty, k) in [("f32", F32), ("f64", F64)] {
            let name = format!("testp.{kind}.{ty}");
            let body = format!("{name} %qd0, %a0;");
            out.push(Test::new(name, &[PRED], &[k], body));
        }
    }
    out[from..].iter_mut().for_each(|t| t.blocks = 2048 / t.block);
}

/// `setp` with a second result and a predicate that is combined into both.
fn combined(out: &mut Vec<Test>) {
    for join in ["and", "or", "xor"] {
        for (relation, ty, kind) in [("lt", "s32", integer_kind("s32")), ("ltu", "f32", F32)] {
            for sign in ["", "!"] {
                let op = format!("setp.{relation}.{join}.{ty}");
                let name = if sign.is_empty() { op.clone() } else { format!("{op}/not") };
                let body = format!("{op} %qd0|%qd1, %a0, %a1, {sign}%qa2;");
                out.push(Test::new(name, &[PRED; 2], &[kind, kind, PRED], body));
            }
            let set = format!("set.{relation}.{join}.u32.{ty}");
            let body = format!("{set} %d0, %a0, %a1, %qa2;");
            out.push(Test::new(set, &[B32], &[kind, kind, PRED], body));
        }
    }
}

fn predicates(out: &mut Vec<Test>) {
    for op in ["and", "or", "xor"] {
        let body = format!("{op}.pred %qd0, %qa0, %qa1;");
        out.push(Test::new(format!("{op}.pred"), &[PRED], &[PRED, PRED], body).threads(128));
    }
    for op in ["not", "mov"] {
        let body = format!("{op}.pred %qd0, %qa0;");
        out.push(Test::new(format!("{op}.pred"), &[PRED], &[PRED], body).threads(128));
    }
    for (ty, kind) in [("f32", F32), ("f64", F64)] {
        let body = format!("selp.{ty} %d0, %a0, %a1, %qa2;");
        out.push(Test::new(format!("selp.{ty}"), &[kind], &[kind, kind, PRED], body));
    }
    let guarded = "mov.b32 %d0, %a0;\n@%qa1 add.s32 %d0, %a0, 1;\n@!%qa1 bra skip;\nxor.b32 %d0, %d0, 0x55;\n\
                   skip:";
    out.push(Test::new("bra/divergent", &[B32], &[B32, PRED], guarded));
    let loops = "mov.b32 %d0, 0;\nmov.b32 %t0, %a0;\nagain:\nmad.lo.s32 %d0, %d0, 5, %t0;\n\
                 sub.s32 %t0, %t0, 1;\nsetp.gt.s32 %p0, %t0, 0;\n@%p0 bra again;";
    let few = B32.within(crate::test::Range::Below(20));
    out.push(Test::new("bra/loop", &[B32], &[few], loops).threads(256));
    let table = "branches: .branchtargets one, two, three;\nbrx.idx %a0, branches;\none:\nmov.b32 %d0, %a1;\n\
                 bra.uni end;\ntwo:\nnot.b32 %d0, %a1;\nbra.uni end;\nthree:\nadd.s32 %d0, %a1, 7;\nend:";
    let index = B32.within(crate::test::Range::Below(3));
    out.push(Test::new("brx.idx", &[B32], &[index, B32], table.replace("bra.uni", "bra")).threads(256));
}
