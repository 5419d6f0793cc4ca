// test: parse

llm.module @m dims(T in 1..8) {
  llm.func @f(%x: tensor<Tx4xf32>) {
    %y = llm.add %x, %x : tensor<Tx4xf32>
  // error: the function ends without llm.return
  }
}
