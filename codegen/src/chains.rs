//! Chains: two ops, one after the other, that one kernel computes, so that what is between them is never written and a
//! launch less is passed on.
//!
//! The op that makes the operand has no kernel where a chain serves it, and the op that reads it names the chain. Nobody
//! else may read what the first one makes: a tensor is not there, and a cache is complete only after the second.

use crate::kernels::Recipe;
use crate::kernels::decode_attention::DecodeAttention;
use crate::kernels::narrow_matmul::{NarrowMatmul, Source};
use crate::kernels::operands::Product;
use crate::kernels::wgmma_matmul::{self, WgmmaMatmul};
use crate::recipes::{Ranged, alone, attention, rope_kv_append};
use crate::signature::{Suffix, Types};
use trtc_ir::target::Gpu;
use trtc_ir::{Module, Op, OpId, Steps, Sym, ValueId};

/// Most requests of a decode step whose attention makes their queries and keys: with more of them blocks take turns, and what each does
/// before its context is under way shows. Measured on an H200, 1430 positions: 64 requests take as long as with a launch more,
/// 128 take 2 % and 400 take 3 % longer.
const FEW: u64 = 64;

/// Most tokens of steps whose queries, keys and values are turned and stored by a launch of its own: so many are few tiles of whole
/// heads, and with others the product is faster.
const APART: u64 = 512;

/// The op that alone reads what `maker` makes.
pub fn reader(module: &Module, maker: OpId) -> Option<OpId> {
    let func = &module.func;
    let made = &func.ops[maker].results;
    let mut readers =
        func.order.iter().copied().filter(|&o| func.ops[o].op.operands().iter().any(|v| made.contains(v)));
    let only = readers.next()?;
    let tensor = |v| func.values[v].ty.tensor().is_some();
    let returned = func.results.iter().any(|&v| made.contains(&v) && tensor(v));
    (readers.next().is_none() && !returned).then_some(only)
}

/// The kernels that compute an op and the one that makes an operand of it.
pub fn chains(module: &Module, id: OpId, gpu: &Gpu) -> Vec<Ranged> {
    match &module.func.ops[id].op {
        Op::RopeKvAppend(op) => appended(module, id, op.qkv, gpu).unwrap_or_default(),
        _ => chain(module, id, gpu).into_iter().collect(),
    }
}

fn chain(module: &Module, id: OpId, gpu: &Gpu) -> Option<Ranged> {
    let t = Types { module };
    let data = &module.func.ops[id];
    match &data.op {
        // In a decode step the blocks of a request make their queries and its new key by themselves.
        Op::Attention(op) => {
            let maker = module.func.def_op(op.q)?;
            let made = &module.func.ops[maker];
            let Op::RopeKvAppend(rope) = &made.op else { return None };
            if made.results != [op.q, op.kv] || reader(module, maker) != Some(id) {
                return None;
            }
            let prologue = Some(rope_kv_append(t, made, rope).ok()?);
            let decode = DecodeAttention { attention: attention(t, data, op).ok()?, prologue };
            let most = module.max_dim(Sym::T)?;
            decode.unsupported().is_none().then_some(Ranged {
                from: 1,
                // One kernel for all where which one it is must not show.
                to: if module.deterministic { most } else { most.min(FEW) },
                steps: Steps::Decode,
                with: Some(op.q),
                suffix: Suffix::word("decode"),
                recipe: decode.into(),
            })
        }
        Op::Linear(op) => streamed(module, id, op.x, op.residual, gpu),
        Op::GatedLinear(op) => streamed(module, id, op.x, None, gpu),
        _ => None,
    }
}

/// The kernels of products with many tokens that turn and store what they make, which is `qkv`: where its own multiply with
/// `wgmma`. Not if it must not show which of both a step has: the sums are not rounded between.
fn appended(module: &Module, id: OpId, qkv: ValueId, gpu: &Gpu) -> Option<Vec<Ranged>> {
    let t = Types { module };
    let data = &module.func.ops[id];
    let Op::RopeKvAppend(rope) = &data.op else { return None };
    let maker = module.func.def_op(qkv)?;
    if module.deterministic || reader(module, maker) != Some(id) {
        return None;
    }
    let append = Some(rope_kv_append(t, data, rope).ok()?);
    let (most, requests) = (module.max_dim(Sym::T)?, module.max_dim(Sym::L)?);
    let own = alone(module, &module.func.ops[maker], gpu).ok()?;
    let with_append = |own: Ranged| {
        let Recipe::WgmmaMatmul(WgmmaMatmul { of, order, .. }) = own.recipe else { return None };
        let of = Product { append, ..of };
        let (tiling, grid) = wgmma_matmul::choose(own.to.min(most), &of, order);
        let recipe = WgmmaMatmul { of, tiling, grid, order };
        // Steps that only decode have as many tokens as requests.
        let steps = if own.from > requests { own.steps } else { Steps::Prefill };
        let served = own.from > APART && recipe.unsupported().is_none();
        served.then(|| Ranged { steps, with: Some(qkv), recipe: recipe.into(), ..own })
    };
    Some(own.into_iter().filter_map(with_append).collect())
}

/// The kernel of a product with one token, if it streams weights and can make `x` by itself.
fn streamed(module: &Module, id: OpId, x: ValueId, residual: Option<ValueId>, gpu: &Gpu) -> Option<Ranged> {
    let maker = module.func.def_op(x)?;
    let made = &module.func.ops[maker];
    // An argument of both would be one.
    let apart = residual.is_none_or(|residual| !made.op.operands().contains(&residual));
    if !apart || reader(module, maker) != Some(id) {
        return None;
    }
    let source = match alone(module, made, gpu).ok()?.as_slice() {
        [Ranged { recipe: Recipe::RmsNorm(norm), .. }] => Source::Norm(*norm),
        [Ranged { recipe: Recipe::Quantize(quantize), .. }] => Source::Quantize(*quantize),
        _ => return None,
    };
    let own = alone(module, &module.func.ops[id], gpu).ok()?;
    own.into_iter().find_map(|own| {
        let Recipe::NarrowMatmul(product @ NarrowMatmul { tokens: 1, .. }) = own.recipe else { return None };
        let kernel = NarrowMatmul { x: source, ..product };
        kernel.unsupported().is_none().then(|| Ranged {
            with: Some(x),
            suffix: Suffix::word("one"),
            recipe: kernel.into(),
            ..own
        })
    })
}
