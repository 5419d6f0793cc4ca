//! Fusion: one pattern family a file, each a pass of its own, each with its equation.
//!
//! A fused op computes in f32 and rounds once; where its equation passes through a narrower type between its
//! parts, the fused result is the more exact one. In f32 both sides agree up to the order of summation.

pub mod add_norm;
pub mod epilogue;
pub mod gate_up;
pub mod gated_act;
pub mod gated_linear;
mod merge;
pub mod qkv;
pub mod quantize;
pub mod rope_kv;
pub mod sink_gather;
