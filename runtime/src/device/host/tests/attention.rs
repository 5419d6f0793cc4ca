//! Attention over ragged batches and pages in no order, and that a query's result does not depend on its batch.

use super::rope::{in_head, seqs};
use super::*;

/// A model's attention with a cache full of random keys and values.
struct Case {
    isa: Isa,
    threads: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    page_tokens: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    /// Whether queries are rounded to e4m3 times a power of two.
    rounds: bool,
    q_type: Dtype,
    kv_type: Dtype,
    out_type: Dtype,
}

const PAGES: usize = 400;

impl Case {
    fn small(isa: Isa) -> Case {
        Case {
            isa,
            threads: 2,
            heads: 6,
            kv_heads: 2,
            head_dim: 64,
            page_tokens: 16,
            window: None,
            softcap: None,
            rounds: false,
            q_type: Dtype::Bf16,
            kv_type: Dtype::Bf16,
            out_type: Dtype::F32,
        }
    }

    fn what(&self) -> String {
        format!(
            "{:?} heads {}/{}x{} page {} window {:?} cap {:?} {:?} {:?}",
            self.isa,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.page_tokens,
            self.window,
            self.softcap,
            self.q_type,
            self.kv_type
        )
    }

    fn rig(&self, cache: &[f32]) -> Rig {
        let window = self.window.map(|w| w as u32);
        let layer = KvLayer { heads: self.kv_heads as u32, head_dim: self.head_dim as u32, window };
        let kv = Kv { page_tokens: self.page_tokens as u32, dtype: self.kv_type, layers: vec![layer] };
        let mut rig = Rig::with_cache(self.isa, self.threads, kv, PAGES as u64);
        let bytes = encode(cache, self.kv_type);
        rig.device.upload(rig.bind.kv[0], 0, &bytes).unwrap();
        rig
    }

    /// NaN where no request has written.
    fn cache(&self, rng: &mut Rng, all: &[Seq]) -> Vec<f32> {
        let mut cache = vec![f32::NAN; PAGES * 2 * self.kv_heads * self.page_tokens * self.head_dim];
        for s in all {
            for position in 0..s.past + s.new {
                for which in 0..2 {
                    for head in 0..self.kv_heads {
                        let row = rounded(&rng.units(self.head_dim), self.kv_type);
                        for (e, v) in row.into_iter().enumerate() {
                            cache[self.at(s, which, head, position, e)] = v;
                        }
                    }
                }
            }
        }
        cache
    }

    fn at(&self, s: &Seq, which: usize, head: usize, position: usize, elem: usize) -> usize {
        let page = s.pages[position / self.page_tokens] as usize;
        let first = ((page * 2 + which) * self.kv_heads + head) * self.page_tokens * self.head_dim;
        first + in_head(which, position % self.page_tokens, elem, self.head_dim, self.kv_type)
    }

    fn scale(&self) -> f32 {
        3.0 / (self.head_dim as f32).sqrt()
    }

    fn run(&self, rig: &mut Rig, all: &[Seq], q: &[f32]) -> Vec<f32> {
        rig.used = 0;
        rig.batch(all);
        let args = [rig.input(q, self.q_type), Arg::Batch, Arg::Kv(0), rig.output(q.len(), self.out_type)];
        let kernel = HostKernel::Attention {
            heads: self.heads as u32,
            scale: self.scale(),
            softcap: self.softcap,
            products: self.rounds.then_some(Dtype::F8E4M3),
            x: self.q_type,
            out: self.out_type,
        };
        rig.run(kernel, &args);
        rig.read(args[3], q.len(), self.out_type)
    }

    fn check(&self, all: &[Seq], q: &[f32], cache: &[f32], got: &[f32]) {
        let (dim, group) = (self.head_dim, self.heads / self.kv_heads);
        let mut rows = q.chunks_exact(dim).zip(got.chunks_exact(dim));
        for s in all {
            for position in s.past..s.past + s.new {
                for head in 0..self.heads {
                    let (q, got) = rows.next().unwrap();
                    let q = if self.rounds { super::e4m3::together(q) } else { q.to_vec() };
                    let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
                    let row = |which, p| -> Vec<f32> {
                        (0..dim).map(|e| cache[self.at(s, which, head / group, p, e)]).collect()
                    };
                    let scores: Vec<f64> = (first..=position)
                        .map(|p| {
                            let dot: f64 =
                                q.iter().zip(row(0, p)).map(|(a, b)| f64::from(*a) * f64::from(b)).sum();
                            let score = dot * f64::from(self.scale());
                            self.softcap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh())
                        })
                        .collect();
                    let most = scores.iter().copied().fold(f64::MIN, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for (i, &y) in got.iter().enumerate() {
                        let value = |p| f64::from(cache[self.at(s, 1, head / group, p, i)]);
                        let values = weights.iter().zip(first..).map(|(w, p)| w * value(p));
                        let want = values.sum::<f64>() / sum;
                        let off = (f64::from(y) - want).abs();
                        let at = tolerance(want, 2.0, self.out_type);
                        assert!(off <= at, "{}: {s:?} {position} {head} {i} is {y}, not {want}", self.what());
                    }
                }
            }
        }
        assert!(rows.next().is_none());
    }

    fn test(&self, rng: &mut Rng, sizes: &[(usize, usize)]) {
        let all = seqs(rng, self.page_tokens, sizes, PAGES);
        let cache = self.cache(rng, &all);
        let tokens: usize = all.iter().map(|s| s.new).sum();
        let q = rounded(&rng.units(tokens * self.heads * self.head_dim), self.q_type);
        let mut rig = self.rig(&cache);
        let got = self.run(&mut rig, &all, &q);
        self.check(&all, &q, &cache, &got);
    }
}

#[test]
fn types_shapes_and_windows() {
    let mut rng = Rng::new(30);
    let ragged = [(0, 1), (5, 1), (300, 1), (0, 33), (250, 13), (17, 2), (511, 3)];
    for isa in isas() {
        for q_type in DTYPES {
            for kv_type in DTYPES {
                for out_type in DTYPES {
                    Case { q_type, kv_type, out_type, ..Case::small(isa) }.test(&mut rng, &ragged);
                }
                for window in [1, 5, 100, 256, 300] {
                    Case { q_type, kv_type, window: Some(window), ..Case::small(isa) }
                        .test(&mut rng, &ragged);
                }
                for (heads, kv_heads, head_dim) in [
                    (4, 4, 32),
                    (14, 2, 64),
                    (8, 1, 128),
                    (3, 1, 40),
                    (2, 1, 80),
                    (2, 2, 6),
                    (1, 1, 7),
                    (60, 1, 16),
                ] {
                    for page_tokens in [16, 48, 64] {
                        // Panels of bf16 hold pairs.
                        let head_dim = head_dim + usize::from(kv_type == Dtype::Bf16) * (head_dim % 2);
                        Case { heads, kv_heads, head_dim, page_tokens, q_type, kv_type, ..Case::small(isa) }
                            .test(&mut rng, &[(0, 1), (30, 1), (0, 20), (255, 4)]);
                    }
                }
                Case { softcap: Some(1.5), q_type, kv_type, ..Case::small(isa) }.test(&mut rng, &ragged);
                Case { rounds: true, q_type, kv_type, ..Case::small(isa) }.test(&mut rng, &ragged);
            }
        }
    }
}

#[test]
fn long_prompts() {
    let mut rng = Rng::new(31);
    for isa in isas() {
        for page_tokens in [16, 32] {
            Case { page_tokens, ..Case::small(isa) }.test(&mut rng, &[(0, 700), (900, 70)]);
            Case { page_tokens, window: Some(400), ..Case::small(isa) }.test(&mut rng, &[(100, 800)]);
        }
    }
}

/// Pages that no query sees any more may be gone from the table.
#[test]
fn pages_before_the_window_are_not_touched() {
    let mut rng = Rng::new(32);
    for isa in isas() {
        let case = Case { window: Some(50), ..Case::small(isa) };
        let mut all = seqs(&mut rng, 16, &[(400, 1), (300, 40)], PAGES);
        let cache = case.cache(&mut rng, &all);
        let q = rounded(&rng.units(41 * case.heads * case.head_dim), case.q_type);
        let whole = case.run(&mut case.rig(&cache), &all, &q);
        case.check(&all, &q, &cache, &whole);
        all[0].pages[..(401 - 50) / 16].fill(-1);
        all[1].pages[..(301 - 50) / 16].fill(-1);
        assert_eq!(case.run(&mut case.rig(&cache), &all, &q), whole);
    }
}

#[test]
fn a_query_is_the_same_in_every_chunk_and_with_any_number_of_threads() {
    let mut rng = Rng::new(33);
    for isa in isas() {
        for (q_type, kv_type, window) in [
            (Dtype::Bf16, Dtype::Bf16, None),
            (Dtype::Bf16, Dtype::Bf16, Some(90)),
            (Dtype::F32, Dtype::F32, None),
            (Dtype::F32, Dtype::Bf16, Some(300)),
        ] {
            let case = Case { q_type, kv_type, window, ..Case::small(isa) };
            let width = case.heads * case.head_dim;
            let all = seqs(&mut rng, case.page_tokens, &[(0, 530), (700, 1), (40, 1)], PAGES);
            let cache = case.cache(&mut rng, &all);
            let q = rounded(&rng.units(532 * width), q_type);
            let mut rig = case.rig(&cache);
            let mut other = Case { threads: 1, q_type, kv_type, window, ..Case::small(isa) }.rig(&cache);
            let whole = case.run(&mut rig, &all, &q);
            assert_eq!(whole, case.run(&mut other, &all, &q), "{} threads", case.what());
            let pages = &all[0].pages;
            let mut from = 0;
            for (i, new) in [1, 2, 5, 60, 1, 13, 174, 1, 100, 143, 20, 9, 1].into_iter().enumerate() {
                let chunk = Seq { past: from, new, pages: pages[..(from + new).div_ceil(16)].to_vec() };
                let rows = from * width..(from + new) * width;
                // Alone, and beside a decode of another request.
                let alone = case.run(&mut rig, std::slice::from_ref(&chunk), &q[rows.clone()]);
                assert!(alone == whole[rows.clone()], "{} chunk {i}", case.what());
                let mut both = q[531 * width..].to_vec();
                both.extend_from_slice(&q[rows.clone()]);
                let got = case.run(&mut other, &[all[2].clone(), chunk], &both);
                assert!(got[..width] == whole[531 * width..], "{} beside chunk {i}", case.what());
                assert!(got[width..] == whole[rows], "{} chunk {i} in company", case.what());
                from += new;
            }
            assert_eq!(from, 530);
            let decode = case.run(&mut rig, &all[1..2], &q[530 * width..531 * width]);
            assert!(decode == whole[530 * width..531 * width], "{} decode", case.what());
        }
    }
}
