//! `y = lhs + rhs`, in f32, rounded once. Eight elements a thread.

use super::{ArgKind, Count, Launch, Wide};
use crate::builder::Builder;
use trtc_ir::DType;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Add {
    /// Elements of a row.
    pub width: u32,
    /// Counts rows.
    pub rows: Count,
    /// Element type of lhs.
    pub lhs: DType,
    /// Element type of rhs.
    pub rhs: DType,
    /// Element type of y.
    pub out: DType,
}

impl Add {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        self.wide().unsupported()
    }

    fn wide(&self) -> Wide {
        Wide { width: self.width }
    }

    /// Geometry. Arguments: `[lhs, rhs, y]`.
    pub fn launch(&self) -> Launch {
        self.wide().launch(self.rows, vec![ArgKind::Pointer; 3])
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let lhs = b.param_floats(self.lhs);
        let rhs = b.param_floats(self.rhs);
        let y = b.param_floats(self.out);
        b.param_dims();

        let (row, column) = self.wide().place(b);
        let row = row.to_i64() * i64::from(self.width);
        let compute = || {
            let l = lhs.at64(row).at(column).load::<{ Wide::VEC as usize }>();
            let r = rhs.at64(row).at(column).load::<{ Wide::VEC as usize }>();
            y.at64(row).at(column).store::<{ Wide::VEC as usize }>(std::array::from_fn(|i| l[i] + r[i]));
        };
        self.wide().within(b, column, compute);
    }
}
