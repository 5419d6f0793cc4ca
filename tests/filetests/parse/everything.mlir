// Every part of the text form at once, in the spelling that printing keeps.
// test: parse
// print: locs

llm.module @"a model" arch("llama") target("sm_90") precision("bf16") dims(T in 1..512, L in 1..64) arena(0x8000) {
  llm.weight @n : tensor<64xf32> packed(rows) from ["model.norm"] // a comment
  llm.weight @"odd name" : tensor<128x64x!quant<i4:bf16, group 32, zero>> packed(panel16) from ["q" interleaved 0x4, "k"]
  llm.weight @q8 : tensor<64x64x!quant<i8:f32, channel>> from ["quote \" and \u{e9}"]
  llm.weight @mx : tensor<64x64x!quant<f4E2M1FN:f8E8M0FNU, block 1 32>> from ["mx"]
  llm.weight @f : tensor<8xf32> from rope<16, 1e4>
  llm.weight @f2 : tensor<8xf32> from rope<16, 500000.0, linear 2.50>
  llm.weight @f3 : tensor<8xf32> from rope<16, 5e5, llama3 8 1 4 8192>
  llm.func @step(%x: tensor<Tx64xbf16>, %pos: tensor<Txi32>,
      %b: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 16, bf16, page 32, window 512>) {
    %n = llm.rms_norm %x, @n {eps = 0.00001} : tensor<Tx64xbf16>
        kernel("1..16" = @"kernel 1", "17..512" decode = @k2, "17..512" prefill = @k3) at(256) loc("model.norm")
    %qkv = llm.linear %n, @"odd name" : tensor<Tx128xbf16> at(0x2000)
    %q, %kv = llm.rope_kv_append %qkv, %pos, %kv0, %b, @f {heads = 4}
      : tensor<Tx4x16xbf16>, !llm.kv<layer 0, 2 heads, 16, bf16, window 512, page 32> at(_, _) loc(fused["a", "f":1:2])
    %a = llm.attention %q, %kv, %b {scale = 0.25, products = f8E4M3FN} : tensor<Tx64xbf16> kernel("1..512" decode with %q = @"a b", "1..512" prefill = @k5) loc("a")
    llm.return %a
  }
}

// expect:
// llm.module @"a model" arch("llama") target("sm_90") precision("bf16") dims(T in 1..512, L in 1..64) arena(32768) {
//   llm.weight @n : tensor<64xf32> packed(rows) from ["model.norm"]
//   llm.weight @"odd name" : tensor<128x64x!quant<i4:bf16, group 32, zero>> packed(panel16) from ["q" interleaved 4, "k"]
//   llm.weight @q8 : tensor<64x64x!quant<i8:f32, channel>> from ["quote \" and é"]
//   llm.weight @mx : tensor<64x64x!quant<f4E2M1FN:f8E8M0FNU, block 1 32>> from ["mx"]
//   llm.weight @f : tensor<8xf32> from rope<16, 10000>
//   llm.weight @f2 : tensor<8xf32> from rope<16, 500000, linear 2.5>
//   llm.weight @f3 : tensor<8xf32> from rope<16, 500000, llama3 8 1 4 8192>
//   llm.func @step(%x: tensor<Tx64xbf16>, %pos: tensor<Txi32>, %b: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 16, bf16, window 512, page 32>) {
//     %n = llm.rms_norm %x, @n {eps = 1e-5} : tensor<Tx64xbf16> kernel("1..16" = @"kernel 1", "17..512" decode = @k2, "17..512" prefill = @k3) at(0x100) loc("model.norm")
//     %qkv = llm.linear %n, @"odd name" : tensor<Tx128xbf16> at(0x2000) loc("everything.mlir":17:5)
//     %q, %kv = llm.rope_kv_append %qkv, %pos, %kv0, %b, @f {heads = 4} : tensor<Tx4x16xbf16>, !llm.kv<layer 0, 2 heads, 16, bf16, window 512, page 32> loc(fused["a", "f":1:2])
//     %a = llm.attention %q, %kv, %b {scale = 0.25, products = f8E4M3FN} : tensor<Tx64xbf16> kernel("1..512" decode with %q = @"a b", "1..512" prefill = @k5) loc("a")
//     llm.return %a
//   }
// }
