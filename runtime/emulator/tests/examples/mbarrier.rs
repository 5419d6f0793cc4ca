//! mbarriers by themselves: phases, states, counts; and what is found wrong.

use super::*;

/// Runs a body that initialises the mbarrier at `[dyn]` first, for `count` arrivals.
fn with_barrier(count: u32, body: &str) -> String {
    format!(
        ".reg .pred %q<4>; setp.ne.u32 %q0, %r0, 0;\n@%q0 bra READY;\nmbarrier.init.shared.b64 [dyn], {count};\n\
         READY: bar.sync 0;\n{body}"
    )
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// What the threads of a block leave in `%r1`.
#[track_caller]
fn values(threads: u32, count: u32, body: &str) -> Vec<u32> {
    let body = format!(
        "{}\nmul.wide.u32 %d9, %r0, 4; add.s64 %d9, %out, %d9; st.global.b32 [%d9], %r1;",
        with_barrier(count, body)
    );
    words(
        &on(&body, sizes(1, threads, 1024), &vec![0; 4 * threads as usize]).unwrap_or_else(|e| panic!("{e}")),
    )
}

#[track_caller]
fn kind(count: u32, body: &str) -> (FaultKind, String) {
    wrong(&with_barrier(count, body), sizes(1, 64, 1024))
}

#[test]
fn threads_pass_words_to_each_other() {
    // Each reads what the thread of the other warp has written before it arrived.
    let body = "mov.b32 %r2, dyn; mad.lo.s32 %r3, %r0, 4, %r2; st.shared.b32 [%r3+64], %r0;
        mbarrier.arrive.shared.b64 %d0, [dyn];
        WAIT: mbarrier.try_wait.shared.b64 %p0, [dyn], %d0; @!%p0 bra WAIT;
        xor.b32 %r4, %r0, 32; mad.lo.s32 %r3, %r4, 4, %r2; ld.shared.b32 %r1, [%r3+64];";
    assert_eq!(values(64, 64, body), (0..64).map(|t| t ^ 32).collect::<Vec<u32>>());
    // Nobody waits, or nothing is released, or acquired.
    assert_eq!(
        kind(64, &body.replace("@!%p0 bra WAIT;", "").replace("try_wait", "test_wait")).0,
        FaultKind::UninitialisedMemory
    );
    for (from, to) in [("arrive.", "arrive.relaxed.cta."), ("try_wait.", "try_wait.relaxed.cta.")] {
        assert_eq!(kind(64, &body.replace(from, to)).0, FaultKind::Race, "{to}");
    }
}

#[test]
fn states_and_counts() {
    // The state is that before the arrival; one thread at a time arrives, in order.
    let body = "mbarrier.arrive.shared.b64 %d0, [dyn]; mbarrier.pending_count.b64 %r1, %d0;";
    assert_eq!(values(4, 4, body), [4, 3, 2, 1]);
    let body = "setp.ne.u32 %p1, %r0, 0; mov.b32 %r1, 9; @%p1 bra END;
        mbarrier.arrive.noComplete.shared.b64 %d0, [dyn], 2;
        mbarrier.arrive_drop.shared.b64 _, [dyn];
        mbarrier.test_wait.shared.b64 %p2, [dyn], %d0; selp.u32 %r1, 1, 0, %p2;
        mbarrier.arrive.shared.b64 %d1, [dyn];
        mbarrier.test_wait.shared.b64 %p2, [dyn], %d0; selp.u32 %r2, 2, 0, %p2; add.u32 %r1, %r1, %r2;
        mbarrier.test_wait.parity.shared.b64 %p2, [dyn], 1; selp.u32 %r2, 4, 0, %p2; add.u32 %r1, %r1, %r2;
        mbarrier.test_wait.parity.shared.b64 %p2, [dyn], 0; selp.u32 %r2, 8, 0, %p2; add.u32 %r1, %r1, %r2;
        mbarrier.arrive.shared.b64 %d1, [dyn]; mbarrier.pending_count.b64 %r2, %d1; shl.b32 %r2, %r2, 4;
        add.u32 %r1, %r1, %r2;
        END:";
    // Phase 0 is complete after the fourth arrival: 2 and 8; phase 1 waits for three.
    assert_eq!(values(1, 4, body), [2 + 8 + 3 * 16]);
    // Used again as memory.
    let body =
        "mbarrier.inval.shared.b64 [dyn]; mbarrier.init.shared.b64 [dyn], 1; mbarrier.inval.shared.b64 [dyn];
        st.shared.b32 [dyn], 5; ld.shared.b32 %r1, [dyn];";
    assert_eq!(values(1, 1, body), [5]);
}

#[test]
fn bytes_are_counted() {
    let body = "mbarrier.expect_tx.relaxed.cta.shared.b64 [dyn], 100; mbarrier.arrive.shared.b64 %d0, [dyn];
        mbarrier.test_wait.shared.b64 %p0, [dyn], %d0; selp.u32 %r1, 1, 0, %p0;
        mbarrier.complete_tx.relaxed.cta.shared.b64 [dyn], 100;
        mbarrier.test_wait.shared.b64 %p0, [dyn], %d0; selp.u32 %r2, 2, 0, %p0; add.u32 %r1, %r1, %r2;";
    assert_eq!(values(1, 1, body), [2]);
}

#[test]
fn copies_arrive_when_they_are_done() {
    let body = "setp.ne.u32 %p1, %r0, 0; @%p1 bra WAIT;
        cp.async.ca.shared.global [dyn+16], [%out], 4; cp.async.mbarrier.arrive.noinc.shared.b64 [dyn];
        WAIT: mbarrier.try_wait.parity.shared.b64 %p0, [dyn], 0; @!%p0 bra WAIT;
        ld.shared.b32 %r1, [dyn+16]; add.u32 %r1, %r1, 1;";
    assert_eq!(values(64, 1, body), [1; 64]);
    assert_eq!(
        kind(
            1,
            &body
                .replace("cp.async.mbarrier.arrive.noinc", "mbarrier.arrive")
                .replace("b64 [dyn];\n        WAIT", "b64 _, [dyn];\n        WAIT")
        )
        .0,
        FaultKind::Race
    );
}

#[test]
fn faults() {
    let found = |count, body: &str, wanted: FaultKind, words: &str| {
        let (kind, what) = kind(count, body);
        assert_eq!(kind, wanted, "{body}: {what}");
        assert!(what.contains(words), "{what}");
    };
    let bad = FaultKind::Mbarrier;
    found(1, "mbarrier.arrive.shared.b64 _, [dyn+8];", bad, "not initialised");
    found(1, "@%q0 bra E; mbarrier.init.shared.b64 [dyn], 1; E:", bad, "without mbarrier.inval");
    found(0, "", bad, "0 arrivals");
    found(1 << 20, "", bad, "1 to 1048575");
    found(2, "@%q0 bra E; mbarrier.arrive.shared.b64 _, [dyn], 3; E:", bad, "3 arrivals");
    found(1, "@%q0 bra E; mbarrier.arrive.noComplete.shared.b64 %d0, [dyn], 1; E:", bad, "noComplete");
    let twice = "@%q0 bra E; mbarrier.expect_tx.relaxed.cta.shared.b64 [dyn], 1048575; mbarrier.expect_tx.relaxed.cta.shared.b64 [dyn], 1; E:";
    found(1, twice, bad, "1048576 bytes");
    found(1, "@%q0 bra E; ld.shared.b32 %r1, [dyn+4]; E:", bad, "an mbarrier is in use");
    found(1, "@%q0 bra E; st.shared.b32 [dyn], 1; E:", bad, "an mbarrier is in use");
    found(1, "mbarrier.test_wait.parity.shared.b64 %p0, [dyn], 2;", bad, "parity 2");
    found(1, "mov.b64 %d0, 77; mbarrier.test_wait.shared.b64 %p0, [dyn], %d0;", bad, "no state");
    let old = "@%q0 bra E; mbarrier.arrive.shared.b64 %d0, [dyn]; mbarrier.arrive.shared.b64 %d1, [dyn];
        mbarrier.test_wait.shared.b64 %p0, [dyn], %d0; E:";
    found(1, old, bad, "phase 0 of an mbarrier that is in phase 2");
    let lonely = "mbarrier.try_wait.parity.shared.b64 %p0, [dyn], 0;";
    found(3, lonely, FaultKind::Deadlock, "3 arrivals and 0 bytes are to come");
    let global = "mbarrier.arrive.b64 %d0, [%out];";
    found(1, global, bad, "must be shared");
    // Without the barrier after the initialisation.
    let early = "setp.ne.u32 %p1, %r0, 0; @!%p1 mbarrier.init.shared.b64 [dyn], 64; mbarrier.arrive.shared.b64 _, [dyn];";
    assert_eq!(wrong(early, sizes(1, 64, 1024)).0, FaultKind::Race);
}

/// An example that reaches the mbarrier by generic and by shared addresses.
#[test]
fn scopes_and_spaces() {
    let text = text("sync_02_mbar_scopes").replace(
        "\tld.param.b64 \t%rd1, [k_param_0];",
        ".shared .align 8 .b8 bar[8]; .reg .b64 %z<3>; mbarrier.init.shared.b64 [bar], 3;
         mbarrier.arrive.shared.b64 %z0, [bar], 3; ld.param.b64 %rd1, [k_param_0];",
    );
    let mut global = Global::default();
    let out = global.alloc(8, "out");
    let params = [1024u64, 1024, out].map(u64::to_le_bytes);
    let params: Vec<&[u8]> = params.iter().map(|p| &p[..]).collect();
    fine(&kernel(&text), sizes(1, 1, 0), &params, &global);
    // Both waits for phase 0 are over. The state: phase 1, with two arrivals pending; 1 is added.
    let mut bytes = [0; 8];
    assert!(global.read(out, &mut bytes));
    assert_eq!(u64::from_le_bytes(bytes) & 0xffff_ffff, 1 << 20 | (2 + 1));
}
