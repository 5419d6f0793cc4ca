//! `mma.sync` of every type, on small integers, whose products are exact; fragments as the ISA's figures have them.

use super::{decodes, refuses, run};

/// The code of -2 to 2 in a format, by its codes of 1 and 2 and of the sign.
fn float(x: i64, one: u32, two: u32, sign: u32) -> u32 {
    let magnitude = [0, one, two][x.unsigned_abs() as usize];
    if x < 0 { magnitude | sign } else { magnitude }
}

/// The bits of an element of a type in its place, and the place's bits.
fn code(ty: &str, x: i64) -> (u32, u32) {
    match ty {
        "f16" => (float(x, 0x3c00, 0x4000, 0x8000), 16),
        "bf16" => (float(x, 0x3f80, 0x4000, 0x8000), 16),
        "tf32" => (float(x, 0x3f80_0000, 0x4000_0000, 0x8000_0000), 32),
        "e4m3" => (float(x, 0x38, 0x40, 0x80), 8),
        "e5m2" => (float(x, 0x3c, 0x40, 0x80), 8),
        "e3m2" => (float(x, 0x0c, 0x10, 0x20), 8),
        "e2m3" => (float(x, 0x08, 0x10, 0x20), 8),
        "e2m1" => (float(x, 2, 4, 8) << 2, 8),
        "packed e2m1" => (float(x, 2, 4, 8), 4),
        "s8" | "u8" => (x as u32 & 0xff, 8),
        "s4" | "u4" => (x as u32 & 15, 4),
        other => panic!("{other}"),
    }
}

/// Numbers that look random: -2 to 2, or 0 to 2 without sign.
fn number(ty: &str, row: usize, column: usize, seed: usize) -> i64 {
    let mix = (row * 31 + column * 17 + seed * 7 + row * column * 5) % 11;
    if ty.starts_with('u') { mix as i64 % 3 } else { mix as i64 % 5 - 2 }
}

/// Runs `op` with operands after the three matrices, and `scale` as the value that every product is multiplied by.
fn check(target: &str, op: &str, tail: &str, ty: [&str; 4], [m, k]: [usize; 2], scale: i64) {
    let n = 8;
    let [of_d, a, b, _] = ty;
    let bits = code(a, 0).1;
    let s = (32 / bits) as usize;
    let (a_count, b_count) = (m * k / (32 * s), n * k / (32 * s));
    let halves = of_d == "f16";
    let c_count = m * n / if halves { 64 } else { 32 };
    let c = |row: usize, column: usize| number("s", column, row, 3);
    let mut input = Vec::new();
    for lane in 0..32 {
        let (g, q) = (lane / 4, lane % 4);
        // Rows 8 apart alternate, then follow the next elements along k.
        let pack = |ty: &str, register: usize, rows: usize, of: &dyn Fn(usize, usize) -> i64| {
            (0..s).fold(0, |w, e| {
                let (row, block) = (g + 8 * (register % rows), register / rows);
                w | code(ty, of(row, block * 4 * s + q * s + e)).0 << (e as u32 * bits)
            })
        };
        input.extend((0..a_count).map(|r| pack(a, r, m / 8, &|row, l| number(a, row, l, 1))));
        input.extend((0..b_count).map(|r| pack(b, r, 1, &|column, l| number(b, l, column, 2))));
        input.extend((0..c_count).map(|r| match of_d {
            "f16" => code("f16", c(g + 8 * r, 2 * q)).0 | code("f16", c(g + 8 * r, 2 * q + 1)).0 << 16,
            "f32" => (c(g + r / 2 * 8, 2 * q + r % 2) as f32).to_bits(),
            _ => c(g + r / 2 * 8, 2 * q + r % 2) as u32,
        }));
    }
    let list = |first: usize, count: usize| {
        let all: Vec<String> = (first..first + count).map(|i| format!("%r{i}")).collect();
        format!("{{{}}}", all.join(", "))
    };
    let total = a_count + b_count + c_count;
    let loads: String = (0..total).map(|i| format!("ld.global.b32 %r{i}, [%d1+{}];\n", 4 * i)).collect();
    let stores: String =
        (0..c_count).map(|i| format!("st.global.b32 [%d2+{}], %r{};\n", 4 * i, 40 + i)).collect();
    let body = format!(
        "mad.wide.u32 %d1, %tid, {}, %in; mad.wide.u32 %d2, %tid, {}, %out;\n{loads}\
         mov.b32 %r50, 0x80808080; mov.b32 %r51, 0x40404040;\n{op} {}, {}, {}, {}{tail};\n{stores}",
        4 * total,
        4 * c_count,
        list(40, c_count),
        list(0, a_count),
        list(a_count, b_count),
        list(a_count + b_count, c_count),
    );
    let got = run(target, &input, 32 * c_count, &body).unwrap_or_else(|e| panic!("{op}: {e}"));
    for row in 0..m {
        for column in 0..n {
            let sum: i64 = (0..k).map(|l| number(a, row, l, 1) * number(b, l, column, 2)).sum();
            let want = sum * scale + c(row, column);
            let lane = row % 8 * 4 + column / 2;
            let index = row / 8 * 2 + column % 2;
            let word = |i: usize| got[lane * c_count + i];
            let found = match of_d {
                "f32" => f32::from_bits(word(index)) as i64,
                "f16" => {
                    let half = (word(index / 2) >> (16 * (index % 2))) as u16;
                    trtc_emulator::number::format::Format::F16.decode(half.into()) as i64
                }
                _ => i64::from(word(index) as i32),
            };
            assert_eq!(found, want, "{op}: row {row}, column {column}");
        }
    }
}

fn plain(target: &str, infix: &str, ty: [&str; 4], [m, k]: [usize; 2]) {
    let op = format!("mma.sync.aligned.m{m}n8k{k}.row.col{infix}.{}", ty.join("."));
    check(target, &op, "", ty, [m, k], 1);
}

#[test]
fn halves_and_singles() {
    for target in ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"] {
        for k in [8, 16] {
            plain(target, "", ["f32", "bf16", "bf16", "f32"], [16, k]);
            plain(target, "", ["f32", "f16", "f16", "f32"], [16, k]);
            plain(target, "", ["f16"; 4], [16, k]);
        }
        for k in [4, 8] {
            plain(target, "", ["f32", "tf32", "tf32", "f32"], [16, k]);
        }
    }
}

#[test]
fn small_floats() {
    for target in ["sm_89", "sm_90a", "sm_100a", "sm_120a"] {
        for (a, b) in [("e4m3", "e4m3"), ("e4m3", "e5m2"), ("e5m2", "e4m3")] {
            for k in [16, 32] {
                plain(target, "", ["f32", a, b, "f32"], [16, k]);
                plain(target, "", ["f16", a, b, "f16"], [16, k]);
            }
        }
    }
    let all = ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1"];
    for a in all {
        for b in all {
            plain("sm_120a", ".kind::f8f6f4", ["f32", a, b, "f32"], [16, 32]);
            plain("sm_120a", ".kind::f8f6f4", ["f16", a, b, "f16"], [16, 32]);
        }
    }
}

#[test]
fn integers() {
    for infix in ["", ".satfinite"] {
        for (a, b) in [("s8", "s8"), ("u8", "s8"), ("s8", "u8"), ("u8", "u8")] {
            for shape in [[8, 16], [16, 16], [16, 32]] {
                plain("sm_80", infix, ["s32", a, b, "s32"], shape);
            }
        }
        for (a, b) in [("s4", "s4"), ("u4", "s4")] {
            for shape in [[8, 32], [16, 32], [16, 64]] {
                plain("sm_80", infix, ["s32", a, b, "s32"], shape);
            }
        }
    }
}

#[test]
fn scaled() {
    // 0x80 is 2 as ue8m0; 0x40 is 2 as ue4m3, and 2^-63 as ue8m0.
    for b in ["e4m3", "e2m1"] {
        let op = format!(
            "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32.e4m3.{b}.f32.ue8m0"
        );
        check("sm_120a", &op, ", %r50, {1, 1}, %r50, {3, 2}", ["f32", "e4m3", b, "f32"], [16, 32], 4);
    }
    for (kind, scale) in [("mxf4", "2X"), ("mxf4nvf4", "2X")] {
        let op = format!(
            "mma.sync.aligned.m16n8k64.row.col.kind::{kind}.block_scale.scale_vec::{scale}.f32.e2m1.e2m1.f32.ue8m0"
        );
        let types = ["f32", "packed e2m1", "packed e2m1", "f32"];
        check("sm_120a", &op, ", %r50, {2, 0}, %r50, {0, 3}", types, [16, 64], 4);
    }
    let op =
        "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3";
    let types = ["f32", "packed e2m1", "packed e2m1", "f32"];
    check("sm_120a", op, ", %r51, {0, 1}, %r51, {0, 0}", types, [16, 64], 4);
}

#[test]
fn bits() {
    // Row r of A has r ones in its first word, B nothing but zeros in column 0 and ones in the others.
    let body =
        "mov.u32 %r1, %tid; shr.u32 %r2, %r1, 2; and.b32 %r3, %r1, 3; mov.b32 %r4, 1; shl.b32 %r4, %r4, %r2;
                sub.s32 %r4, %r4, 1; setp.eq.u32 %p0, %r3, 0; @!%p0 mov.b32 %r4, 0; setp.eq.u32 %p1, %r2, 0;
                mov.b32 %r5, -1; @%p1 mov.b32 %r5, 0; mov.b32 %r6, 100;
                mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.OP.popc {%r7, %r8}, {%r4}, {%r5}, {%r6, %r6};
                mad.wide.u32 %d1, %tid, 8, %out; st.global.v2.b32 [%d1], {%r7, %r8};";
    let of = |op: &str| run("sm_80", &[], 64, &body.replace("OP", op)).unwrap();
    let (and, xor) = (of("and"), of("xor"));
    for row in 0..8u32 {
        for column in 0..8u32 {
            let at = (row * 8 + column) as usize;
            assert_eq!(and[at], 100 + if column == 0 { 0 } else { row });
            assert_eq!(xor[at], 100 + if column == 0 { row } else { 128 - row });
        }
    }
}

#[test]
fn doubles() {
    // A(row, l) = row + l, B(l, column) = l - column, C = 1.
    let mut input = Vec::new();
    let mut push = |x: i64| {
        let bits = (x as f64).to_bits();
        input.extend([bits as u32, (bits >> 32) as u32]);
    };
    for lane in 0..32i64 {
        let (g, q) = (lane / 4, lane % 4);
        (0..8).for_each(|r| push(g + 8 * (r % 2) + q + 4 * (r / 2)));
        (0..4).for_each(|r| push(q + 4 * r - g));
    }
    let loads: String = (0..12).map(|i| format!("ld.global.b64 %d{i}, [%d16+{}];\n", 8 * i)).collect();
    let sets: String = (12..16).map(|i| format!("mov.b64 %d{i}, 0d3FF0000000000000;\n")).collect();
    let stores: String = (0..4).map(|i| format!("st.global.b64 [%d17+{}], %d{};\n", 8 * i, 12 + i)).collect();
    let body = format!(
        "mad.wide.u32 %d16, %tid, 96, %in; mad.wide.u32 %d17, %tid, 32, %out;\n{loads}{sets}\
         mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {{%d12, %d13, %d14, %d15}}, {{%d0, %d1, %d2, %d3, %d4, %d5, \
         %d6, %d7}}, {{%d8, %d9, %d10, %d11}}, {{%d12, %d13, %d14, %d15}};\n{stores}"
    );
    let got = run("sm_90", &input, 256, &body).unwrap();
    for row in 0..16i64 {
        for column in 0..8i64 {
            let want: i64 = 1 + (0..16).map(|l| (row + l) * (l - column)).sum::<i64>();
            let at = ((row % 8 * 4 + column / 2) * 4 + row / 8 * 2 + column % 2) as usize * 2;
            let found = f64::from_bits(u64::from(got[at + 1]) << 32 | u64::from(got[at]));
            assert_eq!(found, want as f64, "row {row}, column {column}");
        }
    }
}

#[test]
fn what_a_chip_does_not_have_is_refused() {
    let op = |infix: &str, k: u32, types: &str| {
        let (a, b) = if k == 32 || k == 16 && types.contains("16") { (4, 2) } else { (2, 1) };
        let list = |n: usize| vec!["%r1"; n].join(", ");
        let d = "{%r2, %r3, %r4, %r5}";
        let (a, b) = (list(a), list(b));
        format!("mma.sync.aligned.m16n8k{k}.row.col{infix}.{types} {d}, {{{a}}}, {{{b}}}, {d};")
    };
    decodes("sm_80", &[&op("", 16, "f32.bf16.bf16.f32")]);
    decodes("sm_120a", &[&op(".kind::f8f6f4", 32, "f32.e2m1.e3m2.f32")]);
    refuses("sm_80", &[&op("", 32, "f32.e4m3.e4m3.f32"), &op("", 32, "f32.bf16.bf16.f32")]);
    refuses("sm_80", &[&op("", 16, "f32.bf16.f16.f32"), &op(".satfinite", 16, "f32.bf16.bf16.f32")]);
    refuses("sm_90a", &[&op(".kind::f8f6f4", 32, "f32.e4m3.e4m3.f32"), &op("", 32, "f32.e2m1.e2m1.f32")]);
    refuses("sm_120", &[&op(".kind::f8f6f4", 32, "f32.e4m3.e4m3.f32")]);
}
