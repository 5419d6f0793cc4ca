//! Op x target x range of token counts -> kernel: the decisions for GPU targets, one match over all ops.

use crate::kernels::add::Add;
use crate::kernels::attention::Attention;
use crate::kernels::decode_attention::DecodeAttention;
use crate::kernels::feed::Feed;
use crate::kernels::flash_attention::FlashAttention;
use crate::kernels::gated_act::GatedAct;
use crate::kernels::gather::{Elements, Gather, Source};
use crate::kernels::kv_append::KvAppend;
use crate::kernels::matmul::{FEW, MANY, MANY_E4M3, MOST_SPLITS, Matmul, SOME, Tiling};
use crate::kernels::operands::Operands;
use crate::kernels::quant_matmul::{self, Form, Payload, QuantMatmul};
use crate::kernels::quantize::Quantize;
use crate::kernels::rms_norm::{Residual, RmsNorm};
use crate::kernels::rope::Rope;
use crate::kernels::rope_kv_append::{HeadNorm, RopeKvAppend};
use crate::kernels::sample::Sample;
use crate::kernels::slice::Slice;
use crate::kernels::stream_matmul::StreamMatmul;
use crate::kernels::token_attention::TokenAttention;
use crate::kernels::wgmma_matmul::{self, WgmmaMatmul};
use crate::kernels::{Count, Recipe};
use crate::signature::{Types, counted, extent, rows_of_last, width};
use trtc_ir::ops::RmsNormWeight;
use trtc_ir::target::{Gpu, MatrixUnit};
use trtc_ir::{DType, Elem, Grain, Module, Op, OpData, Scheme, Steps, Sym};

/// A kernel that serves up to `to` tokens, from where the one before ends that serves the same steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranged {
    /// Greatest token count.
    pub to: u64,
    /// Steps.
    pub steps: Steps,
    /// What distinguishes it from the op's other kernels; empty if there is one.
    pub suffix: &'static str,
    /// The kernel.
    pub recipe: Recipe,
}

fn plain(elem: Elem, what: &str) -> Result<DType, String> {
    match elem {
        Elem::Plain(d @ (DType::F32 | DType::Bf16)) => Ok(d),
        other => Err(format!("{what} of {other} is not served")),
    }
}

/// A result that may be quantised, as kernels of rows name its type.
fn stored(elem: Elem) -> Result<DType, String> {
    if elem == Elem::Quant(Scheme::FP8_TOKEN) { Ok(DType::F8E4M3) } else { plain(elem, "a result") }
}

/// The kernels of an op on a GPU target, or why there are none.
pub fn recipes(module: &Module, data: &OpData, gpu: &Gpu) -> Result<Vec<Ranged>, String> {
    let t = Types { module };
    let max = module.max_dim(Sym::T).ok_or("the module has no bound on T")?;
    let weight_dtype = |norm: &RmsNormWeight| plain(t.weight(norm.weight).elem, "a norm's weight");
    let always = |recipe: Recipe| Ok(vec![Ranged { to: max, steps: Steps::Any, suffix: "", recipe }]);
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
        Op::RopeKvAppend(op) => {
            let kv = t.kv(op.kv)?;
            width(t.tensor(op.qkv)?)?;
            let head_norm = |norm: &RmsNormWeight| {
                Ok::<_, String>(HeadNorm { weight: weight_dtype(norm)?, eps: norm.eps, offset: norm.offset })
            };
            always(Recipe::from(RopeKvAppend {
                heads: op.heads,
                kv_heads: kv.heads,
                head_dim: kv.head_dim,
                dim: 2 * extent(t.weight(op.freqs), 0)?,
                page_tokens: kv.page.ok_or("the cache has no page size yet: run kv-layout first")?,
                q_norm: op.q_norm.as_ref().map(head_norm).transpose()?,
                k_norm: op.k_norm.as_ref().map(head_norm).transpose()?,
                x: plain(t.tensor(op.qkv)?.elem, "qkv")?,
                kv: plain(Elem::Plain(kv.dtype), "a cache")?,
                out: plain(t.result(data, 0)?.elem, "q")?,
            }))
        }
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
                page_tokens: kv.page.ok_or("the cache has no page size yet: run kv-layout first")?,
                x: plain(t.tensor(op.k)?.elem, "k")?,
                kv: plain(Elem::Plain(kv.dtype), "a cache")?,
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
            let (x, w, y) = (t.tensor(op.x)?, t.weight(op.weight), t.result(data, 0)?);
            let operands = operands(x.elem, w.elem)?;
            let (n, k, rows) = (extent(w, 0)?, extent(w, 1)?, counted(x)?);
            let bias = op.bias.map(|b| plain(t.weight(b).elem, "a bias")).transpose()?;
            let residual = op.residual.map(|r| t.tensor(r)).transpose()?;
            let residual = residual.map(|r| plain(r.elem, "a residual")).transpose()?;
            let out = plain(y.elem, "a result")?;
            let quantised = if let Elem::Quant(scheme) = w.elem { payload(scheme) } else { None };
            let forms: Vec<(u64, &'static str, Recipe)> = match quantised {
                Some(payload) => quant_forms(n)
                    .into_iter()
                    .map(|(to, suffix, form)| {
                        let recipe = QuantMatmul { n, k, payload, rows, bias, residual, out, form };
                        (to, suffix, recipe.into())
                    })
                    .collect(),
                None => {
                    let matmul =
                        |tiling: Tiling| Matmul { n, k, operands, rows, bias, residual, out, tiling };
                    let stream = |(tokens, suffix): (u32, &'static str)| {
                        let recipe = StreamMatmul { n, k, operands, rows, bias, residual, out, tokens };
                        (u64::from(tokens), suffix, recipe.into())
                    };
                    let wgmma = |(to, suffix): (u64, &'static str)| {
                        let (tiling, grid) = wgmma_matmul::choose(to.min(max), n, k, operands);
                        let recipe = WgmmaMatmul { n, k, operands, rows, bias, residual, out, tiling, grid };
                        (to, suffix, recipe.into())
                    };
                    if gpu.matrix.contains(&MatrixUnit::Wgmma) {
                        STREAM_RANGES.map(stream).into_iter().chain(WGMMA_RANGES.map(wgmma)).collect()
                    } else {
                        vec![
                            (u64::from(FEW.bm), "few", matmul(FEW).into()),
                            (u64::from(SOME.bm), "some", matmul(some(n, operands.units(k))).into()),
                            (u64::MAX, "many", matmul(many(operands)).into()),
                        ]
                    }
                }
            };
            Ok(by_rows(module, rows, forms, max))
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
            let (q, kv) = (t.tensor(op.q)?, t.kv(op.kv)?);
            let attention = Attention {
                heads: width(q)? / kv.head_dim.max(1),
                kv_heads: kv.heads,
                head_dim: kv.head_dim,
                page_tokens: kv.page.ok_or("the cache has no page size yet: run kv-layout first")?,
                window: kv.window,
                scale: op.scale,
                softcap: op.softcap,
                q: plain(q.elem, "q")?,
                kv: plain(Elem::Plain(kv.dtype), "a cache")?,
                out: plain(t.result(data, 0)?.elem, "a result")?,
            };
            let (decode, flash) = (DecodeAttention(attention), FlashAttention(attention));
            match decode.unsupported().or(flash.unsupported()) {
                Some(_) => always(TokenAttention(attention).into()),
                None => Ok(vec![
                    Ranged { to: max, steps: Steps::Decode, suffix: "decode", recipe: decode.into() },
                    Ranged { to: max, steps: Steps::Prefill, suffix: "prefill", recipe: flash.into() },
                ]),
            }
        }
    };
    let found = found?;
    match found.iter().find_map(|r| r.recipe.unsupported()) {
        Some(why) => Err(why),
        None => Ok(found),
    }
}

/// The operands of a product, of which w may be quantised by itself.
fn operands(x: Elem, w: Elem) -> Result<Operands, String> {
    match (x, w) {
        (Elem::Plain(DType::Bf16), Elem::Plain(DType::Bf16)) => Ok(Operands::Bf16),
        (Elem::Plain(DType::Bf16), Elem::Quant(scheme)) if payload(scheme).is_some() => Ok(Operands::Bf16),
        (Elem::Quant(Scheme::FP8_TOKEN), Elem::Quant(Scheme::FP8)) => Ok(Operands::E4m3),
        (x, w) => Err(format!("a product of {x} and weights of {w} is not served")),
    }
}

/// The tiling of products with up to 64 tokens, `n` outputs and rows of `k` units of 16 bits.
fn some(n: u32, k: u32) -> Tiling {
    // With 48 KiB under way each, 108 blocks cover a latency of 1.5 us at 3.4 TB/s, and leave few of 132 multiprocessors
    // out. A share is at least twice as long as the ring, or filling it and adding shares would cost more than they save.
    let (tiles, steps) = (n.div_ceil(SOME.bn).max(1), k.div_ceil(SOME.bk));
    let splits = 108u32.div_ceil(tiles).min(steps / (2 * SOME.stages)).clamp(1, MOST_SPLITS);
    Tiling { splits, ..SOME }
}

/// The tiling of products with more tokens.
fn many(operands: Operands) -> Tiling {
    match operands {
        Operands::Bf16 => MANY,
        Operands::E4m3 => MANY_E4M3,
    }
}

/// Greatest numbers of rows that products which stream weights are made for, and their suffixes.
const STREAM_RANGES: [(u32, &str); 4] = [(8, "to8"), (16, "to16"), (32, "to32"), (64, "to64")];
/// Greatest numbers of rows that products with `wgmma` are made for, each with a tiling of its own, and their suffixes.
const WGMMA_RANGES: [(u64, &str); 6] =
    [(128, "to128"), (256, "to256"), (512, "to512"), (1024, "to1024"), (2048, "to2048"), (u64::MAX, "many")];

/// Greatest token count, suffix and form of the products of quantised weights with `n` outputs.
fn quant_forms(n: u32) -> Vec<(u64, &'static str, Form)> {
    use quant_matmul::{LARGE, SMALL};
    // Small tiles as long as large ones would leave out some of 132 multiprocessors.
    let rows_of_tiles = 132 / n.div_ceil(128).max(1);
    let small = u64::from(LARGE.tokens) * u64::from(rows_of_tiles.saturating_sub(1));
    let mut forms = vec![(8, "least", Form::Few(8)), (16, "few", Form::Few(16)), (64, "some", Form::Few(32))];
    if small > 64 {
        forms.push((small, "more", Form::Many(SMALL)));
    }
    forms.push((u64::MAX, "many", Form::Many(LARGE)));
    forms
}

/// The schemes of weights that kernels read.
fn payload(scheme: Scheme) -> Option<Payload> {
    match (scheme.payload, scheme.scale, scheme.grain, scheme.zero) {
        (DType::I8, DType::F32, Grain::Channel, false) => Some(Payload::I8),
        (DType::I4, DType::Bf16, Grain::Group(group), true) => Some(Payload::I4(group)),
        _ => None,
    }
}

/// One kernel after the other, each up to the rows of its tile, the last for all that are more. Rows of logits are at
/// most as many as tokens, and bounded by `L` besides.
fn by_rows(module: &Module, rows: Count, forms: Vec<(u64, &'static str, Recipe)>, max: u64) -> Vec<Ranged> {
    let most_rows = match rows {
        Count::Rows => module.max_dim(Sym::L).unwrap_or(max).min(max),
        _ => max,
    };
    let mut ranges = Vec::new();
    let count = forms.len();
    for (i, (limit, suffix, recipe)) in forms.into_iter().enumerate() {
        let last = most_rows <= limit || i + 1 == count;
        ranges.push(Ranged { to: if last { max } else { limit }, steps: Steps::Any, suffix, recipe });
        if last {
            break;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_share_out_k_where_tiles_are_few_and_k_is_long() {
        let splits = |n, k| some(n, k).splits;
        assert_eq!([splits(4096, 4096), splits(4096, 14336), splits(6144, 4096)], [4, 4, 3]);
        assert_eq!([splits(14336, 4096), splits(28672, 4096), splits(128_256, 4096)], [1, 1, 1]);
        assert_eq!([splits(2048, 2048), splits(896, 896), splits(64, 64)], [4, 1, 1]);
        assert_eq!(splits(64, 1 << 16), MOST_SPLITS);
    }
}
