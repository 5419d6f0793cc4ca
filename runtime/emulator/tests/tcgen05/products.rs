//! Products without scales.

use super::Kernel;
use super::matrix::*;
use trtc_emulator::FaultKind;
use trtc_emulator::number::format::Format;

/// Of D, in an instruction descriptor.
const SINGLE: u32 = 1 << 4;

fn rows(format: Format, x: &[f32], k: usize, padded: bool) -> Vec<Vec<u8>> {
    x.chunks(k).map(|row| row_bytes(format, row, padded)).collect()
}

/// A and B behind each other in the plain layout, and the text of one product of them.
pub fn one(
    kind: &str,
    formats: [Format; 2],
    [m, n, k]: [usize; 3],
    descriptor_bits: u32,
) -> (Kernel, Vec<f64>) {
    let (a, b) = (numbers(m, k, (3, 5), &EXACT), numbers(n, k, (2, 1), &EXACT));
    let padded = |f: Format| f.bits() < 8;
    let mut image = plain(&rows(formats[0], &a, k, padded(formats[0])));
    let at_b = image.len();
    image.extend(plain(&rows(formats[1], &b, k, padded(formats[1]))));
    let word = descriptor_bits | shape(m as u32, n as u32);
    let issue = format!(
        "{}{}mov.b32 %r31, {word:#x}; mov.pred %p5, 0;
         tcgen05.mma.cta_group::1.kind::{kind}.collector::a::discard [%t], %d10, %d11, %r31, %p5;",
        descriptor("%d10", 0, PLAIN, 0),
        descriptor("%d11", at_b, PLAIN, 0)
    );
    (Kernel::new(image, issue, n as u32), product(&a, &b, k))
}

#[test]
fn f16() {
    let (kernel, want) = one("f16", [Format::F16; 2], [128, 64, 16], SINGLE);
    assert_eq!(floats(&kernel.words()), want);
}

#[test]
fn every_kind() {
    use Format::{Bf16, E2m1, E2m3, E3m2, E4m3, E5m2, F16, Tf32};
    for (kind, formats, k, bits) in [
        ("f16", [Bf16, Bf16], 16, SINGLE | 1 << 7 | 1 << 10),
        ("tf32", [Tf32, Tf32], 8, SINGLE | 2 << 7 | 2 << 10),
        ("f8f6f4", [E4m3, E5m2], 32, SINGLE | 1 << 10),
        ("f8f6f4", [E2m1, E2m3], 32, SINGLE | 5 << 7 | 3 << 10),
        ("f8f6f4", [E3m2, E4m3], 32, SINGLE | 4 << 7),
    ] {
        let (kernel, want) = one(kind, formats, [128, 40, k], bits);
        assert_eq!(floats(&kernel.words()), want, "{kind} {formats:?}");
    }
    let (mixed, _) = one("f16", [Bf16, F16], [128, 40, 16], SINGLE | 1 << 7);
    mixed.faults(FaultKind::Descriptor, "no product");
}

#[test]
fn sums_in_f16() {
    let (kernel, want) = one("f16", [Format::F16; 2], [128, 16, 16], 0);
    let got: Vec<f64> = kernel.words().iter().map(|&w| f64::from(Format::F16.decode(w))).collect();
    assert_eq!(got, want);
}

#[test]
fn integers() {
    let value = |i: usize| (i * 37 % 251) as u8;
    let (m, n, k) = (128, 32, 32);
    let a: Vec<Vec<u8>> = (0..m).map(|r| (0..k).map(|i| value(r * k + i)).collect()).collect();
    let b: Vec<Vec<u8>> = (0..n).map(|r| (0..k).map(|i| value(7 * r + 3 * i)).collect()).collect();
    let mut image = plain(&a);
    image.extend(plain(&b));
    // A is u8, B is s8.
    let word = 2 << 4 | 1 << 10 | shape(128, 32);
    let issue = format!(
        "{}{}mov.b32 %r31, {word:#x}; mov.pred %p5, 0;
         tcgen05.mma.cta_group::1.kind::i8 [%t], %d10, %d11, %r31, %p5;",
        descriptor("%d10", 0, PLAIN, 0),
        descriptor("%d11", m * k, PLAIN, 0)
    );
    let got = Kernel::new(image, issue, 32).words();
    let dot =
        |x: &[u8], y: &[u8]| x.iter().zip(y).map(|(&x, &y)| i32::from(x) * i32::from(y as i8)).sum::<i32>();
    let want: Vec<u32> = a.iter().flat_map(|x| b.iter().map(move |y| dot(x, y) as u32)).collect();
    assert_eq!(got, want);
}

/// 64 elements of K with the swizzle of 128 bytes: four products, each of which begins 32 bytes further.
fn steps() -> (Kernel, Vec<f64>, Vec<f64>) {
    let (m, n, k) = (128, 64, 64);
    let (a, b) = (numbers(m, k, (3, 5), &EXACT), numbers(n, k, (2, 1), &EXACT));
    let mut image = swizzled(&rows(Format::F16, &a, k, false));
    let at_b = image.len();
    image.extend(swizzled(&rows(Format::F16, &b, k, false)));
    let mut issue = format!("mov.b32 %r31, {:#x};", SINGLE | shape(128, 64));
    for step in 0..4 {
        issue += &format!(
            "{}{}mov.pred %p5, {};
             tcgen05.mma.cta_group::1.kind::f16 [%t], %d10, %d11, %r31, %p5{};\n",
            descriptor("%d10", 32 * step, (0, 1024), 2),
            descriptor("%d11", at_b + 32 * step, (0, 1024), 2),
            -i32::from(step > 0),
            if step == 3 { ", SCALE" } else { "" }
        );
    }
    let part = |x: &[f32], from: usize, to: usize| -> Vec<f32> {
        x.chunks(k).flat_map(|row| row[from..to].to_vec()).collect()
    };
    let first = product(&part(&a, 0, 48), &part(&b, 0, 48), 48);
    let last = product(&part(&a, 48, 64), &part(&b, 48, 64), 16);
    (Kernel::new(image, issue, 64), first, last)
}

#[test]
fn products_add_up() {
    let (kernel, first, last) = steps();
    for (word, scale) in [(", 0", 1.0), (", 2", 0.25)] {
        let text = kernel.issue.replace(", SCALE", word);
        let got = floats(&Kernel { issue: text, ..kernel.clone() }.words());
        let want: Vec<f64> = first.iter().zip(&last).map(|(x, y)| scale * x + y).collect();
        assert_eq!(got, want);
    }
}

/// B of which the elements of a k are neighbours, without a swizzle: matrices of 8 k of 16 bytes.
#[test]
fn b_is_transposed() {
    let (m, n, k) = (128, 64, 16);
    let (a, b) = (numbers(m, k, (3, 5), &EXACT), numbers(n, k, (2, 1), &EXACT));
    let mut image = plain(&rows(Format::F16, &a, k, false));
    let at_b = image.len();
    image.resize(at_b + n * k * 2, 0);
    for row in 0..n {
        for i in 0..k {
            // 8 rows are 128 bytes further, 8 k 1024.
            let at = at_b + i / 8 * 1024 + row / 8 * 128 + i % 8 * 16 + row % 8 * 2;
            image[at..at + 2].copy_from_slice(&bits(Format::F16, b[row * k + i]).to_le_bytes()[..2]);
        }
    }
    let issue = format!(
        "{}{}mov.b32 %r31, {:#x}; mov.pred %p5, 0;
         tcgen05.mma.cta_group::1.kind::f16 [%t], %d10, %d11, %r31, %p5;",
        descriptor("%d10", 0, PLAIN, 0),
        descriptor("%d11", at_b, (1024, 128), 0),
        SINGLE | 1 << 16 | shape(128, 64)
    );
    assert_eq!(floats(&Kernel::new(image, issue, 64).words()), product(&a, &b, k));
}

/// Words `tag + column` in all of the warp's lanes of so many columns.
pub fn fill(tag: f32, columns: u32) -> String {
    let mut text = format!("mov.b32 %r20, {:#x};", tag.to_bits());
    for column in 0..columns {
        text += &format!(
            "add.u32 %r21, %mine, {column}; tcgen05.st.sync.aligned.32x32b.x1.b32 [%r21], {{%r20}};\n"
        );
    }
    text + "tcgen05.wait::st.sync.aligned;\n"
}

/// M = 64 takes 16 lanes of each window of 32, and leaves the others as they were.
#[test]
fn half_of_the_lanes() {
    let (mut kernel, want) = one("f16", [Format::F16; 2], [64, 16, 16], SINGLE);
    kernel.before = fill(9.0, 16);
    let got = floats(&kernel.words());
    for lane in 0..128 {
        for column in 0..16 {
            let row = lane / 32 * 16 + lane % 32;
            let expected = if lane % 32 < 16 { want[row * 16 + column] } else { 9.0 };
            assert_eq!(got[lane * 16 + column], expected, "{lane} {column}");
        }
    }
}

#[test]
fn lanes_are_disabled() {
    let (mut kernel, want) = one("f16", [Format::F16; 2], [128, 16, 16], SINGLE);
    kernel.before = fill(9.0, 16);
    kernel.issue = kernel.issue.replace("%r31, %p5;", "%r31, {%r40, %r41, %r42, %r43}, %p5;");
    kernel.issue = format!(
        "mov.b32 %r40, 1; mov.b32 %r41, 0; mov.b32 %r42, -1; mov.b32 %r43, 0x80000000;{}",
        kernel.issue
    );
    let got = floats(&kernel.words());
    for lane in 0..128usize {
        let off = lane == 0 || (64..96).contains(&lane) || lane == 127;
        let expected = if off { vec![9.0; 16] } else { want[lane * 16..][..16].to_vec() };
        assert_eq!(got[lane * 16..][..16], expected, "{lane}");
    }
}

/// A in tensor memory: 16 elements of 16 bits in 8 columns, from column 256 on.
#[test]
fn a_in_tensor_memory() {
    let (mut kernel, _) = one("f16", [Format::F16; 2], [128, 16, 16], SINGLE);
    let ramp = |lane: usize, i: usize| ((lane + i) % 8) as f32;
    // Elements 2c and 2c + 1 of a row are in column c.
    kernel.before = "and.b32 %r20, %me, 127; add.u32 %r25, %mine, 256;".to_owned();
    for column in 0..8 {
        kernel.before += &format!(
            "add.u32 %r21, %r20, {}; and.b32 %r21, %r21, 7; add.u32 %r22, %r21, 1; and.b32 %r22, %r22, 7;
             cvt.rn.f16.u32 %h1, %r21; cvt.rn.f16.u32 %h2, %r22; mov.b32 %r23, {{%h1, %h2}}; add.u32 %r24, %r25, {column};
             tcgen05.st.sync.aligned.32x32b.x1.b32 [%r24], {{%r23}};",
            2 * column
        );
    }
    kernel.before = format!("{} tcgen05.wait::st.sync.aligned;", kernel.before);
    kernel.issue = kernel.issue.replace("[%t], %d10,", "[%t], [%r32],");
    kernel.issue = format!("add.u32 %r32, %t, 256; {}", kernel.issue);
    let a: Vec<f32> = (0..128).flat_map(|l| (0..16).map(move |i| ramp(l, i))).collect();
    let b = numbers(16, 16, (2, 1), &EXACT);
    assert_eq!(floats(&kernel.words()), product(&a, &b, 16));
}

/// `.ws` with M = 64 and 32: columns in two halves, or four quarters, of which each has lanes of its own.
#[test]
fn weights_stay() {
    for (m, parts) in [(64, 2), (32, 4)] {
        let (kernel, want) = one("f16", [Format::F16; 2], [m, 64, 16], SINGLE);
        let issue = kernel.issue.replace("mma.cta_group", "mma.ws.cta_group").replace("::a::", "::b0::");
        let columns = 64 / parts;
        let got = floats(&Kernel { issue, columns: columns as u32, ..kernel }.words());
        for lane in 0..128 {
            let (row, first) = (lane % m, lane / m * columns);
            assert_eq!(got[lane * columns..][..columns], want[row * 64 + first..][..columns], "{m} {lane}");
        }
    }
}
