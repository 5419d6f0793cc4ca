//! Rotary position embedding, and its fused form that also norms heads and stores keys and values in the cache.
//!
//! Sines and cosines are computed once for a position and table of frequencies, for all layers and steps.

use super::batch::Batch;
use super::cache::{Geometry, Slot, Stored};
use super::elem::Elem;
use super::isa::{Isa, per_isa};
use super::memory::Shards;
use super::pool::Pool;
use super::rows::Norm;
use super::scratch::{Cx, Local};
use crate::error::Error;

/// Rows of (cosines, sines) by position for one table of inverse frequencies.
struct Table {
    freqs: Vec<f32>,
    /// `(positions, 2, freqs)`.
    rows: Vec<f32>,
}

/// The tables in use: one for each set of frequencies of the model.
#[derive(Default)]
pub struct Tables {
    tables: Vec<Table>,
}

/// Angles of the positions of a step.
#[derive(Clone, Copy)]
pub struct Angles<'a> {
    rows: &'a [f32],
    half: usize,
}

impl Tables {
    /// Angles `position * freq`, rounded to f32, for positions below `positions`.
    pub fn angles(&mut self, freqs: &[f32], positions: usize) -> Angles<'_> {
        let known = self.tables.iter().position(|t| {
            t.freqs.len() == freqs.len() && t.freqs.iter().zip(freqs).all(|(a, b)| a.to_bits() == b.to_bits())
        });
        let index = known.unwrap_or_else(|| {
            self.tables.push(Table { freqs: freqs.to_vec(), rows: Vec::new() });
            self.tables.len() - 1
        });
        let table = &mut self.tables[index];
        let half = freqs.len();
        let have = table.rows.len() / (2 * half).max(1);
        if have < positions {
            // Doubling keeps a growing sequence from filling the table position by position.
            let want = positions.max(2 * have).max(64);
            table.rows.reserve(2 * half * (want - have));
            for position in have..want {
                let angle = |f: &f32| f64::from(position as f32 * f);
                table.rows.extend(freqs.iter().map(|f| angle(f).cos() as f32));
                table.rows.extend(freqs.iter().map(|f| angle(f).sin() as f32));
            }
        }
        Angles { rows: &table.rows, half }
    }
}

impl Angles<'_> {
    /// Cosines and sines of a position.
    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        self.rows[2 * self.half * position..][..2 * self.half].split_at(self.half)
    }
}

per_isa! {
    /// Norms (if asked) and rotates one head: pairs `(i, i + dim / 2)`; elements from `dim` on pass through.
    fn rotate<X: Elem, O: Elem>(x: &[X], norm: Option<Norm<'_>>, cos: &[f32], sin: &[f32], out: &mut [O]) = rotate_body
}

#[inline(always)]
fn rotate_body<const FMA: bool, X: Elem, O: Elem>(
    x: &[X],
    norm: Option<Norm<'_>>,
    cos: &[f32],
    sin: &[f32],
    out: &mut [O],
) {
    match norm {
        None => rotate_by(x, |_, v| v, cos, sin, out),
        Some(norm) => {
            let inverse = norm.inverse::<FMA, X>(x);
            rotate_by(x, |i, v| v * inverse * norm.factor(i), cos, sin, out);
        }
    }
}

#[inline(always)]
fn rotate_by<X: Elem, O: Elem>(
    x: &[X],
    value: impl Fn(usize, f32) -> f32,
    cos: &[f32],
    sin: &[f32],
    out: &mut [O],
) {
    let half = cos.len();
    let (low, rest) = x.split_at(half);
    let (high, tail) = rest.split_at(half);
    let (out_low, rest) = out.split_at_mut(half);
    let (out_high, out_tail) = rest.split_at_mut(half);
    for i in 0..half {
        let (a, b) = (value(i, low[i].get()), value(half + i, high[i].get()));
        out_low[i] = O::put(a * cos[i] - b * sin[i]);
        out_high[i] = O::put(b * cos[i] + a * sin[i]);
    }
    for (i, (o, v)) in out_tail.iter_mut().zip(tail).enumerate() {
        *o = O::put(value(2 * half + i, v.get()));
    }
}

/// Elements for which a second thread is worth its wake-up.
const GRAIN: usize = 4096;

/// Rotates `(tokens, heads, head_dim)`; the positions have been checked.
pub fn rope<X: Elem, O: Elem>(
    pool: &mut Pool,
    isa: Isa,
    x: &[X],
    positions: &[i32],
    angles: Angles<'_>,
    head_dim: usize,
    out: &mut [O],
) -> Result<(), Error> {
    let width = x.len() / positions.len().max(1);
    let shards = Shards::new(out);
    pool.split(positions.len(), (GRAIN / width.max(1)).max(1), &|_, range| {
        for t in range {
            let (cos, sin) = angles.at(positions[t] as usize);
            // SAFETY: rows do not overlap.
            let out = unsafe { shards.part(t * width..(t + 1) * width) };
            let heads = x[t * width..(t + 1) * width].chunks_exact(head_dim);
            heads.zip(out.chunks_exact_mut(head_dim)).for_each(|(x, o)| rotate(isa, x, None, cos, sin, o));
        }
    })
}

/// Stores keys and values of a step in the cache. Threads share heads, not tokens, so that even wrong tables cannot
/// make two of them write to one place.
struct Append<'a, K> {
    isa: Isa,
    batch: Batch<'a>,
    cache: Geometry,
    pages: Shards<'a, K>,
}

impl<K: Stored> Append<'_, K> {
    /// Calls `f(token, page, slot)` for every token.
    fn each(&self, mut f: impl FnMut(usize, usize, usize)) {
        let page_tokens = self.cache.page_tokens;
        for s in 0..self.batch.len() {
            let segment = self.batch.segment(s);
            for (position, token) in (segment.start..).zip(segment.tokens) {
                f(token, self.batch.page(s, position, page_tokens), position % page_tokens);
            }
        }
    }

    /// Stores the keys of a head; `make(token, out)` computes one.
    fn keys(&self, head: usize, local: &mut Local, make: impl Fn(usize, &mut [f32])) {
        let Local { x, block, .. } = local;
        let key = x.f32(self.cache.head_dim);
        self.each(|token, page, slot| {
            make(token, key);
            // SAFETY: heads have places of their own, and one thread does a head.
            unsafe { K::put_key(self.isa, &self.cache, &self.pages, Slot { page, head, slot }, key, block) };
        });
    }

    /// Stores the values of a head; `value(token)` is one.
    fn values<'x, X: Elem>(&self, head: usize, value: impl Fn(usize) -> &'x [X]) {
        self.each(|token, page, slot| {
            // SAFETY: as in `keys`.
            unsafe {
                K::put_value(self.isa, &self.cache, &self.pages, Slot { page, head, slot }, value(token));
            }
        });
    }
}

/// Stores `(tokens, kv_heads, head_dim)` keys and values at their positions.
pub fn kv_append<X: Elem, K: Stored>(
    cx: &mut Cx<'_>,
    (k, v): (&[X], &[X]),
    batch: Batch<'_>,
    cache: Geometry,
    pages: &mut [K],
) -> Result<(), Error> {
    let Cx { pool, isa, scratch } = cx;
    let (isa, width) = (*isa, cache.heads * cache.head_dim);
    let append = Append { isa, batch, cache, pages: Shards::new(pages) };
    let locals = Shards::new(&mut scratch.local);
    pool.split(2 * cache.heads, grain(k.len() / cache.heads.max(1)), &|thread, range| {
        // SAFETY: each thread has an index of its own.
        let [local] = (unsafe { locals.part(thread..thread + 1) }) else {
            return;
        };
        for unit in range {
            let head = unit % cache.heads;
            let of = |token: usize| {
                token * width + head * cache.head_dim..token * width + (head + 1) * cache.head_dim
            };
            if unit < cache.heads {
                append.keys(head, local, |token, out| rotate(isa, &k[of(token)], None, &[], &[], out));
            } else {
                append.values(head, |token| &v[of(token)]);
            }
        }
    })
}

/// Heads that a thread takes at once.
fn grain(elems_of_head: usize) -> usize {
    (GRAIN / elems_of_head.max(1)).max(1)
}

/// What the fused kernel works on.
pub struct RopeKvAppend<'a, X, K, O> {
    /// `(tokens, (heads + 2 kv_heads) * head_dim)`.
    pub qkv: &'a [X],
    /// `(tokens)`, checked.
    pub positions: &'a [i32],
    /// Rotation.
    pub angles: Angles<'a>,
    /// Query heads.
    pub heads: usize,
    /// Norm of each query head.
    pub q_norm: Option<Norm<'a>>,
    /// Norm of each key head.
    pub k_norm: Option<Norm<'a>>,
    /// The step.
    pub batch: Batch<'a>,
    /// The cache's shape.
    pub cache: Geometry,
    /// The cache.
    pub pages: &'a mut [K],
    /// `(tokens, heads, head_dim)`.
    pub q: &'a mut [O],
}

/// Splits q, k and v, norms and rotates q and k, stores k and v. Threads share heads.
pub fn rope_kv_append<X: Elem, K: Stored, O: Elem>(
    cx: &mut Cx<'_>,
    job: RopeKvAppend<'_, X, K, O>,
) -> Result<(), Error> {
    let Cx { pool, isa, scratch } = cx;
    let isa = *isa;
    let RopeKvAppend { qkv, positions, angles, heads, q_norm, k_norm, batch, cache, pages, q } = job;
    let (dim, kv_heads) = (cache.head_dim, cache.heads);
    let width = (heads + 2 * kv_heads) * dim;
    let q = Shards::new(q);
    let append = Append { isa, batch, cache, pages: Shards::new(pages) };
    let locals = Shards::new(&mut scratch.local);
    let head = |token: usize, unit: usize| &qkv[token * width + unit * dim..][..dim];
    let at = |token: usize| angles.at(positions[token] as usize);
    pool.split(heads + 2 * kv_heads, grain(positions.len() * dim), &|thread, range| {
        // SAFETY: each thread has an index of its own.
        let [local] = (unsafe { locals.part(thread..thread + 1) }) else {
            return;
        };
        for unit in range {
            if unit < heads {
                for token in 0..positions.len() {
                    let (cos, sin) = at(token);
                    // SAFETY: heads have places of their own.
                    let out =
                        unsafe { q.part((token * heads + unit) * dim..(token * heads + unit + 1) * dim) };
                    rotate(isa, head(token, unit), q_norm, cos, sin, out);
                }
            } else if unit < heads + kv_heads {
                append.keys(unit - heads, local, |token, out| {
                    let (cos, sin) = at(token);
                    rotate(isa, head(token, unit), k_norm, cos, sin, out);
                });
            } else {
                append.values(unit - heads - kv_heads, |token| head(token, unit));
            }
        }
    })
}
