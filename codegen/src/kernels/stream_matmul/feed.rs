//! The threads that fill the ring, one with weights and one with x.

use super::super::ring::Ring;
use super::{CHUNK, ROWS, StreamMatmul};
use crate::builder::{Builder, Evict, I32, TensorMap, Val};

/// What goes through the ring.
#[derive(Clone, Copy)]
pub(super) struct Run<'b> {
    pub(super) ring: Ring<'b>,
    /// The block's first unit.
    pub(super) first: Val<'b, I32>,
    /// How many there are.
    pub(super) count: Val<'b, I32>,
}

impl StreamMatmul {
    /// Brings the weights of the block's units into the ring, one thread. Nobody writes them: they are asked for whenever
    /// there is room.
    pub(super) fn bring_weights<'b>(&self, b: &'b Builder, run: &Run<'b>, map: Val<'b, TensorMap>) {
        let ring = run.ring;
        let once = b.cache_policy(Evict::First);
        let init = (self.corner(run.first), ring.start(b));
        b.for_(0, run.count, 1, init, |_, (corner, cursor)| {
            let full = ring.full.at(cursor[0]);
            ring.wait_left(cursor);
            full.arrive_expect(self.stage_bytes());
            for (to, at) in self.boxes(corner) {
                b.tensor_load(ring.slot(cursor).at_bytes(to), map, &at, full, Some(once));
            }
            (self.next(corner), ring.next(cursor))
        });
    }

    /// Brings x for them, another thread. Its bytes may come before the weights' thread has said how many there are: the
    /// phase waits for that thread.
    pub(super) fn bring_x<'b>(&self, b: &'b Builder, run: &Run<'b>, map: Val<'b, TensorMap>) {
        let ring = run.ring;
        let often = b.cache_policy(Evict::Last);
        let init = (self.corner(run.first), ring.start(b));
        b.for_(0, run.count, 1, init, |_, (corner, cursor)| {
            let full = ring.full.at(cursor[0]);
            ring.wait_left(cursor);
            for c in 0..self.chunks() {
                let to = self.chunks() * self.tile() * CHUNK + c * self.tokens * CHUNK;
                let (to, at) = (ring.slot(cursor).at_bytes(to), [corner[1] + c * self.columns(), b.value(0)]);
                b.tensor_load(to, map, &at, full, Some(often));
            }
            (self.next(corner), ring.next(cursor))
        });
    }

    /// Elements of a chunk.
    fn columns(&self) -> u32 {
        CHUNK / self.of.operands.bytes()
    }

    /// The first output and input of a unit.
    fn corner<'b>(&self, unit: Val<'b, I32>) -> [Val<'b, I32>; 2] {
        let (tile, unit) = (unit / self.units(), unit % self.units());
        [tile * (self.tile() / self.of.halves()), unit * (self.chunks() * self.columns())]
    }

    /// The corner of the unit after the one with this corner.
    fn next<'b>(&self, [row, column]: [Val<'b, I32>; 2]) -> [Val<'b, I32>; 2] {
        let step = self.chunks() * self.columns();
        let wraps = (column + step).eq(self.units() * step);
        [wraps.select(row + self.tile() / self.of.halves(), row), wraps.select(0, column + step)]
    }

    /// The boxes of w that are a unit: where in the stage, bytes, and `[column, row]`.
    fn boxes<'b>(&self, [row, column]: [Val<'b, I32>; 2]) -> Vec<(u32, [Val<'b, I32>; 2])> {
        let mut boxes = Vec::new();
        for c in 0..self.chunks() {
            let column = column + c * self.columns();
            let mut add = |rows: u32, row| boxes.push(((c * self.tile() + rows) * CHUNK, [column, row]));
            match self.of.gate {
                None => add(0, row),
                // Of each warpgroup's rows the first half is gate, the second up.
                Some(_) => (0..self.groups()).for_each(|g| {
                    add(g * ROWS, row + g * (ROWS / 2));
                    add(g * ROWS + ROWS / 2, row + (self.of.outputs() + g * (ROWS / 2)));
                }),
            }
        }
        boxes
    }
}
