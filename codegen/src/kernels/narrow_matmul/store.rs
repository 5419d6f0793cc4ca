//! From the sums of a warpgroup, rows of shares by columns, to rows of y: those that count meet in shared memory.

use super::super::epilogue::{Epilogue, Read};
use super::{EXCHANGED, GROUP, NarrowMatmul, ROWS, VEC};
use crate::builder::{Builder, F32, I32, SharedPtr, Val};

/// Floats between the places of two tokens: banks of neighbouring tokens differ.
pub(super) const PITCH: u32 = ROWS + 4;

impl NarrowMatmul {
    /// Token, and first column within the tile, of what a thread of a warpgroup stores; others have tokens that there are not.
    pub(super) fn stored_by<'b>(&self, within: Val<'b, I32>) -> [Val<'b, I32>; 2] {
        let vectors = self.outputs() / VEC;
        [within / vectors, within % vectors * VEC]
    }

    /// Stores the tile of y from sums in the order of `wgmma`, and what else a thread's columns need; `memory` has a place for each
    /// token and row.
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
        // Of 8 columns a thread has rows g and g + 8 of its warp's 16, columns 2q and 2q + 1 (`builder/wgmma.rs`).
        for h in 0..2u32 {
            let row = warp * 16 + g + 8 * h;
            let share = row / self.rows();
            if self.tokens == 1 {
                let sum = (share & 1).eq(0).select(sums[2 * h as usize], sums[2 * h as usize + 1]);
                b.if_(q.eq(share / 2), || memory.at(row).store(sum));
            } else {
                for (first, i) in (0..self.tokens).step_by(8).flat_map(|first| [(first, 0), (first, 1)]) {
                    let of_share = |share: u32| {
                        let columns = (share * self.tokens + first) / 8;
                        sums[(4 * columns + 2 * h + i) as usize]
                    };
                    let sum = (1..self.shares())
                        .fold(of_share(0), |sum, other| share.eq(other).select(of_share(other), sum));
                    memory.at((q * 2 + (first + i)) * PITCH + row).store(sum);
                }
            }
        }
        sync();
        let [token, column] = self.stored_by(within);
        b.if_(token.lt(self.tokens), || {
            let read = |at: Val<'b, I32>| -> [Val<'b, F32>; VEC as usize] {
                let of_share = |share: u32| -> Vec<Val<'b, F32>> {
                    let from = memory.at(token * PITCH + at + share * self.rows());
                    (0..VEC).step_by(4).flat_map(|i| from.at(i).load_vector::<4>().elements()).collect()
                };
                let all: Vec<_> = (0..self.shares()).map(of_share).collect();
                std::array::from_fn(|i| {
                    all.iter().map(|sums| sums[i]).reduce(|all, sum| all + sum).unwrap_or(b.value(0.0))
                })
            };
            let sums = (read(column), self.of.gate.map(|_| read(column + self.outputs())));
            epilogue.store_read(b, [token, tile * self.outputs() + column], &other, sums);
        });
    }
}
