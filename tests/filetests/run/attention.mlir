// A layer's attention over a batch of a request that goes on and one that begins, grouped heads, a window of two.
// test: run

llm.module @m dims(T in 1..16) {
  llm.weight @rope : tensor<1xf32> from rope<2, 10000>
  llm.func @f(%q: tensor<Tx2x2xf32>, %k: tensor<Tx1x2xf32>, %v: tensor<Tx1x2xf32>, %pos: tensor<Txi32>, %b: !llm.batch, %kv0: !llm.kv<layer 0, 1 heads, 2, bf16, window 2>) {
    %qr = llm.rope %q, %pos, @rope : tensor<Tx2x2xf32>
    %kr = llm.rope %k, %pos, @rope : tensor<Tx1x2xf32>
    %kv = llm.kv_append %kv0, %kr, %v, %b : !llm.kv<layer 0, 1 heads, 2, bf16, window 2>
    %a = llm.attention %qr, %kv, %b {scale = 0.70710677, softcap = 30.0} : tensor<Tx4xf32>
    llm.return %a, %kv
  }
}
