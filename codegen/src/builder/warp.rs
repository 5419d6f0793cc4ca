//! Threads together: barriers, shuffles, reductions over a warp and over a block.

use super::{Builder, F32, I1, I32, IntoVal, Num, Special, Ty, Val};

/// Lanes of a warp.
pub const WARP: u32 = 32;

impl Builder {
    /// Waits for all threads of the block; what they wrote is visible after it.
    pub fn sync(&self) {
        self.stmt(format_args!("nvvm.barrier"));
    }

    /// Waits at named barrier `id` (1 to 15) for `threads` threads, whole warps.
    pub fn sync_some<'b>(&'b self, id: impl IntoVal<'b, I32>, threads: u32) {
        let (id, threads) = (id.into_val(self), threads.into_val(self));
        self.stmt(format_args!("nvvm.barrier id = {id} number_of_threads = {threads}"));
    }

    /// Arrives at a named barrier without waiting.
    pub fn arrive_some<'b>(&'b self, id: impl IntoVal<'b, I32>, threads: u32) {
        let (id, threads) = (id.into_val(self), threads.into_val(self));
        self.stmt(format_args!("nvvm.barrier.arrive id = {id} number_of_threads = {threads}"));
    }

    /// Waits for all lanes of the warp.
    pub fn sync_warp(&self) {
        let all = self.all_lanes();
        self.stmt(format_args!("nvvm.bar.warp.sync {all} : i32"));
    }

    fn all_lanes(&self) -> Val<'_, I32> {
        (-1).into_val(self)
    }

    /// The value of lane `lane ^ mask`. All lanes take part.
    pub fn shuffle_xor<'b, T: Num>(&'b self, value: Val<'b, T>, mask: u32) -> Val<'b, T> {
        let (all, mask, clamp) = (self.all_lanes(), mask.into_val(self), 31.into_val(self));
        let ty = T::mlir();
        self.op(format_args!("nvvm.shfl.sync bfly {all}, {value}, {mask}, {clamp} : {ty} -> {ty}"))
    }

    /// The value of lane `from`. All lanes take part.
    pub fn broadcast<'b, T: Num>(&'b self, value: Val<'b, T>, from: impl IntoVal<'b, I32>) -> Val<'b, T> {
        let (all, from, clamp) = (self.all_lanes(), from.into_val(self), 31.into_val(self));
        let ty = T::mlir();
        self.op(format_args!("nvvm.shfl.sync idx {all}, {value}, {from}, {clamp} : {ty} -> {ty}"))
    }

    /// Of four words of each of four adjacent lanes, of which this one is number `q`, those with its number: word `i` of lane
    /// `q` becomes word `q` of lane `i`. It is its own inverse. All lanes take part.
    pub fn exchange<'b>(&'b self, q: Val<'b, I32>, mut words: [Val<'b, I32>; 4]) -> [Val<'b, I32>; 4] {
        for bit in [1, 2] {
            let set = (q & bit as i32).ne(0);
            for low in (0..4).filter(|i| i & bit == 0) {
                let high = low | bit;
                let other = self.shuffle_xor(set.select(words[low], words[high]), bit as u32);
                words[low] = set.select(other, words[low]);
                words[high] = set.select(words[high], other);
            }
        }
        words
    }

    /// True if the condition holds in any lane.
    pub fn any<'b>(&'b self, condition: Val<'b, I1>) -> Val<'b, I1> {
        let all = self.all_lanes();
        let votes: Val<'b, I32> = self.op(format_args!("nvvm.vote.sync ballot {all}, {condition} -> i32"));
        votes.ne(0)
    }

    /// Sum over groups of `lanes` adjacent lanes (a power of two); every lane gets it. The order is fixed, a tree.
    pub fn sum_lanes<'b>(&'b self, value: Val<'b, F32>, lanes: u32) -> Val<'b, F32> {
        self.reduce_lanes(value, lanes, |a, b| a + b)
    }

    /// Maximum over groups of `lanes` adjacent lanes (a power of two); every lane gets it.
    pub fn max_lanes<'b>(&'b self, value: Val<'b, F32>, lanes: u32) -> Val<'b, F32> {
        self.reduce_lanes(value, lanes, |a, b| a.max(b))
    }

    fn reduce_lanes<'b, T: Num>(
        &'b self,
        mut value: Val<'b, T>,
        lanes: u32,
        combine: impl Fn(Val<'b, T>, Val<'b, T>) -> Val<'b, T>,
    ) -> Val<'b, T> {
        debug_assert!(lanes.is_power_of_two() && lanes <= WARP);
        let mut distance = lanes / 2;
        while distance > 0 {
            value = combine(value, self.shuffle_xor(value, distance));
            distance /= 2;
        }
        value
    }

    /// Sum over the block; every thread gets it. The order is fixed. Takes shared memory of its own and one barrier.
    pub fn sum_block<'b>(&'b self, value: Val<'b, F32>) -> Val<'b, F32> {
        self.reduce_block(value, |a, b| a + b)
    }

    /// Maximum of numbers that are not negative, over the block; every thread gets it. Takes shared memory of its own and
    /// one barrier.
    pub fn max_block<'b>(&'b self, value: Val<'b, F32>) -> Val<'b, F32> {
        self.reduce_block(value, |a, b| a.max(b))
    }

    /// `combine` over the block, of which 0 is the neutral element.
    fn reduce_block<'b>(
        &'b self,
        value: Val<'b, F32>,
        combine: impl Fn(Val<'b, F32>, Val<'b, F32>) -> Val<'b, F32>,
    ) -> Val<'b, F32> {
        let threads = self.threads();
        if threads <= WARP {
            return self.reduce_lanes(value, WARP, &combine);
        }
        self.reduce_some(value, threads, &|| self.sync(), combine)
    }

    /// `combine` over the first `threads` threads of a block, for whom `sync` is a barrier. 0 is the neutral element; the order
    /// is that of [`Builder::sum_block`] of as many threads. Takes shared memory of its own.
    pub fn reduce_some<'b>(
        &'b self,
        value: Val<'b, F32>,
        threads: u32,
        sync: &dyn Fn(),
        combine: impl Fn(Val<'b, F32>, Val<'b, F32>) -> Val<'b, F32>,
    ) -> Val<'b, F32> {
        let warps = threads.div_ceil(WARP);
        let all = self.reduce_lanes(value, WARP, &combine);
        let partial = self.shared::<F32>(warps, 16);
        let (lane, warp) = self.lane_and_warp();
        self.if_(lane.eq(0), || partial.at(warp).store(all));
        sync();
        // Every warp combines all that the warps have: no second barrier.
        let lanes = warps.next_power_of_two();
        let mine = lane & (lanes as i32 - 1);
        let read = partial.at(mine.min(warps - 1)).load();
        let read = mine.lt(warps).select(read, 0.0f32);
        self.reduce_lanes(read, lanes, &combine)
    }

    /// `lane`, `warp` of this thread; `warp` is the same in all lanes.
    pub fn lane_and_warp(&self) -> (Val<'_, I32>, Val<'_, I32>) {
        let thread = self.special(Special::ThreadX);
        (thread & (WARP as i32 - 1), thread / WARP)
    }

    /// True in one lane of the warp, which the hardware picks. All lanes take part.
    pub fn elect(&self) -> Val<'_, I1> {
        self.need("elect.sync", self.gpu.tma);
        self.op(format_args!("nvvm.elect.sync -> i1"))
    }

    /// Sum of integers over the warp in one instruction.
    pub fn sum_lanes_int<'b>(&'b self, value: Val<'b, I32>) -> Val<'b, I32> {
        let all = self.all_lanes();
        let ty = I32::mlir();
        self.op(format_args!("nvvm.redux.sync add {value}, {all} : {ty} -> {ty}"))
    }
}
