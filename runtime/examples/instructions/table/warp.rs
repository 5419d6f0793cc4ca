//! Instructions by which the threads of a warp exchange values: shuffles, votes, matches, reductions, the transpose.

use super::{B32, B64, F32, PRED, integer_kind};
use crate::test::{ALL, FROM_90, Kind, ONLY_100, Range, Test};

const FULL: &str = "0xffffffff";

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    shuffles(&mut out);
    votes(&mut out);
    reductions(&mut out);
    special(&mut out);
    out.push(
        Test::new("movmatrix", &[B32], &[B32], "movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;")
            .threads(512)
            .on(ALL, 78),
    );
    out
}

/// The same instruction under two masks: the warp divides by the parity of threads, and each half names itself.
fn halves(instruction: &str) -> String {
    let odd = instruction.replace(FULL, "0xaaaaaaaa");
    let even = instruction.replace(FULL, "0x55555555");
    format!(
        "and.b32 %t0, %lid, 1;\nsetp.ne.u32 %p0, %t0, 0;\n@%p0 bra odd;\n{even}\nbra done;\nodd:\n{odd}\ndone:"
    )
}

/// A form of all threads, and one of halves of the warp.
fn both(out: &mut Vec<Test>, name: &str, outs: &[Kind], ins: &[Kind], body: &str) {
    out.push(Test::new(name, outs, ins, body).threads(1024));
    out.push(Test::new(format!("{name}/halves"), outs, ins, halves(body)).threads(1024));
}

fn shuffles(out: &mut Vec<Test>) {
    let lane = B32.within(Range::Below(40));
    for mode in ["up", "down", "bfly", "idx"] {
        let op = format!("shfl.sync.{mode}.b32");
        // Segments of 32, 16, 8, 4, 2 threads: the upper bits of the mask, the clamp in the lower ones.
        for width in [32u32, 16, 8, 4, 2] {
            let clamp = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
            let body = format!("{op} %d0|%qd1, %a0, %a1, {clamp:#x}, {FULL};");
            out.push(Test::new(format!("{op}/{width}"), &[B32, PRED], &[B32, lane], body));
        }
        for step in [1, 2, 5, 16, 31] {
            let clamp = if mode == "up" { 0 } else { 31 };
            let body = format!("{op} %d0|%qd1, %a0, {step}, {clamp}, {FULL};");
            out.push(Test::new(format!("{op}/by {step}"), &[B32, PRED], &[B32], body).threads(256));
        }
        let clamps = B32.within(Range::Mask(0x1f1f));
        let body = format!("{op} %d0|%qd1, %a0, %a1, %a2, {FULL};");
        out.push(Test::new(format!("{op}/any clamp"), &[B32, PRED], &[B32, lane, clamps], body));
    }
}

fn votes(out: &mut Vec<Test>) {
    // Mostly alike, so that all of a warp do agree at times.
    let alike = "mov.u32 %t1, %thread;\nshr.u32 %t1, %t1, 5;\nand.b32 %t1, %t1, 3;\nsetp.eq.u32 %p1, %t1, 0;\n\
                 setp.eq.u32 %p2, %t1, 1;\nor.pred %qa0, %qa0, %p1;\nnot.pred %p2, %p2;\n\
                 and.pred %qa0, %qa0, %p2;\n";
    for mode in ["all", "any", "uni"] {
        for sign in ["", "!"] {
            let op = format!("vote.sync.{mode}.pred");
            let name = if sign.is_empty() { op.clone() } else { format!("{op}/not") };
            let instruction = format!("{op} %qd0, {sign}%qa0, {FULL};");
            out.push(Test::new(name.clone(), &[PRED], &[PRED], format!("{alike}{instruction}")));
            let body = format!("{alike}{}", halves(&instruction));
            out.push(Test::new(format!("{name}/halves"), &[PRED], &[PRED], body));
        }
    }
    both(out, "vote.sync.ballot.b32", &[B32], &[PRED], &format!("vote.sync.ballot.b32 %d0, %qa0, {FULL};"));
    let active = "activemask.b32 %d0;\nadd.u32 %d0, %d0, %a0;";
    out.push(Test::new("activemask.b32", &[B32], &[B32], active).threads(256));
    let few = B32.within(Range::Below(3));
    for (ty, kind) in [("b32", few), ("b64", B64.within(Range::Below(3)))] {
        let body = format!("match.any.sync.{ty} %d0, %a0, {FULL};");
        both(out, &format!("match.any.sync.{ty}"), &[B32], &[kind], &body);
        // All of every second warp are the same.
        let bits = &ty[1..];
        let same = format!(
            "shr.u32 %t1, %thread, 5;\nand.b32 %t1, %t1, 1;\nsetp.eq.u32 %p1, %t1, 0;\n\
             selp.b{bits} %a0, 7, %a0, %p1;\n"
        );
        let instruction = format!("match.all.sync.{ty} %d0|%qd1, %a0, {FULL};");
        let name = format!("match.all.sync.{ty}");
        out.push(Test::new(name.clone(), &[B32, PRED], &[kind], format!("{same}{instruction}")));
        let body = format!("{same}{}", halves(&instruction));
        out.push(Test::new(format!("{name}/halves"), &[B32, PRED], &[kind], body));
    }
    let elect = format!("elect.sync %d0|%qd1, {FULL};\nadd.u32 %d0, %d0, %a0;");
    let ins = [B32];
    out.push(Test::new("elect.sync", &[B32, PRED], &ins, elect.clone()).on(FROM_90, 80).threads(256));
    out.push(Test::new("elect.sync/halves", &[B32, PRED], &ins, halves(&elect)).on(FROM_90, 80).threads(256));
}

/// Registers that say which thread this is.
fn special(out: &mut Vec<Test>) {
    let names = ["tid.x", "ntid.x", "ctaid.x", "nctaid.x", "laneid", "tid.y", "ntid.y", "nctaid.z"];
    let masks = ["eq", "lt", "le", "gt", "ge"].map(|m| format!("lanemask_{m}"));
    let names: Vec<&str> = names.into_iter().chain(masks.iter().map(String::as_str)).collect();
    let body: String = (names.iter().enumerate())
        .map(|(i, name)| format!("mov.u32 %d{i}, %{name};\nadd.u32 %d{i}, %d{i}, %a0;\n"))
        .collect();
    out.push(Test::new("mov.u32/special", &vec![B32; names.len()], &[B32], body).threads(256));
}

fn reductions(out: &mut Vec<Test>) {
    for op in ["add", "min", "max"] {
        for ty in ["u32", "s32"] {
            let kind = integer_kind(ty);
            let name = format!("redux.sync.{op}.{ty}");
            both(out, &name, &[kind], &[kind], &format!("{name} %d0, %a0, {FULL};"));
        }
    }
    for op in ["and", "or", "xor"] {
        let name = format!("redux.sync.{op}.b32");
        both(out, &name, &[B32], &[B32], &format!("{name} %d0, %a0, {FULL};"));
    }
    for op in ["min", "max"] {
        for abs in ["", ".abs"] {
            for nan in ["", ".NaN"] {
                let name = format!("redux.sync.{op}{abs}{nan}.f32");
                let body = format!("{name} %d0, %a0, {FULL};");
                out.push(Test::new(name, &[F32], &[F32], body).on(ONLY_100, 86));
            }
        }
    }
}
