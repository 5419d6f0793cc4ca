//! Clusters: their barrier, memory of other blocks, writes that an mbarrier learns of; registers, elections, requests for
//! work.

use super::*;

/// A body for clusters of two blocks, 32 threads each; `%r1` is the rank. What is in `%r9` is stored.
fn cluster(body: &str) -> Kernel {
    kernel(&format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .u64 out)\n.reqnctapercluster 2\n{{\n.reg .pred %p<10>; .reg .b32 %r<40>;\n\
         .reg .b64 %d<20>; .shared .align 16 .b8 data[256]; .shared .align 8 .b8 bar[8];\n\
         mov.u32 %r0, %tid.x; mov.u32 %r1, %cluster_ctarank; setp.ne.u32 %p0, %r0, 0;\n{body}\n\
         ld.param.u64 %d9, [out]; mad.lo.u32 %r10, %r1, 32, %r0; mul.wide.u32 %d10, %r10, 4; add.s64 %d9, %d9, %d10;\n\
         st.global.b32 [%d9], %r9;\nret;\n}}"
    ))
}

fn values(body: &str) -> Result<Vec<u32>, Box<Fault>> {
    let mut global = Global::default();
    let out = global.alloc(256, "out");
    run(&cluster(body), sizes(2, 32, 0), &[&out.to_le_bytes()], &global)?;
    Ok(floats(&global, out, 64).into_iter().map(f32::to_bits).collect())
}

#[track_caller]
fn right(body: &str, of: impl Fn(u32, u32) -> u32) {
    let found = values(body).unwrap_or_else(|e| panic!("{e}"));
    let wanted: Vec<u32> = (0..64).map(|i| of(i / 32, i % 32)).collect();
    assert_eq!(found, wanted);
}

#[track_caller]
fn bad(body: &str) -> Fault {
    *values(body).err().unwrap_or_else(|| panic!("nothing was found wrong"))
}

/// Each block writes its memory and reads the other's.
const EXCHANGE: &str = "mov.b32 %r2, data; mad.lo.u32 %r3, %r0, 4, %r2; mad.lo.u32 %r4, %r1, 100, %r0;
    st.shared.b32 [%r3], %r4;
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
    xor.b32 %r5, %r1, 1; mapa.shared::cluster.u32 %r6, %r3, %r5; ld.shared::cluster.b32 %r9, [%r6];
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

#[test]
fn blocks_read_each_other() {
    right(EXCHANGE, |rank, thread| (1 - rank) * 100 + thread);
    let f = bad(&EXCHANGE.replacen(
        "barrier.cluster.arrive.aligned;",
        "barrier.cluster.arrive.relaxed.aligned;",
        1,
    ));
    assert_eq!(f.kind, FaultKind::Race, "{f}");
    let f = bad(&EXCHANGE.replacen("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;", "", 1));
    assert!(matches!(f.kind, FaultKind::Race | FaultKind::UninitialisedMemory), "{f}");
    let f = bad(&EXCHANGE.replace("xor.b32 %r5, %r1, 1;", "add.u32 %r5, %r1, 1;"));
    assert_eq!(f.kind, FaultKind::Undefined, "{f}");
}

#[test]
fn the_barrier_has_an_order() {
    let f = bad("mov.b32 %r9, 0; barrier.cluster.wait.aligned;");
    assert!(f.kind == FaultKind::Undefined && f.what.contains("has not arrived"), "{f}");
    let f = bad("mov.b32 %r9, 0; barrier.cluster.arrive.aligned; barrier.cluster.arrive.aligned;");
    assert!(f.kind == FaultKind::Undefined && f.what.contains("again"), "{f}");
    let one = "mov.b32 %r9, 0; setp.eq.u32 %p1, %r1, 0; @%p1 bra SPIN; bra.uni GO;
        SPIN: barrier.cluster.arrive; barrier.cluster.wait; barrier.cluster.arrive; barrier.cluster.wait; bra.uni END;
        GO: mov.b32 %r2, bar; @%p0 bra W; mbarrier.init.shared.b64 [bar], 1; W: bar.warp.sync -1;
        mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0;
        END:";
    let f = bad(one);
    assert!(f.kind == FaultKind::Deadlock && f.what.contains("the cluster's barrier"), "{f}");
}

#[test]
fn ranks_of_addresses() {
    right(
        "mov.b64 %d0, data; cvta.shared.u64 %d1, %d0; mapa.u64 %d2, %d1, 1; getctarank.u64 %r9, %d2;
         mapa.shared::cluster.u64 %d3, %d0, 0; getctarank.shared::cluster.u64 %r2, %d3; mad.lo.u32 %r9, %r9, 2, %r2;
         getctarank.u64 %r2, %d1; mad.lo.u32 %r9, %r9, 2, %r2;",
        |rank, _| 4 + rank,
    );
}

/// Thread 0 of each block sends to the other.
const SEND: &str =
    "@%p0 bra A; mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.expect_tx.shared.b64 _, [bar], 24;
    st.shared.b32 [data+8], 1000;
    fence.mbarrier_init.release.cluster;
    A: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; @%p0 bra B;
    mov.b32 %r2, data; mov.b32 %r3, bar; xor.b32 %r4, %r1, 1;
    mapa.shared::cluster.u32 %r5, %r2, %r4; mapa.shared::cluster.u32 %r6, %r3, %r4; add.u32 %r7, %r1, 70;
    st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r5], %r7, [%r6];
    st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r5+16], {%r7, %r7, 3, 4}, [%r6];
    red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r5+8], %r7, [%r6];
    B: mbarrier.try_wait.parity.acquire.cluster.shared.b64 %p1, [bar], 0; @!%p1 bra B;
    ld.shared.b32 %r9, [data]; ld.shared.b32 %r8, [data+8]; add.u32 %r9, %r9, %r8;
    ld.shared.b32 %r8, [data+20]; add.u32 %r9, %r9, %r8; ld.shared.b32 %r8, [data+28]; add.u32 %r9, %r9, %r8;
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

#[test]
fn writes_that_an_mbarrier_learns_of() {
    right(SEND, |rank, _| 3 * (70 + 1 - rank) + 1000 + 4);
    let f = bad(&SEND.replace("@!%p1 bra B;", "").replace("try_wait", "test_wait"));
    assert!(matches!(f.kind, FaultKind::Race | FaultKind::UninitialisedMemory), "{f}");
    let f = bad(&SEND.replace("[bar], 24;", "[bar], 28;"));
    assert!(f.kind == FaultKind::Deadlock && f.what.contains("4 bytes are to come"), "{f}");
    // The mbarrier is of this block and the memory of the other.
    let f = bad(&SEND.replace("%r6, %r3, %r4;", "%r6, %r3, %r1;"));
    assert_eq!(f.kind, FaultKind::Mbarrier, "{f}");
}

/// A relaxed arrival carries the mbarrier's initialisation only after the fence for that.
#[test]
fn initialisation_reaches_the_cluster() {
    let relaxed = SEND.replacen("arrive.aligned", "arrive.relaxed.aligned", 1);
    right(&relaxed, |rank, _| 3 * (70 + 1 - rank) + 1000 + 4);
    let f = bad(&relaxed.replace("fence.mbarrier_init.release.cluster;", ""));
    assert!(f.kind == FaultKind::Race && f.what.contains("initialisation"), "{f}");
}

#[test]
fn a_block_that_has_ended() {
    // Block 1 ends at once; block 0 goes on to arrive there.
    let f = bad("mov.b32 %r9, 0; setp.eq.u32 %p1, %r1, 1; @%p0 bra I; mbarrier.init.shared.b64 [bar], 1;
        I: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; @%p1 bra END;
        mbarrier.init.shared.b64 [bar+0], 1; END:"
        .replace(
            "mbarrier.init.shared.b64 [bar+0], 1;",
            "@%p0 bra END; mov.b32 %r2, bar; mapa.shared::cluster.u32 %r3, %r2, 1;
        add.u32 %r4, %r1, 0; LOOP: add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 9000; @%p2 bra LOOP;
        mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r3];",
        )
        .as_str());
    assert!(f.kind == FaultKind::Mbarrier && f.what.contains("has ended"), "{f}");
}

#[test]
fn one_thread_is_elected() {
    right("mov.b32 %r9, 0; elect.sync %r2|%p1, -1; @%p1 mov.b32 %r9, 5; add.u32 %r9, %r9, %r2;", |_, t| {
        5 * u32::from(t == 0)
    });
    let some = "mov.b32 %r9, 0; setp.lt.u32 %p1, %r0, 8; @%p1 bra END; elect.sync _|%p2, 0xffffff00; @%p2 mov.b32 %r9, 5; END:";
    right(some, |_, t| 5 * u32::from(t == 8));
}

#[test]
fn registers_have_rules() {
    for count in ["20", "260", "42"] {
        let text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k() {{ setmaxnreg.inc.sync.aligned.u32 {count}; ret; }}"
        );
        assert!(load(&text).is_err(), "{count}");
    }
}

/// No cluster is left to take.
#[test]
fn requests_for_work() {
    let text = text("clc_01_cluster_launch_control")
        .replace("{\n\t.reg .pred \t%p<2>;", "{\n.shared .align 16 .b8 answer[16]; .shared .align 8 .b8 bar[8]; .reg .pred %p<4>;")
        .replace(
            "\tclusterlaunchcontrol.try_cancel",
            "mbarrier.init.shared.b64 [%rd2], 1; mbarrier.arrive.expect_tx.shared.b64 _, [%rd2], 16;\nclusterlaunchcontrol.try_cancel",
        )
        .replace("\tld.shared.b32 \t%rd3", "WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%rd2], 0; @!%p2 bra WAIT;\nld.shared.b32 %rd3")
        .replace("add.s32 \t%r3, %r1, %r2;", "mov.b32 %r3, %r2;");
    let mut global = Global::default();
    let out = filled(&mut global, &[9; 4], "out");
    let params = [1024u64, 1040, out].map(u64::to_le_bytes);
    let params: Vec<&[u8]> = params.iter().map(|p| &p[..]).collect();
    fine(&kernel(&text), sizes(1, 1, 0), &params, &global);
    assert_eq!(floats(&global, out, 1), [0.0]);
}
