//! What comes before the attention of a decode step, in the same kernel: a block norms and rotates the queries of its heads,
//! and that with the end of a context also the new key, which it stores in the cache with the new value.
//!
//! The arithmetic is that of [`super::super::rope_kv_append`]. Queries go where products read them. The new key and value
//! go into a row of shared memory as they lie in a page, and from there into their tile once its copies have arrived
//! ([`Prologue::put`]): copies put zeros where they belong, for nobody knows how long those take.

use super::super::flash_tiles::{Keys, Tiles};
use super::super::kv_append::Slot;
use super::super::rope::{Half, Heads, Unit};
use super::super::rope_kv_append::{Inputs, Kind, RopeKvAppend, Turned, store_head};
use super::ROWS;
use crate::builder::{Builder, F32, GlobalPtr, I1, I8, I32, SharedPtr, Val};
use crate::tile::CHUNK;

/// What a block serves.
#[derive(Clone, Copy)]
pub(super) struct Block<'b> {
    /// The request.
    pub(super) seq: Val<'b, I32>,
    /// The key/value head, and which of the blocks that share it.
    pub(super) head: Val<'b, I32>,
    pub(super) part: Val<'b, I32>,
    /// The first query head, and how many there are.
    pub(super) first_head: Val<'b, I32>,
    pub(super) queries: Val<'b, I32>,
    /// Position of the step's token.
    pub(super) position: Val<'b, I32>,
}

/// A prologue with all that does not have to wait for earlier launches.
pub(super) struct Prologue<'b> {
    rope: RopeKvAppend,
    inputs: Inputs<'b>,
    block: Block<'b>,
    /// The block's heads: most queries of a block, the key, the value.
    heads: Heads,
    unit: Unit<'b>,
    rotation: [Half<'b>; 2],
    slot: Slot<'b>,
    cache: GlobalPtr<'b, I8>,
    /// The new key, then the value, as in a page.
    row: SharedPtr<'b, I8>,
    /// Their scales, of e4m3.
    scales: Option<SharedPtr<'b, F32>>,
}

impl<'b> Prologue<'b> {
    /// Does what it can before earlier launches are waited for: positions, tables and frequencies are no launch's, the
    /// block's rows of queries without a head are zeros. A block has at most `rows` queries.
    pub(super) fn new(
        b: &'b Builder,
        (rope, inputs): (RopeKvAppend, Inputs<'b>),
        tiles: &Tiles<'b>,
        keys: &Keys<'b>,
        rows: u32,
        block: Block<'b>,
    ) -> Prologue<'b> {
        let pages = rope.pages();
        let heads = Heads { count: rows + 2, head_dim: rope.head_dim, dim: rope.dim };
        let unit = heads.unit(b);
        let rotation = unit.rotation(inputs.by.freqs, inputs.by.positions.at(block.seq).load());
        let slot = Slot::of_request(pages, keys.table, block.position);
        if rows < ROWS || !(rope.heads / rope.kv_heads).is_multiple_of(rows) {
            tiles.clear_queries(block.queries);
        }
        let row = b.shared(2 * pages.row_bytes(), CHUNK);
        let scales = pages.scaled().then(|| b.shared(2, 8));
        Prologue { rope, inputs, block, heads, unit, rotation, slot, cache: keys.cache, row, scales }
    }

    /// Makes queries, key and value; where the block has the end of its context, as `ends` says, the last two are kept. A
    /// barrier has to follow.
    pub(super) fn make(&self, b: &'b Builder, tiles: &Tiles<'b>, ends: Val<'b, I1>) {
        let Prologue { rope, inputs, block, unit, .. } = self;
        let (rows, row_bytes) = (self.heads.count - 2, rope.pages().row_bytes());
        let qkv = rope.row(inputs, block.seq);
        // Every lane takes part in the reductions.
        for group in self.heads.rounds(b) {
            let i = group.number;
            // A query without a head repeats another one.
            let query = (block.first_head + i).min(rope.heads - 1);
            let key = block.head + rope.heads;
            let head = i.lt(rows).select(query, i.eq(rows).select(key, key + rope.kv_heads));
            let Turned { halves, kind } = rope.turned(b, inputs, qkv, *unit, self.rotation, head);
            let Kind { is_query, is_value } = kind;
            let stores = unit.active & group.exists;
            let queries = if tiles.rounds { self.rounded(b, halves) } else { halves };
            b.if_(stores & i.lt(block.queries), || {
                unit.at.into_iter().zip(queries).for_each(|(at, half)| tiles.put_query(i, at, half));
            });
            let by = self.scales.map(|scales| (scales, rope.scale(b, halves)));
            b.if_(stores & !is_query & ends, || {
                let number = is_value.select(1, 0);
                let scale = by.map(|(_, by)| by);
                store_head(b, self.row.at_bytes(number * row_bytes), unit.at, halves, scale);
                if let Some((scales, by)) = by {
                    b.if_(unit.at[0].eq(0), || scales.at(number).store(by[0]));
                }
                // One of the blocks that share the key.
                b.if_(block.part.eq(0), || {
                    let (to, scale_to) = self.slot.of(self.cache, is_value, block.head);
                    store_head(b, to, unit.at, halves, scale);
                    if let Some((_, by)) = by {
                        b.if_(unit.at[0].eq(0), || scale_to.store(by[0]));
                    }
                });
            });
        }
    }

    /// A lane's unit of a query, rounded: what is rounded is what would be stored, bf16. All lanes of the head take part.
    fn rounded(&self, b: &'b Builder, halves: [Half<'b>; 2]) -> [Half<'b>; 2] {
        let stored: [Val<'b, F32>; 16] = std::array::from_fn(|i| halves[i / 8][i % 8].to_bf16().to_f32());
        let rounded = b.round_e4m3(stored, self.heads.lanes());
        [0, 8].map(|first: usize| std::array::from_fn(|i| rounded[first + i]))
    }

    /// Puts the new key and value into row `row` of the tile in `stage`, whose copies have arrived. All lanes of the warp
    /// take part, and see it afterwards.
    pub(super) fn put(&self, b: &'b Builder, tiles: &Tiles<'b>, stage: Val<'b, I32>, row: Val<'b, I32>) {
        let (lane, _) = b.lane_and_warp();
        let chunks = self.rope.pages().row_bytes() / CHUNK;
        let to = tiles.stages.at_bytes(stage);
        b.for_(lane, 2 * chunks, 32, (), |at, ()| {
            let (is_value, chunk) = (at / chunks, at % chunks);
            let to = to.at_bytes(is_value * tiles.keys.bytes() + tiles.keys.offset(row, chunk));
            let from = self.row.at_bytes(at * CHUNK).cast::<I32>();
            to.cast::<I32>().store_vector(from.load_vector::<4>());
        });
        if let (Some(new), Some(scales)) = (self.scales, tiles.scales) {
            let to = scales.at_bytes(tiles.scales_of(stage));
            b.if_(lane.lt(2), || to.at(lane * tiles.keys.rows + row).store(new.at(lane).load()));
        }
        b.sync_warp();
    }
}
