//! Activations in the order in which kernels read them: tiles of tokens, inputs outermost.
//!
//! A step's tokens are cut into tiles of nearly equal size, at most the kernel's; within a tile the elements of one
//! input (or pair of inputs) for all tokens lie together: `[tile][input][token]`.

use crate::device::host::elem::{Elem, Floats, sum_by, typed};
use crate::device::host::isa::{Isa, per_isa};
use half::bf16;
use std::ops::Range;

/// How many tokens each tile has.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    tokens: usize,
    count: usize,
}

impl Tiles {
    /// Cuts `tokens` into tiles of at most `most`.
    pub fn new(tokens: usize, most: usize) -> Tiles {
        Tiles { tokens, count: tokens.div_ceil(most).max(1) }
    }

    /// Number of tiles.
    pub fn count(self) -> usize {
        self.count
    }

    /// First token and number of tokens of a tile.
    pub fn get(self, tile: usize) -> (usize, usize) {
        let (small, larger) = (self.tokens / self.count, self.tokens % self.count);
        (tile * small + tile.min(larger), small + usize::from(tile < larger))
    }
}

/// Packs some inputs of one tile of bf16 rows of `k`, from an even one on, as `[pair][token]`; what the output has
/// beyond them becomes 0. Sums of the rows over these inputs go to `sums` if it has places for the tokens.
///
/// Words are moved one by one in portable code: AVX-512 would make scatters of them, which are slower.
pub fn pack_pairs(isa: Isa, x: &[bf16], k: usize, inputs: Range<usize>, out: &mut [u32], sums: &mut [f32]) {
    let tokens = x.len() / k;
    for (t, row) in x.chunks_exact(k).enumerate() {
        let row = &row[inputs.clone()];
        let mut columns = out.chunks_exact_mut(tokens);
        let (pairs, odd) = row.as_chunks::<2>();
        for (&[low, high], column) in pairs.iter().zip(&mut columns) {
            column[t] = word(low, high);
        }
        if let &[last] = odd
            && let Some(column) = columns.next()
        {
            column[t] = word(last, bf16::ZERO);
        }
        columns.for_each(|column| column[t] = 0);
        if let Some(sum) = sums.get_mut(t) {
            *sum = sum_row(isa, row);
        }
    }
}

per_isa! {
    /// The sum of a row.
    fn sum_row<>(row: &[bf16]) -> f32 = sum_body
}

#[inline(always)]
fn sum_body<const FMA: bool>(row: &[bf16]) -> f32 {
    sum_by(row, |sum, v| sum + v)
}

fn word(low: bf16, high: bf16) -> u32 {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
}

/// Packs one tile of rows of `k` as f32 `[input][token]`; inputs from `k` on are 0.
pub fn pack_f32(x: Floats<'_>, from: usize, tokens: usize, k: usize, out: &mut [f32]) {
    typed!(x = x => {
        for (t, row) in x[from * k..(from + tokens) * k].chunks_exact(k).enumerate() {
            for (v, column) in row.iter().zip(out.chunks_exact_mut(tokens)) {
                column[t] = v.get();
            }
        }
    });
    out[k * tokens..].fill(0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_tokens_evenly() {
        for tokens in 1..200 {
            for most in [4, 6, 12] {
                let tiles = Tiles::new(tokens, most);
                let mut next = 0;
                let (mut least, mut greatest) = (usize::MAX, 0);
                for i in 0..tiles.count() {
                    let (from, n) = tiles.get(i);
                    assert_eq!(from, next);
                    next += n;
                    (least, greatest) = (least.min(n), greatest.max(n));
                }
                assert_eq!(next, tokens);
                assert!(greatest <= most && greatest - least <= 1 && least > 0);
            }
        }
    }

    #[test]
    fn pairs_are_padded() {
        let x: Vec<bf16> = (0..10).map(|i| bf16::from_f32(i as f32 + 1.0)).collect();
        let (mut out, mut sums) = ([u32::MAX; 8], [f32::NAN; 2]);
        pack_pairs(Isa::detect(), &x, 5, 0..5, &mut out, &mut sums);
        assert_eq!(sums, [15.0, 40.0]);
        let get = |w: u32| (bf16::from_bits(w as u16).to_f32(), bf16::from_bits((w >> 16) as u16).to_f32());
        assert_eq!(out.map(get)[..4], [(1.0, 2.0), (6.0, 7.0), (3.0, 4.0), (8.0, 9.0)]);
        assert_eq!(out.map(get)[4..], [(5.0, 0.0), (10.0, 0.0), (0.0, 0.0), (0.0, 0.0)]);
    }
}
