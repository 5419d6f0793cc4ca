//! What `fuse-qkv` and `fuse-gate-up` share: several linears of one input become one, and slices of it.
//!
//! ```text
//! x A^T + a, x B^T + b   =   slices of  x [A; B]^T + [a; b]
//! ```
//! Exact: each output is the same sum. Non-goals: linears that already add a residual; weights of different
//! element types; a weight that anything else reads (merging it would store it twice); computed weights.

use crate::rewrite::{Res, Rewriter};
use trtc_ir::ops::{Linear, Slice};
use trtc_ir::{Dim, Loc, Op, OpId, Source, TensorType, Type, Weight, WeightId};

/// The merged linear of `parts`, in this order, or `None` if they cannot be merged.
pub(super) fn merge_linears(rw: &mut Rewriter<'_>, parts: &[OpId], name: &str) -> Option<()> {
    let linears: Vec<Linear> = parts
        .iter()
        .map(|&p| if let Op::Linear(l) = rw.op(p) { Some(l.clone()) } else { None })
        .collect::<Option<_>>()?;
    let distinct = parts.iter().enumerate().all(|(i, p)| !parts[..i].contains(p));
    let plain = linears.iter().all(|l| l.x == linears[0].x && l.residual.is_none());
    if !distinct || !plain {
        return None;
    }

    // Every part's result is `(rows, ...)` of one element type; the merged result is `(rows, sum of widths)`.
    let types: Vec<TensorType> =
        parts.iter().map(|&p| rw.ty(rw.result(p, 0)).tensor().cloned()).collect::<Option<_>>()?;
    let rows = *types[0].dims.first()?;
    if types.iter().any(|t| t.elem != types[0].elem || t.dims.first() != Some(&rows)) {
        return None;
    }
    let widths: Vec<u64> = types.iter().map(TensorType::width).collect::<Option<_>>()?;
    let merged_type = TensorType { dims: vec![rows, Dim::Const(widths.iter().sum())], elem: types[0].elem };

    let weights: Vec<WeightId> = linears.iter().map(|l| l.weight).collect();
    let weight = stacked(rw, &weights)?;
    let biases: Vec<WeightId> = linears.iter().filter_map(|l| l.bias).collect();
    let bias = match biases.len() {
        0 => None,
        n if n == parts.len() => Some(stacked(rw, &biases)?),
        _ => return None,
    };

    // Nothing was changed up to here; from here on nothing fails.
    let weight = rw.add_weight(weight);
    let bias = bias.map(|b| rw.add_weight(b));
    let first = parts.iter().copied().min_by_key(|&p| rw.position(p))?;
    let op = Linear { x: linears[0].x, weight, bias, residual: None };
    let loc = Loc::fuse(parts.iter().map(|&p| rw.loc(p)));
    let merged = rw.insert_before(first, op.into(), &[Res::New(name, Type::Tensor(merged_type))], loc);
    let x = rw.result(merged, 0);
    let mut start = 0;
    for (&part, width) in parts.iter().zip(widths) {
        let (result, loc) = (rw.result(part, 0), rw.loc(part).clone());
        rw.insert_before(first, Slice { x, start }.into(), &[Res::Take(result)], loc);
        start += width;
    }
    parts.iter().for_each(|&p| rw.erase(p));
    Some(())
}

/// The weight that stacks `ids` along dimension 0.
fn stacked(rw: &Rewriter<'_>, ids: &[WeightId]) -> Option<Weight> {
    let parts: Vec<&Weight> = ids.iter().map(|&w| &rw.module().weights[w]).collect();
    let (first, inner) = (parts[0], parts[0].ty.dims.get(1..)?);
    let alike =
        |w: &&Weight| w.ty.elem == first.ty.elem && w.ty.dims.get(1..) == Some(inner) && w.packing.is_none();
    if !parts.iter().all(alike) || ids.iter().any(|&w| rw.weight_reads(w) != 1) {
        return None;
    }
    let mut rows = 0;
    let mut tensors = Vec::new();
    for part in &parts {
        rows += part.ty.shape()?.first().copied()?;
        let Source::Tensors(from) = &part.source else {
            return None;
        };
        tensors.extend(from.iter().cloned());
    }
    let mut dims = first.ty.dims.clone();
    *dims.first_mut()? = Dim::Const(rows);
    let names: Vec<&str> = parts.iter().map(|w| w.name.as_str()).collect();
    let name = rw.free_weight_name(&joined(&names));
    Some(Weight {
        name,
        ty: TensorType { dims, elem: first.ty.elem },
        source: Source::Tensors(tensors),
        packing: None,
    })
}

/// One name for several: what differs is joined, the dotted words around it are kept.
/// `l0.attn.q.bias, l0.attn.k.bias` is `l0.attn.qk.bias`; `l0.mlp.gate, l0.mlp.up` is `l0.mlp.gate_up`.
fn joined(names: &[&str]) -> String {
    let words: Vec<Vec<&str>> = names.iter().map(|n| n.split('.').collect()).collect();
    let first = &words[0];
    let shortest = words.iter().map(Vec::len).min().unwrap_or(0);
    let head = (0..shortest).take_while(|&i| words.iter().all(|w| w[i] == first[i])).count();
    let tail = (1..=shortest - head)
        .take_while(|&i| words.iter().all(|w| w[w.len() - i] == first[first.len() - i]))
        .count();
    let leaves: Vec<String> = words.iter().map(|w| w[head..w.len() - tail].join(".")).collect();
    let glue = if leaves.iter().all(|l| l.len() <= 1) { "" } else { "_" };
    let middle = leaves.join(glue);
    let mut all: Vec<&str> = first[..head].to_vec();
    all.push(&middle);
    all.extend(&first[first.len() - tail..]);
    all.retain(|w| !w.is_empty());
    all.join(".")
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn names_are_joined_where_they_differ() {
        assert_eq!(joined(&["l0.attn.q", "l0.attn.k", "l0.attn.v"]), "l0.attn.qkv");
        assert_eq!(joined(&["l0.attn.q.bias", "l0.attn.k.bias", "l0.attn.v.bias"]), "l0.attn.qkv.bias");
        assert_eq!(joined(&["l0.mlp.gate", "l0.mlp.up"]), "l0.mlp.gate_up");
        assert_eq!(joined(&["gate", "up"]), "gate_up");
        assert_eq!(joined(&["a.gate", "a.gate.x"]), "a.gate.x");
        assert_eq!(joined(&["same", "same"]), "same");
    }
}
