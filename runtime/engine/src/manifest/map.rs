//! Tensor maps of a kernel: what a tensor copy needs to know of an argument, beside its address.
//!
//! Plain data; who encodes a map for the hardware is the device. Only matrices, rows one after the other.

use super::{Count, Dims};
use serde::{Deserialize, Serialize};

/// A map over one argument, `(rows, width)`; one more parameter, 128 bytes, after the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// Index into the kernel's arguments; of an argument of several pointers the first.
    pub arg: u32,
    /// What is copied.
    pub elem: MapElem,
    /// Elements of a row; rows lie without gaps and are a multiple of 16 bytes.
    pub width: u32,
    /// Rows.
    pub rows: MapRows,
    /// What one copy takes: rows, columns.
    pub tile: [u32; 2],
    /// Bytes of a row over which chunks of 16 bytes are exchanged in shared memory; 0 for none.
    pub swizzle: u32,
}

/// Elements of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapElem {
    /// Bytes: also 8-bit floats.
    U8,
    /// bf16.
    Bf16,
    /// f32.
    F32,
}

impl MapElem {
    /// Bytes of an element.
    pub fn bytes(self) -> u32 {
        match self {
            MapElem::U8 => 1,
            MapElem::Bf16 => 2,
            MapElem::F32 => 4,
        }
    }
}

/// Rows of a map. What lies outside is loaded as zeros and not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MapRows {
    /// So many.
    Fixed(u32),
    /// The greatest number of a step that the engine is loaded for: rows past a step's own hold anything.
    Most(Count),
    /// So many in each page of the cache.
    Paged(u32),
}

impl MapRows {
    /// The number, with a cache of `pages` pages.
    pub fn count(self, dims: &Dims, pages: u32) -> u64 {
        match self {
            MapRows::Fixed(n) => u64::from(n),
            MapRows::Most(of) => dims.most(of),
            MapRows::Paged(n) => u64::from(n) * u64::from(pages),
        }
    }
}

impl Map {
    /// Bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        u64::from(self.width) * u64::from(self.elem.bytes())
    }

    /// What no device can encode: one sentence.
    pub(crate) fn wrong(&self) -> Option<String> {
        let [rows, columns] = self.tile;
        let tile_bytes = columns.saturating_mul(self.elem.bytes());
        let span = if self.swizzle == 0 { u32::MAX } else { self.swizzle };
        let checks = [
            (![0, 32, 64, 128].contains(&self.swizzle), format!("a swizzle of {} bytes", self.swizzle)),
            (
                !(1..=256).contains(&rows) || !(1..=256).contains(&columns),
                format!("tiles of {:?}", self.tile),
            ),
            (
                !tile_bytes.is_multiple_of(16) || tile_bytes > span,
                format!("tiles of {tile_bytes} bytes a row, swizzled over {}", self.swizzle),
            ),
            (
                self.width == 0 || !self.row_bytes().is_multiple_of(16),
                format!("rows of {} bytes", self.row_bytes()),
            ),
            (matches!(self.rows, MapRows::Fixed(0) | MapRows::Paged(0)), "no rows".to_owned()),
        ];
        checks.into_iter().find_map(|(wrong, what)| wrong.then(|| format!("a tensor map with {what}")))
    }
}
