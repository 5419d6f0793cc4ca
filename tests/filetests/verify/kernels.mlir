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
    %h = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" prefill = @a)
    %i = llm.add %h, %x : tensor<Tx8xf32> kernel("1..8" decode with %h = @ha, "1..8" prefill = @a)
    %j = llm.add %x, %x : tensor<Tx8xf32> kernel("1..4" = @a)
    %k = llm.add %j, %j : tensor<Tx8xf32> kernel("1..4" = @a, "5..8" with %j = @ja)
    %l = llm.add %x, %x : tensor<Tx8xf32>
    %m = llm.add %l, %x : tensor<Tx8xf32> kernel("1..8" with %l = @la)
    %n = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" = @a) // error: not adjacent: 1..8 is followed by 1..8
    %o = llm.add %n, %x : tensor<Tx8xf32> kernel("1..8" with %n = @na)
    %p = llm.add %x, %x : tensor<Tx8xf32> kernel("1..4" prefill = @a) // error: cover 1..4 but T is in 1..8
    %q = llm.add %p, %x : tensor<Tx8xf32> kernel("1..8" decode with %p = @pa, "1..8" prefill = @a)
    %r = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" prefill = @a)
    %s = llm.add %r, %x : tensor<Tx8xf32> kernel("1..8" decode with %r = @ra, "1..8" prefill = @a) // error: but %r has other readers
    %t = llm.add %r, %x : tensor<Tx8xf32> kernel("1..8" = @a)
    %u = llm.add %a, %x : tensor<Tx8xf32> kernel("1..8" with %x = @a) // error: which no op makes
    %v = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" prefill = @a)
    %w = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" decode with %v = @va, "1..8" prefill = @a) // error: which the op does not read
    %y = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" prefill = @a)
    %z = llm.add %y, %x : tensor<Tx8xf32> kernel("1..8" decode with %y = @ya, "1..8" prefill = @a) // error: but %y has other readers
    %aa = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" decode = @a, "1..8" prefill = @b, "1..8" single = @a)
    %ab = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" decode = @a, "1..8" prefill = @b, "2..8" single = @a) // error: cover 2..8 but T is in 1..8
    %ac = llm.add %x, %x : tensor<Tx8xf32> kernel("1..8" = @a, "1..8" single = @a) // error: for single tokens stand beside none for prefill steps
    llm.return %a, %y
  }
}
