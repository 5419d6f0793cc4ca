//! Which tiling a product gets: the one that a model of the chip takes to be the fastest.
//!
//! Counted in cycles of a multiprocessor of an H100. What is fitted to measurements is the constants below, not the
//! tilings: of twelve tilings measured at 128 to 8192 rows the one it takes is at most 7 % behind the fastest.

use super::super::MULTIPROCESSORS;
use super::super::operands::{Order, Product};
use super::turned::TURN_BYTES;
use super::{ROW_BYTES, THREADS, Tiling};

/// Shared memory of a block, less what barriers take and what aligning the ring can cost.
const SHARED: u32 = 232_448 - 2048;
/// Most stages: more than that wait for nothing.
const MOST_STAGES: u32 = 12;
/// Products and additions of two bf16 a cycle: 93 % of what the units do, for the chip slows down under them.
const PRODUCTS: f64 = 1900.0;
/// Of each step: waiting for its stage, and for the products of the one before.
const STEP: f64 = 70.0;
/// Bytes a cycle: from shared memory, from the second-level cache to one multiprocessor, to all of them, from memory.
const SHARED_RATE: f64 = 128.0;
const L2_RATE_ONE: f64 = 64.0;
const L2_RATE_ALL: f64 = 5800.0;
const MEMORY_RATE: f64 = 1800.0;
/// Of that, what clusters reach: their blocks wait for one another's copies.
const MEMORY_CLUSTERED: f64 = 0.87;
/// Blocks that together ask for as much as memory gives.
const MEMORY_BLOCKS: f64 = 120.0;
/// Until the first products of a block: launch, barriers, the latency of memory.
const START: f64 = 2500.0;
/// Storing a tile: cycles a sum of a thread.
const STORE: f64 = 16.0;
const STORE_TURNED: f64 = 20.0;
/// Exchanging sums within a cluster: cycles for the barrier, and bytes a cycle.
const EXCHANGE: f64 = 500.0;
const EXCHANGE_RATE: f64 = 64.0;

/// A tiling and the blocks of a grid that stays, for up to `m` rows of a product that adds in this order.
pub fn choose(m: u64, of: &Product, order: Order) -> (Tiling, u32) {
    let Product { n, k, operands, .. } = *of;
    let cost = |t: &Tiling| cycles(t, m, n, k, operands.bytes());
    let best = served(m, of, order).min_by(|a, b| cost(a).total_cmp(&cost(b)));
    let t = best.unwrap_or(Tiling {
        bm: 128,
        bn: 128,
        turned: false,
        warpgroups: [2, 1],
        cluster: [1, 1],
        splits: 1,
        stages: 4,
    });
    (t, grid(&t, m, n))
}

/// The tilings that the model takes to be at most `within` times as slow as the fastest, the fastest first.
pub fn fastest(m: u64, of: &Product, order: Order, within: f64) -> Vec<Tiling> {
    let cost = |t: Tiling| (cycles(&t, m, of.n, of.k, of.operands.bytes()), t);
    let mut all: Vec<(f64, Tiling)> = served(m, of, order).map(cost).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let most = all.first().map_or(0.0, |best| within * best.0);
    all.into_iter().take_while(|(cost, _)| *cost <= most).map(|(_, t)| t).collect()
}

/// Every tiling for up to `m` rows of a product that adds in this order.
fn served(m: u64, of: &Product, order: Order) -> impl Iterator<Item = Tiling> {
    let steps = (of.k * of.operands.bytes()).div_ceil(ROW_BYTES);
    let (gated, append) = (of.gate.is_some(), of.append);
    let whole = move |t: &Tiling| {
        (!gated || t.serves_gated()) && append.as_ref().is_none_or(|rope| t.serves_heads(rope))
    };
    candidates(m).filter(move |t| whole(t) && t.keeps(order) && (t.splits == 1 || steps >= 4 * t.splits))
}

/// Blocks of a grid that stays, for up to `m` rows and `n` rows of w.
pub fn grid(t: &Tiling, m: u64, n: u32) -> u32 {
    (clusters(t, m, n) * u64::from(t.blocks())).min(u64::from(MULTIPROCESSORS / t.blocks() * t.blocks()))
        as u32
}

/// Clusters that the product is shared out to.
fn clusters(t: &Tiling, m: u64, n: u32) -> u64 {
    m.div_ceil(u64::from(t.bm * t.cluster[0])) * u64::from(n.div_ceil(t.bn * t.cluster[1]))
}

/// Every tiling for up to `m` rows, each with as many stages as there is room for. Of those that cost the same the first
/// is taken.
fn candidates(m: u64) -> impl Iterator<Item = Tiling> {
    // Rows of a tile, and how the warpgroups share it.
    const TALL: &[(u32, [u32; 2])] = &[(256, [2, 1]), (128, [2, 1])];
    const SHORT: &[(u32, [u32; 2])] = &[(64, [1, 2])];
    let rows = if m > 64 { TALL } else { SHORT };
    let tiles = rows.iter().flat_map(|&rows| (16..=256).step_by(16).map(move |bn| (rows, bn, false)));
    // Turned tiles have rows for m and no more; of more rows others waste little.
    let counts = if (65..=1024).contains(&m) { m.div_ceil(256)..m.div_ceil(64) } else { 0..0 };
    let turned = counts.flat_map(move |tiles| {
        let bm = m.div_ceil(tiles) as u32;
        [128, 256].map(|bn| ((bm, [1, 2]), bn, true))
    });
    // Of four blocks not all clusters of a grid that stays find room at once: the last ones come after the others, and such a
    // grid takes twice as long.
    let clusters = [([1, 1], 1), ([1, 2], 1), ([2, 1], 1), ([1, 1], 2)];
    let all = tiles.chain(turned);
    let all = all.flat_map(move |tile| clusters.into_iter().map(move |cluster| (tile, cluster)));
    all.filter_map(|(((bm, warpgroups), bn, turned), (cluster, splits))| {
        // Rows that blocks share, in parts of 8.
        let bm = if turned { bm.next_multiple_of(8 * cluster[1] * splits) } else { bm };
        Tiling { bm, bn, turned, warpgroups, cluster, splits, stages: 0 }.filled()
    })
}

impl Tiling {
    /// The tiling of tiles and clusters of these sizes, with as many stages as there is room for, if there is one.
    pub fn with([bm, bn]: [u32; 2], turned: bool, cluster: [u32; 2], splits: u32) -> Option<Tiling> {
        let warpgroups = if turned || bm == 64 { [1, 2] } else { [2, 1] };
        Tiling { bm, bn, turned, warpgroups, cluster, splits, stages: 0 }.filled()
    }

    /// The same with as many stages as there is room for.
    fn filled(self) -> Option<Tiling> {
        // What others send of a tile whose K is shared out is not part of the ring.
        let received = self.bm * self.bn * 4 / self.splits * (self.splits - 1);
        let turn = if self.turned { TURN_BYTES } else { 0 };
        let stages = (SHARED.saturating_sub(received + turn) / self.stage_bytes()).min(MOST_STAGES);
        let t = Tiling { stages, ..self };
        (stages >= 3 && t.unsupported().is_none()).then_some(t)
    }
}

/// What the product takes.
fn cycles(t: &Tiling, m: u64, n: u32, k: u32, bytes: u32) -> f64 {
    let clusters = clusters(t, m, n);
    let at_once = u64::from(MULTIPROCESSORS / t.blocks());
    let rounds = clusters.div_ceil(at_once) as f64;
    let active = (clusters.min(at_once) * u64::from(t.blocks())) as f64;
    let steps = f64::from((k * bytes).div_ceil(ROW_BYTES).div_ceil(t.splits));

    let [bm, bn] = [f64::from(t.bm), f64::from(t.bn)];
    let row = f64::from(ROW_BYTES);
    let products = bm * bn * row / 2.0 / PRODUCTS;
    // Each instruction reads 64 rows of the first operand and the warpgroup's rows of the second.
    let (first, second) = t.operands();
    let instructions = f64::from(first / 64 * (THREADS / 128 - 1));
    let reads = instructions * (64.0 + f64::from(second)) * row / SHARED_RATE;
    let arrives = (bm + bn) * row / L2_RATE_ONE;
    let [loads_x, loads_w] = t.loads();
    let loads = f64::from(loads_x + loads_w) * row / (L2_RATE_ALL / active).min(L2_RATE_ONE);
    let step = products.max(reads).max(arrives).max(loads) + STEP;

    let exchange = if t.splits == 1 {
        0.0
    } else {
        EXCHANGE + bm * bn * 4.0 * f64::from(t.splits - 1) / f64::from(t.splits) / EXCHANGE_RATE
    };
    let store = f64::from(t.sums()) / f64::from(t.splits) * if t.turned { STORE_TURNED } else { STORE };
    // The ring fills while a tile is stored.
    let tile = steps * step + store * 0.5 + exchange;
    let weights = f64::from(n) * f64::from(k) * f64::from(bytes);
    let together = if t.blocks() == 1 { 1.0 } else { MEMORY_CLUSTERED };
    let rate = MEMORY_RATE * together * (active / MEMORY_BLOCKS).min(1.0);
    let moved = weights + m as f64 * (f64::from(k) * f64::from(bytes) + f64::from(n) * 2.0);
    START + (rounds * tile).max(moved / rate) + store * 0.5 + exchange
}

#[cfg(test)]
mod tests {
    use super::super::super::Count;
    use super::super::super::operands::Operands;
    use super::*;
    use trtc_ir::DType;
    use trtc_ir::ops::Act;

    /// Shapes of a Llama of 8 billion weights.
    const SHAPES: [(u32, u32); 4] = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)];

    #[test]
    fn what_is_chosen_can_be_made_and_leaves_few_multiprocessors_out() {
        for (n, k) in SHAPES.into_iter().chain([(8, 16), (392, 328), (128_256, 2048)]) {
            for m in [17, 64, 65, 128, 256, 400, 512, 1000, 1024, 2048, 8192] {
                for operands in [Operands::Bf16, Operands::E4m3] {
                    let gate = (n == 28672).then_some(Act::Silu);
                    let of = Product {
                        n,
                        k,
                        operands,
                        rows: Count::Tokens,
                        bias: None,
                        residual: None,
                        out: DType::Bf16,
                        gate,
                        append: None,
                    };
                    for order in [Order::Shares(1), Order::Shares(2)] {
                        let (tiling, _) = choose(m, &of, order);
                        assert_eq!(tiling.unsupported(), None);
                        assert!(tiling.keeps(order), "{tiling:?} {order:?}");
                    }
                    let (t, grid) = choose(m, &of, Order::Free);
                    assert_eq!(t.unsupported(), None);
                    let turn = if t.turned { TURN_BYTES } else { 0 };
                    let used =
                        t.stages * t.stage_bytes() + t.bm * t.bn * 4 / t.splits * (t.splits - 1) + turn;
                    assert!(used <= SHARED, "{t:?}");
                    assert!(t.splits <= (k * operands.bytes()).div_ceil(ROW_BYTES), "{k} inputs: {t:?}");
                    assert!(grid.is_multiple_of(t.blocks()) && grid <= MULTIPROCESSORS, "{grid} {t:?}");
                    if n >= 4096 {
                        assert!(grid >= 100, "{m} {n} {k}: {grid} blocks of {t:?}");
                    }
                }
            }
        }
    }
}
