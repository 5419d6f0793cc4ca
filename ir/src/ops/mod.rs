//! The closed list of ops. One op is one file (documentation with the formula and an example, fields, type
//! inference, checks, reference semantics) and one line in the table at the end of this file.

mod add;
mod add_rms_norm;
mod attention;
mod check;
mod embedding;
mod feed;
mod gated_act;
mod gated_act_packed;
mod gated_linear;
mod gather_rows;
mod kv_append;
mod linear;
mod math;
mod quantize;
mod reader;
mod rms_norm;
mod rope;
mod rope_kv_append;
pub mod sample;
mod slice;

pub use add::Add;
pub use add_rms_norm::AddRmsNorm;
pub use attention::Attention;
pub use embedding::Embedding;
pub use feed::Feed;
pub use gated_act::{Act, GatedAct};
pub use gated_act_packed::GatedActPacked;
pub use gated_linear::GatedLinear;
pub use gather_rows::GatherRows;
pub use kv_append::KvAppend;
pub use linear::Linear;
pub use quantize::Quantize;
pub use rms_norm::{RmsNorm, RmsNormWeight};
pub use rope::Rope;
pub use rope_kv_append::RopeKvAppend;
pub use sample::Sample;
pub use slice::Slice;

use crate::entity::{ValueId, WeightId};
use crate::interp::{Data, EvalCx};
use crate::module::{Module, Weight};
use crate::types::{TensorType, Type};

/// An attribute's value in the text form.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// `3`
    Int(i64),
    /// `1e-5`, printed in the shortest form that reads back to the same f32.
    F32(f32),
    /// `silu`
    Word(String),
    /// `@l0.attn.q.bias`
    Weight(WeightId),
}

/// An op taken apart for printing, and what the parser puts together again.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Parts {
    /// Values read, in the order of the text form.
    pub operands: Vec<ValueId>,
    /// Weights read that are not attributes, in the order of the text form.
    pub weights: Vec<WeightId>,
    /// Named attributes in the order of the text form; optional ones are left out.
    pub attrs: Vec<(&'static str, Attr)>,
}

/// What an op's checks may ask: types of the function's values and of the module's weights.
pub struct TypeCx<'a> {
    /// The module around the op.
    pub module: &'a Module,
}

impl<'a> TypeCx<'a> {
    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> &'a Type {
        &self.module.func.values[value].ty
    }

    /// A weight's declaration.
    pub fn weight(&self, weight: WeightId) -> &'a Weight {
        &self.module.weights[weight]
    }

    /// Type of a value that has to be a tensor; the error names `what`.
    pub fn tensor(&self, value: ValueId, what: &str) -> Result<&'a TensorType, String> {
        self.ty(value).tensor().ok_or_else(|| format!("{what} must be a tensor, found {}", self.ty(value)))
    }
}

/// What every op provides. A new op implements this in its own file.
pub trait OpDef: Sized {
    /// Name in the text form, after `llm.`.
    const NAME: &'static str;

    /// Names of all attributes the op can have, in the order of the text form.
    const ATTRS: &'static [&'static str];

    /// The op taken apart; all knowledge of operands and attributes comes from here.
    fn parts(&self) -> Parts;

    /// The inverse of [`OpDef::parts`]. The error is one sentence.
    fn from_parts(parts: Parts) -> Result<Self, String>;

    /// The operands, for rewriting.
    fn operands_mut(&mut self) -> Vec<&mut ValueId>;

    /// The weights, for rewriting.
    fn weights_mut(&mut self) -> Vec<&mut WeightId>;

    /// Checks operands, weights and attributes against `results`, the declared result types. The error is one
    /// sentence that names the operand or weight and both shapes.
    fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String>;

    /// Reference semantics: computes in f32 and rounds each result to its declared element type, once.
    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String>;
}

/// Makes `enum Op` and its dispatch from the table below.
macro_rules! ops {
    ($($name:ident),* $(,)?) => {
        /// Any op. Closed, so a match that forgets one does not compile.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name),)*
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Op {
                Op::$name(op)
            }
        })*

        impl Op {
            /// The names of all ops.
            pub const NAMES: &'static [&'static str] = &[$($name::NAME),*];

            /// Names of the attributes that the op called `name` can have; `None` if there is no such op.
            pub fn attrs_of(name: &str) -> Option<&'static [&'static str]> {
                match name {
                    $(n if n == $name::NAME => Some($name::ATTRS),)*
                    _ => None,
                }
            }

            /// Name in the text form, after `llm.`.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name(_) => $name::NAME,)* }
            }

            /// See [`OpDef::parts`].
            pub fn parts(&self) -> Parts {
                match self { $(Op::$name(op) => op.parts(),)* }
            }

            /// The op called `name`, put together from its parts; `None` if there is no such op.
            pub fn from_parts(name: &str, parts: Parts) -> Option<Result<Op, String>> {
                match name {
                    $(n if n == $name::NAME => Some($name::from_parts(parts).map(Op::$name)),)*
                    _ => None,
                }
            }

            /// See [`OpDef::operands_mut`].
            pub fn operands_mut(&mut self) -> Vec<&mut ValueId> {
                match self { $(Op::$name(op) => op.operands_mut(),)* }
            }

            /// See [`OpDef::weights_mut`].
            pub fn weights_mut(&mut self) -> Vec<&mut WeightId> {
                match self { $(Op::$name(op) => op.weights_mut(),)* }
            }

            /// See [`OpDef::check`].
            pub fn check(&self, cx: &TypeCx<'_>, results: &[Type]) -> Result<(), String> {
                match self { $(Op::$name(op) => op.check(cx, results),)* }
            }

            /// See [`OpDef::eval`].
            pub fn eval(&self, cx: &mut EvalCx<'_>) -> Result<Vec<Data>, String> {
                match self { $(Op::$name(op) => op.eval(cx),)* }
            }
        }
    };
}

// The table: one line an op.
ops! {
    Embedding,
    RmsNorm,
    Linear,
    Slice,
    Add,
    Rope,
    KvAppend,
    Attention,
    GatedAct,
    GatherRows,
    AddRmsNorm,
    RopeKvAppend,
    GatedActPacked,
    Feed,
    Sample,
    Quantize,
    GatedLinear,
}

impl Op {
    /// Values read, in the order of the text form.
    pub fn operands(&self) -> Vec<ValueId> {
        self.parts().operands
    }

    /// All weights read, attributes included.
    pub fn weights(&self) -> Vec<WeightId> {
        let parts = self.parts();
        let in_attrs =
            parts.attrs.iter().filter_map(|(_, a)| if let Attr::Weight(w) = a { Some(*w) } else { None });
        parts.weights.iter().copied().chain(in_attrs).collect()
    }
}
