//! Which kernels serve a product with a weight, by the number of rows: tiles, shares of K, and what a target's matrix
//! instructions are best at.

use crate::kernels::matmul::{FEW, MANY, MANY_E4M3, MOST_SPLITS, Matmul, SOME, SOME_E4M3, Tiling};
use crate::kernels::operands::{Operands, Product};
use crate::kernels::quant_matmul::{self, Form, Payload, QuantMatmul};
use crate::kernels::stream_matmul::StreamMatmul;
use crate::kernels::wgmma_matmul::{self, WgmmaMatmul};
use crate::kernels::{MULTIPROCESSORS, Recipe};
use trtc_ir::target::{Gpu, MatrixUnit};
use trtc_ir::{DType, Elem, Grain, Scheme};

/// A kernel, the greatest number of rows that it serves, and what distinguishes it by name.
pub(crate) type Ranges = Vec<(u64, &'static str, Recipe)>;

/// The kernels of a product with weights of `w`, for steps of up to `max` tokens, fewest rows first; or why there are none.
pub(crate) fn forms(of: Product, w: Elem, gpu: &Gpu, max: u64) -> Result<Ranges, String> {
    let Product { n, k, operands, rows, bias, residual, out, gate } = of;
    let wgmma = gpu.matrix.contains(&MatrixUnit::Wgmma);
    let quantised = if let Elem::Quant(scheme) = w { payload(scheme) } else { None };
    if gate.is_some() && (quantised.is_some() || !wgmma) {
        return Err("no product of this target and these weights ends in an activation".to_owned());
    }
    if let Some(payload) = quantised {
        let forms = quant_forms(n).into_iter().map(|(to, suffix, form)| {
            (to, suffix, QuantMatmul { n, k, payload, rows, bias, residual, out, form }.into())
        });
        return Ok(forms.collect());
    }
    if wgmma {
        let bytes = u64::from(n) * u64::from(k) * u64::from(operands.bytes());
        let streams = STREAM_RANGES.into_iter().filter(|&(_, _, least)| bytes >= least);
        let mut forms: Ranges = streams
            .map(|(tokens, suffix, _)| (u64::from(tokens), suffix, StreamMatmul { of, tokens }.into()))
            .collect();
        let most = forms.iter().map(|form| form.0).max().unwrap_or(0);
        let others = WGMMA_RANGES.into_iter().filter(|&(to, _)| to > most);
        forms.extend(others.map(|(to, suffix)| {
            let (tiling, grid) = wgmma_matmul::choose(to.min(max), &of);
            (to, suffix, WgmmaMatmul { of, tiling, grid }.into())
        }));
        return Ok(forms);
    }
    let matmul = |tiling: Tiling| Matmul { of, tiling }.into();
    Ok(vec![
        (u64::from(FEW.bm), "few", matmul(FEW)),
        (u64::from(SOME.bm), "some", matmul(some(n, k, operands))),
        (u64::MAX, "many", matmul(many(operands))),
    ])
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

/// Greatest numbers of rows that products which stream weights are made for, their suffixes, and the least bytes of weights
/// for which that is faster: the sums of tiles that blocks share out are exchanged through memory, more of them the more
/// rows there are.
const STREAM_RANGES: [(u32, &str, u64); 4] =
    [(8, "to8", 0), (16, "to16", 0), (32, "to32", 50 << 20), (64, "to64", 100 << 20)];
/// Greatest numbers of rows that products with `wgmma` are made for, each with a tiling of its own, and their suffixes.
const WGMMA_RANGES: [(u64, &str); 7] = [
    (64, "to64"),
    (128, "to128"),
    (256, "to256"),
    (512, "to512"),
    (1024, "to1024"),
    (2048, "to2048"),
    (u64::MAX, "many"),
];

/// Greatest token count, suffix and form of the products of quantised weights with `n` outputs.
fn quant_forms(n: u32) -> Vec<(u64, &'static str, Form)> {
    use quant_matmul::{LARGE, SMALL};
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

    #[test]
    fn blocks_share_out_k_where_tiles_are_few_and_k_is_long() {
        let splits = |n, k| some(n, k, Operands::Bf16).splits;
        assert_eq!([splits(4096, 4096), splits(4096, 14336), splits(6144, 4096)], [4, 4, 3]);
        assert_eq!([splits(14336, 4096), splits(28672, 4096), splits(128_256, 4096)], [1, 1, 1]);
        assert_eq!([splits(2048, 2048), splits(896, 896), splits(64, 64)], [4, 1, 1]);
        assert_eq!(splits(64, 1 << 16), MOST_SPLITS);
    }
}
