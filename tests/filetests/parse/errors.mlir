// Each mistake is reported where it is, once; what depends on it is not reported again.
// test: parse

llm.module @m dims(T in 1..8) {
  llm.weight @n : tensor<4xf32> from ["n"]
  llm.weight @w : tensor<4xf32> from ["w"]
  llm.weight @w : tensor<4xf32> from ["w"] // error: there is another weight @w
  llm.weight @v : tensor<4xf33> from ["v"] // error: no element type 'f33'; there are f32, f16
  llm.weight @u : tensor<4xf32> packed(sideways) from ["u"] // error: no packing 'sideways'; there are rows, panel16, fragment16
  llm.func @f(%x: tensor<Tx4xf32>) {
    %a = llm.frobnicate %x : tensor<Tx4xf32> // error: the ops are llm.embedding, llm.rms_norm
    %b = llm.add %a, %x : tensor<Tx4xf32>
    %c = llm.rms_norm %b, @v {eps = 1e-5} : tensor<Tx4xf32>
    %d = llm.add %x, %late : tensor<Tx4xf32> // error: %late is not defined before this use
    %late = llm.add %x, %x : tensor<Tx4xf32>
    %x = llm.add %late, %late : tensor<Tx4xf32> // error: there is another value %x
    %e = llm.rms_norm %late, @n {eps = 1e-5, epsilon = 2} : tensor<Tx4xf32> // error: no attribute 'epsilon'; it has eps, offset
    %f = llm.rms_norm %late, @n : tensor<Tx4xf32> // error: needs the attribute 'eps'
    %g, %h = llm.add %late, %late : tensor<Tx4xf32> // error: 2 names, 1 types
    %i = llm.gated_act %late, %late {act = relu} : tensor<Tx4xf32> // error: no activation 'relu'; there are silu, gelu_tanh
    %j = llm.add %late : tensor<Tx4xf32> // error: llm.add needs a value for rhs
    %k = llm.add %late, %late, %late : tensor<Tx4xf32> // error: 1 value(s) too many
    %l = llm.add %late, %late : tensor<tx4xf32> // error: 't' is not a dimension
    %m = llm.rms_norm %late, @missing {eps = 1} : tensor<Tx4xf32> // error: no weight @missing is declared above
    llm.return %late
  }
}
