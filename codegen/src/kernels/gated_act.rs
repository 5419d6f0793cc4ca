//! `y = act(x[:, :w]) * x[:, w:]` with `act(g) = g / (1 + exp(-s(g)))`.
//!
//! silu: `s(g) = g`. gelu_tanh: `g / 2 (1 + tanh(u)) = g / (1 + exp(-2 u))`, `u = sqrt(2/pi) (g + 0.044715 g^3)`, so
//! both are one formula and no tanh loses digits near -1. Eight elements a thread.

use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Builder, F32, Special, Val};
use trtc_ir::DType;
use trtc_ir::ops::Act;

/// Elements of a vector access.
const VEC: u32 = 8;
/// Most threads of a block.
const THREADS: u32 = 256;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedActPacked {
    /// Elements of a row of y; x has twice as many.
    pub width: u32,
    /// The function.
    pub act: Act,
    /// Counts rows.
    pub rows: Count,
    /// Element type of x.
    pub x: DType,
    /// Element type of y.
    pub out: DType,
}

impl GatedActPacked {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let served = self.width > 0 && self.width.is_multiple_of(VEC);
        (!served).then(|| format!("the width {} is not a positive multiple of {VEC}", self.width))
    }

    fn threads(&self) -> u32 {
        (self.width / VEC).next_multiple_of(32).min(THREADS)
    }

    /// Blocks that share a row.
    fn blocks_per_row(&self) -> u32 {
        (self.width / VEC).div_ceil(self.threads())
    }

    /// Geometry. Arguments: `[x, y]`.
    pub fn launch(&self) -> Launch {
        let grid = grid_of(Extent { of: self.rows, div: 1, mul: self.blocks_per_row() });
        Launch { grid, block: [self.threads(), 1, 1], args: vec![ArgKind::Pointer; 2] }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let x = b.param_floats(self.x);
        let y = b.param_floats(self.out);
        b.param_dims();

        let block = b.special(Special::BlockX);
        let row = (block / self.blocks_per_row()).to_i64();
        let column = (block % self.blocks_per_row() * self.threads() + b.special(Special::ThreadX)) * VEC;
        let gate = x.at64(row * i64::from(2 * self.width));
        let up = gate.at(self.width);
        let y = y.at64(row * i64::from(self.width));

        let compute = || {
            let g = gate.at(column).load::<{ VEC as usize }>();
            let u = up.at(column).load::<{ VEC as usize }>();
            y.at(column).store::<{ VEC as usize }>(std::array::from_fn(|i| self.activate(g[i]) * u[i]));
        };
        if self.width.is_multiple_of(self.threads() * VEC) {
            compute();
        } else {
            b.if_(column.lt(self.width), compute);
        }
    }

    /// `g / (1 + exp(-s))`. For s so far below 0 that exp overflows, the quotient is -0, as it is in the limit.
    fn activate<'b>(&self, g: Val<'b, F32>) -> Val<'b, F32> {
        let s = match self.act {
            Act::Silu => g,
            Act::GeluTanh => {
                const TWO_SQRT_2_OVER_PI: f32 = 2.0 * 0.797_884_6;
                // 2 sqrt(2/pi) (g + 0.044715 g^3)
                let inner = (g * g).fma(TWO_SQRT_2_OVER_PI * 0.044_715, TWO_SQRT_2_OVER_PI);
                g * inner
            }
        };
        let e = (s * -std::f32::consts::LOG2_E).exp2();
        g.div_approx(e + 1.0f32)
    }
}
