//! `y = act(gate) * up` with `act(g) = g / (1 + exp(-s(g)))`; gate and up are two tensors, or the halves of the rows of
//! one.
//!
//! silu: `s(g) = g`. gelu_tanh: `g / 2 (1 + tanh(u)) = g / (1 + exp(-2 u))`, `u = sqrt(2/pi) (g + 0.044715 g^3)`, so
//! both are one formula and no tanh loses digits near -1.
//!
//! As many blocks as a row needs, eight elements a thread. y in e4m3 has a scale for each row, so there a block takes a
//! whole row.

use super::block_row::{BlockRow, Part, RowsOut};
use super::{ArgKind, Count, Extent, Launch, Wide, grid_of};
use crate::builder::{Builder, F32, FloatPtr, I32, Special, Val};
use trtc_ir::DType;
use trtc_ir::ops::Act;

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedAct {
    /// Elements of a row of y.
    pub width: u32,
    /// True if a row of x is one of gate and then one of up.
    pub packed: bool,
    /// The function.
    pub act: Act,
    /// Counts rows.
    pub rows: Count,
    /// Element type of gate and up.
    pub x: DType,
    /// Element type of y.
    pub out: DType,
}

impl GatedAct {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        if self.out == DType::F8E4M3 {
            return BlockRow::even_unsupported(self.width);
        }
        self.wide().unsupported()
    }

    fn wide(&self) -> Wide {
        Wide { width: self.width }
    }

    /// Geometry. Arguments: `[x, y]` or `[gate, up, y]`.
    pub fn launch(&self) -> Launch {
        let mut args = vec![ArgKind::Pointer; if self.packed { 1 } else { 2 }];
        args.push(RowsOut::arg(self.out));
        if self.out == DType::F8E4M3 {
            let grid = grid_of(Extent { of: self.rows, div: 1, plus: None, mul: 1 });
            return Launch::new(grid, BlockRow::even(self.width).threads, args);
        }
        self.wide().launch(self.rows, args)
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let gate = b.param_floats(self.x);
        let apart = (!self.packed).then(|| b.param_floats(self.x));
        let y = RowsOut::param(b, self.out);
        b.param_dims();

        let (row, column) = match y {
            RowsOut::Floats(_) => self.wide().place(b),
            RowsOut::E4m3(..) => (b.special(Special::BlockX), b.value(0)),
        };
        let pitch = if self.packed { 2 * self.width } else { self.width };
        let start = row.to_i64() * i64::from(pitch);
        let gate = gate.at64(start);
        let up = apart.map_or_else(|| gate.at(self.width), |up| up.at64(start));
        match y.row(row, self.width) {
            RowsOut::Floats(y) => {
                self.wide().within(b, column, || {
                    let part = self.part(self.load(gate, up, column));
                    y.at(column).store(part);
                });
            }
            y => {
                // All loads first, so that all are under way together.
                let columns = BlockRow::even(self.width).columns(b).into_iter();
                let loaded: Vec<_> = columns.map(|c| (c, c.read(b, || self.load(gate, up, c.at)))).collect();
                let parts: Vec<_> = loaded.into_iter().map(|(c, gu)| (c, self.part(gu))).collect();
                y.store(b, &parts);
            }
        }
    }

    /// Eight elements of gate, and of up.
    fn load<'b>(&self, gate: FloatPtr<'b>, up: FloatPtr<'b>, column: Val<'b, I32>) -> [Part<'b>; 2] {
        [gate.at(column).load(), up.at(column).load()]
    }

    fn part<'b>(&self, [gate, up]: [Part<'b>; 2]) -> Part<'b> {
        std::array::from_fn(|i| self.activate(gate[i]) * up[i])
    }

    /// The activation of one element.
    fn activate<'b>(&self, g: Val<'b, F32>) -> Val<'b, F32> {
        activate(self.act, g)
    }
}

/// `g / (1 + exp(-s))`. For s so far below 0 that exp overflows, the quotient is -0, as it is in the limit.
pub(super) fn activate(act: Act, g: Val<'_, F32>) -> Val<'_, F32> {
    let s = match act {
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
