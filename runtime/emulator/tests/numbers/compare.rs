//! Comparisons and choices.

use super::{decodes, of, refuses};

/// Both results of a `setp` statement of `%p0|%p1`, as bits.
fn both(statement: &str, operands: &[u32]) -> u32 {
    of(
        &format!("{statement} selp.b32 %r0, 1, 0, %p0; selp.b32 %r9, 2, 0, %p1; or.b32 %r0, %r0, %r9;"),
        operands,
    )
}

#[test]
fn relations_are_sets_of_cases() {
    let nan = f32::NAN.to_bits();
    // Less, equal, greater, not ordered.
    let pairs =
        [(1f32.to_bits(), 2f32.to_bits()), (0, 0x8000_0000), (2f32.to_bits(), 1f32.to_bits()), (nan, 0)];
    for (name, holds) in [
        ("eq", [0, 1, 0, 0]),
        ("ne", [1, 0, 1, 0]),
        ("lt", [1, 0, 0, 0]),
        ("le", [1, 1, 0, 0]),
        ("gt", [0, 0, 1, 0]),
        ("ge", [0, 1, 1, 0]),
        ("equ", [0, 1, 0, 1]),
        ("neu", [1, 0, 1, 1]),
        ("ltu", [1, 0, 0, 1]),
        ("leu", [1, 1, 0, 1]),
        ("gtu", [0, 0, 1, 1]),
        ("geu", [0, 1, 1, 1]),
        ("num", [1, 1, 1, 0]),
        ("nan", [0, 0, 0, 1]),
    ] {
        for ((a, b), want) in pairs.into_iter().zip(holds) {
            let got = of(&format!("setp.{name}.f32 %p0, %r1, %r2; selp.b32 %r0, 1, 0, %p0;"), &[a, b]);
            assert_eq!(got, want, "{name} {a:#x} {b:#x}");
            let set = of(&format!("set.{name}.f32.f32 %r0, %r1, %r2;"), &[a, b]);
            assert_eq!(set, want * 0x3f80_0000);
        }
    }
}

#[test]
fn types() {
    let p = |op: &str, a: u32, b: u32| {
        of(&format!("setp.{op} %p0, %r1, %r2; selp.b32 %r0, 1, 0, %p0;"), &[a, b]) == 1
    };
    assert!(p("lt.s32", !0, 1) && !p("lt.u32", !0, 1) && p("hi.u32", !0, 1) && p("ls.u32", 1, 1));
    assert!(p("lo.u32", 0, 1) && p("hs.u32", 1, 1) && p("ne.b32", 1, 2));
    assert!(p("eq.u16", 0x1_0005, 5) && p("lt.s16", 0xffff, 0));
    assert!(p("eq.ftz.f32", 1, 0) && !p("eq.f32", 1, 0));
    let wide = |op: &str| {
        let body = format!(
            "mov.b64 %d1, -1; mov.b64 %d2, 0x100000000; setp.{op} %p0, %d1, %d2; selp.b32 %r0, 1, 0, %p0;"
        );
        of(&body, &[])
    };
    assert_eq!((wide("lt.s64"), wide("lt.u64"), wide("ne.b64"), wide("nan.f64")), (1, 0, 1, 1));
    let half = "mov.b16 %h1, 0x3c00; mov.b16 %h2, 0x4000;";
    for ty in ["f16", "bf16"] {
        assert_eq!(of(&format!("{half} setp.lt.{ty} %p0, %h1, %h2; selp.b32 %r0, 1, 0, %p0;"), &[]), 1);
    }
}

#[test]
fn second_results_and_joins() {
    assert_eq!(both("setp.lt.s32 %p0|%p1, %r1, %r2;", &[1, 2]), 1);
    assert_eq!(both("setp.lt.s32 %p0|%p1, %r1, %r2;", &[2, 1]), 2);
    let with = |join: &str, c: u32| {
        both(&format!("setp.ne.b32 %p2, %r3, 0; setp.lt.{join}.s32 %p0|%p1, %r1, %r2, %p2;"), &[1, 2, c])
    };
    assert_eq!((with("and", 0), with("and", 1)), (0, 1));
    assert_eq!((with("or", 0), with("or", 1)), (1, 3));
    assert_eq!((with("xor", 0), with("xor", 1)), (1, 2));
    let not = both("setp.ne.b32 %p2, %r3, 0; setp.lt.and.s32 %p0|%p1, %r1, %r2, !%p2;", &[1, 2, 0]);
    assert_eq!(not, 1);
    // The lower halves: 1 < 2; the upper ones: 3 and 2.
    assert_eq!(both("setp.lt.f16x2 %p0|%p1, %r1, %r2;", &[0x4200_3c00, 0x4000_4000]), 1);
    assert_eq!(both("setp.gt.bf16x2 %p0|%p1, %r1, %r2;", &[0x4040_3f80, 0x4000_4000]), 2);
    assert_eq!(of("setp.lt.s32 %p0|_, %r1, %r2; selp.b32 %r0, 7, 8, %p0;", &[1, 2]), 7);
}

#[test]
fn choices() {
    assert_eq!(of("set.lt.u32.s32 %r0, %r1, %r2;", &[1, 2]), !0);
    assert_eq!(of("set.lt.f16x2.f16x2 %r0, %r1, %r2;", &[0x4200_3c00, 0x4000_4000]), 0x0000_3c00);
    assert_eq!(of("setp.lt.u32 %p0, %tid, 32; selp.f32 %r0, %r1, %r2, !%p0;", &[3, 4]), 4);
    assert_eq!(of("mov.pred %p0, 1; selp.b64 %d0, 5, 6, %p0; cvt.u32.u64 %r0, %d0;", &[]), 5);
    assert_eq!(of("slct.b32.s32 %r0, %r1, %r2, %r3;", &[3, 4, 0]), 3);
    assert_eq!(of("slct.b32.s32 %r0, %r1, %r2, %r3;", &[3, 4, !0]), 4);
    assert_eq!(of("slct.f32.f32 %r0, %r1, %r2, %r3;", &[3, 4, 0x8000_0000]), 3);
    assert_eq!(of("slct.f32.f32 %r0, %r1, %r2, %r3;", &[3, 4, 0x8000_0001]), 4);
    assert_eq!(of("slct.ftz.f32.f32 %r0, %r1, %r2, %r3;", &[3, 4, 0x8000_0001]), 3);
    assert_eq!(of("slct.f32.f32 %r0, %r1, %r2, %r3;", &[3, 4, 0x7fc0_0000]), 4);
}

#[test]
fn what_is_no_comparison_is_refused() {
    decodes("sm_80", &["setp.eq.b16 %p0, %h0, %h1;", "setp.nan.ftz.f32 %p0, 0, 0;"]);
    refuses(
        "sm_80",
        &[
            "setp.lt.b32 %p0, %r1, %r2;",
            "setp.ltu.s32 %p0, %r1, %r2;",
            "setp.num.u32 %p0, %r1, %r2;",
            "setp.s32 %p0, %r1, %r2;",
            "setp.lt.s32 %r0, %r1, %r2;",
            "setp.lt.ftz.s32 %p0, %r1, %r2;",
            "selp.b32 %r0, %r1, %r2, %r3;",
            "slct.b32.u32 %r0, %r1, %r2, %r3;",
        ],
    );
}
