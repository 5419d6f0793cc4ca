//! Every form of these families that kernels are known to have is understood.

use super::decodes;

#[test]
fn forms_of_kernels() {
    let plain = [
        "mul.rn.f32 %r0, %r1, %r2;",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r0, %r1, %r2, %r3}, {%r4, %r5, %r6, %r7}, {%r8, %r9}, {%r0, %r1, %r2, %r3};",
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r0, %r1, %r2, %r3}, {%r4, %r5, %r6, %r7}, {%r8, %r9}, {%r0, %r1, %r2, %r3};",
        "add.rn.f32 %r0, %r1, 0f3F800000;",
        "fma.rn.f32 %r0, %r1, %r2, %r3;",
        "selp.f32 %r0, %r1, %r2, %p0;",
        "selp.b32 %r0, 16, 0, %p0;",
        "selp.b64 %d0, %d1, %d2, %p0;",
        "fma.rn.bf16x2 %r0, %r1, %r2, %r3;",
        "cvt.rn.bf16x2.f32 %r0, %r1, %r2;",
        "setp.lt.s32 %p0, %r0, %r1;",
        "max.f32 %r0, %r1, %r2;",
        "ex2.approx.ftz.f32 %r0, %r1;",
        "ex2.approx.f32 %r0, %r1;",
        "cvt.f32.bf16 %r0, %h0;",
        "cvt.u64.u32 %d0, %r0;",
        "cvt.s64.s32 %d0, %r0;",
        "cvt.u32.u64 %r0, %d0;",
        "cvt.u32.u16 %r0, %h0;",
        "cvt.u16.u32 %h0, %r0;",
        "cvt.s32.s8 %r0, %r1;",
        "cvt.u8.u16 %b0, %h0;",
        "cvt.u16.u8 %h0, %b0;",
        "cvt.rzi.s32.f32 %r0, %r1;",
        "cvt.rn.f32.s32 %r0, %r1;",
        "cvt.rni.f32.f32 %r0, %r1;",
        "cvt.rn.bf16.f32 %h0, %r1;",
        "sub.rn.f32 %r0, %r1, %r2;",
        "setp.ge.s32 %p0, %r0, %r1;",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%d0];",
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r0, %r1, %r2, %r3}, [%d0+4096];",
        "setp.gt.u32 %p0, %r0, 63;",
        "setp.eq.f32 %p0, %r0, %r1;",
        "setp.eq.b32 %p0, %r0, 0;",
        "setp.ne.b32 %p0, %r0, 0;",
        "setp.num.f32 %p0, %r0, %r0;",
        "setp.ge.f32 %p0, %r0, 0fFF7FFFFF;",
        "setp.geu.f32 %p0, %r0, %r1;",
        "setp.ge.s64 %p0, %d0, %d1;",
        "setp.lt.s64 %p0, %d0, %d1;",
        "div.approx.f32 %r0, %r1, %r2;",
        "neg.f32 %r0, %r1;",
        "abs.f32 %r0, %r1;",
        "sin.approx.f32 %r0, %r1;",
        "cos.approx.f32 %r0, %r1;",
        "rsqrt.approx.f32 %r0, %r1;",
        "lg2.approx.f32 %r0, %r1;",
        "sqrt.rn.f32 %r0, %r1;",
    ];
    let halves = [
        "add.rn.bf16x2 %r0, %r1, %r2;",
        "mul.rn.bf16x2 %r0, %r1, %r2;",
        "add.rn.f16x2 %r0, %r1, %r2;",
        "tanh.approx.bf16x2 %r0, %r1;",
        "ex2.approx.ftz.bf16x2 %r0, %r1;",
        "cvt.rn.satfinite.e5m2x2.f32 %h0, %r0, %r1;",
        "cvt.rn.satfinite.e4m3x2.f32 %h0, %r0, %r1;",
        "cvt.rn.f16x2.e5m2x2 %r0, %h0;",
        "cvt.rn.f16x2.e4m3x2 %r0, %h0;",
        "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%d0], {%r0, %r1, %r2, %r3};",
        "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%d0], {%r0, %r1};",
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%r0, %r1, %r2, %r3}, {%r4, %r5, %r6, %r7}, {%r8, %r9}, {%r0, %r1, %r2, %r3};",
    ];
    let new = [
        "add.rn.f32x2 %d0, %d1, %d2;",
        "mul.rn.f32x2 %d0, %d1, %d2;",
        "fma.rn.f32x2 %d0, %d1, %d2, %d3;",
        "fma.rn.f32.bf16 %r0, %h0, %h1, %r1;",
        "cvt.rn.satfinite.e2m1x2.f32 %b0, %r0, %r1;",
        "cvt.rn.f16x2.e2m1x2 %r0, %b0;",
        "cvt.rp.satfinite.ue8m0x2.f32 %h0, %r0, %r1;",
        "cvt.rn.bf16x2.ue8m0x2 %r0, %h0;",
        "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r0, %r1}, [%d0];",
        "ldmatrix.sync.aligned.m8n16.x4.shared.b8x16.b4x16_p64 {%r0, %r1, %r2, %r3}, [%d0];",
        "stmatrix.sync.aligned.m16n8.x2.trans.shared.b8 [%d0], {%r0, %r1};",
    ];
    decodes("sm_80", &plain);
    decodes("sm_90", &halves);
    for target in ["sm_100a", "sm_120a"] {
        decodes(target, &[&plain[..], &halves, &new].concat());
    }
}
