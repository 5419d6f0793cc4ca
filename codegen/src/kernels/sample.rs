//! A token for each row of logits and its log-probability, as `llm.sample` defines them.
//!
//! [`CHUNKS`] blocks share a row. Each reduces its part to the best token and the sum of exponentials; the last to
//! arrive merges them and, if a draw is wanted, makes it alone (`draw`).

use super::draw::{DRAW, Row, THREADS, WARPS, clean};
use super::{ArgKind, Count, Extent, Launch, Scratch, grid_of, last_to_arrive};
use crate::builder::{Builder, F32, GlobalPtr, I32, Special, Val};
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

    /// Geometry. Arguments: `[logits, draws, token, logprob]`.
    pub fn launch(&self) -> Launch {
        let grid = grid_of(Extent { of: Count::Rows, div: 1, plus: None, mul: CHUNKS });
        let scratch = Some(Scratch { of: Count::Rows, bytes: u64::from(CHUNKS) * 16, counters: 1 });
        Launch { scratch, ..Launch::new(grid, THREADS, vec![ArgKind::Pointer; 4]) }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let logits = b.param_ptr::<F32>();
        let draws = b.param_ptr::<F32>();
        let tokens = b.param_ptr::<I32>();
        let logprobs = b.param_ptr::<F32>();
        let (parts, counters) = b.param_scratch();
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
            // A row without a probability has no best token: the first one stands for it, and in a draw all are equal.
            let greatest = best.lt(self.vocab).select(most, f32::NEG_INFINITY);
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
                Row::new(b, x, self.vocab, greatest, factor).draw(draw, top_k, store);
            });
        });
    }

    /// Logits of a load.
    fn vec(&self) -> u32 {
        if self.vocab.is_multiple_of(VEC) { VEC } else { 1 }
    }

    /// The best of a block's chunk of the row; every thread gets it. Takes shared memory and a barrier.
    fn best_of_chunk<'b>(&self, b: &'b Builder, x: GlobalPtr<'b, F32>, chunk: Val<'b, I32>) -> Best<'b> {
        let vec = self.vec();
        let each = self.vocab.div_ceil(CHUNKS).next_multiple_of(vec);
        let from = chunk * each;
        let to = (from + each).min(self.vocab);
        let thread = b.special(Special::ThreadX);
        let none: Best<'b> = (b.value(f32::MIN), b.value(self.vocab), b.value(0.0f32));
        let own = b.for_(from + thread * vec, to, THREADS * BATCH, none, |first, best| {
            // All loads are under way together; what lies behind the chunk is read from its end, and is nothing.
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
            add(best, &all)
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

/// `best` and logits with greater ids, in order.
fn add<'b>(best: Best<'b>, all: &[(Val<'b, F32>, Val<'b, I32>)]) -> Best<'b> {
    let (most, at) = all.iter().fold((best.0, best.1), |(most, at), &(v, id)| {
        let better = most.lt(v);
        (better.select(v, most), better.select(id, at))
    });
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
