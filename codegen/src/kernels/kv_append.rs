//! Stores keys and values into the paged cache, and where everything in the cache lies.
//!
//! A page is `(2, kv_heads, page_tokens, head_dim)` bf16 or e4m3, keys first; of e4m3 each key and each value of a head has
//! an f32 scale, `(2, kv_heads, page_tokens)` behind them. Token t of request s at position p lies in page
//! `block_table[s, p / page_tokens]`, slot `p % page_tokens`. One block a token.

use super::{ArgKind, Count, Extent, Launch, grid_of, request_of};
use crate::builder::{Bf16, Builder, F32, GlobalPtr, I1, I8, I32, Special, StepDims, Val};
use trtc_ir::DType;

/// Elements of a vector access.
const VEC: u32 = 8;
/// Most threads of a block.
const THREADS: u32 = 512;
/// Lanes of a warp.
const WARP: u32 = 32;

/// The parameters that are the batch.
#[derive(Clone, Copy)]
pub(super) struct Batch<'b> {
    query_start: GlobalPtr<'b, I32>,
    context: GlobalPtr<'b, I32>,
    block_table: GlobalPtr<'b, I32>,
    table_width: Val<'b, I32>,
}

/// The cache of a layer.
#[derive(Clone, Copy)]
pub(super) struct Pages {
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) page_tokens: u32,
    /// Element type.
    pub(super) kv: DType,
}

impl Pages {
    /// Why there is no kernel for such a cache.
    pub(super) fn unsupported(self) -> Option<String> {
        match self.kv {
            _ if self.page_tokens == 0 => Some("pages have no tokens".to_owned()),
            DType::Bf16 => None,
            // Scales begin at multiples of 16 bytes and are copied four at once.
            DType::F8E4M3 => (!self.page_tokens.is_multiple_of(4))
                .then(|| format!("pages of {} tokens are not multiples of 4, for e4m3", self.page_tokens)),
            kv => Some(format!("a cache of {kv}: only bf16 and e4m3 are served")),
        }
    }

    /// Whether keys and values have scales.
    pub(super) fn scaled(self) -> bool {
        self.kv == DType::F8E4M3
    }

    /// Bytes of a key of a head, or of a value.
    pub(super) fn row_bytes(self) -> u32 {
        if self.scaled() { self.head_dim } else { 2 * self.head_dim }
    }

    /// Keys and values of heads in a page.
    pub(super) fn rows(self) -> u32 {
        2 * self.kv_heads * self.page_tokens
    }

    /// Bytes of a page.
    pub(super) fn bytes(self) -> i64 {
        i64::from(self.rows()) * i64::from(self.row_bytes() + if self.scaled() { 4 } else { 0 })
    }

    /// Where the scales begin in a page, bytes. Keys and values with scales are read back so by `trtc check`
    /// (`tools/src/check/caches.rs`), which fails if this changes and that does not.
    pub(super) fn scales_at(self) -> i64 {
        i64::from(self.rows()) * i64::from(self.row_bytes())
    }
}

/// The place of a token in the cache.
#[derive(Clone, Copy)]
pub(super) struct Slot<'b> {
    pages: Pages,
    page: Val<'b, I32>,
    slot: Val<'b, I32>,
}

impl<'b> Batch<'b> {
    /// The next four parameters.
    pub(super) fn param(b: &'b Builder) -> Batch<'b> {
        Batch {
            query_start: b.param_ptr(),
            context: b.param_ptr(),
            block_table: b.param_ptr(),
            table_width: b.param(),
        }
    }

    /// The request of a token.
    pub(super) fn request(self, b: &'b Builder, token: Val<'b, I32>, dims: StepDims<'b>) -> Val<'b, I32> {
        request_of(b, token, self.query_start, dims.seqs)
    }

    /// The request of a token, which each thread finds by itself: the last one that begins at or before it.
    pub(super) fn request_by_halving(
        self,
        b: &'b Builder,
        token: Val<'b, I32>,
        seqs: Val<'b, I32>,
    ) -> Val<'b, I32> {
        // It is among `left` from `first` on.
        let (first, _) = b.while_(
            (b.value(0), seqs),
            |&(_, left)| b.value(1).lt(left),
            |(first, left)| {
                let half = left >> 1;
                let middle = first + half;
                let begins = self.query_start.at(middle).load();
                (begins.le(token).select(middle, first), left - half)
            },
        );
        first
    }

    /// The position of a token of request `seq`, whose last one is at `context - 1`.
    fn position(self, token: Val<'b, I32>, seq: Val<'b, I32>) -> Val<'b, I32> {
        self.context.at(seq).load() - self.query_start.at(seq + 1).load() + token
    }

    /// The place of request `seq`'s token at `position`.
    pub(super) fn slot(self, pages: Pages, seq: Val<'b, I32>, position: Val<'b, I32>) -> Slot<'b> {
        Slot::of_request(pages, self.block_table.at64(seq.to_i64() * self.table_width.to_i64()), position)
    }
}

impl<'b> Slot<'b> {
    /// The place of `position` of a request whose pages are `table`.
    pub(super) fn of_request(pages: Pages, table: GlobalPtr<'b, I32>, position: Val<'b, I32>) -> Slot<'b> {
        let page = table.at(position / pages.page_tokens).load();
        Slot { pages, page, slot: position % pages.page_tokens }
    }

    /// The key or value of head `kv_head`, and its scale if there is one.
    pub(super) fn of(
        self,
        cache: GlobalPtr<'b, I8>,
        is_value: Val<'b, I1>,
        kv_head: Val<'b, I32>,
    ) -> (GlobalPtr<'b, I8>, GlobalPtr<'b, F32>) {
        let pages = self.pages;
        let page = cache.at64(self.page.to_i64() * pages.bytes());
        // (is_value * kv_heads + kv_head) * page_tokens + slot.
        let head = is_value.select(kv_head + pages.kv_heads, kv_head);
        let row = (head * pages.page_tokens + self.slot).to_i64();
        let scales = page.at64(page.builder().value(pages.scales_at())).cast::<F32>();
        (page.at64(row * i64::from(pages.row_bytes())), scales.at64(row))
    }
}

/// Constants of the kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KvAppend {
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Tokens in a page.
    pub page_tokens: u32,
    /// Element type of k and v.
    pub x: DType,
    /// Element type of the cache.
    pub kv: DType,
}

impl KvAppend {
    /// Why there is no kernel for these constants.
    pub fn unsupported(&self) -> Option<String> {
        let KvAppend { kv_heads, head_dim, .. } = *self;
        if kv_heads == 0 || head_dim == 0 || !head_dim.is_multiple_of(VEC) {
            return Some(format!(
                "{kv_heads} heads of {head_dim} elements are not positive multiples of {VEC}"
            ));
        }
        if self.pages().scaled() && head_dim > VEC * WARP {
            return Some(format!("heads of {head_dim} elements are above {}, for e4m3", VEC * WARP));
        }
        self.pages().unsupported()
    }

    fn pages(&self) -> Pages {
        let KvAppend { kv_heads, head_dim, page_tokens, kv, .. } = *self;
        Pages { kv_heads, head_dim, page_tokens, kv }
    }

    /// Threads that share a key or value: in e4m3 lanes that find its scale together.
    fn lanes(&self) -> u32 {
        let vectors = self.head_dim / VEC;
        if self.pages().scaled() { vectors.next_power_of_two() } else { vectors }
    }

    /// Geometry. Arguments: `[k, v, batch, kv]`; the batch is four parameters.
    pub fn launch(&self) -> Launch {
        use ArgKind::{Batch, Pointer};
        let grid = grid_of(Extent { of: Count::Tokens, div: 1, plus: None, mul: 1 });
        let threads = (2 * self.kv_heads * self.lanes()).next_multiple_of(WARP).min(THREADS);
        Launch::new(grid, threads, vec![Pointer, Pointer, Batch, Pointer])
    }

    /// The kernel.
    pub fn build<'b>(&self, b: &'b Builder) {
        let k = b.param_floats(self.x);
        let v = b.param_floats(self.x);
        let batch = Batch::param(b);
        let cache = b.param_ptr::<I8>();
        let dims = b.param_dims();

        let token = b.special(Special::BlockX);
        let seq = batch.request(b, token, dims);
        let KvAppend { kv_heads, head_dim, .. } = *self;
        let slot = batch.slot(self.pages(), seq, batch.position(token, seq));
        let row = token.to_i64() * i64::from(kv_heads * head_dim);
        let (k, v) = (k.at64(row), v.at64(row));
        let (lanes, parts) = (self.lanes(), head_dim / VEC);
        let thread = b.special(Special::ThreadX);
        // The head, of keys and then of values, of this thread's group of lanes; and its vector there.
        let of = |at: Val<'b, I32>, all: Val<'b, I32>| {
            let is_value = b.value(kv_heads).le(all);
            let head = is_value.select(all - kv_heads, all);
            let on = (at % lanes).min(parts - 1) * VEC;
            let x = v.select(is_value, k).at(head * head_dim + on).load::<{ VEC as usize }>();
            let (to, scale) = slot.of(cache, is_value, head);
            (x, on, to, scale)
        };
        if !self.pages().scaled() {
            b.for_(thread, 2 * kv_heads * lanes, b.threads(), (), |at, ()| {
                let (x, on, to, _) = of(at, at / lanes);
                to.cast::<Bf16>().at(on).store_vector(b.vector(x).to_bf16());
            });
            return;
        }
        // All threads go round equally often, for lanes shuffle; what is behind the end repeats the last.
        b.for_(0, 2 * kv_heads * lanes, b.threads(), (), |first, ()| {
            let at = first + thread;
            let (x, on, to, scale) = of(at, (at / lanes).min(2 * kv_heads - 1));
            let amax = x.iter().fold(b.value(0.0f32), |max, x| max.max(x.abs()));
            let by = b.e4m3_scale(b.max_lanes(amax, lanes));
            b.if_(at.lt(2 * kv_heads * lanes) & (at % lanes).lt(parts), || {
                to.at_bytes(on).cast().store_vector(b.e4m3_codes(x, by));
                b.if_(on.eq(0), || scale.store(by[0]));
            });
        });
    }
}
