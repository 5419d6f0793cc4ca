//! What a warpgroup of [`super::WgmmaAttention`] does with an item where queries, weights, keys and values are all codes of e4m3.
//!
//! With `c` the codes of values and `v` the logarithm of a value's scale to base 2, the values that keys j give are
//! `sum 2^(s_j - l) 2^v_j c_j`. What is rounded to e4m3 is `2^(s_j + v_j - m)`, with m the greatest of these exponents so far less
//! [`RAISED`]: small values with large weights, as those of first tokens often are, do not take the range from others. The weights
//! themselves are summed in f32, before they are rounded, but for the inverses of their values' scales, which are bf16. The products of each tile are added in f32 by themselves: tensor cores keep
//! some 14 bits of sums of codes, and cut off.
//!
//! Products take half as long as those of 16 bits do, and a softmax as long as ever, so warpgroups neither take turns nor make the one
//! beside the other: three of them, with few registers each, hide what each waits for.

use super::super::attention::NONE;
use super::consumer::{Rows, STEP, Softmax, Sums, Words, in_two};
use super::work::Item;
use super::{COLUMNS, Params, Smem, Stage, WgmmaAttention};
use crate::builder::{Bf16, Builder, F32, I32, SharedPtr, Smem as Layout, Val, WgmmaA, WgmmaType};
use crate::tile::Tile;

/// log2 of 448, the greatest number of e4m3, which the greatest weight of a row becomes: so it is not rounded. Sums of weights are multiplied
/// by as much, so it cancels.
const RAISED: f32 = 8.807_355;

/// What the weights of a tile are made with, in shared memory: of two keys each their scales and the logarithms of those of their values, and
/// behind these of each two keys a word with the inverses of those of their values, in bf16. Every thread of every warp reads all that its
/// columns need, and the bandwidth of shared memory is what this kernel has the least of: so few words.
#[derive(Clone, Copy)]
pub(super) struct Factors<'b> {
    all: SharedPtr<'b, F32>,
    /// Keys of a tile.
    keys: u32,
}

impl<'b> Factors<'b> {
    /// Words of two keys.
    pub(super) const OF_TWO_KEYS: u32 = 5;

    /// Those of the tile of values in a stage.
    pub(super) fn of(value: Stage<'b>, keys: u32) -> Factors<'b> {
        Factors { all: value.scales, keys }
    }

    /// Stores those of key `key`. By all lanes, with keys that follow one another.
    pub(super) fn put(self, key: Val<'b, I32>, [of_key, logarithm, inverse]: [Val<'b, F32>; 3]) {
        let two = self.all.at((key / 2) * 4 + key % 2);
        two.store(of_key);
        two.at(2).store(logarithm);
        // The lower half of a word is the first key's inverse, rounded. The word as it is is the second's: its upper half is rounded with what
        // the lower one adds.
        let bits = inverse.bitcast::<I32>();
        let low = self.all.builder().shuffle_xor((bits + 0x8000) >> 16, 1);
        let word = ((bits - low + 0x8000) & -0x1_0000) | low;
        let second = (key & 1).ne(0);
        self.all.builder().if_(second, || self.inverses().at(key / 2).store(word));
    }

    /// The inverses, two in each word.
    fn inverses(self) -> SharedPtr<'b, I32> {
        self.all.at(2 * self.keys).cast()
    }

    /// Of this thread's two columns of the `n`-th eight the scales of keys, and the logarithms.
    fn of_eight(self, n: u32) -> [Val<'b, F32>; 4] {
        let (lane, _) = self.all.builder().lane_and_warp();
        self.all.at((lane & 3) * 4).at(16 * n).load_vector::<4>().elements()
    }

    /// The inverses of the same.
    fn inverses_of_eight(self, n: u32) -> [Val<'b, F32>; 2] {
        let (lane, _) = self.all.builder().lane_and_warp();
        let word = self.inverses().at(lane & 3).at(4 * n).load();
        [(word << 16).bitcast(), word.bitcast()]
    }
}

impl WgmmaAttention {
    /// One item, of the `number`-th tile of queries, over tiles `first..end` of keys, the `count`-th ones and those that follow.
    pub(super) fn work_on_codes<'b>(
        &self,
        b: &'b Builder,
        params: &Params<'b>,
        smem: &Smem<'b>,
        (item, first, end): (&Item<'b>, Val<'b, I32>, Val<'b, I32>),
        (queries, number, count): (Stage<'b>, Val<'b, I32>, Val<'b, I32>),
        group: Val<'b, I32>,
    ) {
        let (keys, own) = (self.tiling().keys, queries.tile.at_bytes(group * self.bytes_of_group()));
        let powers = self.make_queries(b, own, group);
        let Rows { factors, positions, .. } = self.rows(b, item, group, powers);
        // What an item says is read again where it is used, for registers.
        let again = || Item::load(self.place_of_item(smem, number));
        let nothing = vec![b.value(0.0f32); self.0.head_dim as usize / 2];
        let none = [[b.value(NONE), b.value(0.0f32)]; 2];
        let last = (count + end - 1) * keys;
        let state = b.for_(count, count + end - first, 1, (none, nothing), |tile, (softmax, values)| {
            let (key, value) = (smem.keys.stage(tile), smem.values.stage(tile));
            key.wait_full();
            let registers = b.wgmma_fence_on(&vec![b.value(0.0f32); keys as usize / 2]);
            let products = self.scores(b, own, key.tile, &registers);
            b.wgmma_commit();
            let products = b.wgmma_wait(0, &products);
            key.release();
            value.wait_full();
            let first = last - tile * keys;
            let soften = |rows: Option<Rows<'b>>| {
                let mask = rows.map(|rows| (rows, first));
                let of_keys = Factors::of(value, keys);
                let exponents = self.exponents(b, factors, &products, of_keys, mask);
                weights_of(b, softmax, exponents, of_keys)
            };
            let (softmax, old, weights) = b.if_else(
                self.hides(positions, first),
                || soften(Some(self.rows(b, &again(), group, powers))),
                || soften(None),
            );
            let values = self.add_values(b, &weights, value, &values, old);
            value.release();
            (softmax, values)
        });
        self.store(b, params, &again(), state, own, group);
        queries.release();
    }

    /// Puts a warpgroup's results, whose columns are turned as values are, 16 at a time first the even ones, in order into the tile at `own`,
    /// of which each 64 columns lie together.
    pub(super) fn put_in_order<'b>(
        &self,
        b: &'b Builder,
        values: &Sums<'b>,
        (own, tile): (SharedPtr<'b, Bf16>, Tile),
    ) {
        let (lane, warp) = b.lane_and_warp();
        let q = lane & 3;
        let (sixteens, _) = values.as_chunks::<8>();
        for (n, [e0, e1, e2, e3, o0, o1, o2, o3]) in (0u32..).zip(sixteens) {
            // A thread has columns 4 q to 4 q + 3 of both rows.
            for (h, [a, c, d, e]) in [(0, [e0, o0, e1, o1]), (1, [e2, o2, e3, o3])] {
                let row = (warp & 3) * 16 + (lane >> 2) + h * 8;
                let chunk = (q >> 1) + n % 4 * 2;
                let at = tile.offset(row, chunk) + (q & 1) * 8 + n / 4 * tile.bytes();
                let words = [b.pack_bf16(*a, *c), b.pack_bf16(*d, *e)];
                own.at_bytes(at).cast::<I32>().store_vector(b.vector(words));
            }
        }
    }

    /// Logarithms of weights times their values' scales, to base 2, of a thread's two rows. With `mask`, the position of the first
    /// key in it, those of keys that a row does not see are below all others.
    fn exponents<'b>(
        &self,
        b: &'b Builder,
        by: [Val<'b, F32>; 2],
        products: &Sums<'b>,
        of_keys: Factors<'b>,
        mask: Option<(Rows<'b>, Val<'b, I32>)>,
    ) -> [Sums<'b>; 2] {
        let mut exponents = [Sums::new(), Sums::new()];
        let (eights, _) = products.as_chunks::<4>();
        for (n, eight) in (0u32..).zip(eights) {
            let factors = of_keys.of_eight(n);
            for (j, product) in eight.iter().enumerate() {
                let (h, column) = (j / 2, j % 2);
                let (score, logarithm) = (*product * factors[column], factors[2 + column]);
                let exponent = match self.0.softcap {
                    None => score.fma(by[h], logarithm),
                    Some(_) => self.0.capped(score * by[h]) + logarithm,
                };
                // Those of hidden keys may be no numbers.
                exponents[h].push(match &mask {
                    None => exponent,
                    Some((rows, first)) => self
                        .hidden(b, rows, *first, 8 * n + column as u32, h)
                        .select(f32::NEG_INFINITY, exponent),
                });
            }
        }
        exponents
    }

    /// `values * old + weights v`, part by part.
    fn add_values<'b>(
        &self,
        b: &'b Builder,
        weights: &Words<'b>,
        value: Stage<'b>,
        values: &Sums<'b>,
        old: [Val<'b, F32>; 2],
    ) -> Sums<'b> {
        let v = b.wgmma_descriptor(value.tile, Layout::Rows128);
        let (steps, _) = weights.as_chunks::<4>();
        let parts = (0i64..).zip(values.chunks(COLUMNS as usize / 2));
        let parts = parts.map(|(part, values)| {
            let v = v + part * i64::from(COLUMNS * self.tiling().keys / 16);
            let sums = b.wgmma_fence_on(&vec![b.value(0.0f32); values.len()]);
            let sums = (0i64..).zip(steps).fold(sums, |sums, (s, &words)| {
                b.wgmma(WgmmaType::E4m3, &sums, WgmmaA::Registers(words), v + s * STEP, s != 0)
            });
            b.wgmma_commit();
            let sums = b.wgmma_wait(0, &sums);
            let both = values.iter().zip(sums).enumerate();
            both.map(|(j, (value, sum))| value.fma(old[j / 2 % 2], sum)).collect::<Sums<'b>>()
        });
        parts.flatten().collect()
    }
}

/// The new softmax, the factors on sums so far, and codes of weights, the first operand of a product: of 32 keys a thread has
/// those in the order in which values are turned (`wgmma_attention/transposer.rs`).
fn weights_of<'b>(
    b: &'b Builder,
    softmax: Softmax<'b>,
    exponents: [Sums<'b>; 2],
    of_keys: Factors<'b>,
) -> (Softmax<'b>, [Val<'b, F32>; 2], Words<'b>) {
    let most = [0, 1].map(|h: usize| {
        let own = in_two(exponents[h].iter().copied(), |a, b| a.max(b));
        softmax[h][0].max(b.max_lanes(own, 4))
    });
    let old = [0, 1].map(|h: usize| (softmax[h][0] - most[h]).exp2_flush());
    let base = most.map(|most| b.value(RAISED) - most);
    let mut sums = [0, 1].map(|h: usize| softmax[h][1] * old[h]);
    let mut weights = Words::new();
    let (upper, lower) = (exponents[0].as_chunks::<4>().0, exponents[1].as_chunks::<4>().0);
    for (n, rows) in (0u32..).zip(upper.iter().zip(lower)) {
        // Two columns of each of two eights.
        let [left, right] = [0, 1].map(|i| of_keys.inverses_of_eight(2 * n + i));
        let inverses = [left[0], left[1], right[0], right[1]];
        for (h, exponents) in [rows.0, rows.1].into_iter().enumerate() {
            let raised = exponents.map(|e| (e + base[h]).exp2_flush());
            for (w, inverse) in raised.into_iter().zip(inverses) {
                sums[h] = w.fma(inverse, sums[h]);
            }
            weights.push(b.to_e4m3(raised));
        }
    }
    ([0, 1].map(|h: usize| [most[h], sums[h]]), old, weights)
}
