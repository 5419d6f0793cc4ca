// The two halves in order are packed; halves in the other order are not.
// test: pass fuse-gated-act
// run: interp tol=0

llm.module @mlp dims(T in 1..16) {
  llm.func @step(%x: tensor<Tx32xf32>) {
    %g = llm.slice %x {start = 0} : tensor<Tx16xf32>
    %u = llm.slice %x {start = 16} : tensor<Tx16xf32>
    %y = llm.gated_act %g, %u {act = gelu_tanh} : tensor<Tx16xf32>
    %z = llm.gated_act %u, %g {act = gelu_tanh} : tensor<Tx16xf32>
    llm.return %y, %z
  }
}

// expect:
// llm.module @mlp dims(T in 1..16) {
//   llm.func @step(%x: tensor<Tx32xf32>) {
//     %g = llm.slice %x {start = 0} : tensor<Tx16xf32>
//     %u = llm.slice %x {start = 16} : tensor<Tx16xf32>
//     %y = llm.gated_act_packed %x {act = gelu_tanh} : tensor<Tx16xf32>
//     %z = llm.gated_act %u, %g {act = gelu_tanh} : tensor<Tx16xf32>
//     llm.return %y, %z
//   }
// }
