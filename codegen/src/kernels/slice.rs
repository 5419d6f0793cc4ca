//! `y = x[:, start..start + w]`: columns of a tensor, rows flattened. Eight elements a thread.

use super::{ArgKind, Count, Launch, Wide};
use crate::builder::Builder;
use trtc_ir::DType;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slice {
    /// Elements of a row of x.
    pub of: u32,
    /// First column.
    pub start: u32,
    /// Elements of a row of y.
    pub width: u32,
    /// Counts rows.
    pub rows: Count,
    /// Element type of x.
    pub x: DType,
    /// Element type of y.
    pub out: DType,
}

impl Slice {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let Slice { of, start, .. } = *self;
        if !of.is_multiple_of(Wide::VEC) || !start.is_multiple_of(Wide::VEC) {
            return Some(format!("columns from {start} on of {of} are not at multiples of {}", Wide::VEC));
        }
        self.wide().unsupported()
    }

    fn wide(&self) -> Wide {
        Wide { width: self.width }
    }

    /// Geometry. Arguments: `[x, y]`.
    pub fn launch(&self) -> Launch {
        self.wide().launch(self.rows, vec![ArgKind::Pointer; 2])
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let x = b.param_floats(self.x);
        let y = b.param_floats(self.out);
        b.param_dims();

        let (row, column) = self.wide().place(b);
        let row = row.to_i64();
        let x = x.at64(row * i64::from(self.of)).at(self.start);
        let y = y.at64(row * i64::from(self.width));
        let copy = || y.at(column).store(x.at(column).load::<{ Wide::VEC as usize }>());
        self.wide().within(b, column, copy);
    }
}
