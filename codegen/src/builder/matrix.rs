//! Matrix instructions of a warp: `ldmatrix`, `stmatrix`, `mma.sync`.
//!
//! With `g = lane / 4` and `q = lane % 4`, a lane of `mma.m16n8` holds of the accumulator c0, c1 = row g, columns
//! 2q, 2q + 1; c2, c3 = row g + 8. Of A, as 16-bit pairs along k: a0 = row g, a1 = row g + 8, a2 and a3 the same rows
//! 8 further along k. Of B: b0 = column g, b1 the same 8 further along k. These are what `ldmatrix` loads, where lane
//! `l` gives the address of row `l % 8` of the 8x8 matrix `l / 8`.

use super::asm::structure;
use super::{Bf16, Builder, F32, I32, SharedPtr, Ty, Val};
use trtc_ir::DType;

const B16: &str =
    "shape = #nvvm.ld_st_matrix_shape<m = 8, n = 8>, eltType = #nvvm.ld_st_matrix_elt_type<b16>";

impl Builder {
    /// Four 8x8 matrices of 16-bit elements; `transposed` exchanges rows and columns of each.
    pub fn ldmatrix<'b, E: Ty>(&'b self, row: SharedPtr<'b, E>, transposed: bool) -> [Val<'b, I32>; 4] {
        let layout = if transposed { "col" } else { "row" };
        let ty = structure("i32", 4);
        let loaded: Val<'b, I32> = self.op(format_args!(
            "nvvm.ldmatrix {row} {{num = 4 : i32, layout = #nvvm.mma_layout<{layout}>, {B16}}} : (!llvm.ptr<3>) -> {ty}"
        ));
        let parts = self.extract(loaded.id, &ty, 4);
        std::array::from_fn(|i| parts[i])
    }

    /// Stores four 8x8 matrices of 16-bit elements, the inverse of [`Builder::ldmatrix`].
    pub fn stmatrix<'b, E: Ty>(&'b self, row: SharedPtr<'b, E>, parts: [Val<'b, I32>; 4], transposed: bool) {
        self.need("stmatrix", self.gpu.capability >= (9, 0));
        let layout = if transposed { "col" } else { "row" };
        let [a, b, c, d] = parts;
        self.stmt(format_args!(
            "nvvm.stmatrix {row}, {a}, {b}, {c}, {d} {{layout = #nvvm.mma_layout<{layout}>, {B16}}} : !llvm.ptr<3>, i32, i32, i32, i32"
        ));
    }

    /// `c + a b` with a `(16, 16)`, b `(16, 8)` of bf16, f32 accumulators.
    pub fn mma_bf16<'b>(
        &'b self,
        a: [Val<'b, I32>; 4],
        b: [Val<'b, I32>; 2],
        c: [Val<'b, F32>; 4],
    ) -> [Val<'b, F32>; 4] {
        self.mma(DType::Bf16, a, b, c, "<m = 16, n = 8, k = 16>", "")
    }

    /// `c + a b` with a `(16, 32)`, b `(32, 8)` of i8, i32 accumulators.
    pub fn mma_i8<'b>(
        &'b self,
        a: [Val<'b, I32>; 4],
        b: [Val<'b, I32>; 2],
        c: [Val<'b, I32>; 4],
    ) -> [Val<'b, I32>; 4] {
        let wrapped = ", intOverflowBehavior = #nvvm.mma_int_overflow<wrapped>";
        self.mma(DType::I8, a, b, c, "<m = 16, n = 8, k = 32>", wrapped)
    }

    fn mma<'b, C: Ty>(
        &'b self,
        dtype: DType,
        [a0, a1, a2, a3]: [Val<'b, I32>; 4],
        [b0, b1]: [Val<'b, I32>; 2],
        [c0, c1, c2, c3]: [Val<'b, C>; 4],
        shape: &str,
        more: &str,
    ) -> [Val<'b, C>; 4] {
        self.need("mma.sync of this type", self.gpu.matrix_types.contains(&dtype));
        let element = if dtype == DType::I8 { "s8" } else { "bf16" };
        let ty = structure(&C::mlir(), 4);
        let d: Val<'b, C> = self.op(format_args!(
            "nvvm.mma.sync A[{a0}, {a1}, {a2}, {a3}] B[{b0}, {b1}] C[{c0}, {c1}, {c2}, {c3}] \
             {{layoutA = #nvvm.mma_layout<row>, layoutB = #nvvm.mma_layout<col>, \
             multiplicandAPtxType = #nvvm.mma_type<{element}>, multiplicandBPtxType = #nvvm.mma_type<{element}>{more}, \
             shape = #nvvm.shape{shape}}} : (i32, i32, {}) -> {ty}",
            C::mlir()
        ));
        let parts = self.extract(d.id, &ty, 4);
        std::array::from_fn(|i| parts[i])
    }

    /// `c + a b` with a `(16, 32)`, b `(32, 8)` of e4m3, f32 accumulators.
    pub fn mma_e4m3<'b>(
        &'b self,
        a: [Val<'b, I32>; 4],
        b: [Val<'b, I32>; 2],
        c: [Val<'b, F32>; 4],
    ) -> [Val<'b, F32>; 4] {
        self.need("mma.sync of e4m3", self.gpu.matrix_types.contains(&DType::F8E4M3));
        self.need_ptx(84);
        let ty = structure("f32", 4);
        let words: Vec<String> = a.iter().chain(&b).map(Val::to_string).collect();
        let sums: Vec<String> = c.iter().map(Val::to_string).collect();
        let d: Val<'b, F32> = self.op(format_args!(
            "llvm.call_intrinsic \"llvm.nvvm.mma.m16n8k32.row.col.f32.e4m3.e4m3.f32\"({}, {}) : \
             (i32, i32, i32, i32, i32, i32, f32, f32, f32, f32) -> {ty}",
            words.join(", "),
            sums.join(", ")
        ));
        let parts = self.extract(d.id, &ty, 4);
        std::array::from_fn(|i| parts[i])
    }

    /// Two bf16 in one register, the one in the lower half first.
    pub fn unpack_bf16<'b>(&'b self, word: Val<'b, I32>) -> [Val<'b, F32>; 2] {
        word.bitcast::<super::Vector<Bf16, 2>>().to_f32().elements()
    }

    /// Two values rounded to bf16 in one register, `low` in the lower half.
    pub fn pack_bf16<'b>(&'b self, low: Val<'b, F32>, high: Val<'b, F32>) -> Val<'b, I32> {
        let pair: Val<'b, super::Vector<Bf16, 2>> = self.vector([low, high]).to_bf16();
        pair.bitcast()
    }
}
