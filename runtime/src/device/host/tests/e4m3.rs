//! What is stored in e4m3: results of row kernels, keys and values, and attention over them. Each is compared with the
//! same kernel on f32, whose results are quantised, or whose cache holds what is left of quantised rows. And rows that are
//! rounded to e4m3 times a power of two, as queries may be.

use super::rope::{in_head, seqs};
use super::*;
use crate::device::host::e4m3::Power;

/// Runs a kernel that makes `(rows, width)`, with its result in f32 and in e4m3, and compares. `args` are the others'.
fn compare(rig: &mut Rig, (rows, width): (usize, usize), args: &[Arg], kernel: impl Fn(Dtype) -> HostKernel) {
    let wide = rig.output(rows * width, Dtype::F32);
    rig.run(kernel(Dtype::F32), &[args, &[wide]].concat());
    let values = rig.read(wide, rows * width, Dtype::F32);
    let (want, want_scales) = quantised(&values, width);
    let (codes, scales) = (rig.place(&vec![0xff; rows * width]), rig.output(rows, Dtype::F32));
    rig.run(kernel(Dtype::F8E4M3), &[args, &[codes, scales]].concat());
    let what = format!("{:?} {rows} x {width}", kernel(Dtype::F8E4M3));
    assert_eq!(rig.read(scales, rows, Dtype::F32), want_scales, "{what}");
    let Arg::Arena(at) = codes else { panic!("{codes:?}") };
    let mut found = vec![0; rows * width];
    rig.device.download(rig.bind.arena, at, &mut found).unwrap();
    assert!(found == want, "{what}");
}

/// Rows of very different sizes, one of zeros, one below the least scale.
fn values(rng: &mut Rng, rows: usize, width: usize) -> Vec<f32> {
    let size = |row: usize| match row % 5 {
        3 => 0.0,
        4 => 1e-37,
        row => 10f32.powi(3 * row as i32 - 3),
    };
    (0..rows).flat_map(|row| rng.units(width).into_iter().map(move |v| v * size(row))).collect()
}

/// A row in e4m3 times a power of two, by the definition.
pub fn together(row: &[f32]) -> Vec<f32> {
    let power = |greatest: f32| {
        let above = |p: &f32| 448.0 * *p >= greatest;
        (-117..128).map(|e| 2f32.powi(e)).find(above).unwrap()
    };
    let (codes, scales) = quantised_by(row, row.len(), power);
    codes.into_iter().map(|c| layout::e4m3(c) * scales[0]).collect()
}

#[test]
fn rows_are_rounded_together() {
    let mut rng = Rng::new(54);
    for exponent in -126..128 {
        let row: Vec<f32> = rng.units(100).iter().map(|x| x * 2f32.powi(exponent)).collect();
        let power = Power::of(&row);
        let got: Vec<f32> = row.iter().map(|x| power.nearest(*x)).collect();
        assert_eq!(got, together(&row), "{exponent}");
        assert_eq!(together(&got), got, "{exponent}");
        assert_eq!(rounded(&got, Dtype::Bf16), got, "{exponent}");
    }
    let none = Power::of(&[1f32, f32::NAN]);
    assert!(none.nearest(f32::NAN).is_nan() && none.nearest(1.0) == 1.0);
}

#[test]
fn rows_are_quantised_as_they_are_made() {
    let mut rng = Rng::new(50);
    for isa in isas() {
        for (rows, width) in [(1, 1536), (5, 100), (13, 33), (70, 160), (2, 7)] {
            let mut rig = Rig::new(isa, 2);
            rig.dims.tokens = rows as u32;
            let (x, r, w) = (values(&mut rng, rows, width), rng.units(rows * width), rng.units(width));
            let n = width as u32;
            for x_type in DTYPES {
                rig.used = 0;
                let (x, r) = (rig.input(&x, x_type), rig.input(&r, Dtype::Bf16));
                let (w, h) = (rig.vector(&w), rig.output(rows * width, Dtype::F32));
                compare(&mut rig, (rows, width), &[x, w], |out| HostKernel::RmsNorm {
                    width: n,
                    per_token: 1,
                    eps: 1e-6,
                    offset: 1.0,
                    rows: Count::Tokens,
                    x: x_type,
                    out,
                });
                compare(&mut rig, (rows, width), &[x, r, w, h], |out| HostKernel::AddRmsNorm {
                    width: n,
                    eps: 1e-6,
                    offset: 0.0,
                    rows: Count::Tokens,
                    x: x_type,
                    residual: Dtype::Bf16,
                    h: Dtype::F32,
                    out,
                });
                compare(&mut rig, (rows, width), &[x, x], |out| HostKernel::GatedAct {
                    width: n,
                    act: Act::Silu,
                    packed: false,
                    rows: Count::Tokens,
                    x: x_type,
                    out,
                });
            }
            for x_type in DTYPES {
                let both = values(&mut rng, rows, 2 * width);
                let both = rig.input(&both, x_type);
                compare(&mut rig, (rows, width), &[both], |out| HostKernel::GatedAct {
                    width: n,
                    act: Act::GeluTanh,
                    packed: true,
                    rows: Count::Tokens,
                    x: x_type,
                    out,
                });
            }
        }
    }
}

#[test]
fn quantize() {
    let mut rng = Rng::new(51);
    for isa in isas() {
        for of in [Count::Tokens, Count::Rows] {
            for (rows, width) in [(1, 1536), (5, 100), (70, 163), (2, 7)] {
                for dtype in DTYPES {
                    let mut rig = Rig::new(isa, 2);
                    rig.dims = StepDims { tokens: rows as u32, rows: rows as u32, seqs: 1, ..StepDims::NONE };
                    let x = rounded(&values(&mut rng, rows, width), dtype);
                    let args = [
                        rig.input(&x, dtype),
                        rig.place(&vec![0xff; rows * width]),
                        rig.output(rows, Dtype::F32),
                    ];
                    rig.run(HostKernel::Quantize { width: width as u32, rows: of, x: dtype }, &args);
                    let (want, scales) = quantised(&x, width);
                    assert_eq!(rig.read(args[2], rows, Dtype::F32), scales);
                    let Arg::Arena(at) = args[1] else { panic!("{args:?}") };
                    let mut found = vec![0; rows * width];
                    rig.device.download(rig.bind.arena, at, &mut found).unwrap();
                    assert!(found == want, "{isa:?} {dtype:?} {rows} x {width}");
                }
            }
        }
    }
}

const PAGES: usize = 60;

/// A cache of one layer.
fn kv(dtype: Dtype, (heads, head_dim, page_tokens): (usize, usize, usize), window: Option<u32>) -> Kv {
    let layer = KvLayer { heads: heads as u32, head_dim: head_dim as u32, window };
    Kv { page_tokens: page_tokens as u32, dtype, layers: vec![layer] }
}

/// The cache's vectors one after the other, `(pages, 2, heads, page_tokens, head_dim)`, with the scales that lie behind
/// them.
fn vectors(rig: &mut Rig) -> (Vec<f32>, Vec<f32>) {
    let kv = rig.manifest.kv.clone();
    let [heads, dim] = [kv.layers[0].heads, kv.layers[0].head_dim].map(|n| n as usize);
    let (tokens, page_bytes) = (kv.page_tokens as usize, kv.page_bytes(&kv.layers[0]) as usize);
    let mut bytes = vec![0; PAGES * page_bytes];
    rig.device.download(rig.bind.kv[0], 0, &mut bytes).unwrap();
    let (mut out, mut scales) = (vec![], vec![]);
    for page in bytes.chunks_exact(page_bytes) {
        let (payload, rest) = page.split_at(2 * heads * tokens * dim * kv.dtype.bytes() as usize);
        let elements = decode(payload, kv.dtype);
        for (which, head, slot) in places(heads, tokens) {
            let first = (which * heads + head) * tokens * dim;
            out.extend((0..dim).map(|e| elements[first + in_head(which, slot, e, dim, kv.dtype)]));
        }
        scales.extend(decode(rest, Dtype::F32));
    }
    (out, scales)
}

/// Places of vectors in a page, in order.
fn places(heads: usize, tokens: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..2).flat_map(move |w| (0..heads).flat_map(move |h| (0..tokens).map(move |t| (w, h, t))))
}

/// Fills a cache with vectors, and with scales if it has them.
fn fill(rig: &mut Rig, codes: &[u8], scales: &[f32], dtype: Dtype) {
    let kv = rig.manifest.kv.clone();
    let [heads, dim] = [kv.layers[0].heads, kv.layers[0].head_dim].map(|n| n as usize);
    let tokens = kv.page_tokens as usize;
    let (count, size) = (2 * heads * tokens, dtype.bytes() as usize);
    let mut bytes = Vec::new();
    for page in 0..PAGES {
        let mut payload = vec![0; count * dim * size];
        for (i, (which, head, slot)) in places(heads, tokens).enumerate() {
            let vector = page * count + i;
            for e in 0..dim {
                let code = codes[vector * dim + e];
                let at = (which * heads + head) * tokens * dim + in_head(which, slot, e, dim, dtype);
                match dtype {
                    Dtype::F8E4M3 => payload[at] = code,
                    _ => payload[4 * at..4 * at + 4]
                        .copy_from_slice(&(layout::e4m3(code) * scales[vector]).to_le_bytes()),
                }
            }
        }
        bytes.extend(payload);
        if dtype == Dtype::F8E4M3 {
            bytes.extend(scales[page * count..][..count].iter().flat_map(|s| s.to_le_bytes()));
        }
    }
    rig.device.upload(rig.bind.kv[0], 0, &bytes).unwrap();
}

#[test]
fn keys_and_values_are_quantised_as_they_are_stored() {
    let mut rng = Rng::new(52);
    for isa in isas() {
        for (x_type, (heads, dim, page), fused) in [
            (Dtype::F32, (2, 24, 32), true),
            (Dtype::Bf16, (3, 64, 16), true),
            (Dtype::F32, (1, 40, 48), false),
            (Dtype::Bf16, (2, 7, 16), false),
        ] {
            let all = seqs(&mut rng, page, &[(3, 1), (0, 19), (16, 1), (7, 60)], PAGES);
            let tokens: usize = all.iter().map(|s| s.new).sum();
            let width = if fused { (4 + 2) * heads * dim } else { heads * dim };
            let (x, v) = (values(&mut rng, tokens, width), values(&mut rng, tokens, width));
            let freqs = rng.units(dim / 2);
            let mut found = [Dtype::F32, Dtype::F8E4M3].map(|dtype| {
                let mut rig = Rig::with_cache(isa, 2, kv(dtype, (heads, dim, page), None), PAGES as u64);
                rig.batch(&all);
                let x = rig.input(&x, x_type);
                if fused {
                    let q = rig.output(tokens * 4 * heads * dim, Dtype::F32);
                    let (heads, rotated) = (4 * heads as u32, dim as u32);
                    let (q_norm, k_norm) = (None, None);
                    let kernel = HostKernel::RopeKvAppend {
                        heads,
                        dim: rotated,
                        q_norm,
                        k_norm,
                        x: x_type,
                        out: Dtype::F32,
                    };
                    let freqs = rig.vector(&freqs);
                    rig.run(kernel, &[x, Arg::Positions, freqs, Arg::Batch, Arg::Kv(0), q]);
                } else {
                    let v = rig.input(&v, x_type);
                    rig.run(HostKernel::KvAppend { x: x_type }, &[x, v, Arg::Batch, Arg::Kv(0)]);
                }
                vectors(&mut rig)
            });
            let [(wide, none), (narrow, scales)] = &mut found;
            assert!(none.is_empty());
            let (codes, mut want) = quantised(wide, dim);
            // Where nothing was stored there is no scale either.
            let touched = |i: usize| scales[i] != 0.0;
            (0..want.len()).filter(|&i| !touched(i)).for_each(|i| want[i] = 0.0);
            assert_eq!(scales.iter().filter(|s| **s != 0.0).count(), 2 * heads * tokens, "{isa:?}");
            assert_eq!(*scales, want, "{isa:?} {x_type:?}");
            assert!(
                narrow.iter().zip(codes).all(|(n, c)| n.to_bits() == layout::e4m3(c).to_bits()),
                "{isa:?}"
            );
        }
    }
}

#[test]
fn attention_over_e4m3_is_that_over_its_numbers() {
    let mut rng = Rng::new(53);
    let ragged = [(0, 1), (5, 1), (300, 1), (0, 33), (250, 13), (17, 2)];
    for isa in isas() {
        for (group, shape, window, softcap) in [
            (3, (2, 64, 16), None, None),
            (1, (4, 32, 64), Some(100), None),
            (7, (1, 128, 48), None, Some(1.5)),
            (2, (2, 40, 32), Some(1), None),
            (1, (1, 7, 16), Some(256), None),
        ] {
            let (kv_heads, dim, page) = shape;
            let all = seqs(&mut rng, page, &ragged, PAGES);
            let tokens: usize = all.iter().map(|s| s.new).sum();
            let count = PAGES * 2 * kv_heads * page;
            let codes: Vec<u8> = (0..count * dim).map(|_| e4m3_code(&mut rng)).collect();
            let scales: Vec<f32> = (0..count).map(|_| 0.001 + rng.unit().abs() * 0.01).collect();
            let q = rng.units(tokens * group * kv_heads * dim);
            for (q_type, threads, products) in
                [(Dtype::F32, 1, None), (Dtype::Bf16, 3, None), (Dtype::F32, 2, Some(Dtype::F8E4M3))]
            {
                let over = |q: &[f32], dtype| {
                    let mut rig = Rig::with_cache(isa, threads, kv(dtype, shape, window), PAGES as u64);
                    fill(&mut rig, &codes, &scales, dtype);
                    rig.batch(&all);
                    let args =
                        [rig.input(q, q_type), Arg::Batch, Arg::Kv(0), rig.output(q.len(), Dtype::F32)];
                    let heads = (group * kv_heads) as u32;
                    let scale = 0.5 / (dim as f32).sqrt();
                    let (x, out) = (q_type, Dtype::F32);
                    let kernel = HostKernel::Attention { heads, scale, softcap, products, x, out };
                    rig.run(kernel, &args);
                    rig.read(args[3], q.len(), Dtype::F32)
                };
                let (over_numbers, over_codes) = (over(&q, Dtype::F32), over(&q, Dtype::F8E4M3));
                assert!(over_codes.iter().all(|x| x.is_finite()));
                let case = format!("{isa:?} {shape:?} {window:?} {q_type:?}");
                // A weight of 1, the only one, is a number of e4m3.
                let same = products.is_none() || window == Some(1);
                assert_eq!(over_numbers == over_codes, same, "{case}");
                if products.is_some() {
                    let rounded: Vec<f32> = q.chunks_exact(dim).flat_map(together).collect();
                    assert!(rounded != q && over(&rounded, Dtype::F8E4M3) == over_codes, "{case}");
                }
                // Weights of values that are codes are rounded, each by a sixteenth of itself at most.
                let greatest = over_numbers.iter().fold(0f32, |most, x| most.max(x.abs()));
                for (a, b) in over_numbers.iter().zip(&over_codes) {
                    assert!((a - b).abs() <= greatest / 16.0, "{case}: {a} {b}");
                }
            }
        }
    }
}
