//! A module with one op: the contract of the kernel that computes it.

use crate::entity::{OpId, ValueId, WeightId};
use crate::loc::Loc;
use crate::module::{Module, Source, TensorRef, Weight};
use crate::types::{Dim, Sym, Type};
use std::collections::{BTreeMap, BTreeSet};

/// The module that consists of one op, its operands as parameters, and its weights.
///
/// Everything that does not bear on what a kernel has to compute is left out or made uniform: names, locations,
/// caches' layer numbers, checkpoint tensors, offsets, and the kernels themselves. So two ops that one kernel can
/// serve have contracts that are equal and print equally. Symbolic dimensions keep their bounds, and the target
/// stays. An id that is not in the module gives a module without ops.
pub fn extract_op(module: &Module, op: OpId) -> Module {
    let mut out = Module { name: "contract".into(), target: module.target.clone(), ..Module::default() };
    let Some(data) = module.func.ops.get(op) else {
        return out;
    };
    let ty = |v: &ValueId| module.func.values.get(*v).map(|v| v.ty.clone());
    out.func.name = data.op.name().into();

    let mut layers: BTreeMap<u32, u32> = BTreeMap::new();
    let mut uniform = |ty: Type| match ty {
        Type::Kv(mut kv) => {
            let next = layers.len() as u32;
            kv.layer = *layers.entry(kv.layer).or_insert(next);
            Type::Kv(kv)
        }
        other => other,
    };

    let mut op = data.op.clone();
    let mut params: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for v in op.operands() {
        if let (false, Some(ty)) = (params.contains_key(&v), ty(&v)) {
            params.insert(v, out.func.add_param(&format!("a{}", params.len()), uniform(ty)));
        }
    }
    let mut weights: BTreeMap<WeightId, WeightId> = BTreeMap::new();
    for w in op.weights() {
        if let (false, Some(weight)) = (weights.contains_key(&w), module.weights.get(w)) {
            let name = format!("w{}", weights.len());
            let source = match &weight.source {
                Source::Rope(freqs) => Source::Rope(*freqs),
                Source::Tensors(_) => {
                    Source::Tensors(vec![TensorRef { name: name.clone(), interleaved_heads: None }])
                }
            };
            let id = out.weights.push(Weight { name, source, ..weight.clone() });
            weights.insert(w, id);
        }
    }
    for v in op.operands_mut() {
        *v = params.get(v).copied().unwrap_or(*v);
    }
    for w in op.weights_mut() {
        *w = weights.get(w).copied().unwrap_or(*w);
    }
    let results: Vec<(String, Type)> = data
        .results
        .iter()
        .filter_map(ty)
        .enumerate()
        .map(|(i, ty)| (format!("r{i}"), uniform(ty)))
        .collect();
    let named: Vec<(&str, Type)> = results.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    out.func.results = out.func.append(op, &named, Loc::Unknown);

    let used: BTreeSet<Sym> = out
        .func
        .values
        .iter()
        .filter_map(|(_, v)| v.ty.tensor())
        .flat_map(|t| t.dims.iter().filter_map(|d| if let Dim::Sym(s) = d { Some(*s) } else { None }))
        .collect();
    out.dims = module.dims.iter().filter(|(s, ..)| used.contains(s)).copied().collect();
    out
}
