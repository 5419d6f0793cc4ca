//! Matrices in shared memory: loads, stores, transposition, and the faults of their accesses.

use super::{decodes, refuses, run};
use trtc_emulator::FaultKind;

/// Fills 1 KiB: thread t writes the bytes 32 t to 32 t + 31 as halves 16 t, 16 t + 1 and so on.
const FILL: &str = "mov.b32 %r50, dyn; mul.lo.u32 %r51, %tid, 16; mad.lo.u32 %r52, %tid, 32, %r50;
    add.u32 %r53, %r51, 1; prmt.b32 %r54, %r51, %r53, 0x5410; st.shared.b32 [%r52], %r54;
    add.u32 %r54, %r54, 0x20002; st.shared.b32 [%r52+4], %r54; add.u32 %r54, %r54, 0x20002; st.shared.b32 [%r52+8], %r54;
    add.u32 %r54, %r54, 0x20002; st.shared.b32 [%r52+12], %r54; add.u32 %r54, %r54, 0x20002;
    st.shared.b32 [%r52+16], %r54; add.u32 %r54, %r54, 0x20002; st.shared.b32 [%r52+20], %r54;
    add.u32 %r54, %r54, 0x20002; st.shared.b32 [%r52+24], %r54; add.u32 %r54, %r54, 0x20002;
    st.shared.b32 [%r52+28], %r54;\n";
const SYNC: &str = "bar.warp.sync -1;\n";
/// The address of the thread's row of 16 bytes, from the last to the first.
const ROW: &str = "sub.u32 %r10, 31, %tid; mad.lo.u32 %r10, %r10, 16, %r50;\n";
const STORE: &str = "mad.wide.u32 %d1, %tid, 16, %out; st.global.v4.b32 [%d1], {%r0, %r1, %r2, %r3};\n";

fn load(op: &str) -> Vec<u32> {
    let body = format!("{FILL}{SYNC}{ROW}{op}{STORE}");
    run("sm_120a", &[], 128, &body).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn loads_of_halves() {
    let plain = load("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%r10];");
    let turned = load("ldmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 {%r0, %r1, %r2, %r3}, [%r10];");
    // Through a generic address.
    let generic = load(
        "cvt.u64.u32 %d2, %r10; cvta.shared.u64 %d2, %d2;
         ldmatrix.sync.aligned.m8n8.x4.b16 {%r0, %r1, %r2, %r3}, [%d2];",
    );
    assert_eq!(plain, generic);
    // Element (row, column) of matrix i: row 31 - (8 i + row) of 8 halves.
    let element = |i: u32, row: u32, column: u32| (31 - (8 * i + row)) * 8 + column;
    for lane in 0..32 {
        let (g, q) = (lane / 4, lane % 4);
        for i in 0..4 {
            let at = (lane * 4 + i) as usize;
            assert_eq!(plain[at], element(i, g, 2 * q) | element(i, g, 2 * q + 1) << 16);
            assert_eq!(turned[at], element(i, 2 * q, g) | element(i, 2 * q + 1, g) << 16);
        }
    }
    let one = load(
        "mov.b32 %r1, 0; mov.b32 %r2, 0; mov.b32 %r3, 0; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r10];",
    );
    assert!((0..32).all(|lane| one[4 * lane] == plain[4 * lane]));
}

#[test]
fn loads_of_bytes() {
    let zero = "mov.b32 %r1, 0; mov.b32 %r2, 0; mov.b32 %r3, 0;\n";
    let byte = |row: u32, at: u32| ((31 - row) * 8 + at / 2) >> (8 * (at % 2)) & 0xff;
    let got = load(&format!("{zero}ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {{%r0, %r1}}, [%r10];"));
    let fours =
        load(&format!("{zero}ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b4x16_p64 {{%r0}}, [%r10];"));
    let sixes =
        load(&format!("{zero}ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b6x16_p32 {{%r0}}, [%r10];"));
    for lane in 0..32u32 {
        let (g, q) = (lane / 4, lane % 4);
        for register in 0..2 {
            let want = (0..4).fold(0, |w, e| w | byte(4 * q + e, g + 8 * register) << (8 * e));
            assert_eq!(got[(4 * lane + register) as usize], want);
        }
        let row: u128 = (0..16).fold(0, |w, i| w | u128::from(byte(g, i)) << (8 * i));
        let narrow = |bits: u32| {
            (0..4).fold(0, |w, e| w | ((row >> (bits * (4 * q + e))) as u32 & ((1 << bits) - 1)) << (8 * e))
        };
        assert_eq!(fours[4 * lane as usize], narrow(4));
        assert_eq!(sixes[4 * lane as usize], narrow(6));
    }
}

#[test]
fn stores_undo_loads() {
    for trans in ["", ".trans"] {
        let body = format!(
            "{FILL}{SYNC}{ROW}ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r0, %r1, %r2, %r3}}, [%r10];
             mad.lo.u32 %r11, %tid, 16, %r50; add.u32 %r11, %r11, 1024;
             stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r11], {{%r0, %r1, %r2, %r3}};\n{SYNC}
             sub.u32 %r12, 31, %tid; mad.lo.u32 %r12, %r12, 16, %r50; ld.shared.v4.b32 {{%r0, %r1, %r2, %r3}}, [%r12+1024];
             {STORE}"
        );
        let got = run("sm_90", &[], 128, &body).unwrap_or_else(|e| panic!("{e}"));
        let want: Vec<u32> = (0..128).map(|i| 2 * i | (2 * i + 1) << 16).collect();
        assert_eq!(got, want);
    }
    // Bytes: register byte e of a lane goes to row 2 q + e % 2, column g + 8 (e / 2).
    let body = format!(
        "mov.b32 %r50, dyn; mad.lo.u32 %r10, %tid, 16, %r50; mad.lo.u32 %r1, %tid, 4, 0; mad.lo.u32 %r1, %r1, 0x01010101, 0x03020100;
         stmatrix.sync.aligned.m16n8.x1.trans.shared.b8 [%r10], {{%r1}};\n{SYNC}
         mov.b32 %r0, 0; mov.b32 %r1, 0; mov.b32 %r2, 0; mov.b32 %r3, 0;
         setp.lt.u32 %p0, %tid, 8; @%p0 ld.shared.v4.b32 {{%r0, %r1, %r2, %r3}}, [%r10];\n{STORE}"
    );
    let got = run("sm_100a", &[], 128, &body).unwrap_or_else(|e| panic!("{e}"));
    for row in 0..8u32 {
        for column in 0..16u32 {
            let byte = got[(row * 4 + column / 4) as usize] >> (column % 4 * 8) & 0xff;
            let (lane, e) = (column % 8 * 4 + row / 2, row % 2 + column / 8 * 2);
            assert_eq!(byte, (lane * 4 + e) & 0xff, "row {row}, column {column}");
        }
    }
}

#[test]
fn a_matrix_is_transposed_in_registers() {
    let body = "mad.lo.u32 %r1, %tid, 0x00020002, 0x00010000; movmatrix.sync.aligned.m8n8.trans.b16 %r0, %r1;
                mad.wide.u32 %d1, %tid, 4, %out; st.global.b32 [%d1], %r0;";
    // Element (row, column) is 8 row + column.
    let got = run("sm_80", &[], 32, body).unwrap();
    let want = (0..32u32).map(|lane| {
        let (g, q) = (lane / 4, lane % 4);
        (8 * 2 * q + g) | (8 * (2 * q + 1) + g) << 16
    });
    assert_eq!(got, want.collect::<Vec<_>>());
}

#[test]
fn wrong_accesses_are_found() {
    let kind = |body: &str| run("sm_90", &[], 128, body).err().map(|f| f.kind);
    let ld = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%r10];";
    assert_eq!(kind(&format!("{FILL}{SYNC}{ROW}{ld}")), None);
    // Other threads' rows, before anything orders them.
    assert_eq!(kind(&format!("{FILL}{ROW}{ld}")), Some(FaultKind::Race));
    assert_eq!(kind(&format!("mov.b32 %r50, dyn; {ROW}{ld}")), Some(FaultKind::UninitialisedMemory));
    assert_eq!(kind(&format!("{FILL}{SYNC}{ROW} add.u32 %r10, %r10, 8; {ld}")), Some(FaultKind::Misaligned));
    assert_eq!(
        kind(&format!("{FILL}{SYNC}{ROW} add.u32 %r10, %r10, 8192; {ld}")),
        Some(FaultKind::OutOfBounds)
    );
    assert_eq!(
        kind("mov.b64 %d2, %out; ldmatrix.sync.aligned.m8n8.x1.b16 {%r0}, [%d2];"),
        Some(FaultKind::OutOfBounds)
    );
    assert_eq!(
        kind(&format!("{FILL}{SYNC}{ROW} setp.lt.u32 %p0, %tid, 16; @%p0 {ld}")),
        Some(FaultKind::Divergence)
    );
    let st = "mov.b32 %r1, 0; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r10], {%r1};";
    assert_eq!(kind(&format!("mov.b32 %r50, dyn; {ROW}{st}")), None);
    // Rows of one place: any thread may be the last, and they differ.
    let st = "mov.b32 %r1, %tid; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r10], {%r1};";
    assert_eq!(kind(&format!("mov.b32 %r50, dyn; mov.b32 %r10, %r50; {st}")), Some(FaultKind::Race));
}

#[test]
fn what_is_no_matrix_is_refused() {
    decodes("sm_80", &["ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r0, %r1}, [%d0];"]);
    refuses(
        "sm_80",
        &[
            "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r0}, [%d0];",
            "ldmatrix.sync.aligned.m8n8.x2.global.b16 {%r0, %r1}, [%d0];",
            "ldmatrix.sync.aligned.m8n8.shared.b16 {%r0}, [%d0];",
            "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r0, %r1}, [%d0];",
            "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%d0], {%r0};",
        ],
    );
    refuses("sm_100a", &["ldmatrix.sync.aligned.m16n16.x1.shared.b8 {%r0, %r1}, [%d0];"]);
    refuses("sm_90", &["stmatrix.sync.aligned.m16n8.x1.trans.shared.b8 [%d0], {%r0};"]);
}
