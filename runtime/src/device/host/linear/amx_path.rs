//! The product of e4m3, i8 or i4 panels with bf16 activations on a processor with AMX.
//!
//! Few rows of x are multiplied in vector registers, weights straight from their stored form; more of them in tile
//! registers, weights widened block by block. Both give the same bits.

use super::amx::{INPUTS, MAX_ROWS, Registers, Tile};
use super::bf16_path::Weights;
use super::chains;
use super::dp::Kind;
use super::store::{Epilogue, Place};
use super::{GRAIN, LANES, Out, Shape, expect, finish, widen};
use crate::device::host::isa::Isa;
use crate::device::host::memory::Shards;
use crate::device::host::pool::Pool;
use crate::device::host::scratch::{Aligned, Cx, Local, Scratch, bytes};
use crate::device::host::simd::spread;
use crate::error::Error;
use half::bf16;

/// Inputs of a block of weights: four panels of it are 8 KiB of bf16. Measured, the best of 64 to 1536.
const BLOCK: usize = 64;

/// Bytes of a panel by which its weights are fetched before they are used.
const AHEAD: usize = 4096;

/// True if this path computes a product of bf16 activations. (bf16 weights need no widening, and engines multiply them
/// with f32 activations on the host.)
pub fn takes(isa: Isa, w: &Weights<'_>) -> bool {
    // The inputs of a tile are of one group.
    let whole = w.groups.is_none_or(|(group, ..)| group.is_multiple_of(INPUTS));
    isa == Isa::Amx && whole && w.kind != Kind::Bf16
}

/// A step's tokens in tiles of one height. The last one begins earlier where they do not divide evenly: its first
/// tokens are computed twice, with the same result.
#[derive(Clone, Copy)]
struct Tiles {
    tokens: usize,
    height: usize,
    count: usize,
}

impl Tiles {
    fn new(tokens: usize, most: usize) -> Tiles {
        let count = tokens.div_ceil(most);
        Tiles { tokens, height: tokens.div_ceil(count), count }
    }

    /// First tokens of all tiles.
    fn starts(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |i| (i * self.height).min(self.tokens - self.height))
    }
}

/// What every part of one product knows.
struct Job<'a> {
    k: usize,
    w: &'a Weights<'a>,
    /// `[token][group]`: sums of the tokens' inputs.
    xsum: &'a [f32],
    tiles: Tiles,
    /// Bytes of a panel.
    stride: usize,
}

/// Computes a linear.
pub fn run(
    cx: &mut Cx<'_>,
    Shape { rows, n, k }: Shape,
    x: &[bf16],
    w: &Weights<'_>,
    epilogue: &Epilogue<'_>,
    out: &Out<'_>,
) -> Result<(), Error> {
    let Cx { pool, isa, scratch } = cx;
    let (isa, Scratch { x: packed, sums, local, .. }) = (*isa, &mut **scratch);
    let pairs = k.next_multiple_of(if w.kind == Kind::I4 { 8 } else { 2 }) / 2;
    let (panels, stride) = (n.div_ceil(LANES), pairs * w.kind.pair_bytes());
    let pack = Pack { isa, x, k, pairs, group: w.groups.map(|(group, ..)| group) };
    if rows <= chains::MAX_TOKENS {
        let (x, xsum) = pack.as_f32(w.kind, packed, sums);
        return pool.split(panels, GRAIN, &|_, range| {
            let mut sums = [0f32; GRAIN * chains::MAX_TOKENS * LANES];
            let groups = w.groups.map(|(group, scale, zero)| {
                let at = range.start * k.div_ceil(group) * LANES;
                chains::Groups { pairs: group / 2, scale: &scale[at..], zero: zero.map(|z| &z[at..]), xsum }
            });
            let weights = &w.payload[range.start * stride..];
            let tile = chains::Tile { weights, kind: w.kind, stride, x, pairs, groups };
            let place = Place { panel: range.start, panels: range.len(), token: 0, tokens: rows };
            expect(place, epilogue, out);
            // SAFETY: AMX includes AVX-512.
            unsafe { chains::tile(&tile, range.len(), rows, &mut sums) };
            finish(isa, &sums, place, epilogue, out);
        });
    }
    let tiles = Tiles::new(rows, MAX_ROWS);
    let (x, xsum) = pack.as_bf16(pool, packed, sums)?;
    let job = Job { k, w, xsum, tiles, stride };
    let locals = Shards::new(local);
    pool.share(panels, GRAIN, &|thread, runs| {
        // SAFETY: each thread has an index of its own.
        let [local] = (unsafe { locals.part(thread..thread + 1) }) else {
            return;
        };
        let mut registers = Registers::default();
        for panels in runs {
            let place = Place { panel: panels.start, panels: panels.len(), token: 0, tokens: tiles.height };
            let sums = job.panels(&mut registers, x, place, local, |place| expect(place, epilogue, out));
            for (token, sums) in tiles.starts().zip(sums.chunks_exact(sums.len() / tiles.count)) {
                finish(isa, sums, Place { token, ..place }, epilogue, out);
            }
        }
    })
}

impl Job<'_> {
    /// Sums of some panels, `[tile][panel][token][row]`. Calls `last` before each tile's last product.
    fn panels<'l>(
        &self,
        registers: &mut Registers,
        x: &[bf16],
        place: Place,
        local: &'l mut Local,
        last: impl Fn(Place),
    ) -> &'l [f32] {
        let x_stride = self.k.next_multiple_of(2);
        let len = place.panels * self.tiles.height * LANES;
        let Local { block, sums, part, .. } = local;
        let sums = sums.f32(self.tiles.count * len);
        let step = self.w.groups.map_or(BLOCK, |(group, ..)| group.max(BLOCK / group * group));
        for from in (0..self.k).step_by(step) {
            let inputs = step.min(self.k - from);
            let (weights, stride) = self.widen(place, from, inputs, block);
            for (token, sums) in self.tiles.starts().zip(sums.chunks_exact_mut(len)) {
                if from + inputs == self.k {
                    last(Place { token, ..place });
                }
                let tile = Tile {
                    weights,
                    stride,
                    x: &x[token * x_stride + from..],
                    x_stride,
                    rows: self.tiles.height,
                    pairs: inputs.div_ceil(2),
                    fresh: from == 0,
                };
                if self.w.groups.is_some() {
                    self.groups(registers, &tile, place, (token, from, inputs), part, sums);
                } else {
                    // SAFETY: this path is taken only with AMX.
                    unsafe { registers.product(&tile, place.panels, sums) };
                }
            }
        }
        sums
    }

    /// Inputs `from..from + inputs` of some panels as bf16, and the bytes from one panel to the next.
    fn widen<'b>(
        &self,
        place: Place,
        from: usize,
        inputs: usize,
        block: &'b mut Aligned,
    ) -> (&'b [u8], usize) {
        let kind = self.w.kind;
        // i4 is stored in chunks of 8 inputs.
        let pairs = if kind == Kind::I4 { inputs.next_multiple_of(8) / 2 } else { inputs.div_ceil(2) };
        let at = from / 2 * kind.pair_bytes();
        let stored = &self.w.payload[place.panel * self.stride + at..];
        // Beyond the end of these panels come the ones that this thread works on next.
        let jump = if at + AHEAD < self.stride { 0 } else { (place.panels - 1) * self.stride };
        let wide = block.bf16(place.panels * pairs * 2 * LANES);
        for (p, wide) in wide.chunks_exact_mut(pairs * 2 * LANES).enumerate() {
            let panel = &stored[p * self.stride..];
            let next = panel.as_ptr().wrapping_add(AHEAD + jump);
            // SAFETY: this path is taken only with AMX, which includes AVX-512.
            unsafe {
                widen::panel(kind, panel, pairs, wide, next);
            }
        }
        (bytes(wide), pairs * 2 * LANES * size_of::<bf16>())
    }

    /// Adds the groups of a block, `from..from + inputs`, to a tile's sums.
    fn groups(
        &self,
        registers: &mut Registers,
        tile: &Tile<'_>,
        place: Place,
        (token, from, inputs): (usize, usize, usize),
        part: &mut Aligned,
        sums: &mut [f32],
    ) {
        let Some((group, scale, zero)) = self.w.groups else { return };
        let (groups, len) = (self.k.div_ceil(group), place.panels * tile.rows * LANES);
        let products = part.f32(inputs.div_ceil(group) * len);
        for (g, product) in products.chunks_exact_mut(len).enumerate() {
            let at = g * group;
            let tile = Tile {
                weights: &tile.weights[at * LANES * size_of::<bf16>()..],
                x: &tile.x[at..],
                pairs: group.min(inputs - at).div_ceil(2),
                fresh: true,
                ..*tile
            };
            // SAFETY: this path is taken only with AMX.
            unsafe { registers.product(&tile, place.panels, product) };
        }
        for (g, product) in products.chunks_exact(len).enumerate() {
            let g = from / group + g;
            for panel in 0..place.panels {
                let at = ((place.panel + panel) * groups + g) * LANES;
                let own = panel * tile.rows * LANES..(panel + 1) * tile.rows * LANES;
                let part = Group {
                    product: &product[own.clone()],
                    scale: &scale[at..at + LANES],
                    zero: zero.map(|z| &z[at..at + LANES]),
                    xsum: &self.xsum[token * groups + g..],
                    stride: groups,
                    fresh: g == 0,
                };
                // SAFETY: AMX includes AVX-512.
                unsafe { add_group(&part, &mut sums[own]) };
            }
        }
    }
}

/// A group's part of the sums of one panel.
struct Group<'a> {
    /// `[token][row]`.
    product: &'a [f32],
    scale: &'a [bf16],
    zero: Option<&'a [i8]>,
    /// Of the first token.
    xsum: &'a [f32],
    /// Elements from one token's sum to the next's.
    stride: usize,
    fresh: bool,
}

/// `sums += scale * (product - zero * xsum)`.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and DQ.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn add_group(g: &Group<'_>, sums: &mut [f32]) {
    use std::arch::x86_64::*;
    let tokens = sums.len() / LANES;
    assert!(g.product.len() >= sums.len() && g.xsum.len() > (tokens - 1) * g.stride);
    assert!(g.scale.len() >= LANES && g.zero.is_none_or(|z| z.len() >= LANES));
    // SAFETY: the lengths were checked.
    unsafe {
        let scale = _mm512_cvtepu16_epi32(_mm256_loadu_si256(g.scale.as_ptr().cast()));
        let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(scale));
        let zero = g.zero.map_or(_mm512_setzero_ps(), |z| {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(z.as_ptr().cast())))
        });
        for t in 0..tokens {
            let sum = sums.as_mut_ptr().add(t * LANES);
            let xsum = _mm512_castsi512_ps(spread(g.xsum.as_ptr().add(t * g.stride)));
            let old = if g.fresh { _mm512_setzero_ps() } else { _mm512_loadu_ps(sum) };
            let product = _mm512_loadu_ps(g.product.as_ptr().add(t * LANES));
            let part = _mm512_fnmadd_ps(zero, xsum, product);
            _mm512_storeu_ps(sum, _mm512_fmadd_ps(scale, part, old));
        }
    }
}

/// Elements for which a second thread is worth its wake-up.
const ENOUGH: usize = 8192;

/// Activations to be packed.
struct Pack<'a> {
    isa: Isa,
    /// `(tokens, k)`.
    x: &'a [bf16],
    k: usize,
    /// Pairs with padding.
    pairs: usize,
    /// Inputs of a group, if sums over groups are wanted.
    group: Option<usize>,
}

impl Pack<'_> {
    /// Groups whose sums are wanted.
    fn groups(&self) -> usize {
        self.group.map_or(0, |g| self.k.div_ceil(g))
    }

    /// Rows of whole pairs, and sums `[token][group]`.
    fn as_bf16<'a>(
        &self,
        pool: &mut Pool,
        into: &'a mut Aligned,
        sums: &'a mut Aligned,
    ) -> Result<(&'a [bf16], &'a [f32]), Error> {
        let (k, stride, groups) = (self.k, self.k.next_multiple_of(2), self.groups());
        let tokens = self.x.len() / k;
        let (out, sums) = (into.bf16(tokens * stride), sums.f32(tokens * groups));
        let (rows, row_sums) = (Shards::new(&mut *out), Shards::new(&mut *sums));
        pool.split(tokens, (ENOUGH / k).max(1), &|_, range| {
            for token in range {
                // SAFETY: tokens have places of their own.
                let (row, sums) = unsafe {
                    (
                        rows.part(token * stride..(token + 1) * stride),
                        row_sums.part(token * groups..(token + 1) * groups),
                    )
                };
                self.token(token, sums, |x| chains::flush(self.isa, x, row));
            }
        })?;
        Ok((out, sums))
    }

    /// f32 `[token][pair][2]`, and sums `[token][group]`.
    fn as_f32<'a>(&self, kind: Kind, into: &'a mut Aligned, sums: &'a mut Aligned) -> (&'a [f32], &'a [f32]) {
        let (groups, stride) = (self.groups(), 2 * self.pairs);
        let tokens = self.x.len() / self.k;
        let (out, sums) = (into.f32(tokens * stride), sums.f32(tokens * groups));
        for (token, out) in out.chunks_exact_mut(stride).enumerate() {
            let sums = &mut sums[token * groups..(token + 1) * groups];
            self.token(token, sums, |x| chains::flush_wide(self.isa, x, kind, out));
        }
        (out, sums)
    }

    /// Packs a token's row and sums its groups.
    fn token(&self, token: usize, sums: &mut [f32], pack: impl FnOnce(&[bf16])) {
        let x = &self.x[token * self.k..(token + 1) * self.k];
        if let Some(group) = self.group {
            chains::sum_groups(self.isa, x, group, sums);
        }
        pack(x);
    }
}
