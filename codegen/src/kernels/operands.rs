//! What the kernels of matrix products have in common: the product itself, its operands' element type, how they come as
//! arguments, and the scales of 8-bit ones.

use super::epilogue::Epilogue;
use super::rope_kv_append::{Behind, RopeKvAppend};
use super::{ArgKind, Count, Map, MapElem, MapRows};
use crate::builder::{
    Bf16, Builder, F32, FloatPtr, GlobalPtr, I1, I32, SharedPtr, Smem, Val, WgmmaA, WgmmaType,
};
use trtc_ir::DType;
use trtc_ir::ops::Act;

/// `y = x w^T + bias + residual`, or gated, `y = act(x wg^T + bg) * (x wu^T + bu)` with wg above wu in w.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Rows of w: outputs, or twice as many if they are gated.
    pub n: u32,
    /// Inputs.
    pub k: u32,
    /// Element type of x and w.
    pub operands: Operands,
    /// Counts M.
    pub rows: Count,
    /// Element type of the bias, if there is one.
    pub bias: Option<DType>,
    /// Element type of the residual, if there is one.
    pub residual: Option<DType>,
    /// Element type of y.
    pub out: DType,
    /// The activation, if y is gated.
    pub gate: Option<Act>,
    /// What becomes of y in the same kernel, if that is queries, keys and values: only what this makes of them is written.
    pub append: Option<RopeKvAppend>,
}

/// The parameters of a product's kernel, but for x.
#[derive(Clone, Copy)]
pub(super) struct Params<'b> {
    /// `(N, K)`.
    pub(super) w: Operand<'b>,
    /// The scales of x.
    rows: Option<RowScales<'b>>,
    bias: Option<FloatPtr<'b>>,
    residual: Option<FloatPtr<'b>>,
    /// Queries, if y is appended.
    y: FloatPtr<'b>,
    /// What becomes of y.
    pub(super) append: Option<Behind<'b>>,
}

impl Product {
    /// Why no kernel that writes y serves it.
    pub(super) fn unsupported(&self) -> Option<String> {
        let appended = || self.append.map(|_| "this product writes queries, keys and values".to_owned());
        self.unsupported_sizes().or_else(appended)
    }

    /// Why no kernel serves these sizes: y in vectors, rows of x and w in chunks of 16 bytes.
    pub(super) fn unsupported_sizes(&self) -> Option<String> {
        let Product { n, k, .. } = *self;
        let (outputs, inputs) = (8 * self.halves(), 16 / self.operands.bytes());
        let served = n > 0 && k > 0 && n.is_multiple_of(outputs) && k.is_multiple_of(inputs);
        (!served).then(|| {
            format!("{n} outputs by {k} inputs are not positive multiples of {outputs} and {inputs}")
        })
    }

    /// Parts of w that one output needs.
    pub(super) fn halves(&self) -> u32 {
        if self.gate.is_some() { 2 } else { 1 }
    }

    /// Columns of y.
    pub(super) fn outputs(&self) -> u32 {
        self.n / self.halves()
    }

    /// The arguments: `[x, weight, bias?, residual?, y]`; in place of y those of the append behind qkv, if there is one.
    pub(super) fn args(&self) -> Vec<ArgKind> {
        let more = usize::from(self.bias.is_some()) + usize::from(self.residual.is_some());
        let mut args = vec![self.operands.arg(); 2];
        args.extend(vec![ArgKind::Pointer; more]);
        args.extend(self.append.map_or_else(|| vec![ArgKind::Pointer], |append| append.args_behind()));
        args
    }

    /// A map over x, `rows` rows and one row of `bytes` bytes a copy, swizzled over them.
    pub(super) fn map_x(&self, rows: u32, bytes: u32) -> Map {
        self.map(0, MapRows::Most(self.rows), rows, bytes)
    }

    /// The same over w.
    pub(super) fn map_w(&self, rows: u32, bytes: u32) -> Map {
        self.map(1, MapRows::Fixed(self.n), rows, bytes)
    }

    fn map(&self, arg: u32, rows: MapRows, tile_rows: u32, bytes: u32) -> Map {
        let elem = match self.operands {
            Operands::Bf16 => MapElem::Bf16,
            Operands::E4m3 => MapElem::U8,
        };
        Map {
            arg,
            elem,
            width: self.k,
            rows,
            tile: [tile_rows, bytes / self.operands.bytes()],
            swizzle: bytes,
        }
    }

    /// The parameters of the arguments: x `(M, K)`, and the others.
    pub(super) fn params<'b>(&self, b: &'b Builder) -> (Operand<'b>, Params<'b>) {
        let x = self.operands.param_x(b);
        (x, Params { rows: x.scale.map(RowScales::Global), ..self.params_without_x(b) })
    }

    /// Those of a kernel that makes x.
    pub(super) fn params_without_x<'b>(&self, b: &'b Builder) -> Params<'b> {
        let w = self.operands.param_w(b);
        let bias = self.bias.map(|d| b.param_const_floats(d));
        let residual = self.residual.map(|d| b.param_floats(d));
        let append = self.append.map(|append| append.behind(b));
        let y = append.map_or_else(|| b.param_floats(self.out), |append| append.q);
        Params { w, rows: None, bias, residual, y, append }
    }

    /// The end of the product of `m` rows; `ragged` if a tile can reach beyond y's last column.
    pub(super) fn epilogue<'b>(&self, params: Params<'b>, m: Val<'b, I32>, ragged: bool) -> Epilogue<'b> {
        let Params { w, rows, bias, residual, y, .. } = params;
        let scales = rows.zip(w.scale).map(|(rows, columns)| Scales { rows, columns });
        Epilogue { n: self.outputs(), ragged, m, gate: self.gate, scales, bias, residual, y }
    }
}

impl Product {
    /// `sums` (or nothing, if it is not `more`) and the product of a unit: of chunks of 128 bytes along K, rows of the first operand and columns of
    /// the second, swizzled. A warpgroup.
    ///
    /// The hardware adds e4m3 products in some 14 bits, and cuts off what is less than a bit of a sum of bf16 products, each time: units of
    /// e4m3, and of results that stay f32, are added here, rounded, unless an order is prescribed.
    pub(super) fn add_unit<'b>(
        &self,
        b: &'b Builder,
        chunks: &[[SharedPtr<'b, Bf16>; 2]],
        sums: Vec<Val<'b, F32>>,
        (more, order): (Val<'b, I1>, Order),
    ) -> Vec<Val<'b, F32>> {
        let precise = self.operands == Operands::E4m3 || self.out == DType::F32;
        let alone = precise && order == Order::Free;
        let d = if alone { vec![b.value(0.0f32); sums.len()] } else { sums.clone() };
        let mut d = b.wgmma_fence_on(&d);
        for (c, chunk) in chunks.iter().enumerate() {
            let [rows, columns] = chunk.map(|operand| b.wgmma_descriptor(operand, Smem::Rows128));
            // Four steps of 32 bytes, encoded as 2 each.
            for step in 0..4i64 {
                let more = match (c == 0 && step == 0, alone) {
                    (true, true) => b.value(false),
                    (true, false) => more,
                    (false, _) => b.value(true),
                };
                let rows = WgmmaA::Shared(rows + step * 2);
                d = b.wgmma(self.operands.wgmma(), &d, rows, columns + step * 2, more);
            }
        }
        b.wgmma_commit();
        let d = b.wgmma_wait(0, &d);
        if alone { sums.iter().zip(&d).map(|(&s, &d)| s + d).collect() } else { d }
    }
}

impl<'b> Params<'b> {
    /// The same with scales of x in shared memory.
    pub(super) fn scaled_by(self, scales: SharedPtr<'b, F32>) -> Params<'b> {
        Params { rows: Some(RowScales::Shared(scales)), ..self }
    }
}

/// The order in which a product adds along K. Sums of f32 depend on it, and kernels for few rows have another one than
/// kernels for many: an engine whose answers must not depend on how many rows a step has prescribes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Whatever is fastest.
    Free,
    /// K in so many equal shares, in units of [`Order::UNIT`] bytes: a chain of matrix instructions over each, from 0; then
    /// the shares, one after the other, in f32.
    Shares(u32),
}

impl Order {
    /// Bytes along K of a unit.
    pub const UNIT: u32 = 256;
}

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
    scale: Option<GlobalPtr<'b, F32>>,
}

/// Where the scales of a product's rows are.
#[derive(Clone, Copy)]
pub(super) enum RowScales<'b> {
    /// In an argument.
    Global(GlobalPtr<'b, F32>),
    /// The kernel made them.
    Shared(SharedPtr<'b, F32>),
}

impl<'b> RowScales<'b> {
    /// That of a row.
    pub(super) fn of(self, row: Val<'b, I32>) -> Val<'b, F32> {
        match self {
            RowScales::Global(scales) => scales.at(row).load(),
            RowScales::Shared(scales) => scales.at(row).load(),
        }
    }
}

/// The scales of a product's rows and columns.
#[derive(Clone, Copy)]
pub(super) struct Scales<'b> {
    /// `(M)`.
    pub(super) rows: RowScales<'b>,
    /// `(N)`.
    pub(super) columns: GlobalPtr<'b, F32>,
}

impl<'b> Scales<'b> {
    /// The scales of a row and of columns from `column` on, multiplied.
    pub(super) fn at<const N: usize>(self, [row, column]: [Val<'b, I32>; 2]) -> [Val<'b, F32>; N] {
        let (row, columns) = (self.rows.of(row), self.columns.at(column).load_vector::<N>().elements());
        columns.map(|column| row * column)
    }
}

impl Operands {
    /// The type of an element.
    pub const fn dtype(self) -> DType {
        match self {
            Operands::Bf16 => DType::Bf16,
            Operands::E4m3 => DType::F8E4M3,
        }
    }

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
    const fn arg(self) -> ArgKind {
        match self {
            Operands::Bf16 => ArgKind::Pointer,
            Operands::E4m3 => ArgKind::Scaled,
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
    fn param_x(self, b: &Builder) -> Operand<'_> {
        let data = b.param_ptr();
        Operand { data, scale: (self == Operands::E4m3).then(|| b.param_ptr()) }
    }

    /// The parameters of w.
    fn param_w(self, b: &Builder) -> Operand<'_> {
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
