//! `y = x / sqrt(mean(x^2) + eps) * (w + offset)` over rows, and the same with a residual sum in front of it:
//! `h = x + r`, `y = rms_norm(h)`.
//!
//! One block a row. The row is read once and stays in registers, 8 elements a thread and round; the sum of squares is a
//! tree over lanes, then over warps, in f32. y may be e4m3, with a scale for each row.

use super::block_row::{BlockRow, Part, RowsOut};
use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Builder, Special};
use trtc_ir::DType;

/// Most rounds over a row.
const ROUNDS: u32 = 8;
/// Most threads of a block, and most for rows of up to [`SHORT`] elements.
const THREADS: [u32; 2] = [512, 256];
/// Elements of a row that few threads have registers for.
const SHORT: u32 = 8192;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// Elements of a row.
    pub width: u32,
    /// Rows for each counted row: heads of a per-head norm.
    pub per_row: u32,
    /// What is counted.
    pub rows: Count,
    /// Element type of x.
    pub x: DType,
    /// Residual, if there is one.
    pub residual: Option<Residual>,
    /// Element type of the weight.
    pub weight: DType,
    /// Element type of y; e4m3 has a scale for each row.
    pub out: DType,
    /// Added to the mean of squares.
    pub eps: f32,
    /// Added to the weight.
    pub offset: f32,
}

/// The sum in front of the norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Residual {
    /// Element type of r.
    pub dtype: DType,
    /// Element type of h; y is the norm of h as it is stored.
    pub sum: DType,
}

impl RmsNorm {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        if self.out == DType::F8E4M3 && self.per_row != 1 {
            return Some(format!("{} normalised rows share a scale", self.per_row));
        }
        BlockRow::unsupported(self.width, THREADS[0], ROUNDS)
    }

    /// Enough threads for one vector each, at most one of [`THREADS`].
    fn row(&self) -> BlockRow {
        BlockRow {
            width: self.width,
            threads: (self.width / BlockRow::VEC)
                .next_multiple_of(32)
                .min(THREADS[usize::from(self.width <= SHORT)]),
        }
    }

    /// Geometry. Arguments: `[x, weight, y]`, or with a residual `[x, r, weight, h, y]`.
    pub fn launch(&self) -> Launch {
        let mut args = vec![ArgKind::Pointer; if self.residual.is_some() { 4 } else { 2 }];
        args.push(RowsOut::arg(self.out));
        let grid = grid_of(Extent { of: self.rows, div: 1, plus: None, mul: self.per_row });
        Launch::new(grid, self.row().threads, args)
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let x = b.param_floats(self.x);
        let residual = self.residual.map(|r| (b.param_floats(r.dtype), r.sum));
        let weight = b.param_const_floats(self.weight);
        let sum = residual.map(|(r, sum)| (r, b.param_floats(sum)));
        let y = RowsOut::param(b, self.out);
        b.param_dims_early();
        // No launch writes the weight: it comes while the launch before this one ends.
        let weights: Vec<Part<'_>> = self
            .row()
            .columns(b)
            .into_iter()
            .map(|column| {
                column.read(b, || {
                    let w: Part<'_> = weight.at(column.at).load();
                    if self.offset == 0.0 { w } else { w.map(|w| w + self.offset) }
                })
            })
            .collect();
        b.after_grids();

        let block = b.special(Special::BlockX);
        let row = block.to_i64() * b.value(i64::from(self.width));
        let (x, y) = (x.at64(row), y.row(block, self.width));
        let sum = sum.map(|(r, h)| (r.at64(row), h.at64(row)));

        // v: this thread's part of the row, of h as it is stored if there is a residual; ss: its sum of squares.
        let mut parts = Vec::new();
        let mut squares = b.value(0.0f32);
        for column in self.row().columns(b) {
            let v: Part<'_> = column.read(b, || {
                let v = x.at(column.at).load();
                let Some((r, h)) = sum else { return v };
                let r: Part<'_> = r.at(column.at).load();
                let v: Part<'_> = std::array::from_fn(|j| h.rounded(v[j] + r[j]));
                h.at(column.at).store(v);
                v
            });
            squares = v.iter().fold(squares, |s, &e| e.fma(e, s));
            parts.push((column, v));
        }

        let total = b.sum_block(squares);
        let scale = (total * (1.0 / self.width as f32) + self.eps).rsqrt();

        for ((_, v), w) in parts.iter_mut().zip(&weights) {
            *v = std::array::from_fn(|j| v[j] * scale * w[j]);
        }
        y.store(b, &parts);
    }
}
