//! Which kernels serve a product with a weight, by the number of rows: tiles, shares of K, and what a target's matrix
//! instructions are best at.

use crate::kernels::matmul::{FEW, MANY, MANY_E4M3, MOST_SPLITS, Matmul, SOME, SOME_E4M3, Tiling};
use crate::kernels::narrow_matmul::{NarrowMatmul, Source};
use crate::kernels::operands::{Operands, Order, Product};
use crate::kernels::quant_matmul::{self, Payload, QuantMatmul};
use crate::kernels::stream_matmul::StreamMatmul;
use crate::kernels::wgmma_matmul::{self, WgmmaMatmul};
use crate::kernels::{MULTIPROCESSORS, Recipe};
use crate::signature::Suffix;
use trtc_ir::target::{Gpu, MatrixUnit};
use trtc_ir::{DType, Elem, Grain, Scheme, Steps};

/// A kernel of a product.
pub(crate) struct Form {
    /// The greatest number of rows that it serves.
    pub to: u64,
    /// Steps that it serves.
    pub steps: Steps,
    /// What distinguishes it by name.
    pub suffix: Suffix,
    /// The kernel.
    pub recipe: Recipe,
}

/// What the steps of an engine are like.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Most tokens.
    pub tokens: u64,
    /// Most requests, and so most tokens of decode steps.
    pub requests: u64,
    /// A row of y has to be the same to the bit however many rows there are: all kernels that serve decode steps add in one order, and
    /// so do all that serve prefill steps.
    pub invariant: bool,
}

/// The kernels of a product with weights of `w`, those of the same steps with fewest rows first; or why there are none.
pub(crate) fn forms(of: Product, w: Elem, gpu: &Gpu, bounds: Bounds) -> Result<Vec<Form>, String> {
    let Product { n, k, rows, bias, residual, out, gate, operands, .. } = of;
    let wgmma = gpu.matrix.contains(&MatrixUnit::Wgmma);
    let quantised = if let Elem::Quant(scheme) = w { payload(scheme) } else { None };
    if gate.is_some() && (quantised.is_some() || !wgmma) {
        return Err("no product of this target and these weights ends in an activation".to_owned());
    }
    let invariant = bounds.invariant;
    let of_steps = |steps| move |(to, suffix, recipe)| Form { to, steps, suffix, recipe };
    let form = |steps| move |(to, word, recipe)| Form { to, steps, suffix: Suffix::word(word), recipe };
    if let Some(payload) = quantised {
        let kernel = |form| QuantMatmul { n, k, payload, rows, bias, residual, out, form }.into();
        let all = quant_forms(n).into_iter().map(|(to, suffix, form)| (to, suffix, kernel(form)));
        if !invariant {
            return Ok(all.map(form(Steps::Any)).collect());
        }
        let few = [(8, "least", 8), (16, "few", 16), (u64::MAX, "some", 32)];
        let decode = few.map(|(to, suffix, tokens)| (to, suffix, kernel(quant_matmul::Form::Few(tokens))));
        let prefill = (u64::MAX, "many", kernel(quant_matmul::Form::Many(quant_matmul::LARGE)));
        let decode = decode.into_iter().map(form(Steps::Decode));
        return Ok(decode.chain([form(Steps::Prefill)(prefill)]).collect());
    }
    if wgmma {
        if !invariant {
            return Ok(hopper_forms(of, bounds, Order::Free, true).map(of_steps(Steps::Any)).collect());
        }
        let decode = hopper_forms(of, bounds, Order::Shares(shares(&of)), true).map(of_steps(Steps::Decode));
        let prefill = hopper_forms(of, bounds, Order::Shares(1), false).map(of_steps(Steps::Prefill));
        return Ok(decode.chain(prefill).collect());
    }
    let matmul = |tiling: Tiling| Matmul { of, tiling }.into();
    if invariant {
        let decode = form(Steps::Decode)((u64::MAX, "few", matmul(FEW)));
        return Ok(vec![decode, form(Steps::Prefill)((u64::MAX, "many", matmul(many(operands))))]);
    }
    let all = [
        (u64::from(FEW.bm), "few", matmul(FEW)),
        (u64::from(SOME.bm), "some", matmul(some(n, k, operands))),
        (u64::MAX, "many", matmul(many(operands))),
    ];
    Ok(all.into_iter().map(form(Steps::Any)).collect())
}

/// The kernels of a product on Hopper: weights are streamed, if that is asked for, where it is faster. The ranges of decode steps of many
/// requests are finer, and end with the most requests that there are.
fn hopper_forms(
    of: Product,
    bounds: Bounds,
    order: Order,
    streams: bool,
) -> impl Iterator<Item = (u64, Suffix, Recipe)> {
    let bytes = u64::from(of.n) * u64::from(of.k) * u64::from(of.operands.bytes());
    let streamed = STREAM_RANGES.into_iter().filter(move |&(_, least)| streams && bytes >= least);
    let most = streamed.clone().map(|(tokens, _)| u64::from(tokens)).max().unwrap_or(0);
    let full = (bounds.requests > FULL_FROM).then_some(bounds.requests);
    let fine = DECODE_RANGES.into_iter().filter(|&to| to < bounds.requests).chain(full).filter(|_| streams);
    let mut ranges: Vec<u64> = WGMMA_RANGES.into_iter().chain(fine).filter(|&to| to > most).collect();
    ranges.sort_unstable();
    ranges.dedup();
    let one = (streams && narrow(of, 1, order).unsupported().is_none()).then_some(1);
    let streamed = one.into_iter().chain(streamed.map(|(tokens, _)| tokens)).map(move |tokens| {
        let suffix = Suffix { word: "to", rows: Some(u64::from(tokens)) };
        (u64::from(tokens), suffix, streaming(of, tokens, order))
    });
    let others = ranges.into_iter().map(move |to| {
        let (tiling, grid) = wgmma_matmul::choose(to.min(bounds.tokens), &of, order);
        let suffix = match (to, streams) {
            (u64::MAX, true) => Suffix::word("many"),
            (u64::MAX, false) => Suffix::word("prefill.many"),
            (rows, _) => Suffix { word: if streams { "to" } else { "prefill.to" }, rows: Some(rows) },
        };
        (to, suffix, WgmmaMatmul { of, tiling, grid, order }.into())
    });
    streamed.chain(others)
}

/// The kernel that streams weights to so many tokens. Of 16 with more than 64 KiB of x each narrow product is faster by itself, and a step
/// slower (8B in bf16 4.19 ms for 4.14).
pub(crate) fn streaming(of: Product, tokens: u32, order: Order) -> Recipe {
    let narrow = narrow(of, tokens, order);
    let short = tokens <= 8 || tokens == 16 && narrow.kept_bytes() <= 64 << 10;
    let serves = short && narrow.unsupported().is_none();
    if serves { narrow.into() } else { StreamMatmul { of, tokens, order }.into() }
}

fn narrow(of: Product, tokens: u32, order: Order) -> NarrowMatmul {
    NarrowMatmul { of, tokens, order, x: Source::Given }
}

/// Shares of K of products in decode steps whose order of sums is prescribed: as few as deal out the tiles of streamed weights
/// evenly to the multiprocessors.
fn shares(of: &Product) -> u32 {
    let units = (of.k * of.operands.bytes()).div_ceil(Order::UNIT);
    let tiles = of.n.div_ceil(64);
    // Work of all blocks, of that of the one that has most times all of them.
    let even = |shares: u32| {
        let (all, blocks) = (tiles * shares, MULTIPROCESSORS);
        f64::from(all) / f64::from(all.div_ceil(blocks) * blocks)
    };
    let can = || [1, 2, 4, 8].into_iter().filter(|&shares| units.is_multiple_of(shares));
    let best = can().max_by(|&a, &b| even(a).total_cmp(&even(b)));
    can().find(|&shares| even(shares) > 0.94).or(best).unwrap_or(1)
}

/// The operands of a product, of which w may be quantised by itself.
pub(crate) fn operands(x: Elem, w: Elem) -> Result<Operands, String> {
    match (x, w) {
        (Elem::Plain(DType::Bf16), Elem::Plain(DType::Bf16)) => Ok(Operands::Bf16),
        (Elem::Plain(DType::Bf16), Elem::Quant(scheme)) if payload(scheme).is_some() => Ok(Operands::Bf16),
        (Elem::Quant(Scheme::FP8_TOKEN), Elem::Quant(Scheme::FP8)) => Ok(Operands::E4m3),
        (x, w) => Err(format!("a product of {x} and weights of {w} is not served")),
    }
}

/// The tiling of products with up to 64 tokens, `n` outputs and `k` inputs.
fn some(n: u32, k: u32, operands: Operands) -> Tiling {
    let tiling = match operands {
        Operands::Bf16 => SOME,
        Operands::E4m3 => SOME_E4M3,
    };
    // With 48 KiB under way each, 108 blocks cover a latency of 1.5 us at 3.4 TB/s, and leave few of 132 multiprocessors
    // out. A share is at least twice as long as the ring, or filling it and adding shares would cost more than they save.
    let (tiles, steps) = (n.div_ceil(tiling.bn).max(1), operands.units(k).div_ceil(tiling.bk));
    let splits = 108u32.div_ceil(tiles).min(steps / (2 * tiling.stages)).clamp(1, MOST_SPLITS);
    Tiling { splits, ..tiling }
}

/// The tiling of products with more tokens.
fn many(operands: Operands) -> Tiling {
    match operands {
        Operands::Bf16 => MANY,
        Operands::E4m3 => MANY_E4M3,
    }
}

/// Greatest numbers of rows that products which stream weights are made for, and the least bytes of weights for which that is faster:
/// the sums of tiles that blocks share out are exchanged through memory, more of them the more rows there are.
const STREAM_RANGES: [(u32, u64); 4] = [(8, 0), (16, 0), (32, 50 << 20), (64, 100 << 20)];
/// Greatest numbers of rows that products with `wgmma` are made for, each with a tiling of its own.
const WGMMA_RANGES: [u64; 8] = [32, 64, 128, 256, 512, 1024, 2048, u64::MAX];
/// More of them for decode steps: with turned tiles these are so many rows and not the next power of two.
const DECODE_RANGES: [u64; 7] = [192, 320, 384, 448, 640, 768, 896];
/// With more rows than these products are not memory's alone.
const FULL_FROM: u64 = 128;

/// Greatest token count, suffix and form of the products of quantised weights with `n` outputs.
fn quant_forms(n: u32) -> Vec<(u64, &'static str, quant_matmul::Form)> {
    use quant_matmul::{Form, LARGE, SMALL};
    // Small tiles as long as large ones would leave out some of 132 multiprocessors.
    let rows_of_tiles = MULTIPROCESSORS / n.div_ceil(128).max(1);
    let small = u64::from(LARGE.tokens) * u64::from(rows_of_tiles.saturating_sub(1));
    let mut forms = vec![(8, "least", Form::Few(8)), (16, "few", Form::Few(16)), (64, "some", Form::Few(32))];
    if small > 64 {
        forms.push((small, "more", Form::Many(SMALL)));
    }
    forms.push((u64::MAX, "many", Form::Many(LARGE)));
    forms
}

/// The schemes of weights that kernels read.
pub(crate) fn payload(scheme: Scheme) -> Option<Payload> {
    match (scheme.payload, scheme.scale, scheme.grain, scheme.zero) {
        (DType::I8, DType::F32, Grain::Channel, false) => Some(Payload::I8),
        (DType::I4, DType::Bf16, Grain::Group(group), true) => Some(Payload::I4(group)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Count;

    #[test]
    fn ranges_are_as_fine_as_the_requests_of_an_engine_ask_for() {
        let of = Product {
            n: 6144,
            k: 4096,
            operands: Operands::E4m3,
            rows: Count::Tokens,
            bias: None,
            residual: None,
            out: DType::Bf16,
            gate: None,
            append: None,
        };
        let of_requests = |requests, streams| -> Vec<String> {
            let bounds = Bounds { tokens: 1024, requests, invariant: false };
            let forms = hopper_forms(of, bounds, Order::Free, streams);
            forms.map(|(to, suffix, _)| format!("{suffix} {to}")).filter(|f| !f.starts_with("many")).collect()
        };
        let to = |all: &[u64]| -> Vec<String> { all.iter().map(|n| format!("to{n} {n}")).collect() };
        assert_eq!(of_requests(64, true), to(&[1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]));
        assert_eq!(
            of_requests(400, true),
            to(&[1, 8, 16, 32, 64, 128, 192, 256, 320, 384, 400, 512, 1024, 2048])
        );
        assert_eq!(
            of_requests(512, true),
            to(&[1, 8, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512, 1024, 2048])
        );
        assert_eq!(of_requests(400, false).first().map(String::as_str), Some("prefill.to32 32"));
        assert!(!of_requests(400, false).iter().any(|form| form.ends_with("400")));
    }

    #[test]
    fn blocks_share_out_k_where_tiles_are_few_and_k_is_long() {
        let splits = |n, k| some(n, k, Operands::Bf16).splits;
        assert_eq!([splits(4096, 4096), splits(4096, 14336), splits(6144, 4096)], [4, 4, 3]);
        assert_eq!([splits(14336, 4096), splits(28672, 4096), splits(128_256, 4096)], [1, 1, 1]);
        assert_eq!([splits(2048, 2048), splits(896, 896), splits(64, 64)], [4, 1, 1]);
        assert_eq!(splits(64, 1 << 16), MOST_SPLITS);
    }
}
