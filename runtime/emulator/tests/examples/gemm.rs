//! Matrix products with a producer warp that loads by tensor maps, consumer warpgroups that multiply, and mbarriers
//! between them.

use super::*;

/// One tile of `m` = 128 rows by `n` columns.
struct Gemm {
    text: String,
    n: usize,
    k: usize,
    dtype: DataType,
    swizzle: Swizzle,
}

impl Gemm {
    fn bf16() -> Gemm {
        let text = text("gemm_01_bf16_ws_wait0");
        Gemm { text, n: 256, k: 320, dtype: DataType::Bf16, swizzle: Swizzle::B128 }
    }

    fn encoded(&self, values: &[i32]) -> Vec<u8> {
        if self.dtype == DataType::Bf16 { bf16(values) } else { e4m3(values) }
    }

    /// What the kernel computes, and what is right.
    fn run(&self) -> Result<(Vec<f32>, Vec<f32>), Box<Fault>> {
        let (m, Gemm { n, k, dtype, swizzle, .. }) = (128, self);
        let (a, b) = (integers(m * k, 1), integers(n * k, 2));
        let mut global = Global::default();
        let at_a = filled(&mut global, &self.encoded(&a), "A");
        let at_b = filled(&mut global, &self.encoded(&b), "B");
        let out = global.alloc(4 * 384 * (n / 2) as u64, "out");
        let step = (128 * 8 / dtype.bits()) as u32;
        let map = |at, rows: usize| {
            matrix(*dtype, at, [*k as u64, rows as u64], [step, rows as u32], *swizzle).to_bytes()
        };
        let (map_a, map_b) = (map(at_a, m), map(at_b, *n));
        let tiles = (*k as u32 / step).to_le_bytes();
        let stages = if *n == 256 { 3 } else { 4 };
        let shared = stages * (128 * 128 + *n as u32 * 128) + 1024;
        run(
            &kernel(&self.text),
            sizes(1, 384, shared),
            &[&map_a, &map_b, &out.to_le_bytes(), &tiles],
            &global,
        )?;
        let stored = floats(&global, out, 384 * (n / 2));
        let found = [gathered(&stored, 128, *n), gathered(&stored, 256, *n)].concat();
        Ok((found, product(&a, &b, [m, *n, *k])))
    }

    fn with(mut self, from: &str, to: &str) -> Gemm {
        assert!(self.text.contains(from), "{from}");
        self.text = self.text.replace(from, to);
        self
    }

    #[track_caller]
    fn fault(&self) -> Fault {
        match self.run() {
            Err(fault) => *fault,
            Ok(_) => panic!("nothing was found wrong"),
        }
    }
}

#[test]
fn bf16_is_right() {
    let (found, right) = Gemm::bf16().run().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found, right);
}

#[test]
fn fp8_is_right() {
    let text = text("gemm_03_fp8_ws_wait0");
    let n = if text.contains("m64n256k32") { 256 } else { 128 };
    let gemm = Gemm { text, n, k: 640, dtype: DataType::U8, swizzle: Swizzle::B128 };
    let (found, right) = gemm.run().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found, right);
}

#[test]
fn a_flipped_phase_is_found() {
    // The producer waits for stages that nobody has filled yet.
    let f = Gemm::bf16().with("mov.b32 \t%r34, 1;", "mov.b32 \t%r34, 0;").fault();
    assert_eq!(f.kind, FaultKind::Deadlock, "{f}");
    assert!(f.what.contains("parity 0 of the mbarrier"), "{f}");
    // The consumers do not wait for the first one.
    let f = Gemm::bf16().with("mov.b32 \t%r37, %r35;", "mov.b32 \t%r37, 1;").fault();
    assert!(matches!(f.kind, FaultKind::UninitialisedMemory | FaultKind::Race), "{f}");
}

#[test]
fn a_wrong_count_of_bytes_is_found() {
    for (bytes, left) in [(49136, "-16 bytes"), (49168, "16 bytes")] {
        let f = Gemm::bf16().with("mov.b32 \t%r27, 49152;", &format!("mov.b32 %r27, {bytes};")).fault();
        assert_eq!(f.kind, FaultKind::Deadlock, "{f}");
        assert!(f.what.contains(left) && f.what.contains("warp 4"), "{f}");
    }
}

#[test]
fn a_missing_wait_is_found() {
    // Registers are stored while they are being added to, or the producer overwrites what is being read.
    let mut one = Gemm::bf16().with("wgmma.wait_group.sync.aligned \t0;", "");
    let f = one.fault();
    assert_eq!(f.kind, FaultKind::Race, "{f}");
    one.k = 64;
    let f = one.fault();
    assert_eq!(f.kind, FaultKind::RegisterInFlight, "{f}");
    let f = Gemm::bf16().with("wgmma.fence.sync.aligned;", "").fault();
    assert_eq!(f.kind, FaultKind::MissingWgmmaFence, "{f}");
}

#[test]
fn a_missing_arrival_is_found() {
    let f = Gemm::bf16().with("@%p4 mbarrier.arrive.shared::cta.b64 _, [%r14];", "").fault();
    assert_eq!(f.kind, FaultKind::Deadlock, "{f}");
    // All threads arrive where one is meant: phases go by that nobody waits for.
    let all = "mbarrier.arrive.shared::cta.b64 _, [%r14];";
    let f = Gemm::bf16().with("@%p4 mbarrier.arrive.shared::cta.b64 _, [%r14];", all).fault();
    assert_eq!(f.kind, FaultKind::Deadlock, "{f}");
}

#[test]
fn another_swizzle_gives_other_results() {
    let mut gemm = Gemm::bf16();
    gemm.swizzle = Swizzle::None;
    let (found, right) = gemm.run().unwrap_or_else(|e| panic!("{e}"));
    assert_ne!(found, right);
}

#[test]
fn a_descriptor_with_reserved_bits_is_found() {
    let wrong = (4_611_686_293_305_294_848u64 | 1 << 46).to_string();
    let f = Gemm::bf16().with("4611686293305294848", &wrong).fault();
    assert_eq!(f.kind, FaultKind::Descriptor, "{f}");
    assert!(f.what.contains("reserved bits"), "{f}");
}

#[test]
fn what_is_no_tensor_map_is_found() {
    let kernel = kernel(&Gemm::bf16().text);
    let global = Global::default();
    let f = fault(&kernel, sizes(1, 384, 148_480), &[&[0; 128], &[0; 128], &[0; 8], &[1, 0, 0, 0]], &global);
    assert_eq!(f.kind, FaultKind::TensorMap, "{f}");
}

/// A warpgroup wants more registers than are free, or asks for fewer than it has.
#[test]
fn registers_that_nobody_gives_up() {
    let f = Gemm::bf16().with("setmaxnreg.dec.sync.aligned.u32 \t40;", "").fault();
    assert_eq!(f.kind, FaultKind::Budget, "{f}");
    assert!(f.what.contains("registers"), "{f}");
    let f = Gemm::bf16()
        .with("setmaxnreg.inc.sync.aligned.u32 \t232;", "setmaxnreg.inc.sync.aligned.u32 160;")
        .fault();
    assert!(f.kind == FaultKind::Budget && f.what.contains("fewer"), "{f}");
}
