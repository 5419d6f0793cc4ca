//! Two blocks that work together: `.cta_group::2`.

use super::matrix::*;
use super::{Kernel, THREADS};
use trtc_emulator::FaultKind;
use trtc_emulator::number::format::Format;

const CLUSTER_BARRIER: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

/// The product of `m` x 16 and 16 x `n`, of which each block has half of the rows and half of the columns.
fn kernel(m: usize, n: usize) -> (Kernel, Vec<f64>) {
    let k = 16;
    let (a, b) = (numbers(m, k, (3, 5), &EXACT), numbers(n, k, (2, 1), &EXACT));
    let rows =
        |x: &[f32]| -> Vec<Vec<u8>> { x.chunks(k).map(|r| row_bytes(Format::F16, r, false)).collect() };
    let mut image = Vec::new();
    for (a, b) in a.chunks(m / 2 * k).zip(b.chunks(n / 2 * k)) {
        image.extend(plain(&rows(a)));
        image.extend(plain(&rows(b)));
    }
    let issue = format!(
        "{}{}mov.b32 %r31, {:#x}; mov.pred %p5, 0;
         tcgen05.mma.cta_group::2.kind::f16 [%t], %d10, %d11, %r31, %p5;",
        descriptor("%d10", 0, PLAIN, 0),
        descriptor("%d11", m / 2 * 32, PLAIN, 0),
        1 << 4 | shape(m as u32, n as u32)
    );
    // M of 128 has the columns in two halves.
    let columns = if m == 256 { n } else { n / 2 } as u32;
    let of_rank = |address: &str, bytes: usize| {
        format!("mul.lo.u32 %r61, %r60, {bytes}; cvt.u64.u32 %d5, %r61; add.u64 {address}, {address}, %d5;")
    };
    let (input, output) =
        (of_rank("%d2", image.len() / 2), of_rank("%out", 4 * (THREADS * columns) as usize));
    let kernel = Kernel { blocks: 2, ..Kernel::new(image, issue, columns) };
    let kernel = kernel
        .with("cta_group::1", "cta_group::2")
        .with(".param .u64 in) {", ".param .u64 in) .reqnctapercluster 2, 1, 1 {")
        .with("bar.sync 0;", CLUSTER_BARRIER)
        .with("[in];", &format!("[in]; mov.u32 %r60, %cluster_ctarank; {input} {output}"))
        .with("@!%p1 bra WAIT;", "setp.ne.u32 %p7, %r60, 0; @%p7 bra WAIT; @!%p1 bra WAIT;")
        .with("shared::cluster.b64 [mbar];", "shared::cluster.multicast::cluster.b64 [mbar], %h1;")
        .with("@!%p1 bra WAIT;", "mov.b16 %h1, 3; @!%p1 bra WAIT;");
    (kernel, product(&a, &b, k))
}

#[test]
fn rows_of_two_blocks() {
    let (kernel, want) = kernel(256, 64);
    assert_eq!(floats(&kernel.words()), want);
}

/// With M = 128 a block has 64 rows: its first 64 lanes have the first half of the columns, the others the second.
#[test]
fn columns_in_two_halves() {
    let (kernel, want) = kernel(128, 32);
    let got = floats(&kernel.words());
    for block in 0..2 {
        for lane in 0..128 {
            let (row, first) = (64 * block + lane % 64, lane / 64 * 16);
            let found = &got[(128 * block + lane) * 16..][..16];
            assert_eq!(found, &want[row * 32 + first..][..16], "{block} {lane}");
        }
    }
}

#[test]
fn both_blocks_must_learn_of_it() {
    let (kernel, _) = kernel(256, 64);
    kernel.with("%h1, 3;", "%h1, 1;").faults(FaultKind::Deadlock, "mbarrier");
    kernel.with("%h1, 3;", "%h1, 7;").faults(FaultKind::Undefined, "a cluster of 2");
    kernel
        .with("fence.proxy.async.shared::cta;", "")
        .faults(FaultKind::MissingProxyFence, "fence.proxy.async");
    let alone = kernel.with(".reqnctapercluster 2, 1, 1", "").with("%h1, 3;", "%h1, 1;");
    alone.faults(FaultKind::Undefined, "no peer");
}
