//! The end of a matrix product: scales, bias and residual on accumulators of `mma.m16n8`, rounding, and the store.

use super::fragments::Sums;
use super::gated_act::activate;
use super::operands::Scales;
use crate::builder::{Builder, F32, FloatPtr, I1, I32, Val};
use trtc_ir::ops::Act;

/// Sums of adjacent columns, and those of up if y is gated.
pub(super) type Halves<'b, const N: usize> = ([Val<'b, F32>; N], Option<[Val<'b, F32>; N]>);

/// What is added to the sums and where they go.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'b> {
    /// Columns of y.
    pub(super) n: u32,
    /// True if a tile can reach beyond column n.
    pub(super) ragged: bool,
    /// Rows of y.
    pub(super) m: Val<'b, I32>,
    /// `y = act(gate) * up`: sums come in pairs of halves, those of up belong to column + n of scales and bias.
    pub(super) gate: Option<Act>,
    /// What sums of 8-bit operands are multiplied by.
    pub(super) scales: Option<Scales<'b>>,
    /// `(n)`.
    pub(super) bias: Option<FloatPtr<'b>>,
    /// `(m, n)`.
    pub(super) residual: Option<FloatPtr<'b>>,
    /// `(m, n)`.
    pub(super) y: FloatPtr<'b>,
}

/// What the end of adjacent columns of a row reads.
#[derive(Clone, Copy)]
pub(super) struct Read<'b, const N: usize> {
    own: Part<'b, N>,
    /// Of up, if y is gated.
    up: Option<Part<'b, N>>,
    residual: Option<[Val<'b, F32>; N]>,
}

/// What rows of w have.
#[derive(Clone, Copy)]
struct Part<'b, const N: usize> {
    /// Times that of the row of x.
    scales: Option<[Val<'b, F32>; N]>,
    bias: Option<[Val<'b, F32>; N]>,
}

impl<'b, const N: usize> Part<'b, N> {
    /// Sums with their scales and bias.
    fn applied(&self, sums: [Val<'b, F32>; N]) -> [Val<'b, F32>; N] {
        let sums = self.scales.map_or(sums, |scales| std::array::from_fn(|i| sums[i] * scales[i]));
        self.bias.map_or(sums, |bias| std::array::from_fn(|i| sums[i] + bias[i]))
    }
}

impl<'b> Epilogue<'b> {
    /// `y[row, column] = sum + bias + residual` for a warp's tile that begins at `[row, column]`, rounded once. If y is gated
    /// the second half of the tile's columns is up.
    pub(super) fn store(&self, b: &'b Builder, sums: &Sums<'b>, [row, column]: [Val<'b, I32>; 2]) {
        let (lane, _) = b.lane_and_warp();
        // Of an accumulator tile a lane has columns 2q, 2q + 1 of rows g and g + 8.
        let (g, q) = (lane >> 2, lane & 3);
        let column = column + q * 2;
        let inside: Vec<Option<Val<'b, I1>>> = (0..(sums[0].len() / self.halves()) as u32)
            .map(|ni| self.ragged.then(|| (column + ni * 8).lt(self.n)))
            .collect();
        for (mi, tiles) in sums.iter().enumerate() {
            for half in 0..2 {
                let row = row + g + (mi as u32 * 16 + half * 8);
                b.if_(row.lt(self.m), || {
                    let at = row.to_i64() * i64::from(self.n) + column.to_i64();
                    let (y, residual) = (self.y.at64(at), self.residual.map(|r| r.at64(at)));
                    let pair = |ni: usize| [0, 1].map(|i| tiles[ni][2 * half as usize + i]);
                    let outputs = tiles.len() / self.halves();
                    for ni in 0..outputs {
                        let on = ni as u32 * 8;
                        let (at, up) = ([row, column + on], self.gate.map(|_| pair(ni + outputs)));
                        let write = || self.write(at, residual.map(|r| r.at(on)), y.at(on), pair(ni), up);
                        match inside[ni] {
                            None => write(),
                            Some(inside) => b.if_(inside, write),
                        }
                    }
                });
            }
        }
    }

    /// Parts of w that an output needs.
    fn halves(&self) -> usize {
        if self.gate.is_some() { 2 } else { 1 }
    }

    /// The same for two columns of a row.
    pub(super) fn store_pair(&self, [row, column]: [Val<'b, I32>; 2], sum: [Val<'b, F32>; 2]) {
        let at = row.to_i64() * i64::from(self.n) + column.to_i64();
        self.write([row, column], self.residual.map(|r| r.at64(at)), self.y.at64(at), sum, None);
    }

    /// The place itself, or the nearest for which there are `columns` elements of y.
    pub(super) fn nearest(
        &self,
        [row, column]: [Val<'b, I32>; 2],
        columns: u32,
    ) -> (Val<'b, I32>, Val<'b, I32>) {
        let column = if self.ragged { column.min(self.n - columns) } else { column };
        (row.min(self.m - 1), column)
    }

    /// Reads what adjacent columns of a row, which exist, need but their sums.
    pub(super) fn read<const N: usize>(&self, [row, column]: [Val<'b, I32>; 2]) -> Read<'b, N> {
        let at = row.to_i64() * i64::from(self.n) + column.to_i64();
        self.read_with([row, column], self.residual.map(|residual| residual.at64(at)))
    }

    /// The same, with the place of their residual.
    fn read_with<const N: usize>(
        &self,
        [row, column]: [Val<'b, I32>; 2],
        residual: Option<FloatPtr<'b>>,
    ) -> Read<'b, N> {
        Read {
            own: self.read_part([row, column]),
            up: self.gate.map(|_| self.read_part([row, column + self.n])),
            residual: residual.map(FloatPtr::load),
        }
    }

    fn read_part<const N: usize>(&self, [row, column]: [Val<'b, I32>; 2]) -> Part<'b, N> {
        Part {
            scales: self.scales.map(|scales| scales.at([row, column])),
            bias: self.bias.map(|bias| bias.at(column).load()),
        }
    }

    /// Those columns, from their sums and, if y is gated, those of up.
    fn value<const N: usize>(&self, read: &Read<'b, N>, (sums, up): Halves<'b, N>) -> [Val<'b, F32>; N] {
        let value = read.own.applied(sums);
        let value = match (self.gate, &read.up, up) {
            (Some(act), Some(of_up), Some(up)) => {
                let up = of_up.applied(up);
                std::array::from_fn(|i| activate(act, value[i]) * up[i])
            }
            _ => value,
        };
        read.residual.map_or(value, |more| std::array::from_fn(|i| value[i] + more[i]))
    }

    /// Stores adjacent columns of a row, if they exist, of which everything else has been read.
    pub(super) fn store_read<const N: usize>(
        &self,
        b: &'b Builder,
        [row, column]: [Val<'b, I32>; 2],
        read: &Read<'b, N>,
        sums: Halves<'b, N>,
    ) {
        let value = self.value(read, sums);
        let inside = row.lt(self.m);
        let inside = if self.ragged { inside & column.lt(self.n) } else { inside };
        let at = row.to_i64() * i64::from(self.n) + column.to_i64();
        b.if_(inside, || self.y.at64(at).store(value));
    }

    /// The same for `N` columns of several rows, each with the sums of up if y is gated. Everything is read before anything is stored, so that the loads are
    /// under way together.
    pub(super) fn store_rows<const N: usize>(
        &self,
        b: &'b Builder,
        rows: &[Val<'b, I32>],
        column: Val<'b, I32>,
        sums: Vec<Halves<'b, N>>,
    ) {
        let read = |&row: &Val<'b, I32>| {
            let (row, column) = self.nearest([row, column], N as u32);
            self.read([row, column])
        };
        let all: Vec<Read<'b, N>> = rows.iter().map(read).collect();
        for ((&row, read), sums) in rows.iter().zip(&all).zip(sums) {
            self.store_read(b, [row, column], read, sums);
        }
    }

    /// Stores a pair at `y`.
    fn write(
        &self,
        at: [Val<'b, I32>; 2],
        residual: Option<FloatPtr<'b>>,
        y: FloatPtr<'b>,
        sums: [Val<'b, F32>; 2],
        up: Option<[Val<'b, F32>; 2]>,
    ) {
        y.store(self.value(&self.read_with(at, residual), (sums, up)));
    }
}
