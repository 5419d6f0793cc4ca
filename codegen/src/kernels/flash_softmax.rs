//! The softmax that is kept up while a warp goes over tiles of keys, as [`super::flash_attention`] and
//! [`super::decode_attention`] do. With S the products of a tile, m the greatest of a row so far, l its sum of weights, O
//! its weighted values, and f the factor that makes products scores in units of ln 2:
//!
//! ```text
//! m' = max(m, max S)   P = 2^(f S - f m')   l' = l 2^(f m - f m') + sum P   O' = O 2^(f m - f m') + P V
//! ```

use super::attention::{Attention, NONE};
use super::flash_tiles::Tiles;
use super::fragments::Sums;
use crate::builder::{Builder, F32, I32, Val};

/// m and l of the two rows that a lane has of an m16 tile; of l the part of the lane's own columns.
pub(super) type Softmax<'b> = [[Val<'b, F32>; 2]; 2];

/// What a warp carries from one tile of keys to the next: softmax and weighted values of its m16 tiles.
pub(super) type State<'b> = (Vec<Softmax<'b>>, Sums<'b>);

/// A warp's rows of the tile of queries.
pub(super) struct WarpRows<'b> {
    /// The first one.
    pub(super) first: Val<'b, I32>,
    /// Of each m16 tile, for this lane's two rows: the last position that is seen less the lane's first column.
    pub(super) sees: Vec<[Val<'b, I32>; 2]>,
    /// Least and greatest position of the block's rows.
    pub(super) positions: [Val<'b, I32>; 2],
}

impl Attention {
    /// The state before the first tile, for `row_tiles` m16 tiles.
    pub(super) fn nothing_seen<'b>(&self, b: &'b Builder, row_tiles: u32) -> State<'b> {
        let zero = b.value(0.0f32);
        (
            vec![[[b.value(NONE), zero]; 2]; row_tiles as usize],
            vec![vec![[zero; 4]; (self.head_dim / 8) as usize]; row_tiles as usize],
        )
    }

    /// Takes in the tile of keys and values in `stage`, whose first key is at position `key`.
    pub(super) fn see<'b>(
        &self,
        (softmax, values): State<'b>,
        tiles: &Tiles<'b>,
        stage: Val<'b, I32>,
        key: Val<'b, I32>,
        rows: &WarpRows<'b>,
    ) -> State<'b> {
        let b = key.builder();
        let mut products = tiles.products(rows.first, softmax.len() as u32, stage);
        if self.softcap.is_some() {
            let all = products.iter_mut().flatten().flatten();
            all.for_each(|s| *s = self.capped(*s * self.factor()));
        }
        let products = self.masked(b, products, key, rows);
        let (softmax, weights, values) = self.weights(b, softmax, products, values);
        (softmax, tiles.weigh(&weights, values, stage))
    }

    /// What m and products are multiplied by to be scores: without a cap that costs nothing, in the fma that the
    /// exponent takes anyway.
    pub(super) fn factor_after(&self) -> f32 {
        if self.softcap.is_some() { 1.0 } else { self.factor() }
    }

    /// Products with those of keys that a row does not see below all others; nothing is done where every row sees every
    /// key.
    fn masked<'b>(
        &self,
        b: &'b Builder,
        products: Sums<'b>,
        key: Val<'b, I32>,
        rows: &WarpRows<'b>,
    ) -> Sums<'b> {
        let keys = products[0].len() as u32 * 8;
        let [first, last] = rows.positions;
        let mut edge = first.lt(key + (keys - 1));
        if let Some(w) = self.window {
            edge = edge | (key + w).le(last);
        }
        let mask = || {
            let mut masked = products.clone();
            for (tiles, sees) in masked.iter_mut().zip(&rows.sees) {
                let sees = sees.map(|s| s - key);
                for (n, sums) in (0u32..).zip(tiles) {
                    for (i, s) in (0u32..).zip(sums) {
                        // Column 8 n + 2 (lane % 4) + i % 2 of row i / 2.
                        let (column, sees) = (8 * n + i % 2, sees[(i / 2) as usize]);
                        let mut hidden = sees.lt(column);
                        if let Some(w) = self.window {
                            hidden = hidden | b.value(column).le(sees - w);
                        }
                        *s = hidden.select(f32::NEG_INFINITY, *s);
                    }
                }
            }
            masked
        };
        b.if_else(edge, mask, || products.clone())
    }

    /// The new softmax, the weights P, and O in units of the new m.
    fn weights<'b>(
        &self,
        b: &'b Builder,
        softmax: Vec<Softmax<'b>>,
        mut products: Sums<'b>,
        mut values: Sums<'b>,
    ) -> (Vec<Softmax<'b>>, Sums<'b>, Sums<'b>) {
        let factor = self.factor_after();
        let mut next = Vec::with_capacity(softmax.len());
        for ((softmax, products), values) in softmax.into_iter().zip(&mut products).zip(&mut values) {
            next.push([0, 1].map(|h: usize| {
                let [most, sum] = softmax[h];
                let own = products.iter().flat_map(|s| &s[2 * h..2 * h + 2]);
                let new = most.max(b.max_lanes(own.fold(b.value(NONE), |m, &s| m.max(s)), 4));
                let old = ((most - new) * factor).exp2_flush();
                let base = -(new * factor);
                let mut sum = sum * old;
                for s in products.iter_mut().flat_map(|s| &mut s[2 * h..2 * h + 2]) {
                    *s = s.fma(factor, base).exp2_flush();
                    sum = sum + *s;
                }
                for v in values.iter_mut().flat_map(|v| &mut v[2 * h..2 * h + 2]) {
                    *v = *v * old;
                }
                [new, sum]
            }));
        }
        (next, products, values)
    }
}
