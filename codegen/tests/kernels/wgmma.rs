//! Kernels that only targets with `wgmma` have: compiled, assembled, what they use recorded.

use super::{on_sm_90, product};
use trtc_codegen::kernels::narrow_matmul::{NarrowMatmul, Source};
use trtc_codegen::kernels::operands::{Operands, Order, Product};
use trtc_codegen::kernels::quantize::Quantize;
use trtc_codegen::kernels::rms_norm::RmsNorm;
use trtc_codegen::kernels::stream_matmul::StreamMatmul;
use trtc_codegen::kernels::wgmma_matmul::{Tiling, WgmmaMatmul};
use trtc_codegen::kernels::{Count, Recipe};
use trtc_ir::DType::{Bf16, F8E4M3, F32};
use trtc_ir::ops::Act;

fn matmul(of: Product, tiling: Tiling) -> Recipe {
    WgmmaMatmul { of, tiling, grid: 132, order: Order::Free }.into()
}

fn stream(of: Product, tokens: u32) -> Recipe {
    StreamMatmul { of, tokens, order: Order::Free }.into()
}

/// Those of a deterministic engine.
fn ordered() -> Vec<(&'static str, Recipe)> {
    let order = Order::Shares(2);
    let gated = |operands| Product { gate: Some(Act::Silu), operands, ..product(28672, 4096) };
    let stream = |of, tokens| StreamMatmul { of, tokens, order }.into();
    let matmul = |of, tiling| WgmmaMatmul { of, tiling, grid: 132, order }.into();
    vec![
        ("stream_ordered_to8", stream(product(4096, 4096), 8)),
        ("stream_gated_ordered_to64", stream(gated(Operands::Bf16), 64)),
        ("stream_gated_e4m3_ordered_to64", stream(gated(Operands::E4m3), 64)),
        ("wgmma_ordered_128x128", matmul(product(6144, 4096), tiling(128, 128, [2, 1], [1, 1], 1, 6))),
        (
            "wgmma_gated_e4m3_ordered_128x128_cluster2x1",
            matmul(gated(Operands::E4m3), tiling(128, 128, [2, 1], [2, 1], 1, 6)),
        ),
    ]
}

/// Those of one token, and of a few.
fn narrow() -> Vec<(&'static str, Recipe)> {
    let row = |of: Product, x| NarrowMatmul { of, tokens: 1, order: Order::Free, x }.into();
    let few = |of, tokens| NarrowMatmul { of, tokens, order: Order::Free, x: Source::Given }.into();
    let e4m3 = |n, k| Product { operands: Operands::E4m3, ..product(n, k) };
    let norm = |width, out| {
        let (rows, weight) = (Count::Tokens, F32);
        Source::Norm(RmsNorm {
            width,
            per_row: 1,
            rows,
            x: Bf16,
            residual: None,
            weight,
            out,
            eps: 1e-5,
            offset: 0.0,
        })
    };
    let quantize = |width| Source::Quantize(Quantize { width, rows: Count::Tokens, x: Bf16 });
    let (residual, bias) = (Some(Bf16), Some(F32));
    let gated = |of| Product { gate: Some(Act::Silu), ..of };
    vec![
        ("row_norm", row(product(3072, 2048), norm(2048, Bf16))),
        ("row_norm_logits", row(Product { out: F32, ..product(128_256, 2048) }, norm(2048, Bf16))),
        ("row_norm_gated", row(gated(product(28672, 4096)), norm(4096, Bf16))),
        ("row_norm_e4m3", row(e4m3(6144, 4096), norm(4096, F8E4M3))),
        ("row_norm_gated_e4m3", row(gated(e4m3(28672, 4096)), norm(4096, F8E4M3))),
        ("row_norm_small", row(e4m3(64, 112), norm(112, F8E4M3))),
        ("row_quantized", row(Product { residual, ..e4m3(4096, 4096) }, quantize(4096))),
        ("row_quantized_wide", row(Product { residual, ..e4m3(4096, 14336) }, quantize(14336))),
        ("row_given", row(Product { residual, bias, ..product(4088, 14336) }, Source::Given)),
        ("row_given_e4m3", row(e4m3(4096, 4096), Source::Given)),
        (
            "row_ordered",
            NarrowMatmul { of: product(4096, 14336), tokens: 1, order: Order::Shares(2), x: Source::Given }
                .into(),
        ),
        ("narrow_to8", few(Product { residual, bias, ..product(2048, 8192) }, 8)),
        ("narrow_gated_to8", few(gated(product(28672, 4096)), 8)),
        ("narrow_e4m3_to8", few(Product { residual, ..e4m3(4096, 14336) }, 8)),
        ("narrow_e4m3_to16", few(e4m3(6144, 4096), 16)),
        ("narrow_gated_e4m3_to16", few(gated(e4m3(28672, 4096)), 16)),
        ("narrow_logits_to8", few(Product { out: F32, ..product(128_256, 2048) }, 8)),
    ]
}

fn tiling(bm: u32, bn: u32, warpgroups: [u32; 2], cluster: [u32; 2], splits: u32, stages: u32) -> Tiling {
    Tiling { bm, bn, turned: false, warpgroups, cluster, splits, stages }
}

/// Those with weights as the first operand.
fn turned() -> Vec<(&'static str, Recipe)> {
    let turned = |tile, cluster, splits| Tiling::with(tile, true, cluster, splits).unwrap();
    let e4m3 = |n, k| Product { operands: Operands::E4m3, ..product(n, k) };
    let (residual, bias, gate) = (Some(Bf16), Some(F32), Some(Act::Silu));
    vec![
        ("turned_200x128_cluster2x1", matmul(product(6144, 4096), turned([200, 128], [2, 1], 1))),
        (
            "turned_104x256",
            matmul(Product { out: F32, ..product(128_256, 4096) }, turned([104, 256], [1, 1], 1)),
        ),
        ("turned_e4m3_200x128", matmul(e4m3(6144, 4096), turned([200, 128], [1, 1], 1))),
        (
            "turned_e4m3_144x128_cluster1x2",
            matmul(Product { residual, ..e4m3(4096, 4096) }, turned([144, 128], [1, 2], 1)),
        ),
        (
            "turned_e4m3_256x128_split2",
            matmul(Product { residual, bias, ..e4m3(4088, 14336) }, turned([256, 128], [1, 1], 2)),
        ),
        (
            "turned_gated_e4m3_200x128",
            matmul(Product { gate, ..e4m3(28672, 4096) }, turned([200, 128], [2, 1], 1)),
        ),
    ]
}

fn cases() -> Vec<(&'static str, Recipe)> {
    let e4m3 = |n, k| Product { operands: Operands::E4m3, ..product(n, k) };
    let res = Some(Bf16);
    vec![
        ("stream_to8", stream(product(6144, 4096), 8)),
        ("stream_to16", stream(Product { residual: res, ..product(4096, 14336) }, 16)),
        ("stream_to64", stream(Product { bias: Some(F32), ..product(4088, 4096) }, 64)),
        ("stream_logits", stream(Product { out: F32, ..product(128_256, 2048) }, 8)),
        ("stream_small", stream(product(64, 96), 8)),
        ("stream_e4m3_to8", stream(e4m3(28672, 4096), 8)),
        ("stream_e4m3_to64", stream(Product { residual: res, ..e4m3(4096, 14336) }, 64)),
        ("wgmma_128x256", matmul(product(6144, 4096), tiling(128, 256, [2, 1], [1, 1], 1, 4))),
        (
            "wgmma_128x256_cluster2x1",
            matmul(Product { residual: res, ..product(6144, 4096) }, tiling(128, 256, [2, 1], [2, 1], 1, 4)),
        ),
        ("wgmma_256x128", matmul(product(6144, 4096), tiling(256, 128, [2, 1], [1, 1], 1, 4))),
        ("wgmma_64x256", matmul(product(6144, 4096), tiling(64, 256, [1, 2], [1, 1], 1, 5))),
        ("wgmma_128x48_cluster1x2", matmul(product(6144, 4096), tiling(128, 48, [2, 1], [1, 2], 1, 8))),
        ("wgmma_128x96_cluster2x2", matmul(product(6144, 4096), tiling(128, 96, [2, 1], [2, 2], 1, 7))),
        (
            "wgmma_128x64_split2_cluster1x2",
            matmul(
                Product { residual: res, bias: Some(F32), ..product(4088, 4096) },
                tiling(128, 64, [2, 1], [1, 2], 2, 8),
            ),
        ),
        ("wgmma_e4m3_128x256", matmul(e4m3(6144, 4096), tiling(128, 256, [2, 1], [1, 1], 1, 4))),
        (
            "wgmma_gated_128x256_cluster2x1",
            matmul(
                Product { gate: Some(Act::Silu), ..product(28672, 4096) },
                tiling(128, 256, [2, 1], [2, 1], 1, 4),
            ),
        ),
        ("stream_gated_to8", stream(Product { gate: Some(Act::Silu), ..product(28672, 4096) }, 8)),
        ("stream_gated_e4m3_to64", stream(Product { gate: Some(Act::GeluTanh), ..e4m3(28672, 4096) }, 64)),
        ("wgmma_128x128_split4", matmul(product(4096, 14336), tiling(128, 128, [2, 1], [1, 1], 4, 5))),
    ]
}

/// One line a kernel: what assembling it uses. A change here is a change of performance: look at it.
#[test]
fn every_kernel_with_wgmma() {
    let Some(table) = on_sm_90(&[cases(), ordered(), narrow(), turned()].concat()) else { return };
    insta::assert_snapshot!("wgmma", table);
}
