//! Linears of every encoding, type and instruction set, and that a row's result does not depend on its batch.

use super::*;

/// What one linear is made of.
struct Case {
    matrix: Matrix,
    x_type: Dtype,
    out_type: Dtype,
    x: Vec<f32>,
    bias: Option<Vec<f32>>,
    residual: Option<(Dtype, Vec<f32>)>,
}

impl Case {
    fn run(&self, rig: &mut Rig, rows: std::ops::Range<usize>) -> Vec<f32> {
        let (n, k, count) = (self.matrix.n, self.matrix.k, rows.len());
        rig.used = 0;
        rig.dims.tokens = count as u32;
        let mut args = rig.rows(&self.x[rows.start * k..rows.end * k], k, self.x_type);
        args.push(self.matrix.place(rig));
        if let Some(bias) = &self.bias {
            args.push(rig.vector(bias));
        }
        if let Some((dtype, r)) = &self.residual {
            args.push(rig.input(&r[rows.start * n..rows.end * n], *dtype));
        }
        let out = rig.output(count * n, self.out_type);
        args.push(out);
        let kernel = HostKernel::Linear {
            n: n as u32,
            k: k as u32,
            rows: Count::Tokens,
            bias: self.bias.is_some(),
            residual: self.residual.as_ref().map(|r| r.0),
            x: self.x_type,
            out: self.out_type,
        };
        rig.run(kernel, &args);
        rig.read(out, count * n, self.out_type)
    }

    fn check(&self, got: &[f32], what: &str) {
        let (n, k) = (self.matrix.n, self.matrix.k);
        let x = kept(&self.x[..got.len() / n * k], k, self.x_type);
        for (i, &y) in got.iter().enumerate() {
            let (t, o) = (i / n, i % n);
            let x = &x[t * k..(t + 1) * k];
            let w = &self.matrix.values[o * k..(o + 1) * k];
            let products = || x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
            let mut want: f64 = products().sum();
            let mut size: f64 = products().map(f64::abs).sum();
            // The zero point's share is taken off after the sum, so it counts for the size.
            if let Encoding::I4Group { .. } = self.matrix.encoding {
                size *= 4.0;
            }
            if let Some(bias) = &self.bias {
                want += f64::from(bias[o]);
            }
            if let Some((dtype, r)) = &self.residual {
                want += f64::from(round(r[i], *dtype));
            }
            let off = (f64::from(y) - want).abs();
            let most = tolerance(want, size, self.out_type);
            assert!(off <= most, "{what}: ({t}, {o}) is {y}, not {want}: off by {off:e}, at most {most:e}");
        }
    }
}

#[test]
fn every_form_type_and_instruction_set() {
    let mut rng = Rng::new(1);
    let (mut biased, mut added) = (false, 0);
    for (encoding, layout) in FORMS {
        for (n, k) in [(16, 64), (40, 96), (5, 32), (150, 200), (77, 420), (33, 33), (64, 7)] {
            let matrix = Matrix::random(&mut rng, n, k, encoding, layout);
            let Matrix { parts, values, .. } = matrix;
            for (x_type, out_type) in [
                (Dtype::Bf16, Dtype::Bf16),
                (Dtype::Bf16, Dtype::F32),
                (Dtype::F32, Dtype::F32),
                (Dtype::F32, Dtype::Bf16),
                (Dtype::F8E4M3, Dtype::Bf16),
                (Dtype::F8E4M3, Dtype::F32),
            ] {
                let most = 33;
                (biased, added) = (!biased, (added + 1) % 3);
                let case = Case {
                    matrix: Matrix { n, k, encoding, layout, parts: parts.clone(), values: values.clone() },
                    x_type,
                    out_type,
                    x: rng.units(most * k),
                    bias: biased.then(|| rng.units(n)),
                    residual: (added > 0).then(|| (DTYPES[added - 1], rng.units(most * n))),
                };
                for isa in isas() {
                    let mut rig = Rig::new(isa, 2);
                    for rows in [1, 2, 3, 7, 8, 13, 33] {
                        let got = case.run(&mut rig, 0..rows);
                        let what = format!(
                            "{isa:?} {encoding:?} {layout:?} ({n}, {k}) {x_type:?}->{out_type:?} x{rows}"
                        );
                        case.check(&got, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_in_every_batch_and_with_any_number_of_threads() {
    let mut rng = Rng::new(2);
    for (encoding, layout) in FORMS {
        for x_type in [Dtype::F32, Dtype::Bf16, Dtype::F8E4M3] {
            // More inputs than any block, panels that do not divide evenly.
            let (n, k, most) = (16 * 11 + 3, 1000, 40);
            let case = Case {
                matrix: Matrix::random(&mut rng, n, k, encoding, layout),
                x_type,
                out_type: Dtype::F32,
                x: rng.units(most * k),
                bias: Some(rng.units(n)),
                residual: Some((Dtype::F32, rng.units(most * n))),
            };
            for isa in isas() {
                let what = format!("{isa:?} {encoding:?} {layout:?} {x_type:?}");
                let (mut one, mut three) = (Rig::new(isa, 1), Rig::new(isa, 3));
                let whole = case.run(&mut one, 0..most);
                case.check(&whole, &what);
                for rows in [
                    0..1,
                    1..2,
                    0..2,
                    3..6,
                    5..9,
                    7..12,
                    2..8,
                    1..8,
                    4..12,
                    0..9,
                    5..15,
                    3..14,
                    0..12,
                    0..13,
                    9..33,
                ] {
                    for rig in [&mut one, &mut three] {
                        let got = case.run(rig, rows.clone());
                        let same = &whole[rows.start * n..rows.end * n];
                        assert!(
                            got.iter().zip(same).all(|(a, b)| a.to_bits() == b.to_bits()),
                            "{what}: rows {rows:?} differ"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_in_every_batch_for_values_of_every_size() {
    let mut rng = Rng::new(5);
    for (encoding, layout) in FORMS {
        let (n, k, most) = (40, 193, 20);
        // Each row has a size of its own, from denormals to what still has finite sums.
        let mut row = |i: usize| {
            let size = f32::from_bits((1 + i as u32 * 10) << 23);
            (0..k).map(|_| rng.unit() * size).collect::<Vec<f32>>()
        };
        let x: Vec<f32> = (0..most).flat_map(&mut row).collect();
        let matrix = Matrix::random(&mut rng, n, k, encoding, layout);
        for isa in isas() {
            let case = Case {
                matrix: Matrix { parts: matrix.parts.clone(), values: vec![], ..matrix },
                x_type: Dtype::Bf16,
                out_type: Dtype::F32,
                x: x.clone(),
                bias: None,
                residual: None,
            };
            let mut rig = Rig::new(isa, 2);
            let whole = case.run(&mut rig, 0..most);
            assert!(whole.iter().all(|y| y.is_finite()));
            for row in 0..most {
                let alone = case.run(&mut rig, row..row + 1);
                let same = &whole[row * n..(row + 1) * n];
                assert!(
                    alone.iter().zip(same).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{isa:?} {encoding:?} {layout:?}: row {row} differs"
                );
            }
        }
    }
}

#[test]
fn i4_without_zero_points_is_zero_points_of_zero() {
    let mut rng = Rng::new(3);
    let mut matrix = Matrix::random(&mut rng, 40, 256, Encoding::I4Group { group: 64 }, Layout::Panel16);
    matrix.parts.zero.fill(0);
    let x = rng.units(14 * 256);
    let case = Case { matrix, x_type: Dtype::Bf16, out_type: Dtype::F32, x, bias: None, residual: None };
    for isa in isas() {
        for rows in [1, 14] {
            let mut rig = Rig::new(isa, 1);
            let with = case.run(&mut rig, 0..rows);
            let mut parts = case.matrix.parts.clone();
            parts.zero.clear();
            let Matrix { n, k, encoding, layout, .. } = case.matrix;
            let matrix = Matrix { n, k, encoding, layout, parts, values: vec![] };
            let without = Case { matrix, x: case.x.clone(), bias: None, residual: None, ..case };
            assert_eq!(with, without.run(&mut rig, 0..rows), "{isa:?}");
        }
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let mut rng = Rng::new(4);
    let mut rig = Rig::new(Isa::Scalar, 1);
    rig.dims.tokens = 2;
    let w = Matrix::random(&mut rng, 16, 32, Encoding::Bf16, Layout::Panel16).place(&mut rig);
    let x = rig.input(&rng.units(64), Dtype::F32);
    let out = rig.output(32, Dtype::F32);
    let kernel = |n, k, bias| HostKernel::Linear {
        n,
        k,
        rows: Count::Tokens,
        bias,
        residual: None,
        x: Dtype::F32,
        out: Dtype::F32,
    };
    rig.run(kernel(16, 32, false), &[x, w, out]);
    let mut fails = |kernel: HostKernel, args: &[Arg], why: &str| {
        let message = rig.try_run(kernel, args).unwrap_err().message;
        assert!(message.contains(why) && message.starts_with("kernel test: "), "{message}");
    };
    fails(kernel(32, 32, false), &[x, w, out], "must be [32, 32], found [16, 32]");
    fails(kernel(16, 32, true), &[x, w, out], "argument 3 (bias)");
    fails(kernel(16, 32, false), &[x, w], "argument 3 (out)");
    fails(kernel(16, 32, false), &[x, w, out, out], "4 arguments are given");
    fails(kernel(16, 32, false), &[x, w, x], "overlaps");
    fails(kernel(16, 32, false), &[w, w, out], "argument 1 (x)");
    fails(kernel(16, 32, false), &[x, Arg::Weight(9), out], "a weight that is bound");
    fails(kernel(16, 32, false), &[x, w, Arg::Arena(ARENA - 4)], "needs 128 bytes");
    fails(kernel(16, 32, false), &[Arg::Arena(2), w, out], "aligned");
}
