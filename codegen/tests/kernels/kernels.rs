//! Every kernel with typical and awkward constants, for every GPU target: compiled, header checked, assembled.

use super::{attention, on_every_target, product};
use trtc_codegen::kernels::add::Add;
use trtc_codegen::kernels::attention::Attention;
use trtc_codegen::kernels::decode_attention::DecodeAttention;
use trtc_codegen::kernels::feed::Feed;
use trtc_codegen::kernels::flash_attention::FlashAttention;
use trtc_codegen::kernels::gated_act::GatedAct;
use trtc_codegen::kernels::gather::{Elements, Gather, Source};
use trtc_codegen::kernels::kv_append::KvAppend;
use trtc_codegen::kernels::matmul::{FEW, MANY, MANY_E4M3, MOST_SPLITS, Matmul, SOME, Tiling};
use trtc_codegen::kernels::operands::{Operands, Product};
use trtc_codegen::kernels::quant_matmul::{self, Form, Payload, QuantMatmul};
use trtc_codegen::kernels::quantize::Quantize;
use trtc_codegen::kernels::rms_norm::{Residual, RmsNorm};
use trtc_codegen::kernels::rope::Rope;
use trtc_codegen::kernels::rope_kv_append::{HeadNorm, RopeKvAppend};
use trtc_codegen::kernels::sample::Sample;
use trtc_codegen::kernels::slice::Slice;
use trtc_codegen::kernels::token_attention::TokenAttention;
use trtc_codegen::kernels::{Count, Recipe};
use trtc_ir::DType::{self, Bf16, F32};
use trtc_ir::ops::Act;
use trtc_ir::target::Gpu;

fn norm(width: u32, x: DType, out: DType) -> RmsNorm {
    let rows = Count::Tokens;
    RmsNorm { width, per_row: 1, rows, x, residual: None, weight: Bf16, out, eps: 1e-5, offset: 0.0 }
}

fn matmul(of: Product, tiling: Tiling) -> Recipe {
    Matmul { of, tiling }.into()
}

pub(super) fn rope(heads: u32, kv_heads: u32, head_dim: u32, dim: u32) -> RopeKvAppend {
    RopeKvAppend {
        heads,
        kv_heads,
        head_dim,
        dim,
        page_tokens: 64,
        q_norm: None,
        k_norm: None,
        x: Bf16,
        kv: Bf16,
        out: Bf16,
    }
}

fn cases() -> Vec<(&'static str, Recipe)> {
    let residual = Some(Residual { dtype: Bf16, sum: Bf16 });
    let head = |offset| Some(HeadNorm { weight: Bf16, eps: 1e-6, offset });
    let gather = |source, width, scale, x, out| Gather { source, width, rows: Count::Tokens, scale, x, out };
    let (b16, f32s) = (Elements::Plain(Bf16), Elements::Plain(F32));
    let quant = |n, k, payload, form| QuantMatmul {
        n,
        k,
        payload,
        rows: Count::Tokens,
        bias: None,
        residual: None,
        out: Bf16,
        form,
    };
    let split = |splits| Tiling { splits, ..SOME };
    let (part, all) = (Form::Many(quant_matmul::SMALL), Form::Many(quant_matmul::LARGE));
    let gated = |width, act, x, out| GatedAct { width, packed: true, act, rows: Count::Tokens, x, out };
    let decode = |attention| DecodeAttention { attention, prologue: None }.into();
    let flash = |a| FlashAttention(a).into();
    let token = |a| TokenAttention(a).into();
    let windowed = Attention { window: Some(512), page_tokens: 24, ..attention(4, 1, 256) };
    let capped = Attention { softcap: Some(50.0), ..attention(16, 1, 80) };
    vec![
        ("rms_norm_4096", norm(4096, Bf16, Bf16).into()),
        ("rms_norm_576", norm(576, Bf16, Bf16).into()),
        ("rms_norm_f32_2048", RmsNorm { weight: F32, ..norm(2048, F32, F32) }.into()),
        ("rms_norm_heads_128", RmsNorm { per_row: 32, offset: 1.0, ..norm(128, Bf16, Bf16) }.into()),
        ("rms_norm_16384", norm(16384, Bf16, Bf16).into()),
        ("add_rms_norm_4096", RmsNorm { residual, rows: Count::Rows, ..norm(4096, Bf16, Bf16) }.into()),
        ("add_rms_norm_2560", RmsNorm { residual, ..norm(2560, Bf16, Bf16) }.into()),
        ("embedding_4096", gather(Source::Table, 4096, 1.0, b16, Bf16).into()),
        ("embedding_scaled_640", gather(Source::Table, 640, 25.298_222, b16, Bf16).into()),
        ("gather_rows_f32_72", gather(Source::Rows, 72, 1.0, f32s, F32).into()),
        ("feed_64", Feed { last: 64 }.into()),
        ("sample_128256", Sample { vocab: 128_256 }.into()),
        ("sample_259", Sample { vocab: 259 }.into()),
        ("embedding_i8_576", gather(Source::Table, 576, 1.0, Elements::I8Fragments, Bf16).into()),
        ("int8_few8_4096_4096", quant(4096, 4096, Payload::I8, Form::Few(8)).into()),
        ("int8_few8_128256_4096", quant(128_256, 4096, Payload::I8, Form::Few(8)).into()),
        ("int8_few16_4096_4096", quant(4096, 4096, Payload::I8, Form::Few(16)).into()),
        ("int8_few32_28672_4096", quant(28672, 4096, Payload::I8, Form::Few(32)).into()),
        ("int8_more_960_576", quant(960, 576, Payload::I8, part).into()),
        ("int4_more_4096_4096", quant(4096, 4096, Payload::I4(128), part).into()),
        ("int4_more_960_576", quant(960, 576, Payload::I4(32), part).into()),
        ("int8_many_960_576", quant(960, 576, Payload::I8, all).into()),
        ("int4_few8_4096_14336", quant(4096, 14336, Payload::I4(128), Form::Few(8)).into()),
        ("int4_few8_14336_4096", quant(14336, 4096, Payload::I4(64), Form::Few(8)).into()),
        ("int4_few8_28672_4096", quant(28672, 4096, Payload::I4(128), Form::Few(8)).into()),
        ("int4_few16_28672_4096", quant(28672, 4096, Payload::I4(32), Form::Few(16)).into()),
        ("int4_few32_4096_4096", quant(4096, 4096, Payload::I4(128), Form::Few(32)).into()),
        ("int4_few32_28672_4096", quant(28672, 4096, Payload::I4(128), Form::Few(32)).into()),
        (
            "int4_few_ragged_888_616",
            QuantMatmul {
                residual: Some(Bf16),
                bias: Some(F32),
                ..quant(888, 616, Payload::I4(32), Form::Few(16))
            }
            .into(),
        ),
        ("int4_many_960_576", quant(960, 576, Payload::I4(32), all).into()),
        ("int4_many_4096_4096", QuantMatmul { out: F32, ..quant(4096, 4096, Payload::I4(128), all) }.into()),
        ("decode_attention_32_8_128", decode(attention(32, 8, 128))),
        ("decode_attention_9_3_64", decode(attention(9, 3, 64))),
        ("decode_attention_14_2_64", decode(attention(14, 2, 64))),
        ("decode_attention_window_4_1_256", decode(windowed)),
        ("decode_attention_cap_16_1_80", decode(capped)),
        ("decode_attention_71_1_64", decode(Attention { page_tokens: 16, out: F32, ..attention(71, 1, 64) })),
        ("decode_attention_128_1_16", decode(attention(128, 1, 16))),
        ("token_attention_32_8_128", token(attention(32, 8, 128))),
        ("token_attention_14_2_64", token(attention(14, 2, 64))),
        ("token_attention_window_4_1_256", token(windowed)),
        ("token_attention_cap_f32_16_1_72", token(Attention { head_dim: 72, q: F32, ..capped })),
        ("flash_attention_32_8_128", flash(attention(32, 8, 128))),
        ("flash_attention_9_3_64", flash(attention(9, 3, 64))),
        ("flash_attention_14_2_64", flash(Attention { page_tokens: 16, ..attention(14, 2, 64) })),
        ("flash_attention_window_4_1_256", flash(windowed)),
        ("flash_attention_cap_16_1_80", flash(capped)),
        ("flash_attention_32_32_96", flash(Attention { out: F32, ..attention(32, 32, 96) })),
        ("flash_attention_128_1_16", flash(attention(128, 1, 16))),
        ("gated_silu_14336", gated(14336, Act::Silu, Bf16, Bf16).into()),
        ("gated_gelu_1536", gated(1536, Act::GeluTanh, Bf16, Bf16).into()),
        ("gated_gelu_f32_72", gated(72, Act::GeluTanh, F32, F32).into()),
        ("gated_apart_silu_1536", GatedAct { packed: false, ..gated(1536, Act::Silu, Bf16, Bf16) }.into()),
        (
            "slice_6144_at_4096",
            Slice { of: 6144, start: 4096, width: 1024, rows: Count::Tokens, x: Bf16, out: Bf16 }.into(),
        ),
        ("add_4096", Add { width: 4096, rows: Count::Tokens, lhs: F32, rhs: Bf16, out: F32 }.into()),
        ("rope_q_32_128", Rope { heads: 32, head_dim: 128, dim: 128, x: Bf16, out: Bf16 }.into()),
        ("rope_q_f32_4_80", Rope { heads: 4, head_dim: 80, dim: 32, x: F32, out: F32 }.into()),
        (
            "kv_append_8_128",
            KvAppend { kv_heads: 8, head_dim: 128, page_tokens: 64, x: Bf16, kv: Bf16 }.into(),
        ),
        (
            "kv_append_f32_3_72",
            KvAppend { kv_heads: 3, head_dim: 72, page_tokens: 24, x: F32, kv: Bf16 }.into(),
        ),
        ("rope_f32_32_8_128", RopeKvAppend { x: F32, ..rope(32, 8, 128, 128) }.into()),
        ("rope_32_8_128", rope(32, 8, 128, 128).into()),
        (
            "rope_norms_16_8_128",
            RopeKvAppend { q_norm: head(0.0), k_norm: head(0.0), ..rope(16, 8, 128, 128) }.into(),
        ),
        (
            "rope_knorm_4_1_256",
            RopeKvAppend { k_norm: head(1.0), page_tokens: 24, ..rope(4, 1, 256, 256) }.into(),
        ),
        ("rope_partial_32_32_80", rope(32, 32, 80, 32).into()),
        ("matmul_few_4096_4096", matmul(product(4096, 4096), FEW)),
        ("matmul_few_ragged_888_1000", matmul(Product { residual: Some(Bf16), ..product(888, 1000) }, FEW)),
        ("matmul_some_28672_4096", matmul(product(28672, 4096), SOME)),
        ("matmul_some_bias_896_896", matmul(Product { bias: Some(Bf16), ..product(896, 896) }, SOME)),
        (
            "matmul_some_ragged_888_1000",
            matmul(Product { bias: Some(F32), residual: Some(Bf16), ..product(888, 1000) }, SOME),
        ),
        (
            "matmul_some_split_256_8192",
            matmul(Product { residual: Some(F32), ..product(256, 8192) }, split(MOST_SPLITS)),
        ),
        ("matmul_some_split_6144_4096", matmul(product(6144, 4096), split(3))),
        (
            "matmul_some_split_4096_14336",
            matmul(Product { residual: Some(Bf16), ..product(4096, 14336) }, split(4)),
        ),
        (
            "matmul_some_split_ragged_200_1000",
            matmul(
                Product { bias: Some(F32), residual: Some(F32), out: F32, ..product(200, 1000) },
                split(3),
            ),
        ),
        (
            "matmul_fp8_few_4096_4096",
            matmul(Product { operands: Operands::E4m3, ..product(4096, 4096) }, FEW),
        ),
        (
            "matmul_fp8_split_4096_14336",
            matmul(
                Product { operands: Operands::E4m3, residual: Some(Bf16), ..product(4096, 14336) },
                split(4),
            ),
        ),
        (
            "matmul_fp8_many_4096_4096",
            matmul(Product { operands: Operands::E4m3, ..product(4096, 4096) }, MANY_E4M3),
        ),
        ("matmul_many_4096_14336", matmul(Product { residual: Some(Bf16), ..product(4096, 14336) }, MANY)),
        (
            "matmul_many_logits_128256_2048",
            matmul(Product { out: F32, rows: Count::Rows, ..product(128_256, 2048) }, MANY),
        ),
        (
            "matmul_many_ragged_200_72",
            matmul(Product { bias: Some(F32), residual: Some(F32), ..product(200, 72) }, MANY),
        ),
    ]
}

/// Kernels of rows in e4m3.
fn e4m3_rows() -> Vec<(&'static str, Recipe)> {
    let out = DType::F8E4M3;
    let quantize = |width, x| Quantize { width, rows: Count::Tokens, x };
    let gated = |width, packed, x| GatedAct { width, packed, act: Act::Silu, rows: Count::Tokens, x, out };
    let residual = Some(Residual { dtype: Bf16, sum: Bf16 });
    vec![
        ("quantize_4096", quantize(4096, Bf16).into()),
        ("quantize_f32_72", quantize(72, F32).into()),
        ("quantize_28672", Quantize { rows: Count::Rows, ..quantize(28672, Bf16) }.into()),
        ("rms_norm_e4m3_4096", norm(4096, Bf16, out).into()),
        ("rms_norm_e4m3_576", RmsNorm { weight: F32, offset: 1.0, ..norm(576, F32, out) }.into()),
        ("add_rms_norm_e4m3_4096", RmsNorm { residual, ..norm(4096, Bf16, out) }.into()),
        ("add_rms_norm_e4m3_16384", RmsNorm { residual, ..norm(16384, Bf16, out) }.into()),
        ("gated_e4m3_14336", gated(14336, true, Bf16).into()),
        ("gated_e4m3_28672", gated(28672, true, Bf16).into()),
        ("gated_e4m3_1536", gated(1536, true, Bf16).into()),
        ("gated_apart_e4m3_f32_11008", gated(11008, false, F32).into()),
    ]
}

/// Kernels of a cache in e4m3.
fn e4m3_caches() -> Vec<(&'static str, Recipe)> {
    let kv = DType::F8E4M3;
    let attention = |heads, kv_heads, head_dim| Attention { kv, ..attention(heads, kv_heads, head_dim) };
    let decode = |attention| DecodeAttention { attention, prologue: None }.into();
    let flash = |a| FlashAttention(a).into();
    let windowed = Attention { window: Some(512), page_tokens: 24, ..attention(4, 1, 256) };
    let capped = Attention { softcap: Some(50.0), ..attention(16, 1, 80) };
    let head = |offset| Some(HeadNorm { weight: Bf16, eps: 1e-6, offset });
    let append = |kv_heads, head_dim, x| KvAppend { kv_heads, head_dim, page_tokens: 64, x, kv };
    vec![
        ("decode_attention_e4m3_32_8_128", decode(attention(32, 8, 128))),
        ("decode_attention_e4m3_14_2_64", decode(attention(14, 2, 64))),
        ("decode_attention_e4m3_window_4_1_256", decode(windowed)),
        ("decode_attention_e4m3_cap_16_1_80", decode(capped)),
        (
            "decode_attention_e4m3_71_1_64",
            decode(Attention { page_tokens: 16, out: F32, ..attention(71, 1, 64) }),
        ),
        ("decode_attention_e4m3_128_1_16", decode(attention(128, 1, 16))),
        ("flash_attention_e4m3_32_8_128", flash(attention(32, 8, 128))),
        ("flash_attention_e4m3_14_2_64", flash(Attention { page_tokens: 16, ..attention(14, 2, 64) })),
        ("flash_attention_e4m3_window_4_1_256", flash(windowed)),
        ("flash_attention_e4m3_cap_16_1_80", flash(capped)),
        ("flash_attention_e4m3_32_32_96", flash(Attention { out: F32, ..attention(32, 32, 96) })),
        ("flash_attention_e4m3_128_1_16", flash(attention(128, 1, 16))),
        ("kv_append_e4m3_8_128", append(8, 128, Bf16).into()),
        ("kv_append_e4m3_f32_3_72", append(3, 72, F32).into()),
        ("rope_e4m3_32_8_128", RopeKvAppend { kv, ..rope(32, 8, 128, 128) }.into()),
        (
            "rope_e4m3_norms_16_8_128",
            RopeKvAppend { kv, q_norm: head(0.0), k_norm: head(0.0), ..rope(16, 8, 128, 128) }.into(),
        ),
        ("rope_e4m3_partial_32_32_80", RopeKvAppend { kv, ..rope(32, 32, 80, 32) }.into()),
    ]
}

/// Kernels that round their queries.
fn rounded_queries() -> Vec<(&'static str, Recipe)> {
    let rounded = |a| Attention { products: Some(DType::F8E4M3), ..a };
    let codes = |a| Attention { kv: DType::F8E4M3, ..rounded(a) };
    let decode = |attention| DecodeAttention { attention, prologue: None }.into();
    let capped = Attention { softcap: Some(50.0), ..attention(16, 1, 80) };
    vec![
        ("decode_attention_rounded_32_8_128", decode(rounded(attention(32, 8, 128)))),
        ("decode_attention_rounded_cap_16_1_80", decode(rounded(capped))),
        ("decode_attention_codes_32_8_128", decode(codes(attention(32, 8, 128)))),
        ("flash_attention_rounded_32_8_128", FlashAttention(rounded(attention(32, 8, 128))).into()),
        ("flash_attention_codes_cap_16_1_80", FlashAttention(codes(capped)).into()),
        ("token_attention_rounded_3_3_24", TokenAttention(rounded(attention(3, 3, 24))).into()),
    ]
}

/// Whether a target has the instructions of a kernel.
pub(super) fn exists(recipe: &Recipe, gpu: &Gpu) -> bool {
    let e4m3 = match recipe {
        Recipe::Matmul(m) => m.of.operands == Operands::E4m3,
        Recipe::RmsNorm(n) => n.out == DType::F8E4M3,
        Recipe::GatedAct(a) => a.out == DType::F8E4M3,
        Recipe::Quantize(_) => true,
        Recipe::KvAppend(a) => a.kv == DType::F8E4M3,
        Recipe::RopeKvAppend(a) => a.kv == DType::F8E4M3,
        Recipe::DecodeAttention(DecodeAttention { attention: a, .. })
        | Recipe::FlashAttention(FlashAttention(a)) => a.kv == DType::F8E4M3,
        _ => false,
    };
    !e4m3 || gpu.matrix_types.contains(&DType::F8E4M3)
}

/// One line a kernel and target: what assembling them uses. A change here is a change of performance: look at it.
#[test]
fn every_kernel_on_every_target() {
    let cases: Vec<_> = [cases(), e4m3_rows(), e4m3_caches(), rounded_queries()].concat();
    let Some(table) = on_every_target(&cases, exists) else { return };
    insta::assert_snapshot!("kernels", table);
}

#[test]
fn constants_that_no_kernel_serves_are_refused() {
    let why = |r: Recipe| r.unsupported().unwrap();
    assert!(why(norm(100, Bf16, Bf16).into()).contains("width 100"));
    assert!(why(norm(65536, Bf16, Bf16).into()).contains("above"));
    assert!(why(matmul(product(100, 64), MANY)).contains("100 outputs"));
    assert!(why(norm(0, Bf16, Bf16).into()).contains("width 0"));
    let quantize = |width| Quantize { width, rows: Count::Tokens, x: Bf16 };
    assert!(why(quantize(60).into()).contains("width 60"));
    assert!(why(quantize(32776).into()).contains("above 32768"));
    assert!(why(RmsNorm { per_row: 4, ..norm(64, Bf16, DType::F8E4M3) }.into()).contains("share a scale"));
    let gated = GatedAct {
        width: 32776,
        packed: true,
        act: Act::Silu,
        rows: Count::Tokens,
        x: Bf16,
        out: DType::F8E4M3,
    };
    assert!(why(gated.into()).contains("above 32768"));
    assert_eq!(GatedAct { out: Bf16, ..gated }.unsupported(), None);
    assert!(why(matmul(product(0, 8), MANY)).contains("0 outputs"));
    assert!(why(rope(u32::MAX, u32::MAX, 64, 64).into()).contains("heads are above"));
    assert!(why(rope(4, 2, 24, 24).into()).contains("heads of 24"));
    assert!(why(RopeKvAppend { out: F32, ..rope(4, 2, 64, 64) }.into()).contains("only bf16"));
    let append = KvAppend { kv_heads: 2, head_dim: 64, page_tokens: 32, x: F32, kv: Bf16 };
    assert_eq!(append.unsupported(), None);
    assert!(why(KvAppend { kv: F32, ..append }.into()).contains("only bf16"));
    assert!(why(KvAppend { head_dim: 20, ..append }.into()).contains("heads of 20"));
    let slice = Slice { of: 64, start: 12, width: 8, rows: Count::Rows, x: F32, out: F32 };
    assert!(why(slice.into()).contains("from 12 on of 64"));
    let quant = QuantMatmul {
        n: 64,
        k: 100,
        payload: Payload::I4(64),
        rows: Count::Rows,
        bias: None,
        residual: None,
        out: F32,
        form: Form::Few(8),
    };
    assert!(why(quant.into()).contains("100 inputs"));
    assert!(why(QuantMatmul { k: 104, payload: Payload::I4(16), ..quant }.into()).contains("groups of 16"));
    let flash = |a| why(FlashAttention(a).into());
    assert!(flash(attention(4, 3, 64)).contains("share 3"));
    assert!(flash(attention(4, 2, 72)).contains("heads of 72"));
    assert!(flash(attention(4, 2, 272)).contains("heads of 272"));
    assert!(flash(attention(2048, 1, 64)).contains("2048 query heads share"));
    assert!(flash(Attention { q: F32, ..attention(4, 2, 64) }).contains("queries of f32"));
    assert!(flash(Attention { scale: -1.0, ..attention(4, 2, 64) }).contains("scaled by -1"));
    let decode = DecodeAttention { attention: attention(4, 2, 24), prologue: None };
    assert!(why(decode.into()).contains("heads of 24"));
    assert!(why(TokenAttention(attention(4, 2, 20)).into()).contains("heads of 20"));
    assert!(why(TokenAttention(Attention { kv: F32, ..attention(4, 2, 64) }).into()).contains("only bf16"));
}
