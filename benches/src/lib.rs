//! What benchmarks and their tests share: a device that computes nothing, an engine for it, and a clock.

pub mod clock;
pub mod null;
pub mod steady;
