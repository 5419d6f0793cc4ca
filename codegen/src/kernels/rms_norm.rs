//! `y = x / sqrt(mean(x^2) + eps) * (w + offset)` over rows, and the same with a residual sum in front of it:
//! `h = x + r`, `y = rms_norm(h)`.
//!
//! One block a row. The row is read once and stays in registers, 8 elements a thread and round; the sum of squares is a
//! tree over lanes, then over warps, in f32.

use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Builder, F32, Special, Val};
use trtc_ir::DType;

/// Elements of a vector access.
const VEC: u32 = 8;
/// Most rounds over a row.
const ROUNDS: u32 = 8;
/// Most threads of a block.
const THREADS: u32 = 512;

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
    /// Element type of y.
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
        if self.width == 0 || !self.width.is_multiple_of(VEC) {
            return Some(format!("the width {} is not a positive multiple of {VEC}", self.width));
        }
        let most = VEC * ROUNDS * THREADS;
        (self.width > most).then(|| format!("the width {} is above {most}", self.width))
    }

    /// Enough threads for one vector each, at most [`THREADS`].
    fn threads(&self) -> u32 {
        (self.width / VEC).next_multiple_of(32).min(THREADS)
    }

    /// Geometry. Arguments: `[x, weight, y]`, or with a residual `[x, r, weight, h, y]`.
    pub fn launch(&self) -> Launch {
        let args = vec![ArgKind::Pointer; if self.residual.is_some() { 5 } else { 3 }];
        let grid = grid_of(Extent { of: self.rows, div: 1, plus: None, mul: self.per_row });
        Launch::new(grid, self.threads(), args)
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let x = b.param_floats(self.x);
        let residual = self.residual.map(|r| (b.param_floats(r.dtype), r.sum));
        let weight = b.param_const_floats(self.weight);
        let sum = residual.map(|(r, sum)| (r, b.param_floats(sum)));
        let y = b.param_floats(self.out);
        b.param_dims();

        let threads = self.threads();
        let row = b.special(Special::BlockX).to_i64() * b.value(i64::from(self.width));
        let (x, y) = (x.at64(row), y.at64(row));
        let sum = sum.map(|(r, h)| (r.at64(row), h.at64(row)));
        let thread = b.special(Special::ThreadX);

        let rounds = (self.width / VEC).div_ceil(threads);
        let zeros = [b.value(0.0f32); VEC as usize];
        // Column of round i, and whether it is inside the row (`None`: it always is).
        let column = |i: u32| {
            let c = (thread + i * threads) * VEC;
            let ragged = (i + 1) * threads * VEC > self.width;
            (c, ragged.then(|| c.lt(self.width)))
        };

        // v: this thread's part of the row, of h as it is stored if there is a residual; ss: its sum of squares.
        let mut parts: Vec<[Val<'_, F32>; VEC as usize]> = Vec::new();
        let mut squares = b.value(0.0f32);
        for i in 0..rounds {
            let (c, inside) = column(i);
            let read = || {
                let v = x.at(c).load::<{ VEC as usize }>();
                let Some((r, h)) = sum else { return v };
                let r = r.at(c).load::<{ VEC as usize }>();
                let v = std::array::from_fn(|j| h.rounded(v[j] + r[j]));
                h.at(c).store(v);
                v
            };
            let v = match inside {
                None => read(),
                Some(inside) => b.if_else(inside, read, || zeros),
            };
            squares = v.iter().fold(squares, |s, &e| e.fma(e, s));
            parts.push(v);
        }

        let total = b.sum_block(squares);
        let scale = (total * (1.0 / self.width as f32) + self.eps).rsqrt();

        for (i, v) in parts.into_iter().enumerate() {
            let (c, inside) = column(i as u32);
            let write = || {
                let w = weight.at(c).load::<{ VEC as usize }>();
                y.at(c).store::<{ VEC as usize }>(std::array::from_fn(|j| {
                    let w = if self.offset == 0.0 { w[j] } else { w[j] + self.offset };
                    v[j] * scale * w
                }));
            };
            match inside {
                None => write(),
                Some(inside) => b.if_(inside, write),
            }
        }
    }
}
