// Norms, the second result of a norm with a sum, and gated activations store their rows quantised. A value that
// something else reads stays, as do the norm of heads, whose rows are not a token's, and a linear's result.
// test: pass fuse-quantize
// run: interp tol=0

llm.module @layer dims(T in 1..16) {
  llm.weight @norm : tensor<16xf32> from ["norm"]
  llm.weight @head : tensor<4xf32> from ["head"]
  llm.weight @w : tensor<16x16x!quant<f8E4M3FN:f32, channel>> from ["w"]
  llm.func @step(%x: tensor<Tx16xf32>, %r: tensor<Tx16xf32>) {
    %n = llm.rms_norm %x, @norm {eps = 1e-5} : tensor<Tx16xf32>
    %n_q = llm.quantize %n : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
    %a = llm.linear %n_q, @w : tensor<Tx4x4xf32>
    %h, %m = llm.add_rms_norm %x, %r, @norm {eps = 1e-5} : tensor<Tx16xf32>, tensor<Tx16xf32>
    %b = llm.rms_norm %h, @norm {eps = 1e-5} : tensor<Tx16xf32>
    %m_q = llm.quantize %m : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
    %c = llm.linear %m_q, @w : tensor<Tx16xf32>
    %g = llm.gated_act %b, %c {act = silu} : tensor<Tx16xf32>
    %g_q = llm.quantize %g : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
    %b_q = llm.quantize %b : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
    %d = llm.linear %g_q, @w : tensor<Tx16xf32>
    %e = llm.linear %b_q, @w : tensor<Tx16xf32>
    %heads = llm.rms_norm %a, @head {eps = 1e-5} : tensor<Tx4x4xf32>
    %heads_q = llm.quantize %heads : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
    %f = llm.linear %heads_q, @w : tensor<Tx16xf32>
    %h_q = llm.quantize %h : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
    %d_q = llm.quantize %d : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
    %i = llm.linear %h_q, @w : tensor<Tx16xf32>
    %j = llm.linear %d_q, @w : tensor<Tx16xf32>
    %k = llm.add %i, %j : tensor<Tx16xf32>
    llm.return %e, %f, %k
  }
}

// expect:
// llm.module @layer dims(T in 1..16) {
//   llm.weight @norm : tensor<16xf32> from ["norm"]
//   llm.weight @w : tensor<16x16x!quant<f8E4M3FN:f32, channel>> from ["w"]
//   llm.weight @head : tensor<4xf32> from ["head"]
//   llm.func @step(%x: tensor<Tx16xf32>, %r: tensor<Tx16xf32>) {
//     %n_q = llm.rms_norm %x, @norm {eps = 1e-5} : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
//     %a = llm.linear %n_q, @w : tensor<Tx4x4xf32>
//     %h, %m_q = llm.add_rms_norm %x, %r, @norm {eps = 1e-5} : tensor<Tx16xf32>, tensor<Tx16x!quant<f8E4M3FN:f32, token>>
//     %b = llm.rms_norm %h, @norm {eps = 1e-5} : tensor<Tx16xf32>
//     %c = llm.linear %m_q, @w : tensor<Tx16xf32>
//     %g_q = llm.gated_act %b, %c {act = silu} : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
//     %b_q = llm.quantize %b : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
//     %d = llm.linear %g_q, @w : tensor<Tx16xf32>
//     %e = llm.linear %b_q, @w : tensor<Tx16xf32>
//     %heads = llm.rms_norm %a, @head {eps = 1e-5} : tensor<Tx4x4xf32>
//     %heads_q = llm.quantize %heads : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
//     %f = llm.linear %heads_q, @w : tensor<Tx16xf32>
//     %h_q = llm.quantize %h : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
//     %d_q = llm.quantize %d : tensor<Tx16x!quant<f8E4M3FN:f32, token>>
//     %i = llm.linear %h_q, @w : tensor<Tx16xf32>
//     %j = llm.linear %d_q, @w : tensor<Tx16xf32>
//     %k = llm.add %i, %j : tensor<Tx16xf32>
//     llm.return %e, %f, %k
//   }
// }
