//! Op x target x range of token counts -> kernel: the decisions for GPU targets, one match over all ops. Which kernels serve
//! two ops at once is decided in `chains.rs`.

use crate::chains;
use crate::kernels::add::Add;
use crate::kernels::attention::Attention;
use crate::kernels::decode_attention::DecodeAttention;
use crate::kernels::feed::Feed;
use crate::kernels::flash_attention::FlashAttention;
use crate::kernels::gated_act::GatedAct;
use crate::kernels::gather::{Elements, Gather, Source};
use crate::kernels::kv_append::KvAppend;
use crate::kernels::operands::Product;
use crate::kernels::quant_matmul::Payload;
use crate::kernels::quantize::Quantize;
use crate::kernels::rms_norm::{Residual, RmsNorm};
use crate::kernels::rope::Rope;
use crate::kernels::rope_kv_append::{HeadNorm, RopeKvAppend};
use crate::kernels::sample::Sample;
use crate::kernels::slice::Slice;
use crate::kernels::token_attention::TokenAttention;
use crate::kernels::wgmma_attention::WgmmaAttention;
use crate::kernels::{Count, Recipe};
use crate::products::{Bounds, Form, forms, operands, payload};
use crate::signature::{Suffix, Types, counted, extent, rows_of_last, width};
use trtc_ir::ops::{self, RmsNormWeight};
use trtc_ir::target::{Gpu, MatrixUnit};
use trtc_ir::{DType, Elem, Module, Op, OpData, OpId, Scheme, Steps, Sym, ValueId, WeightId};

/// A kernel that serves some steps of `from` to `to` tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranged {
    /// Least token count.
    pub from: u64,
    /// Greatest token count.
    pub to: u64,
    /// Steps.
    pub steps: Steps,
    /// The operand whose maker it computes too.
    pub with: Option<ValueId>,
    /// What distinguishes it from the op's other kernels.
    pub suffix: Suffix,
    /// The kernel.
    pub recipe: Recipe,
}

impl Ranged {
    /// What is left to serve of its steps where `other` serves some.
    fn without(self, other: &Ranged) -> Vec<Ranged> {
        let (from, to) = (self.from.max(other.from), self.to.min(other.to));
        let kinds = Steps::KINDS.into_iter().filter(|k| self.steps.serve(*k));
        let (shared, left): (Vec<Steps>, Vec<Steps>) = kinds.partition(|k| other.steps.serve(*k));
        if from > to || shared.is_empty() {
            return vec![self];
        }
        let before = (self.from < from).then(|| Ranged { to: from - 1, ..self });
        let after = (to < self.to).then(|| Ranged { from: to + 1, ..self });
        let between = left.into_iter().map(|steps| Ranged { from, to, steps, ..self });
        before.into_iter().chain(between).chain(after).collect()
    }
}

/// The kernels of an op on a GPU target, in the order of token counts, or why there are none: its own, but where the kernel
/// of a chain that it belongs to serves it; that is among those of the op that reads the other.
pub fn recipes(module: &Module, id: OpId, gpu: &Gpu) -> Result<Vec<Ranged>, String> {
    let mut own = alone(module, &module.func.ops[id], gpu)?;
    let reads = chains::chains(module, id, gpu);
    let made = |chain: &&Ranged| chain.with.is_some_and(|v| module.func.ops[id].results.contains(&v));
    let read = chains::reader(module, id).map_or_else(Vec::new, |reader| chains::chains(module, reader, gpu));
    for chain in reads.iter().chain(read.iter().filter(made)) {
        own = own.into_iter().flat_map(|r| r.without(chain)).collect();
    }
    let mut all: Vec<Ranged> = reads.into_iter().chain(own).collect();
    all.sort_by_key(|r| r.from);
    Ok(all)
}

/// Why an op over a cache has no kernel before pages are laid out.
const NO_PAGES: &str = "the cache has no page size yet: run kv-layout first";

fn plain(elem: Elem, what: &str) -> Result<DType, String> {
    match elem {
        Elem::Plain(d @ (DType::F32 | DType::Bf16)) => Ok(d),
        other => Err(format!("{what} of {other} is not served")),
    }
}

/// The element type of a cache.
fn cached(dtype: DType) -> Result<DType, String> {
    if dtype == DType::F8E4M3 { Ok(dtype) } else { plain(Elem::Plain(dtype), "a cache") }
}

/// A result that may be quantised, as kernels of rows name its type.
fn stored(elem: Elem) -> Result<DType, String> {
    if elem == Elem::Quant(Scheme::FP8_TOKEN) { Ok(DType::F8E4M3) } else { plain(elem, "a result") }
}

/// The kernels of an op by itself. Those of a deterministic module give the same for a token of a request, to the bit, whatever else
/// is in the step, among steps of one kind.
pub(crate) fn alone(module: &Module, data: &OpData, gpu: &Gpu) -> Result<Vec<Ranged>, String> {
    let t = Types { module };
    let max = module.max_dim(Sym::T).ok_or("the module has no bound on T")?;
    let weight_dtype = |norm: &RmsNormWeight| plain(t.weight(norm.weight).elem, "a norm's weight");
    let of = |steps, suffix, recipe| Ranged { from: 1, to: max, steps, with: None, suffix, recipe };
    let all = |steps, word, recipe| of(steps, Suffix::word(word), recipe);
    let requests = module.max_dim(Sym::L).map_or(max, |most| most.min(max));
    let bounds = Bounds { tokens: max, requests, invariant: module.deterministic };
    let always = |recipe: Recipe| Ok(vec![all(Steps::Any, "", recipe)]);
    let found: Result<Vec<Ranged>, String> = match &data.op {
        Op::RmsNorm(op) => {
            let x = t.tensor(op.x)?;
            let (width, per_row) = rows_of_last(x)?;
            always(Recipe::from(RmsNorm {
                width,
                per_row,
                rows: counted(x)?,
                x: plain(x.elem, "x")?,
                residual: None,
                weight: weight_dtype(&op.norm)?,
                out: stored(t.result(data, 0)?.elem)?,
                eps: op.norm.eps,
                offset: op.norm.offset,
            }))
        }
        Op::AddRmsNorm(op) => {
            let x = t.tensor(op.x)?;
            let (width, per_row) = rows_of_last(x)?;
            let residual = Residual {
                dtype: plain(t.tensor(op.residual)?.elem, "a residual")?,
                sum: plain(t.result(data, 0)?.elem, "a sum")?,
            };
            always(Recipe::from(RmsNorm {
                width,
                per_row,
                rows: counted(x)?,
                x: plain(x.elem, "x")?,
                residual: Some(residual),
                weight: weight_dtype(&op.norm)?,
                out: stored(t.result(data, 1)?.elem)?,
                eps: op.norm.eps,
                offset: op.norm.offset,
            }))
        }
        Op::RopeKvAppend(op) => always(rope_kv_append(t, data, op)?.into()),
        Op::Slice(op) => {
            let (x, y) = (t.tensor(op.x)?, t.result(data, 0)?);
            always(Recipe::from(Slice {
                of: width(x)?,
                start: u32::try_from(op.start).map_err(|_| format!("column {} is too far", op.start))?,
                width: width(y)?,
                rows: counted(y)?,
                x: plain(x.elem, "x")?,
                out: plain(y.elem, "a result")?,
            }))
        }
        Op::Add(op) => {
            let y = t.result(data, 0)?;
            always(Recipe::from(Add {
                width: width(y)?,
                rows: counted(y)?,
                lhs: plain(t.tensor(op.lhs)?.elem, "lhs")?,
                rhs: plain(t.tensor(op.rhs)?.elem, "rhs")?,
                out: plain(y.elem, "a result")?,
            }))
        }
        Op::Rope(op) => {
            let x = t.tensor(op.x)?;
            let (head_dim, heads) = rows_of_last(x)?;
            always(Recipe::from(Rope {
                heads,
                head_dim,
                dim: 2 * extent(t.weight(op.freqs), 0)?,
                x: plain(x.elem, "x")?,
                out: plain(t.result(data, 0)?.elem, "a result")?,
            }))
        }
        Op::KvAppend(op) => {
            let kv = t.kv(op.kv)?;
            always(Recipe::from(KvAppend {
                kv_heads: kv.heads,
                head_dim: kv.head_dim,
                page_tokens: kv.page.ok_or(NO_PAGES)?,
                x: plain(t.tensor(op.k)?.elem, "k")?,
                kv: cached(kv.dtype)?,
            }))
        }
        Op::GatedAct(op) => {
            let y = t.result(data, 0)?;
            always(Recipe::from(GatedAct {
                width: width(y)?,
                packed: false,
                act: op.act,
                rows: counted(y)?,
                x: plain(t.tensor(op.gate)?.elem, "gate")?,
                out: stored(y.elem)?,
            }))
        }
        Op::GatedActPacked(op) => {
            let y = t.result(data, 0)?;
            always(Recipe::from(GatedAct {
                width: width(y)?,
                packed: true,
                act: op.act,
                rows: counted(y)?,
                x: plain(t.tensor(op.x)?.elem, "x")?,
                out: stored(y.elem)?,
            }))
        }
        Op::Linear(op) => {
            let residual = op.residual.map(|r| t.tensor(r)).transpose()?;
            let residual = residual.map(|r| plain(r.elem, "a residual")).transpose()?;
            let product = product(t, data, op.x, op.weight, op.bias)?;
            let forms = forms(Product { residual, ..product }, t.weight(op.weight).elem, gpu, bounds)?;
            Ok(by_rows(product.rows, forms, bounds))
        }
        Op::GatedLinear(op) => {
            let product = product(t, data, op.x, op.weight, op.bias)?;
            let gate = Some(op.act);
            let forms = forms(Product { gate, ..product }, t.weight(op.weight).elem, gpu, bounds)?;
            Ok(by_rows(product.rows, forms, bounds))
        }
        Op::Embedding(op) => {
            let (table, y) = (t.weight(op.table), t.result(data, 0)?);
            always(Recipe::from(Gather {
                source: Source::Table,
                width: width(y)?,
                rows: counted(y)?,
                scale: op.scale,
                x: match table.elem {
                    Elem::Quant(scheme) if payload(scheme) == Some(Payload::I8) => Elements::I8Fragments,
                    other => Elements::Plain(plain(other, "a table")?),
                },
                out: plain(y.elem, "a result")?,
            }))
        }
        Op::GatherRows(op) => {
            let (x, y) = (t.tensor(op.x)?, t.result(data, 0)?);
            always(Recipe::from(Gather {
                source: Source::Rows,
                width: width(y)?,
                rows: counted(y)?,
                scale: 1.0,
                x: Elements::Plain(plain(x.elem, "x")?),
                out: plain(y.elem, "a result")?,
            }))
        }
        Op::Quantize(op) => {
            let (x, y) = (t.tensor(op.x)?, t.result(data, 0)?);
            if y.elem != Elem::Quant(Scheme::FP8_TOKEN) {
                return Err(format!("a result of {} is not served", y.elem));
            }
            always(Recipe::from(Quantize { width: width(x)?, rows: counted(x)?, x: plain(x.elem, "x")? }))
        }
        Op::Feed(op) => always(Recipe::from(Feed { last: extent(t.tensor(op.last)?, 0)? })),
        Op::Sample(op) => always(Recipe::from(Sample { vocab: width(t.tensor(op.logits)?)? })),
        Op::Attention(op) => {
            let attention = attention(t, data, op)?;
            let decode = DecodeAttention { attention, prologue: None };
            let flash = FlashAttention(attention);
            let wide = WgmmaAttention(attention);
            let wgmma = gpu.matrix.contains(&MatrixUnit::Wgmma) && wide.unsupported().is_none();
            let prefill = if wgmma { wide.into() } else { flash.into() };
            match decode.unsupported().or(flash.unsupported()) {
                Some(_) => always(TokenAttention(attention).into()),
                None => {
                    let kinds =
                        [(Steps::Decode, "decode", decode.into()), (Steps::Prefill, "prefill", prefill)];
                    let both = kinds.into_iter().map(|(steps, suffix, recipe)| all(steps, suffix, recipe));
                    // Requests that decode beside prompts: tiles of queries would be empty but for one token. Whether a
                    // token of a prompt is alone in a step depends on the others, which must not show.
                    let single = all(Steps::Single, "decode", decode.into());
                    Ok(both.chain((!module.deterministic).then_some(single)).collect())
                }
            }
        }
    };
    let found = found?;
    match found.iter().find_map(|r| r.recipe.unsupported()) {
        Some(why) => Err(why),
        None => Ok(found),
    }
}

/// The norm, the rotation and the append of an op.
pub(crate) fn rope_kv_append(
    t: Types<'_>,
    data: &OpData,
    op: &ops::RopeKvAppend,
) -> Result<RopeKvAppend, String> {
    let kv = t.kv(op.kv)?;
    width(t.tensor(op.qkv)?)?;
    let head_norm = |norm: &RmsNormWeight| {
        Ok::<_, String>(HeadNorm {
            weight: plain(t.weight(norm.weight).elem, "a norm's weight")?,
            eps: norm.eps,
            offset: norm.offset,
        })
    };
    Ok(RopeKvAppend {
        heads: op.heads,
        kv_heads: kv.heads,
        head_dim: kv.head_dim,
        dim: 2 * extent(t.weight(op.freqs), 0)?,
        page_tokens: kv.page.ok_or(NO_PAGES)?,
        q_norm: op.q_norm.as_ref().map(head_norm).transpose()?,
        k_norm: op.k_norm.as_ref().map(head_norm).transpose()?,
        x: plain(t.tensor(op.qkv)?.elem, "qkv")?,
        kv: cached(kv.dtype)?,
        out: plain(t.result(data, 0)?.elem, "q")?,
    })
}

/// The attention of an op.
pub(crate) fn attention(t: Types<'_>, data: &OpData, op: &ops::Attention) -> Result<Attention, String> {
    let (q, kv) = (t.tensor(op.q)?, t.kv(op.kv)?);
    Ok(Attention {
        heads: width(q)? / kv.head_dim.max(1),
        kv_heads: kv.heads,
        head_dim: kv.head_dim,
        page_tokens: kv.page.ok_or(NO_PAGES)?,
        window: kv.window,
        scale: op.scale,
        softcap: op.softcap,
        products: op.products,
        q: plain(q.elem, "q")?,
        kv: cached(kv.dtype)?,
        out: plain(t.result(data, 0)?.elem, "a result")?,
    })
}

/// The product that an op computes, without a residual and not gated.
fn product(
    t: Types<'_>,
    data: &OpData,
    x: ValueId,
    weight: WeightId,
    bias: Option<WeightId>,
) -> Result<Product, String> {
    let (x, w) = (t.tensor(x)?, t.weight(weight));
    Ok(Product {
        n: extent(w, 0)?,
        k: extent(w, 1)?,
        operands: operands(x.elem, w.elem)?,
        rows: counted(x)?,
        bias: bias.map(|b| plain(t.weight(b).elem, "a bias")).transpose()?,
        residual: None,
        out: plain(t.result(data, 0)?.elem, "a result")?,
        gate: None,
        append: None,
    })
}

/// One kernel after the other, each up to the rows of its tile, the last for all that are more. Rows of logits are at
/// most as many as tokens, and bounded by `L` besides; so are the tokens of decode steps, each of which has one.
fn by_rows(
    rows: Count,
    forms: Vec<Form>,
    Bounds { tokens: max, requests: logits, .. }: Bounds,
) -> Vec<Ranged> {
    let mut ranges: Vec<Ranged> = Vec::new();
    for Form { to, steps, suffix, recipe } in forms {
        let most_rows = if rows == Count::Rows || steps == Steps::Decode { logits } else { max };
        let before = ranges.last().filter(|last| last.steps == steps);
        let from = before.map_or(1, |before| before.to + 1);
        // Unless the one before serves them all.
        if from <= max {
            let to = if most_rows <= to { max } else { to };
            ranges.push(Ranged { from, to, steps, with: None, suffix, recipe });
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_chain_serves_is_taken_out() {
        let of = |from, to, steps| Ranged {
            from,
            to,
            steps,
            with: None,
            suffix: Suffix::word(""),
            recipe: Feed { last: 1 }.into(),
        };
        let left = |own: Ranged, chain: Ranged| -> Vec<(u64, u64, Steps)> {
            own.without(&chain).iter().map(|r| (r.from, r.to, r.steps)).collect()
        };
        use Steps::{Any, Decode, Prefill};
        assert_eq!(left(of(1, 9, Any), of(1, 9, Decode)), [(1, 9, Prefill)]);
        assert_eq!(left(of(1, 9, Any), of(3, 5, Decode)), [(1, 2, Any), (3, 5, Prefill), (6, 9, Any)]);
        assert_eq!(left(of(1, 9, Decode), of(5, 20, Any)), [(1, 4, Decode)]);
        assert_eq!(left(of(1, 9, Any), of(1, 9, Any)), []);
        assert_eq!(left(of(1, 9, Prefill), of(1, 9, Decode)), [(1, 9, Prefill)]);
        assert_eq!(left(of(1, 4, Any), of(5, 9, Any)), [(1, 4, Any)]);
    }
}
