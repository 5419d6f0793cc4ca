//! The verifier finds each thing it says it checks, and survives what is not a module at all.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::Gen;
use proptest::prelude::*;
use trtc_ir::ops::Add;
use trtc_ir::text::{self, PrintOptions};
use trtc_ir::verify::verify;
use trtc_ir::view::{View, liveness};
use trtc_ir::*;

fn planned() -> Module {
    let source = r#"
llm.module @m target("host") dims(T in 1..8, L in 1..4) arena(512) {
  llm.weight @norm : tensor<4xf32> packed(rows) from ["norm"]
  llm.weight @w : tensor<4x4x!quant<i8:f32, channel>> packed(panel16) from ["a", "b"]
  llm.weight @rope : tensor<2xf32> from rope<4, 10000>
  llm.func @f(%x: tensor<Tx4xf32>, %batch: !llm.batch, %kv: !llm.kv<layer 0, 1 heads, 4, f32, window 8, page 4>, %rows: tensor<Lxi32>) {
    %n = llm.rms_norm %x, @norm {eps = 1e-5} : tensor<Tx4xf32> kernel("1..4" = @a, "5..8" = @b) at(0x0)
    %y = llm.linear %n, @w : tensor<Tx4xf32> at(0x80)
    %s = llm.add %y, %x : tensor<Tx4xf32> at(0x0)
    %g = llm.gather_rows %s, %rows : tensor<Lx4xf32> at(0x100)
    llm.return %g
  }
}"#;
    text::parse(source, "t").unwrap_or_else(|d| panic!("{}", d[0]))
}

fn found(module: &Module) -> Vec<String> {
    verify(module).err().unwrap_or_default().into_iter().map(|d| d.message).collect()
}

fn op(m: &mut Module, i: usize) -> &mut OpData {
    let id = m.func.order[i];
    &mut m.func.ops[id]
}

fn value<'a>(m: &'a mut Module, name: &str) -> &'a mut Value {
    let id = m.func.values.iter().find(|(_, v)| v.name == name).unwrap().0;
    &mut m.func.values[id]
}

fn weight<'a>(m: &'a mut Module, name: &str) -> &'a mut Weight {
    let id = m.weight_named(name).unwrap();
    &mut m.weights[id]
}

fn tensor(dims: &[u64], elem: impl Into<Elem>) -> Type {
    TensorType::fixed(dims, elem).into()
}

#[test]
fn a_planned_module_is_sound() {
    assert_eq!(found(&planned()), Vec::<String>::new());
}

/// What is broken, and a part of the first finding.
type Case = (fn(&mut Module), &'static str);

const CASES: &[Case] = &[
    // Ids.
    (|m| m.func.order.push(OpId(99)), "the order has op99"),
    (|m| m.func.order.push(m.func.order[3]), "is in the order twice"),
    (|m| op(m, 2).op = Add { lhs: ValueId(0), rhs: ValueId(99) }.into(), "llm.add reads v99"),
    (|m| *op(m, 1).op.weights_mut()[0] = WeightId(9), "llm.linear reads w9"),
    (|m| op(m, 0).results[0] = ValueId(77), "result 0 of llm.rms_norm is v77"),
    (|m| m.func.params[0] = ValueId(66), "parameter 0 is v66"),
    (|m| m.func.results[0] = ValueId(55), "function result 0 is v55"),
    (|m| value(m, "x").def = Def::Param(3), "parameter 0, %x, says"),
    (|m| value(m, "n").def = Def::Op(OpId(2), 0), "%n is result 0 of llm.rms_norm"),
    // Names.
    (|m| value(m, "n").name = "x".into(), "%x is the name of two values"),
    (|m| value(m, "n").name.clear(), "has no name"),
    (|m| weight(m, "w").name = "norm".into(), "two weights @norm"),
    // Header.
    (|m| m.dims.push((Sym(b't'), 1, 2)), "'t' is not a capital letter"),
    (|m| m.dims.push((Sym::T, 1, 8)), "dimension T is given twice"),
    (|m| m.dims[1].1 = 0, "the bounds 0..4"),
    (|m| m.dims[1].1 = 5, "the bounds 5..4"),
    (|m| m.target = Some("sm_1".into()), "no target \"sm_1\""),
    // Weights.
    (
        |m| weight(m, "norm").ty = TensorType::rows(Sym::T, &[4], DType::F32),
        "@norm: tensor<Tx4xf32> has a symbolic",
    ),
    (|m| weight(m, "norm").ty = TensorType::fixed(&[0], DType::F32), "none of 0"),
    (|m| weight(m, "norm").ty = TensorType::fixed(&[1 << 40, 1 << 40], DType::F32), "too large"),
    (|m| weight(m, "w").ty.elem = Elem::Quant(Scheme::int4(0)), "has empty blocks"),
    (|m| weight(m, "w").source = Source::Tensors(vec![]), "@w: it has no source"),
    (|m| weight(m, "rope").ty = TensorType::fixed(&[3], DType::F32), "is not the table of 4"),
    (
        |m| {
            let scaling = RopeScaling::Linear { factor: 0.0 };
            weight(m, "rope").source = Source::Rope(RopeFreqs { dim: 4, theta: 1e4, scaling });
        },
        "must be positive and finite, found 0",
    ),
    (|m| weight(m, "norm").packing = Some(Packing::Panel16), "packed in panels but is not a matrix"),
    (|m| weight(m, "norm").packing = Some(Packing::Fragment16), "packed in panels but is not a matrix"),
    (
        |m| {
            weight(m, "w").ty.elem = DType::Bf16.into();
            weight(m, "w").packing = Some(Packing::Fragment16);
        },
        "packed in fragments but is not quantised",
    ),
    // Values.
    (
        |m| {
            m.dims.pop();
        },
        "which has no bounds",
    ),
    (
        |m| {
            value(m, "x").ty =
                TensorType { dims: vec![Dim::Const(4), Dim::Sym(Sym::T)], elem: DType::F32.into() }.into()
        },
        "not outermost",
    ),
    (|m| value(m, "x").ty = tensor(&[8, 0], DType::F32), "has an extent of 0"),
    (|m| value(m, "x").ty = tensor(&[8, 4], Elem::Quant(Scheme::INT8)), "quantised as only weights are"),
    (|m| value(m, "x").ty = tensor(&[8, 2, 2], Elem::Quant(Scheme::FP8_TOKEN)), "it must be (rows, width)"),
    (
        |m| {
            let scheme = Scheme { zero: true, ..Scheme::FP8_TOKEN };
            value(m, "x").ty = tensor(&[8, 4], Elem::Quant(scheme));
        },
        "has zero points but its payload is not an integer",
    ),
    (|m| value(m, "x").ty = tensor(&[u64::MAX, u64::MAX], DType::F32), "is too large"),
    (
        |m| {
            value(m, "kv").ty = Type::Kv(KvType {
                layer: 0,
                heads: 1,
                head_dim: 4,
                dtype: DType::F32,
                window: Some(0),
                page: None,
            })
        },
        "has a part that is 0",
    ),
    (
        |m| {
            value(m, "kv").ty = Type::Kv(KvType {
                layer: 0,
                heads: 1,
                head_dim: 4,
                dtype: DType::I8,
                window: None,
                page: None,
            })
        },
        "must have float elements",
    ),
    (
        |m| {
            let ty = value(m, "kv").ty.clone();
            m.func.add_param("kv_b", ty);
        },
        "%kv_b is a second cache of layer 0",
    ),
    // SSA.
    (|m| m.func.order.swap(0, 1), "llm.linear reads %n, which is not defined before it"),
    (
        |m| {
            m.func.order.pop();
        },
        "function result 0 is %g, which nothing defines",
    ),
    // Ops.
    (
        |m| value(m, "n").ty = TensorType::rows(Sym::T, &[5], DType::F32).into(),
        "llm.rms_norm: the result is tensor<Tx5xf32> and x is tensor<Tx4xf32>",
    ),
    (
        |m| {
            op(m, 0).results.pop();
        },
        "llm.rms_norm: expected 1 result(s), found 0",
    ),
    // Kernels.
    (|m| op(m, 0).kernels[1].from = 6, "not adjacent: 1..4 is followed by 6..8"),
    (|m| op(m, 0).kernels[0].to = 0, "for the range 1..0"),
    (
        |m| {
            op(m, 0).kernels.pop();
        },
        "cover 1..4 but T is in 1..8",
    ),
    // Arena.
    (|m| value(m, "n").offset = None, "%n has no offset though the arena is planned"),
    (|m| m.arena = None, "%n has an offset but there is no arena"),
    (|m| value(m, "batch").offset = Some(0), "%batch has an offset but is !llm.batch"),
    (|m| m.arena = Some(300), "%g has 64 bytes at 0x100, beyond the arena of 300"),
    (|m| value(m, "g").offset = Some(u64::MAX), "beyond the arena"),
    (|m| value(m, "y").offset = Some(0x7f), "%n and %y overlap in the arena"),
    // Locations.
    (|m| op(m, 0).loc = Loc::Fused(vec![Loc::Fused(vec![])]), "has a fused location inside"),
];

#[test]
fn each_check_finds_what_it_is_for() {
    for (i, (breakage, part)) in CASES.iter().enumerate() {
        let mut module = planned();
        breakage(&mut module);
        let found = found(&module);
        assert!(found.iter().any(|m| m.contains(part)), "case {i}: {part:?} is not in {found:#?}");
        // A broken module prints too.
        assert!(text::print(&module, PrintOptions { locs: true }).ends_with("}\n"));
        assert!(!text::print_generic(&module).is_empty());
    }
}

#[test]
fn each_op_refuses_what_does_not_fit() {
    let cases = [
        ("%y = llm.add %x, %tok : tensor<Tx4xf32>", "elements of rhs must be plain floats"),
        ("%y = llm.add %x, %b : tensor<Tx4xf32>", "rhs must be a tensor, found !llm.batch"),
        ("%y = llm.add %x, %wide : tensor<Tx4xf32>", "must have the same dimensions"),
        ("%y = llm.add %x, %x : tensor<Lx4xf32>", "must have the same dimensions"),
        (
            "%y = llm.linear %wide, @w : tensor<Tx4xf32>",
            "x is tensor<Tx8xf32>, but weight @w (tensor<4x4xf32>)",
        ),
        ("%y = llm.linear %x, @w : tensor<Tx5xf32>", "the result is tensor<Tx5xf32>, but weight @w"),
        ("%y = llm.linear %x, @n : tensor<Tx4xf32>", "weight @n must be a matrix"),
        ("%y = llm.linear %x, @w {bias = @n2} : tensor<Tx4xf32>", "bias @n2 has 2 elements"),
        ("%y = llm.linear %x, %wide, @w : tensor<Tx4xf32>", "the residual is tensor<Tx8xf32>"),
        ("%y = llm.linear %x, @w : tensor<Lx4xf32>", "the same number of rows"),
        (
            "%y = llm.rms_norm %x, @n2 {eps = 1e-5} : tensor<Tx4xf32>",
            "weight @n2 is tensor<2xf32> but x has rows of 4",
        ),
        ("%y = llm.rms_norm %x, @n {eps = -1} : tensor<Tx4xf32>", "eps must be finite and not negative"),
        ("%y = llm.embedding %x, @w : tensor<Tx4xf32>", "tokens must be a vector of i32"),
        ("%y = llm.embedding %tok, @w : tensor<Tx5xf32>", "needs 4 columns"),
        ("%y = llm.embedding %rows, @w : tensor<Tx4xf32>", "there are L tokens"),
        ("%y = llm.slice %x {start = 3} : tensor<Tx2xf32>", "2 columns from 3 on"),
        ("%y = llm.slice %x {start = 9223372036854775807} : tensor<Tx2xf32>", "do not lie in x"),
        ("%y = llm.slice %x {start = 0} : tensor<Tx2xbf16>", "the same element type"),
        ("%y = llm.gather_rows %x, %rows : tensor<Lx5xf32>", "L rows of it cannot be"),
        ("%y = llm.gated_act_packed %x {act = silu} : tensor<Tx4xf32>", "but half of x needs 2 columns"),
        (
            "%y = llm.gated_linear %x, @w {act = silu} : tensor<Tx4xf32>",
            "half of the matrix's outputs needs 2 columns",
        ),
        ("%y = llm.gated_linear %wide, @w {act = silu} : tensor<Tx2xf32>", "but weight @w"),
        (
            "%y = llm.gated_linear %x, @w {act = silu, bias = @n2} : tensor<Tx2xf32>",
            "bias @n2 has 2 elements",
        ),
        ("%y = llm.quantize %x : tensor<Tx4xbf16>", "the result must be quantised"),
        ("%y = llm.quantize %x : tensor<Tx8x!quant<f8E4M3FN:f32, token>>", "needs 4 columns"),
        ("%y = llm.quantize %x : tensor<Lx4x!quant<f8E4M3FN:f32, token>>", "the same number of rows"),
        (
            "%y = llm.quantize %x8 : tensor<Tx4x!quant<f8E4M3FN:f32, token>>",
            "elements of x must be plain floats",
        ),
        ("%y = llm.add %x, %x8 : tensor<Tx4xf32>", "elements of rhs must be plain floats"),
        ("%y = llm.linear %x, %x8, @w : tensor<Tx4xf32>", "elements of the residual must be plain floats"),
        (
            "%y = llm.linear %x, @w : tensor<Tx4x!quant<f8E4M3FN:f32, token>>",
            "elements of the result must be plain floats",
        ),
        (
            "%y, %n0 = llm.add_rms_norm %x, %x, @n {eps = 1} : tensor<Tx4x!quant<f8E4M3FN:f32, token>>, tensor<Tx4xf32>",
            "elements of the sum must be plain floats",
        ),
        ("%y = llm.rope %x, %tok, @n2 : tensor<Tx4xf32>", "x must be (tokens, heads, head_dim)"),
        ("%y = llm.rope %q, %tok, @n : tensor<Tx2x4xf32>", "rotates more than a head's 4"),
        ("%y = llm.rope %q, %rows, @n2 : tensor<Tx2x4xf32>", "there are L positions"),
        ("%y = llm.attention %q, %kv, %x {scale = 1} : tensor<Tx8xf32>", "the batch must be an !llm.batch"),
        ("%y = llm.attention %q, %b, %b {scale = 1} : tensor<Tx8xf32>", "the cache must be an llm.kv"),
        (
            "%y = llm.attention %q3, %kv, %b {scale = 1} : tensor<Tx12xf32>",
            "not a multiple of those of the cache",
        ),
        ("%y = llm.attention %q, %kv, %b {scale = 1} : tensor<Tx9xf32>", "or be flattened"),
        (
            "%y = llm.attention %q, %kv, %b {scale = 1, softcap = 0} : tensor<Tx8xf32>",
            "'softcap' must be positive",
        ),
        (
            "%y = llm.attention %q, %kv, %b {scale = 1, products = bf16} : tensor<Tx8xf32>",
            "'products' must be f8E4M3FN, found bf16",
        ),
        ("%y = llm.attention %ql, %kv, %b {scale = 1} : tensor<Lx8xf32>", "one row for each token"),
        ("%y = llm.kv_append %kv, %x, %x, %b : !llm.kv<layer 0, 2 heads, 4, f32>", "needs 8 columns"),
        ("%y = llm.kv_append %kv, %wide, %wide, %b : !llm.kv<layer 1, 2 heads, 4, f32>", "but the cache is"),
        (
            "%q1, %y = llm.rope_kv_append %wide, %tok, %kv, %b, @n2 {heads = 3} : tensor<Tx3x4xf32>, !llm.kv<layer 0, 2 heads, 4, f32>",
            "not a multiple",
        ),
        (
            "%q1, %y = llm.rope_kv_append %wide, %tok, %kv, %b, @n2 {heads = 2} : tensor<Tx2x4xf32>, !llm.kv<layer 0, 2 heads, 4, f32>",
            "needs 24 columns",
        ),
    ];
    for (op, part) in cases {
        let source = format!(
            "llm.module @m dims(T in 1..8, L in 1..4) {{
              llm.weight @w : tensor<4x4xf32> from [\"w\"]
              llm.weight @n : tensor<4xf32> from [\"n\"]
              llm.weight @n2 : tensor<2xf32> from [\"n2\"]
              llm.func @f(%x: tensor<Tx4xf32>, %wide: tensor<Tx8xf32>, %q: tensor<Tx2x4xf32>, %q3: tensor<Tx3x4xf32>,
                %ql: tensor<Lx2x4xf32>, %tok: tensor<Txi32>, %rows: tensor<Lxi32>, %b: !llm.batch,
                %x8: tensor<Tx4x!quant<f8E4M3FN:f32, token>>, %kv: !llm.kv<layer 0, 2 heads, 4, f32>) {{
                {op}
                llm.return %y
              }}
            }}"
        );
        let module = text::parse(&source, "t").unwrap_or_else(|d| panic!("{}", d[0]));
        let found = verify(&module).err().unwrap_or_default();
        assert!(found.iter().any(|d| d.message.contains(part)), "{op}: {part:?} is not in {found:#?}");
        assert!(found.iter().all(|d| matches!(d.loc, Loc::File { line: 8, .. })), "{op}: {found:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    /// Ids that point anywhere: nothing panics.
    #[test]
    fn broken_modules_are_survived(seed: u64) {
        let mut g = Gen::new(seed);
        let mut m = g.module();
        let any = |g: &mut Gen, n: usize| g.below(n + 2) as u32;
        for _ in 0..1 + g.below(4) {
            let (values, ops) = (m.func.values.len(), m.func.ops.len());
            let target = OpId(g.below(ops.max(1)) as u32);
            match g.below(7) {
                0 => m.func.order.push(OpId(any(&mut g, ops))),
                1 => m.func.params.push(ValueId(any(&mut g, values))),
                2 => m.func.results.push(ValueId(any(&mut g, values))),
                3 if ops > 0 => m.func.ops[target].results.push(ValueId(any(&mut g, values))),
                4 if ops > 0 => {
                    let made = ValueId(any(&mut g, values));
                    m.func.ops[target].op.operands_mut().into_iter().for_each(|v| *v = made);
                }
                5 if ops > 0 => {
                    m.func.ops[target].op.weights_mut().into_iter().for_each(|w| *w = WeightId(99));
                }
                _ => {
                    let v = ValueId(g.below(values) as u32);
                    m.func.values[v].def = Def::Op(OpId(any(&mut g, ops)), 7);
                }
            }
        }
        let _ = verify(&m);
        let _ = text::print(&m, PrintOptions { locs: true });
        let _ = text::print_generic(&m);
        let _ = liveness(&m.func);
        let view = View::new(&m.func);
        let _ = (view.topological_order(), view.dot(&m.func));
        for id in 0..m.func.ops.len() as u32 + 1 {
            let _ = text::print(&module::extract(&m, &[OpId(id), OpId(id + 1)]), PrintOptions::default());
        }
        let weights = interp::RandomWeights::new(1);
        prop_assert!(interp::run(&m, &weights, &[]).is_err());
    }
}
