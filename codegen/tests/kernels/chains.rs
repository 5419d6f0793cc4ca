//! Kernels of chains, for every GPU target: compiled, assembled; what they read before they wait.

use super::kernels::{exists, rope};
use super::{attention, on_every_target};
use trtc_codegen::emit::compile;
use trtc_codegen::kernels::Recipe;
use trtc_codegen::kernels::attention::Attention;
use trtc_codegen::kernels::decode_attention::DecodeAttention;
use trtc_codegen::kernels::rope_kv_append::{HeadNorm, RopeKvAppend};
use trtc_codegen::mlir::{Mlir, OptLevel};
use trtc_ir::DType::{self, Bf16, F8E4M3, F32};
use trtc_ir::Target;

/// Attention of decode steps with norm, if there is an offset, rotation of `dim` elements, and append.
fn chain(attention: Attention, dim: u32, norm: Option<f32>) -> DecodeAttention {
    let Attention { heads, kv_heads, head_dim, page_tokens, kv, .. } = attention;
    let norm = norm.map(|offset| HeadNorm { weight: Bf16, eps: 1e-6, offset });
    let rope = rope(heads, kv_heads, head_dim, dim);
    let prologue = RopeKvAppend { page_tokens, kv, q_norm: norm, k_norm: norm, ..rope };
    DecodeAttention { attention, prologue: Some(prologue) }
}

fn cases(kv: DType, name: [&'static str; 9]) -> Vec<(&'static str, Recipe)> {
    let of = |heads, kv_heads, head_dim| Attention { kv, ..attention(heads, kv_heads, head_dim) };
    let windowed = Attention { window: Some(512), page_tokens: 24, ..of(4, 1, 256) };
    let capped = Attention { softcap: Some(50.0), ..of(16, 1, 80) };
    let all = [
        chain(of(32, 8, 128), 128, None),
        chain(of(9, 3, 64), 64, None),
        chain(of(14, 2, 64), 64, None),
        chain(windowed, 256, Some(1.0)),
        chain(capped, 32, None),
        chain(Attention { page_tokens: 16, out: F32, ..of(71, 1, 64) }, 64, None),
        chain(of(128, 1, 16), 16, None),
        chain(of(32, 32, 96), 96, None),
        chain(of(32, 8, 128), 128, Some(0.0)),
    ];
    name.into_iter().zip(all.map(Recipe::from)).collect()
}

/// One line a kernel and target, as of the kernels of single ops.
#[test]
fn every_chain_on_every_target() {
    let bf16 = [
        "chain_32_8_128",
        "chain_9_3_64",
        "chain_14_2_64",
        "chain_norm_window_4_1_256",
        "chain_partial_cap_16_1_80",
        "chain_71_1_64",
        "chain_128_1_16",
        "chain_32_32_96",
        "chain_norm_32_8_128",
    ];
    let e4m3 = [
        "chain_e4m3_32_8_128",
        "chain_e4m3_9_3_64",
        "chain_e4m3_14_2_64",
        "chain_e4m3_norm_window_4_1_256",
        "chain_e4m3_partial_cap_16_1_80",
        "chain_e4m3_71_1_64",
        "chain_e4m3_128_1_16",
        "chain_e4m3_32_32_96",
        "chain_e4m3_norm_32_8_128",
    ];
    let rounded = |kv| Attention { kv, products: Some(F8E4M3), ..attention(32, 8, 128) };
    let rounded = [
        ("chain_rounded_32_8_128", chain(rounded(Bf16), 128, None).into()),
        ("chain_e4m3_rounded_32_8_128", chain(rounded(F8E4M3), 128, None).into()),
    ];
    let cases: Vec<_> = [cases(Bf16, bf16), cases(F8E4M3, e4m3), rounded.to_vec()].concat();
    let Some(table) = on_every_target(&cases, exists) else { return };
    insta::assert_snapshot!("chains", table);
}

/// Keys of earlier steps, positions and frequencies are read before earlier launches are waited for, and what those make
/// is read afterwards.
#[test]
fn keys_are_on_their_way_before_the_wait() {
    let gpu = Target::named("sm_90").unwrap().gpu.as_ref().unwrap();
    for kv in [Bf16, F8E4M3] {
        let recipe = chain(Attention { kv, ..attention(32, 8, 128) }, 128, None).into();
        let kernel = compile(&Mlir::new(), "k", &recipe, gpu, OptLevel::Full).unwrap();
        // Blocks without a share of a context wait and do nothing else.
        let (before, after) = kernel.ptx.rsplit_once("griddepcontrol.wait").unwrap();
        for early in ["cp.async.cg.shared.global", "cos.approx", "sin.approx"] {
            assert!(before.contains(early), "{early}: {before}");
        }
        // qkv comes in vectors of eight bf16; before the wait only frequencies are vectors.
        let vectors =
            |text: &str| text.lines().filter(|l| l.contains("ld.global") && l.contains(".v4")).count();
        let of_table = before.lines().filter(|l| l.contains("ld.global.nc.v4")).count();
        assert_eq!((vectors(before), of_table), (2, 2), "{before}");
        assert!(vectors(after) >= 2, "{after}");
    }
}

#[test]
fn constants_that_no_chain_serves_are_refused() {
    let why = |c: DecodeAttention| c.unsupported().unwrap();
    assert!(why(chain(attention(4, 2, 24), 16, None)).contains("heads of 24"));
    assert!(why(chain(attention(4, 2, 64), 24, None)).contains("24 rotated"));
    let mut rounded = chain(attention(4, 2, 64), 64, None);
    rounded.prologue = rounded.prologue.map(|rope| RopeKvAppend { out: F32, ..rope });
    assert!(why(rounded).contains("q of f32"));
}
