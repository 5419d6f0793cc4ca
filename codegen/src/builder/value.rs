//! Typed values of a kernel and their arithmetic.
//!
//! A [`Val`] is a name in the MLIR text with a Rust type; operators append ops. Integer `+ - *` are signed and must not
//! overflow (`nsw`), `/ %` are of non-negative numbers. Floating-point ops are as written, never contracted: ask for
//! [`Val::fma`].

use super::Builder;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Shr, Sub};

/// A type of the llvm dialect.
pub trait Ty: Copy + 'static {
    /// Its spelling.
    fn mlir() -> Cow<'static, str>;
    /// Letter of its register class in inline PTX.
    const REG: char;
    /// Bytes in memory.
    const BYTES: u32;
}

macro_rules! scalars {
    ($($(#[$doc:meta])* $name:ident $spelling:literal $reg:literal $bytes:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
        impl Ty for $name {
            fn mlir() -> Cow<'static, str> { Cow::Borrowed($spelling) }
            const REG: char = $reg;
            const BYTES: u32 = $bytes;
        }
    )*};
}

scalars! {
    /// A truth value.
    I1 "i1" 'b' 1;
    /// A byte.
    I8 "i8" 'h' 1;
    /// 16 bits.
    I16 "i16" 'h' 2;
    /// 32 bits.
    I32 "i32" 'r' 4;
    /// 64 bits.
    I64 "i64" 'l' 8;
    /// IEEE binary32.
    F32 "f32" 'f' 4;
    /// The upper half of binary32; for loads and stores, arithmetic is in f32.
    Bf16 "bf16" 'h' 2;
    /// A tensor map in parameter space, by its generic address.
    TensorMap "!llvm.ptr" 'l' 8;
}

/// An address space.
pub trait Space: Copy + 'static {
    /// Its number in NVPTX.
    const NUMBER: u32;
}

/// Device memory.
#[derive(Clone, Copy, Debug)]
pub struct Global;
/// The block's own shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Shared;
/// Shared memory of any block of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Cluster;

impl Space for Global {
    const NUMBER: u32 = 1;
}
impl Space for Shared {
    const NUMBER: u32 = 3;
}
impl Space for Cluster {
    const NUMBER: u32 = 7;
}

/// A pointer to elements `E` in space `S`.
#[derive(Clone, Copy, Debug)]
pub struct Ptr<S, E>(PhantomData<(S, E)>);

impl<S: Space, E: Ty> Ty for Ptr<S, E> {
    fn mlir() -> Cow<'static, str> {
        Cow::Owned(format!("!llvm.ptr<{}>", S::NUMBER))
    }
    const REG: char = 'l';
    const BYTES: u32 = 8;
}

/// Types with `+ - *` and comparisons.
pub trait Num: Ty {
    /// Ops of `+`, `-`, `*`.
    const ARITH: [&'static str; 3];
    /// Flags after the operands of those.
    const FLAGS: &'static str;
    /// Comparison op.
    const COMPARE: &'static str;
    /// Its predicates for `<`, `<=`, `==`, `!=`.
    const PREDICATES: [&'static str; 4];
}

/// Integers.
pub trait Int: Ty {}

macro_rules! ints {
    ($($name:ident)*) => {$(
        impl Int for $name {}
        impl Num for $name {
            const ARITH: [&'static str; 3] = ["llvm.add", "llvm.sub", "llvm.mul"];
            const FLAGS: &'static str = " overflow<nsw>";
            const COMPARE: &'static str = "llvm.icmp";
            const PREDICATES: [&'static str; 4] = ["slt", "sle", "eq", "ne"];
        }
    )*};
}

ints!(I16 I32 I64);
impl Int for I1 {}

impl Num for F32 {
    const ARITH: [&'static str; 3] = ["llvm.fadd", "llvm.fsub", "llvm.fmul"];
    const FLAGS: &'static str = "";
    const COMPARE: &'static str = "llvm.fcmp";
    const PREDICATES: [&'static str; 4] = ["olt", "ole", "oeq", "une"];
}

/// A value of type `T`.
#[derive(Clone, Copy)]
pub struct Val<'b, T> {
    pub(super) b: &'b Builder,
    pub(super) id: u32,
    pub(super) ty: PhantomData<T>,
}

/// A pointer to device memory.
pub type GlobalPtr<'b, E> = Val<'b, Ptr<Global, E>>;
/// A pointer to shared memory.
pub type SharedPtr<'b, E> = Val<'b, Ptr<Shared, E>>;

/// A value without its Rust type.
#[derive(Clone, Debug)]
pub struct Raw {
    pub(super) id: u32,
    pub(super) ty: Cow<'static, str>,
    pub(super) reg: char,
}

impl<T> fmt::Display for Val<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.id)
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.id)
    }
}

/// A value, or a number that becomes a constant.
pub trait IntoVal<'b, T> {
    /// The value.
    fn into_val(self, b: &'b Builder) -> Val<'b, T>;
}

impl<'b, T> IntoVal<'b, T> for Val<'b, T> {
    fn into_val(self, _: &'b Builder) -> Val<'b, T> {
        self
    }
}

macro_rules! constants {
    ($($from:ident $to:ident)*) => {$(
        impl<'b> IntoVal<'b, $to> for $from {
            fn into_val(self, b: &'b Builder) -> Val<'b, $to> {
                b.constant(i64::from(self))
            }
        }
    )*};
}

constants!(bool I1 i16 I16 i32 I32 u32 I32 i64 I64);

impl<'b> IntoVal<'b, F32> for f32 {
    fn into_val(self, b: &'b Builder) -> Val<'b, F32> {
        b.constant_f32(self)
    }
}

impl<'b, T: Ty> Val<'b, T> {
    /// The value without its type.
    pub fn raw(self) -> Raw {
        Raw { id: self.id, ty: T::mlir(), reg: T::REG }
    }

    /// The kernel that this value belongs to.
    pub fn builder(self) -> &'b Builder {
        self.b
    }

    /// `self op other : type`.
    fn binary(self, op: &str, other: Val<'b, T>, flags: &str) -> Val<'b, T> {
        self.b.op(format_args!("{op} {self}, {other}{flags} : {}", T::mlir()))
    }

    /// The same bits as another type of the same size.
    pub fn bitcast<U: Ty>(self) -> Val<'b, U> {
        self.b.op(format_args!("llvm.bitcast {self} : {} to {}", T::mlir(), U::mlir()))
    }

    /// `op self : T to U`.
    pub(super) fn convert<U: Ty>(self, op: &str) -> Val<'b, U> {
        self.b.op(format_args!("{op} {self} : {} to {}", T::mlir(), U::mlir()))
    }
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident $index:literal)*) => {$(
        impl<'b, T: Num, R: IntoVal<'b, T>> $trait<R> for Val<'b, T> {
            type Output = Val<'b, T>;
            fn $method(self, other: R) -> Val<'b, T> {
                self.binary(T::ARITH[$index], other.into_val(self.b), T::FLAGS)
            }
        }
    )*};
}

arithmetic!(Add add 0 Sub sub 1 Mul mul 2);

macro_rules! bits {
    ($($trait:ident $method:ident $op:literal)*) => {$(
        impl<'b, T: Int, R: IntoVal<'b, T>> $trait<R> for Val<'b, T> {
            type Output = Val<'b, T>;
            /// Shifts to the right are logical.
            fn $method(self, other: R) -> Val<'b, T> {
                self.binary($op, other.into_val(self.b), "")
            }
        }
    )*};
}

bits!(BitAnd bitand "llvm.and" BitOr bitor "llvm.or" BitXor bitxor "llvm.xor" Shl shl "llvm.shl" Shr shr "llvm.lshr");

macro_rules! division {
    ($($trait:ident $method:ident $op:literal)*) => {$(
        impl<'b, R: IntoVal<'b, I32>> $trait<R> for Val<'b, I32> {
            type Output = Val<'b, I32>;
            /// Of non-negative numbers.
            fn $method(self, by: R) -> Val<'b, I32> {
                self.binary($op, by.into_val(self.b), "")
            }
        }
    )*};
}

division!(Div div "llvm.udiv" Rem rem "llvm.urem");

impl<'b> Not for Val<'b, I1> {
    type Output = Val<'b, I1>;
    fn not(self) -> Val<'b, I1> {
        self ^ true
    }
}

impl<'b> Neg for Val<'b, F32> {
    type Output = Val<'b, F32>;
    fn neg(self) -> Val<'b, F32> {
        self.b.op(format_args!("llvm.fneg {self} : f32"))
    }
}

impl<'b, T: Num> Val<'b, T> {
    fn compare(self, predicate: &str, other: Val<'b, T>) -> Val<'b, I1> {
        self.b.op(format_args!("{} \"{predicate}\" {self}, {other} : {}", T::COMPARE, T::mlir()))
    }

    /// `self < other`, signed.
    pub fn lt(self, other: impl IntoVal<'b, T>) -> Val<'b, I1> {
        self.compare(T::PREDICATES[0], other.into_val(self.b))
    }

    /// `self <= other`, signed.
    pub fn le(self, other: impl IntoVal<'b, T>) -> Val<'b, I1> {
        self.compare(T::PREDICATES[1], other.into_val(self.b))
    }

    /// `self == other`.
    pub fn eq(self, other: impl IntoVal<'b, T>) -> Val<'b, I1> {
        self.compare(T::PREDICATES[2], other.into_val(self.b))
    }

    /// `self != other`.
    pub fn ne(self, other: impl IntoVal<'b, T>) -> Val<'b, I1> {
        self.compare(T::PREDICATES[3], other.into_val(self.b))
    }
}

impl<'b> Val<'b, I1> {
    /// `self ? yes : no`.
    pub fn select<T: Ty>(self, yes: impl IntoVal<'b, T>, no: impl IntoVal<'b, T>) -> Val<'b, T> {
        let (yes, no) = (yes.into_val(self.b), no.into_val(self.b));
        self.b.op(format_args!("llvm.select {self}, {yes}, {no} : i1, {}", T::mlir()))
    }

    /// 0 or 1.
    pub fn to_i32(self) -> Val<'b, I32> {
        self.convert("llvm.zext")
    }
}

impl<'b> Val<'b, I32> {
    /// `ceil(self / by)` of non-negative numbers.
    pub fn div_ceil(self, by: u32) -> Val<'b, I32> {
        (self + (by - 1)) / by
    }

    /// The smaller one.
    pub fn min(self, other: impl IntoVal<'b, I32>) -> Val<'b, I32> {
        let other = other.into_val(self.b);
        self.b.op(format_args!("llvm.intr.smin({self}, {other}) : (i32, i32) -> i32"))
    }

    /// The larger one.
    pub fn max(self, other: impl IntoVal<'b, I32>) -> Val<'b, I32> {
        let other = other.into_val(self.b);
        self.b.op(format_args!("llvm.intr.smax({self}, {other}) : (i32, i32) -> i32"))
    }

    /// The lower half.
    pub fn to_i16(self) -> Val<'b, I16> {
        self.convert("llvm.trunc")
    }

    /// Sign-extended.
    pub fn to_i64(self) -> Val<'b, I64> {
        self.convert("llvm.sext")
    }

    /// The nearest f32.
    pub fn to_f32(self) -> Val<'b, F32> {
        self.convert("llvm.sitofp")
    }
}

impl<'b> Val<'b, I64> {
    /// The lower half.
    pub fn to_i32(self) -> Val<'b, I32> {
        self.convert("llvm.trunc")
    }
}
