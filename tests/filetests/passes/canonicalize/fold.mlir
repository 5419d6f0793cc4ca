// A slice of everything is its operand, a slice of a slice is one slice; one that also splits columns stays.
// test: pass canonicalize
// run: interp tol=0

llm.module @fold dims(T in 1..16) {
  llm.weight @w : tensor<24x8xf32> from ["w"]
  llm.func @step(%x: tensor<Tx8xf32>) {
    %y = llm.linear %x, @w : tensor<Tx24xf32>
    %all = llm.slice %y {start = 0} : tensor<Tx24xf32>
    %right = llm.slice %all {start = 8} : tensor<Tx16xf32>
    %last = llm.slice %right {start = 12} : tensor<Tx4xf32>
    %heads = llm.slice %right {start = 0} : tensor<Tx4x4xf32>
    llm.return %last, %heads
  }
}

// expect:
// llm.module @fold dims(T in 1..16) {
//   llm.weight @w : tensor<24x8xf32> from ["w"]
//   llm.func @step(%x: tensor<Tx8xf32>) {
//     %y = llm.linear %x, @w : tensor<Tx24xf32>
//     %last = llm.slice %y {start = 20} : tensor<Tx4xf32>
//     %heads = llm.slice %y {start = 8} : tensor<Tx4x4xf32>
//     llm.return %last, %heads
//   }
// }
