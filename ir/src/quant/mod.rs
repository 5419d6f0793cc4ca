//! Quantisation schemes as types: what a stored element means.
//!
//! `value = (payload - zero) * scale`, one scale (and zero) for each block of the grain. Weights can have any scheme;
//! activations those of [`Scheme::is_activation`].
//! The scheme says nothing of where scales come from (passes, or [`quantize`] by default) or how bytes lie in
//! memory (packing).

mod power;
mod reference;
mod scale;

pub use power::{power_of, round_row};
pub use reference::{QuantError, Quantized, dequantize, dequantize_row, quantize, quantize_row, round_rows};

use crate::dtype::DType;
use std::fmt;

/// How many elements share a scale. Dimension 0 is the output channel of a weight or the token of an activation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Grain {
    /// One scale for the whole tensor.
    Tensor,
    /// One scale for each index of dimension 0 of a weight.
    Channel,
    /// One scale for each token of an activation.
    Token,
    /// One scale for each run of this many elements along the last dimension.
    Group(u32),
    /// One scale for each `rows x columns` block.
    Block(u32, u32),
}

/// A quantisation scheme.
///
/// Text form: `!quant<i4:bf16, group 128, zero>`, `!quant<i8:f32, channel>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Scheme {
    /// Element type of what is stored.
    pub payload: DType,
    /// Element type of the scales.
    pub scale: DType,
    /// What shares a scale.
    pub grain: Grain,
    /// True if each block also has an integer zero point of the payload's type.
    pub zero: bool,
}

impl Scheme {
    /// Weight-only INT8: symmetric, an f32 scale for each output channel.
    pub const INT8: Scheme =
        Scheme { payload: DType::I8, scale: DType::F32, grain: Grain::Channel, zero: false };

    /// FP8 weights: e4m3, an f32 scale for each output channel, chosen for the least squared error.
    pub const FP8: Scheme =
        Scheme { payload: DType::F8E4M3, scale: DType::F32, grain: Grain::Channel, zero: false };

    /// FP8 activations: e4m3, an f32 scale for each token. Also each vector of an e4m3 cache.
    pub const FP8_TOKEN: Scheme = Scheme { grain: Grain::Token, ..Scheme::FP8 };

    /// Weight-only INT4: a bf16 scale and a zero point for each group of `n` inputs.
    pub const fn int4(n: u32) -> Scheme {
        Scheme { payload: DType::I4, scale: DType::Bf16, grain: Grain::Group(n), zero: true }
    }

    /// What is wrong with a scheme that no tensor can have: one sentence.
    pub fn check(&self) -> Result<(), String> {
        if !self.scale.is_float() {
            return Err(format!("the scales of {self} must be floats"));
        }
        if self.zero && self.payload.is_float() {
            return Err(format!("{self} has zero points but its payload is not an integer"));
        }
        match self.grain {
            Grain::Group(0) | Grain::Block(0, _) | Grain::Block(_, 0) => {
                Err(format!("{self} has empty blocks"))
            }
            _ => Ok(()),
        }
    }

    /// True if a value of a step can have this scheme: a token knows nothing of others, so each has a scale of its own,
    /// and none has a zero point.
    pub fn is_activation(&self) -> bool {
        self.grain == Grain::Token && !self.zero
    }

    /// Scales in one row of `width` elements (0 where rows share one).
    pub fn scales_per_row(&self, width: u64) -> u64 {
        match self.grain {
            Grain::Tensor => 0,
            Grain::Channel | Grain::Token => 1,
            Grain::Group(n) | Grain::Block(_, n) => width.div_ceil(u64::from(n.max(1))),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "!quant<{}:{}, ", self.payload, self.scale)?;
        match self.grain {
            Grain::Tensor => f.write_str("tensor")?,
            Grain::Channel => f.write_str("channel")?,
            Grain::Token => f.write_str("token")?,
            Grain::Group(n) => write!(f, "group {n}")?,
            Grain::Block(r, c) => write!(f, "block {r} {c}")?,
        }
        f.write_str(if self.zero { ", zero>" } else { ">" })
    }
}
