// An error of the run names the op, the weight and the place.
// test: run

llm.module @m dims(T in 1..16) {
  llm.weight @w : tensor<6x4xf32> from ["w" interleaved 2]
  llm.func @f(%x: tensor<Tx4xf32>) {
    %y = llm.linear %x, @w : tensor<Tx6xf32> // error: llm.linear: weight @w: the 6 rows of "w" do not split into heads
    llm.return %y
  }
}
