//! Attention of runs of tokens on the tensor cores of sm_90: what prompts need. Any step is served.
//!
//! A block takes one tile of queries after the other. One warp fills shared memory with tensor copies
//! (`wgmma_attention/producer.rs`): the queries, and a ring of tiles of keys and values; where those are e4m3, its whole
//! warpgroup makes f16 of them (`wgmma_attention/converter.rs`), or transposes values (`wgmma_attention/transposer.rs`) where
//! queries are rounded to e4m3 too (`wgmma_attention/queries.rs`), and everything is multiplied as codes. Each of the other
//! warpgroups has 64 rows of queries (`wgmma_attention/consumer.rs`, of codes `wgmma_attention/codes.rs`): scores and weighted
//! values are `wgmma` products, the softmax is kept up in registers. But for codes, a warpgroup multiplies the next tile of keys
//! while it makes weights of this one's scores, and the warpgroups take turns in starting products, so that one's softmax runs beside
//! another's products.
//!
//! A row is a token and one of [`WgmmaAttention::heads_of_tile`] query heads that share a key/value head, so that short runs
//! fill tiles too. Tiles of keys begin at multiples of their length and are taken from the last one down, so a row's result
//! depends on its position alone: tiles that it does not see change nothing. What is computed is in
//! [`super::attention`], the order of tiles of queries in `wgmma_attention/work.rs`.

mod announce;
mod codes;
mod consumer;
mod converter;
mod producer;
mod queries;
mod transposer;
mod work;

use super::attention::{Attention, Paged};
use super::{Count, Extent, Launch, MULTIPROCESSORS, Map, MapElem, MapRows, Scratch, grid_of};
use crate::builder::{
    Barrier, Bf16, Builder, F32, GlobalPtr, I32, SharedPtr, Special, StepDims, TensorMap, Val, WgmmaType,
};
use converter::Halves;
use trtc_ir::DType;

/// Tokens of a page, rows of a tensor copy of keys or values.
const PAGE: u32 = 64;
/// Rows of queries of a warpgroup.
const ROWS: u32 = 64;
/// Columns of a tensor copy: 128 bytes.
const COLUMNS: u32 = 64;
/// Bytes of such columns in a row.
const ROW_BYTES: u32 = 2 * COLUMNS;
/// Threads of a warpgroup.
const GROUP: u32 = 128;
/// Warps of a warpgroup.
const WARPS: u32 = 4;

/// The kernel for these constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WgmmaAttention(pub Attention);

/// Shape of a block's work.
#[derive(Clone, Copy)]
struct Tiling {
    /// Warpgroups with queries.
    groups: u32,
    /// Keys of a tile.
    keys: u32,
    /// Tiles of keys, and tiles of values, in shared memory: powers of two.
    stages: [u32; 2],
    /// Tiles of queries in shared memory.
    queries: u32,
    /// Registers of a thread of the warpgroup that fills shared memory, and of the others.
    registers: [u32; 2],
}

/// The parameters.
#[derive(Clone, Copy)]
struct Params<'b> {
    paged: Paged<'b>,
    /// `(tokens, heads, head_dim)`.
    y: GlobalPtr<'b, Bf16>,
    /// `(tokens, heads * head_dim)`.
    queries: Val<'b, TensorMap>,
    /// `(pages * 2 * kv_heads * page_tokens, head_dim)`, of bf16, or of codes with rows of scales behind those of each page.
    cache: Option<Val<'b, TensorMap>>,
    /// What was taken, and who is done.
    counters: GlobalPtr<'b, I32>,
    dims: StepDims<'b>,
}

/// A ring of tiles in shared memory, each `(rows, head_dim)` in parts of [`COLUMNS`] columns, or of codes in one, swizzled, and
/// what is waited for at each.
#[derive(Clone, Copy)]
struct Ring<'b> {
    tiles: SharedPtr<'b, Bf16>,
    /// Bytes of a tile.
    bytes: u32,
    /// What each tile of values has beside its codes, scales of keys and values or what is made of these, and how many bytes that is.
    scales: SharedPtr<'b, F32>,
    scale_bytes: u32,
    stages: u32,
    full: Barrier<'b>,
    empty: Barrier<'b>,
}

/// A place in a ring and the parity of its phase.
#[derive(Clone, Copy)]
struct Stage<'b> {
    tile: SharedPtr<'b, Bf16>,
    scales: SharedPtr<'b, F32>,
    full: Barrier<'b>,
    empty: Barrier<'b>,
    parity: Val<'b, I32>,
}

/// Shared memory.
#[derive(Clone, Copy)]
struct Smem<'b> {
    queries: Ring<'b>,
    keys: Ring<'b>,
    values: Ring<'b>,
    /// The item of each tile of queries, [`work::WORDS`] each.
    items: SharedPtr<'b, I32>,
    filled: Filled<'b>,
}

/// What fills tiles of keys and values.
#[derive(Clone, Copy)]
enum Filled<'b> {
    /// Copies.
    Copied,
    /// A warpgroup that makes f16 of codes; its warps learn of an item at the barrier of the tile of queries.
    Halved(Barrier<'b>, Halves<'b>),
    /// A warpgroup that transposes values, which are copied to this ring; likewise.
    Transposed(Barrier<'b>, Ring<'b>),
}

impl<'b> Ring<'b> {
    /// The stage of the `count`-th tile.
    fn stage(&self, count: Val<'b, I32>) -> Stage<'b> {
        let stage = count & (self.stages as i32 - 1);
        let parity = (count >> self.stages.trailing_zeros()) & 1;
        Stage {
            tile: self.tiles.at_bytes(stage * self.bytes),
            scales: self.scales.at_bytes(stage * self.scale_bytes),
            full: self.full.at(stage),
            empty: self.empty.at(stage),
            parity,
        }
    }
}

impl<'b> Stage<'b> {
    fn wait_full(&self) {
        self.full.wait(self.parity);
    }

    /// Waits until the tile before in this stage is left; the first of all is not waited for.
    fn wait_empty(&self) {
        self.empty.wait(self.parity ^ 1);
    }

    /// This warp has read the tile.
    fn release(&self) {
        let b = self.tile.builder();
        let (lane, _) = b.lane_and_warp();
        b.if_(lane.eq(0), || self.empty.arrive());
    }
}

impl WgmmaAttention {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let Attention { head_dim, page_tokens, softcap, out, .. } = self.0;
        if page_tokens != PAGE {
            return Some(format!("pages of {page_tokens} tokens: only {PAGE} are served"));
        }
        if !head_dim.is_multiple_of(COLUMNS) || head_dim > 256 {
            return Some(format!("heads of {head_dim} elements are not multiples of {COLUMNS} up to 256"));
        }
        if softcap.is_some() && head_dim > 192 {
            return Some(format!("bounded scores of heads of {head_dim} elements take too many registers"));
        }
        if self.scaled() && ![64, 128].contains(&head_dim) {
            return Some(format!("heads of {head_dim} elements are neither 64 nor 128, for e4m3"));
        }
        if out != DType::Bf16 {
            return Some(format!("results of {out}: only bf16 is served"));
        }
        self.0.unsupported_by_tiles()
    }

    /// Whether keys and values are e4m3, with scales.
    fn scaled(&self) -> bool {
        self.0.pages().scaled()
    }

    /// Whether codes are multiplied with codes.
    fn codes(&self) -> bool {
        self.scaled() && self.0.rounds()
    }

    /// Whether f16 is made of keys and values.
    fn halves(&self) -> bool {
        self.scaled() && !self.codes()
    }

    /// Bytes of a row of a part of keys in shared memory, and of values as they are copied.
    fn key_bytes(&self) -> u32 {
        if self.codes() { self.0.head_dim } else { ROW_BYTES }
    }

    /// Rows of a page as long as a key, its scales among them.
    fn rows_of_page(&self) -> u32 {
        let pages = self.0.pages();
        (pages.bytes() / i64::from(pages.row_bytes())) as u32
    }

    /// What products multiply, but those of codes, with 16 bits each: e4m3 with its scale fits f16 better than bf16.
    fn element(&self) -> WgmmaType {
        if self.scaled() { WgmmaType::F16 } else { WgmmaType::Bf16 }
    }

    /// Scores, weights and weighted values of 64 rows have to fit into a thread's registers, tiles into 227 KiB.
    fn tiling(&self) -> Tiling {
        // Warps that convert need more registers than those that copy or transpose.
        let registers = if self.scaled() { [88, 208] } else { [40, 232] };
        let two = Tiling { groups: 2, keys: 128, stages: [2; 2], queries: 2, registers };
        match (self.0.head_dim, self.0.softcap) {
            (0..=64, None) if !self.scaled() => {
                Tiling { groups: 3, stages: [4; 2], registers: [32, 160], ..two }
            }
            // Codes are half as large as f16.
            (0..=64, _) if self.codes() => Tiling { groups: 3, stages: [4; 2], registers: [56, 152], ..two },
            (65..=128, _) if self.codes() => Tiling { groups: 3, registers: [56, 152], ..two },
            (0..=64, _) => Tiling { stages: [4; 2], ..two },
            (65..=128, _) => two,
            (129..=192, _) => Tiling { keys: 64, ..two },
            _ => Tiling { keys: 64, queries: 1, ..two },
        }
    }

    /// Query heads of a tile, which share a key/value head: as many as make whole swizzled groups of 8 tokens each.
    fn heads_of_tile(&self) -> u32 {
        1 << self.0.group().max(1).trailing_zeros().min(3)
    }

    /// Tokens of a warpgroup.
    fn tokens_of_group(&self) -> u32 {
        ROWS / self.heads_of_tile()
    }

    /// Tokens of a tile.
    fn tokens(&self) -> u32 {
        self.tiling().groups * self.tokens_of_group()
    }

    /// Groups of heads, each with tiles of its own.
    fn units(&self) -> u32 {
        self.0.heads / self.heads_of_tile()
    }

    /// Parts of a row.
    fn parts(&self) -> u32 {
        self.0.head_dim / COLUMNS
    }

    /// Geometry. Arguments: [`Attention::args`].
    pub fn launch(&self) -> Launch {
        let Attention { heads, head_dim, .. } = self.0;
        let map = |arg, width, rows, tile_rows| Map {
            arg,
            elem: MapElem::Bf16,
            width,
            rows,
            tile: [tile_rows, COLUMNS],
            swizzle: ROW_BYTES,
        };
        let mut maps = vec![map(0, heads * head_dim, MapRows::Most(Count::Tokens), self.tokens_of_group())];
        if !self.halves() {
            let cache = map(2, head_dim, MapRows::Paged(self.rows_of_page()), PAGE);
            let codes = Map { elem: MapElem::U8, tile: [PAGE, head_dim], swizzle: self.key_bytes(), ..cache };
            maps.push(if self.codes() { codes } else { cache });
        }
        let grid = grid_of(Extent { mul: MULTIPROCESSORS, ..Extent::ONE });
        let threads = GROUP * (1 + self.tiling().groups);
        let scratch = Some(Scratch { of: Count::One, bytes: 16, counters: 2 });
        Launch { maps, scratch, ..Launch::new(grid, threads, Attention::args()) }
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let _q = b.param_ptr::<Bf16>();
        let paged = Paged::params(b);
        let y = b.param_ptr();
        let queries = b.param_tensor_map();
        let cache = (!self.halves()).then(|| b.param_tensor_map());
        let (_, counters) = b.param_scratch();
        let dims = b.param_dims();
        let params = Params { paged, y, queries, cache, counters, dims };
        let smem = self.smem(b);
        let Tiling { registers, .. } = self.tiling();

        let group = b.special(Special::ThreadX) / GROUP;
        b.sync();
        b.if_else(
            group.eq(0),
            || {
                b.fewer_registers(registers[0]);
                match smem.filled {
                    Filled::Copied => {
                        let (_, warp) = b.lane_and_warp();
                        b.if_(warp.eq(0), || self.produce(b, &params, &smem));
                    }
                    Filled::Halved(announced, halves) => self.convert(b, &params, &smem, announced, halves),
                    Filled::Transposed(announced, copied) => {
                        self.transpose(b, &params, &smem, announced, copied);
                    }
                }
            },
            || {
                b.more_registers(registers[1]);
                self.consume(b, &params, &smem, group - 1);
            },
        );
    }

    /// Takes shared memory, and makes its barriers ready but for a barrier of the block.
    fn smem<'b>(&self, b: &'b Builder) -> Smem<'b> {
        let Tiling { groups, keys, stages, queries, .. } = self.tiling();
        let of_keys = |bytes: u32| keys * self.0.head_dim * bytes;
        let (q_bytes, kv_bytes) = (groups * self.bytes_of_group(), of_keys(if self.codes() { 1 } else { 2 }));
        // What is aligned the most comes first.
        let tiles = |bytes: u32, stages: u32| (b.shared(stages * bytes / 2, 1024), bytes, stages);
        let (q, k, v) = (tiles(q_bytes, queries), tiles(kv_bytes, stages[0]), tiles(kv_bytes, stages[1]));
        let copied = if self.codes() { tiles(kv_bytes, transposer::COPIED) } else { tiles(0, 0) };
        let halves = self.halves().then(|| self.staged_codes(b));
        let scales = |of_two_keys: u32, stages: u32| {
            let scales = if self.codes() { of_two_keys * keys / 2 } else { 0 };
            (b.shared(stages * scales, 128), 4 * scales)
        };
        let (v_scales, copied_scales) = (scales(codes::Factors::OF_TWO_KEYS, v.2), scales(4, copied.2));
        let ring = |(tiles, bytes, stages), (scales, scale_bytes)| {
            let (full, empty) = (b.barriers(stages), b.barriers(stages));
            Ring { tiles, bytes, scales, scale_bytes, stages, full, empty }
        };
        let none = (b.shared(0, 8), 0);
        let (q, k, v) = (ring(q, none), ring(k, none), ring(v, v_scales));
        let copied = ring(copied, copied_scales);
        let announced = b.barriers(if self.scaled() { queries } else { 0 });
        let items = b.shared(queries * work::WORDS, 16);
        let filled = match halves {
            Some(halves) => Filled::Halved(announced, halves),
            None if self.codes() => Filled::Transposed(announced, copied),
            None => Filled::Copied,
        };
        b.if_(b.special(Special::ThreadX).eq(0), || {
            // Copies fill tiles, or warps. Each warp that reads one leaves it.
            let warps = groups * WARPS;
            let (of_keys, of_values) = match filled {
                Filled::Copied => (1, 1),
                Filled::Halved(..) => (WARPS, WARPS),
                Filled::Transposed(..) => (1, GROUP),
            };
            let rings = [(q, 1, warps), (k, of_keys, warps), (v, of_values, warps), (copied, 1, GROUP)];
            for (ring, fill, leave) in rings {
                for s in 0..ring.stages {
                    ring.full.at(s).init(fill);
                    ring.empty.at(s).init(leave);
                }
            }
            halves.into_iter().flat_map(Halves::barriers).for_each(|barrier| barrier.init(1));
            if self.scaled() {
                (0..queries).for_each(|i| announced.at(i).init(1));
            }
            b.fence_barriers();
        });
        Smem { queries: q, keys: k, values: v, items, filled }
    }
}
