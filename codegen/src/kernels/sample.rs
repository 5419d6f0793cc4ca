//! A token for each row of logits and its log-probability, as `llm.sample` defines them.
//!
//! [`CHUNKS`] blocks share a row. Each reduces its part to the best token and the sum of exponentials; the last to
//! arrive merges them and, if a draw is wanted, makes it alone (`draw`).
//!
//! A row with a mask has code of its own beside, so that the others have nothing to do with it: it also finds the best of the
//! tokens that may be chosen, and draws among them.

use super::draw::{DRAW, Room, Row, THREADS, WARPS, WORD, allowed, clean};
use super::{ArgKind, Count, Extent, Launch, Scratch, grid_of, last_to_arrive};
use crate::builder::{Builder, Carried, F32, GlobalPtr, I32, Special, Val};
use std::f32::consts::{LN_2, LOG2_E};

/// Blocks that share a row.
const CHUNKS: u32 = 16;
/// Logits of a vector load, if rows are aligned to it, and of a thread that are under way at once.
const VEC: u32 = 4;
const BATCH: u32 = 16;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Tokens.
    pub vocab: u32,
}

/// What a chunk of a row leaves in scratch memory, numbers of 4 bytes: greatest, sum, where; the same of the tokens that may be
/// chosen.
const PART: u32 = 8;

/// What a row comes to: the greatest logit, where it is, the sum of `e^(x - greatest)`.
type Best<'b> = (Val<'b, F32>, Val<'b, I32>, Val<'b, F32>);

impl Sample {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let most = 1 << 19;
        (self.vocab == 0 || self.vocab > most).then(|| {
            format!("a vocabulary of {} is not in 1..={most}, whose weights 64 bits hold", self.vocab)
        })
    }

    /// Geometry. Arguments: `[logits, draws, masks, token, logprob]`.
    pub fn launch(&self) -> Launch {
        let grid = grid_of(Extent { of: Count::Rows, div: 1, plus: None, mul: CHUNKS });
        let scratch = Some(Scratch { of: Count::Rows, bytes: u64::from(CHUNKS * PART) * 4, counters: 1 });
        Launch { scratch, ..Launch::new(grid, THREADS, vec![ArgKind::Pointer; 5]) }
    }

    /// The kernel.
    pub fn build<'b>(&self, b: &'b Builder) {
        let logits = b.param_ptr::<F32>();
        let draws = b.param_ptr::<F32>();
        let masks = b.param_ptr::<I32>();
        let tokens = b.param_ptr::<I32>();
        let logprobs = b.param_ptr::<F32>();
        let (parts, counters) = b.param_scratch();
        let block = b.special(Special::BlockX);
        let (row, chunk) = (block / CHUNKS, block % CHUNKS);
        let draw = draws.at(row * DRAW);
        // No launch of the step writes draws: this is under way while those before end.
        let named = draw.at(6).load().to_i32();
        b.param_dims();
        // One block on a multiprocessor is enough, so that it may have the registers.
        b.min_blocks(1);

        let masked = b.value(0).lt(named);
        let mask = masks.at64((named - 1).to_i64() * i64::from(self.vocab.div_ceil(WORD)));
        let x = logits.at64(row.to_i64() * i64::from(self.vocab));
        let thread = b.special(Special::ThreadX);
        let part = parts.cast::<F32>().at((row * CHUNKS + chunk) * PART);
        let leave = |part: GlobalPtr<'_, F32>, own: Best<'_>| {
            b.if_(thread.eq(0), || {
                part.store(own.0);
                part.at(1).store(own.2);
                part.at(2).cast::<I32>().store(own.1);
            });
        };
        let plain = || leave(part, self.best_of_chunk(b, x, chunk));
        let both = || {
            let (own, may) = self.best_of_masked(b, x, mask, chunk);
            leave(part, own);
            leave(part.at(PART / 2), may);
        };
        b.if_else(masked, both, plain);
        let last = last_to_arrive(b, counters.at(row), b.value(CHUNKS));
        b.if_(last, || {
            let part = parts.cast::<F32>().at((row * CHUNKS + (thread & (CHUNKS as i32 - 1))) * PART);
            let merged = |part: GlobalPtr<'b, F32>| {
                let read = (part.load(), part.at(2).cast::<I32>().load(), part.at(1).load());
                merge_lanes(b, read, CHUNKS)
            };
            let (most, best, sum) = merged(part);
            let norm = most + sum.log2() * LN_2;
            let store = |token: Val<'_, I32>| {
                tokens.at(row).store(token);
                logprobs.at(row).store(clean(x.at(token).load()) - norm);
            };
            let (temperature, top_k) = (draw.load(), draw.at(1).load().to_i32());
            let greedy = temperature.eq(0.0f32) | top_k.eq(1);
            let room = Room::new(b);
            let factor = || b.value(LOG2_E).div_approx(temperature);
            let plain = || {
                // A row without a probability has no best token: the first one stands for it, and in a draw all are equal.
                let greatest = best.lt(self.vocab).select(most, f32::NEG_INFINITY);
                let best = best.lt(self.vocab).select(best, 0);
                b.if_(greedy & thread.eq(0), || store(best));
                b.if_(!greedy, || Row::new(x, self.vocab, room, greatest, factor()).draw(draw, top_k, store));
            };
            let among = || {
                let (most, best, _) = merged(part.at(PART / 2));
                // Without a probability it is the first that may be chosen; none is behind the row.
                let best = best.lt(self.vocab).select(best, 0);
                let greedy = greedy | most.le(f32::MIN);
                b.if_(greedy & thread.eq(0), || store(best));
                b.if_(!greedy, || {
                    Row::new(x, self.vocab, room, most, factor()).masked(mask).draw(draw, top_k, store);
                });
            };
            b.if_else(masked, among, plain);
        });
    }

    /// Logits of a load.
    fn vec(&self) -> u32 {
        if self.vocab.is_multiple_of(VEC) { VEC } else { 1 }
    }

    /// Over a block's chunk of the row: `work` gets logits, as many at once as are under way together, each with its id. What
    /// lies behind the chunk is read from its end, and is none.
    fn fold<'b, C: Carried<'b>>(
        &self,
        b: &'b Builder,
        x: GlobalPtr<'b, F32>,
        chunk: Val<'b, I32>,
        init: C,
        work: impl Fn(&[(Val<'b, F32>, Val<'b, I32>)], C) -> C,
    ) -> C {
        let vec = self.vec();
        let each = self.vocab.div_ceil(CHUNKS).next_multiple_of(vec);
        let from = chunk * each;
        let to = (from + each).min(self.vocab);
        let thread = b.special(Special::ThreadX);
        b.for_(from + thread * vec, to, THREADS * BATCH, init, |first, carried| {
            let step = THREADS * vec;
            let firsts: Vec<_> = (0..BATCH / vec).map(|i| first + i * step).collect();
            let read = |at: Val<'b, I32>| -> Vec<Val<'b, F32>> {
                let at = x.at(at.min(to - vec));
                if vec == 1 {
                    vec![at.load()]
                } else {
                    at.load_vector::<{ VEC as usize }>().elements().to_vec()
                }
            };
            let read: Vec<_> = firsts.iter().map(|&at| read(at)).collect();
            let there = |at: Val<'b, I32>, v| at.lt(to).select(clean(v), f32::NEG_INFINITY);
            let all: Vec<(Val<'b, F32>, Val<'b, I32>)> = firsts
                .iter()
                .zip(&read)
                .flat_map(|(&at, row)| (0..).zip(row).map(move |(i, &v): (u32, _)| (there(at, v), at + i)))
                .collect();
            work(&all, carried)
        })
    }

    /// The best of a block's chunk of the row; every thread gets it. Takes shared memory and a barrier.
    fn best_of_chunk<'b>(&self, b: &'b Builder, x: GlobalPtr<'b, F32>, chunk: Val<'b, I32>) -> Best<'b> {
        let none: Best<'b> = (b.value(f32::MIN), b.value(self.vocab), b.value(0.0f32));
        over_block(b, self.fold(b, x, chunk, none, |all, best| add(best, all)))
    }

    /// The same, and the best of the tokens that a mask has, without a sum. Of those that have no probability it is the first;
    /// a chunk without any has one behind the row.
    fn best_of_masked<'b>(
        &self,
        b: &'b Builder,
        x: GlobalPtr<'b, F32>,
        mask: GlobalPtr<'b, I32>,
        chunk: Val<'b, I32>,
    ) -> (Best<'b>, Best<'b>) {
        let none = (b.value(f32::MIN), b.value(self.vocab), b.value(0.0f32));
        let nobody = (b.value(f32::NEG_INFINITY), b.value(self.vocab));
        let (own, (most, at)) = self.fold(b, x, chunk, (none, nobody), |all, (own, may)| {
            let may = all.chunks(self.vec() as usize).fold(may, |may, group| {
                // Logits of a load are of one word; behind the row the last ones stand for all.
                let first = group[0].1.min(self.vocab - self.vec());
                let word = mask.at(first >> 5).load();
                let inside = group[0].1.lt(self.vocab);
                let bit = |i: u32| (first & (WORD as i32 - 1)) + i;
                let of = |(i, &(v, id)): (u32, &(Val<'b, F32>, Val<'b, I32>))| {
                    (allowed(inside.select(word, 0), bit(i), v.max(f32::MIN)), id)
                };
                best_of(may, (0..).zip(group).map(of))
            });
            (add(own, all), may)
        });
        (over_block(b, own), over_block(b, (most, at, b.value(0.0f32))))
    }
}

/// The best of what the threads of a block have; every thread gets it. Takes shared memory and a barrier.
fn over_block<'b>(b: &'b Builder, own: Best<'b>) -> Best<'b> {
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

/// The greatest and where it is: `best`, or the first of those with greater ids that are greater.
fn best_of<'b>(
    best: (Val<'b, F32>, Val<'b, I32>),
    all: impl Iterator<Item = (Val<'b, F32>, Val<'b, I32>)>,
) -> (Val<'b, F32>, Val<'b, I32>) {
    all.fold(best, |(most, at), (v, id)| {
        let better = most.lt(v);
        (better.select(v, most), better.select(id, at))
    })
}

/// `best` and logits with greater ids, in order.
fn add<'b>(best: Best<'b>, all: &[(Val<'b, F32>, Val<'b, I32>)]) -> Best<'b> {
    let (most, at) = best_of((best.0, best.1), all.iter().copied());
    let part = |v: Val<'b, F32>| ((v - most) * LOG2_E).exp2();
    let sum = all.iter().fold(part(best.0) * best.2, |sum, &(v, _)| sum + part(v));
    (most, at, sum)
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
