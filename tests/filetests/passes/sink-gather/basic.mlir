// Rows are picked before the final norm.
// test: pass sink-gather
// run: interp tol=0

llm.module @head dims(T in 1..16, L in 1..4) {
  llm.weight @norm : tensor<16xf32> from ["norm"]
  llm.weight @lm_head : tensor<24x16xf32> from ["lm_head"]
  llm.func @step(%x: tensor<Tx16xf32>, %rows: tensor<Lxi32>) {
    %n = llm.rms_norm %x, @norm {eps = 1e-6} : tensor<Tx16xf32>
    %last = llm.gather_rows %n, %rows : tensor<Lx16xf32>
    %logits = llm.linear %last, @lm_head : tensor<Lx24xf32>
    llm.return %logits
  }
}

// expect:
// llm.module @head dims(T in 1..16, L in 1..4) {
//   llm.weight @norm : tensor<16xf32> from ["norm"]
//   llm.weight @lm_head : tensor<24x16xf32> from ["lm_head"]
//   llm.func @step(%x: tensor<Tx16xf32>, %rows: tensor<Lxi32>) {
//     %x_picked = llm.gather_rows %x, %rows : tensor<Lx16xf32>
//     %n = llm.rms_norm %x_picked, @norm {eps = 1e-6} : tensor<Lx16xf32>
//     %logits = llm.linear %n, @lm_head : tensor<Lx24xf32>
//     llm.return %logits
//   }
// }
