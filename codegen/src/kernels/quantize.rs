//! Rows of floats in e4m3 with an f32 scale each: `scale = max |x| / 448`, `q = x / scale`.
//!
//! One block a row, which is read once.

use super::block_row::{BlockRow, RowsOut};
use super::{ArgKind, Count, Extent, Launch, grid_of};
use crate::builder::{Builder, Special};
use trtc_ir::DType;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantize {
    /// Elements of a row.
    pub width: u32,
    /// Counts rows.
    pub rows: Count,
    /// Element type of x.
    pub x: DType,
}

impl Quantize {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        BlockRow::even_unsupported(self.width)
    }

    /// Geometry. Arguments: `[x, q]`.
    pub fn launch(&self) -> Launch {
        let grid = grid_of(Extent { of: self.rows, div: 1, plus: None, mul: 1 });
        Launch::new(
            grid,
            BlockRow::even(self.width).threads,
            vec![ArgKind::Pointer, RowsOut::arg(DType::F8E4M3)],
        )
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let x = b.param_floats(self.x);
        let q = RowsOut::param(b, DType::F8E4M3);
        b.param_dims();

        let row = b.special(Special::BlockX);
        let x = x.at64(row.to_i64() * b.value(i64::from(self.width)));
        let columns = BlockRow::even(self.width).columns(b).into_iter();
        let parts: Vec<_> = columns.map(|c| (c, c.read(b, || x.at(c.at).load()))).collect();
        q.row(row, self.width).store(b, &parts);
    }
}
