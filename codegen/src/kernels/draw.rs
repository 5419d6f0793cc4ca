//! One block's draw of a token from a row of logits, as `llm.sample` defines it. What the best token is, and which rows
//! are drawn from, `sample` knows.
//!
//! First comes the bar down to which tokens are kept (`bar`). Then what is kept of each [`SEGMENT`] adjacent tokens is
//! added up; scans tell in which one the draw falls, and at which token of it.
//!
//! Weights are whole numbers, 2^28 for the best token, so that sums do not depend on their order.

use super::bar::{BUCKETS, Bar, LIST};
use crate::builder::{Builder, Carried, F32, GlobalPtr, I1, I32, I64, SharedPtr, Special, Val};

/// Threads of a block.
pub(super) const THREADS: u32 = 512;
/// Their warps.
pub(super) const WARPS: u32 = THREADS / 32;
/// Columns of a draw: temperature, top_k, top_p, min_p, u in two halves, 1 more than the row of its mask.
pub(super) const DRAW: u32 = 8;
/// Tokens of a word of a mask.
pub(super) const WORD: u32 = 32;
/// Loads that a thread has in flight.
const UNROLL: u32 = 8;
/// Adjacent tokens that a warp adds up.
const SEGMENT: u32 = 32 * UNROLL;
/// The weight of the best token.
const ONE: f32 = (1u32 << 28) as f32;
/// The first bit of a number of tokens in a cell; below it is their weight. A thread has up to 2^10 tokens of 2^19, a
/// segment 2^8: their weight is at most 2^38.
pub(super) const NUMBER: i64 = 40;
/// Bits of the lower part of a sum that is added up in two.
const LIMB: i64 = 24;
/// Powers of two below the best token at which a weight is 0, whatever was rounded.
const NOTHING: f32 = 30.0;

/// Logits: how many (at least 1), and how one is read.
#[derive(Clone, Copy)]
pub(super) struct Logits<'a, 'b> {
    pub(super) n: Val<'b, I32>,
    pub(super) load: &'a dyn Fn(Val<'b, I32>) -> Val<'b, F32>,
}

/// A row that is drawn from.
#[derive(Clone, Copy)]
pub(super) struct Row<'b> {
    pub(super) b: &'b Builder,
    x: GlobalPtr<'b, F32>,
    /// Which tokens may be chosen, if not all.
    mask: Option<GlobalPtr<'b, I32>>,
    vocab: u32,
    /// The greatest logit of these.
    pub(super) most: Val<'b, F32>,
    factor: Val<'b, F32>,
    pub(super) room: Room<'b>,
}

/// Shared memory of a draw.
#[derive(Clone, Copy)]
pub(super) struct Room<'b> {
    /// `[bucket][thread]`.
    pub(super) cells: SharedPtr<'b, I64>,
    pub(super) list: SharedPtr<'b, F32>,
    /// Sums of weights, of buckets or warps.
    pub(super) sums: SharedPtr<'b, I64>,
    /// Numbers of tokens, of buckets.
    pub(super) numbers: SharedPtr<'b, I32>,
}

impl<'b> Room<'b> {
    /// Takes it.
    pub(super) fn new(b: &'b Builder) -> Room<'b> {
        let cells = b.shared(BUCKETS * THREADS, 8);
        Room { cells, list: b.shared(LIST, 4), sums: b.shared(WARPS, 8), numbers: b.shared(BUCKETS, 4) }
    }
}

/// NaN as minus infinity, -0 as 0.
pub(super) fn clean(x: Val<'_, F32>) -> Val<'_, F32> {
    x.eq(x).select(x + 0.0f32, f32::NEG_INFINITY)
}

/// A logit, or minus infinity where its bit of a mask's word is not set.
pub(super) fn allowed<'b>(word: Val<'b, I32>, bit: Val<'b, I32>, x: Val<'b, F32>) -> Val<'b, F32> {
    (word >> bit & 1).eq(0).select(f32::NEG_INFINITY, x)
}

/// `whole * u / 2^32`, `u` below 2^32, `whole` up to 2^47: in two parts that 64 bits hold.
fn part_of<'b>(whole: Val<'b, I64>, u: Val<'b, I64>) -> Val<'b, I64> {
    let (high, low) = (whole >> 16i64, whole & 0xffffi64);
    ((high * u) >> 16i64) + ((low * u) >> 32i64)
}

/// A whole number that orders logits: for negative ones the lower bits turn round.
pub(super) fn key_of(x: Val<'_, F32>) -> Val<'_, I32> {
    let bits = x.bitcast::<I32>();
    bits.lt(0).select(bits ^ 0x7fff_ffff, bits)
}

/// The logit that has the key.
pub(super) fn logit_of(key: Val<'_, I32>) -> Val<'_, F32> {
    key.lt(0).select(key ^ 0x7fff_ffff, key).bitcast::<F32>()
}

impl<'b> Row<'b> {
    /// The row of `vocab` logits at `x`, of which `most` is the greatest; `factor` is `log2(e) / temperature`.
    pub(super) fn new(
        x: GlobalPtr<'b, F32>,
        vocab: u32,
        room: Room<'b>,
        most: Val<'b, F32>,
        factor: Val<'b, F32>,
    ) -> Row<'b> {
        Row { b: x.builder(), x, mask: None, vocab, most, factor, room }
    }

    /// The same row, of which only the tokens of a mask may be chosen; `most` is the greatest of their logits.
    pub(super) fn masked(self, mask: GlobalPtr<'b, I32>) -> Row<'b> {
        Row { mask: Some(mask), ..self }
    }

    /// `e^((x - greatest) / temperature)`.
    fn weight(&self, x: Val<'b, F32>) -> Val<'b, F32> {
        // The difference of two infinities is NaN: they are equal.
        x.eq(self.most).select(1.0f32, ((x - self.most) * self.factor).exp2())
    }

    fn whole(&self, x: Val<'b, F32>) -> Val<'b, I32> {
        (self.weight(x) * ONE).to_i32()
    }

    fn logit(&self, i: Val<'b, I32>) -> Val<'b, F32> {
        let x = clean(self.x.at(i).load());
        // Lanes read adjacent logits: as a rule those of one word.
        self.mask.map_or(x, |mask| allowed(mask.at(i >> 5).load(), i & (WORD as i32 - 1), x))
    }

    /// Over this thread's logits: `work` gets one and whether it is any.
    pub(super) fn fold<C: Carried<'b>>(
        &self,
        logits: Logits<'_, 'b>,
        init: C,
        work: impl Fn(Val<'b, F32>, Val<'b, I1>, C) -> C,
    ) -> C {
        let b = self.b;
        b.for_(b.special(Special::ThreadX), logits.n, THREADS * UNROLL, init, |i, carried| {
            let read = |u: u32| {
                let i = i + u * THREADS;
                ((logits.load)(i.min(logits.n - 1)), i.lt(logits.n))
            };
            let read: Vec<_> = (0..UNROLL).map(read).collect();
            read.into_iter().fold(carried, |carried, (x, any)| work(x, any, carried))
        })
    }

    /// Sum over the warp of numbers up to 2^43.
    pub(super) fn over_lanes(&self, sum: Val<'b, I64>) -> Val<'b, I64> {
        let low = self.b.sum_lanes_int((sum & ((1i64 << LIMB) - 1)).to_i32());
        let high = self.b.sum_lanes_int((sum >> LIMB).to_i32());
        (high.to_i64() << LIMB) + low.to_i64()
    }

    /// The weight of the tokens with this key or a greater one.
    fn mass(&self, row: Logits<'_, 'b>, least: Val<'b, I32>) -> Val<'b, I64> {
        let (b, (lane, warp)) = (self.b, self.b.lane_and_warp());
        let sum = self.fold(row, b.value(0i64), |x, any, sum| {
            sum + (any & least.le(key_of(x))).select(self.whole(x), 0).to_i64()
        });
        // The table is free: what was read of it before lies before a barrier.
        b.sync();
        let all = self.over_lanes(sum);
        b.if_(lane.eq(0), || self.room.sums.at(warp).store(all));
        b.sync();
        let mine = self.room.sums.at(lane.min(WARPS - 1)).load();
        self.over_lanes(lane.lt(WARPS).select(mine, 0i64))
    }

    /// Makes the draw; one thread calls `store`.
    pub(super) fn draw(
        &self,
        draw: GlobalPtr<'b, F32>,
        top_k: Val<'b, I32>,
        store: impl FnOnce(Val<'b, I32>),
    ) {
        let b = self.b;
        let row = Logits { n: b.value(self.vocab), load: &|i| self.logit(i) };
        let [top_p, min_p, high, low] = [2, 3, 4, 5].map(|i| draw.at(i).load());
        let u = (high.to_i32().to_i64() << 16i64) + low.to_i32().to_i64();
        let lowest = key_of(b.value(f32::NEG_INFINITY));
        let all = Bar { key: lowest, above: b.value(0i64), each: b.value(0i64), target: b.value(1i64) };
        let bounded = b.value(0).lt(top_k) & top_k.lt(self.vocab);
        let by_count = b.if_else(bounded, || self.bar(row, lowest, top_k.to_i64(), &|_| b.value(1)), || all);
        let nucleus = || {
            // What top_k leaves: all above its bar, and so many of the ties at it.
            let ties = by_count.target - by_count.above;
            let of_ties = ties * self.whole(logit_of(by_count.key)).to_i64();
            let higher = self.mass(row, by_count.key + bounded.to_i32());
            let kept = higher + bounded.select(of_ties, 0i64);
            // 24 bits of p, the lowest ones of 32 are 0. At least 1, so that the best token is kept.
            let p = (top_p * 16_777_216.0f32).to_i32().to_i64() << 8i64;
            let mass = part_of(kept, p);
            let mass = mass.lt(1i64).select(1i64, mass);
            // What weighs nothing does not count.
            let least = key_of(clean(self.most - b.value(NOTHING).div_approx(self.factor)));
            let least = least.lt(by_count.key).select(by_count.key, least);
            self.bar(row, least, mass, &|x| self.whole(x))
        };
        let bar = b.if_else(top_p.lt(1.0f32), nucleus, || by_count);
        self.choose(bar, min_p, u, store);
    }

    /// Adds up what is kept, segment by segment, and finds the token in whose share the draw falls.
    fn choose(&self, bar: Bar<'b>, min_p: Val<'b, F32>, u: Val<'b, I64>, store: impl FnOnce(Val<'b, I32>)) {
        let (b, (lane, warp)) = (self.b, self.b.lane_and_warp());
        let thread = b.special(Special::ThreadX);
        let none = b.value(0i64);
        let ties_left = bar.ties();
        let tie_logit = logit_of(bar.key);
        let each = min_p.le(self.weight(tie_logit)).select(self.whole(tie_logit).to_i64(), 0i64);
        // The weight of the ties that are kept of `n` after `before`.
        let of_ties = |before: Val<'b, I64>, n: Val<'b, I64>| {
            let left = ties_left - before;
            let left = left.lt(0i64).select(0i64, left);
            left.lt(n).select(left, n) * each
        };
        // A token's weight if it is above the bar and kept; whether it is a tie.
        let take = |i: Val<'b, I32>, any: Val<'b, I1>| {
            let x = self.logit(i.min(self.vocab - 1));
            let (key, weight) = (key_of(x), self.weight(x));
            let kept = any & bar.key.lt(key) & min_p.le(weight);
            (kept.select(self.whole(x), 0).to_i64(), (any & key.eq(bar.key)).select(1i64, 0i64))
        };
        // The first cells are the scans'.
        let segments = self.vocab.div_ceil(SEGMENT);
        let table = self.room.cells.at(THREADS);
        b.sync();
        b.if_(thread.eq(0), || (0..3).for_each(|i| self.room.sums.at(i).store(b.value(0i64))));
        b.for_(warp, segments, WARPS, (), |segment, ()| {
            let first = segment * SEGMENT + lane;
            let taken: Vec<_> =
                (0..UNROLL).map(|u| first + u * 32).map(|i| take(i, i.lt(self.vocab))).collect();
            let add =
                |a: (Val<'b, I64>, Val<'b, I64>), c: (Val<'b, I64>, Val<'b, I64>)| (a.0 + c.0, a.1 + c.1);
            let (mass, ties) = taken.into_iter().fold((none, none), add);
            let (mass, ties) = (self.over_lanes(mass), b.sum_lanes_int(ties.to_i32()).to_i64());
            b.if_(lane.eq(0), || table.at(segment).store(mass + (ties << NUMBER)));
        });
        b.sync();
        // Runs of segments.
        let run = segments.div_ceil(THREADS);
        let from = (thread * run).min(segments);
        let to = (from + run).min(segments);
        let read = |segment: Val<'b, I32>| {
            let cell = table.at(segment).load();
            (cell & ((1i64 << NUMBER) - 1), cell >> NUMBER)
        };
        let ties = b.for_(from, to, 1, none, |i, ties| ties + read(i).1);
        let (ties_before, _) = self.scan(ties);
        let (mass, _) = b.for_(from, to, 1, (none, ties_before), |i, (sum, before)| {
            let (mass, ties) = read(i);
            (sum + mass + of_ties(before, ties), before + ties)
        });
        let (before, all) = self.scan(mass);
        let wanted = part_of(all, u);
        b.if_(before.le(wanted) & wanted.lt(before + mass), || {
            b.for_(from, to, 1, (before, ties_before), |i, (sum, before)| {
                let (mass, ties) = read(i);
                let next = sum + mass + of_ties(before, ties);
                b.if_(sum.le(wanted) & wanted.lt(next), || {
                    let found = [i.to_i64(), sum, before];
                    found.into_iter().enumerate().for_each(|(at, v)| self.room.sums.at(at as u32).store(v));
                });
                (next, before + ties)
            });
        });
        b.sync();
        let [segment, sum, ties_before] = [0, 1, 2].map(|i| self.room.sums.at(i).load());
        let token = segment.to_i32() * SEGMENT + thread;
        let (mass, tie) = take(token, thread.lt(SEGMENT) & token.lt(self.vocab));
        let (before, _) = self.scan(tie);
        let mass = mass + of_ties(ties_before + before, tie);
        let (before, _) = self.scan(mass);
        let sum = sum + before;
        b.if_(sum.le(wanted) & wanted.lt(sum + mass), || store(token));
    }

    /// The sum of the threads before this one, and of all. Takes the first cells.
    pub(super) fn scan(&self, mine: Val<'b, I64>) -> (Val<'b, I64>, Val<'b, I64>) {
        let (b, table) = (self.b, self.room.cells);
        let thread = b.special(Special::ThreadX);
        b.sync();
        table.at(thread).store(mine);
        b.sync();
        let mut sum = mine;
        let mut distance = 1;
        while distance < THREADS {
            let there: Val<'b, I1> = b.value(distance).le(thread);
            let other = table.at(there.select(thread - distance, thread)).load();
            sum = sum + there.select(other, 0i64);
            b.sync();
            table.at(thread).store(sum);
            b.sync();
            distance *= 2;
        }
        (sum - mine, table.at(THREADS - 1).load())
    }
}
