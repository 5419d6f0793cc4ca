//! What a warpgroup of [`super::WgmmaAttention`] makes of its queries before it multiplies them, where they lie: f16, where keys
//! become f16; where queries are rounded to e4m3 times a power of two, that in bf16, or over an e4m3 cache their codes, which are
//! multiplied with the codes of keys. Then each row of scores has the power of two for a factor.
//!
//! Two threads have a row of queries, each half of its columns of each part: warp w the rows that it has of the sums too.

use super::consumer::OWN;
use super::{COLUMNS, GROUP, ROW_BYTES, ROWS, WgmmaAttention};
use crate::builder::{Bf16, Builder, F32, I32, SharedPtr, Special, Val};
use crate::tile::{CHUNK, Tile};

/// Elements of a chunk.
const VEC: usize = 8;
/// Chunks that a thread has of its row in each part.
const OWN_CHUNKS: u32 = ROW_BYTES / CHUNK / 2;

/// A thread's chunks of its row of queries: where they lie, and their elements.
type Chunks<'b> = Vec<(SharedPtr<'b, I32>, [Val<'b, F32>; VEC])>;

impl WgmmaAttention {
    /// Makes what products multiply of a warpgroup's queries. With rounded queries over an e4m3 cache it gives the powers of two of
    /// the thread's two rows of sums.
    pub(super) fn make_queries<'b>(
        &self,
        b: &'b Builder,
        own: SharedPtr<'b, Bf16>,
        group: Val<'b, I32>,
    ) -> Option<[Val<'b, F32>; 2]> {
        let powers = match (self.0.rounds(), self.scaled()) {
            (false, false) => return None,
            (false, true) => {
                self.halve_queries(b, own);
                None
            }
            (true, false) => {
                self.round_queries(b, own);
                None
            }
            (true, true) => Some(self.code_queries(b, own, group)),
        };
        b.fence_async();
        b.sync_some(group + OWN, GROUP);
        powers
    }

    /// Makes f16 of queries. Exact down to 2^-14.
    fn halve_queries<'b>(&self, b: &'b Builder, own: SharedPtr<'b, Bf16>) {
        let thread = b.special(Special::ThreadX) % GROUP;
        for round in 0..self.bytes_of_group() / (16 * GROUP) {
            let at = own.at_bytes((thread + round * GROUP) * 16).cast::<I32>();
            let words = at.load_vector::<4>().elements().map(|word| {
                let [low, high] = b.unpack_bf16(word);
                b.pack_f16(low, high)
            });
            at.store_vector(b.vector(words));
        }
    }

    /// This thread's row, and which half of its columns it has.
    fn row_and_half<'b>(&self, b: &'b Builder) -> (Val<'b, I32>, Val<'b, I32>) {
        let thread = b.special(Special::ThreadX) % GROUP;
        (thread / 2, thread % 2)
    }

    /// Reads this thread's chunks, part by part, each in the order of columns.
    fn own_chunks<'b>(&self, b: &'b Builder, own: SharedPtr<'b, Bf16>) -> Chunks<'b> {
        let (row, half) = self.row_and_half(b);
        let tile = Tile { rows: ROWS, row_bytes: ROW_BYTES };
        let first = tile.offset(row, half * OWN_CHUNKS);
        let chunk = |i: u32| {
            // The chunk's number is exchanged by the row's last bits; its own last ones are those of `i`.
            let at = (first ^ (i % OWN_CHUNKS * CHUNK)) + i / OWN_CHUNKS * tile.bytes();
            let at = own.at_bytes(at).cast::<I32>();
            let pairs = at.load_vector::<4>().elements().map(|word| b.unpack_bf16(word));
            (at, std::array::from_fn(|e| pairs[e / 2][e % 2]))
        };
        (0..self.parts() * OWN_CHUNKS).map(chunk).collect()
    }

    /// The power of two of this thread's row, and its inverse.
    fn power<'b>(&self, b: &'b Builder, chunks: &Chunks<'b>) -> [Val<'b, F32>; 2] {
        let all = chunks.iter().flat_map(|(_, values)| values);
        let amax = all.fold(b.value(0.0f32), |most, x| most.max(x.abs()));
        b.e4m3_power(b.max_lanes(amax, 2))
    }

    /// Rounds queries, which stay bf16.
    fn round_queries<'b>(&self, b: &'b Builder, own: SharedPtr<'b, Bf16>) {
        let chunks = self.own_chunks(b, own);
        let by = self.power(b, &chunks);
        for (at, values) in chunks {
            let values = values.map(|x| x.to_nearest_e4m3(by));
            let words: [_; 4] = std::array::from_fn(|i| b.pack_bf16(values[2 * i], values[2 * i + 1]));
            at.store_vector(b.vector(words));
        }
    }

    /// Makes codes of queries, `(64, head_dim)`, swizzled as a row of so many bytes is, and gives the powers of two of the thread's
    /// rows of sums. Queries have to be below 2^36, for such a power times what stands for no score to be an f32.
    fn code_queries<'b>(
        &self,
        b: &'b Builder,
        own: SharedPtr<'b, Bf16>,
        group: Val<'b, I32>,
    ) -> [Val<'b, F32>; 2] {
        let chunks = self.own_chunks(b, own);
        let [power, inverse] = self.power(b, &chunks);
        let (row, half) = self.row_and_half(b);
        let tile = Tile { rows: ROWS, row_bytes: self.0.head_dim };
        // Codes lie where other threads' elements were.
        b.sync_some(group + OWN, GROUP);
        for (i, two) in (0u32..).zip(chunks.chunks_exact(2)) {
            // Two chunks of elements become one of codes.
            let (part, i) = (i / (OWN_CHUNKS / 2), i % (OWN_CHUNKS / 2));
            let chunk = half * (OWN_CHUNKS / 2) + (part * (COLUMNS / CHUNK) + i);
            let values: Vec<_> = two.iter().flat_map(|(_, values)| values.map(|x| x * inverse)).collect();
            let words: [_; 4] =
                std::array::from_fn(|w| b.to_e4m3(std::array::from_fn(|e| values[4 * w + e])));
            own.at_bytes(tile.offset(row, chunk)).cast::<I32>().store_vector(b.vector(words));
        }
        // Lanes 2 j and 2 j + 1 have row j of the warp's.
        let (lane, _) = b.lane_and_warp();
        [0, 16].map(|rows| b.broadcast(power, (lane >> 2) * 2 + rows))
    }
}
