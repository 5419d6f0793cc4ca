//! How the parts of a row's softmax and weighted values become one: those of a block's warps by way of shared memory, those
//! of a context's shares by way of scratch memory. Both are merged in order.

use super::super::attention::NONE;
use super::super::flash_softmax::State;
use super::{DecodeAttention, SHARES, Shares};
use crate::builder::{Builder, F32, GlobalPtr, I32, SharedPtr, Special, Val};

/// Elements that a thread merges at once.
const VEC: u32 = 4;

/// A softmax and weighted values of some keys: m, l and O of a row in four columns.
pub(super) type Part<'b> = (Val<'b, F32>, Val<'b, F32>, [Val<'b, F32>; VEC as usize]);

/// Where parts lie: m and l `[part][row][2]`, O `[part][row][head_dim]`.
pub(super) struct Parts<'b> {
    softmax: GlobalPtr<'b, F32>,
    values: GlobalPtr<'b, F32>,
}

impl DecodeAttention {
    /// Elements of the scratch memory of a request: m and l of all units and shares, then O.
    pub(super) fn scratch(&self) -> [u64; 2] {
        let rows = u64::from(self.units()) * u64::from(SHARES * self.rows());
        [rows * 2, rows * u64::from(self.attention.head_dim)]
    }

    /// Puts this warp's state into shared memory: m and l `[warp][row][2]`, then O `[warp][row][head_dim]`.
    pub(super) fn exchange<'b>(
        &self,
        b: &'b Builder,
        memory: SharedPtr<'b, F32>,
        (softmax, values): State<'b>,
    ) {
        let (lane, warp) = b.lane_and_warp();
        let rows = self.rows();
        for (h, &[most, sum]) in softmax[0].iter().enumerate().take(rows.div_ceil(8) as usize) {
            let sum = b.sum_lanes(sum, 4);
            let row = (lane >> 2) + h as u32 * 8;
            let put = || {
                let at = warp * rows + row;
                // All lanes of a row have the same.
                memory.at(at * 2).store_vector(b.vector([most, sum]));
                let (column, pairs) = self.attention.pairs(&values[0], h);
                let to = memory.at(self.values_at()).at(at * self.attention.head_dim + column);
                pairs.into_iter().for_each(|(on, v)| to.at(on).store_vector(b.vector(v)));
            };
            if rows.is_multiple_of(8) {
                put();
            } else {
                b.if_(row.lt(rows), put);
            }
        }
    }

    /// Where O begins in shared memory, a multiple of four elements.
    pub(super) fn values_at(&self) -> u32 {
        (self.tiling().warps * self.rows() * 2).next_multiple_of(VEC)
    }

    /// `work(at)` for each four elements of the block's rows, at `row * head_dim + column`.
    pub(super) fn for_elements<'b>(&self, b: &'b Builder, work: impl Fn(Val<'b, I32>)) {
        let all = self.rows() * self.attention.head_dim / VEC;
        for round in 0..all.div_ceil(b.threads()) {
            let at = (b.special(Special::ThreadX) + round * b.threads()) * VEC;
            if (round + 1) * b.threads() <= all {
                work(at);
            } else {
                b.if_(at.lt(all * VEC), || work(at));
            }
        }
    }

    /// What warp `warp` has put into shared memory.
    pub(super) fn part_of_warp<'b>(
        &self,
        memory: SharedPtr<'b, F32>,
        warp: u32,
        at: Val<'b, I32>,
    ) -> Part<'b> {
        let (rows, head_dim) = (self.rows(), self.attention.head_dim);
        let [most, sum] = memory.at((at / head_dim + warp * rows) * 2).load_vector::<2>().elements();
        let values = memory.at(self.values_at()).at(at + warp * rows * head_dim);
        (most, sum, values.load_vector::<{ VEC as usize }>().elements())
    }

    /// Where the shares of a request's unit leave their parts.
    pub(super) fn parts<'b>(
        &self,
        scratch: GlobalPtr<'b, F32>,
        seq: Val<'b, I32>,
        unit: Val<'b, I32>,
    ) -> Parts<'b> {
        let [softmax, values] = self.scratch().map(|n| n as i64);
        let own = scratch.at64(seq.to_i64() * (softmax + values));
        let row = unit * (SHARES * self.rows());
        let behind = own.at64(own.builder().value(softmax));
        Parts {
            softmax: own.at(row * 2),
            values: behind.at64(row.to_i64() * i64::from(self.attention.head_dim)),
        }
    }

    /// Leaves the part of share `share`.
    pub(super) fn put<'b>(
        &self,
        b: &'b Builder,
        parts: &Parts<'b>,
        share: Val<'b, I32>,
        at: Val<'b, I32>,
        (most, sum, values): Part<'b>,
    ) {
        let (rows, head_dim) = (self.rows(), self.attention.head_dim);
        // All threads of a row have the same.
        parts.softmax.at((share * rows + at / head_dim) * 2).store_vector(b.vector([most, sum]));
        parts.values.at(share * (rows * head_dim) + at).store_vector(b.vector(values));
    }

    /// The part of share `share`, or, if there are not so many, the last one's as if it had seen nothing.
    pub(super) fn part_of_share<'b>(
        &self,
        b: &'b Builder,
        parts: &Parts<'b>,
        shares: &Shares<'b>,
        share: u32,
        at: Val<'b, I32>,
    ) -> Part<'b> {
        let (rows, head_dim) = (self.rows(), self.attention.head_dim);
        let there = b.value(share).lt(shares.count);
        let share = (shares.count - 1).min(share);
        let softmax = parts.softmax.at((share * rows + at / head_dim) * 2).load_vector::<2>().elements();
        let values = parts.values.at(share * (rows * head_dim) + at).load_vector::<{ VEC as usize }>();
        (there.select(softmax[0], NONE), softmax[1], values.elements())
    }

    /// One part of several, in order.
    pub(super) fn merged<'b>(&self, b: &'b Builder, parts: impl Iterator<Item = Part<'b>>) -> Part<'b> {
        let parts: Vec<Part<'b>> = parts.collect();
        let most = parts.iter().fold(b.value(NONE), |m, p| m.max(p.0));
        let zero = b.value(0.0f32);
        parts.iter().fold((most, zero, [zero; VEC as usize]), |(_, sum, values), (m, l, o)| {
            let weight = ((*m - most) * self.attention.factor_after()).exp2_flush();
            (most, l.fma(weight, sum), std::array::from_fn(|i| o[i].fma(weight, values[i])))
        })
    }
}
