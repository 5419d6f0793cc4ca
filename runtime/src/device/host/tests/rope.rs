//! Rotary embedding and the stores into the cache.

use super::*;

fn freqs(dim: usize) -> Vec<f32> {
    (0..dim / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / dim as f32)).collect()
}

/// One head rotated, after a norm if there is one.
fn rotated(x: &[f32], position: usize, freqs: &[f32], norm: Option<(&[f32], f32, f32)>) -> Vec<f64> {
    let mut x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    if let Some((w, eps, offset)) = norm {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
        x.iter_mut().zip(w).for_each(|(v, w)| *v *= inverse * (f64::from(*w) + f64::from(offset)));
    }
    let half = freqs.len();
    for (i, f) in freqs.iter().enumerate() {
        // The angle itself is an f32.
        let (sin, cos) = f64::from(position as f32 * f).sin_cos();
        let (a, b) = (x[i], x[half + i]);
        (x[i], x[half + i]) = (a * cos - b * sin, b * cos + a * sin);
    }
    x
}

fn check(got: &[f32], want: &[f64], dtype: Dtype, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&y, &want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(y) - want).abs();
        assert!(off <= tolerance(want, 1.0, dtype), "{what}: element {i} is {y}, not {want}");
    }
}

#[test]
fn rope() {
    let mut rng = Rng::new(20);
    for isa in isas() {
        for (dtype, out) in DTYPES.into_iter().flat_map(|x| DTYPES.map(|out| (x, out))) {
            for (heads, head_dim, dim) in [(9, 64, 64), (2, 96, 32), (3, 8, 6)] {
                for tokens in [1, 5, 70] {
                    let mut rig = Rig::new(isa, 2);
                    let count = tokens * heads * head_dim;
                    let (x, freqs) = (rounded(&rng.units(count), dtype), freqs(dim));
                    let positions: Vec<i32> =
                        (0..tokens).map(|_| rng.below(MAX_SEQ as usize) as i32).collect();
                    rig.ints(rig.bind.positions, &positions);
                    rig.dims.tokens = tokens as u32;
                    let args =
                        [rig.input(&x, dtype), Arg::Positions, rig.vector(&freqs), rig.output(count, out)];
                    let kernel = HostKernel::Rope {
                        heads: heads as u32,
                        head_dim: head_dim as u32,
                        dim: dim as u32,
                        x: dtype,
                        out,
                    };
                    rig.run(kernel, &args);
                    let want: Vec<f64> = x
                        .chunks_exact(head_dim)
                        .enumerate()
                        .flat_map(|(i, x)| rotated(x, positions[i / heads] as usize, &freqs, None))
                        .collect();
                    check(&rig.read(args[3], count, out), &want, out, &format!("{isa:?} {head_dim}"));
                }
            }
        }
    }
}

#[test]
fn positions_out_of_range_are_refused() {
    let mut rig = Rig::new(Isa::Scalar, 1);
    rig.dims.tokens = 1;
    let args =
        [rig.input(&[0.0; 8], Dtype::F32), Arg::Positions, rig.vector(&freqs(8)), rig.output(8, Dtype::F32)];
    let kernel = HostKernel::Rope { heads: 1, head_dim: 8, dim: 8, x: Dtype::F32, out: Dtype::F32 };
    for bad in [-1, MAX_SEQ as i32] {
        rig.ints(rig.bind.positions, &[bad]);
        assert!(rig.try_run(kernel.clone(), &args).unwrap_err().message.contains("is not within"));
    }
}

/// Requests over pages in no order, with room for `after` more tokens.
pub fn seqs(rng: &mut Rng, page_tokens: usize, sizes: &[(usize, usize)], pages: usize) -> Vec<Seq> {
    let mut free: Vec<i32> = (0..pages as i32).collect();
    sizes
        .iter()
        .map(|&(past, new)| {
            let need = (past + new).div_ceil(page_tokens);
            let pages = (0..need).map(|_| free.swap_remove(rng.below(free.len()))).collect();
            Seq { past, new, pages }
        })
        .collect()
}

/// Place of an element of a key (`which` 0) or value (1) within its head's part of a page.
pub fn in_head(which: usize, slot: usize, elem: usize, head_dim: usize, dtype: Dtype) -> usize {
    let (panel, lane) = (slot / 16, slot % 16);
    match (which, dtype) {
        (1, _) => slot * head_dim + elem,
        (_, Dtype::F32 | Dtype::F8E4M3) => (panel * head_dim + elem) * 16 + lane,
        (_, Dtype::Bf16) => ((panel * head_dim / 2 + elem / 2) * 16 + lane) * 2 + elem % 2,
    }
}

#[test]
fn cache_stores() {
    let mut rng = Rng::new(21);
    for isa in isas() {
        for (x_type, kv_type, out_type) in [
            (Dtype::Bf16, Dtype::Bf16, Dtype::Bf16),
            (Dtype::F32, Dtype::F32, Dtype::F32),
            (Dtype::Bf16, Dtype::F32, Dtype::F32),
            (Dtype::F32, Dtype::Bf16, Dtype::Bf16),
        ] {
            for (fused, q_norm, k_norm) in
                [(true, true, true), (true, false, true), (true, false, false), (false, false, false)]
            {
                let (heads, kv_heads, head_dim, page_tokens, pages) = (6, 2, 24, 32, 20);
                let dim = if q_norm { 24 } else { 16 };
                let layer = KvLayer { heads: kv_heads as u32, head_dim: head_dim as u32, window: None };
                let kv = Kv { page_tokens: page_tokens as u32, dtype: kv_type, layers: vec![layer, layer] };
                let mut rig = Rig::with_cache(isa, 2, kv, pages);
                let all = seqs(&mut rng, page_tokens, &[(3, 1), (0, 19), (16, 1), (7, 60)], pages as usize);
                rig.batch(&all);
                let tokens = rig.dims.tokens as usize;
                let (width, kv_width) = ((heads + 2 * kv_heads) * head_dim, kv_heads * head_dim);
                let x = rounded(&rng.units(tokens * width), x_type);
                let (freqs, qw, kw) = (freqs(dim), rng.units(head_dim), rng.units(head_dim));
                let q_out = rig.output(tokens * heads * head_dim, out_type);
                if fused {
                    let mut args = vec![rig.input(&x, x_type), Arg::Positions, rig.vector(&freqs)];
                    if q_norm {
                        args.push(rig.vector(&qw));
                    }
                    if k_norm {
                        args.push(rig.vector(&kw));
                    }
                    args.extend([Arg::Batch, Arg::Kv(1), q_out]);
                    let kernel = HostKernel::RopeKvAppend {
                        heads: heads as u32,
                        dim: dim as u32,
                        q_norm: q_norm.then_some((1e-6, 1.0)),
                        k_norm: k_norm.then_some((1e-5, 0.0)),
                        x: x_type,
                        out: out_type,
                    };
                    rig.run(kernel, &args);
                } else {
                    let part = |from: usize| -> Vec<f32> {
                        x.chunks_exact(width).flat_map(|r| r[from..from + kv_width].to_vec()).collect()
                    };
                    let k = rig.input(&part(heads * head_dim), x_type);
                    let v = rig.input(&part((heads + kv_heads) * head_dim), x_type);
                    rig.run(HostKernel::KvAppend { x: x_type }, &[k, v, Arg::Batch, Arg::Kv(1)]);
                }
                let what = format!("{isa:?} {x_type:?} {kv_type:?} {fused} {q_norm} {k_norm}");
                let page = 2 * kv_heads * page_tokens * head_dim;
                let cache = rig.read_buffer(rig.bind.kv[1], 0, pages as usize * page, kv_type);
                let untouched = rig.read_buffer(rig.bind.kv[0], 0, pages as usize * page, kv_type);
                assert!(untouched.iter().all(|&v| v == 0.0));
                let q = rig.read(q_out, tokens * heads * head_dim, out_type);
                let mut token = 0;
                let mut written = 0;
                for s in &all {
                    for position in s.past..s.past + s.new {
                        let row = &x[token * width..(token + 1) * width];
                        let head = |h: usize| &row[h * head_dim..(h + 1) * head_dim];
                        for h in 0..heads {
                            let norm = q_norm.then_some((&qw[..], 1e-6, 1.0));
                            let got = &q[(token * heads + h) * head_dim..][..head_dim];
                            if fused {
                                check(got, &rotated(head(h), position, &freqs, norm), out_type, &what);
                            }
                        }
                        for h in 0..kv_heads {
                            let stored = |which: usize| -> Vec<f32> {
                                let page = s.pages[position / page_tokens] as usize;
                                let first = ((page * 2 + which) * kv_heads + h) * page_tokens * head_dim;
                                let at = |e| in_head(which, position % page_tokens, e, head_dim, kv_type);
                                (0..head_dim).map(|e| cache[first + at(e)]).collect()
                            };
                            let norm = k_norm.then_some((&kw[..], 1e-5, 0.0));
                            let plain = |x: &[f32]| x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
                            let k = if fused {
                                rotated(head(heads + h), position, &freqs, norm)
                            } else {
                                plain(head(heads + h))
                            };
                            check(&stored(0), &k, kv_type, &what);
                            check(&stored(1), &plain(head(heads + kv_heads + h)), kv_type, &what);
                            written += 2 * head_dim;
                        }
                        token += 1;
                    }
                }
                assert_eq!(cache.iter().filter(|&&v| v != 0.0).count(), written, "{what}");
            }
        }
    }
}
