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

// expect:
// %a [3, 4]
//   1.5710e-1 1.8816e-1 1.7398e-1 1.9658e-1
//   -1.4921e-1 1.7066e-3 -3.5598e-1 -1.1502e-1
//   -4.6484e-1 7.2266e-1 -4.6484e-1 7.2266e-1
// %kv cache
//   request 1 position 0: k 4.1260e-2 5.5078e-1 v -4.6484e-1 7.2266e-1
//   request 4 position 0: k 4.8828e-1 6.7578e-1 v 6.2109e-1 -7.6953e-1
//   request 4 position 1: k 1.5430e-1 -7.6172e-1 v -1.7383e-1 -6.4453e-1
//   request 4 position 2: k -7.7344e-1 4.5898e-1 v 3.6377e-2 1.2793e-1
//   request 4 position 3: k 1.1572e-1 1.5527e-1 v 3.6328e-1 2.9102e-1
//   request 4 position 4: k 3.5352e-1 -3.2812e-1 v -8.4766e-1 -3.9258e-1
