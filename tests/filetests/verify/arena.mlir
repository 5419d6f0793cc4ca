// test: verify

llm.module @m target("host") dims(T in 1..8) arena(512) {
  llm.func @f(%x: tensor<Tx8xf32>) {
    %a = llm.add %x, %x : tensor<Tx8xf32> at(0)
    %b = llm.add %a, %a : tensor<Tx8xf32> at(0xff) // error: %a and %b overlap in the arena
    %c = llm.add %b, %b : tensor<Tx8xf32> at(0x101) // error: %c has 256 bytes at 0x101, beyond the arena of 512
    %d = llm.add %c, %c : tensor<Tx8xf32> // error: %d has no offset
    llm.return %d
  }
}
