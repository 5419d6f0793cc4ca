//! Which tiling a product gets: the one that a model of the chip takes to be the fastest.
//!
//! Counted in cycles of a multiprocessor of an H100. What is fitted to measurements is the constants below, not the
//! tilings; a tiling that wins by a hair may as well lose by one.

use super::super::operands::Operands;
use super::{ROW_BYTES, THREADS, Tiling};

/// Multiprocessors that clusters of so many blocks cover: some are left over where a group of them is no multiple.
const CLUSTERED: [(u32, u32); 3] = [(1, 132), (2, 132), (4, 128)];
/// Shared memory of a block, less what barriers take and what aligning the ring can cost.
const SHARED: u32 = 232_448 - 2048;
/// Most stages: more than that wait for nothing.
const MOST_STAGES: u32 = 12;
/// Products and additions of two bf16 a cycle.
const PRODUCTS: f64 = 2048.0;
/// Bytes a cycle: from shared memory, from the second-level cache to one multiprocessor, to all of them, from memory.
const SHARED_RATE: f64 = 128.0;
const L2_RATE_ONE: f64 = 64.0;
const L2_RATE_ALL: f64 = 5500.0;
const MEMORY_RATE: f64 = 1800.0;
/// Until the first products of a block: launch, barriers, the latency of memory.
const START: f64 = 2500.0;
/// Storing a tile: cycles a sum of a thread.
const STORE: f64 = 16.0;
/// Exchanging sums within a cluster: cycles for the barrier, and bytes a cycle.
const EXCHANGE: f64 = 1500.0;
const EXCHANGE_RATE: f64 = 32.0;

/// A tiling and the blocks of a grid that stays, for up to `m` rows, `n` outputs and `k` inputs.
pub fn choose(m: u64, n: u32, k: u32, operands: Operands) -> (Tiling, u32) {
    let cost = |t: &Tiling| cycles(t, m, n, k, operands.bytes());
    let best = candidates().min_by(|a, b| cost(a).total_cmp(&cost(b)));
    let t = best.unwrap_or(Tiling {
        bm: 128,
        bn: 128,
        warpgroups: [2, 1],
        cluster: [1, 1],
        splits: 1,
        stages: 4,
    });
    let blocks = u64::from(t.blocks());
    let grid = (clusters(&t, m, n) * blocks).min(u64::from(covered(t.blocks())));
    (t, grid as u32)
}

/// Multiprocessors that clusters of so many blocks cover.
fn covered(blocks: u32) -> u32 {
    CLUSTERED.iter().find(|c| c.0 == blocks).map_or(0, |c| c.1)
}

/// Clusters that the product is shared out to.
fn clusters(t: &Tiling, m: u64, n: u32) -> u64 {
    m.div_ceil(u64::from(t.bm * t.cluster[0])) * u64::from(n.div_ceil(t.bn * t.cluster[1]))
}

/// Every tiling that the kernel can be made with, each with as many stages as there is room for.
fn candidates() -> impl Iterator<Item = Tiling> {
    let tiles = [128, 256].into_iter().flat_map(|bm| (16..=256).step_by(16).map(move |bn| (bm, bn)));
    let shares = [([1, 1], 1), ([2, 1], 1), ([1, 2], 1), ([2, 2], 1), ([4, 1], 1), ([1, 4], 1)];
    let splits = [([1, 1], 2), ([1, 1], 4), ([2, 1], 2), ([1, 2], 2)];
    let clusters = shares.into_iter().chain(splits);
    tiles.flat_map(move |tile| clusters.clone().map(move |cluster| (tile, cluster))).filter_map(
        |((bm, bn), (cluster, splits))| {
            let t = Tiling { bm, bn, warpgroups: [2, 1], cluster, splits, stages: 0 };
            // What others send of a tile whose K is shared out is not part of the ring.
            let received = bm * bn * 4 / splits * (splits - 1);
            let stages = (SHARED.saturating_sub(received) / t.stage_bytes()).min(MOST_STAGES);
            let t = Tiling { stages, ..t };
            (stages >= 3 && t.unsupported().is_none()).then_some(t)
        },
    )
}

/// What the product takes.
fn cycles(t: &Tiling, m: u64, n: u32, k: u32, bytes: u32) -> f64 {
    let clusters = clusters(t, m, n);
    let at_once = u64::from(covered(t.blocks()) / t.blocks());
    let rounds = clusters.div_ceil(at_once) as f64;
    let active = (clusters.min(at_once) * u64::from(t.blocks())) as f64;
    let steps = f64::from((k * bytes).div_ceil(ROW_BYTES).div_ceil(t.splits));

    let [bm, bn] = [f64::from(t.bm), f64::from(t.bn)];
    let row = f64::from(ROW_BYTES);
    let products = bm * bn * row / 2.0 / PRODUCTS;
    // Each instruction reads 64 rows of x and the warpgroup's rows of w.
    let (rows, columns) = t.of_warpgroup();
    let instructions = f64::from(rows / 64 * (THREADS / 128 - 1));
    let reads = instructions * (64.0 + f64::from(columns)) * row / SHARED_RATE;
    let arrives = (bm + bn) * row / L2_RATE_ONE;
    let [loads_x, loads_w] = t.loads();
    let loads = f64::from(loads_x + loads_w) * row / (L2_RATE_ALL / active).min(L2_RATE_ONE);
    let step = products.max(reads).max(arrives).max(loads);

    let exchange = if t.splits == 1 {
        0.0
    } else {
        EXCHANGE + bm * bn * 4.0 * f64::from(t.splits - 1) / f64::from(t.splits) / EXCHANGE_RATE
    };
    let store = f64::from(t.sums()) / f64::from(t.splits) * STORE;
    // The ring fills while a tile is stored.
    let tile = steps * step + store * 0.5 + exchange;
    let weights = f64::from(n) * f64::from(k) * f64::from(bytes);
    let moved = weights + m as f64 * (f64::from(k) * f64::from(bytes) + f64::from(n) * 2.0);
    START + (rounds * tile).max(moved / MEMORY_RATE) + store * 0.5 + exchange
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shapes of a Llama of 8 billion weights.
    const SHAPES: [(u32, u32); 4] = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)];

    #[test]
    fn print_choices() {
        for m in [64, 128, 256, 512, 1024, 2048, 8192] {
            for (n, k) in SHAPES {
                let (t, grid) = choose(m, n, k, Operands::Bf16);
                let us = cycles(&t, m, n, k, 2) / 1700.0;
                println!("{m:5} {n:5} {k:5}: {us:7.1} us grid {grid} {t:?}");
            }
        }
    }
}
