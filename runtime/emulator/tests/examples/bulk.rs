//! Bulk copies: to shared memory, back, between blocks, with operations; groups; and what is found wrong.

use super::*;

/// The first thread brings 256 bytes of `%out` to `dyn`; all wait.
const BRING: &str = ".shared .align 8 .b8 bar[8]; setp.ne.u32 %p0, %r0, 0; @%p0 bra JOIN;
    mbarrier.init.shared.b64 [bar], 1;
    JOIN: bar.sync 0;
    @%p0 bra WAIT;
    mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [dyn], [%out], 256, [bar];
    WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [bar], 0; @!%p1 bra WAIT;\n";

fn bytes() -> Vec<u8> {
    (0..512u32).map(|i| if i < 256 { i as u8 } else { 0 }).collect()
}

fn done(body: &str) -> Vec<u8> {
    on(&format!("{BRING}{body}"), sizes(1, 64, 1024), &bytes()).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn bad(body: &str) -> (FaultKind, String) {
    match on(&format!("{BRING}{body}"), sizes(1, 64, 1024), &bytes()) {
        Err(fault) => (fault.kind, fault.to_string()),
        Ok(_) => panic!("nothing was found wrong"),
    }
}

/// Each thread adds 1 to its word; then the first thread stores all.
const STORE: &str =
    "mov.b32 %r2, dyn; mad.lo.s32 %r3, %r0, 4, %r2; ld.shared.b32 %r4, [%r3]; add.u32 %r4, %r4, 1;
    st.shared.b32 [%r3], %r4; fence.proxy.async.shared::cta; bar.sync 0; @%p0 bra END;
    cp.async.bulk.global.shared::cta.bulk_group [%out+256], [dyn], 256;
    cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
    END:";

#[test]
fn there_and_back() {
    let found = done(STORE);
    for (i, pair) in found.chunks_exact(4).take(64).zip(found[256..].chunks_exact(4)).enumerate() {
        let word = |b: &[u8]| u32::from_le_bytes(b.try_into().unwrap());
        assert_eq!(word(pair.1), word(pair.0) + 1, "word {i}");
    }
}

#[test]
fn what_the_other_proxy_does_not_see() {
    let (kind, what) = bad(&STORE.replace("fence.proxy.async.shared::cta;", ""));
    assert_eq!(kind, FaultKind::MissingProxyFence, "{what}");
    // A fence of the storing thread alone, after the barrier, is as good.
    let late = STORE
        .replace("fence.proxy.async.shared::cta;", "")
        .replace("@%p0 bra END;", "fence.proxy.async; @%p0 bra END;");
    assert_eq!(done(&late), done(STORE));
    let (kind, what) = bad(&STORE.replace("fence.proxy.async.shared::cta;", "fence.proxy.async.global;"));
    assert_eq!(kind, FaultKind::MissingProxyFence, "{what}");
}

#[test]
fn sources_are_not_overwritten_before_the_wait() {
    let again = "bar.sync 0; st.shared.b32 [%r3], %r0;";
    done(&format!("{STORE} {again}"));
    done(&format!("{} {again}", STORE.replace("wait_group", "wait_group.read")));
    let (kind, what) = bad(&format!("{} {again}", STORE.replace("cp.async.bulk.wait_group 0;", "")));
    assert_eq!(kind, FaultKind::Race, "{what}");
    let (kind, what) = bad(&format!("{} {again}", STORE.replace("wait_group 0", "wait_group 1")));
    assert_eq!(kind, FaultKind::Race, "{what}");
    // What was copied is there even if nobody waits.
    assert_eq!(done(&STORE.replace("cp.async.bulk.wait_group 0;", "")), done(STORE));
}

#[test]
fn operations() {
    let word = |b: &[u8], i: usize| u32::from_le_bytes(b[256 + 4 * i..][..4].try_into().unwrap());
    let reduce = |op: &str| {
        let copy = "cp.async.bulk.global.shared::cta.bulk_group [%out+256], [dyn], 256;";
        // Twice, after the copy.
        let reduce =
            format!("cp.reduce.async.bulk.global.shared::cta.bulk_group.{op} [%out+256], [dyn], 256;");
        done(&STORE.replace(copy, &format!("{copy} {reduce} {reduce}")))
    };
    let plain = done(STORE);
    for i in 0..64 {
        assert_eq!(word(&reduce("add.u32"), i), word(&plain, i).wrapping_mul(3));
        assert_eq!(word(&reduce("xor.b32"), i), word(&plain, i));
        assert_eq!(word(&reduce("max.s32"), i), word(&plain, i));
        assert_eq!(word(&reduce("inc.u32"), i), 1);
    }
    // The last half is a NaN, of which there is one that is canonical.
    let halves = reduce("max.noftz.bf16");
    assert_eq!((&halves[..510], &halves[510..]), (&plain[..510], &[0xff, 0x7f][..]));
}

#[test]
fn rules() {
    let load = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
    let at = |operands: &str| bad(&format!("@%p0 bra END; {load} {operands}; END:"));
    for (operands, wanted) in [
        ("[dyn], [%out], 24, [bar]", FaultKind::Misaligned),
        ("[dyn+8], [%out], 32, [bar]", FaultKind::Misaligned),
        ("[dyn], [%out+4], 32, [bar]", FaultKind::Misaligned),
        ("[dyn], [%out+496], 32, [bar]", FaultKind::OutOfBounds),
        ("[dyn+1008], [%out], 32, [bar]", FaultKind::OutOfBounds),
        ("[dyn], [%out], 32, [dyn+512]", FaultKind::Mbarrier),
        // Memory that others are reading.
        ("[dyn], [%out], 32, [bar]; ld.shared.b32 %r1, [dyn]", FaultKind::Race),
    ] {
        let (kind, what) = at(operands);
        assert_eq!(kind, wanted, "{operands}: {what}");
    }
    let prefetch = "cp.async.bulk.prefetch.L2.global [%out],";
    done(&format!("{prefetch} 64;"));
    assert_eq!(bad(&format!("{prefetch} 60;")).0, FaultKind::Misaligned);
}

#[test]
fn a_wrong_count_is_a_deadlock_that_says_who_waits() {
    let body = BRING.replace("[bar], 256;", "[bar], 240;");
    let (kind, what) = wrong(&body, sizes(1, 64, 1024));
    assert_eq!(kind, FaultKind::Deadlock, "{what}");
    assert!(what.contains("warp 0") && what.contains("warp 1") && what.contains("-16 bytes"), "{what}");
}
