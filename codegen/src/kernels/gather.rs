//! `y[i] = scale * x[index[i]]`: rows of an embedding table by token, rows of activations by number.
//!
//! Eight elements a thread; a row takes as many blocks as its width needs.

use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Builder, I32, Special};
use trtc_ir::DType;

/// Elements of a vector access.
const VEC: u32 = 8;
/// Most threads of a block.
const THREADS: u32 = 256;

/// What the index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Arguments: `[tokens, table, y]`; the table is a weight.
    Table,
    /// Arguments: `[x, rows, y]`.
    Rows,
}

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gather {
    /// Where rows come from.
    pub source: Source,
    /// Elements of a row.
    pub width: u32,
    /// Counts rows of y.
    pub rows: Count,
    /// Factor.
    pub scale: f32,
    /// Element type of x.
    pub x: DType,
    /// Element type of y.
    pub out: DType,
}

impl Gather {
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

    /// Geometry.
    pub fn launch(&self) -> Launch {
        let grid = grid_of(Extent { of: self.rows, div: 1, mul: self.blocks_per_row() });
        Launch { grid, block: [self.threads(), 1, 1], args: vec![ArgKind::Pointer; 3] }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let (index, x) = match self.source {
            Source::Table => (b.param_ptr::<I32>(), b.param_const_floats(self.x)),
            Source::Rows => {
                let x = b.param_floats(self.x);
                (b.param_ptr::<I32>(), x)
            }
        };
        let y = b.param_floats(self.out);
        b.param_dims();

        let block = b.special(Special::BlockX);
        let row = block / self.blocks_per_row();
        let column = (block % self.blocks_per_row() * self.threads() + b.special(Special::ThreadX)) * VEC;
        let from = x.at64(index.at(row).load().to_i64() * i64::from(self.width));
        let to = y.at64(row.to_i64() * i64::from(self.width));
        let copy = || {
            let v = from.at(column).load::<{ VEC as usize }>();
            to.at(column).store(v.map(|v| if self.scale == 1.0 { v } else { v * self.scale }));
        };
        if self.width.is_multiple_of(self.threads() * VEC) {
            copy();
        } else {
            b.if_(column.lt(self.width), copy);
        }
    }
}
