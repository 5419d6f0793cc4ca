//! The logit down to which tokens of a row are kept, found by one block. What is then drawn, `draw` knows.
//!
//! An interval of keys, whole numbers in the order of logits, is divided into [`BUCKETS`]: a pass tells how many tokens
//! and how much of what is measured are in each, and the one in which the target is reached is the next interval. Once
//! at most [`LIST`] tokens are in it, they are listed in shared memory, and passes go over the list. A bucket has a cell
//! for each thread, so that a token costs one addition, however many buckets there are.

use super::draw::{Logits, NUMBER, Row, THREADS, key_of, logit_of};
use crate::builder::{Builder, Carried, F32, I1, I32, I64, Raw, Special, Val};

/// Parts of an interval of keys.
pub(super) const BUCKETS: u32 = 8;
/// `log2(BUCKETS)`.
const BITS: i32 = 3;
/// Rounds for the 32 bits of a key.
const ROUNDS: u32 = 11;
/// Most tokens that are listed.
pub(super) const LIST: u32 = 3072;

/// Tokens that are kept: those above a key, and the first of those at it. Tie `j` is kept if
/// `above + j * each < target`.
#[derive(Clone, Copy)]
pub(super) struct Bar<'b> {
    pub(super) key: Val<'b, I32>,
    pub(super) above: Val<'b, I64>,
    pub(super) each: Val<'b, I64>,
    pub(super) target: Val<'b, I64>,
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

/// An interval of keys and what is at or above its end: `(low, high, above)`.
type Interval<'b> = (Val<'b, I64>, Val<'b, I64>, Val<'b, I64>);

/// `log2` of the keys of a bucket in the next pass; the tokens in the interval; its bucket in the last pass.
type Fill<'b> = (Val<'b, I32>, Val<'b, I32>, Val<'b, I32>);

impl<'b> Bar<'b> {
    /// How many ties at the bar are kept, up to 2^20 - 1.
    pub(super) fn ties(self) -> Val<'b, I64> {
        let b = self.key.builder();
        b.for_(0, 20, 1, b.value(0i64), |i, ties| {
            let more = ties + (b.value(1i64 << 19) >> i.to_i64());
            (self.above + (more - 1i64) * self.each).lt(self.target).select(more, ties)
        })
    }
}

impl<'b> Row<'b> {
    /// One pass: the bucket of the interval in which `target` is reached.
    fn narrow(
        &self,
        logits: Logits<'_, 'b>,
        ((low, high, above), (shift, ..)): (Interval<'b>, Fill<'b>),
        target: Val<'b, I64>,
        measure: &dyn Fn(Val<'b, F32>) -> Val<'b, I32>,
    ) -> (Interval<'b>, Fill<'b>) {
        let (b, (lane, warp)) = (self.b, self.b.lane_and_warp());
        let mine = self.room.cells.at(b.special(Special::ThreadX));
        for bucket in 0..BUCKETS {
            mine.at(bucket * THREADS).store(b.value(0i64));
        }
        let (from, to) = (low.to_i32(), high.to_i32());
        self.fold(logits, (), |x, any, ()| {
            let key = key_of(x);
            b.if_(any & from.le(key) & key.lt(to), || {
                let cell = mine.at(((key - from) >> shift) * THREADS);
                cell.store(cell.load() + measure(x).to_i64() + (1i64 << NUMBER));
            });
        });
        b.sync();
        b.if_(warp.lt(BUCKETS), || {
            let none = (b.value(0i64), b.value(0));
            let (much, number) = b.for_(lane, THREADS, 32, none, |i, (much, number)| {
                let cell = self.room.cells.at(warp * THREADS + i).load();
                (much + (cell & ((1i64 << NUMBER) - 1)), number + (cell >> NUMBER).to_i32())
            });
            let (much, number) = (self.over_lanes(much), b.sum_lanes_int(number));
            b.if_(lane.eq(0), || {
                self.room.sums.at(warp).store(much);
                self.room.numbers.at(warp).store(number);
            });
        });
        b.sync();
        // From the best bucket down to the first with which there is enough.
        let mut found: Val<'b, I1> = b.value(0).lt(0);
        let (mut all, mut before) = (above, above);
        let (mut bucket, mut number) = (b.value(0), b.value(0));
        for p in (0..BUCKETS).rev() {
            let with = all + self.room.sums.at(p).load();
            let here = !found & target.le(with);
            before = here.select(all, before);
            bucket = here.select(p as i32, bucket);
            number = here.select(self.room.numbers.at(p).load(), number);
            found = found | here;
            all = with;
        }
        let low = low + (bucket.to_i64() << shift.to_i64());
        let end = low + (b.value(1i64) << shift.to_i64());
        let high = end.lt(high).select(end, high);
        ((low, high, before), (shift.lt(BITS).select(0, shift - BITS), number, bucket))
    }

    /// The greatest key, `low` or above, at or above which there is as much as `target`; there is at `low`.
    pub(super) fn bar(
        &self,
        row: Logits<'_, 'b>,
        low: Val<'b, I32>,
        target: Val<'b, I64>,
        measure: &dyn Fn(Val<'b, F32>) -> Val<'b, I32>,
    ) -> Bar<'b> {
        let b = self.b;
        let (low, high) = (low.to_i64(), key_of(self.most).to_i64() + 1i64);
        // The exponent of an eighth of the interval, rounded up, by that of a float.
        let eighth = ((high - low) >> i64::from(BITS)).to_i32().to_f32();
        let shift = ((eighth.bitcast::<I32>() >> 23) - 126).min(32 - BITS);
        let shift = shift.lt(0).select(0, shift);
        let several = |s: Interval<'b>| b.value(1i64).lt(s.1 - s.0);
        let init = ((low, high, b.value(0i64)), (shift, b.value(LIST + 1), b.value(0)));
        let state = b.for_(0, ROUNDS, 1, init, |_, state| {
            let long = b.value(LIST).lt(state.1.1);
            b.if_else(several(state.0) & long, || self.narrow(row, state, target, measure), || state)
        });
        let finish = || {
            let n = self.make_list(row, state);
            let list = Logits { n, load: &|i| self.room.list.at(i).load() };
            b.for_(0, ROUNDS, 1, state, |_, state| {
                b.if_else(several(state.0), || self.narrow(list, state, target, measure), || state)
            })
        };
        let ((key, _, above), _) = b.if_else(several(state.0), finish, || state);
        let key = key.to_i32();
        Bar { key, above, each: measure(logit_of(key)).to_i64(), target }
    }

    /// Lists the tokens in the interval, which the last pass went over the row for; how many they are.
    fn make_list(
        &self,
        row: Logits<'_, 'b>,
        ((low, high, _), (_, number, bucket)): (Interval<'b>, Fill<'b>),
    ) -> Val<'b, I32> {
        let b = self.b;
        let thread = b.special(Special::ThreadX);
        let mine = self.room.cells.at(bucket * THREADS + thread).load() >> NUMBER;
        let (before, _) = self.scan(mine);
        let (from, to) = (low.to_i32(), high.to_i32());
        self.fold(row, before.to_i32(), |x, any, at| {
            let key = key_of(x);
            let inside = any & from.le(key) & key.lt(to);
            b.if_(inside, || self.room.list.at(at).store(x));
            at + inside.to_i32()
        });
        b.sync();
        number
    }
}
