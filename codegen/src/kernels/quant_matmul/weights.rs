//! A lane's part of the weights: where its scales lie, how its bytes become operand A, and the product of 32 inputs.
//!
//! Instructions a lane spends to widen 8 weights, its part of one `mma`: i8 14, of which 10 are of integers, i4 11 and 7.
//! A multiprocessor of an H100 issues for 128 lanes a cycle, for 64 of integers, and gets 13 bytes a cycle from memory (3
//! TB/s): 13 weights of i8 take 23 of the 128 and 16 of the 64, 27 of i4 take 37 and 24. So few tokens wait for memory, as
//! long as its latency is covered.

use super::{Payload, QuantMatmul, Sums};
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I8, I32, SharedPtr, Val};

/// The parameters that are weights.
#[derive(Clone, Copy)]
pub(super) struct Weights<'b> {
    pub(super) payload: GlobalPtr<'b, I8>,
    /// f32 or bf16.
    pub(super) scale: GlobalPtr<'b, I8>,
    pub(super) zero: Option<GlobalPtr<'b, I8>>,
}

/// A lane's scales of one group of a panel, `scale[g]` in the lower half, `scale[g + 8]` in the upper, and the zero
/// points in the lower two bytes.
pub(super) type Group<'b> = [Val<'b, I32>; 2];

/// What a warp adds up.
pub(super) struct Accumulators<'b> {
    pub(super) sums: Sums<'b>,
    /// Of the group under way, without its scale.
    part: Sums<'b>,
}

impl<'b> Accumulators<'b> {
    pub(super) fn new(sums: Sums<'b>) -> Accumulators<'b> {
        Accumulators { sums, part: Vec::new() }
    }
}

impl QuantMatmul {
    /// Zero sums.
    pub(super) fn no_sums<'b>(&self, b: &'b Builder, panels: u32, tiles: u32) -> Sums<'b> {
        vec![vec![[b.value(0.0f32); 4]; tiles as usize]; panels as usize]
    }

    /// 16 bytes of a lane.
    pub(super) fn piece<'b>(&self, from: SharedPtr<'b, I8>) -> [Val<'b, I32>; 4] {
        from.cast::<I32>().load_vector::<4>().elements()
    }

    /// This lane's groups of a span of a panel; none for i8.
    pub(super) fn groups<'b>(
        &self,
        w: Weights<'b>,
        panel: Val<'b, I32>,
        span: Val<'b, I32>,
        g: Val<'b, I32>,
    ) -> Vec<Group<'b>> {
        let (Payload::I4(group), Some(zero)) = (self.payload, w.zero) else {
            return Vec::new();
        };
        let in_span = self.payload.span() / group;
        // `[panel][group][r % 8][r / 8]`: 32 bytes of scales, 16 of zero points.
        let first = panel * (self.spans() * in_span) + span * in_span;
        let (scale, zero) = (w.scale.cast::<I32>(), zero.cast::<I32>());
        let of = |i: u32| {
            let first = first + i;
            let zeros = zero.at(first * 4 + (g >> 1)).load() >> ((g & 1) * 16);
            [scale.at(first * 8 + g).load(), zeros]
        };
        (0..in_span).map(of).collect()
    }

    /// The sums with the scales of i8; those of i4 are in them.
    pub(super) fn scaled<'b>(
        &self,
        w: Weights<'b>,
        panels: &[Val<'b, I32>],
        g: Val<'b, I32>,
        sums: Sums<'b>,
    ) -> Sums<'b> {
        if self.payload != Payload::I8 {
            return sums;
        }
        let scaled = |(tiles, panel): (Vec<[Val<'b, F32>; 4]>, &Val<'b, I32>)| {
            let scale = w.scale.cast::<F32>().at(*panel * super::PANEL + g);
            let [low, high] = [scale.load(), scale.at(8).load()];
            tiles.iter().map(|&[a, b, c, d]| [a * low, b * low, c * high, d * high]).collect()
        };
        sums.into_iter().zip(panels).map(scaled).collect()
    }

    /// Adds the product of block `block` of 32 inputs of a span. `words`: of each panel, four of i8, two of i4;
    /// `x`: of each tile, elements `8 q` to `8 q + 7` of token `g`; `groups`: of each panel.
    pub(super) fn multiply<'b>(
        &self,
        b: &'b Builder,
        block: u32,
        words: &[&[Val<'b, I32>]],
        x: &[[Val<'b, I32>; 4]],
        groups: &[Vec<Group<'b>>],
        to: &mut Accumulators<'b>,
    ) {
        let Payload::I4(group) = self.payload else {
            for (words, sums) in words.iter().zip(&mut to.sums) {
                for (step, pair) in words.chunks_exact(2).enumerate() {
                    mma(b, bytes(b, pair), x, step, sums);
                }
            }
            return;
        };
        let blocks = group / 32;
        if block.is_multiple_of(blocks) {
            to.part = self.no_sums(b, words.len() as u32, x.len() as u32);
        }
        for ((words, groups), (part, sums)) in
            words.iter().zip(groups).zip(to.part.iter_mut().zip(&mut to.sums))
        {
            let [scales, zeros] = groups[(block / blocks) as usize];
            let offsets = offsets(zeros);
            for (step, &word) in words.iter().enumerate() {
                mma(b, nibbles(b, word, offsets), x, step, part);
            }
            if block % blocks == blocks - 1 {
                let scale = [scales << 16, scales & -0x1_0000].map(|s| s.bitcast::<F32>());
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum = std::array::from_fn(|i| part[i].fma(scale[i / 2], sum[i]));
                }
            }
        }
    }
}

/// `sums + a x` for step `step` of two of a block.
fn mma<'b>(
    b: &'b Builder,
    a: [Val<'b, I32>; 4],
    x: &[[Val<'b, I32>; 4]],
    step: usize,
    sums: &mut [[Val<'b, F32>; 4]],
) {
    for (x, sum) in x.iter().zip(sums) {
        *sum = b.mma_bf16(a, [x[2 * step], x[2 * step + 1]], *sum);
    }
}

/// 1 in both halves.
const ONES: u32 = 0x3f80_3f80;

/// Operand A from i8: word `r / 2` has register `r` in bytes `r % 2` and `r % 2 + 2`.
///
/// With `v = low - 128 s`, s its sign and low its other bits: `0x4300 | low` is 128 + low in bf16, and
/// `0xc300 | s << 7` is -128 or -256, for s is the lowest bit of the exponent. Their sum is v, exact.
fn bytes<'b>(b: &'b Builder, words: &[Val<'b, I32>]) -> [Val<'b, I32>; 4] {
    std::array::from_fn(|r| {
        let word = if r % 2 == 0 { words[r / 2] } else { words[r / 2] >> 8 };
        let low = b.and_or(word, 0x007f_007f, 0x4300_4300);
        let sign = b.and_or(word, 0x0080_0080, 0xc300_c300_u32);
        b.fma_bf16x2(low, ONES, sign)
    })
}

/// What takes the bias of nibbles and the zero points off, for rows `g` and `g + 8`: `-(136 + z)` in both halves.
fn offsets<'b>(zeros: Val<'b, I32>) -> [Val<'b, I32>; 2] {
    // 0xc300 is -128 and has an ulp of 1; the low four bits of z, the highest of them flipped, are z + 8.
    [zeros, zeros >> 8].map(|z| {
        let z = (z & 0xf) ^ 0xc308;
        z | z << 16
    })
}

/// Operand A from i4, zero points taken off: register `r` in nibbles `r` and `r + 4`. `0x4300 | n` is 128 + n in bf16,
/// n = q + 8. A nibble further up would reach into the exponent, so each is moved down. All of it is exact.
fn nibbles<'b>(b: &'b Builder, word: Val<'b, I32>, offsets: [Val<'b, I32>; 2]) -> [Val<'b, I32>; 4] {
    std::array::from_fn(|r| {
        let biased = b.and_or(word >> (4 * r as u32), 0x000f_000f, 0x4300_4300);
        b.fma_bf16x2(biased, ONES, offsets[r % 2])
    })
}

/// Elements of a piece of x: 16 bytes.
pub(super) const PIECE: u32 = 8;

/// Elements `k..k + 8` of a row of x.
pub(super) fn load_x<'b>(row: GlobalPtr<'b, Bf16>, k: Val<'b, I32>) -> [Val<'b, I32>; 4] {
    row.at(k).cast::<I32>().load_vector::<4>().elements()
}
