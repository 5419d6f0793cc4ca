//! `y = act(gate) * up` with `act(g) = g / (1 + exp(-s(g)))`; gate and up are two tensors, or the halves of the rows of
//! one.
//!
//! silu: `s(g) = g`. gelu_tanh: `g / 2 (1 + tanh(u)) = g / (1 + exp(-2 u))`, `u = sqrt(2/pi) (g + 0.044715 g^3)`, so
//! both are one formula and no tanh loses digits near -1. Eight elements a thread.

use super::{ArgKind, Count, Launch, Wide};
use crate::builder::{Builder, F32, Val};
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
        self.wide().unsupported()
    }

    fn wide(&self) -> Wide {
        Wide { width: self.width }
    }

    /// Geometry. Arguments: `[x, y]` or `[gate, up, y]`.
    pub fn launch(&self) -> Launch {
        self.wide().launch(self.rows, vec![ArgKind::Pointer; if self.packed { 2 } else { 3 }])
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let gate = b.param_floats(self.x);
        let apart = (!self.packed).then(|| b.param_floats(self.x));
        let y = b.param_floats(self.out);
        b.param_dims();

        let (row, column) = self.wide().place(b);
        let row = row.to_i64();
        let pitch = if self.packed { 2 * self.width } else { self.width };
        let gate = gate.at64(row * i64::from(pitch));
        let up = apart.map_or_else(|| gate.at(self.width), |up| up.at64(row * i64::from(pitch)));
        let y = y.at64(row * i64::from(self.width));

        let compute = || {
            let g = gate.at(column).load::<{ Wide::VEC as usize }>();
            let u = up.at(column).load::<{ Wide::VEC as usize }>();
            y.at(column).store::<{ Wide::VEC as usize }>(std::array::from_fn(|i| self.activate(g[i]) * u[i]));
        };
        self.wide().within(b, column, compute);
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
