//! Activations in the order in which kernels read them: tiles of tokens, inputs outermost.
//!
//! A step's tokens are cut into tiles of nearly equal size, at most the kernel's; within a tile the elements of one
//! input (or pair of inputs) for all tokens lie together: `[tile][input][token]`.

use crate::device::host::elem::{Elem, Floats, sum_by, typed};
use half::bf16;

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

/// Packs one tile of bf16 rows of `k` as `[pair][token]`, `pairs` of them; inputs from `k` on are 0.
pub fn pack_pairs(x: &[bf16], k: usize, pairs: usize, out: &mut [u32]) {
    let tokens = x.len() / k;
    for (t, row) in x.chunks_exact(k).enumerate() {
        let mut columns = out.chunks_exact_mut(tokens);
        let mut halves = row.chunks_exact(2);
        for (h, column) in (&mut halves).zip(&mut columns) {
            column[t] = word(h[0], h[1]);
        }
        let mut used = k / 2;
        if let &[last] = halves.remainder()
            && let Some(column) = columns.next()
        {
            column[t] = word(last, bf16::ZERO);
            used += 1;
        }
        columns.take(pairs - used).for_each(|column| column[t] = 0);
    }
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

/// Sums of each row over each group of inputs: `[group][token]`.
pub fn group_sums(x: &[bf16], k: usize, group: usize, out: &mut [f32]) {
    let tokens = x.len() / k;
    for (t, row) in x.chunks_exact(k).enumerate() {
        for (inputs, sums) in row.chunks(group).zip(out.chunks_exact_mut(tokens)) {
            sums[t] = sum_by(inputs, |sum, v| sum + v);
        }
    }
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
        let mut out = [u32::MAX; 8];
        pack_pairs(&x, 5, 4, &mut out);
        let get = |w: u32| (bf16::from_bits(w as u16).to_f32(), bf16::from_bits((w >> 16) as u16).to_f32());
        assert_eq!(out.map(get)[..4], [(1.0, 2.0), (6.0, 7.0), (3.0, 4.0), (8.0, 9.0)]);
        assert_eq!(out.map(get)[4..], [(5.0, 0.0), (10.0, 0.0), (0.0, 0.0), (0.0, 0.0)]);
    }
}
