//! What a launch has to do at least, from its contract: bytes to move and operations to compute. No device.

use crate::check::inputs::dims_of;
use crate::check::{appends, op_of};
use crate::facts::weight_bytes;
use trtc_engine::manifest::Weight;
use trtc_ir::ops::{GatedLinear, Linear};
use trtc_ir::{Module, Op, TensorType, ValueId};
use trtc_runtime::device::StepDims;

/// The work of one launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Activations that are read and written, each once.
    pub activations: u64,
    /// Weights that are read whole, and rows of tables that are looked up.
    pub weights: u64,
    /// Keys and values that are read.
    pub cache_read: u64,
    /// Keys and values that are written.
    pub cache_written: u64,
    /// Multiplications and additions of matrix products and of attention; 0 of all else, which waits for memory.
    pub operations: u64,
}

impl Work {
    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.activations + self.weights + self.cache_read + self.cache_written
    }
}

/// The work of a contract in a step of these sizes. `requests` are `(tokens before, tokens of the step)`; `weights` are
/// those of the launch, in order.
pub fn work(module: &Module, dims: StepDims, requests: &[(usize, usize)], weights: &[&Weight]) -> Work {
    let func = &module.func;
    let tensor = |v: ValueId| func.values[v].ty.tensor();
    let count = |ty: &TensorType| dims_of(ty, dims).iter().product::<usize>() as u64;
    let bytes = |ty: &TensorType| {
        let scales = if ty.elem.plain().is_none() { 4 * dims_of(ty, dims)[0] as u64 } else { 0 };
        count(ty) * u64::from(ty.elem.bits()) / 8 + scales
    };
    let results: u64 = func.results.iter().filter_map(|&v| tensor(v)).map(bytes).sum();
    let params: u64 = func.params.iter().filter_map(|&v| tensor(v)).map(bytes).sum();
    let all_weights = weights.iter().map(|w| weight_bytes(w)).sum();
    let operations = func.order.iter().map(|&id| match &func.ops[id].op {
        Op::Linear(Linear { x, weight, .. }) | Op::GatedLinear(GatedLinear { x, weight, .. }) => {
            let outputs = module.weights[*weight].ty.shape().and_then(|s| s.first().copied());
            2 * tensor(*x).map_or(0, count) * outputs.unwrap_or(0)
        }
        _ => 0,
    });
    let operations = operations.sum();
    let mut work =
        Work { activations: params + results, weights: all_weights, operations, ..Work::default() };
    let kv = func.params.iter().find_map(|&p| func.values[p].ty.kv());
    // Key and value of one token.
    let token = kv.map_or(0, |kv| kv.dtype.bytes(2 * u64::from(kv.heads) * u64::from(kv.head_dim)));
    let window = kv.and_then(|kv| kv.window).map_or(usize::MAX, |w| w as usize);
    let stored = if appends(module) { u64::from(dims.tokens) } else { 0 };
    work.cache_written = token * stored;
    match op_of(module) {
        Some(Op::Embedding(_)) => {
            let rows = weights.first().and_then(|w| w.shape.first()).copied().unwrap_or(1).max(1);
            work.weights = rows_of_table(work.weights, rows, u64::from(dims.tokens));
        }
        // Of the operand only what the result has is read.
        Some(Op::GatherRows(op)) => {
            work.activations = 2 * results + tensor(op.rows).map_or(0, bytes);
        }
        Some(Op::Slice(_)) => work.activations = 2 * results,
        Some(Op::Attention(op)) => {
            // What the kernel stores by itself it does not read.
            work.cache_read = token * (requests.iter().map(|r| seen(*r, window)).sum::<u64>() - stored);
            let pairs: u64 = requests.iter().map(|r| pairs(*r, window)).sum();
            // An element of the query costs a multiplication and an addition with a key, and as many with a value.
            let width = tensor(op.q).map_or(0, count) / u64::from(dims.tokens.max(1));
            work.operations = 4 * width * pairs;
        }
        _ => {}
    }
    work
}

/// Bytes of `read` rows of a table of `rows` rows.
fn rows_of_table(bytes: u64, rows: u64, read: u64) -> u64 {
    bytes / rows * read.min(rows)
}

/// Cached tokens that the queries of a request see, each once.
fn seen((past, new): (usize, usize), window: usize) -> u64 {
    (past + new).saturating_sub((past + 1).saturating_sub(window)) as u64
}

/// Pairs of a query and a token that it sees.
fn pairs((past, new): (usize, usize), window: usize) -> u64 {
    (past..past + new).map(|p| (p + 1).min(window) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_engine::manifest::{Encoding, Layout};

    fn contract(text: &str) -> Module {
        trtc_ir::text::parse(text, "contract").expect("a module")
    }

    const STEP: StepDims = StepDims { tokens: 6, rows: 2, seqs: 3, ..StepDims::NONE };

    #[test]
    fn a_product_reads_its_weight_once_and_multiplies_every_row() {
        let m = contract(
            "llm.module @k dims(T in 1..64, L in 1..8) {\n  llm.weight @w : tensor<32x16xbf16> from [\"w\"]\n  \
             llm.func @f(%x: tensor<Tx16xbf16>) {\n    %y = llm.linear %x, @w : tensor<Tx32xf32>\n    \
             llm.return %y\n  }\n}\n",
        );
        let w = Weight {
            name: "w".into(),
            shape: vec![32, 16],
            encoding: Encoding::Bf16,
            layout: Layout::Panel16,
            computed: false,
        };
        let got = work(&m, STEP, &[(0, 6)], &[&w]);
        let want = Work {
            activations: 6 * 16 * 2 + 6 * 32 * 4,
            weights: 32 * 16 * 2,
            operations: 2 * 6 * 16 * 32,
            ..Work::default()
        };
        assert_eq!(got, want);
        assert_eq!(got.bytes(), want.activations + want.weights);
    }

    #[test]
    fn queries_see_what_is_before_them_and_within_the_window() {
        assert_eq!((seen((10, 1), usize::MAX), pairs((10, 1), usize::MAX)), (11, 11));
        assert_eq!((seen((0, 4), usize::MAX), pairs((0, 4), usize::MAX)), (4, 1 + 2 + 3 + 4));
        // The first of two queries sees tokens 7..=10, the second 8..=11.
        assert_eq!((seen((10, 2), 4), pairs((10, 2), 4)), (5, 8));
        assert_eq!((seen((1, 2), 4), pairs((1, 2), 4)), (3, 2 + 3));
    }

    #[test]
    fn a_chain_writes_a_key_and_reads_those_before() {
        let kv = "!llm.kv<layer 0, 1 heads, 16, bf16, page 16>";
        let m = contract(&format!(
            "llm.module @k dims(T in 1..64) {{\n  llm.weight @w : tensor<8xf32> from rope<16, 10000>\n  \
             llm.func @f(%x: tensor<Tx64xbf16>, %p: tensor<Txi32>, %c: {kv}, %b: !llm.batch) {{\n    \
             %q, %d = llm.rope_kv_append %x, %p, %c, %b, @w {{heads = 2}} : tensor<Tx2x16xbf16>, {kv}\n    \
             %y = llm.attention %q, %d, %b {{scale = 0.25}} : tensor<Tx32xbf16>\n    llm.return %d, %y\n  }}\n}}\n",
        ));
        let got =
            work(&m, StepDims { tokens: 2, rows: 2, seqs: 2, ..StepDims::NONE }, &[(10, 1), (0, 1)], &[]);
        let token = 2 * 16 * 2;
        let want = Work {
            activations: 2 * (64 * 2 + 4 + 32 * 2),
            cache_read: 10 * token,
            cache_written: 2 * token,
            operations: 4 * 32 * 12,
            ..Work::default()
        };
        assert_eq!(got, want);
    }

    #[test]
    fn a_product_that_appends_multiplies_and_writes_keys() {
        let kv = "!llm.kv<layer 0, 1 heads, 16, bf16, page 16>";
        let m = contract(&format!(
            "llm.module @k dims(T in 1..64) {{\n  llm.weight @w : tensor<64x32xbf16> from [\"w\"]\n  \
             llm.weight @f : tensor<8xf32> from rope<16, 10000>\n  \
             llm.func @f(%x: tensor<Tx32xbf16>, %p: tensor<Txi32>, %c: {kv}, %b: !llm.batch) {{\n    \
             %y = llm.linear %x, @w : tensor<Tx64xf32>\n    \
             %q, %d = llm.rope_kv_append %y, %p, %c, %b, @f {{heads = 2}} : tensor<Tx2x16xbf16>, {kv}\n    \
             llm.return %q, %d\n  }}\n}}\n",
        ));
        let got = work(&m, STEP, &[(0, 6)], &[]);
        let want = Work {
            activations: 6 * (32 * 2 + 4 + 32 * 2),
            cache_written: 6 * 2 * 16 * 2,
            operations: 2 * 6 * 32 * 64,
            ..Work::default()
        };
        assert_eq!(got, want);
    }

    #[test]
    fn of_a_table_the_rows_that_are_looked_up_count() {
        assert_eq!(rows_of_table(1000, 100, 6), 60);
        assert_eq!(rows_of_table(1000, 10, 60), 1000);
    }
}
