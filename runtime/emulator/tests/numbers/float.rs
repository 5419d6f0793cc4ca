//! Arithmetic and approximate functions.

use super::{decodes, of, refuses, wide, word};

fn f32s(op: &str, operands: &[f32]) -> f32 {
    let bits: Vec<u32> = operands.iter().map(|x| x.to_bits()).collect();
    f32::from_bits(word(op, &bits))
}

fn f64s(op: &str, operands: &[f64]) -> f64 {
    let bits: Vec<u64> = operands.iter().map(|x| x.to_bits()).collect();
    f64::from_bits(wide(op, &bits))
}

#[test]
fn singles() {
    assert_eq!(f32s("add.f32", &[1.5, 2.25]), 3.75);
    assert_eq!(f32s("sub.rn.f32", &[1.5, 2.25]), -0.75);
    assert_eq!(f32s("add.rp.f32", &[1.0, 1e-20]), 1.0f32.next_up());
    assert_eq!(f32s("mul.rz.f32", &[1.1, 1.1]), (1.1f32 * 1.1).min(1.21));
    assert_eq!(f32s("fma.rn.f32", &[3.0, 4.0, 5.0]), 17.0);
    assert_eq!(f32s("mad.rn.f32", &[3.0, 4.0, 5.0]), 17.0);
    assert_eq!(f32s("add.sat.f32", &[3.0, 4.0]), 1.0);
    assert_eq!(f32s("mul.ftz.f32", &[1e-30, 1e-10]), 0.0);
    assert_eq!(f32s("div.rn.f32", &[1.0, 3.0]), 1.0 / 3.0);
    assert_eq!(f32s("div.approx.f32", &[1.0, 4.0]), 0.25);
    assert_eq!(f32s("div.full.ftz.f32", &[3.0, 4.0]), 0.75);
    assert_eq!(f32s("rcp.rn.f32", &[8.0]), 0.125);
    assert_eq!(f32s("rcp.approx.ftz.f32", &[-4.0]), -0.25);
    assert_eq!(f32s("sqrt.rn.f32", &[2.0]), 2f32.sqrt());
    assert_eq!(f32s("sqrt.approx.f32", &[9.0]), 3.0);
    assert_eq!(f32s("rsqrt.approx.f32", &[16.0]), 0.25);
    assert_eq!(f32s("ex2.approx.ftz.f32", &[-3.0]), 0.125);
    assert_eq!(f32s("lg2.approx.f32", &[1024.0]), 10.0);
    assert_eq!(f32s("sin.approx.f32", &[0.0]), 0.0);
    assert_eq!(f32s("cos.approx.f32", &[0.0]), 1.0);
    assert_eq!(f32s("tanh.approx.f32", &[100.0]), 1.0);
    assert_eq!(f32s("max.f32", &[f32::NAN, 4.0]), 4.0);
    assert!(f32s("max.NaN.f32", &[f32::NAN, 4.0]).is_nan());
    assert_eq!(f32s("min.xorsign.abs.f32", &[-3.0, 4.0]), -3.0);
    assert_eq!(f32s("max.xorsign.abs.f32", &[-3.0, -4.0]), 4.0);
    assert_eq!(f32s("max.f32", &[1.0, 3.0, 2.0]), 3.0);
    assert_eq!(f32s("min.f32", &[2.0, 3.0, 1.0]), 1.0);
    assert_eq!(f32s("neg.f32", &[2.0]), -2.0);
    assert_eq!(f32s("abs.f32", &[-2.0]), 2.0);
    assert_eq!(word("abs.ftz.f32", &[0x8000_0001]), 0);
    assert_eq!(word("neg.ftz.f32", &[1]), 0x8000_0000);
    assert_eq!(f32s("copysign.f32", &[-1.0, 7.0]), -7.0);
    assert_eq!(word("add.f32", &[0xffc0_0001, 0]), 0x7fff_ffff);
}

#[test]
fn doubles() {
    assert_eq!(f64s("add.rn.f64", &[1.5, 2.25]), 3.75);
    assert_eq!(f64s("sub.f64", &[1.5, 2.25]), -0.75);
    assert_eq!(f64s("mul.rp.f64", &[1.0, 1.0]), 1.0);
    assert_eq!(f64s("fma.rm.f64", &[3.0, 4.0, -1e-300]), 12f64.next_down());
    assert_eq!(f64s("div.rn.f64", &[1.0, 3.0]), 1.0 / 3.0);
    assert_eq!(f64s("rcp.rp.f64", &[3.0]), (1f64 / 3.0).next_up());
    assert_eq!(f64s("sqrt.rz.f64", &[4.0]), 2.0);
    assert_eq!(f64s("min.f64", &[f64::NAN, -1.0]), -1.0);
    assert_eq!(f64s("max.f64", &[-0.0, 0.0]).to_bits(), 0);
    assert_eq!(f64s("neg.f64", &[1.0]), -1.0);
    assert_eq!(f64s("abs.f64", &[-1.0]), 1.0);
    assert_eq!(f64s("copysign.f64", &[-1.0, 2.0]), -2.0);
    assert_eq!(f64s("rcp.approx.ftz.f64", &[4.0]), 0.25);
    assert_eq!(f64s("rsqrt.approx.f64", &[4.0]), 0.5);
}

#[test]
fn halves_and_pairs() {
    // 1.5 and -2 in f16; 1.5 and -2 in bf16.
    assert_eq!(word("add.rn.f16x2", &[0xc000_3e00, 0xc000_3e00]), 0xc400_4200);
    assert_eq!(word("fma.rn.bf16x2", &[0xc000_3fc0, 0x3f80_3f80, 0x3f80_3f80]), 0xbf80_4020);
    assert_eq!(word("fma.rn.relu.bf16x2", &[0xc000_3fc0, 0x3f80_3f80, 0x3f80_3f80]), 0x0000_4020);
    assert_eq!(word("mul.rn.bf16x2", &[0xc000_3fc0, 0x4000_4000]), 0xc080_4040);
    assert_eq!(word("max.bf16x2", &[0xc000_3fc0, 0x7fff_4000]), 0xc000_4000);
    assert_eq!(word("max.NaN.bf16x2", &[0xc000_3fc0, 0x7fff_4000]), 0x7fff_4000);
    assert_eq!(word("min.xorsign.abs.f16x2", &[0xc000_3e00, 0x3c00_c000]), 0xbc00_be00);
    assert_eq!(word("neg.bf16x2", &[0xc000_3fc0]), 0x4000_bfc0);
    assert_eq!(word("abs.f16x2", &[0xc000_3e00]), 0x4000_3e00);
    assert_eq!(word("neg.ftz.f16x2", &[0x0001_3e00]), 0x8000_be00);
    assert_eq!(word("ex2.approx.ftz.bf16x2", &[0x4000_3f80]), 0x4080_4000);
    assert_eq!(word("tanh.approx.bf16x2", &[0x0000_4248]), 0x0000_3f80);
    assert_eq!(word("ex2.approx.f16x2", &[0x4000_3c00]), 0x4400_4000);
    assert_eq!(word("fma.rn.oob.f16x2", &[0x7ff7_3c00, 0x3c00_3c00, 0x3c00_3c00]), 0x0000_4000);
    let one =
        of("mov.b16 %h1, 0x3fc0; mov.b16 %h2, 0x4000; sub.rn.bf16 %h0, %h1, %h2; cvt.u32.u16 %r0, %h0;", &[]);
    assert_eq!(one, 0xbf00);
    let pair = |a: f32, b: f32| u64::from(b.to_bits()) << 32 | u64::from(a.to_bits());
    assert_eq!(wide("add.rn.f32x2", &[pair(1.0, 2.0), pair(3.0, 5.0)]), pair(4.0, 7.0));
    assert_eq!(wide("fma.rp.f32x2", &[pair(1.0, 2.0), pair(3.0, 5.0), pair(1.0, -1.0)]), pair(4.0, 9.0));
    let mixed = "mov.b16 %h1, 0x3fc0; mov.b16 %h2, 0x4000;";
    let f = |op: &str| f32::from_bits(of(&format!("{mixed}{op}"), &[10f32.to_bits()]));
    assert_eq!(f("fma.rn.f32.bf16 %r0, %h1, %h2, %r1;"), 13.0);
    assert_eq!(f("add.f32.bf16 %r0, %h1, %r1;"), 11.5);
    assert_eq!(f("sub.rz.sat.f32.bf16 %r0, %h1, %r1;"), 0.0);
}

#[test]
fn kinds_of_numbers() {
    let is =
        |kind: &str, x: u32| of(&format!("testp.{kind}.f32 %p0, %r1; selp.b32 %r0, 1, 0, %p0;"), &[x]) == 1;
    for (x, kinds) in [
        (0, ["finite", "number", "normal"].as_slice()),
        (1, &["finite", "number", "subnormal"]),
        (0x3f80_0000, &["finite", "number", "normal"]),
        (0xff80_0000, &["infinite", "number"]),
        (0x7fc0_0000, &["notanumber"]),
    ] {
        for kind in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
            assert_eq!(is(kind, x), kinds.contains(&kind), "{kind} {x:#x}");
        }
    }
}

#[test]
fn what_is_no_instruction_is_refused() {
    decodes("sm_90", &["add.f32 %r0, 0f3F800000, 0f3F800000;", "tanh.approx.f16 %h0, 0;"]);
    refuses(
        "sm_90",
        &[
            "fma.f32 %r0, 0, 0, 0;",
            "add.relu.f32 %r0, 0, 0;",
            "add.sat.bf16 %h0, 0, 0;",
            "add.sat.f64 %d0, 0, 0;",
            "ex2.f32 %r0, 0;",
            "ex2.approx.bf16 %h0, 0;",
            "min.xorsign.f32 %r0, 0, 0;",
            "div.f32 %r0, 0, 0;",
            "tanh.approx.f64 %d0, 0;",
        ],
    );
}
