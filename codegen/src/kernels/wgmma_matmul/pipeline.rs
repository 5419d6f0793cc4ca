//! The ring between the thread that copies and the warpgroups that multiply, and the walk over tiles that both follow.

use super::super::operands::Order;
use super::{Block, End, GROUP_ROWS, ROW_BYTES, STEP_BYTES, WgmmaMatmul};
use crate::builder::{Carried, F32, I16, I32, SharedPtr, Smem, Special, Val, WgmmaA};

/// A place in the ring: stage, and parity of its phase.
type Turn<'b> = (Val<'b, I32>, Val<'b, I32>);

impl WgmmaMatmul {
    /// The first place.
    fn first_turn<'b>(&self, block: Block<'b>) -> Turn<'b> {
        (block.b.value(0), block.b.value(0))
    }

    /// The place after it.
    fn next_turn<'b>(&self, (stage, parity): Turn<'b>) -> Turn<'b> {
        let over = stage.eq(self.tiling.stages - 1);
        (over.select(0, stage + 1), parity ^ over.to_i32())
    }

    /// `work([m0, n0], carried)` for each tile of this block, in order; `[m0, n0]` is the tile's first row and column.
    ///
    /// Tiles of clusters are numbered in groups of [`GROUP_ROWS`] rows, within a group column by column, so that at any
    /// time few rows of x and few of w are in use.
    fn each_tile<'b, C: Carried<'b>>(
        &self,
        block: Block<'b>,
        init: C,
        work: impl FnOnce([Val<'b, I32>; 2], C) -> C,
    ) {
        let (b, t) = (block.b, self.tiling);
        let first = b.special(Special::BlockX) / t.blocks();
        if t.splits > 1 {
            // There is a cluster for each tile.
            work(self.place(block, first), init);
        } else {
            let clusters = self.grid / t.blocks();
            b.for_(first, self.tiles(block), clusters, init, |tile, carried| {
                work(self.place(block, tile), carried)
            });
        }
    }

    /// `work([m0, n0])` for the first tile, if there is one.
    fn first_tile<'b>(&self, block: Block<'b>, work: impl FnOnce([Val<'b, I32>; 2])) {
        let first = block.b.special(Special::BlockX) / self.tiling.blocks();
        block.b.if_(first.lt(self.tiles(block)), || work(self.place(block, first)));
    }

    /// Tiles of clusters.
    fn tiles<'b>(&self, block: Block<'b>) -> Val<'b, I32> {
        block.m.div_ceil(self.tiling.bm * self.tiling.cluster[0]) * self.tiles_n()
    }

    /// First row and column of this block's tile of the cluster's tile `tile`.
    fn place<'b>(&self, block: Block<'b>, tile: Val<'b, I32>) -> [Val<'b, I32>; 2] {
        let t = self.tiling;
        let [rows, columns] = [t.bm * t.cluster[0], self.tile_outputs() * t.cluster[1]];
        let group = (GROUP_ROWS / rows).max(1);
        let per_group = self.tiles_n() * group;
        let above = tile / per_group * group;
        let width = (block.m.div_ceil(rows) - above).min(group);
        let within = tile % per_group;
        let (row, column) = (above + within % width, within / width);
        [row * rows + block.place[0] * t.bm, column * columns + block.place[1] * self.tile_outputs()]
    }

    /// First step along K of this block's share, and their number.
    fn share<'b>(&self, block: Block<'b>) -> (Val<'b, I32>, Val<'b, I32>) {
        let (each, last) = self.steps();
        let share = block.place[2];
        let steps = if each == last {
            block.b.value(each)
        } else {
            share.eq(self.tiling.splits - 1).select(last, each)
        };
        (share * each, steps)
    }

    /// Steps of a share, if sums are added share by share.
    fn ordered_steps(&self) -> Option<u32> {
        let Order::Shares(shares @ 2..) = self.order else { return None };
        let units = (self.of.k * self.of.operands.bytes()).div_ceil(Order::UNIT);
        Some(units.div_ceil(shares) * (Order::UNIT / ROW_BYTES))
    }

    /// Copies the operands of every tile into the ring. By one thread.
    pub(super) fn produce<'b>(&self, block: Block<'b>) {
        let (b, t) = (block.b, self.tiling);
        let (begin, steps) = self.share(block);
        let [place_m, place_n, share] = block.place;
        let [along_m, along_n] = t.cluster;
        // Bit r: block r of the cluster. Blocks of one row of tiles are `along_m` apart, those of a column adjacent.
        let first = share * (along_m * along_n);
        let mask = |blocks: u32, step: u32, from: Val<'b, I32>| -> Option<Val<'b, I16>> {
            let bits: i32 = (0..blocks).map(|i| 1 << (i * step)).sum();
            (blocks > 1).then(|| (b.value(bits) << from).to_i16())
        };
        let masks = [mask(along_n, along_m, first + place_m), mask(along_m, 1, first + place_n * along_m)];
        let slices = [place_n * t.loads()[0], place_m * t.loads()[1]];
        let load = |i: usize, [m0, n0]: [Val<'b, I32>; 2], step: Val<'b, I32>, stage: Val<'b, I32>| {
            let full = block.full.at(stage);
            let to = block.ring.at_bytes(stage * t.stage_bytes() + slices[i] * ROW_BYTES);
            let copy = |to: SharedPtr<'b, _>, row: Val<'b, I32>| {
                let from = [(begin + step) * self.bk(), row];
                match masks[i] {
                    None => b.tensor_load(to, block.maps[i], &from, full, None),
                    Some(blocks) => b.tensor_load_multicast(to, block.maps[i], &from, full, blocks, None),
                }
            };
            if i == 0 {
                copy(to, m0 + slices[0]);
            } else {
                for at in (0..t.loads()[1]).step_by(self.copied() as usize) {
                    copy(to.at_bytes(t.stage()[0] + at * ROW_BYTES), self.row_of_w(n0, slices[1] + at));
                }
            }
        };
        // Weights depend on no other kernel: they come before this one waits for those that make x.
        let ahead = steps.min(t.stages);
        self.first_tile(block, |tile| {
            b.for_(0, ahead, 1, (), |step, ()| {
                block.full.at(step).arrive_expect(t.stage_bytes());
                load(1, tile, step, step);
            });
        });
        b.after_grids();
        let tile = |tile: [Val<'b, I32>; 2], (turn, ahead): (Turn<'b>, Val<'b, I32>)| {
            let turn = b.for_(0, steps, 1, turn, |step, turn| {
                let (stage, parity) = turn;
                b.if_(ahead.le(step), || {
                    block.empty.at(stage).wait(parity ^ 1);
                    block.full.at(stage).arrive_expect(t.stage_bytes());
                    load(1, tile, step, stage);
                });
                load(0, tile, step, stage);
                self.next_turn(turn)
            });
            (turn, b.value(0))
        };
        self.each_tile(block, (self.first_turn(block), ahead), tile);
    }

    /// The row of w that row `at` of the tile at column `n0` is.
    fn row_of_w<'b>(&self, n0: Val<'b, I32>, at: Val<'b, I32>) -> Val<'b, I32> {
        if self.of.gate.is_none() {
            return n0 + at;
        }
        let (_, columns) = self.tiling.of_warpgroup();
        let (warpgroup, within) = (at / columns, at % columns);
        let (half, column) = (within / (columns / 2), within % (columns / 2));
        n0 + warpgroup * (columns / 2) + column + half * self.of.outputs()
    }

    /// Multiplies and stores every tile. By the threads of the warpgroups that multiply, of which this is warp `warp`.
    pub(super) fn consume<'b>(
        &self,
        block: Block<'b>,
        warp: Val<'b, I32>,
        End { epilogue, append }: End<'b>,
        [received, memory]: [Option<SharedPtr<'b, F32>>; 2],
    ) {
        let (b, t) = (block.b, self.tiling);
        let (rows, columns) = t.of_warpgroup();
        let warpgroup = warp / 4;
        let (along_m, along_n) = (warpgroup % t.warpgroups[0], warpgroup / t.warpgroups[0]);
        let descriptor = |at: SharedPtr<'b, _>| b.wgmma_descriptor(at, Smem::Rows128);
        let x = descriptor(block.ring.at_bytes(along_m * (rows * ROW_BYTES)));
        let w = descriptor(block.ring.at_bytes(along_n * (columns * ROW_BYTES) + t.stage()[0]));
        let (_, steps) = self.share(block);
        let ty = self.of.operands.wgmma();
        let (of_first, of_second) = t.operands();
        let (first, second) = if t.turned { (w, x) } else { (x, w) };
        let zero = vec![vec![b.value(0.0f32); of_second as usize / 2]; of_first as usize / 64];

        // The sums of so many steps, which begin with nothing.
        let chain = |steps: Val<'b, I32>, turn: Turn<'b>| {
            let init = (turn, turn.0, zero.clone());
            let (turn, last, sums) = b.for_(0, steps, 1, init, |step, (turn, before, sums)| {
                let (stage, parity) = turn;
                block.full.at(stage).wait(parity);
                let offset = (stage * (t.stage_bytes() / 16)).to_i64();
                let mut sums: Vec<_> = sums.iter().map(|sums| b.wgmma_fence_on(sums)).collect();
                for k in 0..ROW_BYTES / STEP_BYTES {
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let step_bytes = k * STEP_BYTES / 16;
                        let first = first + offset + i64::from(i as u32 * (64 * ROW_BYTES / 16) + step_bytes);
                        let second = second + offset + i64::from(step_bytes);
                        let accumulate = if k == 0 { step.ne(0) } else { b.value(true) };
                        *sums = b.wgmma(ty, sums, WgmmaA::Shared(first), second, accumulate);
                    }
                }
                b.wgmma_commit();
                // The products of the step before have read their operands.
                b.wgmma_wait_operands(1);
                self.release(block, before, step.ne(0));
                (self.next_turn(turn), stage, sums)
            });
            let sums: Vec<_> = sums.iter().map(|sums| b.wgmma_wait(0, sums)).collect();
            self.release(block, last, b.value(true));
            (turn, sums)
        };
        let tile = |[m0, n0]: [Val<'b, I32>; 2], turn: Turn<'b>| {
            let (turn, sums) = match self.ordered_steps() {
                None => chain(steps, turn),
                Some(each) => b.for_(0, steps, each, (turn, zero.clone()), |begin, (turn, all)| {
                    let (turn, sums) = chain((steps - begin).min(each), turn);
                    let add = |(all, sums): (&Vec<Val<'b, F32>>, &Vec<Val<'b, F32>>)| {
                        all.iter().zip(sums).map(|(&all, &sum)| all + sum).collect()
                    };
                    (turn, all.iter().zip(&sums).map(add).collect())
                }),
            };
            let at = [m0 + along_m * rows, n0 + along_n * (columns / self.of.halves())];
            let (sums, at) = match received {
                None => (sums, at),
                Some(received) => self.add_shares(block, warp, at, &sums, received),
            };
            match (append, memory) {
                (Some(append), _) => self.store_heads(block, warp, (epilogue, append), at, &sums[0]),
                (None, None) => self.store(block, warp, epilogue, at, &sums),
                (None, Some(memory)) => self.store_turned(block, warp, epilogue, at, &sums, memory),
            }
            turn
        };
        self.each_tile(block, self.first_turn(block), tile);
        if received.is_none() {
            self.leave(b);
        }
    }

    /// Tells every block that has loaded some of a stage that this warp is done with it.
    fn release<'b>(&self, block: Block<'b>, stage: Val<'b, I32>, condition: Val<'b, crate::builder::I1>) {
        let (b, [along_m, along_n]) = (block.b, self.tiling.cluster);
        let lane = b.special(Special::Lane);
        let empty = block.empty.at(stage);
        if along_m * along_n == 1 {
            b.if_(condition & lane.eq(0), || empty.arrive());
            return;
        }
        // Lanes up to `along_m` tell the blocks of this column of tiles, the others those of this row but this block.
        let [m, n, share] = block.place;
        let other = lane - along_m;
        let other = other + (!other.lt(n)).to_i32();
        let [to_m, to_n] = if along_n == 1 {
            [lane, n]
        } else {
            let column = lane.lt(along_m);
            [column.select(lane, m), column.select(n, other)]
        };
        let rank = share * (along_m * along_n) + to_n * along_m + to_m;
        b.if_(condition & lane.lt(along_m + along_n - 1), || empty.arrive_at_block(rank));
    }
}
