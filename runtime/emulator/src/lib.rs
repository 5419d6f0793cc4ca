//! Executes PTX on the CPU, exactly as the PTX ISA defines it, and finds the faults that a GPU hides.
//!
//! It knows nothing of graphs, engines or devices: PTX text and bytes go in, bytes or a [`Fault`] come out. Where the
//! ISA leaves a result to the chip, the chip's known behaviour is documented beside the code.
#![warn(missing_docs)]

pub mod layout;
pub mod number;
