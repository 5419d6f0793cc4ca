//! The engine file of trtc: one safetensors container that any viewer opens.
//!
//! Manifest types, byte layouts of weights, reading with checks, streaming reproducible writing. Nothing of the
//! compiler and nothing of the devices.
#![deny(missing_docs)]

pub mod check;
pub mod container;
pub mod dummy;
pub mod error;
pub mod layout;
pub mod manifest;
pub mod read;
pub mod write;

#[cfg(test)]
mod testing;

pub use error::{EngineError, Fault};
pub use read::{EngineFile, Verify};
pub use write::{EngineWriter, Written};
