// Weights of different element types are not merged.
// test: pass fuse-qkv
// run: interp tol=0

llm.module @qkv dims(T in 1..16) {
  llm.weight @q : tensor<32x16xf32> from ["q"]
  llm.weight @k : tensor<16x16xbf16> from ["k"]
  llm.weight @v : tensor<16x16xf32> from ["v"]
  llm.func @step(%x: tensor<Tx16xf32>, %pos: tensor<Txi32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
    %q = llm.linear %x, @q : tensor<Tx4x8xf32>
    %k = llm.linear %x, @k : tensor<Tx2x8xf32>
    %v = llm.linear %x, @v : tensor<Tx2x8xf32>
    %kv = llm.kv_append %kv0, %k, %v, %batch : !llm.kv<layer 0, 2 heads, 8, f32>
    %a = llm.attention %q, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
    llm.return %a
  }
}

// expect:
// llm.module @qkv dims(T in 1..16) {
//   llm.weight @q : tensor<32x16xf32> from ["q"]
//   llm.weight @k : tensor<16x16xbf16> from ["k"]
//   llm.weight @v : tensor<16x16xf32> from ["v"]
//   llm.func @step(%x: tensor<Tx16xf32>, %pos: tensor<Txi32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
//     %q = llm.linear %x, @q : tensor<Tx4x8xf32>
//     %k = llm.linear %x, @k : tensor<Tx2x8xf32>
//     %v = llm.linear %x, @v : tensor<Tx2x8xf32>
//     %kv = llm.kv_append %kv0, %k, %v, %batch : !llm.kv<layer 0, 2 heads, 8, f32>
//     %a = llm.attention %q, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
//     llm.return %a
//   }
// }
