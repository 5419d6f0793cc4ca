//! The form for many tokens: weights are widened once for 32 or 64 of them, and matrix units are the limit.
//!
//! A block computes a tile of outputs and tokens in stages of 64 inputs, x and weights in one ring. Of 32 inputs a warp of
//! [`LARGE`], two panels by 64 tokens, reads 10 times 512 bytes of shared memory, 40 cycles of a multiprocessor, and issues
//! 56 (i8) or 44 (i4) instructions to widen, 16 cycles, and 32 `mma`, 32 or more.

use super::weights::{Accumulators, Group, PIECE};
use super::{Block, PANEL, QuantMatmul, SPAN, Sums, TILE};
use crate::builder::{Builder, GlobalPtr, I8, I32, SharedPtr, Special, Val};
use crate::tile::CHUNK;

/// Shape of a block's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Tokens of a block.
    pub tokens: u32,
    /// Panels of a block.
    pub panels: u32,
    /// Warps along panels and tokens.
    pub warps: [u32; 2],
    /// Blocks whose registers a multiprocessor should hold, if ptxas would otherwise aim for more and spill.
    pub blocks: Option<u32>,
}

/// 64 outputs: where larger tiles are too few to occupy a device.
pub const SMALL: Tiling = Tiling { tokens: 64, panels: 4, warps: [2, 2], blocks: Some(2) };
/// 128 outputs.
pub const LARGE: Tiling = Tiling { tokens: 128, panels: 8, warps: [4, 2], blocks: None };

impl Tiling {
    /// Threads of a block.
    pub(super) fn threads(self) -> u32 {
        self.warps[0] * self.warps[1] * 32
    }

    /// Panels and tiles of a warp.
    fn own(self) -> (u32, u32) {
        (self.panels / self.warps[0], self.tokens / TILE / self.warps[1])
    }

    /// Bytes of a stage's x.
    fn x_bytes(self) -> u32 {
        self.tokens * ROW
    }
}

/// Inputs of a stage.
const INPUTS: u32 = 64;
/// Bytes of a stage's row of x, eight chunks.
const ROW: u32 = INPUTS * 2;
/// Stages.
const STAGES: u32 = 4;

/// Byte offset of chunk `chunk` of row `row`. Eight lanes that read four chunks of two rows, or write a row, fall into
/// different banks.
fn place<'b>(row: Val<'b, I32>, chunk: Val<'b, I32>) -> Val<'b, I32> {
    row * ROW + (chunk ^ ((row & 1) * 4)) * CHUNK
}

impl QuantMatmul {
    /// Bytes of a stage of a panel.
    fn part(&self) -> u32 {
        SPAN * INPUTS / self.payload.span()
    }

    /// The kernel for many tokens.
    pub(super) fn build_many<'b>(&self, b: &'b Builder, at: Block<'b>, tiling: Tiling) {
        let Block { w, g, q, lane, warp, .. } = at;
        let (x_bytes, (panels, tiles)) = (tiling.x_bytes(), tiling.own());
        let (stage_bytes, in_span) = (x_bytes + tiling.panels * self.part(), self.payload.span() / INPUTS);
        if let Some(blocks) = tiling.blocks {
            b.min_blocks(blocks);
        }
        let ring = b.shared::<I8>(STAGES * stage_bytes, 1024);
        let load = |number: Val<'b, I32>, stage: Val<'b, I32>| {
            self.load_x(b, at, tiling, ring.at_bytes(stage), number);
            self.load_weights(b, at, tiling, ring.at_bytes(stage).at_bytes(x_bytes), number);
        };
        let stages = self.spans() * in_span;
        for s in 0..STAGES - 1 {
            if s < stages {
                load(b.value(s), b.value(s * stage_bytes));
            }
            b.cp_async_commit();
        }

        let (along_n, along_m) = (warp % tiling.warps[0], warp / tiling.warps[0]);
        // A panel that does not exist is the last one once more; its sums are not stored.
        let panel: Vec<_> =
            (0..panels).map(|p| (at.panel + along_n * panels + p).min(self.panels() - 1)).collect();
        let groups = |span: Val<'b, I32>| -> Vec<Vec<Group<'b>>> {
            panel.iter().map(|&p| self.groups(w, p, span, g)).collect()
        };
        // Where this lane reads: of blocks 0 and 1 of x, and of weights.
        let row = along_m * (tiles * TILE) + g;
        let x_at = [place(row, q), place(row, q + 4)];
        let w_at = along_n * (panels * self.part()) + lane * CHUNK + x_bytes;
        let last = (STAGES - 1) * stage_bytes;
        let next = |stage: Val<'b, I32>| stage.eq(last).select(0, stage + stage_bytes);
        // read: stage of this step; write: stage of step + STAGES - 1, which every warp has left behind at the barrier.
        let init = ((b.value(0), b.value(last)), groups(b.value(0)), self.no_sums(b, panels, tiles));
        let (_, _, sums) = b.for_(0, self.spans(), 1, init, |span, ((mut read, mut write), scales, sums)| {
            let next_scales = groups((span + 1).min(self.spans() - 1));
            let mut to = Accumulators::new(sums);
            for part in 0..in_span {
                b.cp_async_wait(STAGES - 2);
                b.sync();
                let ahead = span * in_span + (part + STAGES - 1);
                b.if_(ahead.lt(stages), || load(ahead, write));
                b.cp_async_commit();
                self.multiply_stage(b, ring.at_bytes(read), (x_at, w_at), (part, &scales), &mut to);
                (read, write) = (next(read), next(write));
            }
            ((read, write), next_scales, to.sums)
        });
        b.cp_async_wait(0);
        let sums = self.scaled(w, &panel, g, sums);
        self.store(b, at, [along_n * panels, along_m * tiles], &sums);
    }

    /// Adds the product of stage `part` of a span.
    fn multiply_stage<'b>(
        &self,
        b: &'b Builder,
        stage: SharedPtr<'b, I8>,
        (x_at, w_at): ([Val<'b, I32>; 2], Val<'b, I32>),
        (part, scales): (u32, &[Vec<Group<'b>>]),
        to: &mut Accumulators<'b>,
    ) {
        let weights = stage.at_bytes(w_at);
        let piece = |p: u32, i: u32| self.piece(weights.at_bytes(p * self.part() + i * (SPAN / 2))).to_vec();
        // 512 bytes are 32 inputs of i8, or both blocks of i4.
        let pieces = self.part() / (SPAN / 2);
        let (panels, tiles) = (to.sums.len() as u32, to.sums[0].len() as u32);
        let held: Vec<Vec<_>> =
            (0..panels).map(|p| (0..pieces).flat_map(|i| piece(p, i)).collect()).collect();
        let each = held[0].len() / 2;
        for (i, at) in x_at.into_iter().enumerate() {
            let x: Vec<_> =
                (0..tiles).map(|t| self.piece(stage.at_bytes(at).at_bytes(t * TILE * ROW))).collect();
            let words: Vec<_> = held.iter().map(|h| &h[i * each..(i + 1) * each]).collect();
            self.multiply(b, part * 2 + i as u32, &words, &x, scales, to);
        }
    }

    /// Starts this thread's copies of x of stage `number`; what lies outside becomes zero.
    fn load_x<'b>(
        &self,
        b: &'b Builder,
        at: Block<'b>,
        tiling: Tiling,
        to: SharedPtr<'b, I8>,
        number: Val<'b, I32>,
    ) {
        let thread = b.special(Special::ThreadX);
        let (row, chunk) = (thread / (ROW / CHUNK), thread % (ROW / CHUNK));
        let column = number * INPUTS + chunk * PIECE;
        let each = tiling.threads() / (ROW / CHUNK);
        for round in 0..tiling.tokens / each {
            let token = at.token + row + round * each;
            let from = at.x.at64(token.to_i64() * i64::from(self.k)).at(column).cast();
            let inside = token.lt(at.epilogue.m);
            let inside = if self.k.is_multiple_of(INPUTS) { inside } else { inside & column.lt(self.k) };
            b.cp_async_or_zero(to.at_bytes(place(row, chunk)).at_bytes(round * each * ROW), from, inside);
        }
    }

    /// Starts this thread's copies of the block's panels of stage `number`; for a panel that does not exist, the last.
    fn load_weights<'b>(
        &self,
        b: &'b Builder,
        at: Block<'b>,
        tiling: Tiling,
        to: SharedPtr<'b, I8>,
        number: Val<'b, I32>,
    ) {
        let thread = b.special(Special::ThreadX);
        let chunks = self.part() / CHUNK;
        for round in 0..tiling.panels * chunks / tiling.threads() {
            let chunk = thread + round * tiling.threads();
            let panel = (at.panel + chunk / chunks).min(self.panels() - 1);
            let panel: GlobalPtr<'b, I8> = at.w.payload.at64(panel.to_i64() * i64::from(self.spans() * SPAN));
            b.cp_async(to.at_bytes(chunk * CHUNK), panel.at(number * self.part() + chunk % chunks * CHUNK));
        }
    }

    /// Stores a warp's sums. Lanes of one token have outputs next to each other in two of them, `g` and `g ^ 1`: they
    /// exchange, so that each has a pair.
    fn store<'b>(&self, b: &'b Builder, at: Block<'b>, [panel, tile]: [Val<'b, I32>; 2], sums: &Sums<'b>) {
        let odd = (at.g & 1).eq(1);
        for (p, tiles) in sums.iter().enumerate() {
            for (t, &sum) in tiles.iter().enumerate() {
                // An even g takes token 2 q of rows g and g + 1, an odd one token 2 q + 1 of g - 1 and g.
                for half in 0..2 {
                    let [even_token, odd_token] = [sum[2 * half], sum[2 * half + 1]];
                    let other = b.shuffle_xor(odd.select(even_token, odd_token), 4);
                    let pair = [odd.select(other, even_token), odd.select(odd_token, other)];
                    let row = at.token + (tile + t as u32) * TILE + at.q * 2 + (at.g & 1);
                    let column = (at.panel + panel + p as u32) * PANEL + (half as u32 * 8) + (at.g & 6);
                    let inside = row.lt(at.epilogue.m);
                    let inside = if at.epilogue.ragged { inside & column.lt(self.n) } else { inside };
                    b.if_(inside, || at.epilogue.store_pair([row, column], pair));
                }
            }
        }
    }
}
