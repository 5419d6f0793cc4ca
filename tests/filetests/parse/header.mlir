// test: parse

// error: 'colour' is not a part of a module
llm.module @m colour("red") {
  llm.func @f(%x: tensor<Tx4xf32>) {
    llm.return %x
  }
}
