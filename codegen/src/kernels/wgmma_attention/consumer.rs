//! The warpgroups that multiply for [`super::WgmmaAttention`]: each has 64 rows of the tile of queries.
//!
//! With S the scores of a tile of keys, P its weights, and O the weighted values so far, the softmax is that of
//! [`super::super::flash_softmax`]. The products of the next tile of keys and those of this one's values are under way
//! together: the former are waited for first, and the softmax of the next tile is made beside the latter.

use super::super::attention::NONE;
use super::converter::{KEYS, VALUES};
use super::work::Item;
use super::{GROUP, Params, ROW_BYTES, ROWS, Smem, Stage, Tiling, WgmmaAttention};
use crate::builder::{
    Bf16, Builder, F32, I1, I32, SharedPtr, Smem as Layout, Special, Val, WgmmaA, WgmmaType,
};
use crate::tile::Tile;

/// Named barriers: 1 and those that follow are where warpgroups take turns.
const TURN: u32 = 1;
/// All warpgroups with queries.
const ALL: u32 = 5;
/// One warpgroup, this one and those that follow.
pub(super) const OWN: u32 = 6;

/// Encoded step of a descriptor over 32 bytes of a row of k: 16 elements, or 32 codes.
pub(super) const STEP: i64 = 2;
/// Encoded step over 16 rows.
const STEP_ROWS: i64 = (16 * ROW_BYTES / 16) as i64;

/// f32 sums of a warpgroup's products, as [`Builder::wgmma`] lays them out.
pub(super) type Sums<'b> = Vec<Val<'b, F32>>;
/// Pairs of 16-bit elements: the first operand of a product, four registers for each 16 columns.
pub(super) type Words<'b> = Vec<Val<'b, I32>>;
/// m and l of a thread's two rows; of l the part of its own columns.
pub(super) type Softmax<'b> = [[Val<'b, F32>; 2]; 2];

/// log2 of what weights, 1 at most, are multiplied by before they become f16, which ends at 65504: so small ones keep their bits.
/// Sums of weights are multiplied too, so it cancels.
const RAISED: f32 = 14.0;

/// This thread's two rows.
#[derive(Clone, Copy)]
pub(super) struct Rows<'b> {
    /// The last position that each sees less the thread's first column.
    sees: [Val<'b, I32>; 2],
    /// Least and greatest position of the block's rows.
    pub(super) positions: [Val<'b, I32>; 2],
    /// What products are multiplied by to become scores, or what a bounded score is made of.
    pub(super) factors: [Val<'b, F32>; 2],
}

impl WgmmaAttention {
    /// Takes items until there are no more. Warpgroup `group` of those with queries.
    pub(super) fn consume<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        group: Val<'b, I32>,
    ) {
        let last = self.tiling().groups - 1;
        let turns = !self.codes();
        // The first warpgroup goes first.
        if turns {
            b.if_(group.eq(last), || b.arrive_some(TURN, 2 * GROUP));
        }
        // Tiles of queries and of keys so far; whether there was an item.
        let init = ([b.value(0), b.value(0)], b.value(true));
        b.while_(
            init,
            |(_, more)| *more,
            |([taken, keys], _)| {
                let stage = smem.queries.stage(taken);
                stage.wait_full();
                let item = Item::load(self.place_of_item(smem, taken));
                let more = b.value(0).lt(item.count);
                let [first, end] = self.tiles_of(b, &item);
                b.if_(more, || {
                    let tiles = (&item, first, end);
                    match self.codes() {
                        true => self.work_on_codes(b, params, smem, tiles, (stage, taken, keys), group),
                        false => self.work(b, params, smem, tiles, (stage, keys), group),
                    }
                });
                ([taken + 1, keys + end - first], more)
            },
        );
        // Somebody has arrived for the first one's next turn.
        if turns {
            b.if_(group.eq(0), || b.sync_some(TURN, 2 * GROUP));
        }
    }

    /// One item, over tiles `first..end` of keys, the `count`-th ones and those that follow.
    fn work<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        (item, first, end): (&Item<'b>, Val<'b, I32>, Val<'b, I32>),
        (queries, count): (Stage<'b>, Val<'b, I32>),
        group: Val<'b, I32>,
    ) {
        let Tiling { groups, keys, .. } = self.tiling();
        let own = queries.tile.at_bytes(group * self.bytes_of_group());
        let nothing = |n: u32| vec![b.value(0.0f32); n as usize / 2];
        let powers = self.make_queries(b, own, group);
        let rows = self.rows(b, item, group, powers);

        let stage = smem.keys.stage(count);
        stage.wait_full();
        let registers = b.wgmma_fence_on(&nothing(keys));
        let scores = self.scores(b, own, stage.tile, &registers);
        b.wgmma_commit();
        let scores = b.wgmma_wait(0, &scores);
        stage.release();
        let scores = self.masked(b, scores, (end - 1) * keys, &rows);
        let none = [[b.value(NONE), b.value(0.0f32)]; 2];
        let (softmax, _, scores) = self.weights(b, none, scores, &rows);
        let stage = smem.values.stage(count);
        let weights = self.packed(b, self.element(), &scores);
        if !self.scaled() {
            self.clear_values(b, item, stage, end);
        }

        let turn = |n: Val<'b, I32>| n + TURN;
        let next = (group + 1) % groups;
        let init = (softmax, (scores, weights), nothing(self.0.head_dim));
        let state = b.for_(1, end - first, 1, init, |i, (softmax, (scores, weights), values)| {
            let (key, value) = (smem.keys.stage(count + i), smem.values.stage(count + i - 1));
            key.wait_full();
            b.sync_some(turn(group), 2 * GROUP);
            b.wgmma_fence();
            let scores = self.scores(b, own, key.tile, &scores);
            b.wgmma_commit();
            value.wait_full();
            b.wgmma_fence();
            let values = self.weigh(b, &weights, value.tile, &values);
            b.wgmma_commit();
            b.arrive_some(turn(next), 2 * GROUP);
            let scores = b.wgmma_wait(1, &scores);
            key.release();
            let scores = self.masked(b, scores, (end - 1 - i) * keys, &rows);
            let (softmax, old, scores) = self.weights(b, softmax, scores, &rows);
            let values = b.wgmma_wait(0, &values);
            value.release();
            let values = each_row(&values, |v, h| v * old[h]);
            let weights = self.packed(b, self.element(), &scores);
            (softmax, (scores, weights), values)
        });
        let (softmax, (_, weights), values) = state;
        let value = smem.values.stage(count + (end - first) - 1);
        value.wait_full();
        b.wgmma_fence();
        let values = self.weigh(b, &weights, value.tile, &values);
        b.wgmma_commit();
        let values = b.wgmma_wait(0, &values);
        value.release();
        self.store(b, params, item, (softmax, values), own, group);
        queries.release();
    }

    /// Bytes of a warpgroup's queries.
    pub(super) fn bytes_of_group(&self) -> u32 {
        ROWS * self.0.head_dim * 2
    }

    /// Head and token of row `row` of a warpgroup, counted from its first ones.
    fn row<'b>(&self, row: Val<'b, I32>) -> (Val<'b, I32>, Val<'b, I32>) {
        (row / self.tokens_of_group(), row % self.tokens_of_group())
    }

    pub(super) fn rows<'b>(
        &self,
        b: &'b Builder,
        item: &Item<'b>,
        group: Val<'b, I32>,
        powers: Option<[Val<'b, F32>; 2]>,
    ) -> Rows<'b> {
        let (lane, warp) = b.lane_and_warp();
        let first = item.position + group * self.tokens_of_group() - (lane & 3) * 2;
        let sees = [0, 8].map(|h| first + self.row((warp & 3) * 16 + (lane >> 2) + h).1);
        let factor = b.value(self.factor());
        let factors = powers.map_or([factor; 2], |powers| powers.map(|power| power * factor));
        Rows { sees, positions: [item.position, item.last()], factors }
    }

    /// Starts `(64, keys)` products of queries with keys; `sums` are registers to use.
    pub(super) fn scores<'b>(
        &self,
        b: &'b Builder,
        queries: SharedPtr<'b, Bf16>,
        keys: SharedPtr<'b, Bf16>,
        sums: &[Val<'b, F32>],
    ) -> Sums<'b> {
        let layout = if self.key_bytes() == 64 { Layout::Rows64 } else { Layout::Rows128 };
        let (q, k) = (b.wgmma_descriptor(queries, layout), b.wgmma_descriptor(keys, layout));
        if self.codes() {
            return (0..i64::from(self.key_bytes() / 32)).fold(sums.to_vec(), |sums, s| {
                let (q, k) = (WgmmaA::Shared(q + s * STEP), k + s * STEP);
                b.wgmma(WgmmaType::E4m3, &sums, q, k, s != 0)
            });
        }
        let part = |rows: u32| i64::from(rows * ROW_BYTES / 16);
        let steps = (0..self.parts()).flat_map(|p| (0..4i64).map(move |s| (i64::from(p), s)));
        steps.fold(sums.to_vec(), |sums, (p, s)| {
            let q = WgmmaA::Shared(q + (p * part(ROWS) + s * STEP));
            let k = k + (p * part(self.tiling().keys) + s * STEP);
            b.wgmma(self.element(), &sums, q, k, (p, s) != (0, 0))
        })
    }

    /// Starts `values + weights v`, `(64, head_dim)`.
    fn weigh<'b>(
        &self,
        b: &'b Builder,
        weights: &Words<'b>,
        tile: SharedPtr<'b, Bf16>,
        values: &Sums<'b>,
    ) -> Sums<'b> {
        let v = b.wgmma_descriptor_transposed(tile, self.tiling().keys * ROW_BYTES);
        let (steps, _) = weights.as_chunks::<4>();
        (0i64..).zip(steps).fold(values.clone(), |values, (s, &words)| {
            b.wgmma_transposed(self.element(), &values, WgmmaA::Registers(words), v + s * STEP_ROWS, true)
        })
    }

    /// Makes the rows of values at and behind the end of the context 0 in the last tile: they hold anything, and their
    /// weights of 0 would make NaN of NaN.
    fn clear_values<'b>(&self, b: &'b Builder, item: &Item<'b>, stage: Stage<'b>, end: Val<'b, I32>) {
        let Tiling { groups, keys, .. } = self.tiling();
        b.if_(item.context.lt(end * keys), || {
            stage.wait_full();
            let tile = Tile { rows: keys, row_bytes: ROW_BYTES };
            let from = item.context - (end - 1) * keys;
            let zero = b.vector([b.value(0); 4]);
            let chunks = self.parts() * tile.chunks();
            let thread = b.special(Special::ThreadX) - GROUP;
            b.for_(from * chunks + thread, keys * chunks, groups * GROUP, (), |i, ()| {
                let (row, chunk) = (i / chunks, i % chunks);
                let part = chunk / tile.chunks() * tile.bytes();
                let at = part + tile.offset(row, chunk % tile.chunks());
                stage.tile.at_bytes(at).cast::<I32>().store_vector(zero);
            });
            b.fence_async();
            b.sync_some(ALL, groups * GROUP);
        });
    }

    /// Scores with those of keys that a row does not see below all others; nothing is done where every row sees every
    /// key. The first key is at position `key`.
    fn masked<'b>(&self, b: &'b Builder, scores: Sums<'b>, key: Val<'b, I32>, rows: &Rows<'b>) -> Sums<'b> {
        let scores: Sums<'b> = match self.0.softcap {
            None => scores,
            Some(_) => each_row(&scores, |s, h| self.0.capped(s * rows.factors[h])),
        };
        let mask = || {
            let hidden = |j: usize| self.hidden(b, rows, key, (j / 4 * 8 + j % 2) as u32, j / 2 % 2);
            scores.iter().enumerate().map(|(j, &s)| hidden(j).select(f32::NEG_INFINITY, s)).collect()
        };
        b.if_else(self.hides(rows.positions, key), mask, || scores.clone())
    }

    /// Whether a row at one of the positions from `first` to `last` does not see a key of the tile that begins with position `key`.
    pub(super) fn hides<'b>(&self, [first, last]: [Val<'b, I32>; 2], key: Val<'b, I32>) -> Val<'b, I1> {
        let edge = first.lt(key + (self.tiling().keys - 1));
        self.0.window.map_or(edge, |w| edge | (key + w).le(last))
    }

    /// Whether row `h` of the thread does not see the key of column `column`, counted from the thread's first, in that tile.
    pub(super) fn hidden<'b>(
        &self,
        b: &'b Builder,
        rows: &Rows<'b>,
        key: Val<'b, I32>,
        column: u32,
        h: usize,
    ) -> Val<'b, I1> {
        let sees = rows.sees[h] - key;
        let behind = sees.lt(column);
        self.0.window.map_or(behind, |w| behind | b.value(column).le(sees - w))
    }

    /// The new softmax, the factors on sums so far, and the weights.
    fn weights<'b>(
        &self,
        b: &'b Builder,
        softmax: Softmax<'b>,
        scores: Sums<'b>,
        rows: &Rows<'b>,
    ) -> (Softmax<'b>, [Val<'b, F32>; 2], Sums<'b>) {
        // Without a cap products become scores in the fma that the exponent takes anyway.
        let factors = if self.0.softcap.is_some() { [b.value(1.0f32); 2] } else { rows.factors };
        let raised = if self.scaled() { RAISED } else { 0.0 };
        let of_row =
            |h: usize| scores.iter().enumerate().filter(move |(j, _)| j / 2 % 2 == h).map(|(_, &s)| s);
        let most = [0, 1].map(|h: usize| {
            let own = in_two(of_row(h), |a, b| a.max(b));
            softmax[h][0].max(b.max_lanes(own, 4))
        });
        let old = [0, 1].map(|h: usize| ((softmax[h][0] - most[h]) * factors[h]).exp2_flush());
        let base = [0, 1].map(|h: usize| (-most[h]).fma(factors[h], raised));
        let weights = each_row(&scores, |s, h| s.fma(factors[h], base[h]).exp2_flush());
        let sum = [0, 1].map(|h: usize| {
            let own = weights.iter().enumerate().filter(|(j, _)| j / 2 % 2 == h).map(|(_, &s)| s);
            softmax[h][1].fma(old[h], in_two(own, |a, b| a + b))
        });
        ([0, 1].map(|h: usize| [most[h], sum[h]]), old, weights)
    }

    /// What products of queries with the keys in shared memory are multiplied by, as [`Attention::factor`] those with keys.
    ///
    /// [`Attention::factor`]: super::super::attention::Attention::factor
    fn factor(&self) -> f32 {
        self.0.factor() * if self.halves() { 1.0 / KEYS } else { 1.0 }
    }

    /// Weights or results in pairs; weights are the first operand of a product: a thread holds of the sums just what it has to
    /// hold of that.
    fn packed<'b>(&self, b: &'b Builder, element: WgmmaType, sums: &Sums<'b>) -> Words<'b> {
        let (pairs, _) = sums.as_chunks::<2>();
        let pack = |[low, high]: [Val<'b, F32>; 2]| match element {
            WgmmaType::F16 => b.pack_f16(low, high),
            _ => b.pack_bf16(low, high),
        };
        pairs.iter().map(|&pair| pack(pair)).collect()
    }

    /// Divides the weighted values by the sums of weights, and stores the rows that exist, by way of the memory of the
    /// queries, so that whole rows are written.
    pub(super) fn store<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        item: &Item<'b>,
        (softmax, values): (Softmax<'b>, Sums<'b>),
        own: SharedPtr<'b, Bf16>,
        group: Val<'b, I32>,
    ) {
        let (lane, warp) = b.lane_and_warp();
        let (warp, part_bytes) = (warp & 3, ROWS * ROW_BYTES);
        let tile = Tile { rows: ROWS, row_bytes: ROW_BYTES };
        let one = if self.halves() { 1.0 / VALUES } else { 1.0 };
        let whole = [0, 1].map(|h: usize| b.value(one).div_approx(b.sum_lanes(softmax[h][1], 4)));
        let values = each_row(&values, |v, h| v * whole[h]);
        // No warp of the group reads queries any more.
        b.sync_some(group + OWN, GROUP);
        if self.codes() {
            self.put_in_order(b, &values, (own, tile));
        } else {
            let words = self.packed(b, WgmmaType::Bf16, &values);
            let (matrices, _) = words.as_chunks::<4>();
            for (m, &matrix) in (0u32..).zip(matrices) {
                // Matrices (rows 0-7, columns 0-7), (rows 8-15, columns 0-7), (rows 0-7, columns 8-15), ...
                let at = tile.offset(warp * 16 + (lane & 15), (lane >> 4) + m % 4 * 2);
                b.stmatrix(own.at_bytes(at + m / 4 * part_bytes), matrix, false);
            }
        }
        b.sync_warp();
        let chunks = self.parts() * tile.chunks();
        // A loop, for few registers.
        b.for_(lane, 16 * chunks, 32, (), |i, ()| {
            let (row, chunk) = (warp * 16 + i / chunks, i % chunks);
            let part = chunk / tile.chunks() * part_bytes;
            let (head, token) = self.row(row);
            let token = group * self.tokens_of_group() + token;
            b.if_(token.lt(item.count), || {
                let from = own.at_bytes(part + tile.offset(row, chunk % tile.chunks())).cast::<I32>();
                let to = (item.token + token).to_i64() * i64::from(self.0.heads)
                    + (item.unit * self.heads_of_tile() + head).to_i64();
                let to = params.y.at64(to * i64::from(self.0.head_dim)).at(chunk * 8);
                to.cast::<I32>().store_vector(from.load_vector::<4>());
            });
        });
        // The next copy to here comes after these reads and writes.
        b.fence_async();
        b.sync_warp();
    }
}

/// `f(value, row)` of every sum, row 0 or 1 of the thread's.
fn each_row<'b>(sums: &Sums<'b>, f: impl Fn(Val<'b, F32>, usize) -> Val<'b, F32>) -> Sums<'b> {
    sums.iter().enumerate().map(|(j, &s)| f(s, j / 2 % 2)).collect()
}

/// All values in one, by two chains, which run beside each other.
pub(super) fn in_two<'b>(
    values: impl Iterator<Item = Val<'b, F32>>,
    combine: impl Fn(Val<'b, F32>, Val<'b, F32>) -> Val<'b, F32>,
) -> Val<'b, F32> {
    let values: Vec<_> = values.collect();
    let (left, right) = values.split_at(values.len() / 2);
    let chain = |part: &[Val<'b, F32>]| part.iter().copied().reduce(&combine);
    match (chain(left), chain(right)) {
        (Some(a), Some(b)) => combine(a, b),
        (a, b) => a.or(b).unwrap_or(values[0]),
    }
}
