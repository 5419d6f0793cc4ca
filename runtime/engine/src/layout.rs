//! How weights lie in the file, byte by byte, and the pure functions that pack and unpack them.
//!
//! A matrix is `(n, k)`: outputs, inputs. `Rows` is row-major, elements as they are (f32 or bf16, little-endian, or
//! e4m3; the `(n)` scales of e4m3 are f32).
//! `Panel16` groups 16 outputs into a panel; rows are padded to a multiple of 16, inputs to a multiple of 2 (bf16, i8,
//! e4m3) or 8 (i4). Padding stands for zero: elements are 0; for i4 a padded input is the zero point of its group, a
//! padded row has q = 0, zero point 0 and scale 0. Within panel `p` and with `r` the row within the panel:
//!
//! | encoding | payload order | element |
//! |---|---|---|
//! | f32 | `[p][k][r]` | f32 |
//! | bf16 | `[p][k / 2][r][k % 2]` | bf16 |
//! | i8_channel | `[p][k / 2][r][k % 2]` | i8; scale `[p][r]` f32 |
//! | f8_channel | `[p][k / 2][r][k % 2]` | e4m3; scale `[p][r]` f32 |
//! | i4_group | `[p][k / 8][word w]`, 16-bit little-endian words, `w = 2 r + k % 2`, nibble `(k % 8) / 2` from the low end | `q + 8`; scale `[p][k / group][r]` bf16, zero `[p][k / group][r]` i8 |
//!
//! `Fragment16` has the same panels of i8 and i4 in the order in which the 32 lanes of a warp hold them as operand A of
//! `mma.m16n8k16`: lane `4 g + q` has rows `g` and `g + 8`, and of each 32 inputs those from `8 q` to `8 q + 7`, in
//! pieces of 16 bytes. Inputs are padded to a multiple of 64 (i8) or 128 (i4), whose groups are 32, 64 or 128 inputs.
//!
//! | encoding | payload order | byte |
//! |---|---|---|
//! | i8_channel | `[p][k / 32][r % 8][k / 8 % 4][k % 8][r / 8]` | i8; scale `[p][r]` f32 |
//! | i4_group | `[p][k / 64][r % 8][k / 8 % 4][k / 32 % 2][k / 4 % 2][k % 2][k / 2 % 2]` | `q + 8` of row `r % 8` in the low nibble, of row `r % 8 + 8` in the high one; scale `[p][k / group][r % 8][r / 8]` bf16, zero likewise, i8 |
//!
//! Packers take one panel at a time, so a matrix of any size streams. Quantising is not done here.

mod pack;

use crate::error::EngineError;
use crate::manifest::{Encoding, Layout, Weight};
use half::bf16;
pub use pack::{
    F8Row, I4Row, I8Row, Packed, pack_panel_bf16, pack_panel_f8, pack_panel_f32, pack_panel_i4,
    pack_panel_i8, pack_rows, pack_rows_f8,
};

/// Rows of a panel.
pub const PANEL: usize = 16;

/// Which of a weight's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Elements.
    Payload,
    /// Scales.
    Scale,
    /// Zero points.
    Zero,
}

impl Part {
    /// All parts, in the file's order.
    pub const ALL: [Part; 3] = [Part::Payload, Part::Scale, Part::Zero];

    /// The container's name for this part of a weight.
    pub fn tensor(self, weight: &str) -> String {
        match self {
            Part::Payload => weight.to_string(),
            Part::Scale => format!("{weight}.scale"),
            Part::Zero => format!("{weight}.zero"),
        }
    }
}

/// Bytes of a weight's tensors; 0 for a tensor that the encoding does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Elements, padding included.
    pub payload: u64,
    /// Scales.
    pub scale: u64,
    /// Zero points.
    pub zero: u64,
}

impl Sizes {
    /// Bytes of one part.
    pub fn of(&self, part: Part) -> u64 {
        match part {
            Part::Payload => self.payload,
            Part::Scale => self.scale,
            Part::Zero => self.zero,
        }
    }
}

/// Extents of a matrix in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panels {
    /// Panels of 16 rows.
    pub count: u64,
    /// Inputs, padding included.
    pub inputs: u64,
    /// Scales of a row: 0, 1 or one a group.
    pub groups: u64,
}

fn layout_error(text: impl Into<String>) -> EngineError {
    EngineError::Layout(text.into())
}

fn product(factors: &[u64]) -> Result<u64, EngineError> {
    factors
        .iter()
        .try_fold(1u64, |n, &f| n.checked_mul(f))
        .filter(|&n| n <= isize::MAX as u64)
        .ok_or_else(|| layout_error(format!("a tensor of {factors:?} is larger than memory can be")))
}

/// Extents of an `(n, k)` matrix in panels.
pub fn panels(shape: &[u64], encoding: Encoding, layout: Layout) -> Result<Panels, EngineError> {
    let &[n, k] = shape else {
        return Err(layout_error(format!("panels hold matrices, the shape is {shape:?}")));
    };
    let fragments = layout == Layout::Fragment16;
    let unit = match encoding {
        Encoding::F32 | Encoding::Bf16 | Encoding::F8Channel if fragments => {
            return Err(layout_error("fragments are of i8 and i4"));
        }
        Encoding::F32 => 1,
        Encoding::Bf16 | Encoding::F8Channel => 2,
        Encoding::I8Channel => {
            if fragments {
                64
            } else {
                2
            }
        }
        Encoding::I4Group { .. } => {
            if fragments {
                128
            } else {
                8
            }
        }
    };
    let inputs =
        k.checked_next_multiple_of(unit).ok_or_else(|| layout_error(format!("{k} inputs are too many")))?;
    let groups = match encoding {
        Encoding::F32 | Encoding::Bf16 => 0,
        Encoding::I8Channel | Encoding::F8Channel => 1,
        Encoding::I4Group { group } if fragments => {
            if ![32, 64, 128].contains(&group) {
                return Err(layout_error(format!("groups of {group} inputs are not of 32, 64 or 128")));
            }
            inputs / u64::from(group)
        }
        Encoding::I4Group { group } => {
            if group == 0 || !group.is_multiple_of(8) {
                return Err(layout_error(format!("groups of {group} inputs are not a multiple of 8")));
            }
            k.div_ceil(u64::from(group))
        }
    };
    Ok(Panels { count: n.div_ceil(PANEL as u64), inputs, groups })
}

/// Bytes of the tensors of a weight.
pub fn sizes(shape: &[u64], encoding: Encoding, layout: Layout) -> Result<Sizes, EngineError> {
    if shape.is_empty() || shape.contains(&0) {
        return Err(layout_error(format!("the shape {shape:?} has no elements")));
    }
    match (layout, encoding) {
        (Layout::Rows, Encoding::F32 | Encoding::Bf16) => {
            let bytes = if encoding == Encoding::F32 { 4 } else { 2 };
            let payload = product(&[product(shape)?, bytes])?;
            Ok(Sizes { payload, scale: 0, zero: 0 })
        }
        (Layout::Rows, Encoding::F8Channel) => match *shape {
            [n, k] => Ok(Sizes { payload: product(&[n, k])?, scale: product(&[n, 4])?, zero: 0 }),
            _ => Err(layout_error(format!("e4m3 weights are matrices, the shape is {shape:?}"))),
        },
        (Layout::Rows, _) => {
            Err(layout_error("row-major weights are f32, bf16 or e4m3; quantised integers lie in panels"))
        }
        (Layout::Panel16 | Layout::Fragment16, _) => {
            let p = panels(shape, encoding, layout)?;
            let elements = product(&[p.count, PANEL as u64, p.inputs])?;
            let scales = product(&[p.count, PANEL as u64, p.groups])?;
            let (payload, scale, zero) = match encoding {
                Encoding::F32 => (product(&[elements, 4])?, 0, 0),
                Encoding::Bf16 => (product(&[elements, 2])?, 0, 0),
                Encoding::I8Channel | Encoding::F8Channel => (elements, product(&[scales, 4])?, 0),
                Encoding::I4Group { .. } => (elements / 2, product(&[scales, 2])?, scales),
            };
            Ok(Sizes { payload, scale, zero })
        }
    }
}

/// The value of an e4m3 code: sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinities, NaN in `0x7f` and `0xff`.
pub fn e4m3(code: u8) -> f32 {
    if code & 0x7f == 0x7f {
        return f32::NAN;
    }
    // The bits in the places of an f32's, whose exponent has the bias 127; exact, subnormals too.
    let bits = u32::from(code & 0x80) << 24 | u32::from(code & 0x7f) << 20;
    f32::from_bits(bits) * f32::from_bits((127 + 120) << 23)
}

/// Place in a panel of [`Layout::Fragment16`] of the element of row `r`, input `i`, i8: its byte.
pub(crate) fn fragment_i8(r: usize, i: usize) -> usize {
    i / 32 * 512 + (r % 8 * 4 + i / 8 % 4) * 16 + i % 8 * 2 + r / 8
}

/// The same of i4: its byte, and how far to the left its nibble is.
pub(crate) fn fragment_i4(r: usize, i: usize) -> (usize, usize) {
    let unit = i / 64 * 512 + (r % 8 * 4 + i / 8 % 4) * 16 + i / 32 % 2 * 8;
    (unit + i / 4 % 2 * 4 + i % 2 * 2 + i / 2 % 2, r / 8 * 4)
}

/// Place of row `r`'s scale or zero point among the 16 of a group in [`Layout::Fragment16`].
pub(crate) fn fragment_row(r: usize) -> usize {
    r % 8 * 2 + r / 8
}

fn f32_at(bytes: &[u8], index: usize) -> f32 {
    let b = &bytes[4 * index..4 * index + 4];
    f32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn bf16_at(bytes: &[u8], index: usize) -> f32 {
    bf16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32()
}

/// Writes row `row` of a weight into `out`, `(k)` dequantised values: the reference for kernels, and the gather of
/// an embedding table. A weight of one dimension is one row; one of more is `(all but the last, last)`.
/// The parts are the whole tensors; parts that the encoding does not have are ignored.
pub fn unpack_row(
    weight: &Weight,
    payload: &[u8],
    scale: &[u8],
    zero: &[u8],
    row: u64,
    out: &mut [f32],
) -> Result<(), EngineError> {
    let want = sizes(&weight.shape, weight.encoding, weight.layout)?;
    let k = weight.shape.last().copied().unwrap_or(0);
    let n = weight.shape.iter().rev().skip(1).product::<u64>();
    let found = [payload.len() as u64, scale.len() as u64, zero.len() as u64];
    let long_enough = Part::ALL.iter().zip(found).all(|(&p, len)| want.of(p) == 0 || len == want.of(p));
    if row >= n || out.len() as u64 != k || !long_enough {
        return Err(layout_error(format!(
            "row {row} of weight {} {:?} into {} values from tensors of {found:?} bytes, expected {want:?}",
            weight.name,
            weight.shape,
            out.len()
        )));
    }
    // All positions below are inside the tensors: their lengths were just compared with `sizes`.
    let (row, k) = (row as usize, k as usize);
    let (p, r) = (row / PANEL, row % PANEL);
    match (weight.layout, weight.encoding) {
        (Layout::Rows, Encoding::F32) => {
            out.iter_mut().enumerate().for_each(|(i, o)| *o = f32_at(payload, row * k + i))
        }
        (Layout::Rows, Encoding::F8Channel) => {
            let s = f32_at(scale, row);
            out.iter_mut().enumerate().for_each(|(i, o)| *o = e4m3(payload[row * k + i]) * s);
        }
        (Layout::Rows, _) => out.iter_mut().enumerate().for_each(|(i, o)| *o = bf16_at(payload, row * k + i)),
        (Layout::Panel16, Encoding::F32) => {
            out.iter_mut().enumerate().for_each(|(i, o)| *o = f32_at(payload, (p * k + i) * PANEL + r));
        }
        (Layout::Panel16, Encoding::Bf16) => {
            let pairs = k.div_ceil(2);
            for (i, o) in out.iter_mut().enumerate() {
                *o = bf16_at(payload, ((p * pairs + i / 2) * PANEL + r) * 2 + i % 2);
            }
        }
        (Layout::Panel16, Encoding::I8Channel | Encoding::F8Channel) => {
            let pairs = k.div_ceil(2);
            let s = f32_at(scale, row);
            let float = weight.encoding == Encoding::F8Channel;
            for (i, o) in out.iter_mut().enumerate() {
                let code = payload[((p * pairs + i / 2) * PANEL + r) * 2 + i % 2];
                *o = if float { e4m3(code) } else { f32::from(code as i8) } * s;
            }
        }
        (Layout::Panel16, Encoding::I4Group { group }) => {
            let (eights, groups) = (k.div_ceil(8), k.div_ceil(group as usize));
            for (i, o) in out.iter_mut().enumerate() {
                // Word 2 r + k % 2 of 32; nibble (k % 8) / 2 of 4, two a byte.
                let nib = (i % 8) / 2;
                let byte = payload[((p * eights + i / 8) * 2 * PANEL + 2 * r + i % 2) * 2 + nib / 2];
                let q = i32::from(byte >> (4 * (nib % 2)) & 15) - 8;
                let g = (p * groups + i / group as usize) * PANEL + r;
                *o = (q - i32::from(zero[g] as i8)) as f32 * bf16_at(scale, g);
            }
        }
        (Layout::Fragment16, Encoding::I4Group { group }) => {
            let Panels { inputs, groups, .. } = panels(&weight.shape, weight.encoding, weight.layout)?;
            let panel = &payload[p * inputs as usize * PANEL / 2..];
            for (i, o) in out.iter_mut().enumerate() {
                let (byte, shift) = fragment_i4(r, i);
                let q = i32::from(panel[byte] >> shift & 15) - 8;
                let g = (p * groups as usize + i / group as usize) * PANEL + fragment_row(r);
                *o = (q - i32::from(zero[g] as i8)) as f32 * bf16_at(scale, g);
            }
        }
        (Layout::Fragment16, _) => {
            let panel = &payload[p * k.next_multiple_of(64) * PANEL..];
            let s = f32_at(scale, row);
            out.iter_mut().enumerate().for_each(|(i, o)| *o = f32::from(panel[fragment_i8(r, i)] as i8) * s);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
