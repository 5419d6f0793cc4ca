//! How fast the emulator executes: thread-instructions a second of ordinary code, and matrix instructions.
//!
//! The figures to hold: 30 million thread-instructions a second on two cores, 50 microseconds for a 64x64x64 `wgmma`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trtc_emulator::{Global, Kernel, Limits, Sizes, launch, load};

/// Rounds of a kernel's loop.
const ROUNDS: u32 = 64;

/// A kernel whose loop does `body`, with `setup` before it; `%r1` is the thread, `%r2` the round, `%d1` the buffer.
fn kernel(threads: u32, setup: &str, body: &str) -> Kernel {
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 dyn[];\n\
         .visible .entry k(.param .u64 buffer)\n.reqntid {threads}\n{{\n.reg .pred %p<4>; .reg .b32 %r<20>; .reg .f32 %f<40>; \
         .reg .b64 %d<10>;\nld.param.u64 %d1, [buffer]; mov.u32 %r1, %tid.x; mov.b32 %r2, 0; mov.f32 %f0, 0f3F800000;\n\
         mul.wide.u32 %d2, %r1, 16; add.s64 %d1, %d1, %d2; mov.b32 %r3, dyn;\n{setup}\nL:\n{body}\n\
         add.s32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, {ROUNDS}; @%p1 bra L; ret;\n}}"
    );
    let mut kernels = load(&text).expect("the kernel is decoded");
    kernels.remove(0)
}

fn run(kernel: &Kernel, blocks: u32, threads: u32) -> u64 {
    let mut global = Global::default();
    let buffer = global.alloc(1 << 16, "buffer");
    let sizes = Sizes { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 32 << 10 };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let stats = launch(kernel, sizes, &[&buffer.to_le_bytes()], &global, cores, Limits::default());
    stats.expect("the kernel is right").thread_instructions
}

fn ordinary(c: &mut Criterion) {
    let mut group = c.benchmark_group("thread-instructions");
    let arithmetic =
        "fma.rn.f32 %f1, %f0, %f0, %f0; add.s32 %r4, %r2, %r1; xor.b32 %r5, %r4, %r2; mul.f32 %f2, %f1, %f0;
         shl.b32 %r6, %r5, 2; max.f32 %f3, %f2, %f1; mad.lo.s32 %r7, %r6, %r4, %r5; add.f32 %f4, %f3, %f2;";
    let memory = "ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%d1]; mad.lo.s32 %r8, %r1, 16, %r3;
         st.shared.v4.b32 [%r8], {%r4, %r5, %r6, %r7}; bar.sync 0; xor.b32 %r9, %r8, 512;
         ld.shared.v4.b32 {%r4, %r5, %r6, %r7}, [%r9]; bar.sync 0; add.s32 %r4, %r4, %r5;
         shfl.sync.bfly.b32 %r10|%p2, %r4, 1, 31, -1; st.global.b32 [%d1], %r10;";
    for (name, body) in [("arithmetic", arithmetic), ("memory", memory)] {
        let k = kernel(256, "", body);
        group.throughput(Throughput::Elements(run(&k, 16, 256)));
        group.bench_function(name, |b| b.iter(|| run(&k, 16, 256)));
    }
    group.finish();
}

/// Four `m64n64k16` of a warpgroup, operands in shared memory: one 64x64x64 product a round.
fn matrices(c: &mut Criterion) {
    let accumulators: Vec<String> = (0..32).map(|i| format!("%f{i}")).collect();
    let list = accumulators.join(", ");
    let zeros: String = accumulators.iter().map(|f| format!("mov.f32 {f}, 0f00000000; ")).collect();
    let setup = format!(
        "{zeros} mov.b32 %r4, 0x3f803f80; mad.lo.s32 %r5, %r1, 16, %r3; mov.b32 %r6, 0;
         F: st.shared.v4.b32 [%r5], {{%r4, %r4, %r4, %r4}}; add.s32 %r5, %r5, 2048; add.s32 %r6, %r6, 1;
         setp.lt.u32 %p2, %r6, 8; @%p2 bra F;
         fence.proxy.async.shared::cta; bar.sync 0;
         mov.b64 %d3, 0x4000004000010000; shr.u32 %r7, %r3, 4; cvt.u64.u32 %d4, %r7; or.b64 %d3, %d3, %d4; add.s64 %d4, %d3, 512;"
    );
    let steps: String = (0..4)
        .map(|k| {
            format!(
                "add.s64 %d5, %d3, {step}; add.s64 %d6, %d4, {step};
                 wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{list}}}, %d5, %d6, 1, 1, 1, 0, 0;\n",
                step = 2 * k
            )
        })
        .collect();
    let body = format!(
        "wgmma.fence.sync.aligned;\n{steps} wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
    );
    let k = kernel(128, &setup, &body);
    let mut group = c.benchmark_group("wgmma");
    group.throughput(Throughput::Elements(u64::from(ROUNDS)));
    group.bench_function("64x64x64 bf16, one core", |b| b.iter(|| run(&k, 1, 128)));
    group.finish();
}

criterion_group!(emulator, ordinary, matrices);
criterion_main!(emulator);
