//! `y = x w^T + bias + residual` for many rows with `wgmma`: x `(M, K)`, w `(N, K)` row-major, y `(M, N)`, f32 sums.
//!
//! A block of three warpgroups stays on its multiprocessor and takes tile after tile of y. One thread of the first
//! warpgroup keeps a ring of stages in shared memory full by tensor copies, each a step of 128 bytes along K of the tile's
//! rows of x and of w, swizzled as `wgmma` reads them; the other two warpgroups multiply (`pipeline`). Because the ring
//! does not end with a tile, the next tile's operands arrive while this one's sums are stored.
//!
//! Blocks of a cluster work on neighbouring tiles: what they have in common, rows of x or of w, each loads in part and
//! sends to all of them. Or they share out the K of one tile, and each then adds up its part of the columns (`splits`).
//! Queries, keys and values go from the sums to where attention reads them (`heads`).
//! Gated products (`gate`) have rows of gate and of up in one tile. M is the number of tokens or rows, known at launch: what lies past
//! it is multiplied and not stored.
//!
//! An instruction multiplies 64 rows of its first operand with any multiple of 8 rows of its second. With x first a tile has 64, 128
//! or 256 rows of y; with w first ([`Tiling::turned`]) it has as many as are wanted, so that 400 rows are computed as 400, not as 512,
//! and its sums, outputs by rows, are turned on their way to y (`turned`).

mod heads;
mod pipeline;
mod splits;
mod store;
mod tilings;
mod turned;

pub use tilings::{choose, fastest, grid};

use super::epilogue::Epilogue;
use super::operands::{Order, Product};
use super::rope_kv_append::Behind;
use super::{Count, Extent, Launch, grid_of};
use crate::builder::{Barrier, Bf16, Builder, I32, SharedPtr, Special, TensorMap, Val};

/// Bytes of a row in a stage: what a tensor copy swizzles.
const ROW_BYTES: u32 = 128;
/// Bytes along K of one instruction.
const STEP_BYTES: u32 = 32;
/// Warpgroups that multiply.
const CONSUMERS: u32 = 2;
/// Threads of a block.
const THREADS: u32 = 128 * (1 + CONSUMERS);
/// Registers of a thread that copies and of one that multiplies: together what `THREADS` start with, 168 each.
const REGISTERS: [u32; 2] = [40, 232];
/// Most sums of a thread: with the addresses that they are stored to, they fit its registers.
const MOST_SUMS: u32 = 128;
/// Most blocks of a cluster that every GPU has.
const MOST_BLOCKS: u32 = 8;
/// Rows of a tile of tiles that is walked through before the next: its rows of x stay in the second-level cache.
const GROUP_ROWS: u32 = 2048;

/// Shape of a block's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of y of a block: a multiple of 64 for each warpgroup along M; if turned, of 8 for each block that shares them.
    pub bm: u32,
    /// Columns of y of a block: a multiple of 8 for each warpgroup along N and for each block that shares them; if turned, of 64 for
    /// each warpgroup.
    pub bn: u32,
    /// Whether w is the first operand of products, and the sums are outputs by rows.
    pub turned: bool,
    /// How the two warpgroups that multiply share the tile: along M and N.
    pub warpgroups: [u32; 2],
    /// Tiles of a cluster, along M and N. Blocks along M share rows of w, blocks along N rows of x.
    pub cluster: [u32; 2],
    /// Blocks, of a cluster too, that share out the K of a tile.
    pub splits: u32,
    /// Stages of the ring.
    pub stages: u32,
}

impl Tiling {
    /// Blocks of a cluster.
    pub const fn blocks(self) -> u32 {
        self.cluster[0] * self.cluster[1] * self.splits
    }

    /// Bytes of x and of w in a stage.
    const fn stage(self) -> [u32; 2] {
        [self.bm * ROW_BYTES, self.bn * ROW_BYTES]
    }

    /// Bytes of a stage.
    const fn stage_bytes(self) -> u32 {
        (self.bm + self.bn) * ROW_BYTES
    }

    /// Rows and columns of y of a warpgroup.
    const fn of_warpgroup(self) -> (u32, u32) {
        (self.bm / self.warpgroups[0], self.bn / self.warpgroups[1])
    }

    /// Sums of a thread.
    const fn sums(self) -> u32 {
        self.bm * self.bn / (128 * CONSUMERS)
    }

    /// Rows of the first and of the second operand of a warpgroup.
    const fn operands(self) -> (u32, u32) {
        let (rows, columns) = self.of_warpgroup();
        if self.turned { (columns, rows) } else { (rows, columns) }
    }

    /// Why no kernel has this tiling.
    fn unsupported(self) -> Option<String> {
        let (first, second) = self.operands();
        let [of_x, of_w] = self.loads();
        let served = first > 0
            && first.is_multiple_of(64)
            && second.is_multiple_of(8 * self.splits)
            && (8..=256).contains(&second)
            && self.blocks() <= MOST_BLOCKS
            && self.sums() <= MOST_SUMS
            && [of_x, of_w].iter().all(|&loads| loads.is_multiple_of(8) && (8..=256).contains(&loads))
            && self.stages >= 2;
        (!served).then(|| format!("no kernel has the tiling {self:?}"))
    }

    /// Whether gate and up of an output can be in one warpgroup's tile: in one thread's sums, or, if it is turned, in one tile of 64 rows.
    fn serves_gated(self) -> bool {
        let (first, _) = self.operands();
        self.splits == 1 && if self.turned { first == 64 } else { self.of_warpgroup().1.is_multiple_of(16) }
    }

    /// Whether a kernel can add in this order: of shares a thread has two sets of sums.
    fn keeps(self, order: Order) -> bool {
        match order {
            Order::Free => true,
            Order::Shares(1) => self.splits == 1,
            Order::Shares(_) => self.splits == 1 && 2 * self.sums() <= MOST_SUMS,
        }
    }

    /// Rows of x and of w that one block loads for all that share them.
    pub const fn loads(self) -> [u32; 2] {
        [self.bm / self.cluster[1], self.bn / self.cluster[0]]
    }
}

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WgmmaMatmul {
    /// What is computed.
    pub of: Product,
    /// Shape of a block's work.
    pub tiling: Tiling,
    /// Blocks of a grid that stays, a multiple of a cluster's. Not of one whose blocks share out K: it has a block for
    /// each share.
    pub grid: u32,
    /// The order of sums. Shares of it are chains of one block, which adds them in registers.
    pub order: Order,
}

/// What every thread of a block knows.
#[derive(Clone, Copy)]
struct Block<'b> {
    b: &'b Builder,
    /// The stages.
    ring: SharedPtr<'b, Bf16>,
    /// A barrier for each stage: its copies have arrived.
    full: Barrier<'b>,
    /// A barrier for each stage: all that read it are done with it.
    empty: Barrier<'b>,
    /// Of x and w.
    maps: [Val<'b, TensorMap>; 2],
    /// Rows of y.
    m: Val<'b, I32>,
    /// Requests.
    seqs: Val<'b, I32>,
    /// This block's number along M, N and K in its cluster.
    place: [Val<'b, I32>; 3],
}

/// What becomes of sums.
#[derive(Clone, Copy)]
struct End<'b> {
    epilogue: Epilogue<'b>,
    append: Option<Behind<'b>>,
}

impl WgmmaMatmul {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let gated = || {
            (self.of.gate.is_some() && !self.tiling.serves_gated())
                .then(|| format!("no gated kernel has the tiling {:?}", self.tiling))
        };
        let shares = || {
            let k = self.of.k;
            let none = k.div_ceil(self.bk()) <= self.steps().0 * (self.tiling.splits - 1);
            none.then(|| format!("{k} inputs are too few for {} shares", self.tiling.splits))
        };
        let ordered = || {
            (!self.tiling.keeps(self.order)).then(|| {
                format!("no kernel with the tiling {:?} adds in the order {:?}", self.tiling, self.order)
            })
        };
        let appended = || {
            let rope = self.of.append?;
            let whole = self.tiling.serves_heads(&rope);
            let n = rope.all_heads().count.saturating_mul(rope.head_dim);
            let same = n == self.of.n && self.of.residual.is_none() && self.of.gate.is_none();
            rope.unsupported().or_else(|| {
                (!(whole && same))
                    .then(|| format!("no kernel with the tiling {:?} appends what it makes", self.tiling))
            })
        };
        let tiling = || self.tiling.unsupported();
        let sizes = self.of.unsupported_sizes();
        sizes.or_else(tiling).or_else(shares).or_else(gated).or_else(ordered).or_else(appended)
    }

    /// Columns of y of a tile.
    fn tile_outputs(&self) -> u32 {
        self.tiling.bn / self.of.halves()
    }

    /// Rows of w that one copy takes: they lie together in w and in the tile, which, if y is gated, has of each warpgroup's
    /// columns first gate's and then up's.
    fn copied(&self) -> u32 {
        let loads = self.tiling.loads()[1];
        if self.of.gate.is_none() {
            return loads;
        }
        let mut both = (loads, self.tiling.of_warpgroup().1 / 2);
        while both.1 != 0 {
            both = (both.1, both.0 % both.1);
        }
        both.0
    }

    /// Elements along K of a step.
    fn bk(&self) -> u32 {
        ROW_BYTES / self.of.operands.bytes()
    }

    /// Steps along K of each share but the last, and of the last.
    fn steps(&self) -> (u32, u32) {
        let all = self.of.k.div_ceil(self.bk());
        let each = all.div_ceil(self.tiling.splits);
        (each, all.saturating_sub(each * (self.tiling.splits - 1)))
    }

    /// Tiles of clusters along N.
    fn tiles_n(&self) -> u32 {
        self.of.outputs().div_ceil(self.tile_outputs() * self.tiling.cluster[1])
    }

    /// True if a tile can reach beyond column n.
    fn ragged(&self) -> bool {
        !self.of.outputs().is_multiple_of(self.tile_outputs() * self.tiling.cluster[1])
    }

    /// Geometry. Arguments: [`Product::args`].
    pub fn launch(&self) -> Launch {
        let t = self.tiling;
        let blocks = if t.splits == 1 {
            Extent { of: Count::One, div: 1, plus: None, mul: self.grid }
        } else {
            Extent {
                of: self.of.rows,
                div: t.bm * t.cluster[0],
                plus: None,
                mul: self.tiles_n() * t.blocks(),
            }
        };
        let maps = vec![self.of.map_x(t.loads()[0], ROW_BYTES), self.of.map_w(self.copied(), ROW_BYTES)];
        Launch { maps, ..Launch::new(grid_of(blocks), THREADS, self.of.args()) }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let t = self.tiling;
        let (_, params) = self.of.params(b);
        let maps = [b.param_tensor_map(), b.param_tensor_map()];
        let dims = b.param_dims_early();
        let m = self.of.rows.of(dims);
        let end = End { epilogue: self.of.epilogue(params, m, self.ragged()), append: params.append };

        let (full, empty) = (b.barriers(t.stages), b.barriers(t.stages));
        // What other blocks of the cluster have of a tile, and where turned sums are turned.
        let memory = [self.received(b), self.turn(b)];
        let ring = b.shared::<Bf16>(t.stages * t.stage_bytes() / 2, 8 * ROW_BYTES);
        let [along_m, along_n] = t.cluster;
        let place = if t.blocks() == 1 {
            [b.value(0); 3]
        } else {
            b.cluster([t.blocks(), 1, 1]);
            let rank = b.cluster_rank();
            [rank % along_m, rank / along_m % along_n, rank / (along_m * along_n)]
        };
        let block = Block { b, ring, full, empty, maps, m, seqs: dims.seqs, place };

        let thread = b.special(Special::ThreadX);
        b.if_(thread.eq(0), || {
            for stage in 0..t.stages {
                full.at(stage).init(1);
                // Each warp that multiplies, in every block that gets some of what this block loads.
                empty.at(stage).init(4 * CONSUMERS * (along_m + along_n - 1));
            }
            b.fence_barriers();
        });
        if t.blocks() > 1 {
            b.meet_cluster()
        } else {
            b.sync()
        }
        // The same in all lanes, and seen to be.
        let warp = b.broadcast(thread / 32, 0);
        let produces = warp.lt(4);
        b.if_(produces, || {
            b.fewer_registers(REGISTERS[0]);
            b.if_(thread.eq(0), || self.produce(block));
            self.leave(b);
        });
        b.if_(!produces, || {
            b.more_registers(REGISTERS[1]);
            b.after_grids();
            self.consume(block, warp - 4, end, memory);
        });
    }

    /// Lets no block of a cluster end before others have arrived at its barriers and sent it what they had for it.
    fn leave(&self, b: &Builder) {
        if self.tiling.splits > 1 {
            b.sync_cluster();
        } else if self.tiling.blocks() > 1 {
            b.meet_cluster();
        }
    }
}
