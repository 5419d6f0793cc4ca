// Slices, per-head norms, rotary embedding and the append become one op.
// test: pass fuse-rope-kv
// run: interp tol=1e-6

llm.module @attn dims(T in 1..16) {
  llm.weight @q_norm : tensor<8xf32> from ["qn"]
  llm.weight @k_norm : tensor<8xf32> from ["kn"]
  llm.weight @rope : tensor<4xf32> from rope<8, 10000>
  llm.func @step(%qkv: tensor<Tx64xf32>, %pos: tensor<Txi32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
    %q = llm.slice %qkv {start = 0} : tensor<Tx4x8xf32>
    %k = llm.slice %qkv {start = 32} : tensor<Tx2x8xf32>
    %v = llm.slice %qkv {start = 48} : tensor<Tx2x8xf32>
    %qn = llm.rms_norm %q, @q_norm {eps = 1e-6, offset = 1} : tensor<Tx4x8xf32>
    %kn = llm.rms_norm %k, @k_norm {eps = 1e-6, offset = 1} : tensor<Tx2x8xf32>
    %qr = llm.rope %qn, %pos, @rope : tensor<Tx4x8xf32>
    %kr = llm.rope %kn, %pos, @rope : tensor<Tx2x8xf32>
    %kv = llm.kv_append %kv0, %kr, %v, %batch : !llm.kv<layer 0, 2 heads, 8, f32>
    %a = llm.attention %qr, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
    llm.return %a
  }
}

// expect:
// llm.module @attn dims(T in 1..16) {
//   llm.weight @rope : tensor<4xf32> from rope<8, 10000>
//   llm.weight @q_norm : tensor<8xf32> from ["qn"]
//   llm.weight @k_norm : tensor<8xf32> from ["kn"]
//   llm.func @step(%qkv: tensor<Tx64xf32>, %pos: tensor<Txi32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
//     %qr, %kv = llm.rope_kv_append %qkv, %pos, %kv0, %batch, @rope {heads = 4, q_norm = @q_norm, q_eps = 1e-6, q_offset = 1.0, k_norm = @k_norm, k_eps = 1e-6, k_offset = 1.0} : tensor<Tx4x8xf32>, !llm.kv<layer 0, 2 heads, 8, f32>
//     %a = llm.attention %qr, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
//     llm.return %a
//   }
// }
