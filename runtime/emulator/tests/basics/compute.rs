//! What whole kernels of simple instructions compute.

use super::{run, threads, words};
use trtc_emulator::Sizes;

#[test]
fn integers() {
    let one = |body: &str| words(1, body)[0];
    assert_eq!(one("mov.b32 %r1, -7; shr.s32 %r0, %r1, 1;") as i32, -4);
    assert_eq!(one("mov.b32 %r1, -7; shr.u32 %r0, %r1, 1;"), 0x7fff_fffc);
    assert_eq!(one("mov.b32 %r1, 1; shl.b32 %r0, %r1, 32;"), 0);
    assert_eq!(one("mov.b32 %r1, 0xf0f0; bfe.u32 %r0, %r1, 4, 8;"), 0x0f);
    assert_eq!(one("mov.b32 %r1, 0x80; bfe.s32 %r0, %r1, 4, 4;") as i32, -8);
    assert_eq!(one("mov.b32 %r1, 0xab; mov.b32 %r2, 0x11223344; bfi.b32 %r0, %r1, %r2, 8, 8;"), 0x1122_ab44);
    assert_eq!(
        one("mov.b32 %r1, 0x33221100; mov.b32 %r2, 0x77665584; prmt.b32 %r0, %r1, %r2, 0xC416;"),
        0xff84_1166
    );
    assert_eq!(
        one("mov.b32 %r1, 12; mov.b32 %r2, 10; mov.b32 %r3, 6; lop3.b32 %r0, %r1, %r2, %r3, 0x96;"),
        12 ^ 10 ^ 6
    );
    assert_eq!(one("mov.b32 %r1, -3; mov.b32 %r2, 5; mul.hi.s32 %r0, %r1, %r2;") as i32, -1);
    assert_eq!(
        one(
            "mov.b32 %r1, 0x40000000; mov.b32 %r2, 8; mul.wide.u32 %d0, %r1, %r2; shr.u64 %d0, %d0, 32; mov.b64 {%r0, %r3}, %d0;"
        ),
        2
    );
    assert_eq!(one("mov.b32 %r1, 7; mov.b32 %r2, 0; div.u32 %r0, %r1, %r2;"), !0);
    assert_eq!(one("mov.b32 %r1, -7; mov.b32 %r2, 2; rem.s32 %r0, %r1, %r2;") as i32, -1);
    assert_eq!(one("mov.b32 %r1, -1; mov.b32 %r2, 1; add.cc.u32 %r3, %r1, %r2; addc.u32 %r0, %r3, 5;"), 6);
    assert_eq!(
        one("mov.b32 %r1, 0x00f0; clz.b32 %r2, %r1; popc.b32 %r3, %r1; mad.lo.s32 %r0, %r2, 100, %r3;"),
        2404
    );
    assert_eq!(
        one("mov.b32 %r1, 8; mov.b32 %r2, 3; shf.l.wrap.b32 %r0, %r1, %r2, 30;"),
        (3 << 30) | (8 >> 2)
    );
    assert_eq!(
        one("mov.b16 %h1, -2; mov.b16 %h2, 3; mul.lo.s16 %h0, %h1, %h2; mov.b32 %r0, {%h0, %h2};"),
        0x3_fffa
    );
}

#[test]
fn special_registers_and_divergence() {
    let got = words(
        48,
        "mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 1; mov.b32 %r0, 0;
         { .reg .pred odd; mov.pred odd, 0; }
         and.b32 %r3, %r1, 3; mov.b32 %r5, 0;
         brx.idx %r3, list;
         list: .branchtargets A, B, C, D;
         A: mov.b32 %r5, 10; bra J;
         B: mov.b32 %r5, 20; bra J;
         C: mov.b32 %r5, 30; bra J;
         D: mov.b32 %r5, 40;
         J: mov.b32 %r6, %laneid; bar.sync 0; activemask.b32 %r7; popc.b32 %r7, %r7; mad.lo.s32 %r0, %r7, 1000, %r5;",
    );
    let want: Vec<u32> = (0..48).map(|t| if t < 32 { 32_000 } else { 16_000 } + 10 * (t % 4 + 1)).collect();
    assert_eq!(got, want);
}

#[test]
fn threads_of_a_warp_tell_each_other() {
    let sum = "mov.u32 %r0, %tid.x; shfl.sync.bfly.b32 %r1|%p0, %r0, 16, 31, -1; add.s32 %r0, %r0, %r1;";
    assert_eq!(words(32, sum), (0..32).map(|t: u32| t + (t ^ 16)).collect::<Vec<_>>());
    let up = "mov.u32 %r1, %tid.x; shfl.sync.up.b32 %r0|%p0, %r1, 1, 0, -1; ";
    assert_eq!(words(32, up), (0..32).map(|t: u32| t.saturating_sub(1)).collect::<Vec<_>>());
    let down8 = "mov.u32 %r1, %tid.x; shfl.sync.down.b32 %r0, %r1, 3, 0x1807, -1;";
    assert_eq!(
        words(32, down8),
        (0..32u32).map(|t| if t % 8 + 3 < 8 { t + 3 } else { t }).collect::<Vec<_>>()
    );
    let total = "mov.u32 %r1, %tid.x; redux.sync.add.s32 %r0, %r1, -1;";
    assert_eq!(words(32, total), vec![496; 32]);
    let own = "mov.u32 %r1, %tid.x; shr.u32 %r1, %r1, 3; match.any.sync.b32 %r0, %r1, -1;";
    assert_eq!(words(32, own), (0..32).map(|t: u32| 0xff << (t / 8 * 8)).collect::<Vec<_>>());
}

#[test]
fn shared_memory_turns_a_block_round() {
    let got = words(
        96,
        ".shared .align 4 .b8 buffer[384];
         mov.u32 %r1, %tid.x; mov.b32 %r2, buffer; mad.lo.s32 %r3, %r1, 4, %r2; st.shared.b32 [%r3], %r1;
         bar.sync 0; sub.s32 %r4, 95, %r1; mad.lo.s32 %r3, %r4, 4, %r2; ld.shared.b32 %r0, [%r3];",
    );
    assert_eq!(got, (0..96).rev().collect::<Vec<u32>>());
}

#[test]
fn copies_arrive_when_they_are_waited_for() {
    let body = "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 16; add.s64 %d2, %out, %d1;
        mul.lo.s32 %r2, %r1, 3; st.global.v4.b32 [%d2], {%r1, %r2, %r1, %r2};
        mov.b64 %d3, dyn; add.s64 %d3, %d3, %d1; mov.b32 %r5, 8;
        cp.async.cg.shared.global [%d3], [%d2], 16, %r5; cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;
        xor.b32 %r6, %r1, 1; mul.wide.u32 %d4, %r6, 16; mov.b64 %d5, dyn; add.s64 %d5, %d5, %d4;
        ld.shared.v4.b32 {%r10, %r11, %r12, %r13}, [%d5]; bar.sync 0;
        add.s32 %r14, %r12, %r13; st.global.v4.b32 [%d2], {%r10, %r11, %r12, %r14}; ret;";
    let got = run(threads(64), 1024, body).unwrap();
    let words: Vec<u32> = got.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    for t in 0..64u32 {
        let o = t ^ 1;
        assert_eq!(words[4 * t as usize..][..4], [o, 3 * o, 0, 0]);
    }
}

#[test]
fn blocks_count_themselves() {
    let sizes = Sizes { grid: [10, 3, 2], block: [32, 1, 1], shared: 0 };
    let body = "atom.acq_rel.gpu.global.add.u32 %r0, [%out], 1; red.global.max.u32 [%out+4], %r0; ret;";
    let got = run(sizes, 8, body).unwrap();
    assert_eq!(got[..4], (10u32 * 6 * 32).to_le_bytes());
    assert_eq!(got[4..], (10u32 * 6 * 32 - 1).to_le_bytes());
}

#[test]
fn generic_and_local_addresses() {
    let got = words(
        32,
        ".local .align 4 .b8 mine[16]; .shared .align 4 .b8 ours[128];
         mov.u32 %r1, %tid.x; mov.b64 %d1, mine; cvta.local.u64 %d2, %d1; st.b32 [%d2+4], %r1; ld.local.b32 %r2, [mine+4];
         mov.b64 %d3, ours; cvta.shared.u64 %d3, %d3; mul.wide.u32 %d4, %r1, 4; add.s64 %d3, %d3, %d4; st.b32 [%d3], %r2;
         isspacep.shared %p1, %d3; ld.b32 %r3, [%d3]; add.s32 %r0, %r3, %r2;",
    );
    assert_eq!(got, (0..32).map(|t| 2 * t).collect::<Vec<u32>>());
}

#[test]
fn parts_of_registers() {
    assert_eq!(
        words(1, "mov.b32 %r1, 0x12345678; mov.b32 {%h1, %h2}, %r1; mov.b32 %r0, {%h2, %h1};"),
        [0x5678_1234]
    );
    assert_eq!(
        words(
            1,
            "mov.b64 %d1, 0x1122334455667788; mov.b128 %q0, {%d1, %out}; mov.b128 {%d2, %d3}, %q0; mov.b64 {%r1, %r0}, %d2;"
        ),
        [0x1122_3344]
    );
}
