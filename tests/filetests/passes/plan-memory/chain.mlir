// Where one kernel computes two ops, its result does not lie on what the first of them reads; %m is made in prompts only.
// test: pass plan-memory
// run: interp tol=0

llm.module @mlp dims(T in 1..64) {
  llm.weight @up : tensor<48x16xf32> from ["up"]
  llm.weight @mid : tensor<48x48xf32> from ["mid"]
  llm.func @step(%x: tensor<Tx16xf32>) {
    %u = llm.linear %x, @up : tensor<Tx48xf32> kernel("1..64" = @up)
    %m = llm.linear %u, @mid : tensor<Tx48xf32> kernel("1..64" prefill = @mid)
    %v = llm.linear %m, @mid : tensor<Tx48xf32> kernel("1..64" decode with %m = @both, "1..64" prefill = @mid)
    llm.return %v
  }
}

// expect:
// llm.module @mlp dims(T in 1..64) arena(36864) {
//   llm.weight @up : tensor<48x16xf32> from ["up"]
//   llm.weight @mid : tensor<48x48xf32> from ["mid"]
//   llm.func @step(%x: tensor<Tx16xf32>) {
//     %u = llm.linear %x, @up : tensor<Tx48xf32> kernel("1..64" = @up) at(0x0)
//     %m = llm.linear %u, @mid : tensor<Tx48xf32> kernel("1..64" prefill = @mid) at(0x3000)
//     %v = llm.linear %m, @mid : tensor<Tx48xf32> kernel("1..64" decode with %m = @both, "1..64" prefill = @mid) at(0x6000)
//     llm.return %v
//   }
// }
