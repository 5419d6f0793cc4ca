//! From the sums of a warpgroup, rows of shares by columns, to y: those that count meet in shared memory.

use super::super::epilogue::{Epilogue, Read};
use super::{EXCHANGED, GROUP, RowMatmul, VEC};
use crate::builder::{Builder, F32, I32, SharedPtr, Val};

impl RowMatmul {
    /// Stores the tile of y from sums in the order of `wgmma` and what else its columns need, which a thread has for its first
    /// [`VEC`]; `memory` has a place for each of 64 rows.
    pub(super) fn store<'b>(
        &self,
        b: &'b Builder,
        sums: &[Val<'b, F32>],
        tile: Val<'b, I32>,
        (memory, group, within): (SharedPtr<'b, F32>, Val<'b, I32>, Val<'b, I32>),
        (epilogue, other): (Epilogue<'b>, Read<'b, { VEC as usize }>),
    ) {
        let (warp, g, q) = (within / 32, within % 32 / 4, within % 4);
        let sync = || b.sync_some(group + EXCHANGED, GROUP);
        // The tile before has been read.
        sync();
        // A thread has rows g and g + 8 of its warp's 16, columns 2q and 2q + 1 (`builder/wgmma.rs`).
        for (h, pair) in sums.chunks_exact(2).enumerate() {
            let row = warp * 16 + g + 8 * h as u32;
            let share = row / self.rows();
            b.if_(q.eq(share / 2), || memory.at(row).store((share & 1).eq(0).select(pair[0], pair[1])));
        }
        sync();
        let column = within * VEC;
        b.if_(column.lt(self.outputs()), || {
            let read = |at: Val<'b, I32>| -> [Val<'b, F32>; VEC as usize] {
                let of_share = |share: u32| -> Vec<Val<'b, F32>> {
                    let from = memory.at(at + share * self.rows());
                    (0..VEC).step_by(4).flat_map(|i| from.at(i).load_vector::<4>().elements()).collect()
                };
                let all: Vec<_> = (0..self.shares()).map(of_share).collect();
                std::array::from_fn(|i| {
                    all.iter().map(|sums| sums[i]).reduce(|all, sum| all + sum).unwrap_or(b.value(0.0))
                })
            };
            let sums = (read(column), self.of.gate.map(|_| read(column + self.outputs())));
            epilogue.store_read(b, [b.value(0), tile * self.outputs() + column], &other, sums);
        });
    }
}
