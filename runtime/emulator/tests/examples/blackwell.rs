//! Products of small floats on `sm_120`: all operands of a kernel's matrices are one word, so the sums are easily said.

use super::*;

/// Runs an example whose parameters are words and an address; gives the float that it stores.
fn result(name: &str, words: &[u32]) -> f32 {
    let kernel = kernel(&text(name));
    let mut global = Global::default();
    let out = global.alloc(64, "out");
    let words: Vec<[u8; 4]> = words.iter().map(|w| w.to_le_bytes()).collect();
    let out_bytes = out.to_le_bytes();
    let params: Vec<&[u8]> = words.iter().map(|w| &w[..]).chain([&out_bytes[..]]).collect();
    fine(&kernel, sizes(1, 32, 0), &params, &global);
    let mut bytes = [0; 4];
    assert!(global.read(out, &mut bytes));
    f32::from_le_bytes(bytes)
}

/// mxf8f6f4 with A in e4m3 and B in e2m1, whose four bits stand in the middle of a byte, and mxf4nvf4 and mxf4 of the same
/// words; each adds C.
#[test]
fn three_kinds_of_scaled_products() {
    let c = 2.0f32.to_bits();
    // e4m3 1.0 in every byte; as e2m1 1.5 and -0. e2m1 1.0 in the middle of a byte; as two of them 0 and -0.
    let (a, b) = (0x3838_3838, 0x0808_0808);
    // ue8m0 2^-1; as ue4m3 448, which multiplies zeros.
    let half = 0x7e7e_7e7e;
    assert_eq!(result("mma_04_block_scale_sm120", &[a, b, c, half, half]), 32.0 / 4.0 + 3.0 * 2.0);
    // Words for four bits: 1.0 in every half byte is 0x22, as e4m3 2^-3 * 1.25 = 0.15625, as e2m1 in a byte -0 or 0.
    let (a, b) = (0x2222_2222, 0x2222_2222);
    // ue8m0 2^-1, ue4m3 448: 64 products of 1 by 448 * 448, and 64 by 1/4.
    let scaled = 64.0 * 448.0 * 448.0 + 64.0 / 4.0;
    let eight = 32.0 * 0.15625 * 0.0 / 4.0;
    assert_eq!(result("mma_04_block_scale_sm120", &[a, b, c, half, half]), scaled + eight + 6.0);
}

/// f8f6f4 with A in e4m3 and B in e2m1.
#[test]
fn products_of_two_formats() {
    let c = 2.0f32.to_bits();
    assert_eq!(result("mma_03_f8f6f4_sm120", &[0x3838_3838, 0x0808_0808, c]), 32.0 + 2.0);
    // 1.5 and -6 by turns, each twice a word.
    assert_eq!(result("mma_03_f8f6f4_sm120", &[0x3838_3838, 0x3c0c_3c0c, c]), 16.0 * (1.5 - 6.0) + 2.0);
}
