//! Kernels that are wrong in one place, each found with the right words; and beside each the right one.

use super::{run, threads};
use trtc_emulator::{Fault, FaultKind, Sizes};

#[track_caller]
fn fault(sizes: Sizes, body: &str) -> Fault {
    match run(sizes, 1024, body) {
        Err(fault) => *fault,
        Ok(_) => panic!("nothing was found wrong"),
    }
}

#[track_caller]
fn fine(sizes: Sizes, body: &str) {
    run(sizes, 1024, body).unwrap_or_else(|e| panic!("{e}"));
}

/// A store by each thread and a load of its neighbour's word.
fn neighbours(barrier: &str) -> String {
    format!(
        "mov.u32 %r1, %tid.x; mov.b32 %r2, dyn; mad.lo.s32 %r3, %r1, 4, %r2; st.shared.b32 [%r3], %r1; {barrier}
         xor.b32 %r4, %r1, 32; mad.lo.s32 %r3, %r4, 4, %r2; ld.shared.b32 %r0, [%r3]; ret;"
    )
}

#[test]
fn a_barrier_is_missing() {
    fine(threads(64), &neighbours("bar.sync 0;"));
    let f = fault(threads(64), &neighbours(""));
    // Who reads first finds nothing there.
    assert_eq!(f.kind, FaultKind::UninitialisedMemory);
    // Read, then overwritten by the next round.
    let again = "bar.sync 0; ld.shared.b32 %r5, [%r3]; BARRIER xor.b32 %r4, %r1, 32; mad.lo.s32 %r6, %r4, 4, %r2; st.shared.b32 [%r6], %r5; bar.sync 0;";
    fine(threads(64), &neighbours(&again.replace("BARRIER", "bar.sync 0;")));
    let f = fault(threads(64), &neighbours(&again.replace("BARRIER", "")));
    assert_eq!(f.kind, FaultKind::Race);
    assert!(f.what.contains("no barrier is between"), "{f}");
    assert!(f.to_string().contains("line 11") || f.line > 0, "{f}");
}

#[test]
fn a_warp_needs_its_own_barrier_too() {
    let kernel = |sync: &str| {
        format!(
            "mov.u32 %r1, %tid.x; mov.b32 %r2, dyn; mad.lo.s32 %r3, %r1, 4, %r2; st.shared.b32 [%r3], %r1; {sync}
             xor.b32 %r4, %r1, 1; mad.lo.s32 %r3, %r4, 4, %r2; ld.shared.b32 %r0, [%r3]; ret;"
        )
    };
    fine(threads(32), &kernel("bar.warp.sync -1;"));
    let f = fault(threads(32), &kernel(""));
    assert_eq!(f.kind, FaultKind::Race);
    assert!(f.what.contains("thread 1 of warp 0"), "{f}");
}

#[test]
fn indices_are_off_by_one() {
    let kernel = |shift: i32| {
        format!(
            "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 4; add.s64 %d1, %out, %d1; st.global.b32 [%d1+{shift}], %r1; ret;"
        )
    };
    fine(threads(256), &kernel(0));
    let f = fault(threads(256), &kernel(4));
    assert_eq!((f.kind, f.thread), (FaultKind::OutOfBounds, [255, 0, 0]));
    assert!(f.what.contains("byte 1024 of out (1024 bytes)"), "{f}");
    assert_eq!(fault(threads(256), &kernel(2)).kind, FaultKind::Misaligned);
    let shared = |at: u32| format!("mov.b32 %r1, dyn; mov.b32 %r2, 1; st.shared.b32 [%r1+{at}], %r2; ret;");
    fine(threads(1), &shared(1020));
    let f = fault(threads(1), &shared(1024));
    assert_eq!(f.kind, FaultKind::OutOfBounds);
}

#[test]
fn registers_that_nobody_wrote() {
    let kernel = |guard: &str| {
        format!(
            "mov.u32 %r1, %tid.x; mov.pred %p1, -1; {guard} mov.b32 %r2, 5; add.s32 %r0, %r1, %r2; st.global.b32 [%out], %r0; ret;"
        )
    };
    fine(threads(32), &kernel(""));
    fine(threads(32), &kernel("@%p1"));
    let f = fault(threads(32), &kernel("@!%p1"));
    assert_eq!(f.kind, FaultKind::UninitialisedRegister);
    assert!(f.what.contains("%r2"), "{f}");
}

#[test]
fn a_copy_is_not_waited_for() {
    let kernel = |wait: &str| {
        format!(
            "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 16; add.s64 %d2, %out, %d1; mov.b64 %d3, dyn; add.s64 %d3, %d3, %d1;
             cp.async.cg.shared.global [%d3], [%d2], 16; cp.async.commit_group; {wait} ld.shared.b32 %r0, [%d3]; ret;"
        )
    };
    fine(threads(32), &kernel("cp.async.wait_group 0;"));
    let f = fault(threads(32), &kernel("cp.async.wait_group 1;"));
    assert_eq!(f.kind, FaultKind::Race);
    assert!(f.what.contains("cp.async"), "{f}");
}

#[test]
fn warps_that_never_come() {
    let kernel = |threads: u32| {
        format!(
            "mov.u32 %r1, %tid.x; shr.u32 %r2, %r1, 5; mov.b32 %r3, 1; mov.pred %p1, 0;
             bar.sync 1, {threads}; ret;"
        )
    };
    fine(threads(64), &kernel(64));
    let f = fault(threads(64), &kernel(96));
    assert_eq!(f.kind, FaultKind::Deadlock);
    assert!(f.what.contains("barrier 1, where 64 of 96 threads have come"), "{f}");
}

#[test]
fn threads_that_part_before_a_barrier() {
    let kernel = |divide: u32| {
        format!(
            "mov.u32 %r1, %tid.x; and.b32 %r2, %r1, {divide}; mov.b32 %r3, 0;
             brx.idx %r2, list; list: .branchtargets A, B;
             A: bar.sync 0; bra J; B: add.s32 %r3, %r3, 1; bar.sync 0; J: ret;"
        )
    };
    fine(threads(32), &kernel(0));
    let f = fault(threads(32), &kernel(1));
    assert_eq!(f.kind, FaultKind::Divergence);
    assert!(f.what.contains("who never come"), "{f}");
}

#[test]
fn a_shuffle_reads_who_is_not_there() {
    let kernel =
        |mask: &str| format!("mov.u32 %r1, %tid.x; shfl.sync.idx.b32 %r0, %r1, 20, 31, {mask}; ret;");
    fine(threads(32), &kernel("-1"));
    assert_eq!(fault(threads(32), &kernel("0xffff")).kind, FaultKind::Undefined);
}

#[test]
fn budgets_and_loops() {
    let body = "ret;";
    let too_much = Sizes { shared: 300 << 10, ..threads(32) };
    let f = fault(too_much, body);
    assert_eq!(f.kind, FaultKind::Budget);
    assert!(f.what.contains("232448"), "{f}");
    assert_eq!(fault(threads(2048), body).kind, FaultKind::Budget);
    assert_eq!(fault(threads(1), "L: bra L;").kind, FaultKind::Runaway);
    assert_eq!(fault(threads(1), "trap;").kind, FaultKind::Trap);
}

#[test]
fn unknown_instructions_are_named() {
    let text = |i: &str| {
        format!(
            ".version 8.0 .target sm_80 .address_size 64 .visible .entry k() {{ .reg .b32 %r<4>;\n{i}\nret; }}"
        )
    };
    let why = |i: &str| trtc_emulator::load(&text(i)).err().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(why("mov.b32 %r1, 2;"), "");
    assert_eq!(
        why("frobnicate.b32 %r1, 2;"),
        "line 2: frobnicate.b32: the emulator does not know this instruction"
    );
    for (text, word) in [
        ("redux.sync.add.abs.s32 %r1, %r2, -1;", "abs"),
        ("add.cc.sat.s32 %r1, %r2, %r3;", "sat"),
        ("mul24.s32 %r1, %r2, %r3;", ".hi or .lo"),
        ("red.global.add.noftz.u32 [%r1], %r2;", "noftz"),
    ] {
        assert!(why(text).contains(word), "{text}: {}", why(text));
    }
    assert_eq!(
        why("mul.lo.twice.s32 %r1, 2, 3;"),
        "line 2: mul.lo.twice.s32: the emulator does not know .twice here"
    );
}

#[test]
fn one_place_takes_equal_values_of_a_warp_alone() {
    let kernel = |value: &str| {
        format!(
            "mov.u32 %r1, %tid.x; mov.b32 %r2, dyn; {value} st.shared.b32 [%r2], %r3; mov.b32 %r0, 0; ret;"
        )
    };
    fine(threads(32), &kernel("mov.b32 %r3, 5;"));
    assert_eq!(fault(threads(32), &kernel("shr.u32 %r3, %r1, 3;")).kind, FaultKind::Race);
    assert_eq!(fault(threads(64), &kernel("mov.b32 %r3, 5;")).kind, FaultKind::Race);
}
