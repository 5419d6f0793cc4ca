//! The graph IR of trtc: types, ops, targets as data, text form, verifier, reference semantics.
//!
//! No IO, no environment, nothing of the other crates.
#![deny(missing_docs)]

pub mod diag;
pub mod dtype;
pub mod entity;
pub mod extract;
pub mod interp;
pub mod loc;
pub mod module;
pub mod numerics;
pub mod ops;
pub mod quant;
pub mod random;
mod source;
pub mod target;
pub mod text;
pub mod types;
pub mod verify;
pub mod view;

pub use diag::{Diag, Fault};
pub use dtype::DType;
pub use entity::{Arena, Id, OpId, ValueId, WeightId};
pub use loc::Loc;
pub use module::{
    Def, Func, KernelChoice, Module, OpData, Packing, RopeFreqs, RopeScaling, Source, Steps, TensorRef,
    Value, Weight,
};
pub use ops::{Op, OpDef};
pub use quant::{Grain, Scheme};
pub use target::Target;
pub use types::{Bytes, Dim, Elem, KvType, Sym, TensorType, Type};
