//! Each op's reference semantics against values worked out by hand.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::rc::Rc;
use trtc_ir::interp::{Batch, Data, KvState, Segment, Tensor, Weights, run};
use trtc_ir::{Module, WeightId, text};

/// Weights by name.
struct Named(BTreeMap<&'static str, Vec<f32>>);

impl Weights for Named {
    fn load(&self, module: &Module, weight: WeightId) -> Result<Rc<Tensor>, String> {
        let w = &module.weights[weight];
        let data = self.0.get(w.name.as_str()).ok_or("it has no values")?.clone();
        let dims = w.ty.shape().unwrap().iter().map(|&d| d as usize).collect();
        Ok(Rc::new(Tensor { dims, data }))
    }
}

/// Runs the body of a function with `T in 1..8, L in 1..8`.
fn eval(
    weights: &[(&'static str, &str, &[f32])],
    params: &str,
    body: &str,
    inputs: &[Data],
) -> Result<Vec<Data>, String> {
    let declared: String = weights
        .iter()
        .map(|(name, ty, _)| format!("llm.weight @{name} : {ty} from [\"{name}\"]\n"))
        .collect();
    let source = format!(
        "llm.module @t dims(T in 1..8, L in 1..8) {{\n{declared}llm.func @f({params}) {{\n{body}\n}}\n}}"
    );
    let module = text::parse(&source, "t").unwrap_or_else(|d| panic!("{}\n{source}", d[0]));
    let values = Named(weights.iter().map(|(name, _, v)| (*name, v.to_vec())).collect());
    run(&module, &values, inputs).map_err(|d| d.to_string())
}

fn floats(dims: &[usize], data: &[f32]) -> Data {
    Data::Float(Tensor { dims: dims.to_vec(), data: data.to_vec() })
}

#[track_caller]
fn assert_close(found: &Data, dims: &[usize], wanted: &[f32]) {
    let Data::Float(t) = found else { panic!("not floats: {found:?}") };
    assert_eq!(t.dims, dims);
    let near = |a: f32, b: f32| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
    assert!(
        t.data.len() == wanted.len() && t.data.iter().zip(wanted).all(|(a, b)| near(*a, *b)),
        "{:?}",
        t.data
    );
}

fn batch(segments: &[(usize, usize, usize)]) -> Data {
    let segments = segments.iter().map(|&(seq, start, len)| Segment { seq, start, len }).collect();
    Data::Batch(Rc::new(Batch { segments }))
}

fn empty_cache() -> Data {
    Data::Kv(Rc::new(KvState::default()))
}

#[test]
fn embedding() {
    let table: &[f32] = &[1., 2., 3., 4., 5., 6.];
    let weights = [("w", "tensor<3x2xf32>", table)];
    let body = "%y = llm.embedding %t, @w {scale = 2.0} : tensor<Tx2xf32>\n llm.return %y";
    let y = eval(&weights, "%t: tensor<Txi32>", body, &[Data::Int(vec![2, 0])]).unwrap();
    assert_close(&y[0], &[2, 2], &[10., 12., 2., 4.]);
    for token in [3, -1] {
        let error = eval(&weights, "%t: tensor<Txi32>", body, &[Data::Int(vec![token])]).unwrap_err();
        assert!(error.contains("llm.embedding") && error.contains(&format!("token {token}")), "{error}");
        assert!(error.contains("\"t\":"), "the place is missing: {error}");
    }
}

#[test]
fn rms_norm() {
    // Mean of squares of (3, 4) is 12.5; with eps 3.5 the root is 4.
    let weights: [(_, _, &[f32]); 1] = [("w", "tensor<2xf32>", &[1., 3.])];
    let body = "%y = llm.rms_norm %x, @w {eps = 3.5, offset = 1.0} : tensor<Tx2xf32>\n llm.return %y";
    let y = eval(&weights, "%x: tensor<Tx2xf32>", body, &[floats(&[1, 2], &[3., 4.])]).unwrap();
    assert_close(&y[0], &[1, 2], &[3. / 4. * 2., 4. / 4. * 4.]);
    // The last of three dimensions.
    let body = "%y = llm.rms_norm %x, @w {eps = 3.5} : tensor<Tx2x2xf32>\n llm.return %y";
    let y = eval(&weights, "%x: tensor<Tx2x2xf32>", body, &[floats(&[1, 2, 2], &[3., 4., -4., 3.])]).unwrap();
    assert_close(&y[0], &[1, 2, 2], &[0.75, 3., -1., 2.25]);
}

#[test]
fn linear_with_bias_and_residual() {
    let weights: [(_, _, &[f32]); 2] = [
        ("w", "tensor<4x3xf32>", &[1., 0., 0., 0., 1., 0., 0., 0., 1., 1., 1., 1.]),
        ("b", "tensor<4xf32>", &[0.5; 4]),
    ];
    let body = "%y = llm.linear %x, %r, @w {bias = @b} : tensor<Tx2x2xf32>\n llm.return %y";
    let inputs =
        [floats(&[2, 3], &[1., 2., 3., -1., 0., 1.]), floats(&[2, 4], &[10., 10., 10., 10., 0., 0., 0., 0.])];
    let y = eval(&weights, "%x: tensor<Tx3xf32>, %r: tensor<Tx4xf32>", body, &inputs).unwrap();
    assert_close(&y[0], &[2, 2, 2], &[11.5, 12.5, 13.5, 16.5, -0.5, 0.5, 1.5, 0.5]);
}

#[test]
fn linear_rounds_once() {
    // 256 + 1 + 1 = 258 is a bf16; rounding 257 first would give 256 + 1 = 257, which rounds to 256.
    let weights: [(_, _, &[f32]); 1] = [("w", "tensor<1x2xf32>", &[256., 1.])];
    let body = "%y = llm.linear %x, %r, @w : tensor<Tx1xbf16>\n llm.return %y";
    let inputs = [floats(&[1, 2], &[1., 1.]), floats(&[1, 1], &[1.])];
    let y = eval(&weights, "%x: tensor<Tx2xf32>, %r: tensor<Tx1xf32>", body, &inputs).unwrap();
    assert_close(&y[0], &[1, 1], &[258.]);
}

#[test]
fn add_slice_and_gather() {
    let body = "%s = llm.add %a, %b : tensor<Tx4xf32>
        %c = llm.slice %s {start = 1} : tensor<Tx2xf32>
        %y = llm.gather_rows %c, %rows : tensor<Lx2xf32>
        llm.return %s, %y";
    let params = "%a: tensor<Tx4xf32>, %b: tensor<Tx4xbf16>, %rows: tensor<Lxi32>";
    let a = floats(&[2, 4], &[1., 2., 3., 4., 5., 6., 7., 8.]);
    // 1.001 is rounded to bf16 on the way in.
    let b = floats(&[2, 4], &[1.001, 0., 0., 0., 0., 0., 0., 0.]);
    let y = eval(&[], params, body, &[a.clone(), b.clone(), Data::Int(vec![1, 0, 1])]).unwrap();
    assert_close(&y[0], &[2, 4], &[2., 2., 3., 4., 5., 6., 7., 8.]);
    assert_close(&y[1], &[3, 2], &[6., 7., 2., 3., 6., 7.]);
    assert!(eval(&[], params, body, &[a, b, Data::Int(vec![2])]).unwrap_err().contains("row 2"));
}

#[test]
fn gated_activations() {
    let silu = |x: f32| x / (1. + (-x).exp());
    let x = [-1.5, 0., 2.];
    let gelu = [-0.100_428_f32, 0., 1.954_598];
    for (act, wanted) in [("silu", x.map(silu)), ("gelu_tanh", gelu)] {
        let body = format!("%y = llm.gated_act %g, %u {{act = {act}}} : tensor<Tx3xf32>\n llm.return %y");
        let inputs = [floats(&[1, 3], &x), floats(&[1, 3], &[2., 3., 10.])];
        let y = eval(&[], "%g: tensor<Tx3xf32>, %u: tensor<Tx3xf32>", &body, &inputs).unwrap();
        let wanted = [wanted[0] * 2., wanted[1] * 3., wanted[2] * 10.];
        assert_close(&y[0], &[1, 3], &wanted);
        let body = format!("%y = llm.gated_act_packed %x {{act = {act}}} : tensor<Tx3xf32>\n llm.return %y");
        let both = floats(&[1, 6], &[x[0], x[1], x[2], 2., 3., 10.]);
        assert_close(&eval(&[], "%x: tensor<Tx6xf32>", &body, &[both]).unwrap()[0], &[1, 3], &wanted);
    }
}

#[test]
fn a_gated_linear_is_a_linear_then_the_activation_of_its_halves() {
    let weights: [(_, _, &[f32]); 2] = [
        ("w", "tensor<4x2xf32>", &[1., -1., 0.5, 2., 3., 0., -1., 4.]),
        ("b", "tensor<4xf32>", &[0.25, -1., 2., 0.5]),
    ];
    let x = [floats(&[2, 2], &[1., 2., -3., 0.5])];
    for act in ["silu", "gelu_tanh"] {
        for (with_act, alone) in [("", ""), (", bias = @b", " {bias = @b}")] {
            let fused = format!(
                "%y = llm.gated_linear %x, @w {{act = {act}{with_act}}} : tensor<Tx2xf32>
                llm.return %y"
            );
            let apart = format!(
                "%z = llm.linear %x, @w{alone} : tensor<Tx4xf32>
                %y = llm.gated_act_packed %z {{act = {act}}} : tensor<Tx2xf32>
                llm.return %y"
            );
            let run = |body: &str| eval(&weights, "%x: tensor<Tx2xf32>", body, &x).unwrap();
            assert_eq!(run(&fused), run(&apart), "{act}{alone}");
        }
    }
}

#[test]
fn add_rms_norm_is_add_then_rms_norm() {
    let weights: [(_, _, &[f32]); 1] = [("w", "tensor<2xf32>", &[1., 3.])];
    let params = "%x: tensor<Tx2xbf16>, %r: tensor<Tx2xbf16>";
    let inputs = [floats(&[2, 2], &[1., 2., 300., -7.]), floats(&[2, 2], &[2., 2., 1., 0.3])];
    let fused = "%h, %n = llm.add_rms_norm %x, %r, @w {eps = 3.5} : tensor<Tx2xbf16>, tensor<Tx2xf32>
        llm.return %h, %n";
    let apart = "%h = llm.add %x, %r : tensor<Tx2xbf16>
        %n = llm.rms_norm %h, @w {eps = 3.5} : tensor<Tx2xf32>
        llm.return %h, %n";
    let fused = eval(&weights, params, fused, &inputs).unwrap();
    assert_eq!(fused, eval(&weights, params, apart, &inputs).unwrap());
    // 301 lies between the bf16 neighbours 300 and 302: to even.
    assert_close(&fused[0], &[2, 2], &[3., 4., 300., -6.6875]);
    let Data::Float(n) = &fused[1] else { panic!() };
    assert_eq!(n.data[..2], [0.75, 3.]);
}

#[test]
fn quantised_values_have_a_scale_for_each_token() {
    // Largest 448 and 44.8: steps of 32 and of 3.2 at the top, the smaller values on grids of their own.
    let x = [448., 100., -0.3, 0., -44.8, 10.1, 0.03, 33.];
    let wanted = [448., 96., -0.3125, 0., -44.8, 10.4, 0.03125, 32.];
    let ty = "tensor<Tx4x!quant<f8E4M3FN:f32, token>>";
    let body = format!("%y = llm.quantize %x : {ty}\n llm.return %y");
    let y = eval(&[], "%x: tensor<Tx2x2xf32>", &body, &[floats(&[2, 2, 2], &x)]).unwrap();
    assert_close(&y[0], &[2, 4], &wanted);
    // A parameter of that type is quantised on the way in, and a linear reads what is left.
    let weights: [(_, _, &[f32]); 1] = [("w", "tensor<1x4xf32>", &[1., 1., 1., 0.])];
    let body = "%y = llm.linear %x, @w : tensor<Tx1xf32>\n llm.return %y";
    let sums = [wanted[..3].iter().sum(), wanted[4..7].iter().sum()];
    let y = eval(&weights, &format!("%x: {ty}"), body, &[floats(&[2, 4], &x)]).unwrap();
    assert_close(&y[0], &[2, 1], &sums);
    // Ops whose kernels have a row at hand store the type themselves, without rounding to another between.
    let act = format!("%y = llm.gated_act %x, %x {{act = silu}} : {ty}\n llm.return %y");
    let apart = format!(
        "%s = llm.gated_act %x, %x {{act = silu}} : tensor<Tx4xf32>
        %y = llm.quantize %s : {ty}\n llm.return %y"
    );
    let run = |body: &str| eval(&[], "%x: tensor<Tx4xf32>", body, &[floats(&[2, 4], &x)]).unwrap();
    assert_eq!(run(&act), run(&apart));
    let error = eval(&[], "%x: tensor<Tx4xf32>", &act, &[floats(&[1, 4], &[0., f32::NAN, 0., 0.])]);
    assert!(error.unwrap_err().contains("the value NaN in column 1 is not finite"));
}

#[test]
fn rope_turns_the_first_elements_and_passes_the_rest() {
    let half_pi = std::f32::consts::FRAC_PI_2;
    let weights: [(_, _, &[f32]); 1] = [("f", "tensor<1xf32>", &[half_pi])];
    let body = "%y = llm.rope %x, %p, @f : tensor<Tx2x3xf32>\n llm.return %y";
    let inputs =
        [floats(&[2, 2, 3], &[1., 2., 3., 4., 5., 6., 1., 2., 3., 4., 5., 6.]), Data::Int(vec![0, 1])];
    let y = eval(&weights, "%x: tensor<Tx2x3xf32>, %p: tensor<Txi32>", body, &inputs).unwrap();
    assert_close(&y[0], &[2, 2, 3], &[1., 2., 3., 4., 5., 6., -2., 1., 3., -5., 4., 6.]);
}

const ATTENTION: &str = "%kv1 = llm.kv_append %kv, %k, %v, %b : !llm.kv<layer 0, 1 heads, 2, f32WINDOW>
    %y = llm.attention %q, %kv1, %b {scale = 1.0ATTRS} : tensor<Tx4xf32>
    llm.return %y, %kv1";

fn attention(window: &str, attrs: &str, inputs: &[Data]) -> Result<Vec<Data>, String> {
    let params = "%kv: !llm.kv<layer 0, 1 heads, 2, f32WINDOW>, %b: !llm.batch, %q: tensor<Tx2x2xf32>,
        %k: tensor<Tx1x2xf32>, %v: tensor<Tx2xf32>";
    let body = ATTENTION.replace("WINDOW", window).replace("ATTRS", attrs);
    eval(&[], &params.replace("WINDOW", window), &body, inputs)
}

#[test]
fn attention_is_causal_grouped_and_continues_from_the_cache() {
    let ln = |x: f32| x.ln();
    // Keys (1, 0), (0, 1), (0, 0); values (8, 0), (0, 8), (4, 4). Queries pick weights by their logarithms.
    let k = floats(&[3, 1, 2], &[1., 0., 0., 1., 0., 0.]);
    let v = floats(&[3, 2], &[8., 0., 0., 8., 4., 4.]);
    let q = [0., 0., 0., 0., ln(3.), 0., 0., ln(3.), ln(2.), 0., 0., ln(6.)];
    let all = [empty_cache(), batch(&[(7, 0, 3)]), floats(&[3, 2, 2], &q), k, v];
    let y = attention("", "", &all).unwrap();
    // Token 0 sees itself. Token 1 weighs 3:1 and 1:3. Token 2 weighs 2:1:1 and 1:6:1.
    let wanted = [8., 0., 8., 0., 6., 2., 2., 6., 5., 3., 12. / 8., 52. / 8.];
    assert_close(&y[0], &[3, 4], &wanted);

    // The same in two steps, the second of which another request shares.
    let first = [
        empty_cache(),
        batch(&[(7, 0, 1)]),
        floats(&[1, 2, 2], &q[..4]),
        floats(&[1, 1, 2], &[1., 0.]),
        floats(&[1, 2], &[8., 0.]),
    ];
    let step = attention("", "", &first).unwrap();
    assert_close(&step[0], &[1, 4], &wanted[..4]);
    let mut later_q = q[4..].to_vec();
    later_q.extend([5., 5., -5., 5.]);
    let second = [
        step[1].clone(),
        batch(&[(7, 1, 2), (3, 0, 1)]),
        floats(&[3, 2, 2], &later_q),
        floats(&[3, 1, 2], &[0., 1., 0., 0., 9., 9.]),
        floats(&[3, 2], &[0., 8., 4., 4., 1., 2.]),
    ];
    let step = attention("", "", &second).unwrap();
    let mut later = wanted[4..].to_vec();
    later.extend([1., 2., 1., 2.]);
    assert_close(&step[0], &[3, 4], &later);

    // A position that does not follow what the cache holds.
    let gap = [step[1].clone(), batch(&[(7, 5, 1)]), first[2].clone(), first[3].clone(), first[4].clone()];
    let error = attention("", "", &gap).unwrap_err();
    assert!(error.contains("position 5") && error.contains("holds 3 tokens"), "{error}");
}

#[test]
fn attention_window_and_softcap() {
    let k = floats(&[3, 1, 2], &[1., 0., 0., 1., 0., 0.]);
    let v = floats(&[3, 2], &[8., 0., 0., 8., 4., 4.]);
    let q = floats(&[3, 2, 2], &[0.; 12]);
    let inputs = [empty_cache(), batch(&[(0, 0, 3)]), q, k.clone(), v.clone()];
    let y = attention(", window 2", "", &inputs).unwrap();
    assert_close(&y[0], &[3, 4], &[8., 0., 8., 0., 4., 4., 4., 4., 2., 6., 2., 6.]);

    let inputs = [empty_cache(), batch(&[(0, 0, 3)]), floats(&[3, 2, 2], &[30.; 12]), k, v];
    let y = attention("", ", softcap = 0.5", &inputs).unwrap();
    // Scores 30, 30, 0 become 0.5 tanh(60), the same, and 0.
    let (a, b) = (0.5f32.exp(), 1.0);
    let last = (8. * a + 4. * b) / (2. * a + b);
    let Data::Float(t) = &y[0] else { panic!() };
    assert!((t.data[8] - last).abs() < 1e-5 && (t.data[9] - last).abs() < 1e-5, "{:?}", t.data);
}

#[test]
fn attention_of_rounded_queries() {
    let k = floats(&[2, 1, 2], &[1., 0., 0., 1.]);
    let v = floats(&[2, 2], &[8., 0., 0., 8.]);
    // 27.9 is between 224 and 448 times 2^-4, where codes are 32 apart, 2 in numbers. 3.2 is so times 2^-7: 409.6 becomes 416, and
    // 3.84 becomes 3.75.
    let q = [20.9, 27.9, 0.03, 3.2];
    let rounded = [20., 28., 3.75 / 128., 3.25];
    let inputs = |q: &[f32]| {
        let q = [&[0.; 4], q].concat();
        [empty_cache(), batch(&[(0, 0, 2)]), floats(&[2, 2, 2], &q), k.clone(), v.clone()]
    };
    let y = attention("", ", products = f8E4M3FN", &inputs(&q)).unwrap();
    assert_eq!(y, attention("", "", &inputs(&rounded)).unwrap());
    assert_eq!(y, attention("", ", products = f8E4M3FN", &inputs(&rounded)).unwrap());
    assert_ne!(y[0], attention("", "", &inputs(&q)).unwrap()[0]);
}

#[test]
fn kv_append_rounds_to_the_cache() {
    let body =
        "%kv1 = llm.kv_append %kv, %k, %v, %b : !llm.kv<layer 0, 1 heads, 2, f8E4M3FN>\n llm.return %kv1";
    let params = "%kv: !llm.kv<layer 0, 1 heads, 2, f8E4M3FN>, %b: !llm.batch, %k: tensor<Tx2xf32>, %v: tensor<Tx2xf32>";
    let inputs =
        [empty_cache(), batch(&[(0, 0, 1)]), floats(&[1, 2], &[1.05, 1000.]), floats(&[1, 2], &[17., -17.])];
    let y = eval(&[], params, body, &inputs).unwrap();
    let Data::Kv(kv) = &y[0] else { panic!() };
    // Each head's key, and each value, has its own scale, by which its largest becomes 448. 1.05 in scales of the key
    // is 0.4704, and codes there are 1/32 apart.
    let scale = 1000f32 / 448.0;
    assert_eq!(kv.seqs[&0], [(vec![15.0 / 32.0 * scale, 448.0 * scale], vec![17., -17.])]);
}

/// The fused op against slices, norms, ropes and the append, in f32 where no rounding tells them apart.
#[test]
fn rope_kv_append_is_its_parts() {
    let weights: [(_, _, &[f32]); 3] = [
        ("f", "tensor<2xf32>", &[0.3, 0.7]),
        ("qn", "tensor<4xf32>", &[1., 2., 0.5, -1.]),
        ("kn", "tensor<4xf32>", &[0.1, 0.2, 0.3, 0.4]),
    ];
    let params =
        "%x: tensor<Tx16xf32>, %p: tensor<Txi32>, %kv: !llm.kv<layer 0, 1 heads, 4, f32>, %b: !llm.batch";
    let fused = "%q, %kv1 = llm.rope_kv_append %x, %p, %kv, %b, @f
            {heads = 2, q_norm = @qn, q_eps = 1e-5, q_offset = 1.0, k_norm = @kn, k_eps = 1e-3}
            : tensor<Tx2x4xf32>, !llm.kv<layer 0, 1 heads, 4, f32>
        llm.return %q, %kv1";
    let apart = "%q0 = llm.slice %x {start = 0} : tensor<Tx2x4xf32>
        %k0 = llm.slice %x {start = 8} : tensor<Tx1x4xf32>
        %v0 = llm.slice %x {start = 12} : tensor<Tx1x4xf32>
        %q1 = llm.rms_norm %q0, @qn {eps = 1e-5, offset = 1.0} : tensor<Tx2x4xf32>
        %k1 = llm.rms_norm %k0, @kn {eps = 1e-3} : tensor<Tx1x4xf32>
        %q2 = llm.rope %q1, %p, @f : tensor<Tx2x4xf32>
        %k2 = llm.rope %k1, %p, @f : tensor<Tx1x4xf32>
        %kv1 = llm.kv_append %kv, %k2, %v0, %b : !llm.kv<layer 0, 1 heads, 4, f32>
        llm.return %q2, %kv1";
    let x: Vec<f32> = (0..32).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
    let inputs = [floats(&[2, 16], &x), Data::Int(vec![0, 3]), empty_cache(), batch(&[(0, 0, 1), (1, 0, 1)])];
    let y = eval(&weights, params, fused, &inputs).unwrap();
    assert_eq!(y, eval(&weights, params, apart, &inputs).unwrap());
    let Data::Kv(kv) = &y[1] else { panic!() };
    assert_eq!(kv.seqs[&1][0].1, x[28..]);
    // By hand: the first token is at position 0, so q is the norm alone.
    let Data::Float(q) = &y[0] else { panic!() };
    let mean = x[..4].iter().map(|v| v * v).sum::<f32>() / 4.0;
    assert!((q.data[1] - x[1] / mean.sqrt() * 3.0).abs() < 1e-4, "{:?}", q.data);
}

#[test]
fn inputs_are_checked() {
    let body = "%y = llm.add %a, %b : tensor<Tx2xf32>\n llm.return %y";
    let params = "%a: tensor<Tx2xf32>, %b: tensor<Tx2xf32>";
    let one = |rows| floats(&[rows, 2], &vec![1.0; rows * 2]);
    for (inputs, part) in [
        (vec![one(1)], "2 parameters"),
        (vec![one(1), one(2)], "T = 2 where it was 1"),
        (vec![one(9), one(9)], "T = 9"),
        (vec![one(1), Data::Int(vec![1])], "found integers"),
        (vec![one(1), floats(&[1, 3], &[0.; 3])], "[1, 3]"),
        (vec![one(1), floats(&[1, 2], &[0.; 3])], "3 elements"),
    ] {
        let error = eval(&[], params, body, &inputs).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let body = "%y = llm.add %a, %b : tensor<Tx3xf32>\n llm.return %y";
    assert!(
        eval(&[], params, body, &[one(1), one(1)])
            .unwrap_err()
            .contains("llm.add: the result is tensor<Tx3xf32>")
    );
}
