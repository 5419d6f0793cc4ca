//! Embedding, norms, sums, gated activations, slices and picked rows.

use super::*;

fn check(got: &[f32], want: impl Iterator<Item = f64>, dtype: Dtype, what: &str) {
    let mut count = 0;
    for (i, (&y, want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(y) - want).abs();
        assert!(off <= tolerance(want, want.abs(), dtype), "{what}: element {i} is {y}, not {want}");
        count += 1;
    }
    assert_eq!(count, got.len(), "{what}");
}

/// The types of a kernel's operands, every combination.
fn types<const N: usize>() -> impl Iterator<Item = [Dtype; N]> {
    (0..1usize << N).map(|bits| std::array::from_fn(|i| DTYPES[bits >> i & 1]))
}

const ROWS: [usize; 4] = [1, 3, 13, 70];

#[test]
fn embedding_of_every_form() {
    let mut rng = Rng::new(10);
    for (encoding, layout) in FORMS {
        for width in [64, 200, 33] {
            let vocab = 37;
            let table = Matrix::random(&mut rng, vocab, width, encoding, layout);
            for out in DTYPES {
                for isa in isas() {
                    for rows in [1, 13, 300] {
                        let mut rig = Rig::new(isa, 2);
                        let tokens: Vec<i32> = (0..rows).map(|_| rng.below(vocab) as i32).collect();
                        rig.ints(rig.bind.tokens, &tokens);
                        rig.dims.tokens = rows as u32;
                        let weight = table.place(&mut rig);
                        let y = rig.output(rows * width, out);
                        let kernel = HostKernel::Embedding { width: width as u32, scale: 2.5, out };
                        rig.run(kernel, &[Arg::Tokens, weight, y]);
                        let got = rig.read(y, rows * width, out);
                        let want = tokens.iter().flat_map(|&t| &table.values[t as usize * width..][..width]);
                        let what = format!("{isa:?} {encoding:?} {layout:?} {width}");
                        check(&got, want.map(|&v| 2.5 * f64::from(v)), out, &what);
                    }
                }
            }
        }
    }
    let mut rig = Rig::new(Isa::Scalar, 1);
    let weight = Matrix::random(&mut rng, 4, 8, Encoding::F32, Layout::Rows).place(&mut rig);
    let y = rig.output(8, Dtype::F32);
    rig.dims.tokens = 1;
    for bad in [4, -1] {
        rig.ints(rig.bind.tokens, &[bad]);
        let kernel = HostKernel::Embedding { width: 8, scale: 1.0, out: Dtype::F32 };
        let error = rig.try_run(kernel, &[Arg::Tokens, weight, y]).unwrap_err();
        assert!(error.message.contains(&format!("token {bad} is not within 0..4")), "{}", error.message);
    }
}

/// `(row / sqrt(mean(row^2) + eps)) * (w + offset)`.
fn norm(x: &[f64], w: &[f32], eps: f32, offset: f32) -> Vec<f64> {
    x.chunks_exact(w.len())
        .flat_map(|row| {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
            row.iter().zip(w).map(move |(v, w)| v * inverse * (f64::from(*w) + f64::from(offset)))
        })
        .collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn rms_norm() {
    let mut rng = Rng::new(11);
    for isa in isas() {
        for [x_type, out] in types() {
            for (width, per_token) in [(576, 1), (64, 9), (100, 3), (7, 1), (33, 2)] {
                for rows in ROWS {
                    let mut rig = Rig::new(isa, 2);
                    let count = rows * per_token * width;
                    let (x, w) = (rng.units(count), rng.units(width));
                    rig.dims.rows = rows as u32;
                    let args = [rig.input(&x, x_type), rig.vector(&w), rig.output(count, out)];
                    let kernel = HostKernel::RmsNorm {
                        width: width as u32,
                        per_token: per_token as u32,
                        eps: 1e-5,
                        offset: 1.0,
                        rows: Count::Rows,
                        x: x_type,
                        out,
                    };
                    rig.run(kernel, &args);
                    let want = norm(&wide(&rounded(&x, x_type)), &w, 1e-5, 1.0);
                    let got = rig.read(args[2], count, out);
                    check(&got, want.into_iter(), out, &format!("{isa:?} {x_type:?} {width}x{rows}"));
                }
            }
        }
    }
}

#[test]
fn rms_norm_reads_bf16_weights() {
    let mut rng = Rng::new(12);
    let (x, w) = (rng.units(64), rng.units(32));
    let mut rig = Rig::new(Isa::Scalar, 1);
    rig.dims.tokens = 2;
    let parts = Packed { payload: encode(&w, Dtype::Bf16), ..Packed::default() };
    let weight = rig.weight(&[32], Encoding::Bf16, Layout::Rows, &parts);
    let args = [rig.input(&x, Dtype::F32), weight, rig.output(64, Dtype::F32)];
    let kernel = HostKernel::RmsNorm {
        width: 32,
        per_token: 1,
        eps: 1e-6,
        offset: 0.0,
        rows: Count::Tokens,
        x: Dtype::F32,
        out: Dtype::F32,
    };
    rig.run(kernel, &args);
    let want = norm(&wide(&x), &rounded(&w, Dtype::Bf16), 1e-6, 0.0);
    check(&rig.read(args[2], 64, Dtype::F32), want.into_iter(), Dtype::F32, "bf16 weight");
}

#[test]
fn add_rms_norm() {
    let mut rng = Rng::new(13);
    for isa in isas() {
        for [x_type, residual, h, out] in types() {
            for width in [576, 33] {
                for rows in ROWS {
                    let mut rig = Rig::new(isa, 2);
                    let count = rows * width;
                    let (x, r, w) = (rng.units(count), rng.units(count), rng.units(width));
                    rig.dims.tokens = rows as u32;
                    let args = [
                        rig.input(&x, x_type),
                        rig.input(&r, residual),
                        rig.vector(&w),
                        rig.output(count, h),
                        rig.output(count, out),
                    ];
                    let kernel = HostKernel::AddRmsNorm {
                        width: width as u32,
                        eps: 1e-5,
                        offset: 0.0,
                        rows: Count::Tokens,
                        x: x_type,
                        residual,
                        h,
                        out,
                    };
                    rig.run(kernel, &args);
                    let sum: Vec<f32> = x
                        .iter()
                        .zip(&r)
                        .map(|(&a, &b)| round(round(a, x_type) + round(b, residual), h))
                        .collect();
                    assert_eq!(rig.read(args[3], count, h), sum);
                    let want = norm(&wide(&sum), &w, 1e-5, 0.0);
                    check(
                        &rig.read(args[4], count, out),
                        want.into_iter(),
                        out,
                        &format!("{isa:?} {width}x{rows}"),
                    );
                }
            }
        }
    }
}

#[test]
fn add() {
    let mut rng = Rng::new(14);
    for isa in isas() {
        for [lhs, rhs, out] in types() {
            for rows in ROWS {
                let mut rig = Rig::new(isa, 2);
                let count = rows * 133;
                let (a, b) = (rng.units(count), rng.units(count));
                rig.dims.tokens = rows as u32;
                let args = [rig.input(&a, lhs), rig.input(&b, rhs), rig.output(count, out)];
                rig.run(HostKernel::Add { width: 133, rows: Count::Tokens, lhs, rhs, out }, &args);
                let want: Vec<f32> =
                    a.iter().zip(&b).map(|(&a, &b)| round(round(a, lhs) + round(b, rhs), out)).collect();
                assert_eq!(rig.read(args[2], count, out), want, "{isa:?}");
            }
        }
    }
}

fn activation(act: Act, x: f64) -> f64 {
    match act {
        Act::Silu => x / (1.0 + (-x).exp()),
        Act::GeluTanh => {
            x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
    }
}

#[test]
fn gated_act() {
    let mut rng = Rng::new(15);
    for isa in isas() {
        for [x_type, out] in types() {
            for (act, packed) in
                [(Act::Silu, true), (Act::Silu, false), (Act::GeluTanh, true), (Act::GeluTanh, false)]
            {
                for (rows, width) in [(1, 1536), (3, 100), (13, 17), (70, 160)] {
                    let mut rig = Rig::new(isa, 2);
                    rig.dims.tokens = rows as u32;
                    let x: Vec<f32> = rng.units(2 * rows * width).iter().map(|v| 8.0 * v).collect();
                    let mut args = vec![];
                    let at = |t: usize, i: usize| {
                        if packed {
                            (2 * t * width + i, (2 * t + 1) * width + i)
                        } else {
                            (t * width + i, (rows + t) * width + i)
                        }
                    };
                    if packed {
                        args.push(rig.input(&x, x_type));
                    } else {
                        args.push(rig.input(&x[..rows * width], x_type));
                        args.push(rig.input(&x[rows * width..], x_type));
                    }
                    let y = rig.output(rows * width, out);
                    args.push(y);
                    rig.run(
                        HostKernel::GatedAct {
                            width: width as u32,
                            act,
                            packed,
                            rows: Count::Tokens,
                            x: x_type,
                            out,
                        },
                        &args,
                    );
                    let got = rig.read(y, rows * width, out);
                    for (i, &y) in got.iter().enumerate() {
                        let (g, u) = at(i / width, i % width);
                        let [g, u] = [g, u].map(|i| f64::from(round(x[i], x_type)));
                        let want = activation(act, g) * u;
                        let off = (f64::from(y) - want).abs();
                        // The exponent's rounding error, which grows with |g|, is relative to the result.
                        assert!(
                            off <= tolerance(want, want.abs(), out) + 1e-6 * g.abs() * want.abs(),
                            "{isa:?} {act:?} {g} {u}: {y} {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn slice_and_gather_rows() {
    let mut rng = Rng::new(16);
    for dtype in DTYPES {
        for rows in ROWS {
            let mut rig = Rig::new(Isa::detect(), 2);
            let (of, start, width) = (300, 77, 129);
            let x = rounded(&rng.units(rows * of), dtype);
            rig.dims.tokens = rows as u32;
            let args = [rig.input(&x, dtype), rig.output(rows * width, dtype)];
            let kernel =
                HostKernel::Slice { of: of as u32, start: start as u32, width: width as u32, x: dtype };
            rig.run(kernel, &args);
            let want: Vec<f32> = x.chunks_exact(of).flat_map(|r| r[start..start + width].to_vec()).collect();
            assert_eq!(rig.read(args[1], rows * width, dtype), want);

            let picked: Vec<i32> = (0..5).map(|_| rng.below(rows) as i32).collect();
            rig.ints(rig.bind.rows, &picked);
            rig.dims.rows = 5;
            let out = rig.output(5 * of, dtype);
            rig.run(HostKernel::GatherRows { width: of as u32, x: dtype }, &[args[0], Arg::Rows, out]);
            let want: Vec<f32> = picked.iter().flat_map(|&r| x[r as usize * of..][..of].to_vec()).collect();
            assert_eq!(rig.read(out, 5 * of, dtype), want);

            rig.ints(rig.bind.rows, &[0, 0, 0, 0, rows as i32]);
            let kernel = HostKernel::GatherRows { width: of as u32, x: dtype };
            let error = rig.try_run(kernel, &[args[0], Arg::Rows, out]).unwrap_err();
            assert!(error.message.contains("is not within"), "{}", error.message);
        }
    }
}
