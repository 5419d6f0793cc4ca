//! Element types: one table with everything that any part of the compiler asks about them.
//!
//! Not here: how a quantised tensor combines a payload and a scale type (`quant.rs`).

use std::fmt;

/// A scalar element type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// 4 exponent and 3 mantissa bits, no infinities (OCP FP8 E4M3).
    F8E4M3,
    /// 5 exponent and 2 mantissa bits (OCP FP8 E5M2).
    F8E5M2,
    /// 2 exponent and 1 mantissa bits (OCP MX FP4).
    F4E2M1,
    /// An exponent without sign or mantissa, a power of two (OCP MX scale).
    F8E8M0,
    /// Signed byte.
    I8,
    /// Signed nibble, -8..7.
    I4,
    /// Unsigned byte.
    U8,
    /// Signed 32-bit integer.
    I32,
}

/// What the table says of one element type.
struct Row {
    dtype: DType,
    /// Spelling in the text form, MLIR's own where MLIR has one.
    name: &'static str,
    bits: u32,
    float: bool,
    /// Largest finite magnitude.
    max: f32,
}

const TABLE: [Row; 11] = [
    Row { dtype: DType::F32, name: "f32", bits: 32, float: true, max: f32::MAX },
    Row { dtype: DType::F16, name: "f16", bits: 16, float: true, max: 65504.0 },
    Row { dtype: DType::Bf16, name: "bf16", bits: 16, float: true, max: 3.389_531_4e38 },
    Row { dtype: DType::F8E4M3, name: "f8E4M3FN", bits: 8, float: true, max: 448.0 },
    Row { dtype: DType::F8E5M2, name: "f8E5M2", bits: 8, float: true, max: 57344.0 },
    Row { dtype: DType::F4E2M1, name: "f4E2M1FN", bits: 4, float: true, max: 6.0 },
    Row { dtype: DType::F8E8M0, name: "f8E8M0FNU", bits: 8, float: true, max: 1.701_411_8e38 },
    Row { dtype: DType::I8, name: "i8", bits: 8, float: false, max: 127.0 },
    Row { dtype: DType::I4, name: "i4", bits: 4, float: false, max: 7.0 },
    Row { dtype: DType::U8, name: "ui8", bits: 8, float: false, max: 255.0 },
    Row { dtype: DType::I32, name: "i32", bits: 32, float: false, max: 2_147_483_600.0 },
];

impl DType {
    /// Every element type, in table order.
    pub fn all() -> impl Iterator<Item = DType> {
        TABLE.iter().map(|r| r.dtype)
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The spelling in the text form: `bf16`, `f8E4M3FN`, `i4`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The type that is spelled `name`.
    pub fn parse(name: &str) -> Option<DType> {
        TABLE.iter().find(|r| r.name == name).map(|r| r.dtype)
    }

    /// Bits of one element.
    pub fn bits(self) -> u32 {
        self.row().bits
    }

    /// Bytes that `count` densely packed elements take, rounded up.
    pub fn bytes(self, count: u64) -> u64 {
        (count * u64::from(self.bits())).div_ceil(8)
    }

    /// True for floating-point types.
    pub fn is_float(self) -> bool {
        self.row().float
    }

    /// The largest finite magnitude.
    pub fn max(self) -> f32 {
        self.row().max
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_enum_order_and_names_parse() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(row.dtype as usize, i);
            assert_eq!(DType::parse(row.name), Some(row.dtype));
        }
    }
}
