// Keys that do not lie behind the queries are left alone.
// test: pass fuse-rope-kv
// run: interp tol=0

llm.module @attn dims(T in 1..16) {
  llm.weight @rope : tensor<4xf32> from rope<8, 10000>
  llm.func @step(%qkv: tensor<Tx64xf32>, %pos: tensor<Txi32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
    %q = llm.slice %qkv {start = 0} : tensor<Tx4x8xf32>
    %v = llm.slice %qkv {start = 32} : tensor<Tx2x8xf32>
    %k = llm.slice %qkv {start = 48} : tensor<Tx2x8xf32>
    %qr = llm.rope %q, %pos, @rope : tensor<Tx4x8xf32>
    %kr = llm.rope %k, %pos, @rope : tensor<Tx2x8xf32>
    %kv = llm.kv_append %kv0, %kr, %v, %batch : !llm.kv<layer 0, 2 heads, 8, f32>
    %a = llm.attention %qr, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
    llm.return %a
  }
}

// expect:
// llm.module @attn dims(T in 1..16) {
//   llm.weight @rope : tensor<4xf32> from rope<8, 10000>
//   llm.func @step(%qkv: tensor<Tx64xf32>, %pos: tensor<Txi32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
//     %q = llm.slice %qkv {start = 0} : tensor<Tx4x8xf32>
//     %v = llm.slice %qkv {start = 32} : tensor<Tx2x8xf32>
//     %k = llm.slice %qkv {start = 48} : tensor<Tx2x8xf32>
//     %qr = llm.rope %q, %pos, @rope : tensor<Tx4x8xf32>
//     %kr = llm.rope %k, %pos, @rope : tensor<Tx2x8xf32>
//     %kv = llm.kv_append %kv0, %kr, %v, %batch : !llm.kv<layer 0, 2 heads, 8, f32>
//     %a = llm.attention %qr, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
//     llm.return %a
//   }
// }
