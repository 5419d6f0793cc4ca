//! Weights from a seed, for engines that are built without a checkpoint: the shape of a model without its bytes.
//!
//! Counter-based: the bytes at an offset depend on (seed, weight, part, offset) alone, so that pieces can be filled
//! in any order and on any number of threads. Values keep activations sane and nothing more.
//!
//! Matrices are uniform with a standard deviation of `1 / sqrt(k)`; vectors are 1, those called `*bias` small
//! uniform numbers. Padding is zero as `layout.rs` asks.

use crate::error::EngineError;
use crate::layout::{PANEL, Panels, Part, fragment_i4, fragment_i8, fragment_row, panels, sizes};
use crate::manifest::{Encoding, Layout, Weight};
use half::bf16;

/// Pieces begin at multiples of this, bytes.
pub const STEP: u64 = 64;

/// Half the width of the uniform distribution of biases.
const BIAS: f32 = 0.02;

/// Standard deviation of an integer that is uniform in -127..=127, and in -8..=7.
const I8_STD: f32 = 73.32;
const I4_STD: f32 = 4.61;

/// `3.5 i` in e4m3 for each byte `i`, read as an i8: uniform in -448..=448, rounded.
const F8: [u8; 256] = {
    let (mut table, mut i) = ([0; 256], 0);
    while i < 256 {
        table[i] = e4m3_of_halves(7 * (i as u8 as i8).unsigned_abs() as u32) | (i as u8 & 0x80);
        i += 1;
    }
    table
};

/// Standard deviation of those numbers.
const F8_STD: f32 = 258.55;

/// `halves / 2` in e4m3, to nearest, ties to even; up to 896 halves.
const fn e4m3_of_halves(halves: u32) -> u8 {
    if halves == 0 {
        return 0;
    }
    // 16 times the four leading bits, so that no number of halves is too short for them.
    let wide = halves << 4;
    let cut = wide.ilog2() - 3;
    let (kept, rest, half) = (wide >> cut, wide & ((1 << cut) - 1), 1 << (cut - 1));
    let up = rest > half || rest == half && kept % 2 == 1;
    // The leading bit adds 1 to the exponent, as does a carry out of the mantissa: halves have 2^(ilog2 - 1).
    (((halves.ilog2() + 5) << 3) + kept + up as u32) as u8
}

/// SplitMix64's finaliser over a counter: 64 bits that look random.
fn mix(key: u64, counter: u64) -> u64 {
    let mut z = key.wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `out` with bytes `start..start + out.len()` of a part of weight number `index`. `start` is a multiple of
/// [`STEP`]. Refuses a range outside the tensor and a computed weight, whose bytes are in the file.
pub fn fill(
    weight: &Weight,
    index: u32,
    seed: u64,
    part: Part,
    start: u64,
    out: &mut [u8],
) -> Result<(), EngineError> {
    let total = sizes(&weight.shape, weight.encoding, weight.layout)?.of(part);
    let end = start.checked_add(out.len() as u64);
    if !start.is_multiple_of(STEP) || end.is_none_or(|e| e > total) || weight.computed {
        let (name, len) = (&weight.name, out.len());
        return Err(EngineError::Contract(format!(
            "{len} bytes at {start} of {part:?} of dummy weight {name:?}"
        )));
    }
    let k = weight.shape.last().copied().unwrap_or(1) as f32;
    let key = mix(mix(seed, u64::from(index)), part as u64);
    // Uniform in -a..a has the standard deviation a / sqrt(3).
    let (a, one) = match weight.shape.len() {
        1 if weight.name.ends_with("bias") => (BIAS, false),
        1 => (0.0, true),
        _ => ((3.0 / k).sqrt(), false),
    };
    match (weight.encoding, part) {
        (Encoding::F32, _) if one => repeat(&1f32.to_le_bytes(), out),
        (Encoding::Bf16, _) if one => repeat(&bf16::ONE.to_le_bytes(), out),
        (Encoding::F32, _) => words(key, start, out, |word| {
            let f = |half: u64| (half as u32 as i32 as f32 * (a / 2f32.powi(31))).to_bits();
            u64::from(f(word)) | u64::from(f(word >> 32)) << 32
        }),
        (Encoding::Bf16, _) => words(key, start, out, |word| {
            // Four 16-bit integers to bf16, rounding half up in magnitude: they are finite and never overflow.
            let f = |quarter: u64| {
                let x = (f32::from(quarter as u16 as i16) * (a / 32768.0)).to_bits();
                u64::from(x.wrapping_add(0x8000) >> 16)
            };
            f(word) | f(word >> 16) << 16 | f(word >> 32) << 32 | f(word >> 48) << 48
        }),
        // -128 has no counterpart and becomes -127.
        (Encoding::I8Channel, Part::Payload) => words(key, start, out, |word| {
            u64::from_le_bytes(word.to_le_bytes().map(|b| if b == 0x80 { 0x81 } else { b }))
        }),
        (Encoding::F8Channel, Part::Payload) => {
            words(key, start, out, |word| u64::from_le_bytes(word.to_le_bytes().map(|b| F8[usize::from(b)])))
        }
        (Encoding::F8Channel, _) => repeat(&(1.0 / (F8_STD * k.sqrt())).to_le_bytes(), out),
        (Encoding::I4Group { .. }, Part::Payload) => words(key, start, out, |word| word),
        (Encoding::I8Channel, _) => repeat(&(1.0 / (I8_STD * k.sqrt())).to_le_bytes(), out),
        (Encoding::I4Group { .. }, Part::Scale) => {
            repeat(&bf16::from_f32(1.0 / (I4_STD * k.sqrt())).to_le_bytes(), out);
        }
        // q is uniform in -8..=7 with mean -1/2; zero points of -1 and 0 in equal shares move the mean to 0.
        (Encoding::I4Group { .. }, Part::Zero) => words(key, start, out, zero_points),
    }
    if weight.layout == Layout::Fragment16 {
        let p = panels(&weight.shape, weight.encoding, weight.layout)?;
        pad_fragments(weight, p, part, mix(mix(seed, u64::from(index)), Part::Zero as u64), start, out);
    }
    if weight.layout == Layout::Panel16 {
        let p = panels(&weight.shape, weight.encoding, weight.layout)?;
        pad_rows(weight, p, part, start, out);
        if part == Part::Payload && weight.shape[1] != p.inputs {
            let zero_key = mix(mix(seed, u64::from(index)), Part::Zero as u64);
            pad_inputs(weight, p, zero_key, start, out);
        }
    }
    Ok(())
}

/// Eight zero points: bytes of -1 and 0.
fn zero_points(word: u64) -> u64 {
    (word & 0x0101_0101_0101_0101) * 0xff
}

/// Writes `make(64 random bits)` for each 8 bytes.
fn words(key: u64, start: u64, out: &mut [u8], make: impl Fn(u64) -> u64) {
    let first = start / 8;
    let mut chunks = out.chunks_exact_mut(8);
    let mut counter = first;
    for chunk in &mut chunks {
        chunk.copy_from_slice(&make(mix(key, counter)).to_le_bytes());
        counter += 1;
    }
    let tail = chunks.into_remainder();
    let len = tail.len();
    tail.copy_from_slice(&make(mix(key, counter)).to_le_bytes()[..len]);
}

/// Writes the same element throughout.
fn repeat(element: &[u8], out: &mut [u8]) {
    for chunk in out.chunks_mut(element.len()) {
        chunk.copy_from_slice(&element[..chunk.len()]);
    }
}

/// The byte at `at` of the part, if it lies in this piece.
fn byte(out: &mut [u8], start: u64, at: u64) -> Option<&mut u8> {
    at.checked_sub(start).and_then(|i| out.get_mut(i as usize))
}

/// Zeros for the rows that pad the last panel.
fn pad_rows(weight: &Weight, p: Panels, part: Part, start: u64, out: &mut [u8]) {
    let panel = PANEL as u64;
    let used = weight.shape[0] % panel;
    if used == 0 {
        return;
    }
    // Blocks of 16 rows in a panel, bytes of a row in a block, and the byte that stands for zero.
    let (blocks, row_bytes, zero) = match (weight.encoding, part) {
        (Encoding::F32, _) => (p.inputs, 4, 0),
        (Encoding::Bf16, _) => (p.inputs / 2, 4, 0),
        (Encoding::I8Channel | Encoding::F8Channel, Part::Payload) => (p.inputs / 2, 2, 0),
        (Encoding::I8Channel | Encoding::F8Channel, _) => (1, 4, 0),
        (Encoding::I4Group { .. }, Part::Payload) => (p.inputs / 8, 4, 0x88),
        (Encoding::I4Group { .. }, Part::Scale) => (p.groups, 2, 0),
        (Encoding::I4Group { .. }, Part::Zero) => (p.groups, 1, 0),
    };
    for block in (p.count - 1) * blocks..p.count * blocks {
        for at in (block * panel + used) * row_bytes..(block + 1) * panel * row_bytes {
            if let Some(b) = byte(out, start, at) {
                *b = zero;
            }
        }
    }
}

/// Zeros for the inputs that pad the last block of each panel; nibbles get their group's zero point.
fn pad_inputs(weight: &Weight, p: Panels, zero_key: u64, start: u64, out: &mut [u8]) {
    let (n, k, panel) = (weight.shape[0], weight.shape[1], PANEL as u64);
    for row in 0..n {
        let (at_panel, r) = (row / panel, row % panel);
        if let Encoding::I4Group { .. } = weight.encoding {
            let block = (at_panel + 1) * (p.inputs / 8) - 1;
            let zero_at = ((at_panel + 1) * p.groups - 1) * panel + r;
            let minus_one = zero_points(mix(zero_key, zero_at / 8)) >> (8 * (zero_at % 8)) & 1;
            for i in k % 8..8 {
                let nib = i / 2;
                if let Some(b) = byte(out, start, (block * 2 * panel + 2 * r + i % 2) * 2 + nib / 2) {
                    let shift = 4 * (nib % 2);
                    *b = *b & !(15 << shift) | (8 - minus_one as u8) << shift;
                }
            }
        } else {
            // The second of the last pair.
            let element = if weight.encoding == Encoding::Bf16 { 2 } else { 1 };
            let block = (at_panel + 1) * (p.inputs / 2) - 1;
            let at = ((block * panel + r) * 2 + 1) * element;
            for i in at..at + element {
                if let Some(b) = byte(out, start, i) {
                    *b = 0;
                }
            }
        }
    }
}

/// Zeros for all that pads the panels of [`Layout::Fragment16`] which this piece touches.
fn pad_fragments(weight: &Weight, p: Panels, part: Part, zero_key: u64, start: u64, out: &mut [u8]) {
    let (n, k) = (weight.shape[0] as usize, weight.shape[1] as usize);
    let (inputs, groups) = (p.inputs as usize, p.groups as usize);
    let group = if let Encoding::I4Group { group } = weight.encoding { Some(group as usize) } else { None };
    // Bytes of a panel; of a scale or zero point.
    let (panel_bytes, element) = match (group, part) {
        (Some(_), Part::Payload) => (inputs * PANEL / 2, 1),
        (None, Part::Payload) => (inputs * PANEL, 1),
        (Some(_), Part::Scale) => (groups * PANEL * 2, 2),
        (Some(_), Part::Zero) => (groups * PANEL, 1),
        (None, _) => (groups * PANEL * 4, 4),
    };
    let first = start as usize / panel_bytes;
    let last = (start as usize + out.len()).div_ceil(panel_bytes).min(p.count as usize);
    for (panel, r) in (first..last).flat_map(|panel| (0..PANEL).map(move |r| (panel, r))) {
        let mut set = |at: usize, keep: u8, value: u8| {
            if let Some(b) = byte(out, start, (panel * panel_bytes + at) as u64) {
                *b = *b & keep | value;
            }
        };
        let exists = panel * PANEL + r < n;
        let padding = if exists { k } else { 0 }..inputs;
        match (group, part) {
            (None, Part::Payload) => padding.for_each(|i| set(fragment_i8(r, i), 0, 0)),
            (Some(group), Part::Payload) => padding.for_each(|i| {
                let (at, shift) = fragment_i4(r, i);
                let zero_at = ((panel * groups + i / group) * PANEL + fragment_row(r)) as u64;
                let minus_one = zero_points(mix(zero_key, zero_at / 8)) >> (8 * (zero_at % 8)) & 1;
                let zero = if exists { 8 - minus_one as u8 } else { 8 };
                set(at, !(15 << shift), zero << shift);
            }),
            _ if exists => {}
            _ => (0..groups).for_each(|g| {
                let at = g * PANEL + if group.is_some() { fragment_row(r) } else { r };
                (at * element..(at + 1) * element).for_each(|at| set(at, 0, 0));
            }),
        }
    }
}

#[cfg(test)]
mod tests;
