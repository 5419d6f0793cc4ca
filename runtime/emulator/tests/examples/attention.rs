//! Two products in a row, as attention has them: S = Q K^T, P = 2^S in registers, O = O + P V.

use super::products::{descriptor, put, with_image};
use super::*;

/// Rows of Q, and of K and V of a step; elements of each.
const Q: usize = 64;
const STEP: usize = 128;
/// Elements of 128 bytes.
const LINE: usize = 64;
/// Steps, and bytes of shared memory from one to the next.
const STEPS: usize = 2;
const STRIDE: u64 = 1 << 15;

/// Lines of 64 elements, of which row i of the matrix is lines i and i + 1: that is what descriptors find that step by
/// 32 bytes past the end of a swizzled line.
fn lines(count: usize, seed: usize) -> Vec<i32> {
    let value = |x: usize| match (x * 7 + x / LINE * 13 + seed) % 43 {
        0 => 1,
        1 => -1,
        _ => 0,
    };
    (0..count * LINE).map(value).collect()
}

fn row(lines: &[i32], i: usize) -> &[i32] {
    &lines[i * LINE..(i + 2) * LINE]
}

#[test]
fn attention_is_right() {
    let (at_q, at_k, at_v) = (1024u64, 10240u64, 75776u64);
    let mut image = vec![0; (at_v + STEPS as u64 * STRIDE - 1024) as usize];
    let q = lines(Q + 1, 0);
    put(&mut image, at_q, &bf16(&q));
    let mut right = vec![0.0f32; Q * STEP];
    for step in 0..STEPS {
        let offset = step as u64 * STRIDE;
        // All of K is ones and zeros by chance; V has small integers, its columns in two halves.
        let (k, v) = (lines(STEP + 1, 5 + step), integers(STEP * STEP, 11 + step as u32));
        put(&mut image, at_k + offset, &bf16(&k));
        let half =
            |h: usize| (0..STEP).flat_map(|l| v[l * STEP + h * LINE..][..LINE].to_vec()).collect::<Vec<_>>();
        put(&mut image, at_v + offset, &bf16(&[half(0), half(1)].concat()));
        for i in 0..Q {
            for l in 0..STEP {
                let s: i32 = row(&q, i).iter().zip(row(&k, l)).map(|(a, b)| a * b).sum();
                for j in 0..STEP {
                    right[i * STEP + j] += (s as f32).exp2() * v[l * STEP + j] as f32;
                }
            }
        }
    }
    let mut global = Global::default();
    let at = filled(&mut global, &image, "image");
    let out = global.alloc(4 * 128 * 64, "out");
    // Columns of V from 64 on are 16 KiB behind.
    let leading = ((STEP * 128 / 16) as u64 - 1) << 16;
    let params = [descriptor(at_q), descriptor(at_k), descriptor(at_v) + leading, out, STEPS as u64, at];
    let params = params.map(u64::to_le_bytes);
    let params: Vec<&[u8]> = params.iter().map(|p| &p[..]).collect();
    let text = with_image("fa_01_qk_ss_pv_rs", image.len());
    fine(&kernel(&text), sizes(1, 128, 0), &params, &global);
    assert_eq!(gathered(&floats(&global, out, 128 * 64), 0, STEP), right);
}
