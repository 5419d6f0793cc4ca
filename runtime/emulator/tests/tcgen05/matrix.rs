//! Matrices of small numbers, their bytes in the canonical layouts, and products of them as schoolbooks make them.

use trtc_emulator::number::format::{Format, Round, Saturate};

/// Numbers that repeat after a prime of steps: `choices[(a * row + b * k) % choices.len()]`.
pub fn numbers(rows: usize, k: usize, steps: (usize, usize), choices: &[f32]) -> Vec<f32> {
    let of = |r: usize, i: usize| choices[(steps.0 * r + steps.1 * i + r * i) % choices.len()];
    (0..rows).flat_map(|r| (0..k).map(move |i| of(r, i))).collect()
}

/// Exact in every format of 4 bits and more.
pub const EXACT: [f32; 7] = [0.0, 0.5, -1.0, 2.0, 1.5, -3.0, 1.0];

/// The sum of products of rows: A is m x k, B is n x k.
pub fn product(a: &[f32], b: &[f32], k: usize) -> Vec<f64> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    a.chunks(k).flat_map(|x| b.chunks(k).map(move |y| dot(x, y))).collect()
}

/// Encodes a number.
pub fn bits(format: Format, x: f32) -> u32 {
    format.encode(f64::from(x), Round::Near, Saturate::NONE)
}

/// Bytes of a row of elements of 4, 8, 16 or 32 bits; `padded` leaves a part of 16 bytes unused, as the kinds that mix
/// widths want it of 4 and 6 bits.
pub fn row_bytes(format: Format, row: &[f32], padded: bool) -> Vec<u8> {
    let codes: Vec<u64> = row.iter().map(|&x| bits(format, x).into()).collect();
    let width = format.bits() as usize;
    if padded {
        let pack =
            |run: &[u64]| run.iter().rev().fold(0u128, |w, &c| w << width | u128::from(c)).to_le_bytes();
        return codes.chunks(16).flat_map(pack).collect();
    }
    match width {
        4 => codes.chunks(2).map(|c| (c[0] | c[1] << 4) as u8).collect(),
        w => codes.iter().flat_map(|c| c.to_le_bytes()[..w / 8].to_vec()).collect(),
    }
}

/// The canonical K-major layout without a swizzle of rows of 32 bytes: matrices of 8 rows of 16 bytes, the two of a row
/// beside each other.
pub fn plain(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0; rows.len() * 32];
    for (r, row) in rows.iter().enumerate() {
        for (i, &byte) in row.iter().enumerate() {
            out[r / 8 * 256 + i / 16 * 128 + r % 8 * 16 + i % 16] = byte;
        }
    }
    out
}

/// `leading` and `stride` of `plain`, in bytes.
pub const PLAIN: (u64, u64) = (128, 256);

/// The K-major layout with the swizzle of 128 bytes: rows of 128 bytes, whose pieces of 16 change places.
pub fn swizzled(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0; rows.len() * 128];
    for (r, row) in rows.iter().enumerate() {
        for (i, &byte) in row.iter().enumerate() {
            out[r * 128 + ((i / 16) ^ (r % 8)) * 16 + i % 16] = byte;
        }
    }
    out
}

/// PTX that puts a descriptor of `%dyn + offset` into a register.
pub fn descriptor(register: &str, offset: usize, (leading, stride): (u64, u64), swizzle: u64) -> String {
    let constant = (leading / 16) << 16 | (stride / 16) << 32 | 1 << 46 | swizzle << 61;
    format!(
        "add.u32 %r30, %dyn, {offset}; shr.u32 %r30, %r30, 4; cvt.u64.u32 {register}, %r30;
         or.b64 {register}, {register}, {constant:#x};\n"
    )
}

/// M and N of an instruction descriptor.
pub fn shape(m: u32, n: u32) -> u32 {
    n >> 3 << 17 | m >> 4 << 24
}

/// Words as the floats that they are.
pub fn floats(words: &[u32]) -> Vec<f64> {
    words.iter().map(|&w| f64::from(f32::from_bits(w))).collect()
}
