//! `wgmma` of every type, on operands that a bulk copy brings; and the sums of fp8 that are scaled between.

use super::*;

/// Bytes of a row of a K-major tile with 128-byte swizzle: the K of four instructions.
const LINE: usize = 128;
/// Where the image of shared memory begins.
const BASE: u64 = 1024;
/// A descriptor with 128-byte swizzle and 1024 bytes between groups of 8 rows.
const B128: u64 = 1 << 62 | 64 << 32 | 1 << 16;

/// The example with a prologue that brings `bytes` bytes of shared memory, from its new last parameter.
pub fn with_image(name: &str, bytes: usize) -> String {
    let text = text(name);
    let head = text.find("\n)").unwrap();
    let body = text.rfind("\t.reg .b64").unwrap();
    let body = body + text[body..].find('\n').unwrap() + 1;
    let prologue = format!(
        ".shared .align 1024 .b8 img[{bytes}]; .shared .align 8 .b8 zbar[8];\n\
         .reg .pred %zp<3>; .reg .b32 %zr<5>; .reg .b64 %zd<5>;\n\
         ld.param.u64 %zd0, [image]; mov.u32 %zr0, %tid.x; setp.ne.b32 %zp0, %zr0, 0; mov.b32 %zr1, 1;\n\
         mov.b32 %zr2, {bytes};\n\
         @%zp0 bra ZJOIN;\n\
         mbarrier.init.shared.b64 [zbar], %zr1; fence.mbarrier_init.release.cluster;\n\
         ZJOIN: bar.sync 0;\n\
         @%zp0 bra ZWAIT;\n\
         mbarrier.arrive.expect_tx.shared.b64 _, [zbar], %zr2;\n\
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [img], [%zd0], %zr2, [zbar];\n\
         ZWAIT: mbarrier.try_wait.parity.shared.b64 %zp1, [zbar], 0;\n\
         @!%zp1 bra ZWAIT;\n"
    );
    format!("{},\n.param .u64 image{}{prologue}{}", &text[..head], &text[head..body], &text[body..])
}

/// Puts rows of 128 bytes at an address of the image.
pub fn put(image: &mut [u8], at: u64, rows: &[u8]) {
    for (i, &byte) in rows.iter().enumerate() {
        image[(Swizzle::B128.apply(at + i as u64) - BASE) as usize] = byte;
    }
}

/// The descriptor of a tile at an address.
pub fn descriptor(at: u64) -> u64 {
    B128 | at >> 4
}

/// Runs an example of 64 x `n`, whose operands are rows of 128 bytes; gives its sums as words.
fn run_example(
    name: &str,
    n: usize,
    a: &[u8],
    b: &[u8],
    edit: impl Fn(String) -> String,
) -> Result<Vec<u32>, Box<Fault>> {
    let mut image = vec![0; a.len() + b.len()];
    let at_b = BASE + a.len() as u64;
    put(&mut image, BASE, a);
    put(&mut image, at_b, b);
    let mut global = Global::default();
    let at = filled(&mut global, &image, "image");
    let out = global.alloc(4 * 128 * (n / 2) as u64, "out");
    let text = edit(with_image(name, image.len()));
    let params = [descriptor(BASE), descriptor(at_b), out, at].map(u64::to_le_bytes);
    let params: Vec<&[u8]> = params.iter().map(|p| &p[..]).collect();
    run(&kernel(&text), sizes(1, 128, 0), &params, &global)?;
    let bits: Vec<f32> = floats(&global, out, 128 * (n / 2));
    Ok(gathered(&bits, 0, n).into_iter().map(f32::to_bits).collect())
}

fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[track_caller]
fn check(
    name: &str,
    n: usize,
    k: usize,
    encode: impl Fn(&[i32]) -> Vec<u8>,
    encode_b: impl Fn(&[i32]) -> Vec<u8>,
) {
    let (a, b) = (integers(64 * k, 3), integers(n * k, 4));
    let found = run_example(name, n, &encode(&a), &encode_b(&b), |t| t).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found, words(&product(&a, &b, [64, n, k])));
}

/// Halves and words of integers that they hold exactly.
fn f16(values: &[i32]) -> Vec<u8> {
    let code = |v: i32| {
        let bits = (v as f32).to_bits();
        let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
        let sign = (bits >> 16 & 0x8000) as u16;
        if v == 0 { 0 } else { sign | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16 }
    };
    values.iter().flat_map(|&v| code(v).to_le_bytes()).collect()
}

/// e5m2 of integers from -4 to 4: an f16's upper byte.
fn e5m2(values: &[i32]) -> Vec<u8> {
    f16(values).chunks_exact(2).map(|c| c[1]).collect()
}

#[test]
fn bf16_of_256_columns() {
    check("wgmma_01_bf16_n256", 256, 64, bf16, bf16);
}

#[test]
fn fp8() {
    check("wgmma_02_e4m3_n128", 128, 128, e4m3, e4m3);
    check("wgmma_03_e5m2_e4m3_n64", 64, 128, e5m2, e4m3);
}

#[test]
fn bytes() {
    let (a, b) = (integers(64 * 128, 5), integers(128 * 128, 6));
    let encode = |values: &[i32]| values.iter().map(|&v| v as i8 as u8).collect::<Vec<u8>>();
    let found = run_example("wgmma_04_s8_n128", 128, &encode(&a), &encode(&b), |t| t)
        .unwrap_or_else(|e| panic!("{e}"));
    let right: Vec<u32> = product(&a, &b, [64, 128, 128]).iter().map(|&v| v as i32 as u32).collect();
    assert_eq!(found, right);
}

#[test]
fn tf32() {
    let encode = |values: &[i32]| values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect::<Vec<u8>>();
    check("wgmma_05_tf32_n64", 64, 32, encode, encode);
}

#[test]
fn f16_of_8_columns() {
    check("wgmma_06_f16_n8", 8, 64, f16, f16);
}

/// B transposed: rows of k, 64 columns in 128 bytes, then the other 64.
#[test]
fn bf16_of_transposed_b() {
    let (n, k) = (128, 64);
    let (a, b) = (integers(64 * k, 3), integers(n * k, 4));
    let mut other = Vec::new();
    for block in 0..n / 64 {
        for l in 0..k {
            other.extend((0..64).map(|j| b[(block * 64 + j) * k + l]));
        }
    }
    // A step along k is 16 rows of 128 bytes; the other columns follow 64 rows later.
    let edit = |t: String| {
        let mut t = t;
        for (r, step) in [(4, 2), (6, 4), (8, 6)] {
            let line = format!("%rd{r}, %rd2, {step};");
            assert!(t.contains(&line));
            t = t.replace(&line, &format!("%rd{r}, %rd2, {};", step * 64));
        }
        let load = "ld.param.b64 \t%rd2, [wgmma_07_bf16_transB_param_1];";
        assert!(t.contains(load));
        // The leading offset, which is 16 bytes in the descriptor that others use.
        t.replace(load, &format!("{load} add.s64 %rd2, %rd2, {};", ((64 * LINE / 16) as u64 - 1) << 16))
    };
    let found = run_example("wgmma_07_bf16_transB", n, &bf16(&a), &bf16(&other), edit)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found, words(&product(&a, &b, [64, n, k])));
}

/// Blocks of K are summed each by itself and added with a scale of their own.
#[test]
fn scaled_sums_of_fp8() {
    let (n, k, blocks) = (128, 128, 2);
    let step = 1 << 15;
    for name in ["promo_01_plain_wait", "promo_02_tied_wait"] {
        let mut image = vec![0; step + (64 + n) * LINE];
        let (mut right, scales) = (vec![0.0; 64 * n], [0.5f32, 2.0]);
        for (block, scale) in scales.iter().enumerate() {
            let (a, b) = (integers(64 * k, 7 + block as u32), integers(n * k, 9 + block as u32));
            let at = BASE + (block * step) as u64;
            put(&mut image, at, &e4m3(&a));
            put(&mut image, at + (64 * LINE) as u64, &e4m3(&b));
            for (sum, part) in right.iter_mut().zip(product(&a, &b, [64, n, k])) {
                *sum += scale * part;
            }
        }
        let mut global = Global::default();
        let at = filled(&mut global, &image, "image");
        let factors: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        let factors = filled(&mut global, &factors, "scales");
        let out = global.alloc(4 * 128 * 64, "out");
        let text = with_image(name, image.len());
        let params = [descriptor(BASE), descriptor(BASE + (64 * LINE) as u64), factors, out, blocks, at];
        let params = params.map(u64::to_le_bytes);
        let params: Vec<&[u8]> = params.iter().map(|p| &p[..]).collect();
        fine(&kernel(&text), sizes(1, 128, 0), &params, &global);
        assert_eq!(gathered(&floats(&global, out, 128 * 64), 0, n), right, "{name}");
    }
}

/// What is found when one thing is missing from a kernel that is right.
#[test]
fn faults() {
    let (a, b) = (bf16(&integers(64 * 64, 3)), bf16(&integers(8 * 64, 4)));
    let edited = |from: &str, to: &str| {
        let edit = |t: String| {
            assert!(t.contains(from), "{from}");
            t.replace(from, to)
        };
        let fault = run_example("wgmma_06_f16_n8", 8, &a, &b, edit).err();
        fault.unwrap_or_else(|| panic!("nothing was found wrong without {from}"))
    };
    let f = edited("wgmma.fence.sync.aligned;", "");
    assert_eq!(f.kind, FaultKind::MissingWgmmaFence, "{f}");
    let f = edited("wgmma.wait_group.sync.aligned \t0;", "");
    assert_eq!(f.kind, FaultKind::RegisterInFlight, "{f}");
    assert!(f.text.contains("st.global") && f.what.contains("the wait is missing"), "{f}");
    let f = edited("wgmma.wait_group.sync.aligned \t0;", "wgmma.wait_group.sync.aligned 1;");
    assert_eq!(f.kind, FaultKind::RegisterInFlight, "{f}");
    // Before the bytes have come.
    let wait = "mbarrier.try_wait.parity.shared.b64 %zp1, [zbar], 0;\n@!%zp1 bra ZWAIT;";
    let f = edited(wait, "");
    assert_eq!(f.kind, FaultKind::UninitialisedMemory, "{f}");
    // A bit that is reserved, an address beyond shared memory, and one that differs among threads.
    let load = "ld.param.b64 \t%rd1, [wgmma_06_f16_n8_param_0];";
    for change in [
        "or.b64 %rd1, %rd1, 16384;",
        "or.b64 %rd1, %rd1, 16383;",
        "cvt.u64.u32 %zd2, %zr0; add.u64 %rd1, %rd1, %zd2;",
    ] {
        let f = edited(load, &format!("{load} {change}"));
        assert_eq!(f.kind, FaultKind::Descriptor, "{change}: {f}");
    }
    // Another shape while the first is under way.
    let f = edited(
        "wgmma.commit_group.sync.aligned;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f16.f16.f16 {%r1, %r2}, %rd7, %rd8, 1, 1, 1, 0, 0; wgmma.commit_group.sync.aligned;",
    );
    assert_eq!(f.kind, FaultKind::RegisterInFlight, "{f}");
}

/// Scales of -1, f16 sums, and A in registers, against the same with the signs turned.
#[test]
fn signs_and_f16_sums() {
    let (a, b) = (integers(64 * 64, 3), integers(8 * 64, 4));
    let negative = |t: String| t.replace("p, 1,  1, 0,  0;", "p, -1,  1, 0,  0;");
    let found =
        run_example("wgmma_06_f16_n8", 8, &f16(&a), &f16(&b), negative).unwrap_or_else(|e| panic!("{e}"));
    let turned: Vec<i32> = a.iter().map(|v| -v).collect();
    let right = product(&turned, &b, [64, 8, 64]);
    let found: Vec<f32> = found.into_iter().map(f32::from_bits).collect();
    assert_eq!(found, right);
}

/// Accumulators that nobody has written may be overwritten, not added to.
#[test]
fn accumulators_are_written_before_they_are_added_to() {
    let (a, b) = (f16(&integers(64 * 64, 3)), f16(&integers(8 * 64, 4)));
    let add = |t: String| t.replacen("setp.ne.b32 p, 0, 0;", "setp.ne.b32 p, 1, 0;", 1);
    let f = run_example("wgmma_06_f16_n8", 8, &a, &b, add).err().unwrap();
    assert_eq!(f.kind, FaultKind::UninitialisedRegister, "{f}");
}
