//! Blocks of a cluster that share out the K of a tile: each gets from the others their sums of its part of the columns, or of the
//! rows of a turned tile, and adds them in the order of shares.

use super::{Block, CONSUMERS, WgmmaMatmul};
use crate::builder::{Builder, F32, I32, SharedPtr, Special, Val};

impl WgmmaMatmul {
    /// Shared memory for what other blocks have of this block's part.
    pub(super) fn received<'b>(&self, b: &'b Builder) -> Option<SharedPtr<'b, F32>> {
        let t = self.tiling;
        let each = t.sums() / t.splits * 128 * CONSUMERS;
        (t.splits > 1).then(|| b.shared((t.splits - 1) * each, 16))
    }

    /// Adds the shares of this block's part of the tile at `[row, column]`: the part, and where it begins. The cluster's last barrier is
    /// in it.
    pub(super) fn add_shares<'b>(
        &self,
        block: Block<'b>,
        warp: Val<'b, I32>,
        [row, column]: [Val<'b, I32>; 2],
        sums: &[Vec<Val<'b, F32>>],
        received: SharedPtr<'b, F32>,
    ) -> (Vec<Vec<Val<'b, F32>>>, [Val<'b, I32>; 2]) {
        let (b, t) = (block.b, self.tiling);
        let [along_m, along_n] = t.cluster;
        let [m, n, share] = block.place;
        let part = sums[0].len() / t.splits as usize;
        let fours = part / 4;
        let own_fours = (sums.len() * fours) as u32;
        let thread = warp * 32 + b.special(Special::Lane);
        // Four sums f of a thread from the i-th of the other blocks lie at ((i * own_fours) + f, thread).
        let place =
            |at: SharedPtr<'b, F32>, i: Val<'b, I32>| at.at((i * own_fours * (128 * CONSUMERS) + thread) * 4);
        let step = |f: usize| (f as u32) * (128 * CONSUMERS) * 4;
        for to in 0..t.splits {
            b.if_(share.ne(to), || {
                // This block's number among those other than `to`.
                let i = share - b.value(to as i32).lt(share).to_i32();
                let rank = b.value(to * along_m * along_n) + n * along_m + m;
                let to_block = b.in_block(place(received, i), rank);
                for (tile, sums) in sums.iter().enumerate() {
                    let sums = &sums[to as usize * part..][..part];
                    for (f, four) in sums.chunks(4).enumerate() {
                        let four = b.vector([four[0], four[1], four[2], four[3]]);
                        to_block.at(step(tile * fours + f)).store_vector(four);
                    }
                }
            });
        }
        self.leave(b);
        let own = |tile: usize, j: usize| {
            (1..t.splits)
                .fold(sums[tile][j], |value, s| share.eq(s).select(sums[tile][s as usize * part + j], value))
        };
        let added: Vec<Vec<Val<'b, F32>>> = (0..sums.len())
            .map(|tile| {
                let mut added = Vec::new();
                for f in 0..fours {
                    let others: Vec<[Val<'b, F32>; 4]> = (0..t.splits - 1)
                        .map(|i| {
                            place(received, b.value(i)).at(step(tile * fours + f)).load_vector().elements()
                        })
                        .collect();
                    added.extend((0..4).map(|j| {
                        // Share s is the own one, or the (s - 1)-th or s-th of the others.
                        let own = own(tile, 4 * f + j);
                        let value = |s: u32| {
                            let other = |i: u32| others[i as usize][j];
                            let beside = match s {
                                0 => other(0),
                                s if s == t.splits - 1 => other(s - 1),
                                s => b.value(s as i32).lt(share).select(other(s), other(s - 1)),
                            };
                            share.eq(s).select(own, beside)
                        };
                        (1..t.splits).fold(value(0), |sum, s| sum + value(s))
                    }));
                }
                added
            })
            .collect();
        let begin = share * (part as i32 * 2);
        (added, if t.turned { [row + begin, column] } else { [row, column + begin] })
    }
}
