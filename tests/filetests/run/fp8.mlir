// Quantised values: what they stand for, and a linear of them.
// test: run

llm.module @fp8 dims(T in 2..4) {
  llm.weight @w : tensor<2x8x!quant<f8E4M3FN:f32, channel>> from ["w"]
  llm.func @step(%x: tensor<Tx2x4xbf16>) {
    %q = llm.quantize %x : tensor<Tx8x!quant<f8E4M3FN:f32, token>>
    %y = llm.linear %q, @w : tensor<Tx2xf32>
    llm.return %q, %y
  }
}

// expect:
// %q [3, 8]
//   2.8181e-1 -9.8633e-2 1.0568e-1 7.8906e-1 -3.6635e-1 3.0999e-1 -8.4542e-2 4.5089e-1
//   6.6685e-1 3.6677e-1 -3.3343e-1 6.6685e-1 -2.6674e-1 9.3359e-1 4.5846e-2 8.6691e-1
//   -9.7656e-1 -6.2779e-1 5.5804e-1 -3.1390e-1 6.9754e-1 -6.5395e-2 -4.5340e-1 -5.2316e-1
// %y [3, 2]
//   2.3162e-1 3.2730e-1
//   5.6167e-1 -3.3908e-1
//   -9.4161e-1 6.0560e-1
