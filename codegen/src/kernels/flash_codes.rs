//! Tiles of keys and values in e4m3 for [`super::flash_tiles`]: how their scales get there, and the two matrix products of a
//! warp, which are of bf16 as well. Knows nothing of masks and softmax.
//!
//! Codes become bf16 in registers, times 2^-120 ([`Builder::e4m3_as_bf16`]). Queries and weights are multiplied by
//! [`LIFT`] beforehand and products by [`LOWER`] afterwards, which makes up for it: powers of two, so nothing is rounded
//! for that. Queries have to be below 2^31.
//!
//! Lanes are `g = lane / 4`, `q = lane % 4`. `ldmatrix` moves pairs of codes where it would move elements of bf16. Of keys a
//! lane gets codes 4q to 4q + 3 of 16: the even ones are multiplied where k is 2q and 2q + 1, the odd ones 8 further, and
//! [`Tiles::arranged`] puts queries into the same order. Of values, transposed, it gets columns 2g and 2g + 1 of
//! keys 2q and 2q + 1: the even columns of 16 make one n8 tile, the odd ones another.

use super::attention::Attention;
use super::flash_tiles::{Chunks, Keys, Tiles};
use super::fragments::Sums;
use crate::builder::{Builder, F32, I32, SharedPtr, Special, Val};
use crate::tile::CHUNK;

/// 2^96.
const LIFT: f32 = f32::from_bits(0x6f80_0000);
/// The same, two bf16.
const LIFT_BF16: i32 = 0x6f80_6f80;
/// 2^24.
const LOWER: f32 = 16_777_216.0;
/// Two -0 of bf16, which added to anything leave it as it is.
const NOTHING: i32 = i32::from_ne_bytes(0x8000_8000u32.to_ne_bytes());

/// A lane's columns of a row, in pairs, each behind the lane's first column by a number of columns.
type Pairs<'b> = Vec<(u32, [Val<'b, F32>; 2])>;

/// Codes 0 and 2 of a word, and codes 1 and 3, as bf16 times 2^-120.
fn even_and_odd<'b>(b: &'b Builder, word: Val<'b, I32>) -> [Val<'b, I32>; 2] {
    [b.e4m3_as_bf16(word, [0, 2]), b.e4m3_as_bf16(word, [1, 3])]
}

/// Scales of a chunk.
const SCALES: u32 = CHUNK / 4;

impl<'b> Tiles<'b> {
    /// Byte offset of the scales of the stage at `stage`.
    pub(super) fn scales_of(&self, stage: Val<'b, I32>) -> Val<'b, I32> {
        stage / (self.stage_bytes() / (2 * 4 * self.keys.rows))
    }

    /// The first of the scales that this thread copies, one chunk.
    pub(super) fn scales_from(&self) -> Val<'b, I32> {
        self.b().special(Special::ThreadX) % self.team % (self.keys.rows / SCALES) * SCALES
    }

    /// Starts to copy the scales of the keys and values at positions `first..` to `to`, as [`Tiles::load_keys`] does with
    /// them. Those of positions that are not there become zeros.
    pub(super) fn load_scales(
        &self,
        a: &Attention,
        keys: &Keys<'b>,
        to: SharedPtr<'b, F32>,
        (first, page): (Val<'b, I32>, Val<'b, I32>),
    ) {
        let b = self.b();
        let chunks = self.keys.rows / SCALES;
        debug_assert!(2 * chunks <= self.team);
        let thread = b.special(Special::ThreadX) % self.team;
        b.if_(thread.lt(2 * chunks), || {
            let (which, position) = (thread / chunks, first + self.scales_from());
            let there = position.min(keys.last / SCALES * SCALES);
            // Those of values are behind those of the keys of all heads.
            let row = which * (a.kv_heads * a.page_tokens) + there % a.page_tokens;
            let (_, scales) = keys.page(a, page);
            let count = (keys.to - position).max(0).min(SCALES);
            b.cp_async_part(to.at(thread * SCALES), scales.at(row), count * 4);
        });
        // Products of matrices need the whole warp.
        b.sync_warp();
    }

    /// Two chunks of a query that follow each other, in the order of codes, multiplied by [`LIFT`].
    pub(super) fn arranged(&self, chunks: Chunks<'b>) -> Chunks<'b> {
        let [l, r] = chunks.map(|chunk| self.arranged_chunk(chunk));
        [0, 1].map(|i: usize| [l[i][0], l[i][1], r[i][0], r[i][1]])
    }

    /// What one of the two adds to each: the first of them the first half.
    pub(super) fn arranged_chunk(&self, [x, y, z, w]: [Val<'b, I32>; 4]) -> [[Val<'b, I32>; 2]; 2] {
        let b = self.b();
        [0x5410, 0x7632].map(|selector| {
            [[x, y], [z, w]]
                .map(|[x, y]| b.fma_bf16x2(b.permute_bytes(x, y, selector), LIFT_BF16, b.value(NOTHING)))
        })
    }

    /// [`Tiles::products`] of keys in e4m3.
    pub(super) fn products_of_codes(
        &self,
        first_row: Val<'b, I32>,
        row_tiles: u32,
        stage: Val<'b, I32>,
        scales: SharedPtr<'b, F32>,
    ) -> Sums<'b> {
        let b = self.b();
        let (lane, _) = b.lane_and_warp();
        // Queries: matrices (rows 0-7, k 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (rows 8-15, k 8-15).
        let query = self.queries.offset(first_row + (lane & 15), lane >> 4);
        let zero = b.value(0.0f32);
        let mut sums = vec![vec![[zero; 4]; (self.keys.rows / 8) as usize]; row_tiles as usize];
        let chunks = self.head_dim / 16;
        for chunk in (0..chunks).step_by(2) {
            let some = (chunks - chunk).min(2);
            // Matrices (keys 0-7, chunk), (keys 0-7, the next), (keys 8-15, chunk), (keys 8-15, the next).
            let key = self.keys.offset((lane & 7) + ((lane >> 4) << 3), self.second(some, (lane >> 3) & 1));
            let key = self.stages.at_bytes((key + stage) ^ (chunk * CHUNK));
            let rows: Vec<[_; 4]> = (0..some * row_tiles)
                .map(|i| {
                    let query = self.queries_at.at_bytes(query ^ ((chunk + i / row_tiles) * 2 * CHUNK));
                    b.ldmatrix(query.at_bytes(i % row_tiles * 16 * self.queries.row_bytes), false)
                })
                .collect();
            for pair in 0..(self.keys.rows / 16) as usize {
                let [k0, k1, k2, k3] =
                    b.ldmatrix(key.at_bytes(pair as u32 * 16 * self.keys.row_bytes), false);
                for (rows, keys) in rows.chunks(row_tiles as usize).zip([[k0, k2], [k1, k3]]) {
                    for (n, word) in (2 * pair..).zip(keys) {
                        let columns = even_and_odd(b, word);
                        for (sums, &a) in sums.iter_mut().zip(rows) {
                            sums[n] = b.mma_bf16(a, columns, sums[n]);
                        }
                    }
                }
            }
        }
        for n in 0..(self.keys.rows / 8) as usize {
            let scales = self.scales_of_columns(scales, n, LOWER);
            for sums in &mut sums {
                sums[n] = std::array::from_fn(|i| sums[n][i] * scales[i % 2]);
            }
        }
        sums
    }

    /// [`Tiles::weigh`] of values in e4m3: n8 tiles are even and odd columns of 16, see [`Attention::pairs`].
    pub(super) fn weigh_codes(
        &self,
        weights: &Sums<'b>,
        mut values: Sums<'b>,
        stage: Val<'b, I32>,
        scales: SharedPtr<'b, F32>,
    ) -> Sums<'b> {
        let b = self.b();
        let (lane, _) = b.lane_and_warp();
        let scales = scales.at(self.keys.rows);
        let values_at = self.stages.at_bytes(self.keys.bytes());
        let chunks = self.head_dim / 16;
        for step in 0..(self.keys.rows / 16) as usize {
            let [left, right] = [0, 1].map(|n| self.scales_of_columns(scales, 2 * step + n, LIFT));
            // A lane holds of the sums of two n8 tiles just what it has to hold of 16 columns of a first operand.
            let rows: Vec<[Val<'b, I32>; 4]> = weights
                .iter()
                .map(|w| {
                    let of = |n: usize, i: usize, s: [Val<'b, F32>; 2]| {
                        let w = w[2 * step + n];
                        b.pack_bf16(w[i] * s[0], w[i + 1] * s[1])
                    };
                    [of(0, 0, left), of(0, 2, left), of(1, 0, right), of(1, 2, right)]
                })
                .collect();
            for chunk in (0..chunks).step_by(2) {
                let some = (chunks - chunk).min(2);
                // Transposed matrices (keys 0-7, chunk), (keys 8-15, chunk), (keys 0-7, the next), (keys 8-15, the next).
                let value = self.keys.offset(lane & 15, self.second(some, lane >> 4)) + stage;
                let value = values_at.at_bytes(value ^ (chunk * CHUNK));
                let [v0, v1, v2, v3] =
                    b.ldmatrix(value.at_bytes(step as u32 * 16 * self.keys.row_bytes), true);
                for (chunk, words) in (chunk..chunk + some).zip([[v0, v1], [v2, v3]]) {
                    let [low, high] = words.map(|word| even_and_odd(b, word));
                    for (values, &a) in values.iter_mut().zip(&rows) {
                        for odd in 0..2 {
                            let n = 2 * chunk as usize + odd;
                            values[n] = b.mma_bf16(a, [low[odd], high[odd]], values[n]);
                        }
                    }
                }
            }
        }
        values
    }

    /// Whether a lane's row is of the second of `some` chunks; where there is one, it is read twice.
    fn second(&self, some: u32, second: Val<'b, I32>) -> Val<'b, I32> {
        if some == 2 { second } else { self.b().value(0) }
    }

    /// The scales of a lane's two columns of n8 tile `n`, times `factor`.
    fn scales_of_columns(&self, scales: SharedPtr<'b, F32>, n: usize, factor: f32) -> [Val<'b, F32>; 2] {
        let (lane, _) = self.b().lane_and_warp();
        let scales = scales.at((lane & 3) * 2).at(8 * n as u32).load_vector::<2>();
        scales.elements().map(|s| s * factor)
    }
}

impl Attention {
    /// Row `h` of the two that a lane has of weighted values: the lane's first column, and its pairs of columns.
    pub(super) fn pairs<'b>(&self, values: &[[Val<'b, F32>; 4]], h: usize) -> (Val<'b, I32>, Pairs<'b>) {
        let (lane, _) = values[0][0].builder().lane_and_warp();
        if !self.pages().scaled() {
            let pairs = (0u32..).zip(values).map(|(n, v)| (8 * n, [v[2 * h], v[2 * h + 1]]));
            return ((lane & 3) * 2, pairs.collect());
        }
        let of = |(n, v): (u32, &[[Val<'b, F32>; 4]])| {
            [0, 1].map(|i: usize| (16 * n + 2 * i as u32, [0, 1].map(|odd: usize| v[odd][2 * h + i] * LOWER)))
        };
        ((lane & 3) * 4, (0u32..).zip(values.chunks(2)).flat_map(of).collect())
    }
}
