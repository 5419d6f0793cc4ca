// Equal ops become one; what nobody reads goes, with its weight; a store into the cache stays.
// test: pass canonicalize
// run: interp tol=0

llm.module @cse dims(T in 1..16) {
  llm.weight @dead : tensor<8x8xf32> from ["dead"]
  llm.weight @w : tensor<16x8xf32> from ["w"]
  llm.weight @n : tensor<8xf32> from ["n"]
  llm.func @step(%x: tensor<Tx8xf32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
    %n0 = llm.rms_norm %x, @n {eps = 1e-5} : tensor<Tx8xf32>
    %n1 = llm.rms_norm %x, @n {eps = 1e-5} : tensor<Tx8xf32>
    %other = llm.rms_norm %x, @n {eps = 1e-6} : tensor<Tx8xf32>
    %a = llm.linear %n0, @w : tensor<Tx2x8xf32>
    %b = llm.linear %n1, @w : tensor<Tx2x8xf32>
    %flat = llm.linear %n1, @w : tensor<Tx16xf32>
    %unread = llm.linear %other, @dead : tensor<Tx8xf32>
    %kv = llm.kv_append %kv0, %a, %b, %batch : !llm.kv<layer 0, 2 heads, 8, f32>
    %sum = llm.add %a, %b : tensor<Tx2x8xf32>
    llm.return %sum, %flat, %other
  }
}

// expect:
// llm.module @cse dims(T in 1..16) {
//   llm.weight @n : tensor<8xf32> from ["n"]
//   llm.weight @w : tensor<16x8xf32> from ["w"]
//   llm.func @step(%x: tensor<Tx8xf32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, f32>) {
//     %n0 = llm.rms_norm %x, @n {eps = 1e-5} : tensor<Tx8xf32>
//     %other = llm.rms_norm %x, @n {eps = 1e-6} : tensor<Tx8xf32>
//     %a = llm.linear %n0, @w : tensor<Tx2x8xf32>
//     %flat = llm.linear %n0, @w : tensor<Tx16xf32>
//     %kv = llm.kv_append %kv0, %a, %a, %batch : !llm.kv<layer 0, 2 heads, 8, f32>
//     %sum = llm.add %a, %a : tensor<Tx2x8xf32>
//     llm.return %sum, %flat, %other
//   }
// }
