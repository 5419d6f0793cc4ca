// The sum stays readable beside its norm; of two norms the first is fused.
// test: pass fuse-add-norm
// run: interp tol=0

llm.module @addnorm dims(T in 1..16) {
  llm.weight @post : tensor<16xf32> from ["post"]
  llm.weight @n1 : tensor<16xf32> from ["n1"]
  llm.weight @n2 : tensor<16xf32> from ["n2"]
  llm.func @step(%x: tensor<Tx16xf32>, %o: tensor<Tx16xf32>) {
    %p = llm.rms_norm %o, @post {eps = 1e-6} : tensor<Tx16xf32>
    %h = llm.add %x, %p : tensor<Tx16xf32>
    %a = llm.rms_norm %h, @n1 {eps = 1e-6} : tensor<Tx16xf32>
    %b = llm.rms_norm %h, @n2 {eps = 1e-6} : tensor<Tx16xf32>
    llm.return %h, %a, %b
  }
}

// expect:
// llm.module @addnorm dims(T in 1..16) {
//   llm.weight @post : tensor<16xf32> from ["post"]
//   llm.weight @n1 : tensor<16xf32> from ["n1"]
//   llm.weight @n2 : tensor<16xf32> from ["n2"]
//   llm.func @step(%x: tensor<Tx16xf32>, %o: tensor<Tx16xf32>) {
//     %p = llm.rms_norm %o, @post {eps = 1e-6} : tensor<Tx16xf32>
//     %h, %a = llm.add_rms_norm %p, %x, @n1 {eps = 1e-6} : tensor<Tx16xf32>, tensor<Tx16xf32>
//     %b = llm.rms_norm %h, @n2 {eps = 1e-6} : tensor<Tx16xf32>
//     llm.return %h, %a, %b
//   }
// }
