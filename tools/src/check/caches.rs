//! Caches of checks and measurements: one without content, a page of random rows, and what the e4m3 cache of a GPU holds, beside what
//! it should.
//!
//! A key is rounded to e4m3 after it was normed and rotated, and a device's approximations put one in many on the other side of a bound: it
//! is a whole step off. That is no error of attention, so attention is held to the cache as it is, and the cache to the
//! reference. Not here: caches of other types, in which a step is as small as what attention may be off by anyway.

use super::memory::{Memory, encode};
use super::quantised::{self, By, Rows, quantised};
use crate::render::Failure;
use std::rc::Rc;
use trtc_engine::manifest::{Arg, Dtype, Kv, KvLayer, Launch};
use trtc_ir::interp::{KvRow, KvState};
use trtc_ir::numerics::decode;
use trtc_ir::random::Random;
use trtc_ir::{DType, Module};

/// The cache that a launch uses, of requests with these pages that should hold `want` and were made by `by`, and its error as a part of
/// what is allowed.
pub fn stored(
    memory: &mut Memory<'_>,
    launch: &Launch,
    pages: &[Vec<i32>],
    (want, by): (Rc<KvState>, By),
) -> Result<(Rc<KvState>, f32), Failure> {
    let m = memory.manifest();
    let layer = launch.args.iter().find_map(|a| if let Arg::Kv(i) = a { Some(*i as usize) } else { None });
    let Some(layer) = layer.filter(|_| m.kv.dtype == Dtype::F8E4M3 && m.target != "host") else {
        return Ok((want, 0.0));
    };
    let kv = &m.kv.layers[layer];
    let (heads, head_dim, page_tokens) = (kv.heads as usize, kv.head_dim as usize, m.kv.page_tokens as usize);
    let page_bytes = m.kv.page_bytes(kv) as usize;
    let scales_at = 2 * heads * page_tokens * head_dim;
    let bytes = memory.cache(layer)?;
    let (mut codes, mut scales, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    let mut row = |seq: usize, at: usize, which: usize, want: &[f32]| -> Result<Vec<f32>, Failure> {
        let page = pages.get(seq).and_then(|pages| pages.get(at / page_tokens));
        let page = page.ok_or_else(|| Failure::bug(format!("request {seq} has no page of token {at}")))?;
        let begin = *page as usize * page_bytes;
        let mut values = Vec::with_capacity(want.len());
        for head in 0..heads {
            // Keys of all heads, then values; the scales likewise.
            let vector = (which * heads + head) * page_tokens + at % page_tokens;
            let own = &bytes[begin + vector * head_dim..][..head_dim];
            let scale = begin + scales_at + 4 * vector;
            let scale = f32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[scale + i]));
            values.extend(own.iter().map(|&code| decode(code, DType::F8E4M3).unwrap_or(f32::NAN) * scale));
            codes.extend_from_slice(own);
            scales.push(scale);
        }
        wanted.extend_from_slice(want);
        Ok(values)
    };
    let mut found = KvState::default();
    for (&seq, rows) in &want.seqs {
        let read = rows.iter().enumerate().map(|(at, (key, value))| -> Result<KvRow, Failure> {
            Ok((row(seq, at, 0, key)?, row(seq, at, 1, value)?))
        });
        found.seqs.insert(seq, read.collect::<Result<_, _>>()?);
    }
    Ok((Rc::new(found), quantised::worst(&codes, &scales, &wanted, by)))
}

/// A cache in which every token before the step has keys and values of 0, of requests of `(tokens before, tokens of the step)`.
pub fn empty(sizes: &[(usize, usize)], module: &Module) -> Rc<KvState> {
    let kv = module.func.params.iter().find_map(|&p| module.func.values[p].ty.kv());
    let width = kv.map_or(0, |kv| kv.heads as usize * kv.head_dim as usize);
    let rows = |past: usize| vec![(vec![0.0; width], vec![0.0; width]); past];
    Rc::new(KvState { seqs: sizes.iter().enumerate().map(|(seq, &(past, _))| (seq, rows(past))).collect() })
}

/// A page as a kernel that appends makes it: codes and scales of e4m3 are those of rows whose greatest element has the greatest code, for
/// what a kernel does, and what a chip draws, depends on them.
pub fn page(kv: &Kv, layer: &KvLayer, random: &mut Random) -> Result<Vec<u8>, Failure> {
    let width = layer.head_dim as usize;
    let values: Vec<f32> =
        (0..2 * layer.heads as usize * kv.page_tokens as usize * width).map(|_| random.signed()).collect();
    if kv.dtype != Dtype::F8E4M3 {
        return Ok(encode(&values, kv.dtype));
    }
    let Rows { mut codes, scales, .. } = quantised(&values, width)?;
    codes.extend(encode(&scales, Dtype::F32));
    Ok(codes)
}
