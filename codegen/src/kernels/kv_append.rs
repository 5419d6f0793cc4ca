//! Stores keys and values into the paged cache, and where everything in the cache lies.
//!
//! The cache is `(pages, 2, kv_heads, page_tokens, head_dim)` bf16, keys first. Token t of request s at position p lies
//! in page `block_table[s, p / page_tokens]`, slot `p % page_tokens`. One block a token.

use super::{ArgKind, Count, Extent, Launch, grid_of, request_of};
use crate::builder::{Bf16, Builder, GlobalPtr, I1, I32, Special, StepDims, Val};
use trtc_ir::DType;

/// Elements of a vector access.
const VEC: u32 = 8;
/// Most threads of a block.
const THREADS: u32 = 512;

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

    /// The position of a token of request `seq`, whose last one is at `context - 1`.
    fn position(self, token: Val<'b, I32>, seq: Val<'b, I32>) -> Val<'b, I32> {
        self.context.at(seq).load() - self.query_start.at(seq + 1).load() + token
    }

    /// The place of request `seq`'s token at `position`.
    pub(super) fn slot(self, pages: Pages, seq: Val<'b, I32>, position: Val<'b, I32>) -> Slot<'b> {
        let table = self.block_table.at64(seq.to_i64() * self.table_width.to_i64());
        let page = table.at(position / pages.page_tokens).load();
        Slot { pages, page, slot: position % pages.page_tokens }
    }
}

impl<'b> Slot<'b> {
    /// The key or value of head `kv_head`.
    pub(super) fn of(
        self,
        cache: GlobalPtr<'b, Bf16>,
        is_value: Val<'b, I1>,
        kv_head: Val<'b, I32>,
    ) -> GlobalPtr<'b, Bf16> {
        let Pages { kv_heads, head_dim, page_tokens } = self.pages;
        // ((page * 2 + is_value) * kv_heads + kv_head) * page_tokens + slot, in rows of head_dim.
        let plane = self.page.to_i64() * 2i64 + is_value.select(1i64, 0i64);
        let row = (plane * i64::from(kv_heads) + kv_head.to_i64()) * i64::from(page_tokens);
        cache.at64((row + self.slot.to_i64()) * i64::from(head_dim))
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
        let KvAppend { kv_heads, head_dim, page_tokens, kv, .. } = *self;
        if kv_heads == 0 || head_dim == 0 || !head_dim.is_multiple_of(VEC) {
            return Some(format!(
                "{kv_heads} heads of {head_dim} elements are not positive multiples of {VEC}"
            ));
        }
        if page_tokens == 0 {
            return Some("pages have no tokens".to_owned());
        }
        (kv != DType::Bf16).then(|| format!("cache {kv}: only bf16 is served"))
    }

    /// Vectors of a row of k.
    fn vectors(&self) -> u32 {
        self.kv_heads * (self.head_dim / VEC)
    }

    /// Geometry. Arguments: `[k, v, batch, kv]`; the batch is four parameters.
    pub fn launch(&self) -> Launch {
        use ArgKind::{Batch, Pointer};
        let grid = grid_of(Extent { of: Count::Tokens, div: 1, plus: None, mul: 1 });
        let threads = (2 * self.vectors()).next_multiple_of(32).min(THREADS);
        Launch::new(grid, threads, vec![Pointer, Pointer, Batch, Pointer])
    }

    /// The kernel.
    pub fn build(&self, b: &Builder) {
        let k = b.param_floats(self.x);
        let v = b.param_floats(self.x);
        let batch = Batch::param(b);
        let cache = b.param_ptr::<Bf16>();
        let dims = b.param_dims();

        let token = b.special(Special::BlockX);
        let seq = batch.request(b, token, dims);
        let KvAppend { kv_heads, head_dim, page_tokens, .. } = *self;
        let slot = batch.slot(Pages { kv_heads, head_dim, page_tokens }, seq, batch.position(token, seq));
        let row = token.to_i64() * i64::from(kv_heads * head_dim);
        let (k, v) = (k.at64(row), v.at64(row));
        let all = self.vectors();
        b.for_(b.special(Special::ThreadX), 2 * all, b.threads(), (), |vector, ()| {
            let is_value = b.value(all).le(vector);
            let at = is_value.select(vector - all, vector);
            let (head, on) = (at / (head_dim / VEC), at % (head_dim / VEC) * VEC);
            let x = v.select(is_value, k).at(at * VEC).load::<{ VEC as usize }>();
            slot.of(cache, is_value, head).at(on).store_vector(b.vector(x).to_bf16());
        });
    }
}
