//! What `cvt` makes of values that are at the edge of a type.

use super::{decodes, of, refuses, run, wide, word};

fn to_s32(op: &str, x: f32) -> i32 {
    word(op, &[x.to_bits()]) as i32
}

#[test]
fn integers_fill_their_register() {
    assert_eq!(word("cvt.s32.s8", &[0x1234_5680]) as i32, -128);
    assert_eq!(word("cvt.u32.u8", &[0x1234_5680]), 0x80);
    assert_eq!(word("cvt.u32.s8", &[0x80]), 0xffff_ff80);
    assert_eq!(word("cvt.u16.s8", &[0x80]), 0xff80);
    assert_eq!(word("cvt.s16.s32", &[0x1_8000]), 0xffff_8000);
    assert_eq!(word("cvt.s8.u32", &[0xff]), 0xffff_ffff);
    assert_eq!(word("cvt.sat.s8.s32", &[300]), 127);
    assert_eq!(word("cvt.sat.u8.s32", &[-5i32 as u32]), 0);
    assert_eq!(of("mov.b32 %r2, -2; cvt.u16.u32 %h0, %r2; cvt.s32.s16 %r0, %h0;", &[]) as i32, -2);
    assert_eq!(of("mov.b32 %r2, -2; cvt.u16.u32 %h0, %r2; cvt.u32.u16 %r0, %h0;", &[]), 0xfffe);
    assert_eq!(wide("cvt.u64.u64", &[1 << 40]), 1 << 40);
    assert_eq!(of("cvt.s64.s32 %d1, %r1; shr.u64 %d1, %d1, 32; cvt.u32.u64 %r0, %d1;", &[1 << 31]), !0);
    assert_eq!(of("cvt.u64.u32 %d1, %r1; shr.u64 %d1, %d1, 32; cvt.u32.u64 %r0, %d1;", &[1 << 31]), 0);
    assert_eq!(of("mov.b64 %d1, 0x100000000; cvt.sat.u32.u64 %r0, %d1;", &[]), !0);
}

#[test]
fn floats_and_integers() {
    assert_eq!(to_s32("cvt.rzi.s32.f32", -2.7), -2);
    assert_eq!(to_s32("cvt.rni.s32.f32", 2.5), 2);
    assert_eq!(to_s32("cvt.rpi.s32.f32", 2.1), 3);
    assert_eq!(to_s32("cvt.rmi.s32.f32", -2.1), -3);
    assert_eq!(to_s32("cvt.rzi.s32.f32", 1e20), i32::MAX);
    assert_eq!(to_s32("cvt.rzi.s32.f32", f32::NAN), 0);
    assert_eq!(word("cvt.rzi.u32.f32", &[(-1f32).to_bits()]), 0);
    assert_eq!(to_s32("cvt.rzi.s8.f32", -200.0), -128);
    assert_eq!(to_s32("cvt.rpi.s32.f32", 1e-40), 1);
    assert_eq!(to_s32("cvt.rpi.ftz.s32.f32", 1e-40), 0);
    assert_eq!(f32::from_bits(word("cvt.rn.f32.s32", &[-7i32 as u32])), -7.0);
    assert_eq!(f32::from_bits(word("cvt.rz.f32.u32", &[!0])), 4_294_967_040.0);
    assert_eq!(f32::from_bits(word("cvt.rn.f32.u32", &[!0])), 4_294_967_296.0);
    assert_eq!(f32::from_bits(word("cvt.rn.f32.s8", &[0x80])), -128.0);
    assert_eq!(wide("cvt.rn.f64.s64", &[-3i64 as u64]), (-3f64).to_bits());
    assert_eq!(wide("cvt.rzi.s64.f64", &[(-3.9f64).to_bits()]) as i64, -3);
    assert_eq!(wide("cvt.rp.f64.u64", &[u64::MAX]), 18_446_744_073_709_551_616f64.to_bits());
    assert_eq!(wide("cvt.rm.f64.u64", &[u64::MAX]), 18_446_744_073_709_549_568f64.to_bits());
}

#[test]
fn floats() {
    let one = |op: &str, x: f32| f32::from_bits(word(op, &[x.to_bits()]));
    assert_eq!(one("cvt.rni.f32.f32", 3.5), 4.0);
    assert_eq!(one("cvt.rzi.f32.f32", -3.5), -3.0);
    assert_eq!(one("cvt.sat.f32.f32", 3.5), 1.0);
    assert_eq!(one("cvt.sat.f32.f32", f32::NAN).to_bits(), 0);
    assert_eq!(one("cvt.ftz.f32.f32", -1e-40).to_bits(), 0x8000_0000);
    let half = |op: &str, x: f32| of(&format!("{op} %h0, %r1; cvt.u32.u16 %r0, %h0;"), &[x.to_bits()]);
    assert_eq!(half("cvt.rn.bf16.f32", 1.0 + 1.0 / 256.0), 0x3f80);
    assert_eq!(half("cvt.rz.bf16.f32", -1.999), 0xbfff);
    assert_eq!(half("cvt.rn.relu.bf16.f32", -1.0), 0);
    assert_eq!(half("cvt.rn.f16.f32", 65520.0), 0x7c00);
    assert_eq!(half("cvt.rn.satfinite.f16.f32", 65520.0), 0x7bff);
    assert_eq!(half("cvt.rz.f16.f32", 65520.0), 0x7bff);
    let back = |op: &str, x: u32| f32::from_bits(of(&format!("cvt.u16.u32 %h0, %r1; {op} %r0, %h0;"), &[x]));
    assert_eq!(back("cvt.f32.bf16", 0xc040), -3.0);
    assert_eq!(back("cvt.f32.f16", 1), 1.0 / 16_777_216.0);
    assert_eq!(word("cvt.rna.tf32.f32", &[0x3f80_1000]), 0x3f80_2000);
    assert_eq!(word("cvt.rn.tf32.f32", &[0x3f80_1000]), 0x3f80_0000);
    let double = |op: &str, x: f64| of(&format!("mov.b64 %d1, {:#x}; {op} %r0, %d1;", x.to_bits()), &[]);
    assert_eq!(double("cvt.rp.f32.f64", 1.0 + 1e-15), 1f32.next_up().to_bits());
    assert_eq!(double("cvt.rn.f32.f64", 1e300), f32::INFINITY.to_bits());
    let wider = of("cvt.f64.f32 %d1, %r1; shr.u64 %d1, %d1, 32; cvt.u32.u64 %r0, %d1;", &[1.5f32.to_bits()]);
    assert_eq!(wider, 0x3ff8_0000);
}

#[test]
fn pairs() {
    let two = |op: &str, a: f32, b: f32| word(op, &[a.to_bits(), b.to_bits()]);
    let short = |op: &str, a: f32, b: f32| {
        of(&format!("{op} %h0, %r1, %r2; cvt.u32.u16 %r0, %h0;"), &[a.to_bits(), b.to_bits()])
    };
    assert_eq!(two("cvt.rn.bf16x2.f32", 1.0, -2.0), 0x3f80_c000);
    assert_eq!(two("cvt.rn.f16x2.f32", 1.0, -2.0), 0x3c00_c000);
    assert_eq!(two("cvt.rn.relu.bf16x2.f32", 1.0, -2.0), 0x3f80_0000);
    assert_eq!(two("cvt.rz.satfinite.f16x2.f32", 1e9, f32::INFINITY), 0x7bff_7bff);
    assert_eq!(short("cvt.rn.satfinite.e4m3x2.f32", 1.0, 1000.0), 0x387e);
    assert_eq!(short("cvt.rn.satfinite.e5m2x2.f32", 1.0, -2.0), 0x3cc0);
    assert_eq!(short("cvt.rn.satfinite.e2m3x2.f32", 1.0, -1.5), 0x082c);
    assert_eq!(short("cvt.rp.satfinite.ue8m0x2.f32", 1.0, 3.0), 0x7f81);
    assert_eq!(short("cvt.rz.ue8m0x2.f32", 1.0, 3.0), 0x7f80);
    let four = "cvt.rn.satfinite.e2m1x2.f32 %b0, %r1, %r2; cvt.u32.u8 %r0, %b0;";
    assert_eq!(of(four, &[6f32.to_bits(), (-1f32).to_bits()]), 0x7a);
    let back = |op: &str, x: u32| of(&format!("cvt.u16.u32 %h0, %r1; {op} %r0, %h0;"), &[x]);
    assert_eq!(back("cvt.rn.f16x2.e4m3x2", 0x38c0), 0x3c00_c000);
    assert_eq!(back("cvt.rn.relu.f16x2.e5m2x2", 0x3cc0), 0x3c00_0000);
    assert_eq!(back("cvt.rn.bf16x2.ue8m0x2", 0x7f81), 0x3f80_4080);
    assert_eq!(of("cvt.u8.u32 %b0, %r1; cvt.rn.f16x2.e2m1x2 %r0, %b0;", &[0x7a]), 0x4600_bc00);
    let halves = "cvt.rn.satfinite.e4m3x2.f16x2 %h0, %r1; cvt.u32.u16 %r0, %h0;";
    assert_eq!(of(halves, &[0x3c00_c000]), 0x38c0);
}

#[test]
fn integers_are_packed() {
    let a = [70_000, -70_000i32 as u32];
    assert_eq!(word("cvt.pack.sat.s16.s32", &a), 0x7fff_8000);
    assert_eq!(word("cvt.pack.sat.u16.s32", &a), 0xffff_0000);
    assert_eq!(word("cvt.pack.sat.s8.s32.b32", &[5, -300i32 as u32, 0x1234_5678]), 0x5678_0580);
    assert_eq!(word("cvt.pack.sat.u4.s32.b32", &[20, 3, 0x1234_5678]), 0x3456_78f3);
    assert_eq!(word("cvt.pack.sat.s2.s32.b32", &[-9i32 as u32, 1, 0x1]), 0x19);
}

#[test]
fn threads_have_their_own_values_and_masks_are_kept() {
    let body = "cvt.rn.f32.s32 %r0, %tid; setp.lt.u32 %p0, %tid, 16; @%p0 cvt.rzi.s32.f32 %r0, %r0;
                mul.wide.u32 %d1, %tid, 4; add.s64 %d1, %out, %d1; st.global.b32 [%d1], %r0;";
    let want: Vec<u32> = (0..32).map(|t: u32| if t < 16 { t } else { (t as f32).to_bits() }).collect();
    assert_eq!(run("sm_80", &[], 32, body).unwrap(), want);
}

#[test]
fn what_is_no_conversion_is_refused() {
    decodes(
        "sm_90",
        &["cvt.rni.s32.f16 %r0, %h0;", "cvt.rn.f16.bf16 %h0, %h1;", "cvt.sat.f64.f64 %d0, %d1;"],
    );
    refuses(
        "sm_90",
        &[
            "cvt.s32.f32 %r0, 0;",
            "cvt.f32.s32 %r0, 0;",
            "cvt.rn.s32.s32 %r0, 0;",
            "cvt.f32.f64 %r0, %d0;",
            "cvt.rn.e4m3x2.f32 %h0, 0, 0;",
            "cvt.rn.f32.f32 %r0;",
            "cvt.rna.f32.s32 %r0, 0;",
            "cvt.rs.f16x2.f32 %r0, 0, 0, 0;",
            "cvt.rn.relu.f32.f64 %r0, %d0;",
            "cvt.ftz.f64.f64 %d0, %d1;",
        ],
    );
}
