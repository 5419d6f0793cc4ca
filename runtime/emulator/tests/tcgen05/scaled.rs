//! Products with scales, which `tcgen05.cp` brings to tensor memory.

use super::Kernel;
use super::matrix::*;
use trtc_emulator::FaultKind;
use trtc_emulator::number::format::Format;

/// Columns of the scales of A and of B.
const AT: [u32; 2] = [256, 260];

struct Case {
    kind: &'static str,
    formats: [Format; 2],
    k: usize,
    /// Scales of a row along K, and their format.
    parts: usize,
    scale: Format,
    /// Of the instruction descriptor, without the shape.
    bits: u32,
    choices: &'static [f32],
}

/// One product of 128 x 64, and what it gives.
fn kernel(case: &Case) -> (Kernel, Vec<f64>) {
    let (m, n, k, parts) = (128, 64, case.k, case.parts);
    let (a, b) = (numbers(m, k, (3, 5), &EXACT), numbers(n, k, (2, 1), &EXACT));
    let scale_of = |row: usize, part: usize, of_b: bool| {
        case.choices[(row + 2 * part + usize::from(of_b)) % case.choices.len()]
    };
    let rows = |x: &[f32], format: Format| -> Vec<Vec<u8>> {
        let padded = format.bits() < 8 && k == 32;
        x.chunks(k).map(|row| row_bytes(format, row, padded)).collect()
    };
    let mut image = plain(&rows(&a, case.formats[0]));
    let at_b = image.len();
    image.extend(plain(&rows(&b, case.formats[1])));
    let at_scales = image.len();
    // 32 rows of 16 bytes for each 128 rows: row r is in row r % 32, bytes 4 (r / 32) and on.
    image.resize(at_scales + 1024, 0);
    for (of_b, count) in [(false, m), (true, n)] {
        for row in 0..count {
            for part in 0..parts {
                let at = at_scales + usize::from(of_b) * 512 + row % 32 * 16 + row / 32 * 4 + part;
                image[at] = bits(case.scale, scale_of(row, part, of_b)) as u8;
            }
        }
    }
    let scaled = |x: &[f32], of_b: bool| -> Vec<f32> {
        let with = |(i, v): (usize, &f32)| v * scale_of(i / k, i % k / (k / parts), of_b);
        x.iter().enumerate().map(with).collect()
    };
    let want = product(&scaled(&a, false), &scaled(&b, true), k);
    let issue = format!(
        "{}{}{}{}add.u32 %r33, %t, {}; add.u32 %r34, %t, {};
         tcgen05.cp.cta_group::1.32x128b.warpx4 [%r33], %d12;
         tcgen05.cp.cta_group::1.32x128b.warpx4 [%r34], %d13;
         mov.b32 %r31, {:#x}; mov.pred %p5, 0;
         tcgen05.mma.cta_group::1.kind::{}.collector::a::discard [%t], %d10, %d11, %r31, [%r33], [%r34], %p5;",
        descriptor("%d10", 0, PLAIN, 0),
        descriptor("%d11", at_b, PLAIN, 0),
        descriptor("%d12", at_scales, (0, 128), 0),
        descriptor("%d13", at_scales + 512, (0, 128), 0),
        AT[0],
        AT[1],
        case.bits | shape(128, 64),
        case.kind
    );
    (Kernel::new(image, issue, 64), want)
}

const UE8M0: u32 = 1 << 23;
const POWERS: &[f32] = &[1.0, 4.0, 0.5, 0.25, 2.0];

const CASES: [Case; 5] = [
    Case {
        kind: "mxf8f6f4.block_scale",
        formats: [Format::E4m3, Format::E5m2],
        k: 32,
        parts: 1,
        scale: Format::Ue8m0,
        bits: UE8M0 | 1 << 10,
        choices: POWERS,
    },
    Case {
        kind: "mxf8f6f4.block_scale.block32",
        formats: [Format::E2m1, Format::E4m3],
        k: 32,
        parts: 1,
        scale: Format::Ue8m0,
        bits: UE8M0 | 5 << 7,
        choices: POWERS,
    },
    Case {
        kind: "mxf4.block_scale",
        formats: [Format::E2m1; 2],
        k: 64,
        parts: 2,
        scale: Format::Ue8m0,
        bits: UE8M0 | 1 << 7 | 1 << 10,
        choices: POWERS,
    },
    Case {
        kind: "mxf4nvf4.block_scale.scale_vec::2X",
        formats: [Format::E2m1; 2],
        k: 64,
        parts: 2,
        scale: Format::Ue8m0,
        bits: UE8M0 | 1 << 7 | 1 << 10,
        choices: POWERS,
    },
    Case {
        kind: "mxf4nvf4.block_scale.block16",
        formats: [Format::E2m1; 2],
        k: 64,
        parts: 4,
        scale: Format::Ue4m3,
        bits: 1 << 7 | 1 << 10,
        choices: &[1.0, 1.5, 0.75, 3.5, 1.25],
    },
];

#[test]
fn every_kind_with_scales() {
    for case in &CASES {
        let (kernel, want) = kernel(case);
        assert_eq!(floats(&kernel.words()), want, "{}", case.kind);
    }
}

#[test]
fn scales_that_nobody_copied() {
    let (kernel, _) = kernel(&CASES[0]);
    let missing = kernel.with("tcgen05.cp.cta_group::1.32x128b.warpx4 [%r34], %d13;", "");
    missing.faults(FaultKind::UninitialisedMemory, "a scale");
    let one_window = kernel.with("32x128b.warpx4 [%r33]", "128x128b [%r33]");
    // Rows from 32 on are other bytes of the image, or behind it.
    assert!(one_window.run().is_err());
}

#[test]
fn sizes_of_blocks_are_those_of_the_kind() {
    let text = |words: &str| kernel(&CASES[2]).0.text().replace("mxf4.block_scale", words);
    let why = |words: &str| trtc_emulator::load(&text(words)).err().map(|e| e.what).unwrap_or_default();
    assert_eq!(why("mxf4.block_scale.block32"), "");
    assert!(why("mxf4.block_scale.block16").contains("[2] scales"));
    assert!(why("mxf4nvf4.block_scale").contains("the size of a scale's block is missing"));
    assert!(why("mxf4").contains(".block_scale goes with"));
    assert!(why("f16.block_scale").contains(".block_scale goes with"));
}
