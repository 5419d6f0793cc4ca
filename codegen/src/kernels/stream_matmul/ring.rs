//! The ring through which weights and x come: its stages, and the two threads that fill them. Another kernel has one too.

use super::{CHUNK, ROWS, StreamMatmul};
use crate::builder::{Barrier, Bf16, Builder, Evict, I32, SharedPtr, TensorMap, Val};

/// Stages that copies fill and products empty, one after the other.
#[derive(Clone, Copy)]
pub(in super::super) struct Ring<'b> {
    /// A barrier for each stage: its copies have arrived.
    pub(in super::super) full: Barrier<'b>,
    /// A barrier for each stage: its products are done.
    empty: Barrier<'b>,
    memory: SharedPtr<'b, Bf16>,
    stages: u32,
    stage_bytes: u32,
}

/// What goes through the ring.
#[derive(Clone, Copy)]
pub(super) struct Run<'b> {
    pub(super) ring: Ring<'b>,
    /// The block's first unit.
    pub(super) first: Val<'b, I32>,
    /// How many there are.
    pub(super) count: Val<'b, I32>,
}

/// A place in the ring: the stage, and the parity of its next phase to be full.
pub(in super::super) type Cursor<'b> = [Val<'b, I32>; 2];

impl<'b> Ring<'b> {
    /// Takes shared memory for a ring of so many stages.
    pub(in super::super) fn new(b: &'b Builder, stages: u32, stage_bytes: u32) -> Ring<'b> {
        let (full, empty) = (b.barriers(stages), b.barriers(stages));
        Ring { full, empty, memory: b.shared::<Bf16>(stages * stage_bytes / 2, 1024), stages, stage_bytes }
    }

    /// Makes its barriers, one thread, for stages that so many leave; the block meets after it.
    pub(in super::super) fn begin(self, b: &Builder, readers: u32) {
        for s in 0..self.stages {
            self.full.at(s).init(1);
            self.empty.at(s).init(readers);
        }
        b.fence_barriers();
    }

    /// The first place.
    pub(in super::super) fn start(self, b: &'b Builder) -> Cursor<'b> {
        [b.value(0); 2]
    }

    /// The place after this one.
    pub(in super::super) fn next(self, [stage, parity]: Cursor<'b>) -> Cursor<'b> {
        let wraps = (stage + 1).eq(self.stages);
        [wraps.select(0, stage + 1), wraps.select(parity ^ 1, parity)]
    }

    /// Where the `i`-th unit comes.
    pub(in super::super) fn cursor_of(self, i: Val<'b, I32>) -> Cursor<'b> {
        [i % self.stages, (i / self.stages) & 1]
    }

    /// The memory of a stage.
    pub(in super::super) fn slot(self, [stage, _]: Cursor<'b>) -> SharedPtr<'b, Bf16> {
        self.memory.at_bytes(stage * self.stage_bytes)
    }

    /// Waits until the stage is there.
    pub(in super::super) fn wait_full(self, [stage, parity]: Cursor<'b>) {
        self.full.at(stage).wait(parity);
    }

    /// Waits until the stage is left by the products.
    pub(in super::super) fn wait_left(self, [stage, parity]: Cursor<'b>) {
        self.empty.at(stage).wait(parity ^ 1);
    }

    /// One of its readers has read the stage.
    pub(in super::super) fn leave(self, [stage, _]: Cursor<'b>) {
        self.empty.at(stage).arrive();
    }
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
