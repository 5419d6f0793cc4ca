//! Scales that a checkpoint has as tensors of their own, beside those that they are of.
//!
//! Which tensor's scales another holds, and how many elements share one, is what a format says (`hf/quantised.rs`).

use super::{CheckpointWeights, Reader, rows_and_width};
use crate::frontend::gguf::dequant::Encoding;
use std::ops::Range;
use trtc_ir::{Diag, Loc};

/// Scales of a matrix: floats in the checkpoint, one for each block of its elements, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scales {
    file: usize,
    bytes: Range<usize>,
    encoding: Encoding,
    /// Rows and columns of a block, at least 1.
    block: (u64, u64),
}

impl Scales {
    /// Columns that share a scale.
    pub(super) fn columns(&self) -> usize {
        usize::try_from(self.block.1.max(1)).unwrap_or(usize::MAX)
    }
}

impl CheckpointWeights {
    /// Makes the tensor `scales` those of the matrix `name`, one for each block of `block` rows and columns; it is then
    /// no tensor of its own any more. Refuses scales that are not floats, or not as many as there are blocks.
    pub fn attach(&mut self, name: &str, scales: &str, block: (u64, u64)) -> Result<(), Diag> {
        let (Some(matrix), Some(found)) = (self.tensors.get(name), self.tensors.get(scales)) else {
            return Err(Diag::bug(
                &Loc::name(scales),
                format!("there is no tensor {name:?} with such scales"),
            ));
        };
        let loc = self.files[found.file].loc();
        let floats = [Encoding::F32, Encoding::F16, Encoding::Bf16];
        let Some(encoding) = found.encoding.filter(|e| floats.contains(e)) else {
            return Err(Diag::unsupported(&loc, format!("scales {scales:?} have type {}", found.info.dtype)));
        };
        let (rows, width) = rows_and_width(&matrix.info.shape);
        let blocks = rows.div_ceil(block.0.max(1)).checked_mul(width.div_ceil(block.1.max(1)));
        let count = found.info.shape.iter().product::<u64>();
        if blocks != Some(count) {
            return Err(Diag::user(&loc, format!("has {count} scales {scales:?} for {blocks:?} blocks")));
        }
        let made = Scales { file: found.file, bytes: found.bytes.clone(), encoding, block };
        self.forget(scales);
        if let Some(matrix) = self.tensors.get_mut(name) {
            matrix.scales = Some(made);
        }
        Ok(())
    }

    /// True if a tensor has scales.
    pub fn scaled(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|t| t.scales.is_some())
    }

    /// The scales of a row of `width` elements, one for each [`Scales::columns`] of them.
    pub(super) fn scales_of_row(&self, scales: &Scales, row: u64, width: usize) -> Vec<f32> {
        let count = width.div_ceil(scales.columns());
        let mut out = vec![0.0; count];
        let bytes = &self.files[scales.file].bytes()[scales.bytes.clone()];
        let reader = Reader { bytes, encoding: scales.encoding, width: count };
        reader.read((row / scales.block.0.max(1)) as usize, &mut out);
        out
    }
}
