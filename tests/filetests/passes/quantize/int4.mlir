// Matrices take the largest group that divides their inputs, or int8; tables are int8; norms and biases are f32.
// test: pass quantize
// run: interp tol=0.3

llm.module @int4 precision("int4") dims(T in 1..16, L in 1..4) {
  llm.weight @embed : tensor<64x128xbf16> from ["embed"]
  llm.weight @norm : tensor<128xbf16> from ["norm"]
  llm.weight @up : tensor<96x128xbf16> from ["up"]
  llm.weight @up.bias : tensor<96xbf16> from ["up.bias"]
  llm.weight @mid : tensor<40x96xbf16> from ["mid"]
  llm.weight @down : tensor<128x40xbf16> from ["down"]
  llm.func @step(%tokens: tensor<Txi32>, %rows: tensor<Lxi32>) {
    %x = llm.embedding %tokens, @embed : tensor<Tx128xbf16>
    %n = llm.rms_norm %x, @norm {eps = 1e-5} : tensor<Tx128xbf16>
    %u = llm.linear %n, @up {bias = @up.bias} : tensor<Tx96xbf16>
    %m = llm.linear %u, @mid : tensor<Tx40xbf16>
    %d = llm.linear %m, @down : tensor<Tx128xbf16>
    %last = llm.gather_rows %d, %rows : tensor<Lx128xbf16>
    %logits = llm.linear %last, @embed : tensor<Lx64xf32>
    llm.return %logits
  }
}

// expect:
// llm.module @int4 precision("int4") dims(T in 1..16, L in 1..4) {
//   llm.weight @embed : tensor<64x128x!quant<i8:f32, channel>> from ["embed"]
//   llm.weight @norm : tensor<128xf32> from ["norm"]
//   llm.weight @up : tensor<96x128x!quant<i4:bf16, group 128, zero>> from ["up"]
//   llm.weight @up.bias : tensor<96xf32> from ["up.bias"]
//   llm.weight @mid : tensor<40x96x!quant<i4:bf16, group 32, zero>> from ["mid"]
//   llm.weight @down : tensor<128x40x!quant<i8:f32, channel>> from ["down"]
//   llm.func @step(%tokens: tensor<Txi32>, %rows: tensor<Lxi32>) {
//     %x = llm.embedding %tokens, @embed : tensor<Tx128xbf16>
//     %n = llm.rms_norm %x, @norm {eps = 1e-5} : tensor<Tx128xbf16>
//     %u = llm.linear %n, @up {bias = @up.bias} : tensor<Tx96xbf16>
//     %m = llm.linear %u, @mid : tensor<Tx40xbf16>
//     %d = llm.linear %m, @down : tensor<Tx128xbf16>
//     %last = llm.gather_rows %d, %rows : tensor<Lx128xbf16>
//     %logits = llm.linear %last, @embed : tensor<Lx64xf32>
//     llm.return %logits
//   }
// }
