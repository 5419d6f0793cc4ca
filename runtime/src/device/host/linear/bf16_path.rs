//! The product of bf16 activations with bf16, i8 or i4 panels by bf16 dot products.

use super::dp::{self, Groups, Kind};
use super::pack::{self, Tiles};
use super::store::{Epilogue, Place};
use super::{GRAIN, LANES, Out, PANELS, Shape, Source, finish};
use crate::device::host::memory::Shards;
use crate::device::host::pool::Pool;
use crate::device::host::scratch::{Aligned, Cx, bytes, pairs as words};
use crate::error::Error;
use half::bf16;

/// Inputs of a block of weights that serves all tokens before the next: two panels of it are 24 KiB of bf16.
const BLOCK: usize = 384;

/// Inputs of a group, its scales and its zero points.
type GroupParts<'a> = (usize, &'a [bf16], Option<&'a [i8]>);

/// Weights as the kernels read them.
pub struct Weights<'a> {
    kind: Kind,
    payload: &'a [u8],
    groups: Option<GroupParts<'a>>,
}

impl<'a> Weights<'a> {
    /// The weights, if these kernels read their form.
    pub fn of(source: Source<'a>) -> Option<Weights<'a>> {
        match source {
            Source::Bf16(w) => Some(Weights { kind: Kind::Bf16, payload: bytes(w), groups: None }),
            Source::I8 { q, .. } => Some(Weights { kind: Kind::I8, payload: q, groups: None }),
            Source::I4 { q, scale, zero, group } => {
                Some(Weights { kind: Kind::I4, payload: q, groups: Some((group, scale, zero)) })
            }
            Source::RowsF32(_) | Source::RowsBf16(_) | Source::F32(_) => None,
        }
    }
}

/// Computes a linear on a processor with AVX-512 BF16.
pub fn run(
    cx: &mut Cx<'_>,
    Shape { rows, n, k }: Shape,
    x: &[bf16],
    w: &Weights<'_>,
    epilogue: &Epilogue<'_>,
    out: &Out<'_>,
) -> Result<(), Error> {
    let Cx { pool, isa, scratch } = cx;
    let (isa, scratch) = (*isa, &mut **scratch);
    let pairs = k.next_multiple_of(if w.kind == Kind::I4 { 8 } else { 2 }) / 2;
    let tiles = Tiles::new(rows, dp::MAX_TOKENS);
    let in_place = if rows == 1 && k == 2 * pairs { words(x) } else { None };
    let packed = match in_place {
        Some(x) => x,
        None => pack_x(pool, &mut scratch.x, tiles, x, k, pairs)?,
    };
    let group = w.groups.map_or(k, |(group, ..)| group);
    let groups = k.div_ceil(group);
    let xsum: &[f32] =
        if w.groups.is_some() { sum_x(pool, &mut scratch.sums, tiles, x, k, group)? } else { &[] };
    // The groups of a block that begins at `pair`, for a tile of tokens.
    let groups_at = |panel: usize, pair: usize, token: usize, tokens: usize| {
        w.groups.map(|(group, scale, zero)| {
            let first = 2 * pair / group;
            let at = (panel * groups + first) * LANES;
            Groups {
                pairs: group / 2,
                scale: &scale[at..],
                zero: zero.map(|z| &z[at..]),
                stride: groups * LANES,
                xsum: &xsum[token * groups + first * tokens..],
            }
        })
    };
    let (panels, stride) = (n.div_ceil(LANES), pairs * w.kind.pair_bytes());
    if tiles.count() == 1 {
        return pool.split(panels, GRAIN, &|_, range| {
            let mut sums = [0f32; GRAIN * dp::MAX_TOKENS * LANES];
            let tile = dp::Tile {
                kind: w.kind,
                weights: &w.payload[range.start * stride..],
                stride,
                x: packed,
                pairs,
                groups: groups_at(range.start, 0, 0, rows),
                fresh: true,
            };
            // SAFETY: this path is taken only with AVX-512 BF16.
            unsafe { dp::tile(&tile, range.len(), rows, &mut sums) };
            let place = Place { panel: range.start, panels: range.len(), token: 0, tokens: rows };
            finish(isa, &sums, place, epilogue, out);
        });
    }
    // A block is whole groups.
    let block = if w.groups.is_some() { (BLOCK / group).max(1) * group } else { BLOCK } / 2;
    let locals = Shards::new(&mut scratch.local);
    pool.split(panels, PANELS, &|thread, range| {
        // SAFETY: each thread has an index of its own.
        let [local] = (unsafe { locals.part(thread..thread + 1) }) else {
            return;
        };
        let count = range.len();
        let sums = local.sums.f32(count * rows * LANES);
        for from in (0..pairs).step_by(block) {
            let n = block.min(pairs - from);
            let stored = &w.payload[range.start * stride + from * w.kind.pair_bytes()..];
            let (kind, weights, stride) = match w.kind {
                Kind::Bf16 | Kind::I4Wide => (w.kind, stored, stride),
                Kind::I8 => (Kind::Bf16, widen(&mut local.block, w.kind, stored, stride, count, n), n * 64),
                Kind::I4 => (Kind::I4Wide, widen(&mut local.block, w.kind, stored, stride, count, n), n * 64),
            };
            for (token, tokens) in (0..tiles.count()).map(|i| tiles.get(i)) {
                let x = &packed[token * pairs + from * tokens..][..n * tokens];
                let groups = groups_at(range.start, from, token, tokens);
                let tile = dp::Tile { kind, weights, stride, x, pairs: n, groups, fresh: from == 0 };
                // SAFETY: this path is taken only with AVX-512 BF16.
                unsafe { dp::tile(&tile, count, tokens, &mut sums[token * count * LANES..]) };
            }
        }
        for (token, tokens) in (0..tiles.count()).map(|i| tiles.get(i)) {
            let place = Place { panel: range.start, panels: count, token, tokens };
            finish(isa, &sums[token * count * LANES..], place, epilogue, out);
        }
    })
}

/// Widens `n` pairs of `count` panels; the result's panels lie together.
fn widen<'a>(
    block: &'a mut Aligned,
    kind: Kind,
    stored: &[u8],
    stride: usize,
    count: usize,
    n: usize,
) -> &'a [u8] {
    let wide = block.bf16(count * n * 2 * LANES);
    for (p, wide) in wide.chunks_exact_mut(n * 2 * LANES).enumerate() {
        let panel = &stored[p * stride..];
        // SAFETY: this path is taken only with AVX-512 BF16.
        unsafe {
            if kind == Kind::I8 {
                dp::widen_i8_panel(panel, n, wide);
            } else {
                dp::widen_i4_panel(panel, n, wide);
            }
        }
    }
    bytes(wide)
}

/// Packs x: `[tile][pair][token]`.
fn pack_x<'a>(
    pool: &mut Pool,
    into: &'a mut Aligned,
    tiles: Tiles,
    x: &[bf16],
    k: usize,
    pairs: usize,
) -> Result<&'a [u32], Error> {
    let packed = into.u32(x.len() / k * pairs);
    let shards = Shards::new(&mut *packed);
    pool.split(tiles.count(), (16384 / k).max(1), &|_, range| {
        for (from, tokens) in range.map(|i| tiles.get(i)) {
            // SAFETY: tiles do not overlap.
            let out = unsafe { shards.part(from * pairs..(from + tokens) * pairs) };
            pack::pack_pairs(&x[from * k..(from + tokens) * k], k, pairs, out);
        }
    })?;
    Ok(packed)
}

/// Sums of x over groups: `[tile][group][token]`.
fn sum_x<'a>(
    pool: &mut Pool,
    into: &'a mut Aligned,
    tiles: Tiles,
    x: &[bf16],
    k: usize,
    group: usize,
) -> Result<&'a [f32], Error> {
    let groups = k.div_ceil(group);
    let sums = into.f32(x.len() / k * groups);
    let shards = Shards::new(&mut *sums);
    pool.split(tiles.count(), (16384 / k).max(1), &|_, range| {
        for (from, tokens) in range.map(|i| tiles.get(i)) {
            // SAFETY: tiles do not overlap.
            let out = unsafe { shards.part(from * groups..(from + tokens) * groups) };
            pack::group_sums(&x[from * k..(from + tokens) * k], k, group, out);
        }
    })?;
    Ok(sums)
}
