// The form that mlir-opt reads.
// test: parse
// print: generic

llm.module @m arch("llama") target("sm_90") precision("int4") dims(T in 1..512) arena(4096) {
  llm.weight @l0.norm : tensor<64xf32> from ["model.norm"]
  llm.weight @qkv : tensor<128x64x!quant<i4:bf16, group 32, zero>> packed(panel16) from ["q" interleaved 4, "k"]
  llm.weight @f : tensor<8xf32> from rope<16, 10000>
  llm.func @step(%x: tensor<Tx64xbf16>, %pos: tensor<Txi32>, %b: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 16, bf16, page 32>) {
    %n = llm.rms_norm %x, @l0.norm {eps = 1e-5} : tensor<Tx64xbf16> kernel("1..512" = @k1) at(0) loc("model.norm")
    %qkv = llm.linear %n, @qkv : tensor<Tx128xbf16> at(0x100) loc(unknown)
    %q, %kv = llm.rope_kv_append %qkv, %pos, %kv0, %b, @f {heads = 4} : tensor<Tx4x16xbf16>, !llm.kv<layer 0, 2 heads, 16, bf16, page 32> at(0, _) loc("rope")
    %a = llm.attention %q, %kv, %b {scale = 0.25} : tensor<Tx64xbf16> at(0x200) loc(fused["a", "b"])
    llm.return %a
  }
}
