// What is wrong with declarations is reported at the declaration.
// test: verify

// error: there is no target "sm_1"
llm.module @m target("sm_1") dims(T in 1..16) {
  llm.weight @none : tensor<8xf32> from [] // error: it has no source
  llm.weight @panels : tensor<8xf32> packed(panel16) from ["p"] // error: packed in panels but is not a matrix
  llm.weight @zero : tensor<8x0xf32> from ["z"] // error: none of 0
  llm.weight @sym : tensor<Tx8xf32> from ["s"] // error: has a symbolic dimension
  llm.weight @rope : tensor<8xf32> from rope<8, 10000> // error: is not the table of 8 rotated elements
  llm.weight @groups : tensor<8x8x!quant<i4:bf16, group 0, zero>> from ["g"] // error: has empty blocks
  // error: %unbound: tensor<Lx8xf32> has L, which has no bounds
  llm.func @f(%x: tensor<Tx8xf32>, %unbound: tensor<Lx8xf32>) {
    llm.return %x
  }
}
