//! Kernels that only targets with `wgmma` have: compiled, assembled, what they use recorded.

use super::{assemble, parallel, ptxas};
use std::fmt::Write as _;
use trtc_codegen::emit::compile;
use trtc_codegen::kernels::operands::Operands;
use trtc_codegen::kernels::stream_matmul::StreamMatmul;
use trtc_codegen::kernels::wgmma_matmul::{Tiling, WgmmaMatmul};
use trtc_codegen::kernels::{Count, Recipe};
use trtc_codegen::mlir::OptLevel;
use trtc_ir::DType::{Bf16, F32};
use trtc_ir::Target;
use trtc_ir::ops::Act;

fn matmul(n: u32, k: u32, tiling: Tiling) -> WgmmaMatmul {
    WgmmaMatmul {
        n,
        k,
        operands: Operands::Bf16,
        rows: Count::Tokens,
        bias: None,
        residual: None,
        out: Bf16,
        gate: None,
        tiling,
        grid: 132,
    }
}

fn stream(n: u32, k: u32, operands: Operands, tokens: u32) -> StreamMatmul {
    let rows = Count::Tokens;
    StreamMatmul { n, k, operands, rows, bias: None, residual: None, out: Bf16, gate: None, tokens }
}

fn tiling(bm: u32, bn: u32, warpgroups: [u32; 2], cluster: [u32; 2], splits: u32, stages: u32) -> Tiling {
    Tiling { bm, bn, warpgroups, cluster, splits, stages }
}

fn cases() -> Vec<(&'static str, Recipe)> {
    vec![
        ("stream_to8", stream(6144, 4096, Operands::Bf16, 8).into()),
        (
            "stream_to16",
            StreamMatmul { residual: Some(Bf16), ..stream(4096, 14336, Operands::Bf16, 16) }.into(),
        ),
        ("stream_to64", StreamMatmul { bias: Some(F32), ..stream(4088, 4096, Operands::Bf16, 64) }.into()),
        ("stream_logits", StreamMatmul { out: F32, ..stream(128_256, 2048, Operands::Bf16, 8) }.into()),
        ("stream_small", stream(64, 96, Operands::Bf16, 8).into()),
        ("stream_e4m3_to8", stream(28672, 4096, Operands::E4m3, 8).into()),
        (
            "stream_e4m3_to64",
            StreamMatmul { residual: Some(Bf16), ..stream(4096, 14336, Operands::E4m3, 64) }.into(),
        ),
        ("wgmma_128x256", matmul(6144, 4096, tiling(128, 256, [2, 1], [1, 1], 1, 4)).into()),
        (
            "wgmma_128x256_cluster2x1",
            WgmmaMatmul {
                residual: Some(Bf16),
                ..matmul(6144, 4096, tiling(128, 256, [2, 1], [2, 1], 1, 4))
            }
            .into(),
        ),
        ("wgmma_256x128", matmul(6144, 4096, tiling(256, 128, [2, 1], [1, 1], 1, 4)).into()),
        ("wgmma_64x256", matmul(6144, 4096, tiling(64, 256, [1, 2], [1, 1], 1, 5)).into()),
        ("wgmma_128x48_cluster1x2", matmul(6144, 4096, tiling(128, 48, [2, 1], [1, 2], 1, 8)).into()),
        ("wgmma_128x96_cluster2x2", matmul(6144, 4096, tiling(128, 96, [2, 1], [2, 2], 1, 7)).into()),
        (
            "wgmma_128x64_split2_cluster1x2",
            WgmmaMatmul {
                residual: Some(Bf16),
                bias: Some(F32),
                ..matmul(4088, 4096, tiling(128, 64, [2, 1], [1, 2], 2, 8))
            }
            .into(),
        ),
        (
            "wgmma_e4m3_128x256",
            WgmmaMatmul {
                operands: Operands::E4m3,
                ..matmul(6144, 4096, tiling(128, 256, [2, 1], [1, 1], 1, 4))
            }
            .into(),
        ),
        (
            "wgmma_gated_128x256_cluster2x1",
            WgmmaMatmul {
                gate: Some(Act::Silu),
                ..matmul(28672, 4096, tiling(128, 256, [2, 1], [2, 1], 1, 4))
            }
            .into(),
        ),
        (
            "stream_gated_to8",
            StreamMatmul { gate: Some(Act::Silu), ..stream(28672, 4096, Operands::Bf16, 8) }.into(),
        ),
        (
            "stream_gated_e4m3_to64",
            StreamMatmul { gate: Some(Act::GeluTanh), ..stream(28672, 4096, Operands::E4m3, 64) }.into(),
        ),
        ("wgmma_128x128_split4", matmul(4096, 14336, tiling(128, 128, [2, 1], [1, 1], 4, 5)).into()),
    ]
}

/// One line a kernel: what assembling it uses. A change here is a change of performance: look at it.
#[test]
fn every_kernel_with_wgmma() {
    let gpu = Target::named("sm_90").unwrap().gpu.as_ref().unwrap();
    let cases = cases();
    let lines = parallel(&cases, |mlir, (name, recipe)| {
        assert_eq!(recipe.unsupported(), None, "{name}");
        let k = compile(mlir, name, recipe, gpu, OptLevel::Full).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(k.arch, "sm_90a", "{name}");
        assert!(k.shared <= gpu.shared);
        let used = assemble(name, &k.ptx, k.arch)?;
        assert_eq!(used.stack, 0, "{name} has a stack");
        Some(format!(
            "{name:40} {:3} registers {:6} dynamic bytes, {:3} threads",
            used.registers, k.shared, k.block[0]
        ))
    });
    if ptxas().is_none() {
        return;
    }
    let table = lines.into_iter().flatten().fold(String::new(), |mut t, line| {
        let _ = writeln!(t, "{line}");
        t
    });
    insta::assert_snapshot!("wgmma", table);
}
