//! The warpgroup that fills shared memory for [`super::WgmmaAttention`] where queries, weights, keys and values are all codes of e4m3.
//!
//! The first warp starts copies of tiles of keys and values, as they lie in pages. A product of codes wants consecutive keys in
//! each row of its second operand, so values are transposed: each warp turns those of 32 keys, 16 columns at a time. `ldmatrix`
//! transposes pairs of bytes; of the keys that a lane then has, 2 q, 2 q + 1, 8 + 2 q, 8 + 2 q + 1 and the same from 16 on, it makes
//! two words for each of two columns. These are the keys whose weights lane q of a row has (`Builder::wgmma`), so in their order both
//! operands agree, and no weight changes its lane. Of 16 columns the even ones come first, which results are put back in order from.
//!
//! Scales go with the weights (`wgmma_attention/codes.rs`), those of values as log2 and inverse, which each warp makes of its 32. Rows behind
//! the end of the context hold anything: such values become 0, so that their weights of 0 count for nothing.

use super::codes::Factors;
use super::work::Item;
use super::{Params, Ring, Smem, Stage, WARPS, WgmmaAttention};
use crate::builder::{Barrier, Builder, I32, Val};
use crate::tile::{CHUNK, Tile};

/// Keys that a warp turns.
const KEYS: u32 = 32;
/// Tiles of values that are copied or turned, and whose copies are started before the first of them is turned.
pub(super) const COPIED: u32 = 2;
/// Steps of 16 columns that a warp reads before it stores the first.
const AT_ONCE: u32 = 2;
/// Scales of values are taken to be within this and its inverse: logarithms and inverses of what stands behind the context, or of rows
/// of zeros, are numbers.
const LEAST: f32 = 1.0 / (1u64 << 60) as f32;

impl WgmmaAttention {
    /// Fills shared memory until there are no more items. The whole warpgroup.
    pub(super) fn transpose<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        announced: Barrier<'b>,
        copied: Ring<'b>,
    ) {
        debug_assert_eq!(self.tiling().keys, WARPS * KEYS);
        self.for_items(b, params, smem, announced, |item, tiles| {
            self.fill_codes(b, params, (smem.keys, copied, smem.values), item, tiles);
        });
    }

    /// Fills tiles of keys and values from `end - 1` down to `first`, the `count`-th ones of all and those that follow.
    fn fill_codes<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        (keys, copied, values): (Ring<'b>, Ring<'b>, Ring<'b>),
        item: &Item<'b>,
        [first, end, count]: [Val<'b, I32>; 3],
    ) {
        let (lane, warp) = b.lane_and_warp();
        let (one, head) = (lane.eq(0), self.head(item));
        // The pages of the `i`-th tile, and the start of its copies.
        let pages_of = |i: Val<'b, I32>| {
            let tile = end - 1 - i;
            self.pages_of(params, item, tile.lt(first).select(first, tile))
        };
        let fill = |i: Val<'b, I32>, which: u32, pages: &super::producer::Pages<'b>| {
            let ring = [keys, copied][which as usize];
            let fill = || self.fill_tile(b, params, (ring, count + i), pages, (head, which));
            b.if_(one & warp.eq(0) & i.lt(end - first), fill);
        };
        let begin = pages_of(b.value(0));
        [0, 1].into_iter().for_each(|which| fill(b.value(0), which, &begin));
        let second = pages_of(b.value(1));
        fill(b.value(1), 1, &second);
        b.for_(0, end - first, 1, second, |i, second| {
            // Keys are one tile ahead, and values two.
            fill(i + 1, 0, &second);
            let third = pages_of(i + COPIED);
            let (from, to) = (copied.stage(count + i), values.stage(count + i));
            from.wait_full();
            let there = item.context - ((end - 1 - i) * self.tiling().keys + warp * KEYS);
            self.clear_rows(b, from, there);
            to.wait_empty();
            self.put_factors(b, from, to);
            self.turn(b, from, to);
            b.fence_async();
            b.sync_warp();
            // All lanes for themselves, as each has read and stored scales.
            to.full.arrive();
            from.empty.arrive();
            fill(i + COPIED, 1, &third);
            third
        });
    }

    /// The tile of values as copied, of all warps.
    fn copied(&self) -> Tile {
        Tile { rows: self.tiling().keys, row_bytes: self.0.head_dim }
    }

    /// Makes this warp's values 0 from the `from`-th on: they are no numbers perhaps.
    fn clear_rows<'b>(&self, b: &'b Builder, stage: Stage<'b>, from: Val<'b, I32>) {
        let (lane, warp) = b.lane_and_warp();
        b.if_(from.lt(KEYS), || {
            b.if_(from.le(lane), || {
                let row = stage.tile.at_bytes((warp * KEYS + lane) * self.0.head_dim);
                for chunk in 0..self.copied().chunks() {
                    row.at_bytes(chunk * CHUNK).cast::<I32>().store_vector(b.vector([b.value(0); 4]));
                }
            });
            b.sync_warp();
        });
    }

    /// Makes what weights are made with, of each lane's key.
    fn put_factors<'b>(&self, b: &'b Builder, from: Stage<'b>, to: Stage<'b>) {
        let (lane, warp) = b.lane_and_warp();
        let (keys, key) = (self.tiling().keys, warp * KEYS + lane);
        let [of_key, of_value] = [0, keys].map(|at| from.scales.at(key + at).load());
        let of_value = (b.value(LEAST).lt(of_value) & of_value.lt(1.0 / LEAST)).select(of_value, LEAST);
        let inverse = b.value(1.0f32).div_approx(of_value);
        Factors::of(to, keys).put(key, [of_key, of_value.log2(), inverse]);
    }

    /// Turns this warp's values into columns of `(head_dim, keys)`.
    fn turn<'b>(&self, b: &'b Builder, from: Stage<'b>, to: Stage<'b>) {
        let (lane, warp) = b.lane_and_warp();
        let (copied, turned) = (self.copied(), Tile { rows: self.0.head_dim, row_bytes: self.tiling().keys });
        // Lane 8 m + r gives the address of row r of matrix m: of what is read key 8 m + r, of what is stored even columns, odd columns, and
        // both of 16 keys on. Odd columns come behind the even ones: eight rows that follow one another lie in different banks.
        let (matrix, row) = (lane >> 3, lane & 7);
        let (row, chunk) = (row + (matrix & 1) * 8, warp * 2 + (matrix >> 1));
        // Rows of 16 columns on have the same key.
        let target = turned.offset(row, chunk);
        // A loop over some at once, for few registers.
        b.for_(0, copied.chunks(), AT_ONCE, (), |first, ()| {
            let columns: Vec<_> = (0..AT_ONCE).map(|i| first + i).collect();
            let addresses = columns.iter().map(|&column| copied.offset(warp * KEYS + lane, column));
            let read: Vec<_> = addresses.map(|at| b.ldmatrix(from.tile.at_bytes(at), true)).collect();
            for (column, [a, c, d, e]) in columns.into_iter().zip(read) {
                let words = [(a, c, 0x6420), (a, c, 0x7531), (d, e, 0x6420), (d, e, 0x7531)];
                let words = words.map(|(low, high, bytes)| b.permute_bytes(low, high, bytes));
                b.stmatrix(to.tile.at_bytes(target + column * (16 * turned.row_bytes)), words, false);
            }
        });
    }
}
