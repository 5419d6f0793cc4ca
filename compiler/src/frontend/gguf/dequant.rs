//! Element encodings of checkpoint tensors: one table with sizes and the function that dequantises blocks to f32.
//!
//! A row of a tensor is a whole number of blocks. Products are formed in the order that the formulas state, in
//! f32, so values agree to the last bit with other readers that do the same. Integers are little-endian; `d` and
//! `m` are f16. Element `i` of a block:
//!
//! | encoding | block | value |
//! |---|---|---|
//! | q4_0 | d, nibbles\[16\] | `(n - 8) d`; nibble i is the low half of byte i, then the high half of byte i - 16 |
//! | q4_1 | d, m, nibbles\[16\] | `n d + m` |
//! | q5_0 | d, high bits u32, nibbles\[16\] | `(n + 16 h - 16) d` |
//! | q5_1 | d, m, high bits u32, nibbles\[16\] | `(n + 16 h) d + m` |
//! | q8_0 | d, i8\[32\] | `q d` |
//! | q2_k..q6_k | 256 elements in sub-blocks of 16 or 32 with scales (and minima) of their own | see the functions |
//! | q8_k | d f32, i8\[256\], sums of 16 | `q d` |
//!
//! The plain types are those of safetensors too, which has one more: OCP FP8 E4M3. Its scales are tensors by themselves.

use half::f16;

/// How the elements of a checkpoint tensor are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
    /// 4 bits, scale.
    Q4_0,
    /// 4 bits, scale and minimum.
    Q4_1,
    /// 5 bits, scale.
    Q5_0,
    /// 5 bits, scale and minimum.
    Q5_1,
    /// 8 bits, scale.
    Q8_0,
    /// 2 bits, 4-bit scales and minima of 16.
    Q2K,
    /// 3 bits, 6-bit scales of 16.
    Q3K,
    /// 4 bits, 6-bit scales and minima of 32.
    Q4K,
    /// 5 bits, 6-bit scales and minima of 32.
    Q5K,
    /// 6 bits, 8-bit scales of 16.
    Q6K,
    /// 8 bits, f32 scale.
    Q8K,
    /// OCP FP8 E4M3, without its scale.
    F8E4M3,
}

struct Row {
    encoding: Encoding,
    name: &'static str,
    /// The type's number in a GGUF file, if it is one of its types.
    ggml: Option<u32>,
    /// Elements of a block.
    elems: usize,
    /// Bytes of a block.
    bytes: usize,
    /// Dequantises one block.
    block: fn(&[u8], &mut [f32]),
}

const fn row(
    encoding: Encoding,
    name: &'static str,
    ggml: u32,
    elems: usize,
    bytes: usize,
    block: fn(&[u8], &mut [f32]),
) -> Row {
    Row { encoding, name, ggml: Some(ggml), elems, bytes, block }
}

const TABLE: [Row; 15] = [
    row(Encoding::F32, "F32", 0, 1, 4, f32_one),
    row(Encoding::F16, "F16", 1, 1, 2, f16_one),
    row(Encoding::Bf16, "BF16", 30, 1, 2, bf16_one),
    row(Encoding::Q4_0, "Q4_0", 2, 32, 18, q4_0),
    row(Encoding::Q4_1, "Q4_1", 3, 32, 20, q4_1),
    row(Encoding::Q5_0, "Q5_0", 6, 32, 22, q5_0),
    row(Encoding::Q5_1, "Q5_1", 7, 32, 24, q5_1),
    row(Encoding::Q8_0, "Q8_0", 8, 32, 34, q8_0),
    row(Encoding::Q2K, "Q2_K", 10, 256, 84, q2_k),
    row(Encoding::Q3K, "Q3_K", 11, 256, 110, q3_k),
    row(Encoding::Q4K, "Q4_K", 12, 256, 144, q4_k),
    row(Encoding::Q5K, "Q5_K", 13, 256, 176, q5_k),
    row(Encoding::Q6K, "Q6_K", 14, 256, 210, q6_k),
    row(Encoding::Q8K, "Q8_K", 15, 256, 292, q8_k),
    Row { encoding: Encoding::F8E4M3, name: "F8_E4M3", ggml: None, elems: 1, bytes: 1, block: e4m3_one },
];

impl Encoding {
    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The encoding with this number in a GGUF file.
    pub fn of_ggml(number: u32) -> Option<Encoding> {
        TABLE.iter().find(|r| r.ggml == Some(number)).map(|r| r.encoding)
    }

    /// The encoding of this name: `BF16`, `Q4_K`.
    pub fn named(name: &str) -> Option<Encoding> {
        TABLE.iter().find(|r| r.name == name).map(|r| r.encoding)
    }

    /// Names of all encodings.
    pub fn names() -> Vec<&'static str> {
        TABLE.iter().map(|r| r.name).collect()
    }

    /// `BF16`, `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Elements of a block.
    pub fn block_elems(self) -> usize {
        self.row().elems
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().bytes
    }

    /// Bytes of `elems` elements, if that is a whole number of blocks that fits in memory.
    pub fn bytes(self, elems: u64) -> Option<u64> {
        let per = self.block_elems() as u64;
        if !elems.is_multiple_of(per) {
            return None;
        }
        (elems / per).checked_mul(self.block_bytes() as u64)
    }

    /// Dequantises whole blocks. `bytes` and `out` must have the same number of blocks; what is beyond the
    /// shorter one is left alone.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        let row = self.row();
        // The plain types have loops of their own: a call for each element would not vectorise.
        match self {
            Encoding::F32 => plain::<4>(bytes, out, f32::from_le_bytes),
            Encoding::F16 => plain::<2>(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Encoding::Bf16 => {
                plain::<2>(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            }
            Encoding::F8E4M3 => e4m3_one(bytes, out),
            _ => {
                for (b, o) in bytes.chunks_exact(row.bytes).zip(out.chunks_exact_mut(row.elems)) {
                    (row.block)(b, o);
                }
            }
        }
    }
}

fn plain<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    let (elems, _) = bytes.as_chunks::<N>();
    for (b, o) in elems.iter().zip(out) {
        *o = read(*b);
    }
}

fn f32_one(b: &[u8], out: &mut [f32]) {
    plain::<4>(b, out, f32::from_le_bytes);
}

fn f16_one(b: &[u8], out: &mut [f32]) {
    plain::<2>(b, out, |b| f16::from_le_bytes(b).to_f32());
}

fn bf16_one(b: &[u8], out: &mut [f32]) {
    plain::<2>(b, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
}

fn e4m3_one(b: &[u8], out: &mut [f32]) {
    plain::<1>(b, out, |[b]| trtc_engine::layout::e4m3(b));
}

/// The f16 at byte `at`.
fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn q4_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    let (low, high) = out.split_at_mut(16);
    for ((q, lo), hi) in b[2..18].iter().zip(low).zip(high) {
        *lo = (f32::from(q & 15) - 8.0) * d;
        *hi = (f32::from(q >> 4) - 8.0) * d;
    }
}

fn q4_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    let (low, high) = out.split_at_mut(16);
    for ((q, lo), hi) in b[4..20].iter().zip(low).zip(high) {
        *lo = f32::from(q & 15) * d + m;
        *hi = f32::from(q >> 4) * d + m;
    }
}

/// The 5-bit numbers of a block of 32: nibbles with their high bits.
fn five_bits(high: u32, nibbles: &[u8], mut put: impl FnMut(usize, u8)) {
    for (i, q) in nibbles.iter().enumerate() {
        put(i, (q & 15) + ((high >> i) & 1) as u8 * 16);
        put(i + 16, (q >> 4) + ((high >> (i + 16)) & 1) as u8 * 16);
    }
}

fn q5_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    five_bits(u32_at(b, 2), &b[6..22], |i, q| out[i] = (f32::from(q) - 16.0) * d);
}

fn q5_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    five_bits(u32_at(b, 4), &b[8..24], |i, q| out[i] = f32::from(q) * d + m);
}

fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 0);
    for (q, o) in b[2..34].iter().zip(out) {
        *o = f32::from(*q as i8) * d;
    }
}

/// Layout: `scales[16]` (low nibble scale, high nibble minimum), `quants[64]`, d, dmin.
/// Each half of 128 elements takes 32 bytes; sub-block `s` of 16 has bit pair `s / 2` of bytes `16 (s % 2)..`.
fn q2_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (s, o) in out.chunks_exact_mut(16).enumerate().take(16) {
        let (scale, min) = (d * f32::from(b[s] & 15), dmin * f32::from(b[s] >> 4));
        let quants = &b[16 + 32 * (s / 8) + 16 * (s % 2)..][..16];
        let shift = 2 * (s % 8 / 2);
        for (q, o) in quants.iter().zip(o) {
            *o = scale * f32::from((q >> shift) & 3) - min;
        }
    }
}

/// Layout: `high[32]`, `quants[64]`, `scales[12]`, d. Quants lie as in q2_k; bit `s / 2` of `high` is the third
/// bit, and where it is clear 4 is taken off. 16 scales of 6 bits, less 32: four low bits are nibbles of bytes
/// 0..8, two high bits are pairs of bytes 8..12.
fn q3_k(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 108);
    let scales = &b[96..108];
    for (s, o) in out.chunks_exact_mut(16).enumerate().take(16) {
        let low = if s < 8 { scales[s] & 15 } else { scales[s - 8] >> 4 };
        let high = (scales[8 + s % 4] >> (2 * (s / 4))) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        let at = 16 * (s % 2);
        let quants = &b[32 + 32 * (s / 8) + at..][..16];
        let shift = 2 * (s % 8 / 2);
        for ((q, h), o) in quants.iter().zip(&b[at..at + 16]).zip(o) {
            let third = (h >> (s / 2)) & 1;
            *o = scale * (f32::from((q >> shift) & 3) - 4.0 * f32::from(1 - third));
        }
    }
}

/// Scale and minimum `j` of the 8 that q4_k and q5_k pack into 12 bytes, 6 bits each.
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4, (packed[j + 4] >> 4) | (packed[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// Layout: d, dmin, `scales[12]`, `quants[128]`; sub-blocks `2 p` and `2 p + 1` of 32 are the low and high
/// nibbles of bytes `32 p..`.
fn q4_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (j, o) in out.chunks_exact_mut(32).enumerate().take(8) {
        let (scale, min) = scale_min(&b[4..16], j);
        let (scale, min) = (d * scale, dmin * min);
        let shift = 4 * (j % 2);
        for (q, o) in b[16 + 32 * (j / 2)..][..32].iter().zip(o) {
            *o = scale * f32::from((q >> shift) & 15) - min;
        }
    }
}

/// Layout: d, dmin, `scales[12]`, `high[32]`, `quants[128]`; as q4_k, with bit `j` of `high` as the fifth bit.
fn q5_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (j, o) in out.chunks_exact_mut(32).enumerate().take(8) {
        let (scale, min) = scale_min(&b[4..16], j);
        let (scale, min) = (d * scale, dmin * min);
        let shift = 4 * (j % 2);
        for ((q, h), o) in b[48 + 32 * (j / 2)..][..32].iter().zip(&b[16..48]).zip(o) {
            *o = scale * f32::from(((q >> shift) & 15) | ((h >> j) & 1) << 4) - min;
        }
    }
}

/// Layout: `low[128]`, `high[64]`, `scales[16]` i8, d. Each half of 128 elements takes 64 low and 32 high bytes;
/// quarter `g` of 32 has nibble `g / 2` of low bytes `32 (g % 2)..` and bit pair `g` of the high bytes.
fn q6_k(b: &[u8], out: &mut [f32]) {
    let d = half_at(b, 208);
    for (i, o) in out.chunks_exact_mut(32).enumerate().take(8) {
        let (half, g) = (i / 4, i % 4);
        let low = &b[64 * half + 32 * (g % 2)..][..32];
        let high = &b[128 + 32 * half..][..32];
        for (part, o) in o.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(b[192 + 2 * i + part] as i8);
            for (k, o) in o.iter_mut().enumerate() {
                let at = 16 * part + k;
                let q = ((low[at] >> (4 * (g / 2))) & 15) | ((high[at] >> (2 * g)) & 3) << 4;
                *o = scale * (f32::from(q) - 32.0);
            }
        }
    }
}

fn q8_k(b: &[u8], out: &mut [f32]) {
    let d = f32::from_bits(u32_at(b, 0));
    for (q, o) in b[4..260].iter().zip(out) {
        *o = d * f32::from(*q as i8);
    }
}

#[cfg(test)]
#[path = "dequant_tests.rs"]
mod tests;
