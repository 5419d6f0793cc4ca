// Tokens to logits through a gated layer, with quantised weights.
// test: run

llm.module @m dims(T in 1..16, L in 1..4) {
  llm.weight @embed : tensor<7x4x!quant<i8:f32, channel>> from ["embed"]
  llm.weight @norm : tensor<4xf32> from ["norm"]
  llm.weight @up : tensor<12x4x!quant<i4:bf16, group 2, zero>> from ["gate", "up"]
  llm.weight @down : tensor<4x6xbf16> from ["down"]
  llm.weight @bias : tensor<4xf32> from ["bias"]
  llm.func @f(%tokens: tensor<Txi32>, %rows: tensor<Lxi32>) {
    %x = llm.embedding %tokens, @embed {scale = 2.0} : tensor<Tx4xbf16>
    %n = llm.rms_norm %x, @norm {eps = 1e-6, offset = 1.0} : tensor<Tx4xbf16>
    %u = llm.linear %n, @up : tensor<Tx12xbf16>
    %g = llm.gated_act_packed %u {act = gelu_tanh} : tensor<Tx6xbf16>
    %y = llm.linear %g, %x, @down {bias = @bias} : tensor<Tx4xf32>
    %last = llm.gather_rows %y, %rows : tensor<Lx4xf32>
    %logits = llm.linear %last, @embed : tensor<Lx7xf32>
    llm.return %logits
  }
}

// expect:
// %logits [2, 7]
//   -1.1764e0 5.7287e-1 1.8954e0 2.9047e0 1.6167e0 -2.7202e-1 -1.3849e0
//   -8.7044e-1 1.5209e0 1.5110e0 1.4414e0 8.2269e-1 -5.3206e-1 1.8401e-1
