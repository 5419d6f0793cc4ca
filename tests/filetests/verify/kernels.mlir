// test: verify

llm.module @m target("host") dims(T in 1..8) {
  llm.func @f(%x: tensor<Tx8xf32>) {
    %a = llm.add %x, %x : tensor<Tx8xf32> kernel("1..4" = @a, "5..8" = @b)
    %b = llm.add %x, %x : tensor<Tx8xf32> kernel("1..4" = @a, "6..8" = @b) // error: not adjacent: 1..4 is followed by 6..8
    %c = llm.add %x, %x : tensor<Tx8xf32> kernel("1..4" = @a) // error: cover 1..4 but T is in 1..8
    %d = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" decode = @a, "1..4" prefill = @b, "5..8" prefill = @c)
    %e = llm.add %x, %x : tensor<Tx8xf32> kernel("1..4" = @a, "5..8" prefill = @c) // error: cover 1..4 but T is in 1..8
    %f = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" decode = @a) // error: no kernel of llm.add serves prefill steps
    %g = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" = @a, "1..8" prefill = @c) // error: not adjacent: 1..8 is followed by 1..8
    llm.return %a
  }
}
