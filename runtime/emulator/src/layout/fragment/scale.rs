//! Scale factors of block-scaled mma.sync: which byte of which lane's register scales a row of A or a column of B.
//!
//! Source: PTX ISA 9.7.14.3 ("Block Scaling for mma.sync") and CUTLASS `MMA_Traits` of sm_120 (`SFALayout`,
//! `SFBLayout`). Each lane has one 32-bit register for either operand; most lanes' registers are not read.

use super::FragmentError;

/// `.scale_vec_size`: scale factors along K of one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleVector {
    /// One: `.kind::mxf8f6f4`.
    X1,
    /// Two: `.kind::mxf4` and `mxf4nvf4`.
    X2,
    /// Four: `.kind::mxf4nvf4`.
    X4,
}

impl ScaleVector {
    /// Scale factors along K.
    pub const fn factors(self) -> usize {
        match self {
            ScaleVector::X1 => 1,
            ScaleVector::X2 => 2,
            ScaleVector::X4 => 4,
        }
    }
}

/// The selectors `{byte-id, thread-id}` of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScaleSelector {
    vector: ScaleVector,
    byte: u16,
    thread: u16,
}

impl ScaleSelector {
    /// The selector of A, whose thread id (0 or 1) selects a pair of each quad.
    pub fn a(vector: ScaleVector, byte: u16, thread: u16) -> Result<ScaleSelector, FragmentError> {
        Self::new(vector, byte, thread, 1, "0 and 1")
    }

    /// The selector of B, whose thread id (0 to 3) selects a lane of each quad.
    pub fn b(vector: ScaleVector, byte: u16, thread: u16) -> Result<ScaleSelector, FragmentError> {
        Self::new(vector, byte, thread, 3, "0 to 3")
    }

    fn new(
        vector: ScaleVector,
        byte: u16,
        thread: u16,
        most: u16,
        allowed: &'static str,
    ) -> Result<ScaleSelector, FragmentError> {
        let (step, bytes) = match vector {
            ScaleVector::X1 => (1, "0 to 3"),
            ScaleVector::X2 => (2, "0 and 2"),
            ScaleVector::X4 => (4, "0"),
        };
        if byte > 3 || !byte.is_multiple_of(step) {
            return Err(FragmentError::Selector { vector, what: "byte id", found: byte, allowed: bytes });
        }
        if thread > most {
            return Err(FragmentError::Selector { vector, what: "thread id", found: thread, allowed });
        }
        Ok(ScaleSelector { vector, byte, thread })
    }

    /// Lane and byte of the scale of `row` (0..16) of A for part `part` of K. The even lane of the pair has row g, the
    /// odd one row g + 8.
    pub const fn of_row(self, row: usize, part: usize) -> (usize, usize) {
        (row % 8 * 4 + self.thread as usize * 2 + row / 8, self.byte as usize + part)
    }

    /// Lane and byte of the scale of `column` (0..8) of B for part `part` of K.
    pub const fn of_column(self, column: usize, part: usize) -> (usize, usize) {
        (column * 4 + self.thread as usize, self.byte as usize + part)
    }

    /// The part of K that element `k` of an instruction with `k_size` elements belongs to.
    pub const fn part(self, k: usize, k_size: usize) -> usize {
        k * self.vector.factors() / k_size
    }
}
