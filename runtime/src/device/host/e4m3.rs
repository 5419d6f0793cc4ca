//! e4m3 with a scale for each row: rows of f32 quantised, and codes as numbers.
//!
//! Quantising is that of `trtc_ir::quant`, to the bit: `scale = max |x| / 448`, 1 where that is below the least normal
//! f32, and `x / scale` to the nearest code, ties to even. What is not a number becomes the code that is none. Rounding a row to
//! e4m3 times a power of two ([`Power`]) is as `trtc_ir::quant` has it too.

use super::elem::Elem;
use super::isa::per_isa;
use half::bf16;

/// The greatest number.
const MAX: f32 = 448.0;

/// The least number of full precision.
const LEAST_NORMAL: f32 = 1.0 / 64.0;

/// The code that is not a number, without a sign.
const NAN: u32 = 0x7f;

/// The number of a code that is one: its bits are in the places of an f32's, whose exponent has a bias that is greater
/// by 120.
#[inline(always)]
pub fn value(code: u8) -> f32 {
    let bits = u32::from(code & 0x80) << 24 | u32::from(code & 0x7f) << 20;
    f32::from_bits(bits) * f32::from_bits((127 + 120) << 23)
}

/// All codes in bf16, which holds them exactly.
const WIDE: [bf16; 256] = {
    let (mut table, mut code) = ([bf16::ZERO; 256], 0);
    while code < 256 {
        let (sign, magnitude) = ((code as u16 & 0x80) << 8, code as u16 & 0x7f);
        let bits = match magnitude {
            0x7f => 0x7fc0,
            // Below 8 the number is a multiple of 2^-9: its leading bit says which exponent it has.
            0 => 0,
            1..8 => {
                let top = magnitude.ilog2() as u16;
                (127 - 9 + top) << 7 | (magnitude << (7 - top)) & 0x7f
            }
            _ => (magnitude << 4) + (120 << 7),
        };
        table[code] = bf16::from_bits(sign | bits);
        code += 1;
    }
    table
};

/// Codes as bf16.
pub fn widen(codes: &[u8], out: &mut [bf16]) {
    out.iter_mut().zip(codes).for_each(|(out, code)| *out = WIDE[usize::from(*code)]);
}

/// The nearest code, ties to even; beyond the greatest number its code.
#[inline(always)]
fn encode(x: f32) -> u8 {
    let (bits, size) = (x.abs().to_bits(), x.abs());
    // Below the normal numbers codes count steps of 2^-9, the last place of numbers from 2^14 on.
    let few = (size + 16_384.0).to_bits() & 0xff;
    // Half of the last kept bit, less one where that bit is even; a carry into the exponent is as it should be.
    let many = (bits.wrapping_add(0x7ffff + (bits >> 20 & 1)) >> 20).wrapping_sub(120 << 3);
    let code = if size < LEAST_NORMAL { few } else { many };
    let code = if size >= MAX { NAN - 1 } else { code };
    let code = if x.is_nan() { NAN } else { code };
    (code | x.to_bits() >> 24 & 0x80) as u8
}

per_isa! {
    /// Quantises a row: writes its codes and gives its scale.
    pub fn quantize<X: Elem>(x: &[X], codes: &mut [u8]) -> f32 = quantize_body
}

#[inline(always)]
fn quantize_body<const FMA: bool, X: Elem>(x: &[X], codes: &mut [u8]) -> f32 {
    let mut lanes = [0f32; 32];
    let (chunks, rest) = x.as_chunks::<32>();
    let greater = |most: &mut f32, x: &X| *most = if x.get().abs() > *most { x.get().abs() } else { *most };
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(most, x)| greater(most, x));
    }
    lanes.iter_mut().zip(rest).for_each(|(most, x)| greater(most, x));
    let greatest = lanes.iter().fold(0f32, |a, &b| if b > a { b } else { a });
    let scale = greatest / MAX;
    let scale = if scale < f32::MIN_POSITIVE { 1.0 } else { scale };
    codes.iter_mut().zip(x).for_each(|(code, x)| *code = encode(x.get() / scale));
    scale
}

per_isa! {
    /// `out = code * scale`.
    pub fn dequantize<>(codes: &[u8], scale: f32, out: &mut [f32]) = dequantize_body
}

#[inline(always)]
fn dequantize_body<const FMA: bool>(codes: &[u8], scale: f32, out: &mut [f32]) {
    out.iter_mut().zip(codes).for_each(|(out, code)| *out = value(*code) * scale);
}

per_isa! {
    /// The same of a panel, `[element][row]`, with a scale for each of its 16 rows.
    pub fn dequantize_panel<>(codes: &[u8], scales: &[f32; 16], out: &mut [f32]) = dequantize_panel_body
}

#[inline(always)]
fn dequantize_panel_body<const FMA: bool>(codes: &[u8], scales: &[f32; 16], out: &mut [f32]) {
    for (out, codes) in out.as_chunks_mut::<16>().0.iter_mut().zip(codes.as_chunks::<16>().0) {
        *out = std::array::from_fn(|row| value(codes[row]) * scales[row]);
    }
}

/// The power of two that the values of a row share when they are rounded to e4m3 times it: `2^e` such that the greatest magnitude
/// is in `(224, 448]` of it, and `e` at least -117.
#[derive(Clone, Copy, Debug)]
pub struct Power {
    power: f32,
    inverse: f32,
}

impl Power {
    /// That of a row.
    pub fn of<X: Elem>(row: &[X]) -> Power {
        let greatest = row.iter().fold(0f32, |most, x| most.max(x.get().abs()));
        // 448 is 1.75 * 2^8: a mantissa above 1.75 carries into the exponent.
        let next = greatest.to_bits().saturating_add(0x1f_ffff) & 0x7f80_0000;
        let power = f32::from_bits(next.saturating_sub(8 << 23).max((127 - 117) << 23));
        Power { power, inverse: 1.0 / power }
    }

    /// The nearest number, ties to even; what is none stays so.
    pub fn nearest(self, x: f32) -> f32 {
        if x.is_nan() { x } else { value(encode(x * self.inverse)) * self.power }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::host::isa::Isa;
    use trtc_engine::layout::e4m3;

    fn isas() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.available())
    }

    #[test]
    fn codes_have_their_values() {
        let codes: Vec<u8> = (0..=255).collect();
        let mut wide = vec![bf16::ZERO; 256];
        widen(&codes, &mut wide);
        for (&code, wide) in codes.iter().zip(wide) {
            let want = e4m3(code);
            assert_eq!(wide.to_bits() & 0x7fff == 0x7fc0, want.is_nan(), "{code:02x}");
            assert!(want.is_nan() || wide.to_f32().to_bits() == want.to_bits(), "{code:02x}");
            assert!(want.is_nan() || value(code).to_bits() == want.to_bits(), "{code:02x}");
        }
        for isa in isas() {
            let (mut out, mut panel) = (vec![0.0; 254], vec![0.0; 256]);
            let finite: Vec<u8> = codes.iter().copied().filter(|c| c & 0x7f != 0x7f).collect();
            dequantize(isa, &finite, 0.3, &mut out);
            assert!(out.iter().zip(&finite).all(|(x, &c)| *x == e4m3(c) * 0.3));
            let scales: [f32; 16] = std::array::from_fn(|i| 0.1 + i as f32);
            dequantize_panel(isa, &[finite, vec![1, 2]].concat(), &scales, &mut panel);
            assert!(panel[..254].iter().zip(out).enumerate().all(|(i, (x, y))| {
                (x * 0.3 - y * scales[i % 16]).abs() <= 1e-5 * y.abs() * scales[i % 16]
            }));
        }
    }

    #[test]
    fn the_nearest_code_is_taken() {
        for code in 0..0x7eu8 {
            let (low, high) = (e4m3(code), e4m3(code + 1));
            let middle = (low + high) / 2.0;
            let even = if code % 2 == 0 { code } else { code + 1 };
            let below = f32::from_bits(middle.to_bits() - 1);
            let above = f32::from_bits(middle.to_bits() + 1);
            for (x, want) in [(low, code), (middle, even), (below, code), (above, code + 1)] {
                assert_eq!((encode(x), encode(-x)), (want, want | 0x80), "{x}");
            }
        }
        for x in [448.0, 448.1, 464.0, 1e30, f32::INFINITY] {
            assert_eq!(encode(x), 0x7e);
        }
        assert_eq!(encode(f32::NAN) & 0x7f, 0x7f);
    }
}
