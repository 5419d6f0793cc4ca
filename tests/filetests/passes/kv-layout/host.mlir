// Pages of 32 tokens on the host; element type and window stay where no precision is given.
// test: pass kv-layout
// run: interp tol=0

llm.module @attn target("host") dims(T in 1..16) {
  llm.func @step(%q: tensor<Tx4x8xf32>, %k: tensor<Tx2x8xf32>, %v: tensor<Tx2x8xf32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, bf16, window 4>) {
    %kv = llm.kv_append %kv0, %k, %v, %batch : !llm.kv<layer 0, 2 heads, 8, bf16, window 4>
    %a = llm.attention %q, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
    llm.return %a
  }
}

// expect:
// llm.module @attn target("host") dims(T in 1..16) {
//   llm.func @step(%q: tensor<Tx4x8xf32>, %k: tensor<Tx2x8xf32>, %v: tensor<Tx2x8xf32>, %batch: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 8, bf16, window 4, page 32>) {
//     %kv = llm.kv_append %kv0, %k, %v, %batch : !llm.kv<layer 0, 2 heads, 8, bf16, window 4, page 32>
//     %a = llm.attention %q, %kv, %batch {scale = 0.35} : tensor<Tx32xf32>
//     llm.return %a
//   }
// }
