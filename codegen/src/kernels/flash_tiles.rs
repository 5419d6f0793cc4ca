//! Tiles of queries, keys and values in shared memory for [`super::flash_attention`] and [`super::decode_attention`]: how
//! rows of pages get there, and the two matrix products of a warp that read them; those of keys and values in e4m3 are in
//! `flash_codes.rs`. Knows nothing of masks and softmax.

use super::attention::Attention;
use super::fragments::Sums;
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I8, I32, SharedPtr, Special, Val};
use crate::tile::{CHUNK, Tile};

/// 16 elements of a query.
pub(super) type Chunks<'b> = [[Val<'b, I32>; 4]; 2];

/// Where the tiles lie: two stages of keys and values for each team, then queries, then the scales of the stages. A team
/// is a part of the block's threads, whole warps, that goes over keys of its own.
#[derive(Clone, Copy)]
pub(super) struct Tiles<'b> {
    base: SharedPtr<'b, Bf16>,
    /// The stages of this thread's team.
    pub(super) stages: SharedPtr<'b, Bf16>,
    pub(super) queries_at: SharedPtr<'b, Bf16>,
    /// The scales of this thread's team, of e4m3: of each stage those of keys, then those of values.
    pub(super) scales: Option<SharedPtr<'b, F32>>,
    /// Threads of a team.
    pub(super) team: u32,
    pub(super) queries: Tile,
    pub(super) keys: Tile,
    pub(super) head_dim: u32,
    /// Whether queries are rounded.
    pub(super) rounds: bool,
    /// Bytes of a key.
    key_bytes: u32,
}

/// Keys of a request and head that a block goes over.
#[derive(Clone, Copy)]
pub(super) struct Keys<'b> {
    /// Pages of the request.
    pub(super) table: GlobalPtr<'b, I32>,
    /// The cache of all requests.
    pub(super) cache: GlobalPtr<'b, I8>,
    /// Key/value head.
    pub(super) head: Val<'b, I32>,
    /// Positions from here on are zeros.
    pub(super) to: Val<'b, I32>,
    /// The last one before, or 0 if there is none: its address is that of all behind it.
    pub(super) last: Val<'b, I32>,
}

impl<'b> Keys<'b> {
    /// The number of the page of a position.
    pub(super) fn number(&self, a: &Attention, position: Val<'b, I32>) -> Val<'b, I32> {
        self.table.at(position / a.page_tokens).load()
    }

    /// A page by its number: the head's first key in it, in units of 16 bits, and the scale of that if there is one.
    pub(super) fn page(
        &self,
        a: &Attention,
        number: Val<'b, I32>,
    ) -> (GlobalPtr<'b, Bf16>, GlobalPtr<'b, F32>) {
        let (pages, page) = (a.pages(), number.to_i64());
        // Pages without scales are as long as their heads, of which one offset tells the number: it takes few registers.
        let plane = i64::from(a.page_tokens * pages.row_bytes() / 2);
        let head = (page * i64::from(2 * a.kv_heads) + self.head.to_i64()) * plane;
        let before =
            if pages.scaled() { page * ((pages.bytes() - pages.scales_at()) / 2) + head } else { head };
        let scale = page * pages.bytes() + self.head.to_i64() * i64::from(4 * a.page_tokens);
        (self.cache.cast::<Bf16>().at64(before), self.cache.at64(scale + pages.scales_at()).cast())
    }
}

impl<'b> Tiles<'b> {
    /// Takes shared memory for a tile of `rows` rows of queries, and tiles of `keys` keys for `teams` teams.
    pub(super) fn new(b: &'b Builder, a: &Attention, rows: u32, keys: u32, teams: u32) -> Tiles<'b> {
        // Rows are padded to a power of two, which the exchange of chunks needs; nothing reads the padding.
        let tile = |rows, bytes: u32| Tile { rows, row_bytes: bytes.next_power_of_two().max(2 * CHUNK) };
        let key_bytes = a.pages().row_bytes();
        let (queries, keys) = (tile(rows, 2 * a.head_dim), tile(keys, key_bytes));
        let base = b.shared((queries.bytes() + teams * 4 * keys.bytes()) / 2, 1024);
        let team = b.threads() / teams;
        let of_team = |all: SharedPtr<'b, Bf16>, bytes: u32| match teams {
            1 => all,
            _ => all.at_bytes(b.special(Special::ThreadX) / team * bytes),
        };
        let stages = of_team(base, 4 * keys.bytes());
        let queries_at = base.at_bytes(teams * 4 * keys.bytes());
        // Two stages, keys and values, 4 bytes each.
        let scale_bytes = 2 * 2 * 4 * keys.rows;
        let scaled = a.pages().scaled();
        let scales = scaled.then(|| of_team(b.shared(teams * scale_bytes / 2, CHUNK), scale_bytes).cast());
        let (head_dim, rounds) = (a.head_dim, a.rounds());
        Tiles { base, stages, queries_at, scales, team, queries, keys, head_dim, rounds, key_bytes }
    }

    /// Bytes of a stage, a power of two: stages are told apart by this bit of an offset.
    pub(super) fn stage_bytes(&self) -> u32 {
        2 * self.keys.bytes()
    }

    /// The memory of all stages, for `floats` elements when nothing is read from the tiles any more.
    pub(super) fn memory(&self, floats: u32) -> SharedPtr<'b, F32> {
        debug_assert!(floats * 4 <= self.b().threads() / self.team * 2 * self.stage_bytes());
        self.base.cast()
    }

    pub(super) fn b(&self) -> &'b Builder {
        self.stages.builder()
    }

    /// This thread's row and chunk of a round of copies of rows of `bytes` bytes to `tile` by `threads` threads, and the
    /// rows of a round. Lanes that lie behind the row's end have a chunk behind it, and threads that are more than the
    /// tile has chunks another's place: [`Tiles::within`] keeps both from copying.
    fn place(&self, tile: Tile, bytes: u32, threads: u32) -> (Val<'b, I32>, Val<'b, I32>, u32) {
        let lanes = (bytes / CHUNK).next_power_of_two();
        let threads = threads.min(lanes * tile.rows);
        let thread = self.b().special(Special::ThreadX) % threads;
        (thread / lanes, thread % lanes, threads / lanes)
    }

    /// Byte offsets in `tile` of the chunk that this thread copies in each round.
    fn targets(&self, tile: Tile, bytes: u32, threads: u32) -> Vec<Val<'b, I32>> {
        let (row, chunk, step) = self.place(tile, bytes, threads);
        // Rows that differ by a multiple of 8 have the same key: one offset for each class of rounds.
        let classes = (8 / step).max(1);
        let first: Vec<_> = (0..classes).map(|i| tile.offset(row + i * step, chunk)).collect();
        let rounds = tile.rows / step;
        (0..rounds)
            .map(|i| first[(i % classes) as usize] + i / classes * classes * step * tile.row_bytes)
            .collect()
    }

    /// `copy()` in those of `threads` threads that have a chunk of `tile`.
    fn within(&self, tile: Tile, bytes: u32, threads: u32, chunk: Val<'b, I32>, copy: impl FnOnce()) {
        let b = self.b();
        let lanes = bytes / CHUNK;
        let chunks = lanes.next_power_of_two() * tile.rows;
        let whole = lanes.is_power_of_two();
        if whole && threads <= chunks {
            return copy();
        }
        let inside = || if whole { copy() } else { b.if_(chunk.lt(lanes), copy) };
        if threads > chunks {
            b.if_((b.special(Special::ThreadX) % threads).lt(chunks), inside);
        } else {
            inside();
        }
        // Products of matrices need the whole warp.
        b.sync_warp();
    }

    /// Starts to copy a tile of queries: `row(i)` is where row `i` of the tile lies, and `i < rows` exist.
    pub(super) fn load_queries(&self, rows: Val<'b, I32>, at: impl Fn(Val<'b, I32>) -> GlobalPtr<'b, Bf16>) {
        let (threads, bytes) = (self.b().threads(), 2 * self.head_dim);
        let (row, chunk, step) = self.place(self.queries, bytes, threads);
        let targets = self.targets(self.queries, bytes, threads);
        self.within(self.queries, bytes, threads, chunk, || {
            for (i, &to) in (0u32..).zip(&targets) {
                let (row, to) = (row + i * step, self.queries_at.at_bytes(to));
                self.b().cp_async_or_zero(to, at(row).at(chunk * (CHUNK / 2)), row.lt(rows));
            }
        });
    }

    /// Puts a tile of queries where products read it, by way of registers: `row(i)` is where row `i` of the tile lies, and
    /// `i < rows` exist; others are zeros. A barrier has to follow.
    pub(super) fn put_queries(&self, rows: Val<'b, I32>, at: impl Fn(Val<'b, I32>) -> GlobalPtr<'b, Bf16>) {
        let b = self.b();
        self.make_queries(|row, unit| {
            let load = || {
                let from = at(row).at(unit * 16).cast::<I32>();
                [0, 4].map(|word: u32| from.at(word).load_vector::<4>().elements())
            };
            b.if_else(row.lt(rows), load, || [[b.value(0); 4]; 2])
        });
    }

    /// The same with queries that are there already, for all threads.
    pub(super) fn arrange_queries(&self) {
        self.make_queries(|row, unit| {
            let left = self.queries.offset(row, unit * 2);
            let chunk = |at| self.queries_at.at_bytes(at).cast::<I32>().load_vector::<4>().elements();
            [left, left ^ CHUNK].map(chunk)
        });
    }

    /// Puts what products read of each row and 16 elements of it where they read it, given the two chunks that these are:
    /// rounded, if queries are, and in the order of codes over an e4m3 cache.
    fn make_queries(&self, load: impl Fn(Val<'b, I32>, Val<'b, I32>) -> Chunks<'b>) {
        let (b, units) = (self.b(), self.head_dim / 16);
        let put = |row: Val<'b, I32>, unit: Val<'b, I32>, chunks: Chunks<'b>| {
            let chunks = if self.scales.is_some() { self.arranged(chunks) } else { chunks };
            let left = self.queries.offset(row, unit * 2);
            for (at, words) in [left, left ^ CHUNK].into_iter().zip(chunks) {
                self.queries_at.at_bytes(at).cast::<I32>().store_vector(b.vector(words));
            }
        };
        let thread = b.special(Special::ThreadX);
        if !self.rounds {
            return b.for_(thread, self.queries.rows * units, b.threads(), (), |unit, ()| {
                let (row, unit) = (unit / units, unit % units);
                put(row, unit, load(row, unit));
            });
        }
        // Lanes that find a row's power of two together go round equally often.
        let lanes = units.next_power_of_two();
        b.for_(0, self.queries.rows * lanes, b.threads(), (), |first, ()| {
            let at = first + thread;
            let (row, unit) = (at / lanes, at % lanes);
            let inside = row.lt(self.queries.rows) & unit.lt(units);
            let chunks = b.if_else(inside, || load(row, unit), || [[b.value(0); 4]; 2]);
            let chunks = self.rounded(chunks, lanes);
            b.if_(inside, || put(row, unit, chunks));
        });
    }

    /// Two chunks of a row that `lanes` lanes have together, rounded.
    fn rounded(&self, chunks: Chunks<'b>, lanes: u32) -> Chunks<'b> {
        let b = self.b();
        let values: [[Val<'b, F32>; 2]; 8] = std::array::from_fn(|i| b.unpack_bf16(chunks[i / 4][i % 4]));
        let values = b.round_e4m3::<16>(std::array::from_fn(|i| values[i / 2][i % 2]), lanes);
        let word = |i: usize| b.pack_bf16(values[2 * i], values[2 * i + 1]);
        [0, 4].map(|first: usize| std::array::from_fn(|i| word(first + i)))
    }

    /// Puts zeros into the rows of queries from `first` on.
    pub(super) fn clear_queries(&self, first: Val<'b, I32>) {
        let b = self.b();
        let chunks = self.head_dim / 8;
        b.for_(b.special(Special::ThreadX), self.queries.rows * chunks, b.threads(), (), |at, ()| {
            let (row, chunk) = (at / chunks, at % chunks);
            b.if_(first.le(row), || {
                let to = self.queries_at.at_bytes(self.queries.offset(row, chunk));
                to.cast::<I32>().store_vector(b.vector([b.value(0); 4]));
            });
        });
    }

    /// Puts eight elements of a query, from `first` of row `row` on, where products read them. A barrier has to follow.
    pub(super) fn put_query(&self, row: Val<'b, I32>, first: Val<'b, I32>, elements: [Val<'b, F32>; 8]) {
        let b = self.b();
        let [l, m, r, s] = [0, 2, 4, 6].map(|i: usize| b.pack_bf16(elements[i], elements[i + 1]));
        let chunk = first / 8;
        let to = |at: Val<'b, I32>| self.queries_at.at_bytes(at).cast::<I32>();
        if self.scales.is_none() {
            return to(self.queries.offset(row, chunk)).store_vector(b.vector([l, m, r, s]));
        }
        // Half of each of the two chunks that its pair becomes.
        let left = self.queries.offset(row, chunk & -2);
        for (at, words) in [left, left ^ CHUNK].into_iter().zip(self.arranged_chunk([l, m, r, s])) {
            to(at + (chunk & 1) * (CHUNK / 2)).store_vector(b.vector(words));
        }
    }

    /// Looks up the pages of which this thread copies keys and values at positions `first..`; the last one of their scales, if
    /// there are any.
    pub(super) fn look_up(&self, a: &Attention, keys: &Keys<'b>, first: Val<'b, I32>) -> Vec<Val<'b, I32>> {
        let (row, _, step) = self.place(self.keys, self.key_bytes, self.team);
        let rows = rounds_of_a_page(a.page_tokens, self.keys.rows, step) * step;
        let of_rows = (0..self.keys.rows).step_by(rows as usize).map(|on| first + row + on);
        let of_scales = self.scales.map(|_| first + self.scales_from());
        of_rows.chain(of_scales).map(|position| keys.number(a, position.min(keys.last))).collect()
    }

    /// Starts to copy the keys and values at positions `first..`, of `pages` that were looked up for them, into the stage at
    /// `stage`; `first` is a multiple of the tile's rows. Rows of positions that are not there become zeros; their addresses are
    /// formed and not read.
    pub(super) fn load_keys(
        &self,
        a: &Attention,
        keys: &Keys<'b>,
        stage: Val<'b, I32>,
        (first, pages): (Val<'b, I32>, &[Val<'b, I32>]),
    ) {
        let bytes = self.key_bytes;
        let (row, chunk, step) = self.place(self.keys, bytes, self.team);
        let targets = self.targets(self.keys, bytes, self.team);
        let rounds = rounds_of_a_page(a.page_tokens, self.keys.rows, step);
        let to = self.stages.at_bytes(stage);
        self.within(self.keys, bytes, self.team, chunk, || {
            for (j, (targets, &page)) in (0u32..).zip(targets.chunks(rounds as usize).zip(pages)) {
                let position = first + row + j * rounds * step;
                let slot = position.min(keys.last) % a.page_tokens;
                let key = keys.page(a, page).0.at(slot * (bytes / 2) + chunk * (CHUNK / 2));
                // Values are behind the keys of all heads.
                let value =
                    key.at64(self.b().value(i64::from(a.kv_heads) * i64::from(a.page_tokens * bytes / 2)));
                for (i, &target) in (0u32..).zip(targets) {
                    let inside = (position + i * step).lt(keys.to);
                    let (to, on) = (to.at_bytes(target), i * step * (bytes / 2));
                    self.b().cp_async_or_zero(to, key.at(on), inside);
                    self.b().cp_async_or_zero(to.at_bytes(self.keys.bytes()), value.at(on), inside);
                }
            }
        });
        if let (Some(scales), Some(&page)) = (self.scales, pages.last()) {
            self.load_scales(a, keys, scales.at_bytes(self.scales_of(stage)), (first, page));
        }
    }

    /// Products of this warp's rows of queries, from `first_row` of the tile on, with the keys in `stage`: `[m16 tile][n8 tile]`.
    pub(super) fn products(&self, first_row: Val<'b, I32>, row_tiles: u32, stage: Val<'b, I32>) -> Sums<'b> {
        if let Some(scales) = self.scales {
            let scales = scales.at_bytes(self.scales_of(stage));
            return self.products_of_codes(first_row, row_tiles, stage, scales);
        }
        let b = self.b();
        let (lane, _) = b.lane_and_warp();
        // Queries: matrices (rows 0-7, k 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (rows 8-15, k 8-15).
        let query = self.queries.offset(first_row + (lane & 15), lane >> 4);
        // Keys: matrices (keys 0-7, k 0-7), (keys 0-7, k 8-15), (keys 8-15, k 0-7), (keys 8-15, k 8-15).
        let key = self.keys.offset((lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1) + stage;
        let mut sums = vec![vec![[b.value(0.0f32); 4]; (self.keys.rows / 8) as usize]; row_tiles as usize];
        for step in 0..self.head_dim / 16 {
            // Two chunks on along k: no carry, for a step's first chunk is even.
            let on = step * 2 * CHUNK;
            let query = self.queries_at.at_bytes(query ^ on);
            let rows: Vec<_> = (0..row_tiles)
                .map(|m| b.ldmatrix(query.at_bytes(m * 16 * self.queries.row_bytes), false))
                .collect();
            let key = self.stages.at_bytes(key ^ on);
            for pair in 0..self.keys.rows / 16 {
                let [k0, k1, k2, k3] = b.ldmatrix(key.at_bytes(pair * 16 * self.keys.row_bytes), false);
                for (sums, &a) in sums.iter_mut().zip(&rows) {
                    for (n, columns) in [(2 * pair, [k0, k1]), (2 * pair + 1, [k2, k3])] {
                        sums[n as usize] = b.mma_bf16(a, columns, sums[n as usize]);
                    }
                }
            }
        }
        sums
    }

    /// `values + weights v` with the values in `stage`; `weights` as [`Tiles::products`] gives them, `values`
    /// `[m16 tile][n8 tile of the head]`.
    pub(super) fn weigh(&self, weights: &Sums<'b>, mut values: Sums<'b>, stage: Val<'b, I32>) -> Sums<'b> {
        if let Some(scales) = self.scales {
            return self.weigh_codes(weights, values, stage, scales.at_bytes(self.scales_of(stage)));
        }
        let b = self.b();
        let (lane, _) = b.lane_and_warp();
        // Transposed matrices (keys 0-7, d 0-7), (keys 8-15, d 0-7), (keys 0-7, d 8-15), (keys 8-15, d 8-15).
        let value = self.keys.offset(lane & 15, lane >> 4) + stage;
        let values_at = self.stages.at_bytes(self.keys.bytes());
        for step in 0..(self.keys.rows / 16) as usize {
            // A lane holds of the sums of two n8 tiles just what it has to hold of 16 columns of a first operand.
            let rows: Vec<[Val<'b, I32>; 4]> = weights
                .iter()
                .map(|w| {
                    let [left, right] = [w[2 * step], w[2 * step + 1]];
                    let pack = |low: Val<'b, F32>, high| b.pack_bf16(low, high);
                    [
                        pack(left[0], left[1]),
                        pack(left[2], left[3]),
                        pack(right[0], right[1]),
                        pack(right[2], right[3]),
                    ]
                })
                .collect();
            for pair in 0..self.head_dim / 16 {
                let value = values_at.at_bytes(value ^ (pair * 2 * CHUNK));
                let [v0, v1, v2, v3] =
                    b.ldmatrix(value.at_bytes(step as u32 * 16 * self.keys.row_bytes), true);
                for (values, &a) in values.iter_mut().zip(&rows) {
                    for (n, columns) in [(2 * pair, [v0, v1]), (2 * pair + 1, [v2, v3])] {
                        values[n as usize] = b.mma_bf16(a, columns, values[n as usize]);
                    }
                }
            }
        }
        values
    }
}

/// Rounds of `step` rows each for which one look at the block table is enough: a tile of `keys` rows begins at a
/// multiple of them, so it is cut by the bounds of pages into runs of as many rows as divide both.
fn rounds_of_a_page(page_tokens: u32, keys: u32, step: u32) -> u32 {
    let run = (1..=keys).rev().find(|n| page_tokens.is_multiple_of(*n) && keys.is_multiple_of(*n));
    run.filter(|n| n.is_multiple_of(step)).map_or(1, |n| n / step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_look_up_lie_in_one_page() {
        for (page, wanted) in [(64, 8), (128, 8), (32, 4), (16, 2), (24, 1), (8, 1), (1, 1), (96, 4), (7, 1)]
        {
            let (keys, step) = (64, 8);
            let rounds = rounds_of_a_page(page, keys, step);
            assert_eq!(rounds, wanted, "pages of {page}");
            for first in (0..4 * page * keys).step_by(keys as usize) {
                for group in (0..keys / step).step_by(rounds as usize) {
                    let page_of = |row: u32, i: u32| (first + (group + i) * step + row) / page;
                    assert!((0..step).all(|row| (0..rounds).all(|i| page_of(row, i) == page_of(row, 0))));
                }
            }
        }
    }
}
