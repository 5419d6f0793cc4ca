//! A token for each row of logits and its log-probability, as `llm.sample` defines them.
//!
//! [`CHUNKS`] blocks share a row. Each reduces its part to the best token and the sum of exponentials; the last to
//! arrive merges them and, if a draw is wanted, makes it alone. That goes over the row several times:
//! * the logit down to which tokens are kept is found by bisection over their order, [`PIVOTS`] trials a round: how
//!   many tokens (`top_k`) or how much weight (`top_p`) is at or above each;
//! * every thread takes a run of adjacent tokens and adds up what is kept of it; a scan over the threads tells in
//!   whose run the draw falls, and that thread goes through it once more.
//!
//! Weights are whole numbers, 2^28 for the best token, so that sums do not depend on their order.

use super::{ArgKind, Count, Extent, Launch, Scratch, grid_of, last_to_arrive, param_scratch};
use crate::builder::{Builder, Carried, F32, GlobalPtr, I1, I32, I64, Raw, SharedPtr, Special, Val};
use std::f32::consts::{LN_2, LOG2_E};

/// Blocks that share a row.
const CHUNKS: u32 = 16;
/// Threads of a block.
const THREADS: u32 = 512;
/// Their warps.
const WARPS: u32 = THREADS / 32;
/// Trials of a round of bisection, so that a round leaves an eighth.
const PIVOTS: usize = 7;
/// Rounds for 32 bits.
const ROUNDS: u32 = 11;
/// The weight of the best token.
const ONE: f32 = (1u32 << 28) as f32;
/// Bits of the lower part of a sum that is added up in two.
const LIMB: u32 = 24;
/// Columns of a draw: temperature, top_k, top_p, min_p, u in two halves.
const DRAW: u32 = 8;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Tokens.
    pub vocab: u32,
}

/// What a row comes to: the greatest logit, where it is, the sum of `e^(x - greatest)`.
type Best<'b> = (Val<'b, F32>, Val<'b, I32>, Val<'b, F32>);

/// Tokens that are kept: those above a key, and the first of those at it. Tie `j` is kept if
/// `above + j * each < target`.
#[derive(Clone, Copy)]
struct Bar<'b> {
    key: Val<'b, I32>,
    above: Val<'b, I64>,
    each: Val<'b, I64>,
    target: Val<'b, I64>,
}

impl<'b> Carried<'b> for Bar<'b> {
    fn flatten(&self, out: &mut Vec<Raw>) {
        self.key.flatten(out);
        [self.above, self.each, self.target].flatten(out);
    }
    fn rebuild(&self, b: &'b Builder, ids: &mut dyn Iterator<Item = u32>) -> Self {
        let key = self.key.rebuild(b, ids);
        let [above, each, target] = [self.above, self.each, self.target].rebuild(b, ids);
        Bar { key, above, each, target }
    }
}

/// A row that is drawn from.
struct Row<'b> {
    b: &'b Builder,
    x: GlobalPtr<'b, F32>,
    vocab: u32,
    most: Val<'b, F32>,
    /// `log2(e) / temperature`.
    factor: Val<'b, F32>,
    /// `[warp][pivot]`.
    sums: SharedPtr<'b, I64>,
}

impl Sample {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let most = 1 << 19;
        (self.vocab == 0 || self.vocab > most).then(|| {
            format!("a vocabulary of {} is not in 1..={most}, whose weights 64 bits hold", self.vocab)
        })
    }

    /// Geometry. Arguments: `[logits, draws, token, logprob]`.
    pub fn launch(&self) -> Launch {
        let grid = grid_of(Extent { of: Count::Rows, div: 1, plus: None, mul: CHUNKS });
        let scratch = Some(Scratch { of: Count::Rows, bytes: u64::from(CHUNKS) * 16, counters: 1 });
        Launch { grid, block: [THREADS, 1, 1], args: vec![ArgKind::Pointer; 4], scratch }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let logits = b.param_ptr::<F32>();
        let draws = b.param_ptr::<F32>();
        let tokens = b.param_ptr::<I32>();
        let logprobs = b.param_ptr::<F32>();
        let (parts, counters) = param_scratch(b);
        b.param_dims();
        // One block on a multiprocessor is enough, so that it may have the registers.
        b.min_blocks(1);

        let block = b.special(Special::BlockX);
        let (row, chunk) = (block / CHUNKS, block % CHUNKS);
        let x = logits.at64(row.to_i64() * i64::from(self.vocab));
        let thread = b.special(Special::ThreadX);
        let part = parts.cast::<F32>().at((row * CHUNKS + chunk) * 4);
        let own = self.best_of_chunk(b, x, chunk);
        b.if_(thread.eq(0), || {
            part.store(own.0);
            part.at(1).store(own.2);
            part.at(2).cast::<I32>().store(own.1);
        });
        let last = last_to_arrive(b, counters.at(row), b.value(CHUNKS));
        b.if_(last, || {
            let part = parts.cast::<F32>().at((row * CHUNKS + (thread & (CHUNKS as i32 - 1))) * 4);
            let read = (part.load(), part.at(2).cast::<I32>().load(), part.at(1).load());
            let (most, best, sum) = merge_lanes(b, read, CHUNKS);
            // A row without a probability has no best token: the first one stands for it.
            let best = best.lt(self.vocab).select(best, 0);
            let norm = most + sum.log2() * LN_2;
            let store = |token: Val<'_, I32>| {
                tokens.at(row).store(token);
                logprobs.at(row).store(clean(x.at(token).load()) - norm);
            };
            let draw = draws.at(row * DRAW);
            let (temperature, top_k) = (draw.load(), draw.at(1).load().to_i32());
            let greedy = temperature.eq(0.0f32) | top_k.eq(1);
            b.if_(greedy & thread.eq(0), || store(best));
            b.if_(!greedy, || {
                let factor = b.value(LOG2_E).div_approx(temperature);
                let sums = b.shared::<I64>(WARPS * PIVOTS as u32, 8);
                let row = Row { b, x, vocab: self.vocab, most, factor, sums };
                row.draw(draw, top_k, store);
            });
        });
    }

    /// The best of a block's chunk of the row; every thread gets it. Takes shared memory and a barrier.
    fn best_of_chunk<'b>(&self, b: &'b Builder, x: GlobalPtr<'b, F32>, chunk: Val<'b, I32>) -> Best<'b> {
        let each = self.vocab.div_ceil(CHUNKS);
        let from = chunk * each;
        let to = (from + each).min(self.vocab);
        let thread = b.special(Special::ThreadX);
        let none: Best<'b> = (b.value(f32::MIN), b.value(self.vocab), b.value(0.0f32));
        let own = b.for_(from + thread, to, THREADS, none, |i, best| {
            merge(best, (clean(x.at(i).load()), i, b.value(1.0f32)))
        });
        let (most, at, sum) = merge_lanes(b, own, 32);
        let (lane, warp) = b.lane_and_warp();
        let shared = (b.shared::<F32>(WARPS, 16), b.shared::<I32>(WARPS, 16), b.shared::<F32>(WARPS, 16));
        b.if_(lane.eq(0), || {
            shared.0.at(warp).store(most);
            shared.1.at(warp).store(at);
            shared.2.at(warp).store(sum);
        });
        b.sync();
        let mine = lane & (WARPS as i32 - 1);
        let read = (shared.0.at(mine).load(), shared.1.at(mine).load(), shared.2.at(mine).load());
        merge_lanes(b, read, WARPS)
    }
}

/// NaN as minus infinity, -0 as 0.
fn clean(x: Val<'_, F32>) -> Val<'_, F32> {
    x.eq(x).select(x + 0.0f32, f32::NEG_INFINITY)
}

/// The better of two and the sum of both; of equal logits the lower id. A logit of minus infinity is none.
fn merge<'b>(a: Best<'b>, c: Best<'b>) -> Best<'b> {
    let better = a.0.lt(c.0) | (a.0.eq(c.0) & c.1.lt(a.1));
    let most = a.0.max(c.0);
    let part = |(m, _, sum): Best<'b>| ((m - most) * LOG2_E).exp2() * sum;
    (most, better.select(c.1, a.1), part(a) + part(c))
}

/// Over groups of `lanes` adjacent lanes; every lane gets it, in a fixed order.
fn merge_lanes<'b>(b: &'b Builder, mut best: Best<'b>, lanes: u32) -> Best<'b> {
    let mut distance = 1;
    while distance < lanes {
        let (most, at, sum) = best;
        let other =
            (b.shuffle_xor(most, distance), b.shuffle_xor(at, distance), b.shuffle_xor(sum, distance));
        best = merge(best, other);
        distance *= 2;
    }
    best
}

/// `whole * u / 2^32`, `u` below 2^32, `whole` up to 2^47: in two parts that 64 bits hold.
fn part_of<'b>(whole: Val<'b, I64>, u: Val<'b, I64>) -> Val<'b, I64> {
    let (high, low) = (whole >> 16i64, whole & 0xffffi64);
    ((high * u) >> 16i64) + ((low * u) >> 32i64)
}

impl<'b> Row<'b> {
    /// A whole number that orders logits: for negative ones the lower bits turn round.
    fn key(&self, x: Val<'b, F32>) -> Val<'b, I32> {
        let bits = x.bitcast::<I32>();
        bits.lt(0).select(bits ^ 0x7fff_ffff, bits)
    }

    /// `e^((x - greatest) / temperature)`.
    fn weight(&self, x: Val<'b, F32>) -> Val<'b, F32> {
        // The difference of two infinities is NaN: they are equal.
        x.eq(self.most).select(1.0f32, ((x - self.most) * self.factor).exp2())
    }

    fn whole(&self, weight: Val<'b, F32>) -> Val<'b, I32> {
        (weight * ONE).to_i32()
    }

    /// How much of the row, by `measure`, is at or above each of some keys.
    fn measure(
        &self,
        keys: &[Val<'b, I32>],
        measure: &impl Fn(Val<'b, F32>) -> Val<'b, I32>,
    ) -> Vec<Val<'b, I64>> {
        let b = self.b;
        let (lane, warp) = b.lane_and_warp();
        let thread = b.special(Special::ThreadX);
        let init = vec![b.value(0i64); keys.len()];
        let sums = b.for_(thread, self.vocab, THREADS, init, |i, sums| {
            let x = clean(self.x.at(i).load());
            let (key, much) = (self.key(x), measure(x).to_i64());
            let add = |(&k, s): (&Val<'b, I32>, Val<'b, I64>)| s + k.le(key).select(much, 0i64);
            keys.iter().zip(sums).map(add).collect()
        });
        // The table is free: what was read of it before lies before a barrier.
        b.sync();
        for (p, &sum) in sums.iter().enumerate() {
            let all = self.over_lanes(sum);
            b.if_(lane.eq(0), || self.sums.at(warp * PIVOTS as u32 + p as u32).store(all));
        }
        b.sync();
        let of = |p: usize| {
            let mine = self.sums.at(lane.min(WARPS - 1) * PIVOTS as u32 + p as u32).load();
            self.over_lanes(lane.lt(WARPS).select(mine, 0i64))
        };
        (0..keys.len()).map(of).collect()
    }

    /// Sum over the warp of numbers up to 2^43.
    fn over_lanes(&self, sum: Val<'b, I64>) -> Val<'b, I64> {
        let low = self.b.sum_lanes_int((sum & ((1i64 << LIMB) - 1)).to_i32());
        let high = self.b.sum_lanes_int((sum >> i64::from(LIMB)).to_i32());
        (high.to_i64() << i64::from(LIMB)) + low.to_i64()
    }

    /// The greatest key, `low` or above, at or above which there is as much as `target`; there is at `low`.
    fn bar(
        &self,
        low: Val<'b, I32>,
        target: Val<'b, I64>,
        measure: impl Fn(Val<'b, F32>) -> Val<'b, I32>,
    ) -> Bar<'b> {
        let b = self.b;
        let most = self.key(self.most).to_i64() + 1i64;
        let init = (low.to_i64(), most, b.value(0i64));
        let (key, _, above) = b.for_(0, ROUNDS, 1, init, |_, (low, high, above)| {
            let narrow = || {
                let at = |p: usize| low + (((high - low) * (p as i64 + 1)) >> 3i64);
                let pivots: Vec<Val<'b, I64>> = (0..PIVOTS).map(at).collect();
                let keys: Vec<Val<'b, I32>> = pivots.iter().map(|p| p.to_i32()).collect();
                let much = self.measure(&keys, &measure);
                let mut next = (low, high, above);
                for (&pivot, &much) in pivots.iter().zip(&much) {
                    next.0 = target.le(much).select(pivot, next.0);
                }
                for (&pivot, &much) in pivots.iter().zip(&much).rev() {
                    let enough = target.le(much);
                    next.1 = enough.select(next.1, pivot);
                    next.2 = enough.select(next.2, much);
                }
                next
            };
            b.if_else(b.value(1i64).lt(high - low), narrow, || (low, high, above))
        });
        let key = key.to_i32();
        // The logit that has the key.
        let x = key.lt(0).select(key ^ 0x7fff_ffff, key).bitcast::<F32>();
        Bar { key, above, each: measure(x).to_i64(), target }
    }

    /// Makes the draw; one thread calls `store`.
    fn draw(&self, draw: GlobalPtr<'b, F32>, top_k: Val<'b, I32>, store: impl FnOnce(Val<'b, I32>)) {
        let b = self.b;
        let [top_p, min_p, high, low] = [2, 3, 4, 5].map(|i| draw.at(i).load());
        let u = (high.to_i32().to_i64() << 16i64) + low.to_i32().to_i64();
        let lowest = self.key(b.value(f32::NEG_INFINITY));
        let all = Bar { key: lowest, above: b.value(0i64), each: b.value(0i64), target: b.value(1i64) };
        let weigh = |x: Val<'b, F32>| self.whole(self.weight(x));
        let bounded = b.value(0).lt(top_k) & top_k.lt(self.vocab);
        let by_count = b.if_else(bounded, || self.bar(lowest, top_k.to_i64(), |_| b.value(1)), || all);
        let nucleus = || {
            // What top_k leaves: all above its bar, and so many of the ties at it.
            let at = by_count.key.lt(0).select(by_count.key ^ 0x7fff_ffff, by_count.key).bitcast::<F32>();
            let higher = self.measure(&[by_count.key, by_count.key + 1], &weigh);
            let ties = by_count.target - by_count.above;
            let kept = bounded.select(higher[1] + ties * weigh(at).to_i64(), higher[0]);
            // 24 bits of p, the lowest ones of 32 are 0. At least 1, so that the best token is kept.
            let p = (top_p * 16_777_216.0f32).to_i32().to_i64() << 8i64;
            let mass = part_of(kept, p);
            let mass = mass.lt(1i64).select(1i64, mass);
            self.bar(by_count.key, mass, weigh)
        };
        let bar = b.if_else(top_p.lt(1.0f32), nucleus, || by_count);
        self.choose(bar, min_p, u, store);
    }

    /// Adds up what is kept, run by run, and finds the token in whose share the draw falls.
    fn choose(&self, bar: Bar<'b>, min_p: Val<'b, F32>, u: Val<'b, I64>, store: impl FnOnce(Val<'b, I32>)) {
        let b = self.b;
        let thread = b.special(Special::ThreadX);
        let each = self.vocab.div_ceil(THREADS);
        let from = (thread * each).min(self.vocab);
        let to = (from + each).min(self.vocab);
        let table = b.shared::<I64>(THREADS, 8);
        let ties = b.for_(from, to, 1, b.value(0i64), |i, n| {
            n + self.key(clean(self.x.at(i).load())).eq(bar.key).select(1i64, 0i64)
        });
        let (ties_before, _) = self.scan(table, ties);
        // The weight of token i if it is kept, and the ties up to it.
        let take = |i: Val<'b, I32>, ties: Val<'b, I64>| {
            let x = clean(self.x.at(i).load());
            let (key, weight) = (self.key(x), self.weight(x));
            let tie = key.eq(bar.key);
            let first = (bar.above + ties * bar.each).lt(bar.target);
            let kept = (bar.key.lt(key) | (tie & first)) & min_p.le(weight);
            (kept.select(self.whole(weight).to_i64(), 0i64), ties + tie.select(1i64, 0i64))
        };
        let none = b.value(0i64);
        let (mass, _) = b.for_(from, to, 1, (none, ties_before), |i, (mass, ties)| {
            let (more, ties) = take(i, ties);
            (mass + more, ties)
        });
        let (before, all) = self.scan(table, mass);
        let wanted = part_of(all, u);
        b.if_(before.le(wanted) & wanted.lt(before + mass), || {
            let init = (before, (ties_before, b.value(0)));
            let (_, (_, token)) = b.for_(from, to, 1, init, |i, (mass, (ties, token))| {
                let (more, ties) = take(i, ties);
                let here = mass.le(wanted) & wanted.lt(mass + more);
                (mass + more, (ties, here.select(i, token)))
            });
            store(token);
        });
    }

    /// The sum of the threads before this one, and of all.
    fn scan(&self, table: SharedPtr<'b, I64>, mine: Val<'b, I64>) -> (Val<'b, I64>, Val<'b, I64>) {
        let b = self.b;
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
