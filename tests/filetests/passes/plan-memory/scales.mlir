// A quantised value's scales, one f32 a row, lie after its payload, at the next multiple of 256 bytes.
// test: pass plan-memory
// run: interp tol=0

llm.module @mlp dims(T in 1..10) {
  llm.weight @up : tensor<48x16x!quant<f8E4M3FN:f32, channel>> from ["up"]
  llm.func @step(%x: tensor<Tx16xf32>) {
    %q = llm.quantize %x : tensor<Tx16x!quant<f8E4M3FN:f32, token>> kernel("1..10" = @quantize)
    %y = llm.linear %q, @up : tensor<Tx48xf32> kernel("1..10" = @up)
    llm.return %y
  }
}

// expect:
// llm.module @mlp dims(T in 1..10) arena(2560) {
//   llm.weight @up : tensor<48x16x!quant<f8E4M3FN:f32, channel>> from ["up"]
//   llm.func @step(%x: tensor<Tx16xf32>) {
//     %q = llm.quantize %x : tensor<Tx16x!quant<f8E4M3FN:f32, token>> kernel("1..10" = @quantize) at(0x800)
//     %y = llm.linear %q, @up : tensor<Tx48xf32> kernel("1..10" = @up) at(0x0)
//     llm.return %y
//   }
// }
