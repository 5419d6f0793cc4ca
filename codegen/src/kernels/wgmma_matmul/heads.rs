//! From the sums of a warpgroup that are whole heads of queries, keys and values to queries and to the paged cache: norm,
//! rotation and append ([`RopeKvAppend`]) while the sums are in registers, so that qkv is never written.
//!
//! A thread has two columns of each tile of eight, of two rows. Half a rotation is whole tiles, so both elements of a pair are
//! its own; four lanes have a head of a row together.

use super::super::epilogue::Epilogue;
use super::super::rope::{cos_sin, turn};
use super::super::rope_kv_append::{Behind, Kind, RopeKvAppend};
use super::store::{Four, Lane, TILE, TILES};
use super::{Block, Tiling, WgmmaMatmul};
use crate::builder::{Builder, F32, GlobalPtr, I1, I8, I32, Special, Val};

/// Most elements of a head that are turned: a thread has a quarter as many cosines and sines in registers.
const MOST_TURNED: u32 = 128;
/// Lanes that have a head of a row together.
const LANES: u32 = 4;
/// Columns of codes that lanes exchange: 16 bytes each.
const CODES: usize = 64;

/// A thread's columns of a head in a row.
type Values<'b> = Vec<[Val<'b, F32>; 2]>;

impl Tiling {
    /// Whether whole heads are in one warpgroup's tile, and what turns them in its registers; queries and keys have one norm, or none.
    pub(super) fn serves_heads(self, rope: &RopeKvAppend) -> bool {
        let (rows, columns) = self.of_warpgroup();
        self.splits == 1
            && !self.turned
            && rows == 64
            && rope.head_dim.is_multiple_of(CODES as u32)
            && columns.is_multiple_of(rope.head_dim)
            && rope.dim <= MOST_TURNED
            && rope.q_norm == rope.k_norm
    }
}

/// What a thread has of heads.
#[derive(Clone, Copy)]
struct Heads<'b> {
    b: &'b Builder,
    behind: Behind<'b>,
    /// `lane % 4`.
    q: Val<'b, I32>,
}

/// One of its two rows.
#[derive(Clone, Copy)]
struct Row<'b> {
    /// A token that exists, and whether it is the thread's own.
    token: Val<'b, I32>,
    exists: Val<'b, I1>,
    /// The token's request, if the tile has keys or values.
    request: Val<'b, I32>,
}

/// A head.
#[derive(Clone, Copy)]
struct Head<'b> {
    number: Val<'b, I32>,
    kind: Kind<'b>,
}

impl WgmmaMatmul {
    /// Turns and stores the heads of a warpgroup's tile at `[row, column]`.
    pub(super) fn store_heads<'b>(
        &self,
        block: Block<'b>,
        warp: Val<'b, I32>,
        (epilogue, behind): (Epilogue<'b>, Behind<'b>),
        [row, column]: [Val<'b, I32>; 2],
        sums: &[Val<'b, F32>],
    ) {
        let rope = behind.rope;
        let (b, lane) = (block.b, block.b.special(Special::Lane));
        let first_row = row + warp % 4 * 16 + (lane >> 2);
        let rows = [first_row, first_row + 8].map(|row| (row.min(block.m - 1), row.lt(block.m)));
        let lane = Lane { b, epilogue, q: lane & 3, rows, column };
        let (first, of_head) = (column / rope.head_dim, rope.head_dim as usize / 2);
        let count = (sums.len() / of_head) as u32;
        let heads = Heads { b, behind, q: lane.q };
        // Row by row, for registers.
        for (h, (token, exists)) in rows.into_iter().enumerate() {
            let request = b.if_else(
                b.value(rope.heads).lt(first + count),
                || behind.batch.request_by_halving(b, token, block.seqs),
                || b.value(0),
            );
            let (row, scale) = (Row { token, exists, request }, lane.row_scale(h));
            // A tile of values is not turned.
            let turns = b.if_else(
                first.lt(rope.heads + rope.kv_heads),
                || heads.turns(token),
                || vec![[b.value(0.0f32); 2]; rope.dim as usize / 8],
            );
            for (i, sums) in sums.chunks(of_head).enumerate() {
                let number = first + i as u32;
                let head = Head { number, kind: rope.kind(b, number) };
                let store = || {
                    let tiles: Vec<Four<'b>> = sums.chunks(4).map(|c| [c[0], c[1], c[2], c[3]]).collect();
                    let groups = tiles.len() / TILES;
                    let columns = (0..groups).flat_map(|g| lane.columns(i * groups + g, 0));
                    let value = |(&tile, of)| lane.value(tile, h, of, scale);
                    heads.store(head, row, tiles.iter().zip(columns).map(value).collect(), &turns);
                };
                if epilogue.ragged {
                    b.if_(number.lt(rope.all_heads().count), store);
                } else {
                    store();
                }
            }
        }
    }
}

impl<'b> Heads<'b> {
    /// Cosine and sine of each of a thread's pairs of a token.
    fn turns(&self, token: Val<'b, I32>) -> Vec<[Val<'b, F32>; 2]> {
        let position = self.position(token).to_f32();
        let of_tile =
            |tile: u32| self.behind.by.freqs.at(self.q * 2 + tile * TILE).load_vector::<2>().elements();
        let freqs = (0..self.behind.rope.dim / (2 * TILE)).flat_map(of_tile);
        freqs.map(|f| cos_sin(position * f)).collect()
    }

    /// The position of a token, which is read again where it is used, for registers.
    fn position(&self, token: Val<'b, I32>) -> Val<'b, I32> {
        self.behind.by.positions.at(token).load()
    }

    /// Turns a head of a row and stores it.
    fn store(&self, head: Head<'b>, row: Row<'b>, given: Values<'b>, turns: &[[Val<'b, F32>; 2]]) {
        let b = self.b;
        let turned = b.if_else(
            head.kind.is_value,
            || given.clone(),
            || self.turned(self.normed(head, given.clone()), turns),
        );
        if !self.behind.rope.pages().scaled() {
            let to = b.if_else(head.kind.is_query, || self.query(head, row), || self.in_cache(head, row).0);
            self.store_bf16(to, row, &turned);
            return;
        }
        b.if_(head.kind.is_query, || self.store_bf16(self.query(head, row), row, &turned));
        b.if_(!head.kind.is_query, || self.store_codes(self.in_cache(head, row), row, &turned));
    }

    /// A head after its norm, if it has one.
    fn normed(&self, head: Head<'b>, given: Values<'b>) -> Values<'b> {
        let b = self.b;
        let [Some((norm, of_queries)), Some((_, of_keys))] = self.behind.by.norms else { return given };
        let weight = of_queries.select(head.kind.is_query, of_keys);
        let squares = given.iter().flatten().fold(b.value(0.0f32), |sum, &v| v.fma(v, sum));
        let mean = b.sum_lanes(squares, LANES) * (1.0 / self.behind.rope.head_dim as f32);
        let scale = (mean + norm.eps).rsqrt();
        let of_tile = |(tile, given): (u32, [Val<'b, F32>; 2])| {
            let w = weight.at(self.q * 2 + tile * TILE).load::<2>();
            let w = if norm.offset == 0.0 { w } else { w.map(|w| w + norm.offset) };
            [0, 1].map(|i: usize| given[i] * (w[i] * scale))
        };
        (0..).zip(given).map(of_tile).collect()
    }

    /// A head after its rotation.
    fn turned(&self, mut row: Values<'b>, turns: &[[Val<'b, F32>; 2]]) -> Values<'b> {
        let half = turns.len() / 2;
        for (at, &by) in turns.iter().enumerate() {
            let (tile, i) = (at / 2, at % 2);
            [row[tile][i], row[tile + half][i]] = turn(by, [row[tile][i], row[tile + half][i]]);
        }
        row
    }

    /// Where a head of queries begins.
    fn query(&self, head: Head<'b>, row: Row<'b>) -> GlobalPtr<'b, I8> {
        let RopeKvAppend { heads, head_dim, .. } = self.behind.rope;
        let of_row = row.token.to_i64() * i64::from(heads * head_dim);
        self.behind.q.at64(of_row + (head.number * head_dim).to_i64()).bytes()
    }

    /// Where a head of keys or values begins in the cache, and where its scale is, if there is one.
    fn in_cache(&self, head: Head<'b>, row: Row<'b>) -> (GlobalPtr<'b, I8>, GlobalPtr<'b, F32>) {
        let Behind { rope, batch, cache, .. } = self.behind;
        let kv_head = rope.kv_head(head.number, head.kind);
        let slot = batch.slot(rope.pages(), row.request, self.position(row.token));
        slot.of(cache, head.kind.is_value, kv_head)
    }

    /// Stores a row of bf16, a chunk of eight columns a lane of every four tiles.
    fn store_bf16(&self, to: GlobalPtr<'b, I8>, row: Row<'b>, values: &Values<'b>) {
        for (group, tiles) in values.chunks(TILES).enumerate() {
            let words = std::array::from_fn(|t| self.b.pack_bf16(tiles[t][0], tiles[t][1]));
            let words = self.b.exchange(self.q, words);
            let to = to.at_bytes((self.q + (group * TILES) as u32) * (2 * TILE));
            self.b.if_(row.exists, || to.cast::<I32>().store_vector(self.b.vector(words)));
        }
    }

    /// Stores a row of a key or value as codes, with its scale.
    fn store_codes(
        &self,
        (to, scale): (GlobalPtr<'b, I8>, GlobalPtr<'b, F32>),
        row: Row<'b>,
        values: &Values<'b>,
    ) {
        let b = self.b;
        let amax = values.iter().flatten().fold(b.value(0.0f32), |most, v| most.max(v.abs()));
        let by = b.e4m3_scale(b.max_lanes(amax, LANES));
        for (group, tiles) in values.chunks(CODES / TILE as usize).enumerate() {
            // A word has the codes of two tiles.
            let two = |tiles: &[[Val<'b, F32>; 2]]| {
                b.e4m3_codes(std::array::from_fn(|i| tiles[i / 2][i % 2]), by).elements()
            };
            let ([first, second], [third, fourth]) = (two(&tiles[..4]), two(&tiles[4..]));
            let [w0, w1, w2, w3] = b.exchange(self.q, [first, second, third, fourth]);
            // Of four lanes' words the codes of one tile are the lower halves, those of the next the upper ones.
            let [[a, b0], [c, d]] =
                [0x5410, 0x7632].map(|half| [b.permute_bytes(w0, w1, half), b.permute_bytes(w2, w3, half)]);
            let to = to.at_bytes(self.q * (2 * TILE) + (group * CODES) as u32);
            b.if_(row.exists, || to.cast::<I32>().store_vector(b.vector([a, b0, c, d])));
        }
        b.if_(row.exists & self.q.eq(0), || scale.store(by[0]));
    }
}
