// Operands, weights and results that do not fit each other.
// test: verify

llm.module @m dims(T in 1..16, L in 1..4) {
  llm.weight @w : tensor<8x16xbf16> from ["w"]
  llm.weight @n : tensor<8xf32> from ["n"]
  llm.func @f(%x: tensor<Tx16xbf16>, %rows: tensor<Lxi32>, %b: !llm.batch, %kv0: !llm.kv<layer 0, 2 heads, 4, bf16>) {
    %a = llm.linear %x, @w : tensor<Tx9xbf16> // error: the result is tensor<Tx9xbf16>, but weight @w (tensor<8x16xbf16>) needs 8 columns
    %c = llm.linear %x, @w : tensor<Lx8xbf16> // error: the same number of rows
    %d = llm.rms_norm %x, @n {eps = 1e-5} : tensor<Tx16xbf16> // error: weight @n is tensor<8xf32> but x has rows of 16
    %e = llm.add %x, %b : tensor<Tx16xbf16> // error: rhs must be a tensor, found !llm.batch
    %f = llm.slice %x {start = 9} : tensor<Tx8xbf16> // error: 8 columns from 9 on do not lie in x
    %g = llm.kv_append %kv0, %x, %x, %b : !llm.kv<layer 0, 2 heads, 4, bf16> // error: needs 8 columns
    %h, %i = llm.add %x, %x : tensor<Tx16xbf16>, tensor<Tx16xbf16> // error: expected 1 result(s), found 2
    llm.return %a
  }
}
