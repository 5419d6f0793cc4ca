//! Tensor copies: boxes in and out, what lies outside of the tensor, im2col, multicast; and what is found wrong.

use super::*;
use trtc_emulator::layout::tensor_map::TensorMapParameters;

/// A 64 x 32 box of f32 whose corner is (0, 64) of a tensor of that many rows; the example stores its first 128 words.
fn first_words(example: &str, rows: u64, fill: OobFill) -> Vec<u32> {
    let mut global = Global::default();
    let values: Vec<u8> = (0..64 * rows as u32).flat_map(u32::to_le_bytes).collect();
    let (at, out) = (filled(&mut global, &values, "tensor"), global.alloc(512, "out"));
    let map = matrix(DataType::F32, at, [64, rows], [64, 64], Swizzle::None);
    let map = TensorMap::new(TensorMapParameters { fill, ..*map.parameters() }).unwrap();
    // The example declares one byte of a tile of 16 KiB.
    let text = text(example).replace(".b8 smem;", ".b8 smem[16384];");
    fine(&kernel(&text), sizes(1, 128, 0), &[&map.to_bytes(), &[0; 8], &out.to_le_bytes()], &global);
    floats(&global, out, 128).into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_box_is_loaded() {
    for example in ["tma_01_load2d_mbar", "tma_05_load_shared_cta_ptx86"] {
        let right: Vec<u32> = (64 * 64..64 * 64 + 128).collect();
        assert_eq!(first_words(example, 128, OobFill::Zero), right);
        // One row is inside.
        let right: Vec<u32> = (64 * 64..64 * 65).chain([0; 64]).collect();
        assert_eq!(first_words(example, 65, OobFill::Zero), right);
        let right: Vec<u32> = (64 * 64..64 * 65).chain([0x7ff7_7ff7; 64]).collect();
        assert_eq!(first_words(example, 65, OobFill::NanRequestZeroFma), right);
    }
}

/// Each block of a cluster of two loads the row of its rank, for both: what the second writes stays.
#[test]
fn multicast() {
    let text = text("tma_02_multicast_cluster")
        .replace(".b8 smem;", ".b8 smem[16384];")
        .replace("[128]\n)", "[128],\n.param .u64 out\n)")
        // Boxes of half the size, one behind the other by rank.
        .replace("mov.b64 \t%rd6, smem;", "mov.b64 %rd6, smem; mul.wide.u32 %rd7, %r1, 8192; add.s64 %rd6, %rd6, %rd7;")
        .replace("mov.b32 \t%r3, 1;", "mov.b32 %r3, 2;")
        .replace(
            "\tret;",
            "setp.eq.u32 %p1, %r2, 64; mov.u32 %r1, %cluster_ctarank; ld.param.u64 %rd1, [out];
             mad.lo.u32 %r3, %r1, 128, %r2; mul.wide.u32 %rd2, %r3, 4; add.s64 %rd1, %rd1, %rd2;
             mul.wide.u32 %rd3, %r2, 128; mov.b64 %rd4, smem; add.s64 %rd4, %rd4, %rd3; ld.shared.b32 %r5, [%rd4];
             st.global.b32 [%rd1], %r5; ret;",
        );
    let mut global = Global::default();
    let values: Vec<u8> = (0..64 * 64u32).flat_map(u32::to_le_bytes).collect();
    let (at, out) = (filled(&mut global, &values, "tensor"), global.alloc(1024, "out"));
    let map = matrix(DataType::U32, at, [64, 64], [64, 32], Swizzle::None);
    let params: [&[u8]; 2] = [&map.to_bytes(), &out.to_le_bytes()];
    fine(&kernel(&text), sizes(2, 128, 0), &params, &global);
    let found: Vec<u32> = floats(&global, out, 256).into_iter().map(f32::to_bits).collect();
    for (i, word) in found.iter().enumerate() {
        // Word 32 t of two boxes of 2048 words, the second from one row below.
        let at = i % 128 * 32;
        assert_eq!(*word as usize, at % 2048 + at / 2048 * 64, "thread {i}");
    }
    // A mask that names a block that is not there.
    let f = fault(
        &kernel(&text.replace("mov.b16 \t%rs1, 3;", "mov.b16 %rs1, 7;")),
        sizes(2, 128, 0),
        &params,
        &global,
    );
    assert_eq!(f.kind, FaultKind::Undefined, "{f}");
}

/// The example waits for nothing but its groups; here it waits for its load, too.
fn store_example(edit: impl Fn(String) -> String) -> Result<Vec<u32>, Box<Fault>> {
    let text = text("tma_03_store_reduce_bulk")
        .replace(".b8 smem;", ".b8 smem[4096];")
        .replace("cp.async.bulk.shared::cluster", "mbarrier.init.shared.b64 [mbar], 1; mbarrier.arrive.expect_tx.shared.b64 _, [mbar], %r1;\ncp.async.bulk.shared::cluster")
        .replace("\tfence.proxy", "\t.reg .pred %p<2>; WAIT: mbarrier.try_wait.parity.shared.b64 %p0, [mbar], 0; @!%p0 bra WAIT;\nfence.proxy");
    let mut global = Global::default();
    let values: Vec<u8> = (0..1024u32).flat_map(u32::to_le_bytes).collect();
    let from = filled(&mut global, &values, "from");
    let (to, at) = (global.alloc(4096, "to"), global.alloc(4096, "tensor"));
    let map = matrix(DataType::U32, at, [32, 32], [32, 32], Swizzle::B128).to_bytes();
    let params: [&[u8]; 4] = [&map, &from.to_le_bytes(), &to.to_le_bytes(), &[0; 8]];
    run(&kernel(&edit(text)), sizes(1, 1, 0), &params, &global)?;
    assert_eq!(
        floats(&global, to, 1024).into_iter().map(f32::to_bits).collect::<Vec<_>>(),
        (0..1024).collect::<Vec<u32>>()
    );
    Ok(floats(&global, at, 1024).into_iter().map(f32::to_bits).collect())
}

#[test]
fn stores_and_operations() {
    let found = store_example(|t| t).unwrap_or_else(|e| panic!("{e}"));
    // Stored and added once: twice the value that the swizzle has at that place.
    for (i, word) in found.iter().enumerate() {
        let at = Swizzle::B128.apply(4 * i as u64) / 4;
        assert_eq!(u64::from(*word), 2 * at);
    }
    // Before the load has come.
    let wait = "WAIT: mbarrier.try_wait.parity.shared.b64 %p0, [mbar], 0; @!%p0 bra WAIT;";
    let f = store_example(|t| t.replace(wait, "")).err().unwrap();
    assert_eq!(f.kind, FaultKind::Race, "{f}");
}

#[test]
fn coordinates_have_rules() {
    for (edit, wanted) in [
        ("{%r2, %r2}], [smem]", "{-4, %r2}], [smem]"),
        ("{%r2, %r2}], [smem]", "{2, %r2}], [smem]"),
        ("tensor.2d.global", "tensor.1d.global"),
    ] {
        let shorter = |t: String| {
            let t = t.replace(edit, wanted);
            if wanted.contains("1d") {
                t.replace(
                    "1d.global.shared::cta.tile.bulk_group [%rd3, {%r2, %r2}]",
                    "1d.global.shared::cta.tile.bulk_group [%rd3, {%r2}]",
                )
                .replace(
                    "1d.global.shared::cta.add.tile.bulk_group [%rd3, {%r2, %r2}]",
                    "1d.global.shared::cta.add.tile.bulk_group [%rd3, {%r2}]",
                )
            } else {
                t
            }
        };
        let f = store_example(shorter).err().unwrap();
        assert_eq!(f.kind, FaultKind::TensorMap, "{wanted}: {f}");
    }
}

/// Three ways to visit: 3 and 5 dimensions, and the pixels of a filter at offset (1, 1).
#[test]
fn more_dimensions_and_pixels() {
    let tensor = |name: &str| {
        let text = text("tma_04_im2col_3d5d");
        let head = text.find("\tmov.b64").unwrap();
        let copy = text.lines().find(|l| l.contains(name)).unwrap();
        format!(
            "{}.shared .align 8 .b8 mbar[8]; .shared .align 128 .b8 smem[4096]; .reg .pred %p<2>; .reg .b32 %z<5>; .reg .b64 %y<3>;
            mov.b64 %rd1, k_param_0; cvta.param.u64 %rd3, %rd1; mov.b32 %r1, 0; mov.b64 %rd2, smem; mov.b64 %rd4, mbar;
            ld.param.b16 %rs2, [k_param_3]; ld.param.u64 %y0, [k_param_1]; ld.param.u64 %y1, [k_param_2];
            mov.b16 %rs1, 0;
            mbarrier.init.shared.b64 [mbar], 1; cvt.u32.u64 %z0, %y1;
            mbarrier.arrive.expect_tx.shared.b64 _, [mbar], %z0;
            {copy}
            WAIT: mbarrier.try_wait.parity.shared.b64 %p0, [mbar], 0; @!%p0 bra WAIT;
            cp.async.bulk.global.shared::cta.bulk_group [%y0], [smem], %z0; cp.async.bulk.commit_group;
            cp.async.bulk.wait_group 0; ret; }}",
            &text[..head]
        )
    };
    let mut global = Global::default();
    let values: Vec<u8> = (0..4096u32).flat_map(u32::to_le_bytes).collect();
    let (at, out) = (filled(&mut global, &values, "tensor"), global.alloc(4096, "out"));
    // Dimensions of 4, 8 and so on words.
    let base = TensorMapParameters {
        dtype: DataType::U32,
        rank: 3,
        address: at,
        dims: [4, 8, 8, 2, 2],
        strides: [16, 128, 1024, 2048],
        box_dims: [4, 2, 2, 1, 2],
        element_strides: [1; 5],
        interleave: Interleave::None,
        swizzle: Swizzle::None,
        fill: OobFill::Zero,
        mode: Mode::Tiled,
    };
    let check = |name: &str, p: TensorMapParameters, right: Vec<u32>| {
        let map = TensorMap::new(p).unwrap();
        let bytes = (right.len() * 4) as u64;
        let params: [&[u8]; 4] = [&map.to_bytes(), &out.to_le_bytes(), &bytes.to_le_bytes(), &[1, 0]];
        fine(&kernel(&tensor(name)), sizes(1, 1, 0), &params, &global);
        let found: Vec<u32> = floats(&global, out, right.len()).into_iter().map(f32::to_bits).collect();
        assert_eq!(found, right, "{name}");
    };
    let runs = |starts: &[u32]| starts.iter().flat_map(|s| *s..*s + 4).collect::<Vec<u32>>();
    check("tensor.3d", base, runs(&[0, 4, 32, 36]));
    check("tensor.5d", TensorMapParameters { rank: 5, ..base }, runs(&[0, 4, 32, 36, 512, 516, 544, 548]));
    // Images of 8 x 8 pixels of 4 words; 10 pixels from the first, each one right and one down; the filter's corner
    // stays so far from the edge that it fits.
    let mode =
        Mode::Im2col { lower: [0; 3], upper: [-2, -2, 0], channels_per_pixel: 4, pixels_per_column: 10 };
    let pixel = |x: u32, y: u32| (y * 8 + x) * 4;
    let right: Vec<u32> = (0..10).map(|i| pixel(i % 6 + 1, i / 6 + 1)).collect();
    check("tensor.4d", TensorMapParameters { rank: 4, mode, ..base }, runs(&right));
}
