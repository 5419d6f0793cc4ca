// Gate and up become one linear, also where their weights are quantised, and also where the graph has up first.
// test: pass fuse-gate-up
// run: interp tol=1e-5

llm.module @mlp dims(T in 1..16) {
  llm.weight @l0.mlp.up : tensor<24x32x!quant<i4:bf16, group 32, zero>> from ["up"]
  llm.weight @l0.mlp.gate : tensor<24x32x!quant<i4:bf16, group 32, zero>> from ["gate"]
  llm.func @step(%x: tensor<Tx32xf32>) {
    %u = llm.linear %x, @l0.mlp.up : tensor<Tx24xf32>
    %g = llm.linear %x, @l0.mlp.gate : tensor<Tx24xf32>
    %y = llm.gated_act %g, %u {act = silu} : tensor<Tx24xf32>
    llm.return %y
  }
}

// expect:
// llm.module @mlp dims(T in 1..16) {
//   llm.weight @l0.mlp.gate_up : tensor<48x32x!quant<i4:bf16, group 32, zero>> from ["gate", "up"]
//   llm.func @step(%x: tensor<Tx32xf32>) {
//     %gate_up = llm.linear %x, @l0.mlp.gate_up : tensor<Tx48xf32>
//     %g = llm.slice %gate_up {start = 0} : tensor<Tx24xf32>
//     %u = llm.slice %gate_up {start = 24} : tensor<Tx24xf32>
//     %y = llm.gated_act %g, %u {act = silu} : tensor<Tx24xf32>
//     llm.return %y
//   }
// }
