//! Operands of a matrix product: their element type, how they come as arguments, and the scales of 8-bit ones.

use super::{ArgKind, MapElem};
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I32, Val, WgmmaType};

/// Element type of both operands, x `(M, K)` and w `(N, K)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// bf16.
    Bf16,
    /// e4m3: x with an f32 scale for each row, w with one for each output.
    E4m3,
}

/// An operand's arguments in a kernel. Elements are counted in units of 16 bits: a bf16, or two of e4m3.
#[derive(Clone, Copy)]
pub(super) struct Operand<'b> {
    /// The elements.
    pub(super) data: GlobalPtr<'b, Bf16>,
    /// A scale for each row.
    pub(super) scale: Option<GlobalPtr<'b, F32>>,
}

/// The scales of a product's rows and columns.
#[derive(Clone, Copy)]
pub(super) struct Scales<'b> {
    /// `(M)`.
    pub(super) rows: GlobalPtr<'b, F32>,
    /// `(N)`.
    pub(super) columns: GlobalPtr<'b, F32>,
}

impl<'b> Scales<'b> {
    /// `sum` times the scales of a row and of columns from `column` on.
    pub(super) fn apply<const N: usize>(
        self,
        [row, column]: [Val<'b, I32>; 2],
        sum: [Val<'b, F32>; N],
    ) -> [Val<'b, F32>; N] {
        let (row, columns) =
            (self.rows.at(row).load(), self.columns.at(column).load_vector::<N>().elements());
        std::array::from_fn(|i| sum[i] * (row * columns[i]))
    }
}

impl Operands {
    /// Bytes of an element.
    pub const fn bytes(self) -> u32 {
        match self {
            Operands::Bf16 => 2,
            Operands::E4m3 => 1,
        }
    }

    /// Units of 16 bits that `k` elements take.
    pub const fn units(self, k: u32) -> u32 {
        k * self.bytes() / 2
    }

    /// What an operand is among the arguments.
    pub(super) const fn arg(self) -> ArgKind {
        match self {
            Operands::Bf16 => ArgKind::Pointer,
            Operands::E4m3 => ArgKind::Scaled,
        }
    }

    /// Elements of a tensor map.
    pub(super) const fn map_elem(self) -> MapElem {
        match self {
            Operands::Bf16 => MapElem::Bf16,
            Operands::E4m3 => MapElem::U8,
        }
    }

    /// Elements of a warpgroup's product.
    pub(super) const fn wgmma(self) -> WgmmaType {
        match self {
            Operands::Bf16 => WgmmaType::Bf16,
            Operands::E4m3 => WgmmaType::E4m3,
        }
    }

    /// The parameters of x.
    pub(super) fn param_x(self, b: &Builder) -> Operand<'_> {
        let data = b.param_ptr();
        Operand { data, scale: (self == Operands::E4m3).then(|| b.param_ptr()) }
    }

    /// The parameters of w.
    pub(super) fn param_w(self, b: &Builder) -> Operand<'_> {
        let data = b.param_const();
        Operand { data, scale: (self == Operands::E4m3).then(|| b.param_const()) }
    }

    /// `c + a b`, a `(16, 32 bytes)`, b `(32 bytes, 8)`, by one instruction of a warp.
    pub(super) fn mma<'b>(
        self,
        b: &'b Builder,
        a: [Val<'b, I32>; 4],
        w: [Val<'b, I32>; 2],
        c: [Val<'b, F32>; 4],
    ) -> [Val<'b, F32>; 4] {
        match self {
            Operands::Bf16 => b.mma_bf16(a, w, c),
            Operands::E4m3 => b.mma_e4m3(a, w, c),
        }
    }
}

impl<'b> Operand<'b> {
    /// The scales of the product of x and w.
    pub(super) fn scales(self, w: Operand<'b>) -> Option<Scales<'b>> {
        Some(Scales { rows: self.scale?, columns: w.scale? })
    }
}
