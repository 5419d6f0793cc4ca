//! `cvt` between all formats, with every rounding and modifier that PTX gives them.

use super::{B16, BF16, BF16X2, F16, F16X2, F32, F64, integer_kind};
use crate::numbers::{E2M1, E2M3, E3M2, E4M3, E5M2, Format, UE8M0, mask};
use crate::test::{ALL, FROM_89, FROM_90, FROM_100, Kind, Range, Target, Test, packed};

const INTEGERS: [&str; 8] = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];
const ROUNDINGS: [&str; 4] = ["rn", "rz", "rm", "rp"];
const TO_INTEGER: [&str; 4] = ["rni", "rzi", "rmi", "rpi"];

/// Floating-point types of one element, and what has conversions of them to and from integers.
const FLOATS: [(&str, Kind, &[Target], u32); 4] =
    [("f16", F16, ALL, 0), ("bf16", BF16, FROM_90, 78), ("f32", F32, ALL, 0), ("f64", F64, ALL, 0)];

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    integers(&mut out);
    integers_and_floats(&mut out);
    floats(&mut out);
    halves_of_singles(&mut out);
    eights(&mut out);
    sixes_and_fours(&mut out);
    scales(&mut out);
    out
}

/// True if an integer type has all values of another one.
fn holds(to: &str, from: &str) -> bool {
    let bits = |ty: &str| ty[1..].parse().unwrap_or(0u32);
    match (to.starts_with('s'), from.starts_with('s')) {
        (true, false) => bits(to) > bits(from),
        (false, true) => false,
        _ => bits(to) >= bits(from),
    }
}

fn integers(out: &mut Vec<Test>) {
    for to in INTEGERS {
        for from in INTEGERS {
            // PTX has no saturation where there is nothing to saturate.
            for sat in ["", ".sat"].iter().filter(|s| s.is_empty() || !holds(to, from)) {
                let op = format!("cvt{sat}.{to}.{from}");
                out.push(Test::plain(&op, integer_kind(to), &[integer_kind(from)]).threads(256));
            }
        }
    }
}

fn integers_and_floats(out: &mut Vec<Test>) {
    for (ty, kind, targets, version) in FLOATS {
        // There are no conversions between bytes and bf16.
        for integer in INTEGERS.iter().filter(|i| ty != "bf16" || !i.ends_with('8')) {
            let other = integer_kind(integer);
            for rounding in TO_INTEGER {
                let mut push = |op: String| {
                    out.push(Test::plain(&op, other, &[kind]).threads(512).on(targets, version));
                };
                push(format!("cvt.{rounding}.{integer}.{ty}"));
                if ty == "f32" && integer.ends_with("32") {
                    push(format!("cvt.{rounding}.ftz.{integer}.{ty}"));
                }
            }
            for rounding in ROUNDINGS {
                let op = format!("cvt.{rounding}.{ty}.{integer}");
                out.push(Test::plain(&op, kind, &[other]).threads(512).on(targets, version));
            }
        }
    }
}

fn floats(out: &mut Vec<Test>) {
    let mut push = |op: String, to: Kind, from: Kind, targets, version| {
        out.push(Test::plain(&op, to, &[from]).threads(2048).on(targets, version));
    };
    for rounding in TO_INTEGER {
        for (ty, kind) in [("f16", F16), ("f32", F32), ("f64", F64)] {
            push(format!("cvt.{rounding}.{ty}.{ty}"), kind, kind, ALL, 0);
        }
        push(format!("cvt.{rounding}.ftz.f32.f32"), F32, F32, ALL, 0);
        push(format!("cvt.{rounding}.sat.f32.f32"), F32, F32, ALL, 0);
        push(format!("cvt.{rounding}.bf16.bf16"), BF16, BF16, FROM_90, 78);
    }
    for sat in ["", ".sat"] {
        for ftz in ["", ".ftz"] {
            push(format!("cvt{ftz}{sat}.f32.f16"), F32, F16, ALL, 0);
            push(format!("cvt{ftz}{sat}.f64.f32"), F64, F32, ALL, 0);
            push(format!("cvt{ftz}{sat}.f32.f32"), F32, F32, ALL, 0);
        }
        push(format!("cvt{sat}.f64.f16"), F64, F16, ALL, 0);
        push(format!("cvt{sat}.f16.f16"), F16, F16, ALL, 0);
        push(format!("cvt{sat}.f64.f64"), F64, F64, ALL, 0);
    }
    push("cvt.f32.bf16".to_owned(), F32, BF16, ALL, 78);
    push("cvt.f64.bf16".to_owned(), F64, BF16, FROM_90, 78);
    push("cvt.ftz.f32.bf16".to_owned(), F32, BF16, FROM_90, 78);
    for rounding in ROUNDINGS {
        for sat in ["", ".sat"] {
            for ftz in ["", ".ftz"] {
                push(format!("cvt.{rounding}{ftz}{sat}.f32.f64"), F32, F64, ALL, 0);
                push(format!("cvt.{rounding}{ftz}{sat}.f16.f32"), F16, F32, ALL, 0);
            }
            push(format!("cvt.{rounding}{sat}.f16.f64"), F16, F64, ALL, 0);
        }
        push(format!("cvt.{rounding}.f16.bf16"), F16, BF16, FROM_90, 78);
        push(format!("cvt.{rounding}.bf16.f16"), BF16, F16, FROM_90, 78);
        push(format!("cvt.{rounding}.bf16.f64"), BF16, F64, FROM_90, 78);
        if rounding == "rm" || rounding == "rp" {
            push(format!("cvt.{rounding}.bf16.f32"), BF16, F32, FROM_90, 78);
        }
    }
}

fn halves_of_singles(out: &mut Vec<Test>) {
    for rounding in ["rn", "rz"] {
        for relu in ["", ".relu"] {
            for (sat, targets, version) in [("", ALL, 70), (".satfinite", ALL, 81)] {
                let prefix = format!("cvt.{rounding}{relu}{sat}");
                for (ty, pair, one) in [("f16", F16X2, F16), ("bf16", BF16X2, BF16)] {
                    let op = format!("{prefix}.{ty}x2.f32");
                    out.push(Test::plain(&op, pair, &[F32, F32]).threads(2048).on(targets, version));
                    // Without modifiers the f16 form is among those of all roundings.
                    if ty == "bf16" || !(relu.is_empty() && sat.is_empty()) {
                        let op = format!("{prefix}.{ty}.f32");
                        out.push(Test::plain(&op, one, &[F32]).threads(2048).on(targets, version));
                    }
                }
                let op = format!("{prefix}.tf32.f32");
                let (targets, version) = if sat.is_empty() { (FROM_90, 78) } else { (FROM_100, 86) };
                out.push(Test::plain(&op, F32, &[F32]).threads(2048).on(targets, version));
            }
        }
    }
    for (op, version) in [("cvt.rna.tf32.f32", 70), ("cvt.rna.satfinite.tf32.f32", 81)] {
        out.push(Test::plain(op, F32, &[F32]).threads(2048).on(ALL, version));
    }
}

fn eights(out: &mut Vec<Test>) {
    for (ty, format) in [("e4m3x2", E4M3), ("e5m2x2", E5M2)] {
        let pair = packed(format, 2);
        for relu in ["", ".relu"] {
            let prefix = format!("cvt.rn.satfinite{relu}");
            let singles = format!("{prefix}.{ty}.f32");
            out.push(Test::plain(&singles, pair, &[F32, F32]).threads(4096).on(FROM_89, 81));
            let halves = format!("{prefix}.{ty}.f16x2");
            out.push(Test::plain(&halves, pair, &[F16X2]).threads(4096).on(FROM_89, 81));
            let back = format!("cvt.rn{relu}.f16x2.{ty}");
            out.push(Test::plain(&back, F16X2, &[B16]).threads(1024).on(FROM_89, 81));
            if !relu.is_empty() {
                continue;
            }
            // All patterns of the lower half.
            let body = format!("add.u32 %t0, %thread, %a0;\n{halves} %d0, %t0;");
            let offset = F16X2.within(Range::Mask(0x7fff_0000));
            let name = format!("{halves}/sweep");
            out.push(Test::new(name, &[pair], &[offset], body).threads(65536).on(FROM_89, 81));
        }
    }
}

/// Six- and four-bit formats: in bytes, of which an instruction takes or gives one.
fn sixes_and_fours(out: &mut Vec<Test>) {
    let fours = Format { bits: 4, ..E2M1 };
    for (ty, format, byte) in [("e2m1x2", fours, true), ("e2m3x2", E2M3, false), ("e3m2x2", E3M2, false)] {
        let pair = packed(format, 2).wide(16);
        let any = B16.within(Range::Mask(if byte { 0xff } else { 0x3f3f }));
        for relu in ["", ".relu"] {
            let op = format!("cvt.rn.satfinite{relu}.{ty}.f32");
            let body = match byte {
                true => format!("{{ .reg .b8 e;\n{op} e, %a0, %a1;\ncvt.u16.u8 %d0, e; }}"),
                false => format!("{op} %d0, %a0, %a1;"),
            };
            out.push(Test::new(op, &[pair], &[F32, F32], body).threads(4096).on(FROM_100, 86));
            let op = format!("cvt.rn{relu}.f16x2.{ty}");
            let body = match byte {
                true => format!("{{ .reg .b8 e;\ncvt.u8.u16 e, %a0;\n{op} %d0, e; }}"),
                false => format!("{op} %d0, %a0;"),
            };
            out.push(Test::new(op, &[F16X2], &[any], body).threads(512).on(FROM_100, 86));
        }
    }
}

fn scales(out: &mut Vec<Test>) {
    let pair = packed(UE8M0, 2);
    for rounding in ["rz", "rp"] {
        for sat in ["", ".satfinite"] {
            let prefix = format!("cvt.{rounding}{sat}.ue8m0x2");
            let op = format!("{prefix}.f32");
            out.push(Test::plain(&op, pair, &[F32, F32]).threads(4096).on(FROM_100, 86));
            let op = format!("{prefix}.bf16x2");
            out.push(Test::plain(&op, pair, &[BF16X2]).threads(4096).on(FROM_100, 86));
        }
    }
    let any = pair.within(Range::Mask(mask(16)));
    out.push(Test::plain("cvt.rn.bf16x2.ue8m0x2", BF16X2, &[any]).threads(1024).on(FROM_100, 86));
}
