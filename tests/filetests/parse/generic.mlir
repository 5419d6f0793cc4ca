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
    %q, %kv = llm.rope_kv_append %qkv, %pos, %kv0, %b, @f {heads = 4} : tensor<Tx4x16xbf16>, !llm.kv<layer 0, 2 heads, 16, bf16, page 32> kernel("1..512" prefill = @k2) at(0, _) loc("rope")
    %a = llm.attention %q, %kv, %b {scale = 0.25} : tensor<Tx64xbf16> kernel("1..512" decode with %q = @k3, "1..512" prefill = @k4) at(0x200) loc(fused["a", "b"])
    llm.return %a
  }
}

// expect:
// module @m attributes {llm.arch = "llama", llm.target = "sm_90", llm.precision = "int4", llm.dims = {T = [1, 512]}, llm.arena = 4096} {
//   "llm.weight"() {sym_name = "l0.norm", type = tensor<64xf32>, source = ["model.norm"]} : () -> ()
//   "llm.weight"() {sym_name = "qkv", type = tensor<128x64x!llm.quant<i4:bf16, group 32, zero>>, packing = "panel16", source = ["q", "k"], interleaved_heads = [4, 0]} : () -> ()
//   "llm.weight"() {sym_name = "f", type = tensor<8xf32>, rope = "rope<16, 10000>"} : () -> ()
//   func.func @step(%x: tensor<?x64xbf16>, %pos: tensor<?xi32>, %b: !llm.batch, %kv0: !llm.kv<layer = 0, heads = 2, dim = 16, bf16, page = 32>) -> (tensor<?x64xbf16>) {
//     %n = "llm.rms_norm"(%x) {weights = [@l0.norm], eps = 1.0e-5 : f32, kernels = [{from = 1, to = 512, steps = "any", kernel = @k1}], offsets = [0]} : (tensor<?x64xbf16>) -> (tensor<?x64xbf16>) loc("model.norm")
//     %qkv = "llm.linear"(%n) {weights = [@qkv], offsets = [256]} : (tensor<?x64xbf16>) -> (tensor<?x128xbf16>)
//     %q:2 = "llm.rope_kv_append"(%qkv, %pos, %kv0, %b) {weights = [@f], heads = 4, kernels = [{from = 1, to = 512, steps = "prefill", kernel = @k2}], offsets = [0, -1]} : (tensor<?x128xbf16>, tensor<?xi32>, !llm.kv<layer = 0, heads = 2, dim = 16, bf16, page = 32>, !llm.batch) -> (tensor<?x4x16xbf16>, !llm.kv<layer = 0, heads = 2, dim = 16, bf16, page = 32>) loc("rope")
//     %a = "llm.attention"(%q#0, %q#1, %b) {scale = 0.25 : f32, kernels = [{from = 1, to = 512, steps = "decode", with = 0, kernel = @k3}, {from = 1, to = 512, steps = "prefill", kernel = @k4}], offsets = [512]} : (tensor<?x4x16xbf16>, !llm.kv<layer = 0, heads = 2, dim = 16, bf16, page = 32>, !llm.batch) -> (tensor<?x64xbf16>) loc(fused["a", "b"])
//     return %a : tensor<?x64xbf16>
//   }
// }
