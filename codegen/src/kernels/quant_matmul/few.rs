//! The form for few tokens: weights are read once, at the speed of memory.
//!
//! A block has one to four panels and all of K. Its eight warps take spans in turn, each by `cp.async` into a ring of
//! its own, where a lane reads what it copied itself: no barrier in the loop. x comes straight into registers, a lane
//! reading what it needs of operand B, and mostly from the first-level cache; for up to 16 tokens it is asked for one
//! span ahead, as scales are. The warps' sums are added in shared memory in the order of warps.

use super::weights::{Accumulators, Group, PIECE, load_x};
use super::{Block, PANEL, QuantMatmul, SPAN, Sums, TILE};
use crate::builder::{Builder, F32, GlobalPtr, I8, I32, SharedPtr, Special, Val};
use crate::tile::CHUNK;

/// Warps of a block.
const WARPS: u32 = 8;
/// Threads of a block.
pub(super) const THREADS: u32 = WARPS * 32;

/// What a lane has of x for a span: `[block of 32][tile]`.
type Inputs<'b> = Vec<Vec<[Val<'b, I32>; 4]>>;

impl QuantMatmul {
    /// Panels of a block, which divide those of the matrix: more of them save reads of x, but there should be two blocks
    /// for each of 132 multiprocessors, or one if many tokens make reading x dear. Four take all registers: there must
    /// be as many spans for each warp, which needs none for the rest.
    pub(super) fn few_panels(&self, tokens: u32) -> u32 {
        let blocks = if tokens == TILE { 256 } else { 128 };
        let even = self.spans().is_multiple_of(WARPS);
        let fits =
            |p: &u32| self.panels().is_multiple_of(*p) && self.panels() / p >= blocks && (*p < 4 || even);
        [4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// Stages of a warp's ring. What two blocks have under way should be 40 KB or more: the latency of memory, 0.8 us,
    /// times 25 GB/s for each multiprocessor, twice over.
    fn stages(&self, panels: u32) -> u32 {
        match panels {
            4 => 3,
            2 => 4,
            _ => 6,
        }
    }

    /// The kernel for up to `tokens` tokens a block.
    pub(super) fn build_few<'b>(&self, b: &'b Builder, at: Block<'b>, tokens: u32) {
        let Block { w, g, q, lane, warp, .. } = at;
        let (panels, tiles) = (self.few_panels(tokens), tokens / TILE);
        let (spans, stages) = (self.spans(), self.stages(panels));
        let (stage_bytes, ahead) = (panels * SPAN, tiles <= 2);
        let ring = b.shared::<I8>(WARPS * stages * stage_bytes, 128);
        let own = ring.at_bytes(warp * (stages * stage_bytes) + lane * CHUNK);

        let panel: Vec<_> = (0..panels).map(|p| at.panel + p).collect();
        let from: Vec<GlobalPtr<'b, I8>> = panel
            .iter()
            .map(|p| w.payload.at64(p.to_i64() * i64::from(spans * SPAN)).at(lane * CHUNK))
            .collect();
        let copy = |span: Val<'b, I32>, stage: Val<'b, I32>| {
            for (p, from) in from.iter().enumerate() {
                for half in [0, SPAN / 2] {
                    let to = own.at_bytes(stage).at_bytes(p as u32 * SPAN + half);
                    b.cp_async(to, from.at(span * SPAN + half));
                }
            }
        };
        // A token that does not exist is the last one once more; its sums are not stored.
        let rows: Vec<_> = (0..tiles)
            .map(|t| (at.token + g + t * TILE).min(at.epilogue.m - 1).to_i64() * i64::from(self.k))
            .map(|row| at.x.at64(row))
            .collect();
        let inputs = |span: Val<'b, I32>| -> Inputs<'b> {
            let block = |block: u32| {
                let k = span * self.payload.span() + (q * PIECE + block * 32);
                // Beyond K weights are zero, whatever x is.
                let whole = self.k.is_multiple_of(self.payload.span());
                let k = if whole { k } else { k.min(self.k - PIECE) };
                rows.iter().map(|&row| load_x(row, k)).collect()
            };
            (0..self.payload.span() / 32).map(block).collect()
        };
        let groups = |span: Val<'b, I32>| -> Vec<Vec<Group<'b>>> {
            panel.iter().map(|&p| self.groups(w, p, span, g)).collect()
        };

        for s in 0..stages - 1 {
            let span = warp + s * WARPS;
            b.if_(span.lt(spans), || copy(span, b.value(s * stage_bytes)));
            b.cp_async_commit();
        }
        let last = (stages - 1) * stage_bytes;
        let next = |stage: Val<'b, I32>| stage.eq(last).select(0, stage + stage_bytes);
        let first = warp.min(spans - 1);
        let loaded = (if ahead { inputs(first) } else { Vec::new() }, groups(first));
        let init = ((b.value(0), b.value(last)), loaded, self.no_sums(b, panels, tiles));
        let (_, _, sums) = b.for_(warp, spans, WARPS, init, |span, ((read, write), (x, scales), sums)| {
            // Of this lane's stage `write` everything is in registers.
            let later = span + (stages - 1) * WARPS;
            b.if_(later.lt(spans), || copy(later, write));
            b.cp_async_commit();
            let following = (span + WARPS).min(spans - 1);
            let next_scales = groups(following);
            let next_x = if ahead { inputs(following) } else { Vec::new() };
            let x = if ahead { x } else { inputs(span) };
            b.cp_async_wait(stages - 1);
            let sums = self.multiply_span(b, own.at_bytes(read), &x, &scales, sums);
            ((next(read), next(write)), (next_x, next_scales), sums)
        });
        b.cp_async_wait(0);
        let sums = self.scaled(w, &panel, g, sums);
        self.add_warps(b, at, ring, (stages * stage_bytes, tokens), &sums);
    }

    /// `sums + w x` over the span of all panels in the stage at `own`.
    fn multiply_span<'b>(
        &self,
        b: &'b Builder,
        own: SharedPtr<'b, I8>,
        x: &Inputs<'b>,
        scales: &[Vec<Group<'b>>],
        sums: Sums<'b>,
    ) -> Sums<'b> {
        let panels = sums.len() as u32;
        let mut to = Accumulators::new(sums);
        let per_piece = x.len() / 2;
        for half in 0..2usize {
            let piece = |p: u32| self.piece(own.at_bytes(p * SPAN + half as u32 * (SPAN / 2)));
            let pieces: Vec<_> = (0..panels).map(piece).collect();
            for i in 0..per_piece {
                let words: Vec<_> =
                    pieces.iter().map(|p| &p[i * 4 / per_piece..(i + 1) * 4 / per_piece]).collect();
                let block = half * per_piece + i;
                self.multiply(b, block as u32, &words, &x[block], scales, &mut to);
            }
        }
        to.sums
    }

    /// Adds the sums of all warps and stores them. `ring`: of all warps, `bytes` each.
    fn add_warps<'b>(
        &self,
        b: &'b Builder,
        at: Block<'b>,
        ring: SharedPtr<'b, I8>,
        (bytes, tokens): (u32, u32),
        sums: &Sums<'b>,
    ) {
        // `[token][output]`, rows 4 longer: then the 32 lanes that store a register reach all banks.
        let outputs = sums.len() as u32 * PANEL;
        let pitch = outputs + 4;
        debug_assert!(tokens * pitch * 4 <= bytes);
        // Other lanes' stages are written over.
        b.sync_warp();
        let own = ring.at_bytes(at.warp * bytes).cast::<F32>().at(at.q * (2 * pitch) + at.g);
        for (p, tiles) in sums.iter().enumerate() {
            for (t, sum) in tiles.iter().enumerate() {
                let to = own.at(t as u32 * TILE * pitch + p as u32 * PANEL);
                for (i, &sum) in sum.iter().enumerate() {
                    to.at(i as u32 % 2 * pitch + i as u32 / 2 * 8).store(sum);
                }
            }
        }
        b.sync();
        let thread = b.special(Special::ThreadX);
        let pairs = outputs / 2;
        for round in 0..(tokens * pairs).div_ceil(THREADS) {
            let number = thread + round * THREADS;
            let (token, output) = (number / pairs, number % pairs * 2);
            let (row, column) = (at.token + token, at.panel * PANEL + output);
            let inside = row.lt(at.epilogue.m) & token.lt(tokens);
            b.if_(if at.epilogue.ragged { inside & column.lt(self.n) } else { inside }, || {
                let from = ring.cast::<F32>().at(token * pitch + output);
                let of = |warp: u32| from.at_bytes(warp * bytes).load_vector::<2>().elements();
                let sum = (1..WARPS).map(of).fold(of(0), |[a, b], [c, d]| [a + c, b + d]);
                at.epilogue.store_pair([row, column], sum);
            });
        }
    }
}
