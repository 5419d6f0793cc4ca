//! What is wrong with a kernel that uses tensor memory; without the mistake it has no fault (`products`).

use super::Kernel;
use super::products::{fill, one};
use trtc_emulator::FaultKind;
use trtc_emulator::number::format::Format;

fn right() -> Kernel {
    let kernel = one("f16", [Format::F16; 2], [128, 64, 16], 1 << 4).0;
    kernel.words();
    kernel
}

#[test]
fn results_are_read_too_early() {
    let wait = "mbarrier.try_wait.parity.shared::cta.b64 %p4, [mbar], 0; @!%p4 bra WAIT;";
    // Warps that come before the product is issued find nothing there, or what was there before.
    right().with(wait, "").faults(FaultKind::UninitialisedMemory, "nobody has written");
    let filled = Kernel { before: fill(9.0, 64), ..right() };
    filled.with(wait, "").faults(FaultKind::Race, "was read by tcgen05.ld of warp");
    // The warp of the product itself.
    let text = filled.with(
        wait,
        "@%p2 bra SOON; LATE: mbarrier.try_wait.parity.shared::cta.b64 %p4, [mbar], 0; @!%p4 bra LATE; SOON:",
    );
    text.faults(FaultKind::Race, "tcgen05.commit and a wait for its mbarrier");
    // Who does not commit waits for ever.
    let commit = "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [mbar];";
    right().with(commit, "").faults(FaultKind::Deadlock, "mbarrier");
    // An arrival that is not the commit's says nothing of the product.
    let arrive = "mbarrier.arrive.shared::cta.b64 _, [mbar];";
    right().with(commit, arrive).faults(FaultKind::Race, "tcgen05.commit and a wait");
}

#[test]
fn a_commit_covers_what_was_issued_before_it() {
    let kernel = right();
    let commit = "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [mbar];";
    let product = "tcgen05.mma.cta_group::1.kind::f16.collector::a::discard [%t], %d10, %d11, %r31, %p5;";
    let first =
        Kernel { issue: kernel.issue.replace(product, &format!("{product}{commit}{product}")), ..kernel };
    // The first commit ends the phase; the second one's comes later, and is not waited for.
    first.faults(FaultKind::Race, "tcgen05.commit and a wait");
}

#[test]
fn fences_between_warps() {
    let after = right().with("tcgen05.fence::after_thread_sync; // after the wait", "");
    after.faults(FaultKind::Race, "tcgen05.fence::after_thread_sync");
    let mut filled = right();
    filled.before = fill(9.0, 64);
    filled.words();
    let fences =
        "tcgen05.fence::before_thread_sync; bar.sync 0; tcgen05.fence::after_thread_sync; // between";
    let wrong = filled.with(fences, "bar.sync 0; tcgen05.fence::after_thread_sync;");
    wrong.faults(FaultKind::Race, "tcgen05.fence::before_thread_sync");
    let wrong = filled.with(fences, "tcgen05.fence::before_thread_sync; bar.sync 0;");
    wrong.faults(FaultKind::Race, "tcgen05.fence::after_thread_sync");
    filled.with("tcgen05.wait::st.sync.aligned;", "").faults(FaultKind::Race, "tcgen05.wait::st");
}

#[test]
fn the_other_proxy() {
    right()
        .with("fence.proxy.async.shared::cta;", "")
        .faults(FaultKind::MissingProxyFence, "fence.proxy.async");
    let race = right().with("bar.sync 0;\n             ld.shared.b32 %t", "ld.shared.b32 %t");
    assert!(matches!(race.fault().kind, FaultKind::UninitialisedMemory | FaultKind::Race));
}

#[test]
fn operands_are_overwritten() {
    let mut kernel = right();
    kernel.issue += "st.shared.b32 [%dyn], %t;";
    kernel.faults(FaultKind::Race, "a tcgen05 operation of");
    // After the wait they may be.
    let wait = "tcgen05.fence::after_thread_sync; // after the wait";
    right().with(wait, "tcgen05.fence::after_thread_sync; @%p1 st.shared.b32 [dyn], %t;").words();
}

#[test]
fn registers_are_used_before_the_wait() {
    right().with("tcgen05.wait::ld.sync.aligned;", "").faults(FaultKind::RegisterInFlight, "is under way");
}

#[test]
fn lanes_of_other_warps() {
    for other in [
        "mov.b32 %r7, 0;",
        "shl.b32 %r7, %r7, 20;",
        "add.u32 %r7, %r7, 1; and.b32 %r7, %r7, 3; shl.b32 %r7, %r7, 21;",
    ] {
        let kernel = right().with("shl.b32 %r7, %r7, 21;", other);
        kernel.faults(FaultKind::TensorMemory, "that warp reaches it at lane");
    }
}

#[test]
fn columns_that_are_not_allocated() {
    let kernel = right().with("[taddr], 512;", "[taddr], 32;");
    kernel.faults(FaultKind::TensorMemory, "of which 32 is not allocated");
    let far = Kernel { issue: format!("add.u32 %t, %t, 480; {}", right().issue), ..right() };
    far.faults(FaultKind::TensorMemory, "512");
}

#[test]
fn memory_is_not_given_back() {
    let dealloc = "@%p2 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %t, 512;";
    let fault = right().with(dealloc, "").fault();
    assert_eq!(fault.kind, FaultKind::TensorMemory);
    assert!(fault.what.contains("not deallocated") && fault.text.contains("tcgen05.alloc"), "{fault}");
    let early = Kernel { columns: 0, ..right() };
    early.words();
    early
        .with("WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p4, [mbar], 0; @!%p4 bra WAIT;", "WAIT:")
        .faults(FaultKind::Race, "tcgen05.dealloc");
}

#[test]
fn descriptors() {
    let of = |kernel: Kernel| kernel.fault().kind;
    let kernel = right();
    // The constant of the format is missing.
    let issue = kernel.issue.replacen("0x4010", "0x10", 1);
    assert_ne!(issue, kernel.issue, "{issue}");
    assert_eq!(of(Kernel { issue, ..kernel.clone() }), FaultKind::Descriptor);
    // M is 48.
    let m = format!("mov.b32 %r31, {:#x};", 1 << 4 | 8 << 17 | 3 << 24);
    let issue = kernel.issue.replace("mov.pred %p5, 0;", &format!("mov.pred %p5, 0; {m}"));
    assert_eq!(of(Kernel { issue, ..kernel.clone() }), FaultKind::Descriptor);
    // B is behind the end of shared memory.
    let issue = kernel.issue.replace("add.u32 %r30, %dyn, 4096;", "add.u32 %r30, %dyn, 5120;");
    let fault = Kernel { issue, ..kernel.clone() }.fault();
    assert!(fault.kind == FaultKind::Descriptor && fault.what.contains("row 32"), "{fault}");
    // D is not zero, and nobody has written it.
    let issue = kernel.issue.replace("mov.pred %p5, 0;", "mov.pred %p5, -1;");
    Kernel { issue, ..kernel }.faults(FaultKind::UninitialisedMemory, "tcgen05.mma reads lane 0");
}

/// Matrix instructions of another thread follow those that were issued before the fences and the barrier.
#[test]
fn products_follow_those_of_another_warp() {
    let mut kernel = right();
    let product = kernel.issue.clone();
    kernel.before = format!("setp.ne.u32 %p7, %me, 64; @%p7 bra DONE; {product} DONE:");
    kernel.issue = product.replace("mov.pred %p5, 0;", "mov.pred %p5, -1;");
    let (twice, once) = (kernel.words(), right().words());
    let value = |w: &u32| f32::from_bits(*w);
    assert!(twice.iter().zip(&once).all(|(t, o)| value(t) == 2.0 * value(o)));
    let fences =
        "tcgen05.fence::before_thread_sync; bar.sync 0; tcgen05.fence::after_thread_sync; // between";
    for wrong in
        ["tcgen05.fence::before_thread_sync; bar.sync 0;", "bar.sync 0; tcgen05.fence::after_thread_sync;"]
    {
        assert_eq!(kernel.with(fences, wrong).fault().kind, FaultKind::Race);
    }
}

/// The next product overwrites what a warp is still loading.
#[test]
fn columns_are_overwritten_during_a_load() {
    let kernel = |wait: &str| {
        let mut kernel = right();
        let load = format!("tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r40}}, [%mine]; {wait}");
        kernel.before = fill(9.0, 64) + &load;
        kernel
    };
    kernel("tcgen05.wait::ld.sync.aligned;").words();
    kernel("").faults(FaultKind::Race, "tcgen05.wait::ld");
}
