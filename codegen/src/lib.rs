//! Kernel recipes of trtc: which kernel serves which op on which target, and how it becomes PTX.
//!
//! `select` names kernels and packings, `emit` compiles them. Kernels are Rust functions over a typed builder
//! ([`builder`]) that writes MLIR; [`mlir`] turns it into PTX in process. Nothing here knows of engine files.
#![deny(missing_docs)]

pub mod builder;
mod chains;
pub mod emit;
pub mod kernels;
pub mod mlir;
mod products;
pub mod ptxas;
pub mod recipes;
pub mod select;
pub mod signature;
pub mod tile;
pub mod tuning;
