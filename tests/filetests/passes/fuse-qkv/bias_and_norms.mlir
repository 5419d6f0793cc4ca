// The projections are found through rotary embedding and per-head norms; biases are stacked as weights are.
// test: pass fuse-qkv
// run: interp tol=1e-5

llm.module @qkv dims(T in 1..16) {
  llm.weight @l0.attn.norm : tensor<16xf32> from ["norm"]
  llm.weight @l0.attn.q : tensor<32x16xbf16> from ["q" interleaved 4]
  llm.weight @l0.attn.q.bias : tensor<32xf32> from ["qb"]
  llm.weight @l0.attn.k : tensor<16x16xbf16> from ["k" interleaved 2]
  llm.weight @l0.attn.k.bias : tensor<16xf32> from ["kb"]
  llm.weight @l0.attn.v : tensor<16x16xbf16> from ["v"]
  llm.weight @l0.attn.v.bias : tensor<16xf32> from ["vb"]
  llm.weight @l0.attn.q_norm : tensor<8xf32> from ["qn"]
  llm.weight @l0.attn.k_norm : tensor<8xf32> from ["kn"]
  llm.weight @rope : tensor<4xf32> from rope<8, 10000>
  llm.func @step(%x: tensor<Tx16xf32>, %pos: tensor<Txi32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
    %n = llm.rms_norm %x, @l0.attn.norm {eps = 1e-5} : tensor<Tx16xf32>
    %q = llm.linear %n, @l0.attn.q {bias = @l0.attn.q.bias} : tensor<Tx4x8xf32>
    %k = llm.linear %n, @l0.attn.k {bias = @l0.attn.k.bias} : tensor<Tx2x8xf32>
    %v = llm.linear %n, @l0.attn.v {bias = @l0.attn.v.bias} : tensor<Tx2x8xf32>
    %qn = llm.rms_norm %q, @l0.attn.q_norm {eps = 1e-6} : tensor<Tx4x8xf32>
    %kn = llm.rms_norm %k, @l0.attn.k_norm {eps = 1e-6} : tensor<Tx2x8xf32>
    %qr = llm.rope %qn, %pos, @rope : tensor<Tx4x8xf32>
    %kr = llm.rope %kn, %pos, @rope : tensor<Tx2x8xf32>
    %kv = llm.kv_append %kv0, %kr, %v, %batch : !llm.kv<layer 0, 2 heads, 8, f32>
    %a = llm.attention %qr, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
    llm.return %a
  }
}

// expect:
// llm.module @qkv dims(T in 1..16) {
//   llm.weight @l0.attn.norm : tensor<16xf32> from ["norm"]
//   llm.weight @l0.attn.qkv : tensor<64x16xbf16> from ["q" interleaved 4, "k" interleaved 2, "v"]
//   llm.weight @l0.attn.qkv.bias : tensor<64xf32> from ["qb", "kb", "vb"]
//   llm.weight @l0.attn.q_norm : tensor<8xf32> from ["qn"]
//   llm.weight @l0.attn.k_norm : tensor<8xf32> from ["kn"]
//   llm.weight @rope : tensor<4xf32> from rope<8, 10000>
//   llm.func @step(%x: tensor<Tx16xf32>, %pos: tensor<Txi32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
//     %n = llm.rms_norm %x, @l0.attn.norm {eps = 1e-5} : tensor<Tx16xf32>
//     %qkv = llm.linear %n, @l0.attn.qkv {bias = @l0.attn.qkv.bias} : tensor<Tx64xf32>
//     %q = llm.slice %qkv {start = 0} : tensor<Tx4x8xf32>
//     %k = llm.slice %qkv {start = 32} : tensor<Tx2x8xf32>
//     %v = llm.slice %qkv {start = 48} : tensor<Tx2x8xf32>
//     %qn = llm.rms_norm %q, @l0.attn.q_norm {eps = 1e-6} : tensor<Tx4x8xf32>
//     %kn = llm.rms_norm %k, @l0.attn.k_norm {eps = 1e-6} : tensor<Tx2x8xf32>
//     %qr = llm.rope %qn, %pos, @rope : tensor<Tx4x8xf32>
//     %kr = llm.rope %kn, %pos, @rope : tensor<Tx2x8xf32>
//     %kv = llm.kv_append %kv0, %kr, %v, %batch : !llm.kv<layer 0, 2 heads, 8, f32>
//     %a = llm.attention %qr, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
//     llm.return %a
//   }
// }
