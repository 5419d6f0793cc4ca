//! Short vectors: what one memory access moves.

use super::{Bf16, Builder, F32, IntoVal, Ty, Val};
use std::borrow::Cow;
use std::marker::PhantomData;

/// `N` elements in one register tuple.
#[derive(Clone, Copy, Debug)]
pub struct Vector<T, const N: usize>(PhantomData<T>);

impl<T: Ty, const N: usize> Ty for Vector<T, N> {
    fn mlir() -> Cow<'static, str> {
        Cow::Owned(format!("vector<{N}x{}>", T::mlir()))
    }
    const REG: char = 'r';
    const BYTES: u32 = T::BYTES * N as u32;
}

impl<'b, T: Ty, const N: usize> Val<'b, Vector<T, N>> {
    /// Element `i`.
    pub fn get(self, i: usize) -> Val<'b, T> {
        let index = (i as i32).into_val(self.b);
        self.b.op(format_args!("llvm.extractelement {self}[{index} : i32] : {}", Vector::<T, N>::mlir()))
    }

    /// All elements.
    pub fn elements(self) -> [Val<'b, T>; N] {
        std::array::from_fn(|i| self.get(i))
    }
}

impl<'b, const N: usize> Val<'b, Vector<Bf16, N>> {
    /// Exact.
    pub fn to_f32(self) -> Val<'b, Vector<F32, N>> {
        self.convert("llvm.fpext")
    }
}

impl<'b, const N: usize> Val<'b, Vector<F32, N>> {
    /// Each rounded to nearest, ties to even.
    pub fn to_bf16(self) -> Val<'b, Vector<Bf16, N>> {
        self.convert("llvm.fptrunc")
    }
}

impl Builder {
    /// A vector of these elements.
    pub fn vector<'b, T: Ty, const N: usize>(&'b self, elements: [Val<'b, T>; N]) -> Val<'b, Vector<T, N>> {
        let ty = Vector::<T, N>::mlir();
        let mut v: Val<'b, Vector<T, N>> = self.op(format_args!("llvm.mlir.poison : {ty}"));
        for (i, e) in elements.into_iter().enumerate() {
            let index = (i as i32).into_val(self);
            v = self.op(format_args!("llvm.insertelement {e}, {v}[{index} : i32] : {ty}"));
        }
        v
    }
}
