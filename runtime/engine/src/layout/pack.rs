//! Packers: rows to bytes, one panel at a time. The byte order is defined in `layout.rs`; quantising is not done here.

use super::{PANEL, Part, fragment_row, layout_error, panels};
use crate::error::EngineError;
use crate::manifest::{Dtype, Encoding, Layout};
use half::bf16;

/// A row in [`Encoding::I8Channel`], quantised.
#[derive(Clone, Copy, Debug)]
pub struct I8Row<'a> {
    /// `(k)`.
    pub q: &'a [i8],
    /// `w = q * scale`.
    pub scale: f32,
}

/// A row in [`Encoding::F8Channel`], quantised.
#[derive(Clone, Copy, Debug)]
pub struct F8Row<'a> {
    /// `(k)` codes, none of them NaN.
    pub q: &'a [u8],
    /// `w = q * scale`.
    pub scale: f32,
}

impl F8Row<'_> {
    fn check(&self) -> Result<(), EngineError> {
        match self.q.iter().position(|q| q & 0x7f == 0x7f) {
            Some(column) => Err(layout_error(format!("the e4m3 value in column {column} is NaN"))),
            None => Ok(()),
        }
    }
}

/// A row in [`Encoding::I4Group`], quantised.
#[derive(Clone, Copy, Debug)]
pub struct I4Row<'a> {
    /// `(k)`, each in -8..=7.
    pub q: &'a [i8],
    /// `(ceil(k / group))`.
    pub scale: &'a [bf16],
    /// `(ceil(k / group))`, each in -8..=7.
    pub zero: &'a [i8],
}

/// Where packers append: one buffer for each tensor of the weight. Take the payload away after each panel; scales
/// and zero points are small and are written when the payload is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Elements.
    pub payload: Vec<u8>,
    /// Scales.
    pub scale: Vec<u8>,
    /// Zero points.
    pub zero: Vec<u8>,
}

impl Packed {
    /// The bytes of one part.
    pub fn part(&self, part: Part) -> &[u8] {
        match part {
            Part::Payload => &self.payload,
            Part::Scale => &self.scale,
            Part::Zero => &self.zero,
        }
    }
}

/// Number of inputs of a panel's rows; refuses an empty panel, more than 16 rows and rows of different lengths.
fn inputs(lengths: impl ExactSizeIterator<Item = usize>) -> Result<usize, EngineError> {
    let count = lengths.len();
    let mut lengths = lengths;
    match lengths.next() {
        Some(k) if count <= PANEL && lengths.all(|l| l == k) => Ok(k),
        _ => Err(layout_error(format!("a panel has 1 to {PANEL} rows of equal length, not {count} of any"))),
    }
}

/// Appends `values` in row-major order; f32 is rounded to nearest even for bf16. Refuses e4m3, whose rows have scales.
pub fn pack_rows(values: &[f32], dtype: Dtype, out: &mut Vec<u8>) -> Result<(), EngineError> {
    match dtype {
        Dtype::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Dtype::Bf16 => out.extend(values.iter().flat_map(|&v| to_bf16(v).to_le_bytes())),
        Dtype::F8E4M3 => return Err(layout_error("rows of e4m3 are quantised before they are packed")),
    }
    Ok(())
}

/// Appends rows in [`Encoding::F8Channel`], row-major.
pub fn pack_rows_f8(rows: &[F8Row<'_>], out: &mut Packed) -> Result<(), EngineError> {
    for row in rows {
        row.check()?;
        out.payload.extend_from_slice(row.q);
        out.scale.extend_from_slice(&row.scale.to_le_bytes());
    }
    Ok(())
}

/// Appends a panel: `make` turns `U` inputs of a row into `W` bytes, which lie side by side for the 16 rows.
/// Inputs beyond the end are `pad(row)`; rows that are not given get `empty` in every byte.
fn interleave<'a, T: Copy + 'a, const U: usize, const W: usize>(
    rows: impl Iterator<Item = &'a [T]> + Clone,
    k: usize,
    out: &mut Vec<u8>,
    empty: u8,
    pad: impl Fn(usize) -> T,
    make: impl Fn(&[T; U]) -> [u8; W],
) {
    // Units of a row between moving on to the next row: a piece of the output that stays in the first-level cache.
    const RUN: usize = 128;
    let begin = out.len();
    out.resize(begin + k.div_ceil(U) * PANEL * W, empty);
    let (cells, _) = out[begin..].as_chunks_mut::<W>();
    for (run, cells) in cells.chunks_mut(PANEL * RUN).enumerate() {
        for (r, row) in rows.clone().enumerate() {
            let (units, tail) = row.as_chunks::<U>();
            let mut to = cells.iter_mut().skip(r).step_by(PANEL);
            let units = units.get(run * RUN..).unwrap_or(&[]);
            for (unit, to) in units.iter().zip(&mut to) {
                *to = make(unit);
            }
            // What is left of the last run: the place of the unit that is not full.
            if let Some(to) = to.next().filter(|_| !tail.is_empty() && units.len() < RUN) {
                let mut unit = [pad(r); U];
                unit[..tail.len()].copy_from_slice(tail);
                *to = make(&unit);
            }
        }
    }
}

/// bf16 rounded to nearest even, as [`bf16::from_f32`] but without branches.
pub(super) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { (bits >> 16 | 0x40) as u16 } else { rounded as u16 }
}

/// Appends a panel in [`Encoding::F32`]; `rows` are up to 16 rows of `(k)`.
pub fn pack_panel_f32(rows: &[&[f32]], out: &mut Vec<u8>) -> Result<(), EngineError> {
    let k = inputs(rows.iter().map(|r| r.len()))?;
    interleave(rows.iter().copied(), k, out, 0, |_| 0.0, |&[x]: &[f32; 1]| x.to_le_bytes());
    Ok(())
}

/// Appends a panel in [`Encoding::Bf16`], rounding to nearest even; `rows` are up to 16 rows of `(k)`.
pub fn pack_panel_bf16(rows: &[&[f32]], out: &mut Vec<u8>) -> Result<(), EngineError> {
    let k = inputs(rows.iter().map(|r| r.len()))?;
    let pair = |&[a, b]: &[f32; 2]| (u32::from(to_bf16(a)) | u32::from(to_bf16(b)) << 16).to_le_bytes();
    interleave(rows.iter().copied(), k, out, 0, |_| 0.0, pair);
    Ok(())
}

/// Appends a panel of fragments: `make` turns 8 inputs of rows `g` and `g + 8` into `W` bytes, `inputs` (padded) inputs
/// a row; the bytes of `16 / W` such eights, 32 inputs apart, lie side by side. Rows that are not given, and inputs
/// beyond the end, are `pad(row)`.
fn fragments<const W: usize>(
    rows: &[&[i8]],
    inputs: usize,
    out: &mut Vec<u8>,
    pad: impl Fn(usize) -> i8,
    make: impl Fn(&[i8; 8], &[i8; 8]) -> [u8; W],
) {
    let (cells, begin) = (16 / W, out.len());
    out.resize(begin + inputs * W, 0);
    let (places, _) = out[begin..].as_chunks_mut::<W>();
    for g in 0..8 {
        let eight = |r: usize, unit: usize| {
            let row = rows.get(r).copied().unwrap_or(&[]);
            let rest = row.get(unit * 8..).unwrap_or(&[]);
            rest.first_chunk::<8>().copied().unwrap_or_else(|| {
                let mut eight = [pad(r); 8];
                eight[..rest.len()].copy_from_slice(rest);
                eight
            })
        };
        for unit in 0..inputs / 8 {
            // Unit: [piece][cell][q]; place: [piece][g][q][cell].
            let (piece, cell, q) = (unit / (4 * cells), unit / 4 % cells, unit % 4);
            places[((piece * 8 + g) * 4 + q) * cells + cell] = make(&eight(g, unit), &eight(g + 8, unit));
        }
    }
}

/// Appends a panel in [`Encoding::I8Channel`].
pub fn pack_panel_i8(rows: &[I8Row<'_>], layout: Layout, out: &mut Packed) -> Result<(), EngineError> {
    let k = inputs(rows.iter().map(|r| r.q.len()))?;
    if layout == Layout::Fragment16 {
        let p = panels(&[PANEL as u64, k as u64], Encoding::I8Channel, layout)?;
        let rows: Vec<&[i8]> = rows.iter().map(|r| r.q).collect();
        fragments(
            &rows,
            p.inputs as usize,
            &mut out.payload,
            |_| 0,
            |low, high| -> [u8; 16] { std::array::from_fn(|i| [low, high][i % 2][i / 2] as u8) },
        );
    } else {
        let pair = |&[a, b]: &[i8; 2]| [a as u8, b as u8];
        interleave(rows.iter().map(|r| r.q), k, &mut out.payload, 0, |_| 0, pair);
    }
    panel_scales(rows.iter().map(|row| row.scale), out);
    Ok(())
}

/// Appends the scales of a panel's rows; those of rows that are not given are 0.
fn panel_scales(scales: impl Iterator<Item = f32>, out: &mut Packed) {
    let all = scales.chain(std::iter::repeat(0.0)).take(PANEL);
    out.scale.extend(all.flat_map(f32::to_le_bytes));
}

/// Appends a panel of [`Layout::Panel16`] in [`Encoding::F8Channel`].
pub fn pack_panel_f8(rows: &[F8Row<'_>], out: &mut Packed) -> Result<(), EngineError> {
    let k = inputs(rows.iter().map(|r| r.q.len()))?;
    rows.iter().try_for_each(F8Row::check)?;
    interleave(rows.iter().map(|r| r.q), k, &mut out.payload, 0, |_| 0, |&pair: &[u8; 2]| pair);
    panel_scales(rows.iter().map(|row| row.scale), out);
    Ok(())
}

/// Appends a panel in [`Encoding::I4Group`] with groups of `group` inputs.
pub fn pack_panel_i4(
    rows: &[I4Row<'_>],
    group: u32,
    layout: Layout,
    out: &mut Packed,
) -> Result<(), EngineError> {
    let k = inputs(rows.iter().map(|r| r.q.len()))?;
    let p = panels(&[PANEL as u64, k as u64], Encoding::I4Group { group }, layout)?;
    let groups = k.div_ceil(group as usize);
    if rows.iter().any(|r| r.scale.len() != groups || r.zero.len() != groups) {
        return Err(layout_error(format!(
            "{k} inputs in groups of {group} need {groups} scales and zero points"
        )));
    }
    // -8..=7 plus 8 has no bits above the lowest four.
    let bits = |q: &[i8]| q.iter().fold(0, |bits, &q| bits | (q as u8).wrapping_add(8));
    if rows.iter().any(|r| bits(r.q) | bits(r.zero) > 15) {
        return Err(layout_error("a 4-bit value or zero point is outside -8..=7"));
    }
    let eight = |q: &[i8; 8]| {
        let x = u64::from_le_bytes(q.map(|q| (q as u8).wrapping_add(8)));
        // Four nibbles in the lowest bits of 16-bit lanes, moved together.
        let word = |x: u64| {
            let x = x & 0x000f_000f_000f_000f;
            (x | x >> 12 | x >> 24 | x >> 36) & 0xffff
        };
        ((word(x) | word(x >> 8) << 16) as u32).to_le_bytes()
    };
    let last_zero = |r: usize| rows.get(r).and_then(|row| row.zero.last()).copied().unwrap_or(0);
    // Which row each of a group's 16 scales and zero points is of.
    let mut order: [usize; PANEL] = std::array::from_fn(|r| r);
    if layout == Layout::Fragment16 {
        order.sort_by_key(|&r| fragment_row(r));
        let rows: Vec<&[i8]> = rows.iter().map(|r| r.q).collect();
        fragments(&rows, p.inputs as usize, &mut out.payload, last_zero, |low, high| -> [u8; 8] {
            // Byte 4 s + 2 h + c is of input 4 s + 2 c + h.
            std::array::from_fn(|i| {
                let input = i / 4 * 4 + i % 2 * 2 + i / 2 % 2;
                (low[input] as u8).wrapping_add(8) | (high[input] as u8).wrapping_add(8) << 4
            })
        });
    } else {
        interleave(rows.iter().map(|r| r.q), k, &mut out.payload, 0x88, last_zero, eight);
    }
    // Groups that are all padding repeat the last one: they dequantise to zero too.
    for g in 0..p.groups as usize {
        let g = g.min(groups - 1);
        for r in order {
            let row = rows.get(r);
            out.scale.extend_from_slice(&row.map_or(bf16::ZERO, |row| row.scale[g]).to_le_bytes());
            out.zero.push(row.map_or(0, |row| row.zero[g]) as u8);
        }
    }
    Ok(())
}
