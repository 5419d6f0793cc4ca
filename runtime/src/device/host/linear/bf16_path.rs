//! The product of bf16 activations with bf16, e4m3, i8 or i4 panels by bf16 dot products.

use super::dp::{self, Groups, Kind};
use super::pack::{self, Tiles};
use super::store::{Epilogue, Place};
use super::{GRAIN, LANES, Out, PANELS, Shape, Source, expect, finish, widen as widening};
use crate::device::host::isa::Isa;
use crate::device::host::memory::Shards;
use crate::device::host::pool::Pool;
use crate::device::host::scratch::{Aligned, Cx, bytes, pairs as words};
use crate::error::Error;
use half::bf16;

/// Inputs of a block of weights that serves all tokens before the next: two panels of it are 24 KiB of bf16.
const BLOCK: usize = 384;

/// Inputs of a group, its scales and its zero points.
pub type GroupParts<'a> = (usize, &'a [bf16], Option<&'a [i8]>);

/// Weights as the kernels read them.
pub struct Weights<'a> {
    /// How they are stored.
    pub kind: Kind,
    /// All panels.
    pub payload: &'a [u8],
    /// For i4.
    pub groups: Option<GroupParts<'a>>,
}

impl<'a> Weights<'a> {
    /// The weights, if these kernels read their form.
    pub fn of(source: Source<'a>) -> Option<Weights<'a>> {
        match source {
            Source::Bf16(w) => Some(Weights { kind: Kind::Bf16, payload: bytes(w), groups: None }),
            Source::I8 { q, .. } => Some(Weights { kind: Kind::I8, payload: q, groups: None }),
            Source::F8 { q, .. } => Some(Weights { kind: Kind::F8, payload: q, groups: None }),
            Source::I4 { q, scale, zero, group } => {
                Some(Weights { kind: Kind::I4, payload: q, groups: Some((group, scale, zero)) })
            }
            Source::RowsF32(_) | Source::RowsBf16(_) | Source::F32(_) => None,
        }
    }

    /// By which sums of products are too small, because the weights are so as they are widened.
    pub fn factor(&self) -> f32 {
        if self.kind == Kind::F8 { widening::F8_FACTOR } else { 1.0 }
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
    let group = w.groups.map_or(k, |(group, ..)| group);
    let groups = k.div_ceil(group);
    let in_place = if rows == 1 && k == 2 * pairs && w.groups.is_none() { words(x) } else { None };
    let (packed, xsum): (&[u32], &[f32]) = match in_place {
        Some(x) => (x, &[]),
        None => {
            let pack = Pack { x, k, pairs, tiles, group: w.groups.map(|_| group) };
            pack_x(pool, isa, &pack, &mut scratch.x, &mut scratch.sums)?
        }
    };
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
            let place = Place { panel: range.start, panels: range.len(), token: 0, tokens: rows };
            expect(place, epilogue, out);
            // SAFETY: this path is taken only with AVX-512 BF16.
            unsafe { dp::tile(&tile, range.len(), rows, &mut sums) };
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
                Kind::I8 | Kind::F8 => {
                    (Kind::Bf16, widen(&mut local.block, w.kind, stored, stride, count, n), n * 64)
                }
                Kind::I4 => (Kind::I4Wide, widen(&mut local.block, w.kind, stored, stride, count, n), n * 64),
            };
            for (token, tokens) in (0..tiles.count()).map(|i| tiles.get(i)) {
                let x = &packed[token * pairs + from * tokens..][..n * tokens];
                let groups = groups_at(range.start, from, token, tokens);
                let tile = dp::Tile { kind, weights, stride, x, pairs: n, groups, fresh: from == 0 };
                if from + n == pairs {
                    expect(Place { panel: range.start, panels: count, token, tokens }, epilogue, out);
                }
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
        let next = panel.as_ptr().wrapping_add(n * kind.pair_bytes());
        // SAFETY: this path is taken only with AVX-512 BF16.
        unsafe {
            widening::panel(kind, panel, n, wide, next);
        }
    }
    bytes(wide)
}

/// Activations to be packed.
struct Pack<'a> {
    /// `(tokens, k)`.
    x: &'a [bf16],
    k: usize,
    /// Pairs with padding.
    pairs: usize,
    tiles: Tiles,
    /// Inputs of a group, if sums over groups are wanted.
    group: Option<usize>,
}

/// Inputs that are packed at once where there are no groups.
const PACKED: usize = 128;

/// Elements for which a second thread is worth its wake-up.
const ENOUGH: usize = 2048;

/// Packs x, `[tile][pair][token]`, and gives its sums over groups, `[tile][group][token]`.
fn pack_x<'a>(
    pool: &mut Pool,
    isa: Isa,
    p: &Pack<'_>,
    into: &'a mut Aligned,
    sums: &'a mut Aligned,
) -> Result<(&'a [u32], &'a [f32]), Error> {
    let rows = p.x.len() / p.k;
    let block = p.group.unwrap_or(PACKED);
    let (blocks, groups) = (p.k.div_ceil(block), p.group.map_or(0, |g| p.k.div_ceil(g)));
    let (packed, sums) = (into.u32(rows * p.pairs), sums.f32(rows * groups));
    let (out, out_sums) = (Shards::new(&mut *packed), Shards::new(&mut *sums));
    let grain = ENOUGH / (block * rows.div_ceil(p.tiles.count())).max(1);
    pool.split(p.tiles.count() * blocks, grain, &|_, range| {
        for item in range {
            let ((from, tokens), b) = (p.tiles.get(item / blocks), item % blocks);
            let inputs = b * block..((b + 1) * block).min(p.k);
            // The last block has the padding.
            let end = if b + 1 == blocks { p.pairs } else { inputs.end / 2 };
            let x = &p.x[from * p.k..(from + tokens) * p.k];
            // SAFETY: blocks do not overlap.
            let (out, sums) = unsafe {
                let first = from * p.pairs + b * block / 2 * tokens;
                let sums = from * groups + if groups > 0 { b * tokens } else { 0 };
                (
                    out.part(first..from * p.pairs + end * tokens),
                    out_sums.part(sums..if groups > 0 { sums + tokens } else { sums }),
                )
            };
            pack::pack_pairs(isa, x, p.k, inputs, out, sums);
        }
    })?;
    Ok((packed, sums))
}
