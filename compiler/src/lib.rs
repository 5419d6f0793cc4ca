//! From a checkpoint to an engine file: frontends, phases, the pipeline, lowering and packing.
//!
//! No arguments, environment or terminal: those are the command line's. No device either.

mod build;
mod dump;
mod engine;
pub mod frontend;
mod gpu;
mod lower;
mod options;
mod pack;
pub mod phase;
pub mod pipeline;
pub mod plan;

pub use build::{BuildReport, Progress, build, module_after, variants};
pub use options::BuildOptions;
pub use phase::Phase;
pub use plan::Plan;
pub use trtc_codegen::tuning::{Tuning, Variant};
