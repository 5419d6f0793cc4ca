//! Loads and stores that convert or rearrange: narrow and vector forms, matrices through shared memory, atomics. Each
//! thread has its own addresses, so no order between threads matters.

use super::{B16, B32, B64, BF16, BF16X2, F16, F16X2, F32, F64, PRED, integer_kind};
use crate::numbers;
use crate::test::{ALL, FROM_90, FROM_100, Kind, Range, Target, Test};

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    narrow(&mut out);
    generic(&mut out);
    vectors(&mut out);
    load_matrix(&mut out);
    store_matrix(&mut out);
    atomics(&mut out);
    vector_reductions(&mut out);
    out
}

fn narrow(out: &mut Vec<Test>) {
    for ty in ["u8", "s8", "b8", "u16", "s16", "b16", "u32", "s32"] {
        for (bits, kind) in [(16, B16), (32, B32), (64, B64)] {
            if ty[1..].parse().is_ok_and(|own: u32| own > bits) {
                continue;
            }
            let body = format!(
                "ld.global.{ty} %d0, [%in];\nmad.lo.u32 %t0, %lid, 8, %base;\n\
                 st.shared.{ty} [%t0+1024], %a0;\nld.shared.{ty} %d1, [%t0+1024];"
            );
            let test = Test::new(format!("ld.{ty}/{bits}"), &[kind, kind], &[kind], body);
            out.push(test.with_shared(2048, numbers::U8).threads(256));
        }
    }
    // A narrow store leaves its neighbours alone.
    for (ty, bytes) in [("b8", 1), ("b16", 2), ("b32", 4)] {
        let body = format!("st.global.b64 [%out], %a0;\nst.global.{ty} [%out+{}], %a1;", bytes % 4);
        let test = Test::new(format!("st.{ty}"), &[B64], &[B64, B32], body);
        out.push(Test { memory_from: 0, ..test }.threads(256));
    }
}

/// Shared memory by a generic address, and what addresses say of themselves.
fn generic(out: &mut Vec<Test>) {
    let body = "mad.lo.u32 %t0, %lid, 8, %base;\ncvt.u64.u32 %x0, %t0;\ncvta.shared.u64 %x0, %x0;\n\
                st.b32 [%x0], %a0;\nld.shared.b32 %d0, [%t0];\nisspacep.shared %qd1, %x0;\n\
                isspacep.global %qd2, %x0;\ncvta.global.u64 %x1, %out;\nisspacep.shared %qd3, %x1;\n\
                isspacep.global %qd4, %x1;\ncvta.to.shared.u64 %x2, %x0;\ncvt.u32.u64 %t1, %x2;\n\
                setp.eq.u32 %qd5, %t0, %t1;";
    let outs = [B32, PRED, PRED, PRED, PRED, PRED];
    out.push(Test::new("cvta", &outs, &[B32], body).with_shared(2048, numbers::U8).threads(256));
}

fn vectors(out: &mut Vec<Test>) {
    let list = |letter: char, n: usize| {
        let all: Vec<String> = (0..n).map(|i| format!("%{letter}{i}")).collect();
        format!("{{{}}}", all.join(", "))
    };
    for (ty, kind, n) in
        [("b16", B16, 2), ("b16", B16, 4), ("b32", B32, 2), ("b32", B32, 4), ("b64", B64, 2), ("f32", F32, 4)]
    {
        let stride = kind.bytes() * n;
        let body = format!(
            "mad.lo.u32 %t0, %lid, {stride}, %base;\nst.shared.v{n}.{ty} [%t0], {};\nld.shared.v{n}.{ty} {}, [%t0];\n\
             st.global.v{n}.{ty} [%out], {};",
            list('a', n),
            list('d', n),
            list('d', n)
        );
        let test = Test::new(format!("ld.v{n}.{ty}"), &vec![kind; n], &vec![kind; n], body);
        let padded = Test { outs: vec![kind; n.max(16 / kind.bytes())], memory_from: 0, ..test };
        // What the body does not write stays as the run left it.
        let registers =
            (n..padded.outs.len()).map(|i| format!("st.global.{ty} [%out+{}], %a0;\n", i * kind.bytes()));
        let body = format!("{}\n{}", padded.body, registers.collect::<String>());
        out.push(Test { body, ..padded }.with_shared(2048, numbers::U8).threads(256));
    }
}

fn matrix_shape(name: &str, shape: &str, ty: &str, n: usize, registers: usize, trans: bool) -> Test {
    let trans = if trans { ".trans" } else { "" };
    let list: Vec<String> = (0..registers).map(|i| format!("%d{i}")).collect();
    let op = format!("ldmatrix.sync.aligned.{shape}.x{n}{trans}.shared.{ty}");
    // Every thread names a row of 16 bytes.
    let body = format!("mad.lo.u32 %t0, %a0, 16, %base;\n{op} {{{}}}, [%t0];", list.join(", "));
    let row = B32.within(Range::Below(256));
    let name = if name.is_empty() { op } else { format!("{op}/{name}") };
    Test::new(name, &vec![B32; registers], &[row], body).with_shared(4096, numbers::U8).threads(256)
}

fn load_matrix(out: &mut Vec<Test>) {
    for n in [1, 2, 4] {
        for trans in [false, true] {
            out.push(matrix_shape("", "m8n8", "b16", n, n, trans));
        }
        for ty in ["b8x16.b4x16_p64", "b8x16.b6x16_p32"] {
            out.push(matrix_shape("", "m8n16", ty, n, n, false).on(BLACKWELL, 86));
        }
    }
    for n in [1, 2] {
        for ty in ["b8", "b8x16.b4x16_p64", "b8x16.b6x16_p32"] {
            out.push(matrix_shape("", "m16n16", ty, n, 2 * n, true).on(BLACKWELL, 86));
        }
    }
}

const BLACKWELL: &[Target] = FROM_100;

fn store_matrix(out: &mut Vec<Test>) {
    let mut push = |shape: &str, ty: &str, n: usize, trans: &str, targets, version| {
        let list: Vec<String> = (0..n).map(|i| format!("%a{i}")).collect();
        let op = format!("stmatrix.sync.aligned.{shape}.x{n}{trans}.shared.{ty}");
        // Warp w has 512 bytes; row r of it is at 16 (r xor 5), so that rows do not lie in order.
        let body = format!(
            "and.b32 %t0, %lid, 0xffffffe0;\nand.b32 %t1, %lid, 31;\nmad.lo.u32 %t2, %t0, 16, %base;\n\
             xor.b32 %t3, %t1, 5;\nmad.lo.u32 %t3, %t3, 16, %t2;\n{op} [%t3], {{{}}};\nbar.warp.sync 0xffffffff;\n\
             mad.lo.u32 %t2, %t1, 16, %t2;\nld.shared.v4.b32 {{%d0, %d1, %d2, %d3}}, [%t2];",
            list.join(", ")
        );
        let test = Test::new(op, &[B32; 4], &vec![B32; n], body);
        out.push(test.with_shared(2048, numbers::U8).threads(256).on(targets, version));
    };
    for n in [1, 2, 4] {
        for trans in ["", ".trans"] {
            push("m8n8", "b16", n, trans, FROM_90, 78);
        }
        push("m16n8", "b8", n, ".trans", BLACKWELL, 86);
    }
}

/// The old value and what memory holds afterwards.
fn atomics(out: &mut Vec<Test>) {
    let int = integer_kind;
    let mut forms: Vec<(String, &str, Kind, &[Target], u32)> = Vec::new();
    for (ty, kind) in [("b32", B32), ("b64", B64)] {
        for op in ["and", "or", "xor", "exch", "cas"] {
            forms.push((op.to_owned(), ty, kind, ALL, 0));
        }
    }
    forms.push(("cas".to_owned(), "b16", B16, ALL, 0));
    for ty in ["u32", "s32", "u64", "s64"] {
        for op in ["min", "max"] {
            forms.push((op.to_owned(), ty, int(ty), ALL, 0));
        }
    }
    for ty in ["u32", "s32", "u64"] {
        forms.push(("add".to_owned(), ty, int(ty), ALL, 0));
    }
    for op in ["inc", "dec"] {
        forms.push((op.to_owned(), "u32", B32, ALL, 0));
    }
    forms.push(("add".to_owned(), "f32", F32, ALL, 0));
    forms.push(("add".to_owned(), "f64", F64, ALL, 0));
    forms.push(("add.noftz".to_owned(), "f16", F16, ALL, 0));
    forms.push(("add.noftz".to_owned(), "f16x2", F16X2, ALL, 0));
    forms.push(("add.noftz".to_owned(), "bf16", BF16, FROM_90, 78));
    forms.push(("add.noftz".to_owned(), "bf16x2", BF16X2, FROM_90, 78));
    for (op, ty, kind, targets, version) in forms {
        let (count, operands) = if op == "cas" { (3, "%a1, %a2") } else { (2, "%a1") };
        for space in ["global", "shared"] {
            let name = format!("atom.{space}.{op}.{ty}");
            let (bits, at) = (kind.bits, kind.bytes());
            let body = match space {
                "global" => format!(
                    "st.global.b{bits} [%out+{at}], %a0;\n{name} %d0, [%out+{at}], {operands};\n\
                     st.global.b{bits} [%out], %d0;"
                ),
                _ => format!(
                    "mad.lo.u32 %t0, %lid, 8, %base;\nst.shared.b{bits} [%t0], %a0;\n\
                     {name} %d0, [%t0], {operands};\nld.shared.b{bits} %d1, [%t0];\n\
                     st.global.b{bits} [%out], %d0;\nst.global.b{bits} [%out+{at}], %d1;"
                ),
            };
            let test = Test::new(name, &[kind, kind], &[kind; 3][..count], body);
            let test = Test { memory_from: 0, ..test }.on(targets, version);
            out.push(test.with_shared(2048, numbers::U8).threads(512));
            if op == "exch" || op == "cas" {
                continue;
            }
            let name = format!("red.{space}.{op}.{ty}");
            let body = match space {
                "global" => format!("st.global.b{bits} [%out], %a0;\n{name} [%out], %a1;"),
                _ => format!(
                    "mad.lo.u32 %t0, %lid, 8, %base;\nst.shared.b{bits} [%t0], %a0;\n{name} [%t0], %a1;\n\
                     ld.shared.b{bits} %d0, [%t0];\nst.global.b{bits} [%out], %d0;"
                ),
            };
            let test = Test::new(name, &[kind], &[kind; 2], body);
            let test = Test { memory_from: 0, ..test }.on(targets, version);
            out.push(test.with_shared(2048, numbers::U8).threads(512));
        }
    }
    // Comparisons that do succeed.
    let body = "st.global.b32 [%out+4], %a0;\natom.global.cas.b32 %d0, [%out+4], %a0, %a1;\nst.global.b32 [%out], %d0;";
    let test = Test::new("atom.global.cas.b32/equal", &[B32, B32], &[B32, B32], body);
    out.push(Test { memory_from: 0, ..test }.threads(256));
}

/// `red` of several elements.
fn vector_reductions(out: &mut Vec<Test>) {
    let forms = [("v2.f32", F32, 2, "add"), ("v4.f32", F32, 4, "add")];
    let halves =
        [("f16", F16, 2), ("f16", F16, 4), ("bf16", BF16, 4), ("f16x2", F16X2, 2), ("bf16x2", BF16X2, 4)];
    let mut push = |form: String, op: &str, kind: Kind, n: usize| {
        let list: Vec<String> = (n..2 * n).map(|i| format!("%a{i}")).collect();
        let stores: String = (0..n)
            .map(|i| format!("st.global.b{} [%out+{}], %a{i};\n", kind.bits, i * kind.bytes()))
            .collect();
        let name = format!("red.global.{op}.{form}");
        let body = format!("{stores}{name} [%out], {{{}}};", list.join(", "));
        // Records of 16 bytes keep the vectors aligned.
        let outs = vec![kind; 16 / kind.bytes()];
        let rest: String = (n..outs.len())
            .map(|i| format!("st.global.b{} [%out+{}], %a0;\n", kind.bits, i * kind.bytes()))
            .collect();
        let test = Test::new(name, &outs, &vec![kind; 2 * n], format!("{rest}{body}"));
        out.push(Test { memory_from: 0, ..test }.on(FROM_90, 81));
    };
    for (form, kind, n, op) in forms {
        push(form.to_owned(), op, kind, n);
    }
    for (ty, kind, n) in halves {
        for op in ["add", "min", "max"] {
            push(format!("v{n}.{ty}"), &format!("{op}.noftz"), kind, n);
        }
    }
}
