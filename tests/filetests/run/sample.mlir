// A token for each row: of all of them, and of those that a mask has.
// test: run

llm.module @m dims(L in 4..4) {
  llm.func @f(%logits: tensor<Lx40xf32>, %draws: tensor<Lx8xf32>, %masks: tensor<Lx2xi32>) {
    %token, %logprob = llm.sample %logits, %draws, %masks : tensor<Lxi32>, tensor<Lxf32>
    llm.return %token, %logprob
  }
}

// expect:
// %token [27, 21, 5, 12]
// %logprob [4]
//   -3.1720e0
//   -4.0007e0
//   -3.6643e0
//   -4.1954e0
