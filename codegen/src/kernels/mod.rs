//! The kernels: one file a kernel, each a plain struct of constants with `unsupported`, `launch` and `build`.
//!
//! How a kernel is called (the contract between its PTX and whoever launches it): its arguments in the order of
//! [`crate::emit::arguments`], each a pointer, but quantised values and weights, which are two or three, and the batch, which is four parameters (`query_start`, `context`,
//! `block_table`, pointers to i32, and `table_width`, i32); then its tensor maps ([`Map`]); then, where it has [`Scratch`], pointers to its bytes and
//! counters; then `tokens`, `rows`, `seqs`, i32. Pointers are multiples
//! of 16 bytes. A kernel adds one file here and one line in [`Recipe`]'s table.

pub mod add;
pub mod attention;
mod bar;
mod block_row;
pub mod decode_attention;
mod draw;
mod epilogue;
pub mod feed;
pub mod flash_attention;
mod flash_codes;
mod flash_softmax;
mod flash_tiles;
mod fragments;
pub mod gated_act;
pub mod gather;
pub mod kv_append;
pub mod matmul;
pub mod narrow_matmul;
pub mod operands;
pub mod quant_matmul;
pub mod quantize;
mod ring;
pub mod rms_norm;
pub mod rope;
pub mod rope_kv_append;
pub mod sample;
pub mod slice;
pub mod stream_matmul;
pub mod token_attention;
pub mod wgmma_attention;
pub mod wgmma_matmul;

use crate::builder::{Builder, GlobalPtr, I1, I32, SharedPtr, Special, StepDims, Val};

/// Multiprocessors of an H100 and an H200: blocks of a grid that stays and shares out its work.
pub(crate) const MULTIPROCESSORS: u32 = 132;

/// What a launch extent counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Count {
    /// 1.
    One,
    /// Tokens of the step.
    Tokens,
    /// Rows of logits.
    Rows,
    /// Requests of the step.
    Seqs,
}

impl Count {
    /// The number in a kernel.
    fn of<'b>(self, dims: StepDims<'b>) -> Val<'b, I32> {
        match self {
            Count::One => dims.tokens.builder().value(1),
            Count::Tokens => dims.tokens,
            Count::Rows => dims.rows,
            Count::Seqs => dims.seqs,
        }
    }
}

/// Blocks along one axis: `(ceil(of / div) + plus) * mul`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What is counted.
    pub of: Count,
    /// Divisor, at least 1.
    pub div: u32,
    /// What is added, if anything.
    pub plus: Option<Count>,
    /// Factor.
    pub mul: u32,
}

impl Extent {
    /// One block.
    pub const ONE: Extent = Extent { of: Count::One, div: 1, plus: None, mul: 1 };
}

/// What an argument becomes in the parameters of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// One pointer.
    Pointer,
    /// `query_start`, `context`, `block_table`, pointers; `table_width`, i32.
    Batch,
    /// A quantised value, or a weight without zero points: two pointers, payload and scales.
    Scaled,
    /// One with zero points: three pointers, payload, scales, zero points.
    ScaledZero,
}

/// A tensor map over an argument, `(rows, width)`, rows one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Index into [`Launch::args`]; of an argument of several pointers the first.
    pub arg: u32,
    /// What is copied.
    pub elem: MapElem,
    /// Elements of a row, which is a multiple of 16 bytes.
    pub width: u32,
    /// Rows.
    pub rows: MapRows,
    /// What one copy takes, rows and columns, each at most 256.
    pub tile: [u32; 2],
    /// Bytes of a row over which chunks are exchanged in shared memory, as in [`crate::tile::Tile`]; 0 for none.
    pub swizzle: u32,
}

/// Elements of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapElem {
    /// Bytes, 8-bit floats too.
    U8,
    /// bf16.
    Bf16,
    /// f32.
    F32,
}

/// Rows of a map. What lies outside is loaded as zeros and not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapRows {
    /// So many.
    Fixed(u32),
    /// The greatest number of a step: rows past a step's own hold anything.
    Most(Count),
    /// So many in each page of the cache.
    Paged(u32),
}

/// How a kernel is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks: x, y, z.
    pub grid: [Extent; 3],
    /// Threads of a block: x, y, z.
    pub block: [u32; 3],
    /// Arguments; the maps, those of the scratch memory and `tokens`, `rows`, `seqs` follow.
    pub args: Vec<ArgKind>,
    /// Tensor maps, a parameter of 128 bytes each.
    pub maps: Vec<Map>,
    /// Memory that the kernel needs besides them.
    pub scratch: Option<Scratch>,
    /// Contexts are shared out to blocks along z.
    pub shares: Option<Shared>,
}

/// Blocks along z, in place of the grid's: one for so many positions of the step's longest context, at most so many. A block
/// without work costs some of a multiprocessor's time too; but in a grid of few it keeps a place until the launches before are
/// done, and products that come behind took 12 to 44 % longer a step where they could take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Positions.
    pub keys: u32,
    /// Most blocks along z.
    pub most: u32,
    /// A grid that has no more blocks than this with the most along z has those.
    pub few: u32,
}

impl Launch {
    /// A launch of blocks of `threads` threads along x that needs nothing but its arguments.
    fn new(grid: [Extent; 3], threads: u32, args: Vec<ArgKind>) -> Launch {
        Launch { grid, block: [threads, 1, 1], args, maps: Vec::new(), scratch: None, shares: None }
    }
}

/// Memory in which the blocks of one launch exchange what they have, for each of what is counted.
///
/// It becomes two pointers after the arguments: bytes that hold anything when the kernel starts, and counters that
/// are 0 then and must be 0 when it ends. All launches share both, for they run one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// What is counted.
    pub of: Count,
    /// Bytes for each, a multiple of 16.
    pub bytes: u64,
    /// Counters for each, i32.
    pub counters: u32,
}

/// A grid along x.
fn grid_of(x: Extent) -> [Extent; 3] {
    [x, Extent::ONE, Extent::ONE]
}

/// How rows are shared out where a thread takes [`Wide::VEC`] elements: whole vectors, as many blocks as a row needs.
#[derive(Clone, Copy)]
struct Wide {
    /// Elements of a row.
    width: u32,
}

impl Wide {
    /// Elements of a vector access.
    const VEC: u32 = 8;
    /// Most threads of a block.
    const THREADS: u32 = 256;

    /// Why rows of this width are not served.
    fn unsupported(self) -> Option<String> {
        let served = self.width > 0 && self.width.is_multiple_of(Self::VEC);
        (!served).then(|| format!("the width {} is not a positive multiple of {}", self.width, Self::VEC))
    }

    fn threads(self) -> u32 {
        (self.width / Self::VEC).next_multiple_of(32).min(Self::THREADS)
    }

    /// Blocks that share a row.
    fn blocks_per_row(self) -> u32 {
        (self.width / Self::VEC).div_ceil(self.threads())
    }

    /// The grid for as many rows as there are of `rows`.
    fn grid(self, rows: Count) -> [Extent; 3] {
        grid_of(Extent { of: rows, div: 1, plus: None, mul: self.blocks_per_row() })
    }

    /// A launch for as many rows as there are of `rows`.
    fn launch(self, rows: Count, args: Vec<ArgKind>) -> Launch {
        Launch::new(self.grid(rows), self.threads(), args)
    }

    /// The row of this block, and this thread's first element in it.
    fn place(self, b: &Builder) -> (Val<'_, I32>, Val<'_, I32>) {
        let block = b.special(Special::BlockX);
        let column = block % self.blocks_per_row() * self.threads() + b.special(Special::ThreadX);
        (block / self.blocks_per_row(), column * Self::VEC)
    }

    /// `work()` in the threads that have elements.
    fn within(self, b: &Builder, column: Val<'_, I32>, work: impl FnOnce()) {
        if self.width.is_multiple_of(self.threads() * Self::VEC) {
            work();
        } else {
            b.if_(column.lt(self.width), work);
        }
    }
}

/// The request whose tokens are `query_start[s] .. query_start[s + 1]` around `token`.
fn request_of<'b>(
    b: &'b Builder,
    token: Val<'b, I32>,
    query_start: GlobalPtr<'b, I32>,
    seqs: Val<'b, I32>,
) -> Val<'b, I32> {
    request_where(b, seqs, |s| {
        let (first, next) = (query_start.at(s).load(), query_start.at(s + 1).load());
        first.le(token) & token.lt(next)
    })
}

/// The one request for which `holds`, which has to exist: all threads look at once. Takes shared memory of its own
/// and one barrier.
fn request_where<'b>(
    b: &'b Builder,
    seqs: Val<'b, I32>,
    holds: impl FnOnce(Val<'b, I32>) -> Val<'b, I1>,
) -> Val<'b, I32> {
    let found = b.shared::<I32>(1, 4);
    b.for_(b.special(Special::ThreadX), seqs, b.threads(), (), |s, ()| {
        b.if_(holds(s), || found.store(s));
    });
    b.sync();
    found.load()
}

/// True in all threads of the last of `blocks` blocks to arrive at `counter`, which is 0 again after that; it sees
/// what the others wrote before. Takes shared memory of its own and two barriers.
fn last_to_arrive<'b>(b: &'b Builder, counter: GlobalPtr<'b, I32>, blocks: Val<'b, I32>) -> Val<'b, I1> {
    let leads = b.special(Special::ThreadX).eq(0);
    last_of(b, counter, blocks, (b.shared(1, 4), leads), &|| b.sync())
}

/// The same where only some threads of a block take part, for whom `sync` is a barrier; one of them `leads`, and tells
/// the others in `cell`.
fn last_of<'b>(
    b: &'b Builder,
    counter: GlobalPtr<'b, I32>,
    blocks: Val<'b, I32>,
    (cell, leads): (SharedPtr<'b, I32>, Val<'b, I1>),
    sync: &dyn Fn(),
) -> Val<'b, I1> {
    // The barrier puts every thread's writes before the addition of the first one.
    sync();
    b.if_(leads, || {
        let before = b.add_acquire_release(counter, 1);
        cell.store(before);
        b.if_(before.eq(blocks - 1), || counter.store(b.value(0)));
    });
    sync();
    cell.load().eq(blocks - 1)
}

/// Makes `enum Recipe` and its dispatch from the table below.
macro_rules! recipes {
    ($($kernel:ident: $ty:path),* $(,)?) => {
        /// Any kernel with its constants.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Recipe {
            $(#[doc = concat!("See [`", stringify!($ty), "`].")] $kernel($ty),)*
        }

        $(impl From<$ty> for Recipe {
            fn from(recipe: $ty) -> Recipe {
                Recipe::$kernel(recipe)
            }
        })*

        impl Recipe {
            /// Why there is no kernel for these constants.
            pub fn unsupported(&self) -> Option<String> {
                match self { $(Recipe::$kernel(r) => r.unsupported(),)* }
            }

            /// Geometry and arguments.
            pub fn launch(&self) -> Launch {
                match self { $(Recipe::$kernel(r) => r.launch(),)* }
            }

            /// Appends the kernel's code.
            pub fn build(&self, b: &Builder) {
                match self { $(Recipe::$kernel(r) => r.build(b),)* }
            }
        }
    };
}

// The table: one line a kernel.
recipes! {
    Feed: feed::Feed,
    Gather: gather::Gather,
    RmsNorm: rms_norm::RmsNorm,
    Slice: slice::Slice,
    Add: add::Add,
    Rope: rope::Rope,
    KvAppend: kv_append::KvAppend,
    RopeKvAppend: rope_kv_append::RopeKvAppend,
    DecodeAttention: decode_attention::DecodeAttention,
    FlashAttention: flash_attention::FlashAttention,
    GatedAct: gated_act::GatedAct,
    TokenAttention: token_attention::TokenAttention,
    WgmmaAttention: wgmma_attention::WgmmaAttention,
    Matmul: matmul::Matmul,
    QuantMatmul: quant_matmul::QuantMatmul,
    NarrowMatmul: narrow_matmul::NarrowMatmul,
    StreamMatmul: stream_matmul::StreamMatmul,
    WgmmaMatmul: wgmma_matmul::WgmmaMatmul,
    Sample: sample::Sample,
    Quantize: quantize::Quantize,
}
