//! What is derived from a module: views, single-op contracts, random weights.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::rc::Rc;
use trtc_ir::interp::{Data, RandomWeights, Tensor, Weights, run};
use trtc_ir::text::{PrintOptions, parse, print};
use trtc_ir::view::{View, liveness};
use trtc_ir::{DType, Module, module::extract, verify::verify};

const SOURCE: &str = r#"
llm.module @m arch("llama") target("host") dims(T in 1..8, L in 1..4) arena(4096) {
  llm.weight @n0 : tensor<4xf32> from ["n0"]
  llm.weight @q0 : tensor<4x4xbf16> packed(panel16) from ["q0" interleaved 2]
  llm.weight @n1 : tensor<4xf32> from ["n1"]
  llm.weight @q1 : tensor<4x4xbf16> packed(panel16) from ["q1" interleaved 2]
  llm.func @f(%x: tensor<Tx4xf32>, %rows: tensor<Lxi32>) {
    %a = llm.rms_norm %x, @n0 {eps = 1e-5} : tensor<Tx4xf32> at(0)
    %b = llm.linear %a, %x, @q0 : tensor<Tx4xf32> kernel("1..8" = @k) at(128)
    %c = llm.rms_norm %b, @n1 {eps = 1e-5} : tensor<Tx4xf32> at(0)
    %d = llm.linear %c, %b, @q1 : tensor<Tx4xf32> kernel("1..8" = @k) at(256)
    %e = llm.gather_rows %d, %rows : tensor<Lx4xf32> at(0)
    llm.return %e
  }
}"#;

fn module() -> Module {
    let m = parse(SOURCE, "m").unwrap_or_else(|d| panic!("{}", d[0]));
    verify(&m).unwrap_or_else(|d| panic!("{}", d[0]));
    m
}

#[test]
fn liveness_is_from_the_maker_to_the_last_reader() {
    let m = module();
    let intervals: Vec<_> =
        liveness(&m.func).iter().map(|i| (m.func.values[i.value].name.clone(), i.from, i.to)).collect();
    let wanted =
        [("x", 0, 1), ("rows", 0, 4), ("a", 0, 1), ("b", 1, 3), ("c", 2, 3), ("d", 3, 4), ("e", 4, 5)]
            .map(|(n, f, t)| (n.to_owned(), f, t));
    assert_eq!(intervals, wanted);
}

#[test]
fn topological_order_is_stable_and_repairs_an_order() {
    let mut m = module();
    let order = m.func.order.clone();
    assert_eq!(View::new(&m.func).topological_order().unwrap(), order);
    m.func.order.reverse();
    assert_eq!(View::new(&m.func).topological_order().unwrap(), order);
    // A cycle: the first norm reads the last linear.
    let last = m.func.ops[order[3]].results[0];
    *m.func.ops[order[0]].op.operands_mut()[0] = last;
    assert_eq!(View::new(&m.func).topological_order(), None);
}

#[test]
fn dot_has_every_op_and_edge() {
    let m = module();
    let dot = View::new(&m.func).dot(&m.func);
    assert_eq!(dot.matches("label=\"llm.linear\"").count(), 2);
    assert_eq!(dot.matches("->").count(), 8);
    assert!(dot.contains("label=\"%rows\""), "{dot}");
}

#[test]
fn ops_that_one_kernel_serves_have_one_contract() {
    let m = module();
    let contract = |i: usize| extract(&m, &[m.func.order[i]]);
    let text = print(&contract(1), PrintOptions::default());
    let wanted = r#"llm.module @contract target("host") dims(T in 1..8) {
  llm.weight @w0 : tensor<4x4xbf16> packed(panel16) from ["w0"]
  llm.func @linear(%a0: tensor<Tx4xf32>, %a1: tensor<Tx4xf32>) {
    %r0 = llm.linear %a0, %a1, @w0 : tensor<Tx4xf32>
    llm.return %r0
  }
}
"#;
    assert_eq!(text, wanted);
    assert_eq!(contract(1), contract(3));
    assert_ne!(contract(0), contract(1));
    for i in 0..m.func.order.len() {
        verify(&contract(i)).unwrap_or_else(|d| panic!("{}", d[0]));
    }
    // It runs: an op's contract is its meaning.
    let x = Data::Float(Tensor { dims: vec![1, 4], data: vec![1.0; 4] });
    let inputs = [x.clone(), x];
    assert_eq!(run(&contract(1), &RandomWeights::new(1), &inputs).unwrap().len(), 1);
}

#[test]
fn a_chain_has_one_contract_without_what_is_between() {
    let kv = "!llm.kv<layer 3, 1 heads, 4, f32, page 4>";
    let source = format!(
        r#"llm.module @m dims(T in 1..8, L in 1..4) {{
  llm.weight @f : tensor<2xf32> from rope<4, 10000>
  llm.func @step(%x: tensor<Tx12xf32>, %p: tensor<Txi32>, %b: !llm.batch, %c: {kv}) {{
    %q, %d = llm.rope_kv_append %x, %p, %c, %b, @f {{heads = 1}} : tensor<Tx1x4xf32>, {kv}
    %y = llm.attention %q, %d, %b {{scale = 0.5}} : tensor<Tx4xf32>
    llm.return %y
  }}
}}"#
    );
    let m = parse(&source, "m").unwrap();
    let contract = extract(&m, &m.func.order);
    let kv = kv.replace("layer 3", "layer 0");
    let wanted = format!(
        r#"llm.module @contract dims(T in 1..8) {{
  llm.weight @w0 : tensor<2xf32> from rope<4, 10000>
  llm.func @rope_kv_append.attention(%a0: tensor<Tx12xf32>, %a1: tensor<Txi32>, %a2: {kv}, %a3: !llm.batch) {{
    %r0, %r1 = llm.rope_kv_append %a0, %a1, %a2, %a3, @w0 {{heads = 1}} : tensor<Tx1x4xf32>, {kv}
    %r2 = llm.attention %r0, %r1, %a3 {{scale = 0.5}} : tensor<Tx4xf32>
    llm.return %r1, %r2
  }}
}}
"#
    );
    assert_eq!(print(&contract, PrintOptions::default()), wanted);
    verify(&contract).unwrap_or_else(|d| panic!("{}", d[0]));
}

#[test]
fn a_product_in_a_chain_is_not_rounded() {
    let kv = "!llm.kv<layer 0, 1 heads, 4, bf16, page 4>";
    let source = format!(
        r#"llm.module @m dims(T in 1..8) {{
  llm.weight @w : tensor<12x8xbf16> from ["w"]
  llm.weight @f : tensor<2xf32> from rope<4, 10000>
  llm.func @step(%x: tensor<Tx8xbf16>, %p: tensor<Txi32>, %b: !llm.batch, %c: {kv}) {{
    %qkv = llm.linear %x, @w : tensor<Tx12xbf16>
    %q, %d = llm.rope_kv_append %qkv, %p, %c, %b, @f {{heads = 1}} : tensor<Tx1x4xbf16>, {kv}
    llm.return %q, %d
  }}
}}"#
    );
    let m = parse(&source, "m").unwrap();
    let made = |contract: &Module| -> Vec<String> {
        let ops = contract.func.order.iter().map(|&id| contract.func.ops[id].results[0]);
        ops.map(|v| contract.func.values[v].ty.to_string()).collect()
    };
    let both = extract(&m, &m.func.order);
    verify(&both).unwrap_or_else(|d| panic!("{}", d[0]));
    assert_eq!(made(&both), ["tensor<Tx12xf32>", "tensor<Tx1x4xbf16>"]);
    // By itself it is written, and so rounded.
    assert_eq!(made(&extract(&m, &m.func.order[..1])), ["tensor<Tx12xbf16>"]);
}

fn load(weights: &RandomWeights, m: &Module, name: &str) -> Rc<Tensor> {
    weights.load(m, m.weight_named(name).unwrap()).unwrap()
}

/// SplitMix64's published sequence for seed 0: values are the same on every machine.
#[test]
fn the_generator_is_pinned() {
    let mut random = trtc_ir::random::Random::new(0);
    assert_eq!([random.next(), random.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    assert!((0..1000).all(|_| random.below(3) < 3 && (-1.0..1.0).contains(&random.signed())));
}

#[test]
fn random_weights_follow_from_seed_and_tensor_names() {
    let before = parse(
        r#"llm.module @m {
          llm.weight @q : tensor<6x8xbf16> from ["q"]
          llm.weight @k : tensor<2x8xbf16> from ["k"]
          llm.weight @f : tensor<2xf32> from rope<4, 10000>
          llm.func @f() {
            llm.return
          }
        }"#,
        "m",
    )
    .unwrap();
    let after = parse(
        r#"llm.module @m {
          llm.weight @qk : tensor<8x8xbf16> from ["q", "k"]
          llm.weight @turned : tensor<6x8xbf16> from ["q" interleaved 1]
          llm.weight @small : tensor<6x8x!quant<i8:f32, channel>> from ["q"]
          llm.func @f() {
            llm.return
          }
        }"#,
        "m",
    )
    .unwrap();
    let weights = RandomWeights::new(7).learn(&before);
    let (q, k) = (load(&weights, &before, "q"), load(&weights, &before, "k"));
    assert_eq!(load(&weights, &after, "qk").data, [q.data.clone(), k.data.clone()].concat());
    let turned = load(&weights, &after, "turned");
    assert_eq!(turned.data[8..16], q.data[16..24]);
    assert_eq!(turned.data[24..32], q.data[8..16]);
    let small = load(&weights, &after, "small");
    let error = small.data.iter().zip(&q.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error > 0.0 && error < 1.0 / 127.0, "{error}");

    assert_eq!(load(&weights, &before, "f").data, [1.0, 0.01]);
    assert!(q.data.iter().all(|&x| trtc_ir::interp::round(x, DType::Bf16) == x && x.abs() < 0.62));
    let variance = q.data.iter().map(|x| x * x).sum::<f32>() / 48.0;
    assert!((0.04..0.3).contains(&variance), "{variance}");
    assert_eq!(load(&RandomWeights::new(7), &before, "q").data, q.data);
    assert_ne!(load(&RandomWeights::new(8), &before, "q").data, q.data);
    // Without what it learned, the stacked weight is two equal parts.
    assert_ne!(load(&RandomWeights::new(7), &after, "qk").data[48..], k.data[..]);
}
