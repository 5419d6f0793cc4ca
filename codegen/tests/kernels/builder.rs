//! Each function of the builder that all targets have, in a kernel that is nothing but its use.

use super::check;
use trtc_codegen::builder::{Bf16, Builder, Evict, F32, I32, I64, Special};
use trtc_codegen::mlir::{Mlir, OptLevel, PtxTarget};
use trtc_codegen::tile::Tile;
use trtc_ir::{DType, Fault, Target};

/// The oldest and the newest row, and the one between.
const ALL: [&str; 3] = ["sm_80", "sm_90", "sm_120"];

fn on_all(name: &str, wanted: &[&str], build: impl Fn(&Builder)) {
    for target in ALL {
        check(name, target, 128, wanted, &build);
    }
}

#[test]
fn arithmetic() {
    on_all(
        "arithmetic",
        &["fma.rn.f32", "ex2.approx", "rsqrt.approx", "sin.approx", "cos.approx", "div.approx"],
        |b| {
            let out = b.param_ptr::<F32>();
            let (x, n) = (b.param::<F32>(), b.param::<I32>());
            let i = (((n + 3) * 5 - 1) & 255 | n ^ 256) << 2 >> 1;
            let j = (i / 7).min(n % 13).div_ceil(3);
            let f = x.fma(2.0f32, 1.0f32).exp2().max(x.rsqrt()) - (-x).sin_approx() * x.cos_approx();
            let g = f.div_approx(j.to_f32()).round_even();
            let c = (i.lt(j) | !i.le(3)) & f.ne(g) ^ i.eq(4);
            let wide = (i.to_i64() * 3i64 + n.to_i64()).to_i32();
            out.at(wide).store(c.select(f, g));
            out.at(1).store(c.to_i32().to_f32());
            out.at(2).store(i.bitcast::<F32>());
        },
    );
}

#[test]
fn loops_and_conditions() {
    on_all("flow", &["brx.idx"], |b| {
        let out = b.param_ptr::<I32>();
        let n = b.param::<I32>();
        let (a, [s, t], more) =
            b.for_(0, n, 2, (b.value(1), [b.value(0); 2], vec![n]), |i, (a, [s, t], v)| {
                (a * 3, [s + i, t ^ i], vec![v[0] + 1])
            });
        let x = b.if_else(a.lt(s), || (s, t), || (t + 1, s));
        b.if_(x.0.eq(7), || out.at(3).store(a));
        b.switch(x.1 % 8, 8, |arm| out.at(arm + 8).store(n * (arm as i32 + 5)));
        b.wait_until(|| b.load_acquire(out).eq(1));
        out.at(2).store(x.0 + more[0]);
    });
}

#[test]
fn vectors_and_alignment() {
    // f32 pairs are 64-bit registers on the newest targets, so a vector of four may be two of them.
    let wanted = ["ld.global.v4.b32", "ld.global.nc.v", "st.global.v4.b32", "cvt.rn.bf16x2.f32"];
    on_all("vectors", &wanted, |b| {
        let x = b.param_ptr::<Bf16>();
        let w = b.param_const_floats(DType::F32);
        let v = x.load_vector::<8>().to_f32().elements();
        let w = w.at(4).load::<8>();
        let sum = b.vector::<F32, 8>(std::array::from_fn(|i| v[i] + w[i]));
        x.at64(b.value(1i64 << 33)).store_vector(sum.to_bf16());
        x.at(3).store((x.at(2).load().to_f32() + 1.0f32).to_bf16());
    });
}

#[test]
fn floats_by_their_type() {
    // Sixteen bytes in one access, whatever the width of its parts.
    for (dtype, wanted) in [(DType::F32, "st.global.v"), (DType::Bf16, "st.global.v2.b32")] {
        on_all("floats", &[wanted], |b| {
            let x = b.param_floats(dtype);
            let y = b.param_floats(dtype);
            let i = b.special(Special::ThreadX);
            let v = x.at(i * 4).load::<4>().map(|v| x.rounded(v * 3.0f32));
            y.select(i.eq(0), x).at64(i.to_i64() * 4i64).store(v);
        });
    }
}

#[test]
fn shared_memory_is_static_below_48_kib() {
    let ptx = check("small", "sm_80", 128, &[".shared .align 128 .b8 smem[1152]"], |b| {
        let first = b.shared::<I32>(3, 16);
        let second = b.shared::<F32>(256, 128);
        first.at(b.special(Special::ThreadX) % 3).store(b.value(1));
        second.at(b.special(Special::ThreadX)).store(b.value(1.0f32));
        b.sync();
        b.param_ptr::<F32>().store(second.at(first.at(1).load()).load());
    });
    assert!(!ptx.contains(".extern .shared"), "{ptx}");
}

#[test]
fn shared_memory_is_dynamic_above_48_kib() {
    let gpu = Target::named("sm_80").unwrap().gpu.as_ref().unwrap();
    let b = Builder::new("k", gpu, [32, 1, 1]);
    b.shared::<I32>(100, 16);
    b.shared::<I64>(8192, 1024);
    assert_eq!(b.finish().unwrap().dynamic_shared, 1024 + 65536);
    b.shared::<I64>(1 << 16, 16);
    let e = b.finish().unwrap_err();
    assert!(e.message.contains("bytes of shared memory"), "{e}");
}

#[test]
fn copies_to_shared_memory() {
    let wanted = ["cp.async.cg.shared.global", "cp.async.commit_group", "cp.async.wait_group 1"];
    on_all("cp_async", &wanted, |b| {
        let x = b.param_ptr::<Bf16>();
        let tile = Tile { rows: 16, row_bytes: 128 };
        let s = b.shared::<Bf16>(tile.bytes() / 2, 1024);
        let thread = b.special(Special::ThreadX);
        let to = s.at_bytes(tile.offset(thread / 8, thread % 8));
        b.cp_async(to, x.at(thread * 8));
        b.cp_async_commit();
        b.cp_async_or_zero(to, x.at(thread * 8 + 1024), thread.lt(5));
        b.cp_async_commit();
        b.cp_async_wait(1);
        b.sync();
        x.store(s.at(thread).load());
    });
}

#[test]
fn cache_hints() {
    let wanted = [
        "L1::no_allocate",
        "L2::cache_hint",
        "createpolicy.fractional.L2::evict_first",
        "evict_last",
        ".version",
    ];
    on_all("hints", &wanted, |b| {
        let (w, out) = (b.param_const::<I32>(), b.param_ptr::<I32>());
        w.at(64).prefetch_l2();
        let a = w.load_streaming();
        let c = w.at(4).load_with_policy(b.cache_policy(Evict::First));
        let d = w.at(8).load_with_policy(b.cache_policy(Evict::Last));
        out.store(a.get(0) + c.get(1) + d.get(3));
    });
    // sm_80's row says PTX 7.0: the hints raise it.
    let ptx = check("hint", "sm_80", 32, &[".version 7.4"], |b| {
        b.param_ptr::<I32>().store_vector(b.param_const::<I32>().load_streaming());
    });
    assert!(ptx.contains("ld.global.nc.L1::no_allocate"));
}

#[test]
fn counters_between_blocks() {
    on_all("counters", &["red.release.gpu.global.add.u32", "ld.acquire.gpu.global.u32"], |b| {
        let counter = b.param_ptr::<I32>();
        b.release_add(counter, 1);
        let seen = b.load_acquire(counter);
        counter.at(1).store(seen);
    });
}

#[test]
fn warps_and_blocks() {
    let wanted = [
        "shfl.sync.bfly",
        "shfl.sync.idx",
        "vote.sync.ballot",
        "redux.sync.add",
        "bar.warp.sync",
        "bar.arrive",
    ];
    on_all("warps", &wanted, |b| {
        let out = b.param_ptr::<F32>();
        let (lane, warp) = b.lane_and_warp();
        let x = lane.to_f32();
        let sum = b.sum_block(x) + b.max_lanes(x, 8) + b.sum_lanes(x, 4);
        let other = b.broadcast(b.sum_lanes_int(warp), 3);
        b.sync_warp();
        b.if_(warp.lt(2), || b.sync_some(2, 128));
        b.if_(b.value(1).lt(warp), || b.arrive_some(2, 128));
        let any = b.any(lane.lt(other));
        out.at(lane).store(any.select(sum, x));
        out.at(b.special(Special::Sm) + b.special(Special::GridX) + b.special(Special::BlockY)).store(x);
    });
}

#[test]
fn matrices_of_a_warp() {
    let wanted =
        ["ldmatrix.sync.aligned.m8n8.x4.shared.b16", "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"];
    on_all("mma", &wanted, |b| {
        let out = b.param_ptr::<F32>();
        let s = b.shared::<Bf16>(1024, 128);
        let row = s.at(b.special(Special::Lane) * 8);
        let (a, w) = (b.ldmatrix(row, false), b.ldmatrix(row.at(256), true));
        let c = b.mma_bf16(a, [w[0], w[1]], [b.value(0.0f32); 4]);
        let d = b.mma_i8(a, [w[2], w[3]], [b.value(0); 4]);
        let packed = b.pack_bf16(c[0], c[1]);
        out.store_vector(b.vector([c[2], c[3], d[0].to_f32(), packed.bitcast()]));
    });
    let bf16 = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
    check("mma_bf16", "sm_80", 32, &[bf16], |b| {
        let (x, a) = (b.param_ptr::<F32>(), b.param::<I32>());
        x.store_vector(b.vector(b.mma_bf16([a; 4], [a; 2], [b.value(1.0f32); 4])));
    });
    for target in ["sm_89", "sm_90", "sm_120"] {
        check("mma_e4m3", target, 32, &["m16n8k32.row.col.f32.e4m3.e4m3.f32"], |b| {
            let (x, a) = (b.param_ptr::<F32>(), b.param::<I32>());
            x.store_vector(b.vector(b.mma_e4m3([a; 4], [a; 2], [b.value(1.0f32); 4])));
        });
    }
}

#[test]
fn what_a_target_lacks_is_found() {
    let gpu = Target::named("sm_80").unwrap().gpu.as_ref().unwrap();
    let b = Builder::new("k", gpu, [128, 1, 1]);
    b.wgmma_fence();
    b.more_registers(232);
    let e = b.finish().unwrap_err();
    assert_eq!(e.fault, Fault::Bug);
    assert!(e.message.contains("uses what sm_80 lacks: wgmma, setmaxnreg"), "{e}");
    let b = Builder::new("not a name", gpu, [128, 1, 1]);
    assert!(b.finish().unwrap_err().message.contains("identifier"));
}

#[test]
fn errors_of_mlir_and_llvm_come_back() {
    let target = PtxTarget { arch: "sm_80", ptx: 70 };
    let mlir = Mlir::new();
    let e = mlir.to_ptx("k", "llvm.func @k() { llvm.bogus }", target, OptLevel::Full).unwrap_err();
    assert!(e.notes.iter().any(|n| n.contains("llvm.bogus")), "{e}");
    // The verifier: a branch with the wrong number of values.
    let text = "llvm.func @k() { llvm.br ^a ^a(%x: i32): llvm.return }";
    let e = mlir.to_ptx("k", text, target, OptLevel::Full).unwrap_err();
    assert!(!e.notes.is_empty(), "{e}");
    // The context is good for another kernel afterwards.
    let good =
        mlir.to_ptx("k", "llvm.func @k() attributes {nvvm.kernel} { llvm.return }", target, OptLevel::None);
    assert!(good.unwrap().contains(".visible .entry k"));
}
