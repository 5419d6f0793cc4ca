//! Attention that multiplies by warpgroups, for sm_90: compiled, assembled, refused.

use super::{attention, on_sm_90};
use trtc_codegen::kernels::Recipe;
use trtc_codegen::kernels::attention::Attention;
use trtc_codegen::kernels::wgmma_attention::WgmmaAttention;
use trtc_ir::DType::{F8E4M3, F32};

/// With queries rounded to e4m3.
fn rounded(a: Attention) -> Attention {
    Attention { products: Some(F8E4M3), ..a }
}

/// And a cache of e4m3: codes are multiplied with codes.
fn codes(a: Attention) -> Attention {
    Attention { kv: F8E4M3, ..rounded(a) }
}

/// One line a kernel: what assembling it uses. Consumers may have more registers than are shown: they take them.
#[test]
fn every_attention_of_warpgroups() {
    let windowed = Attention { window: Some(512), ..attention(4, 1, 256) };
    let capped = Attention { softcap: Some(50.0), ..attention(16, 2, 128) };
    let cases = [
        ("wgmma_attention_32_8_128", attention(32, 8, 128)),
        ("wgmma_attention_32_8_64", attention(32, 8, 64)),
        ("wgmma_attention_14_2_64", attention(14, 2, 64)),
        ("wgmma_attention_8_8_192", attention(8, 8, 192)),
        ("wgmma_attention_16_8_256", attention(16, 8, 256)),
        ("wgmma_attention_window_4_1_256", windowed),
        ("wgmma_attention_cap_16_2_128", capped),
        ("wgmma_attention_cap_8_4_192", Attention { softcap: Some(50.0), ..attention(8, 4, 192) }),
        ("wgmma_attention_window_4_4_64", Attention { window: Some(24), ..attention(4, 4, 64) }),
        ("wgmma_attention_window_32_8_128", Attention { window: Some(4096), ..attention(32, 8, 128) }),
        (
            "wgmma_attention_window_cap_8_1_64",
            Attention { window: Some(100), softcap: Some(30.0), ..attention(8, 1, 64) },
        ),
        ("wgmma_attention_e4m3_32_8_128", Attention { kv: F8E4M3, ..attention(32, 8, 128) }),
        ("wgmma_attention_e4m3_32_8_64", Attention { kv: F8E4M3, ..attention(32, 8, 64) }),
        (
            "wgmma_attention_e4m3_window_4_1_128",
            Attention { kv: F8E4M3, window: Some(512), ..attention(4, 1, 128) },
        ),
        ("wgmma_attention_e4m3_cap_16_2_128", Attention { kv: F8E4M3, ..capped }),
        (
            "wgmma_attention_e4m3_window_cap_8_1_64",
            Attention { kv: F8E4M3, window: Some(100), softcap: Some(30.0), ..attention(8, 1, 64) },
        ),
        ("wgmma_attention_rounded_32_8_128", rounded(attention(32, 8, 128))),
        ("wgmma_attention_rounded_32_8_64", rounded(attention(32, 8, 64))),
        ("wgmma_attention_rounded_16_8_256", rounded(attention(16, 8, 256))),
        ("wgmma_attention_codes_32_8_128", codes(attention(32, 8, 128))),
        ("wgmma_attention_codes_32_8_64", codes(attention(32, 8, 64))),
        (
            "wgmma_attention_codes_window_4_1_128",
            codes(Attention { window: Some(512), ..attention(4, 1, 128) }),
        ),
        ("wgmma_attention_codes_cap_16_2_128", codes(capped)),
        (
            "wgmma_attention_codes_window_cap_8_1_64",
            codes(Attention { window: Some(100), softcap: Some(30.0), ..attention(8, 1, 64) }),
        ),
    ];
    let cases = cases.map(|(name, a)| (name, Recipe::from(WgmmaAttention(a))));
    let Some(table) = on_sm_90(&cases) else { return };
    insta::assert_snapshot!("hopper_attention", table);
}

#[test]
fn constants_that_warpgroups_do_not_serve_are_refused() {
    let why = |a| Recipe::from(WgmmaAttention(a)).unsupported().unwrap();
    assert!(why(attention(4, 2, 80)).contains("heads of 80"));
    assert!(why(attention(4, 2, 320)).contains("heads of 320"));
    assert!(why(attention(4, 3, 64)).contains("share 3"));
    assert!(why(Attention { page_tokens: 16, ..attention(4, 2, 64) }).contains("pages of 16"));
    assert!(why(Attention { softcap: Some(50.0), ..attention(4, 2, 256) }).contains("bounded scores"));
    assert!(why(Attention { kv: F8E4M3, ..attention(4, 2, 256) }).contains("neither 64 nor 128"));
    assert!(why(Attention { out: F32, ..attention(4, 2, 64) }).contains("results of f32"));
    assert!(why(Attention { q: F32, ..attention(4, 2, 64) }).contains("queries of f32"));
    assert!(why(Attention { kv: F32, ..attention(4, 2, 64) }).contains("cache of f32"));
    assert!(why(codes(attention(4, 2, 192))).contains("neither 64 nor 128"));
    let others = Attention { products: Some(F32), ..attention(4, 2, 64) };
    assert!(why(others).contains("products of f32"));
}
