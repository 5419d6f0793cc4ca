// A sum goes into the linear that makes one of its terms: the later of two. A linear with another reader stays.
// test: pass fuse-epilogue
// run: interp tol=1e-5

llm.module @epilogue dims(T in 1..16) {
  llm.weight @a : tensor<16x16xf32> from ["a"]
  llm.weight @b : tensor<16x16xf32> from ["b"]
  llm.weight @c : tensor<16x16xf32> from ["c"]
  llm.func @step(%x: tensor<Tx16xf32>) {
    %a = llm.linear %x, @a : tensor<Tx16xf32>
    %b = llm.linear %x, @b : tensor<Tx16xf32>
    %c = llm.linear %x, @c : tensor<Tx16xf32>
    %s = llm.add %b, %a : tensor<Tx16xf32>
    %t = llm.add %s, %c : tensor<Tx16xf32>
    llm.return %t, %c
  }
}

// expect:
// llm.module @epilogue dims(T in 1..16) {
//   llm.weight @a : tensor<16x16xf32> from ["a"]
//   llm.weight @c : tensor<16x16xf32> from ["c"]
//   llm.weight @b : tensor<16x16xf32> from ["b"]
//   llm.func @step(%x: tensor<Tx16xf32>) {
//     %a = llm.linear %x, @a : tensor<Tx16xf32>
//     %c = llm.linear %x, @c : tensor<Tx16xf32>
//     %s = llm.linear %x, %a, @b : tensor<Tx16xf32>
//     %t = llm.add %s, %c : tensor<Tx16xf32>
//     llm.return %t, %c
//   }
// }
