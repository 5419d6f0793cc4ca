//! From the sums of a warpgroup, outputs by tokens, to rows of y: they are turned in shared memory, some tokens at a time.

use super::super::epilogue::Epilogue;
use super::{GROUP, PITCH, ROWS, StreamMatmul, TURNED, Team, VEC};
use crate::builder::{Builder, F32, I32, SharedPtr, Special, Val};

impl StreamMatmul {
    /// Tokens whose sums are turned together.
    pub(super) fn together(&self) -> u32 {
        self.tokens.min(GROUP * VEC / ROWS)
    }

    /// The memory for that.
    pub(super) fn turn<'b>(&self, b: &'b Builder) -> SharedPtr<'b, F32> {
        b.shared(Self::WORKERS / GROUP * self.together() * PITCH, 16)
    }

    /// Stores the tile of y from sums in the order of `wgmma`.
    pub(super) fn store<'b>(
        &self,
        b: &'b Builder,
        sums: &[Val<'b, F32>],
        tile: Val<'b, I32>,
        team: &Team<'b>,
        epilogue: Epilogue<'b>,
    ) {
        let (all, within) = (b.special(Special::ThreadX) / GROUP, team.thread % GROUP);
        let group = team.thread / GROUP;
        let (warp, g, q) = (within / 32, within % 32 / 4, within % 4);
        let turn = team.turn.at(all * (self.together() * PITCH));
        let sync = || b.sync_some(all + TURNED, GROUP);
        // Of 8 tokens a thread has rows g and g + 8 of its warp's 16, tokens 2q and 2q + 1 (`builder/wgmma.rs`).
        let put = turn.at(q * (2 * PITCH) + warp * 16 + g);
        // Columns of y of a warpgroup.
        let own = ROWS / self.of.halves();
        let (token, column) = (within / (own / VEC), within % (own / VEC) * VEC);
        let get = turn.at(token * PITCH + column);
        let outputs = (tile * self.groups() + group) * own + column;
        for from in (0..self.tokens).step_by(self.together() as usize) {
            b.if_(b.value(from).lt(epilogue.m), || {
                sync();
                for t in (0..self.together()).step_by(8) {
                    for j in 0..4 {
                        let sum = sums[((from + t) / 2 + j) as usize];
                        put.at((t + j % 2) * PITCH + j / 2 * 8).store(sum);
                    }
                }
                sync();
                b.if_(token.lt(self.together()), || {
                    let read = |get: SharedPtr<'b, F32>| -> [Val<'b, F32>; VEC as usize] {
                        let half = |i: u32| get.at(i * 4).load_vector::<4>().elements();
                        let halves = [half(0), half(1)];
                        std::array::from_fn(|i| halves[i / 4][i % 4])
                    };
                    let sums = (read(get), self.of.gate.map(|_| read(get.at(own))));
                    epilogue.store_rows(b, &[token + from], outputs, vec![sums]);
                });
            });
        }
    }
}
