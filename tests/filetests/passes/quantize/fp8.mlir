// Matrices are e4m3, and so is what they read, once for all its readers; tables are bf16; norms and biases are f32.
// test: pass quantize
// run: interp tol=0.1

llm.module @fp8 precision("fp8") dims(T in 1..16, L in 1..4) {
  llm.weight @embed : tensor<64x128xbf16> from ["embed"]
  llm.weight @norm : tensor<128xbf16> from ["norm"]
  llm.weight @up : tensor<96x128xbf16> from ["up"]
  llm.weight @up.bias : tensor<96xbf16> from ["up.bias"]
  llm.weight @mid : tensor<40x96xbf16> from ["mid"]
  llm.weight @gate : tensor<40x128xbf16> from ["gate"]
  llm.weight @down : tensor<128x40xbf16> from ["down"]
  llm.func @step(%tokens: tensor<Txi32>, %rows: tensor<Lxi32>) {
    %x = llm.embedding %tokens, @embed : tensor<Tx128xbf16>
    %n = llm.rms_norm %x, @norm {eps = 1e-5} : tensor<Tx128xbf16>
    %u = llm.linear %n, @up {bias = @up.bias} : tensor<Tx96xbf16>
    %m = llm.linear %u, @mid : tensor<Tx40xbf16>
    %g = llm.linear %n, @gate : tensor<Tx40xbf16>
    %s = llm.gated_act %g, %m {act = silu} : tensor<Tx40xbf16>
    %d = llm.linear %s, @down : tensor<Tx128xbf16>
    %last = llm.gather_rows %d, %rows : tensor<Lx128xbf16>
    %logits = llm.linear %last, @embed : tensor<Lx64xf32>
    llm.return %logits
  }
}

// expect:
// llm.module @fp8 precision("fp8") dims(T in 1..16, L in 1..4) {
//   llm.weight @embed : tensor<64x128xbf16> from ["embed"]
//   llm.weight @norm : tensor<128xf32> from ["norm"]
//   llm.weight @up : tensor<96x128x!quant<f8E4M3FN:f32, channel>> from ["up"]
//   llm.weight @up.bias : tensor<96xf32> from ["up.bias"]
//   llm.weight @mid : tensor<40x96x!quant<f8E4M3FN:f32, channel>> from ["mid"]
//   llm.weight @gate : tensor<40x128x!quant<f8E4M3FN:f32, channel>> from ["gate"]
//   llm.weight @down : tensor<128x40x!quant<f8E4M3FN:f32, channel>> from ["down"]
//   llm.func @step(%tokens: tensor<Txi32>, %rows: tensor<Lxi32>) {
//     %x = llm.embedding %tokens, @embed : tensor<Tx128xbf16>
//     %n = llm.rms_norm %x, @norm {eps = 1e-5} : tensor<Tx128xbf16>
//     %n_q = llm.quantize %n : tensor<Tx128x!quant<f8E4M3FN:f32, token>>
//     %u = llm.linear %n_q, @up {bias = @up.bias} : tensor<Tx96xbf16>
//     %u_q = llm.quantize %u : tensor<Tx96x!quant<f8E4M3FN:f32, token>>
//     %m = llm.linear %u_q, @mid : tensor<Tx40xbf16>
//     %g = llm.linear %n_q, @gate : tensor<Tx40xbf16>
//     %s = llm.gated_act %g, %m {act = silu} : tensor<Tx40xbf16>
//     %s_q = llm.quantize %s : tensor<Tx40x!quant<f8E4M3FN:f32, token>>
//     %d = llm.linear %s_q, @down : tensor<Tx128xbf16>
//     %last = llm.gather_rows %d, %rows : tensor<Lx128xbf16>
//     %logits = llm.linear %last, @embed : tensor<Lx64xf32>
//     llm.return %logits
//   }
// }
