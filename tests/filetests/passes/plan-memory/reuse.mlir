// A value's place is free after its last reader; a result never lies on an operand; what is returned lives on.
// test: pass plan-memory
// run: interp tol=0

llm.module @mlp dims(T in 1..64) {
  llm.weight @norm : tensor<16xf32> from ["norm"]
  llm.weight @up : tensor<48x16xf32> from ["up"]
  llm.weight @mid : tensor<48x48xf32> from ["mid"]
  llm.weight @down : tensor<16x48xf32> from ["down"]
  llm.func @step(%x: tensor<Tx16xf32>) {
    %n = llm.rms_norm %x, @norm {eps = 1e-6} : tensor<Tx16xf32> kernel("1..64" = @norm16)
    %u = llm.linear %n, @up : tensor<Tx48xf32> kernel("1..8" = @small, "9..64" = @large)
    %m = llm.linear %u, @mid : tensor<Tx48xf32> kernel("1..64" = @mid)
    %v = llm.linear %m, @mid : tensor<Tx48xf32> kernel("1..64" = @mid)
    %y = llm.linear %v, %n, @down : tensor<Tx16xf32> kernel("1..64" = @down)
    llm.return %y
  }
}

// expect:
// llm.module @mlp dims(T in 1..64) arena(28672) {
//   llm.weight @norm : tensor<16xf32> from ["norm"]
//   llm.weight @up : tensor<48x16xf32> from ["up"]
//   llm.weight @mid : tensor<48x48xf32> from ["mid"]
//   llm.weight @down : tensor<16x48xf32> from ["down"]
//   llm.func @step(%x: tensor<Tx16xf32>) {
//     %n = llm.rms_norm %x, @norm {eps = 1e-6} : tensor<Tx16xf32> kernel("1..64" = @norm16) at(0x6000)
//     %u = llm.linear %n, @up : tensor<Tx48xf32> kernel("1..8" = @small, "9..64" = @large) at(0x0)
//     %m = llm.linear %u, @mid : tensor<Tx48xf32> kernel("1..64" = @mid) at(0x3000)
//     %v = llm.linear %m, @mid : tensor<Tx48xf32> kernel("1..64" = @mid) at(0x0)
//     %y = llm.linear %v, %n, @down : tensor<Tx16xf32> kernel("1..64" = @down) at(0x3000)
//     llm.return %y
//   }
// }
