//! `mma.sync` of dense matrices without scales: every shape and type. Each warp is a block with its own mode of inputs;
//! what a thread's registers hold of the matrices is as PTX lays fragments out, so any registers are matrices.

use crate::numbers::{B1, BF16, E4M3, E5M2, F16, F32, F64, Format, S4, S8, S32, TF32, U4, U8};
use crate::test::{ALL, FROM_89, FROM_90, Kind, Target, Test, packed};

/// Warps of a test: four in each mode.
const WARPS: u32 = 28;

/// Matrices of one instruction.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Rows of A and D.
    pub m: u32,
    /// Columns of B and D.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
}

/// The registers of one thread of a warp that together hold `rows` x `columns` elements.
pub fn fragment(format: Format, rows: u32, columns: u32) -> Vec<Kind> {
    let bits = format.bits.max(32);
    let register = packed(format, bits / format.bits);
    vec![register; (rows * columns * format.bits / (32 * bits)) as usize]
}

/// Names of a run of operands: `{%a4, %a5}`.
pub fn operands(letter: char, from: usize, count: usize) -> String {
    let all: Vec<String> = (from..from + count).map(|i| format!("%{letter}{i}")).collect();
    format!("{{{}}}", all.join(", "))
}

/// `op d, a, b, c` and what follows them.
pub fn matrix_test(
    name: &str,
    op: &str,
    shape: Shape,
    [a, b, c]: [Format; 3],
    d: Format,
    extra: &[Kind],
    tail: &str,
) -> Test {
    let parts = [fragment(a, shape.m, shape.k), fragment(b, shape.k, shape.n), fragment(c, shape.m, shape.n)];
    let counts: Vec<usize> = parts.iter().map(Vec::len).collect();
    let outs = fragment(d, shape.m, shape.n);
    let mut ins: Vec<Kind> = parts.concat();
    ins.extend_from_slice(extra);
    let body = format!(
        "{op} {}, {}, {}, {}{tail};",
        operands('d', 0, outs.len()),
        operands('a', 0, counts[0]),
        operands('a', counts[0], counts[1]),
        operands('a', counts[0] + counts[1], counts[2]),
    );
    Test::new(name, &outs, &ins, body).matrix(32, WARPS)
}

/// An instruction of a shape, its types by name.
fn push(
    out: &mut Vec<Test>,
    shape: Shape,
    infix: &str,
    [d, a, b, c]: [&str; 4],
    on: (&'static [Target], u32),
) {
    let Shape { m, n, k } = shape;
    let op = format!("mma.sync.aligned.m{m}n{n}k{k}.row.col{infix}.{d}.{a}.{b}.{c}");
    let formats = [a, b, c].map(format_of);
    out.push(matrix_test(&op, &op, shape, formats, format_of(d), &[], "").on(on.0, on.1));
}

/// A format by its PTX name.
pub fn format_of(name: &str) -> Format {
    let known = [
        ("f16", F16),
        ("bf16", BF16),
        ("tf32", TF32),
        ("f64", F64),
        ("e4m3", E4M3),
        ("e5m2", E5M2),
        ("s8", S8),
        ("u8", U8),
        ("s4", S4),
        ("u4", U4),
        ("b1", B1),
        ("s32", S32),
    ];
    known.iter().find(|(n, _)| *n == name).map_or(F32, |(_, format)| *format)
}

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    let wide = |k| Shape { m: 16, n: 8, k };
    for k in [8, 16] {
        for sum in ["f32", "f16"] {
            push(&mut out, wide(k), "", [sum, "f16", "f16", sum], (ALL, 70));
        }
        push(&mut out, wide(k), "", ["f32", "bf16", "bf16", "f32"], (ALL, 70));
    }
    for k in [4, 8] {
        push(&mut out, wide(k), "", ["f32", "tf32", "tf32", "f32"], (ALL, 70));
        // The bits of an operand that tf32 does not have.
        let name = format!("mma.sync.aligned.m16n8k{k}.row.col.f32.tf32.tf32.f32");
        let test = matrix_test(&format!("{name}/low bits"), &name, wide(k), [F32; 3], F32, &[], "");
        out.push(test.on(ALL, 70));
    }
    for a in ["e4m3", "e5m2"] {
        for b in ["e4m3", "e5m2"] {
            push(&mut out, wide(32), "", ["f32", a, b, "f32"], (FROM_89, 84));
            push(&mut out, wide(32), "", ["f16", a, b, "f16"], (FROM_89, 87));
            push(&mut out, wide(16), "", ["f32", a, b, "f32"], (FROM_89, 87));
            push(&mut out, wide(16), "", ["f16", a, b, "f16"], (FROM_89, 87));
        }
    }
    integers(&mut out);
    push(&mut out, Shape { m: 8, n: 8, k: 4 }, "", ["f64"; 4], (ALL, 70));
    for k in [4, 8, 16] {
        push(&mut out, wide(k), "", ["f64"; 4], (FROM_90, 78));
    }
    out
}

fn integers(out: &mut Vec<Test>) {
    let shapes = |m, n, k| Shape { m, n, k };
    for (types, sizes) in [
        (["s8", "u8"], [shapes(8, 8, 16), shapes(16, 8, 16), shapes(16, 8, 32)]),
        (["s4", "u4"], [shapes(8, 8, 32), shapes(16, 8, 32), shapes(16, 8, 64)]),
    ] {
        for shape in sizes {
            for a in types {
                for b in types {
                    for sat in ["", ".satfinite"] {
                        push(out, shape, sat, ["s32", a, b, "s32"], (ALL, 70));
                    }
                }
            }
        }
    }
    for shape in [shapes(8, 8, 128), shapes(16, 8, 128), shapes(16, 8, 256)] {
        for logic in ["xor", "and"] {
            let Shape { m, n, k } = shape;
            let op = format!("mma.sync.aligned.m{m}n{n}k{k}.row.col.s32.b1.b1.s32.{logic}.popc");
            out.push(matrix_test(&op, &op, shape, [B1, B1, S32], S32, &[], "").on(ALL, 71));
        }
    }
}
