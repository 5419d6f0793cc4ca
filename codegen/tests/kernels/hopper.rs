//! What only newer targets have: transaction barriers, bulk and tensor copies, wgmma, clusters, dependent launches.

use super::check;
use trtc_codegen::builder::{Bf16, Builder, Evict, F32, I32, Smem, Special, WgmmaA, WgmmaType};

/// Rows with tensor copies.
const TMA: [&str; 4] = ["sm_90", "sm_100", "sm_103", "sm_120"];

#[test]
fn barriers_and_bulk_copies() {
    let wanted = [
        "mbarrier.init.shared",
        "mbarrier.arrive.expect_tx",
        "mbarrier.expect_tx",
        "mbarrier.try_wait.parity",
        "mbarrier.arrive",
        "cp.async.bulk.shared::cluster.global.mbarrier",
        "cp.async.bulk.global.shared::cta.bulk_group",
        "cp.async.bulk.prefetch.L2",
        "fence.proxy.async.shared::cta",
        "cp.async.bulk.wait_group.read",
    ];
    for target in TMA {
        check("bulk", target, 128, &wanted, |b| {
            let (from, to) = (b.param_const::<Bf16>(), b.param_ptr::<Bf16>());
            let full = b.barriers(2);
            let s = b.shared::<Bf16>(2048, 128);
            let first = b.special(Special::ThreadX).eq(0);
            b.if_(first, || {
                full.init(1);
                full.at(1).init(2);
                b.fence_barriers();
            });
            b.sync();
            b.if_(first, || {
                b.bulk_prefetch(from.at(4096), 4096);
                full.arrive_expect(4096);
                b.bulk_load(s, from, 4096, full, Some(b.cache_policy(Evict::First)));
                full.at(1).expect(0);
                full.at(1).arrive();
            });
            full.wait(0);
            s.at(b.special(Special::ThreadX)).store(from.load());
            b.fence_async();
            b.sync();
            b.if_(first, || {
                b.bulk_store(to, s, 4096, None);
                b.bulk_commit();
                b.bulk_wait(0, true);
                b.bulk_wait(0, false);
            });
        });
    }
}

#[test]
fn tensor_copies() {
    let wanted = [
        "prefetch.tensormap",
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier",
        "L2::cache_hint",
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group",
        "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add",
        "cp.async.bulk.prefetch.tensor.2d.L2.global",
    ];
    for target in TMA {
        check("tensor", target, 128, &wanted, |b| {
            let map = b.param_tensor_map();
            let full = b.barriers(1);
            let s = b.shared::<Bf16>(4096, 1024);
            let at = [b.value(0), b.special(Special::BlockX) * 64];
            b.if_(b.special(Special::ThreadX).eq(0), || {
                b.prefetch_tensor_map(map);
                full.init(1);
                b.fence_barriers();
                b.tensor_prefetch(map, &at);
                full.arrive_expect(8192);
                b.tensor_load(s, map, &at, full, None);
                b.tensor_load(s, map, &at, full, Some(b.cache_policy(Evict::Last)));
                full.wait(0);
                b.tensor_store(map, &at, s);
                b.tensor_add(map, &at, s);
                b.bulk_commit();
                b.bulk_wait(0, false);
            });
        });
    }
}

#[test]
fn clusters() {
    let wanted = [
        "multicast::cluster",
        "mapa",
        "barrier.cluster.arrive.aligned",
        "barrier.cluster.wait.aligned",
        ".reqnctapercluster 2",
    ];
    for target in ["sm_90", "sm_100", "sm_103"] {
        check("clusters", target, 128, &wanted, |b| {
            b.cluster([2, 1, 1]);
            let map = b.param_tensor_map();
            let full = b.barriers(1);
            let s = b.shared::<Bf16>(4096, 1024);
            let rank = b.cluster_rank();
            b.if_(b.special(Special::ThreadX).eq(0), || {
                full.init(2);
                b.fence_barriers();
            });
            b.sync_cluster();
            b.if_(b.special(Special::ThreadX).eq(0), || {
                full.arrive_expect(8192);
                b.tensor_load_multicast(s, map, &[b.value(0), rank], full, 3i16, None);
                full.arrive_at_block(rank ^ 1);
            });
            full.wait(0);
            b.sync_cluster();
        });
    }
}

#[test]
fn dependent_launch_and_election() {
    for target in TMA {
        let wanted = ["griddepcontrol.wait", "griddepcontrol.launch_dependents", "elect.sync"];
        check("dependent", target, 32, &wanted, |b| {
            let out = b.param_ptr::<I32>();
            b.wait_for_grids();
            b.if_(b.elect(), || out.store(b.value(1)));
            b.launch_dependents();
        });
    }
}

#[test]
fn stored_matrices() {
    for target in TMA {
        check(
            "stmatrix",
            target,
            32,
            &["stmatrix.sync.aligned.m8n8.x4.shared.b16", "stmatrix.sync.aligned.m8n8.x4.trans"],
            |b| {
                let out = b.param_ptr::<Bf16>();
                let s = b.shared::<Bf16>(512, 128);
                let row = s.at(b.special(Special::Lane) * 8);
                let parts = b.ldmatrix(row, false);
                b.stmatrix(row.at(256), parts, false);
                b.stmatrix(row, parts, true);
                b.sync_warp();
                out.store(s.at(3).load());
            },
        );
    }
}

/// Four steps of 16 or 32 along k over 128-byte rows, as in a kernel's main loop.
fn products(b: &Builder, ty: WgmmaType, n: u32, from_registers: bool) {
    let out = b.param_ptr::<F32>();
    let s = b.shared::<Bf16>(64 * 64 + n * 64, 1024);
    let a = b.wgmma_descriptor(s, Smem::Rows128);
    let w = b.wgmma_descriptor(s.at_bytes(64 * 128), Smem::Rows128);
    let mut d = vec![b.value(0.0f32); n as usize / 2];
    let words = b.ldmatrix(s.at(b.special(Special::Lane) * 8), false);
    b.wgmma_fence();
    for k in 0..4i64 {
        let a = if from_registers { WgmmaA::Registers(words) } else { WgmmaA::Shared(a + k * 2) };
        d = b.wgmma(ty, &d, a, w + k * 2, k > 0);
    }
    b.wgmma_commit();
    let d = b.wgmma_wait(0, &d);
    let to = out.at(b.special(Special::ThreadX) * n);
    d.iter().enumerate().for_each(|(j, &v)| to.at(j as u32).store(v));
}

#[test]
fn warpgroup_products() {
    for (ty, n, registers, name) in [
        (WgmmaType::Bf16, 256, false, "m64n256k16.f32.bf16.bf16"),
        (WgmmaType::Bf16, 8, false, "m64n8k16.f32.bf16.bf16"),
        (WgmmaType::Bf16, 128, true, "m64n128k16.f32.bf16.bf16"),
        (WgmmaType::E4m3, 128, false, "m64n128k32.f32.e4m3.e4m3"),
        (WgmmaType::E4m3, 64, true, "m64n64k32.f32.e4m3.e4m3"),
    ] {
        let wanted = [
            &format!("wgmma.mma_async.sync.aligned.{name}"),
            "wgmma.wait_group.sync.aligned 0",
            ".target sm_90a",
        ];
        check("wgmma", "sm_90", 128, &wanted, |b| products(b, ty, n, registers));
    }
}

/// A loop that carries accumulators, with registers moved from a producer: no advice from ptxas, no spill.
#[test]
fn warp_specialised_loop() {
    let wanted = ["setmaxnreg.dec.sync.aligned.u32 40", "setmaxnreg.inc.sync.aligned.u32 232"];
    check("specialised", "sm_90", 256, &wanted, |b| {
        const STAGES: u32 = 4;
        let (map, out, steps) = (b.param_tensor_map(), b.param_ptr::<F32>(), b.param::<I32>());
        let (full, empty) = (b.barriers(STAGES), b.barriers(STAGES));
        let ring = b.shared::<Bf16>(STAGES * 2 * 64 * 64, 1024);
        let thread = b.special(Special::ThreadX);
        b.if_(thread.eq(0), || {
            for s in 0..STAGES {
                full.at(s).init(1);
                empty.at(s).init(1);
            }
            b.fence_barriers();
        });
        b.sync();
        let producer = thread.lt(128);
        b.if_(producer, || {
            b.fewer_registers(40);
            b.if_(thread.eq(0), || {
                b.for_(0, steps, 1, (), |k, ()| {
                    let (stage, parity) = (k % STAGES, (k / STAGES) & 1);
                    empty.at(stage).wait(parity ^ 1);
                    full.at(stage).arrive_expect(16384);
                    let to = ring.at(stage * (2 * 64 * 64));
                    b.tensor_load(to, map, &[k * 64, b.value(0)], full.at(stage), None);
                    b.tensor_load(to.at(64 * 64), map, &[k * 64, b.value(64)], full.at(stage), None);
                });
            });
        });
        b.if_(!producer, || {
            b.more_registers(232);
            let d = b.for_(0, steps, 1, vec![b.value(0.0f32); 32], |k, d| {
                let (stage, parity) = (k % STAGES, (k / STAGES) & 1);
                full.at(stage).wait(parity);
                let at = ring.at(stage * (2 * 64 * 64));
                let (a, w) = (
                    b.wgmma_descriptor(at, Smem::Rows128),
                    b.wgmma_descriptor(at.at(64 * 64), Smem::Rows128),
                );
                b.wgmma_fence();
                let d = (0..4i64)
                    .fold(d, |d, i| b.wgmma(WgmmaType::Bf16, &d, WgmmaA::Shared(a + i * 2), w + i * 2, true));
                b.wgmma_commit();
                let d = b.wgmma_wait(0, &d);
                b.if_(thread.eq(128), || empty.at(stage).arrive());
                d
            });
            let to = out.at(thread * 32);
            d.iter().enumerate().for_each(|(j, &v)| to.at(j as u32).store(v));
        });
    });
}
