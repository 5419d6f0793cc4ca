// What tokens are chosen from, how, and of which.
// test: verify

llm.module @m dims(T in 1..16, L in 1..4) {
  llm.func @f(%x: tensor<Lx40xf32>, %d: tensor<Lx8xf32>, %m: tensor<Lx2xi32>, %n: tensor<Lx1xi32>, %t: tensor<Tx2xi32>, %f: tensor<Lx2xf32>) {
    %a, %p = llm.sample %x, %d, %m : tensor<Lxi32>, tensor<Lxf32>
    %b, %q = llm.sample %x, %d, %n : tensor<Lxi32>, tensor<Lxf32> // error: a row for each of the logits, 2 words of i32, found tensor<Lx1xi32>
    %c, %r = llm.sample %x, %d, %t : tensor<Lxi32>, tensor<Lxf32> // error: a row for each of the logits, 2 words of i32, found tensor<Tx2xi32>
    %e, %s = llm.sample %x, %d, %f : tensor<Lxi32>, tensor<Lxf32> // error: a row for each of the logits, 2 words of i32, found tensor<Lx2xf32>
    %g, %u = llm.sample %x, %m, %m : tensor<Lxi32>, tensor<Lxf32> // error: draws must be plain floats
    llm.return %a
  }
}
