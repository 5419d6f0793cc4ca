//! Numbers as the ISA has them: formats, rounding, approximate functions, the sums of matrix instructions.
//!
//! Pure functions on values and bits. Nothing here knows of registers, memory or PTX text.

pub mod approx;
pub mod dot;
pub mod double;
pub mod float;
pub mod format;
pub mod half;
