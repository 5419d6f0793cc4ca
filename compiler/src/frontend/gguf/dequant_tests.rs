//! Each block format against a second, element-by-element definition of it, on random blocks.

use super::*;
use proptest::prelude::*;

/// One element, straight from the description of the format: where its bits and its scale lie.
fn element(e: Encoding, b: &[u8], i: usize) -> f32 {
    let nibble = |at: usize, high: bool| if high { b[at] >> 4 } else { b[at] & 15 };
    let bit = |at: usize, n: usize| (b[at + n / 8] >> (n % 8)) & 1;
    match e {
        Encoding::F32 => f32::from_le_bytes(b[..4].try_into().unwrap()),
        Encoding::F16 => half_at(b, 0),
        Encoding::Bf16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        Encoding::Q4_0 => (i32::from(nibble(2 + i % 16, i >= 16)) - 8) as f32 * half_at(b, 0),
        Encoding::Q4_1 => f32::from(nibble(4 + i % 16, i >= 16)) * half_at(b, 0) + half_at(b, 2),
        Encoding::Q5_0 => {
            (i32::from(nibble(6 + i % 16, i >= 16) + 16 * bit(2, i)) - 16) as f32 * half_at(b, 0)
        }
        Encoding::Q5_1 => {
            f32::from(nibble(8 + i % 16, i >= 16) + 16 * bit(4, i)) * half_at(b, 0) + half_at(b, 2)
        }
        Encoding::Q8_0 => f32::from(b[2 + i] as i8) * half_at(b, 0),
        Encoding::F8E4M3 => trtc_ir::numerics::decode(b[0], trtc_ir::DType::F8E4M3).unwrap(),
        Encoding::Q8K => f32::from_le_bytes(b[..4].try_into().unwrap()) * f32::from(b[4 + i] as i8),
        Encoding::Q2K => {
            // 128 elements share 32 bytes, 32 elements a bit pair.
            let q = (b[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
            let s = b[i / 16];
            half_at(b, 80) * f32::from(s & 15) * f32::from(q) - half_at(b, 82) * f32::from(s >> 4)
        }
        Encoding::Q3K => {
            let q = (b[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
            let keep = (b[i % 32] >> (i / 32)) & 1;
            // Scale bytes as three groups of four: a, b, c.
            let s = i / 16;
            let (lane, group) = (s % 4, s / 4);
            let low = [b[96 + lane] & 15, b[100 + lane] & 15, b[96 + lane] >> 4, b[100 + lane] >> 4][group];
            let high = b[104 + lane] >> (2 * group) & 3;
            let scale = i32::from(low) + 16 * i32::from(high) - 32;
            half_at(b, 108) * scale as f32 * (i32::from(q) - if keep == 1 { 0 } else { 4 }) as f32
        }
        Encoding::Q4K | Encoding::Q5K => {
            let j = i / 32;
            let s = &b[4..16];
            let scale = if j < 4 { s[j] % 64 } else { s[4 + j] % 16 + s[j - 4] / 64 * 16 };
            let min = if j < 4 { s[j + 4] % 64 } else { s[4 + j] / 16 + s[j] / 64 * 16 };
            let start = if e == Encoding::Q4K { 16 } else { 48 };
            let mut q = nibble(start + i / 64 * 32 + i % 32, i % 64 >= 32);
            if e == Encoding::Q5K {
                q += 16 * ((b[16 + i % 32] >> j) & 1);
            }
            half_at(b, 0) * f32::from(scale) * f32::from(q) - half_at(b, 2) * f32::from(min)
        }
        Encoding::Q6K => {
            let (half, within) = (i / 128, i % 128);
            let low = nibble(half * 64 + within % 64, within >= 64);
            let high = b[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
            half_at(b, 208) * f32::from(b[192 + i / 16] as i8) * (i32::from(low + 16 * high) - 32) as f32
        }
    }
}

/// Byte offsets of the f16 scales of a block, to be made finite.
fn halves(e: Encoding) -> &'static [usize] {
    match e {
        Encoding::Q4_0 | Encoding::Q5_0 | Encoding::Q8_0 => &[0],
        Encoding::Q4_1 | Encoding::Q5_1 | Encoding::Q4K | Encoding::Q5K => &[0, 2],
        Encoding::Q2K => &[80, 82],
        Encoding::Q3K => &[108],
        Encoding::Q6K => &[208],
        Encoding::F32 | Encoding::F16 | Encoding::Bf16 | Encoding::Q8K | Encoding::F8E4M3 => &[],
    }
}

proptest! {
    #[test]
    fn blocks_agree_with_the_definition(row in 0..TABLE.len(), bytes in prop::collection::vec(any::<u8>(), 3 * 292)) {
        let e = TABLE[row].encoding;
        let mut bytes = bytes[..3 * e.block_bytes()].to_vec();
        for block in bytes.chunks_exact_mut(e.block_bytes()) {
            for &at in halves(e) {
                block[at + 1] &= 0xbf; // an exponent below the one of infinities
            }
        }
        let mut out = vec![f32::NAN; 3 * e.block_elems()];
        e.dequantize(&bytes, &mut out);
        for (i, got) in out.iter().enumerate() {
            let block = &bytes[i / e.block_elems() * e.block_bytes()..][..e.block_bytes()];
            let want = element(e, block, i % e.block_elems());
            prop_assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan() || *got == want, "{e:?} {i}: {got} {want}");
        }
    }
}

#[test]
fn table_is_in_enum_order_and_numbers_are_those_of_the_format() {
    for (i, r) in TABLE.iter().enumerate() {
        assert_eq!(r.encoding as usize, i);
        assert_eq!(r.ggml.and_then(Encoding::of_ggml), r.ggml.map(|_| r.encoding));
        assert_eq!(Encoding::named(r.name), Some(r.encoding));
    }
    assert_eq!(Encoding::of_ggml(4), None);
    assert_eq!(Encoding::Q4K.bytes(512), Some(288));
    assert_eq!(Encoding::Q4K.bytes(300), None);
    assert_eq!(Encoding::F32.bytes(u64::MAX), None);
}

#[test]
fn known_values() {
    let one = half::f16::ONE.to_le_bytes();
    // q4_0: nibbles 0 and 15 are -8 and 7.
    let mut b = one.to_vec();
    b.extend([0xf0; 16]);
    let mut out = [0.0; 32];
    Encoding::Q4_0.dequantize(&b, &mut out);
    assert_eq!((out[0], out[31]), (-8.0, 7.0));
    // q6_k: all bits clear is -32 times the scale.
    let mut b = vec![0u8; 208];
    b[192..208].fill(2);
    b.extend(one);
    let mut out = [0.0; 256];
    Encoding::Q6K.dequantize(&b, &mut out);
    assert!(out.iter().all(|&x| x == -64.0));
    // q4_k: scale 63 and minimum 0 in the first sub-block, quant 1.
    let mut b = one.to_vec();
    b.extend(one);
    b.extend([63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    b.extend([1u8; 128]);
    Encoding::Q4K.dequantize(&b, &mut out);
    assert_eq!((out[0], out[31], out[32]), (63.0, 63.0, 0.0));
}

#[test]
fn a_short_input_leaves_the_rest_alone() {
    for r in &TABLE {
        let mut out = vec![7.0; r.elems];
        r.encoding.dequantize(&vec![0; r.bytes - 1], &mut out);
        assert!(out.iter().all(|&x| x == 7.0), "{}", r.name);
    }
}
