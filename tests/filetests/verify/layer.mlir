// A whole layer as an importer makes it.
// test: verify

llm.module @layer arch("llama") dims(T in 1..16, L in 1..4) {
  llm.weight @embed : tensor<32x16xbf16> from ["embed"]
  llm.weight @norm : tensor<16xf32> from ["norm"]
  llm.weight @q : tensor<16x16xbf16> from ["q"]
  llm.weight @k : tensor<8x16xbf16> from ["k"]
  llm.weight @v : tensor<8x16xbf16> from ["v"]
  llm.weight @rope : tensor<2xf32> from rope<4, 10000>
  llm.func @forward(%tokens: tensor<Txi32>, %pos: tensor<Txi32>, %rows: tensor<Lxi32>, %b: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 4, bf16>) {
    %x = llm.embedding %tokens, @embed : tensor<Tx16xbf16>
    %n = llm.rms_norm %x, @norm {eps = 1e-5} : tensor<Tx16xbf16>
    %q = llm.linear %n, @q : tensor<Tx4x4xbf16>
    %k = llm.linear %n, @k : tensor<Tx2x4xbf16>
    %v = llm.linear %n, @v : tensor<Tx2x4xbf16>
    %qr = llm.rope %q, %pos, @rope : tensor<Tx4x4xbf16>
    %kr = llm.rope %k, %pos, @rope : tensor<Tx2x4xbf16>
    %kv = llm.kv_append %kv0, %kr, %v, %b : !llm.kv<layer 0, 2 heads, 4, bf16>
    %a = llm.attention %qr, %kv, %b {scale = 0.5} : tensor<Tx16xbf16>
    %h = llm.add %x, %a : tensor<Tx16xbf16>
    %last = llm.gather_rows %h, %rows : tensor<Lx16xbf16>
    %logits = llm.linear %last, @embed : tensor<Lx32xf32>
    llm.return %logits
  }
}
