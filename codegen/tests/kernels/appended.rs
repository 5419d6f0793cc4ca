//! Products that turn and store the queries, keys and values that they make: which steps they serve; compiled, assembled, what
//! they use recorded.

use super::kernels::rope;
use super::{on_sm_90, product};
use trtc_codegen::emit::{Arg, EmitOptions, arguments, emit};
use trtc_codegen::kernels::operands::{Operands, Order, Product};
use trtc_codegen::kernels::rope_kv_append::{HeadNorm, RopeKvAppend};
use trtc_codegen::kernels::wgmma_matmul::{Tiling, WgmmaMatmul};
use trtc_codegen::kernels::{ArgKind, Recipe};
use trtc_codegen::select::select;
use trtc_ir::DType::{self, Bf16, F8E4M3, F32};
use trtc_ir::{Module, OpId, Steps, Target};

/// Heads of a Llama of 8 billion weights.
fn llama() -> RopeKvAppend {
    rope(32, 8, 128, 128)
}

/// The product of `k` inputs that makes what `rope` turns and stores in a cache of `kv`.
fn of(kv: DType, operands: Operands, rope: RopeKvAppend, k: u32) -> Product {
    let n = (rope.heads + 2 * rope.kv_heads) * rope.head_dim;
    Product { operands, append: Some(RopeKvAppend { kv, ..rope }), ..product(n, k) }
}

fn kernel(of: Product, [bm, bn]: [u32; 2], cluster: [u32; 2]) -> WgmmaMatmul {
    let tiling = Tiling::with([bm, bn], false, cluster, 1).unwrap();
    WgmmaMatmul { of, tiling, grid: 132, order: Order::Free }
}

/// One line a kernel: what assembling it uses. A change here is a change of performance: look at it.
#[test]
fn every_product_that_appends() {
    let (b16, e4m3) = (Operands::Bf16, Operands::E4m3);
    let norm = Some(HeadNorm { weight: Bf16, eps: 1e-6, offset: 0.0 });
    let normed = RopeKvAppend { q_norm: norm, k_norm: norm, ..llama() };
    let biased = Product { bias: Some(F32), ..of(Bf16, b16, rope(14, 2, 64, 64), 896) };
    let wide = [128, 256];
    let cases: Vec<(&str, Recipe)> = vec![
        ("append_128x256", kernel(of(Bf16, b16, llama(), 4096), wide, [1, 1]).into()),
        ("append_e4m3_128x256_cluster2x1", kernel(of(F8E4M3, e4m3, llama(), 4096), wide, [2, 1]).into()),
        ("append_e4m3_norm_128x256", kernel(of(F8E4M3, e4m3, normed, 4096), wide, [1, 1]).into()),
        ("append_bf16_e4m3_128x128", kernel(of(F8E4M3, b16, llama(), 4096), [128, 128], [1, 1]).into()),
        ("append_bias_14_2_64_128x192", kernel(biased, [128, 192], [1, 1]).into()),
        ("append_partial_64x256", kernel(of(Bf16, b16, rope(4, 1, 128, 32), 512), [64, 256], [1, 1]).into()),
    ];
    let Some(table) = on_sm_90(&cases) else { return };
    insta::assert_snapshot!("appended", table);
}

#[test]
fn what_no_kernel_appends_is_refused() {
    let why = |of, tile| kernel(of, tile, [1, 1]).unsupported().unwrap_or_default();
    let makes = |rope| of(Bf16, Operands::Bf16, rope, 4096);
    assert_eq!(why(makes(llama()), [128, 256]), "");
    // Half a head; two rows of 64 a warpgroup; heads that are no multiple of 64; more turns than registers hold.
    for (rope, tile) in [
        (llama(), [128, 192]),
        (llama(), [256, 128]),
        (rope(8, 2, 96, 96), [128, 192]),
        (rope(4, 1, 256, 256), [128, 256]),
    ] {
        assert!(why(makes(rope), tile).contains("appends what it makes"), "{rope:?} {tile:?}");
    }
    let norm = Some(HeadNorm { weight: Bf16, eps: 1e-6, offset: 0.0 });
    let one = RopeKvAppend { q_norm: norm, ..llama() };
    assert!(why(makes(one), [128, 256]).contains("appends what it makes"));
    let other = Product { n: 4096, ..makes(llama()) };
    assert!(why(other, [128, 256]).contains("appends what it makes"));
    // The rest writes y.
    let streams = trtc_codegen::kernels::stream_matmul::StreamMatmul {
        of: makes(llama()),
        tokens: 8,
        order: Order::Free,
    };
    assert!(streams.unsupported().unwrap().contains("writes queries, keys and values"));
}

/// A layer up to its queries, for steps of up to 4096 tokens and `requests` requests.
fn module(requests: u32, deterministic: &str) -> Module {
    let kv = "!llm.kv<layer 0, 2 heads, 64, bf16, page 64>";
    let text = format!(
        r#"llm.module @m {deterministic} dims(T in 1..4096, L in 1..{requests}) {{
  llm.weight @w : tensor<512x128xbf16> from ["w"]
  llm.weight @f : tensor<32xf32> from rope<64, 10000>
  llm.func @step(%x: tensor<Tx128xbf16>, %p: tensor<Txi32>, %b: !llm.batch, %c: {kv}, %r: tensor<Lxi32>) {{
    %qkv = llm.linear %x, @w : tensor<Tx512xbf16>
    %q, %d = llm.rope_kv_append %qkv, %p, %c, %b, @f {{heads = 4}} : tensor<Tx4x64xbf16>, {kv}
    %y = llm.gather_rows %q, %r : tensor<Lx4x64xbf16>
    llm.return %y
  }}
}}"#
    );
    trtc_ir::text::parse(&text, "m").unwrap_or_else(|d| panic!("{}", d[0]))
}

#[test]
fn products_of_many_tokens_append_what_they_make() {
    let target = Target::named("sm_90").unwrap();
    let kernels = |module: &Module, op: usize| -> Vec<(u64, u64, Steps, bool)> {
        let id: OpId = module.func.order[op];
        let all = module.func.ops[id].kernels.iter();
        all.map(|k| (k.from, k.to, k.steps, k.with.is_some())).collect()
    };
    use Steps::{Any, Decode, Prefill};
    // With 600 requests steps that only decode have up to as many tokens; what is more has prompts.
    let mut many = module(600, "");
    select(&mut many, target).unwrap();
    let chained = |from, to, steps| (from, to, steps, true);
    let rope = kernels(&many, 1);
    assert_eq!(
        rope.iter().filter(|k| k.3).copied().collect::<Vec<_>>(),
        [
            chained(513, 600, Prefill),
            chained(601, 1024, Any),
            chained(1025, 2048, Any),
            chained(2049, 4096, Any),
        ]
    );
    assert!(rope.contains(&(513, 600, Decode, false)), "{rope:?}");
    let linear = kernels(&many, 0);
    assert_eq!(linear.last(), Some(&(513, 600, Decode, false)), "{linear:?}");

    let mut few = module(32, "");
    select(&mut few, target).unwrap();
    assert_eq!(kernels(&few, 0).last().map(|k| k.1), Some(512));
    assert!(kernels(&few, 1).iter().all(|k| k.3 == (k.0 > 512)));
    // Every kernel has as many parameters as its launch has arguments.
    for k in emit(&few, target, EmitOptions::default()).unwrap() {
        if !k.name.contains(".rope_kv_append.") || !k.name.contains(".linear.") {
            continue;
        }
        let ops = [0, 1].map(|i| &few.func.ops[few.func.order[i]]);
        let args = arguments(&ops);
        assert_eq!(args.len(), k.args.len(), "{}", k.name);
        let batches = k.args.iter().filter(|kind| **kind == ArgKind::Batch).count();
        assert_eq!(batches, 1);
        let qkv = few.func.ops[few.func.order[0]].results[0];
        assert!(!args.contains(&Arg::Value(qkv)), "what is between is no argument");
    }

    // Where it must not show how many tokens a step has, all are rounded between.
    let mut same = module(32, "deterministic");
    select(&mut same, target).unwrap();
    assert!(kernels(&same, 1).iter().all(|k| !k.3));
    // Queries, keys and values that somebody else reads are written.
    let mut read = module(32, "");
    let qkv = read.func.ops[read.func.order[0]].results[0];
    read.func.results.push(qkv);
    select(&mut read, target).unwrap();
    assert!(kernels(&read, 1).iter().all(|k| !k.3));
    // Others do not multiply with `wgmma`.
    let mut other = module(32, "");
    select(&mut other, Target::named("sm_80").unwrap()).unwrap();
    assert!(kernels(&other, 1).iter().all(|k| !k.3));
}
