//! `mma.sync` of the small formats of sm_120: kind f8f6f4 with every pair of formats, and with scales of blocks.

use super::mma::{Shape, matrix_test};
use crate::numbers::{E2M1, E2M1_BYTE, E2M3, E3M2, E4M3, E5M2, F16, F32, Format, UE8M0};
use crate::test::{Kind, ONLY_120, Range, Test, packed};

/// Formats that lie in a byte each.
const BYTES: [(&str, Format); 5] =
    [("e4m3", E4M3), ("e5m2", E5M2), ("e3m2", E3M2), ("e2m3", E2M3), ("e2m1", E2M1_BYTE)];

const K32: Shape = Shape { m: 16, n: 8, k: 32 };
const K64: Shape = Shape { m: 16, n: 8, k: 64 };

/// Four scales in a register.
const POWERS: Kind = packed(UE8M0, 4);
/// Four e4m3 scales without sign.
const SCALES: Kind = packed(E4M3, 4).within(Range::Mask(0x7f7f_7f7f));

/// All tests of this family.
pub fn tests() -> Vec<Test> {
    let mut out = Vec::new();
    for (a, a_format) in BYTES {
        for (b, b_format) in BYTES {
            for (ty, c) in [("f32", F32), ("f16", F16)] {
                let op = format!("mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.{ty}.{a}.{b}.{ty}");
                out.push(matrix_test(&op, &op, K32, [a_format, b_format, c], c, &[], ""));
            }
            let op = format!(
                "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32.{a}.{b}.f32.ue8m0"
            );
            // Which byte of which thread's register is the scale, for A and B.
            let ids: &[[u32; 4]] =
                if a == "e4m3" { &[[0, 0, 0, 0], [1, 1, 2, 3], [3, 0, 1, 2]] } else { &[[0, 0, 0, 0]] };
            for ids in ids {
                out.push(scaled(&op, K32, a_format, b_format, POWERS, *ids));
            }
        }
    }
    let fours = [
        ("mxf4.block_scale.scale_vec::2X", "ue8m0", POWERS),
        ("mxf4nvf4.block_scale.scale_vec::2X", "ue8m0", POWERS),
        ("mxf4nvf4.block_scale.scale_vec::4X", "ue4m3", SCALES),
    ];
    for (kind, ty, scale) in fours {
        let op = format!("mma.sync.aligned.m16n8k64.row.col.kind::{kind}.f32.e2m1.e2m1.f32.{ty}");
        let pairs: &[[u32; 4]] =
            if ty == "ue8m0" { &[[0, 0, 0, 0], [2, 1, 0, 3]] } else { &[[0, 0, 0, 0], [0, 1, 0, 2]] };
        for ids in pairs {
            out.push(scaled(&op, K64, E2M1, E2M1, scale, *ids));
        }
    }
    out.into_iter().map(|t| t.on(ONLY_120, 87)).collect()
}

/// With a register of scales for A and one for B after the matrices.
fn scaled(op: &str, shape: Shape, a: Format, b: Format, scale: Kind, ids: [u32; 4]) -> Test {
    let [byte_a, thread_a, byte_b, thread_b] = ids;
    let name = format!("{op}/bytes {byte_a} {byte_b} threads {thread_a} {thread_b}");
    let first = matrix_test(&name, op, shape, [a, b, F32], F32, &[], "").ins.len();
    let tail = format!(", %a{first}, {{{byte_a}, {thread_a}}}, %a{}, {{{byte_b}, {thread_b}}}", first + 1);
    matrix_test(&name, op, shape, [a, b, F32], F32, &[scale, scale], &tail)
}
