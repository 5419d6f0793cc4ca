//! `y[i] = scale * x[index[i]]`: rows of an embedding table by token, rows of activations by number.
//!
//! Eight elements a thread; a row takes as many blocks as its width needs.

use super::{ArgKind, Count, Launch, Wide};
use crate::builder::{Builder, F32, FloatPtr, GlobalPtr, I32, Val};
use trtc_ir::DType;

/// What the index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Arguments: `[tokens, table, y]`; the table is a weight.
    Table,
    /// Arguments: `[x, rows, y]`.
    Rows,
}

/// How the elements of x are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// Rows of floats.
    Plain(DType),
    /// Panels of 16 rows of i8 in the order of fragments, with an f32 scale for each row.
    I8Fragments,
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
    /// Elements of x.
    pub x: Elements,
    /// Element type of y.
    pub out: DType,
}

impl Gather {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        self.wide().unsupported()
    }

    fn wide(&self) -> Wide {
        Wide { width: self.width }
    }

    /// Geometry.
    pub fn launch(&self) -> Launch {
        let mut args = vec![ArgKind::Pointer; 3];
        if self.x == Elements::I8Fragments {
            args[1] = ArgKind::Scaled;
        }
        self.wide().launch(self.rows, args)
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let (index, x) = match (self.source, self.x) {
            (Source::Table, Elements::Plain(d)) => {
                (b.param_ptr::<I32>(), Input::Floats(b.param_const_floats(d)))
            }
            (Source::Rows, Elements::Plain(d)) => {
                let x = Input::Floats(b.param_floats(d));
                (b.param_ptr::<I32>(), x)
            }
            (_, Elements::I8Fragments) => {
                let index = b.param_ptr::<I32>();
                (index, Input::Panels { words: b.param_const(), scale: b.param_const() })
            }
        };
        let y = b.param_floats(self.out);
        b.param_dims();

        let (row, column) = self.wide().place(b);
        let picked = index.at(row).load();
        let to = y.at64(row.to_i64() * i64::from(self.width));
        let copy = || {
            let v = self.load(x, picked, column);
            to.at(column).store(v.map(|v| if self.scale == 1.0 { v } else { v * self.scale }));
        };
        self.wide().within(b, column, copy);
    }

    /// Eight elements of a row.
    fn load<'b>(
        &self,
        x: Input<'b>,
        row: Val<'b, I32>,
        column: Val<'b, I32>,
    ) -> [Val<'b, F32>; Wide::VEC as usize] {
        match x {
            Input::Floats(x) => x.at64(row.to_i64() * i64::from(self.width)).at(column).load(),
            Input::Panels { words, scale } => {
                let (panel, lane) = (row >> 4, row & 15);
                let scale = scale.at(row).load();
                // `[panel][k / 32][row % 8][k / 8 % 4][k % 8][row / 8]`: eight elements of two rows are 16 bytes.
                let panel = words.at64(panel.to_i64() * i64::from(self.width.next_multiple_of(64) * 4));
                let unit = column / 8;
                let place = unit / 4 * 32 + (lane & 7) * 4 + unit % 4;
                let pairs = panel.at(place * 4).load_vector::<4>().elements();
                std::array::from_fn(|i| {
                    let byte = (pairs[i / 2] >> ((lane >> 3) * 8 + i as u32 % 2 * 16)) & 0xff;
                    ((byte ^ 0x80) - 128).to_f32() * scale
                })
            }
        }
    }
}

/// The parameters that rows come from.
#[derive(Clone, Copy)]
enum Input<'b> {
    Floats(FloatPtr<'b>),
    Panels { words: GlobalPtr<'b, I32>, scale: GlobalPtr<'b, F32> },
}
