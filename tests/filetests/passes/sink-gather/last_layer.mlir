// Products of the last layer are of the rows that are picked, behind attention; the residual is picked once for its two readers.
// test: pass sink-gather
// run: interp tol=0

llm.module @tail dims(T in 1..16, L in 1..4) {
  llm.weight @q : tensor<32x16xf32> from ["q"]
  llm.weight @o : tensor<16x32xf32> from ["o"]
  llm.weight @mlp_norm : tensor<16xf32> from ["mlp_norm"]
  llm.weight @gate_up : tensor<48x16xf32> from ["gate_up"]
  llm.weight @down : tensor<16x24xf32> from ["down"]
  llm.weight @norm : tensor<16xf32> from ["norm"]
  llm.weight @lm_head : tensor<24x16xf32> from ["lm_head"]
  llm.func @step(%x: tensor<Tx16xf32>, %rows: tensor<Lxi32>, %positions: tensor<Txi32>) {
    %a = llm.linear %x, @q : tensor<Tx32xf32>
    %n0 = llm.rms_norm %x, @mlp_norm {eps = 1e-6} : tensor<Tx16xf32>
    %h = llm.linear %a, %x, @o : tensor<Tx16xf32>
    %n = llm.rms_norm %h, @mlp_norm {eps = 1e-6} : tensor<Tx16xf32>
    %act = llm.gated_linear %n, @gate_up {act = silu} : tensor<Tx24xf32>
    %y = llm.linear %act, %h, @down : tensor<Tx16xf32>
    %last = llm.gather_rows %y, %rows : tensor<Lx16xf32>
    %out = llm.rms_norm %last, @norm {eps = 1e-6} : tensor<Lx16xf32>
    %logits = llm.linear %out, @lm_head : tensor<Lx24xf32>
    llm.return %logits, %a, %n0
  }
}

// expect:
// llm.module @tail dims(T in 1..16, L in 1..4) {
//   llm.weight @q : tensor<32x16xf32> from ["q"]
//   llm.weight @mlp_norm : tensor<16xf32> from ["mlp_norm"]
//   llm.weight @o : tensor<16x32xf32> from ["o"]
//   llm.weight @gate_up : tensor<48x16xf32> from ["gate_up"]
//   llm.weight @down : tensor<16x24xf32> from ["down"]
//   llm.weight @norm : tensor<16xf32> from ["norm"]
//   llm.weight @lm_head : tensor<24x16xf32> from ["lm_head"]
//   llm.func @step(%x: tensor<Tx16xf32>, %rows: tensor<Lxi32>, %positions: tensor<Txi32>) {
//     %a = llm.linear %x, @q : tensor<Tx32xf32>
//     %n0 = llm.rms_norm %x, @mlp_norm {eps = 1e-6} : tensor<Tx16xf32>
//     %a_picked = llm.gather_rows %a, %rows : tensor<Lx32xf32>
//     %x_picked = llm.gather_rows %x, %rows : tensor<Lx16xf32>
//     %h = llm.linear %a_picked, %x_picked, @o : tensor<Lx16xf32>
//     %n = llm.rms_norm %h, @mlp_norm {eps = 1e-6} : tensor<Lx16xf32>
//     %act = llm.gated_linear %n, @gate_up {act = silu} : tensor<Lx24xf32>
//     %y = llm.linear %act, %h, @down : tensor<Lx16xf32>
//     %out = llm.rms_norm %y, @norm {eps = 1e-6} : tensor<Lx16xf32>
//     %logits = llm.linear %out, @lm_head : tensor<Lx24xf32>
//     llm.return %logits, %a, %n0
//   }
// }
