//! Loads and stores of every shape, and allocation.

use super::Kernel;
use super::products::fill;
use trtc_emulator::FaultKind;

fn list(first: u32, count: u32) -> String {
    let names: Vec<String> = (first..first + count).map(|r| format!("%r{r}")).collect();
    format!("{{{}}}", names.join(", "))
}

/// Registers that hold `256 * thread + number`, stored in a shape, and what `32x32b` then finds: `out[lane][column]`.
fn stored(shape: &str, repetition: u32, registers: u32, split: &str, columns: u32) -> Vec<u32> {
    let mut before = "shl.b32 %r20, %me, 8;".to_owned();
    for r in 0..registers {
        before += &format!("add.u32 %r{}, %r20, {r};", 40 + r);
    }
    let halves: &[u32] = if shape == "32x32b" { &[0] } else { &[0, 16] };
    for half in halves {
        before += &format!(
            "add.u32 %r21, %mine, {};
             tcgen05.st.sync.aligned.{shape}.x{repetition}.b32 [%r21], {split}{};\n",
            half << 16,
            list(40, registers)
        );
    }
    // The same registers come back.
    before += "tcgen05.wait::st.sync.aligned;";
    before += &format!(
        "tcgen05.ld.sync.aligned.{shape}.x{repetition}.b32 {}, [%mine]{};
         tcgen05.wait::ld.sync.aligned;",
        list(100, registers),
        split.strip_suffix(", ").map(|s| format!(", {s}")).unwrap_or_default()
    );
    for r in 0..registers {
        before += &format!("setp.ne.u32 %p6, %r{}, %r{}; @%p6 trap;", 40 + r, 100 + r);
    }
    let mut kernel = Kernel::new(vec![0; 16], String::new(), columns);
    kernel.before = before;
    kernel.words()
}

/// Where PTX ISA 9.7.16.2.3 draws the registers of a shape: thread and register of (lane of 16, column).
#[test]
fn stores_of_every_shape() {
    type Place = fn(u32, u32) -> (u32, u32);
    let shapes: [(&str, u32, u32, &str, u32, Place); 5] = [
        ("32x32b", 8, 8, "", 8, |lane, column| (lane, column)),
        ("16x64b", 4, 4, "", 8, |lane, column| (lane % 8 * 4 + lane % 16 / 8 + 2 * (column % 2), column / 2)),
        ("16x128b", 2, 4, "", 8, |lane, column| (lane % 8 * 4 + column % 4, column / 4 * 2 + lane % 16 / 8)),
        ("16x256b", 1, 4, "", 8, |lane, column| (lane % 8 * 4 + column / 2, column % 2 + lane % 16 / 8 * 2)),
        ("16x32bx2", 4, 4, "4, ", 8, |lane, column| (lane % 16 + 16 * (column / 4), column % 4)),
    ];
    for (shape, repetition, registers, split, columns, place) in shapes {
        let got = stored(shape, repetition, registers, split, columns);
        for lane in 0..128 {
            for column in 0..columns {
                let (thread, register) = place(lane % 32, column);
                let want = 256 * (lane / 32 * 32 + thread) + register;
                assert_eq!(got[(lane * columns + column) as usize], want, "{shape} {lane} {column}");
            }
        }
    }
}

#[test]
fn halves_are_unpacked_and_packed() {
    let mut kernel = Kernel::new(vec![0; 16], String::new(), 8);
    kernel.before = "shl.b32 %r20, %me, 16; or.b32 %r40, %r20, 7; or.b32 %r41, %r20, 8; or.b32 %r42, %r20, 9;
         or.b32 %r43, %r20, 10;
         tcgen05.st.sync.aligned.32x32b.x4.unpack::16b.b32 [%mine], {%r40, %r41, %r42, %r43};
         tcgen05.wait::st.sync.aligned;
         tcgen05.ld.sync.aligned.32x32b.x4.pack::16b.b32 {%r50, %r51, %r52, %r53}, [%mine];
         tcgen05.wait::ld.sync.aligned;
         setp.ne.u32 %p6, %r42, %r52; @%p6 trap;"
        .to_owned();
    let got = kernel.words();
    for lane in 0..128u32 {
        assert_eq!(got[8 * lane as usize..][..8], [7, lane, 8, lane, 9, lane, 10, lane]);
    }
}

/// A kernel of one warp that only allocates.
fn allocates(body: &str) -> Result<(), Box<trtc_emulator::Fault>> {
    let text = format!(
        ".version 8.8\n.target sm_100a\n.address_size 64\n.visible .entry k() {{ .reg .b32 %r<20>; .reg .b64 %d<4>;
         .shared .align 16 .b32 a; .shared .align 16 .b32 b;
         {body}
         ret; }}"
    );
    let kernels = trtc_emulator::load(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let sizes = trtc_emulator::Sizes { grid: [1, 1, 1], block: [32, 1, 1], shared: 0 };
    let limits = trtc_emulator::Limits { instructions: 1 << 20 };
    trtc_emulator::launch(&kernels[0], sizes, &[], &trtc_emulator::Global::default(), 1, limits).map(|_| ())
}

const ALLOC: &str = "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32";
const DEALLOC: &str = "tcgen05.dealloc.cta_group::1.sync.aligned.b32";

#[test]
fn allocations() {
    let two = |first: u32, second: u32, end: &str| {
        allocates(&format!(
            "{ALLOC} [a], {first}; {ALLOC} [b], {second}; bar.warp.sync -1; ld.shared.b32 %r1, [a]; ld.shared.b32 %r2, [b];
             {end}"
        ))
    };
    let all = format!("{DEALLOC} %r1, 64; {DEALLOC} %r2, 256;");
    assert_eq!(two(64, 256, &all), Ok(()));
    let kind = |r: Result<(), Box<trtc_emulator::Fault>>, words: &str| {
        let fault = r.expect_err("a fault is wanted");
        assert!(fault.what.contains(words), "{fault}");
        fault.kind
    };
    let some = format!("{DEALLOC} %r1, 64;");
    assert_eq!(kind(two(64, 256, &some), "were not deallocated"), FaultKind::TensorMemory);
    let twice = format!("{DEALLOC} %r1, 64; {DEALLOC} %r1, 64;");
    assert_eq!(kind(two(64, 256, &twice), "allocated are"), FaultKind::TensorMemory);
    assert_eq!(kind(two(64, 48, &all), "power of two"), FaultKind::TensorMemory);
    assert_eq!(
        kind(two(64, 512, &all), "columns of tensor memory, which nobody gives back"),
        FaultKind::Deadlock
    );
    let late = format!(
        "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned; {ALLOC} [a], 32; ld.shared.b32 %r1, [a]; {DEALLOC} %r1, 32;"
    );
    assert_eq!(kind(allocates(&late), "relinquish"), FaultKind::TensorMemory);
}

/// A generic address serves as well.
#[test]
fn an_allocation_by_a_generic_address() {
    let body = format!(
        "mov.b64 %d1, a; cvta.shared.u64 %d1, %d1; tcgen05.alloc.cta_group::1.sync.aligned.b32 [%d1], 32;
         bar.warp.sync -1; ld.shared.b32 %r1, [a]; {DEALLOC} %r1, 32;"
    );
    assert_eq!(allocates(&body), Ok(()));
}

#[test]
fn memory_that_nobody_wrote() {
    let mut kernel = Kernel::new(vec![0; 16], String::new(), 16);
    kernel.before = fill(1.0, 16);
    assert_eq!(kernel.words(), vec![1f32.to_bits(); 16 * 128]);
    kernel.before = fill(1.0, 15);
    kernel.faults(FaultKind::UninitialisedMemory, "column 15");
}

#[test]
fn other_chips_do_not_have_it() {
    let text = |target: &str| Kernel::new(vec![0; 16], String::new(), 8).text().replace("sm_100a", target);
    let loads = |target: &str| trtc_emulator::load(&text(target)).map(|_| ()).map_err(|e| e.what);
    assert_eq!(loads("sm_103a"), Ok(()));
    assert_eq!(loads("sm_100f"), Ok(()));
    for other in ["sm_100", "sm_90a", "sm_120a"] {
        assert!(loads(other).is_err_and(|e| e.contains("sm_100a")), "{other}");
    }
}
