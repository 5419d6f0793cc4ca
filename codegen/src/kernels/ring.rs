//! A ring of stages in shared memory, which copies fill and products empty: that of products that stream weights. Tiles of many tokens have another
//! one, of clusters (`wgmma_matmul/pipeline.rs`).

use crate::builder::{Barrier, Bf16, Builder, I32, SharedPtr, Val};

/// Bytes that are under way at most to a block that [waits](Ring::wait_few). What a multiprocessor asks its memory for comes in
/// turn: an x that is read, keys of a block of attention beside it, wait behind all that was asked for before, and a whole
/// ring is 3 us of the memory's time. So many keep it busy: 4.2 TB/s for 1.5 us are 48 KiB of each of 132.
const UNDER_WAY: u32 = 48 << 10;

/// Stages that copies fill and products empty, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Ring<'b> {
    /// A barrier for each stage: its copies have arrived.
    pub(super) full: Barrier<'b>,
    /// A barrier for each stage: its products are done.
    empty: Barrier<'b>,
    memory: SharedPtr<'b, Bf16>,
    stages: u32,
    stage_bytes: u32,
}

/// A place in the ring: the stage, and the parity of its next phase to be full.
pub(super) type Cursor<'b> = [Val<'b, I32>; 2];

impl<'b> Ring<'b> {
    /// Takes shared memory for a ring of so many stages.
    pub(super) fn new(b: &'b Builder, stages: u32, stage_bytes: u32) -> Ring<'b> {
        let (full, empty) = (b.barriers(stages), b.barriers(stages));
        Ring { full, empty, memory: b.shared::<Bf16>(stages * stage_bytes / 2, 1024), stages, stage_bytes }
    }

    /// Makes its barriers, one thread, for stages that so many leave; the block meets after it.
    pub(super) fn begin(self, b: &Builder, readers: u32) {
        for s in 0..self.stages {
            self.full.at(s).init(1);
            self.empty.at(s).init(readers);
        }
        b.fence_barriers();
    }

    /// The first place.
    pub(super) fn start(self, b: &'b Builder) -> Cursor<'b> {
        [b.value(0); 2]
    }

    /// The place after this one.
    pub(super) fn next(self, [stage, parity]: Cursor<'b>) -> Cursor<'b> {
        let wraps = (stage + 1).eq(self.stages);
        [wraps.select(0, stage + 1), wraps.select(parity ^ 1, parity)]
    }

    /// Where the `i`-th unit comes.
    pub(super) fn cursor_of(self, i: Val<'b, I32>) -> Cursor<'b> {
        [i % self.stages, (i / self.stages) & 1]
    }

    /// The memory of a stage.
    pub(super) fn slot(self, [stage, _]: Cursor<'b>) -> SharedPtr<'b, Bf16> {
        self.memory.at_bytes(stage * self.stage_bytes)
    }

    /// Waits until the stage is there.
    pub(super) fn wait_full(self, [stage, parity]: Cursor<'b>) {
        self.full.at(stage).wait(parity);
    }

    /// Waits until the stage is left by the products.
    pub(super) fn wait_left(self, [stage, parity]: Cursor<'b>) {
        self.empty.at(stage).wait(parity ^ 1);
    }

    /// Waits until of the stages before this one no more are under way than [`UNDER_WAY`] has room for beside it. The first
    /// stages have none before them. Not for stages that x comes to as well: they are not full before it is made.
    pub(super) fn wait_few(self, [stage, parity]: Cursor<'b>) {
        let few = (UNDER_WAY / self.stage_bytes).clamp(1, self.stages);
        let wraps = stage.lt(few);
        let before = wraps.select(stage + (self.stages - few), stage - few);
        self.full.at(before).wait(wraps.select(parity ^ 1, parity));
    }

    /// One of its readers has read the stage.
    pub(super) fn leave(self, [stage, _]: Cursor<'b>) {
        self.empty.at(stage).arrive();
    }
}
