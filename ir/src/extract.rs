//! A module with one op, or a chain of ops: the contract of the kernel that computes them.

use crate::dtype::DType;
use crate::entity::{OpId, ValueId, WeightId};
use crate::loc::Loc;
use crate::module::{Module, Source, TensorRef, Weight};
use crate::ops::Op;
use crate::types::{Dim, Elem, Sym, TensorType, Type};
use std::collections::{BTreeMap, BTreeSet};

/// The module that consists of some ops in execution order, with what they read of others as parameters, and their
/// weights. It returns what they make, but for tensors that one of them reads.
///
/// Everything that does not bear on what a kernel has to compute is left out or made uniform: names, locations,
/// caches' layer numbers, checkpoint tensors, offsets, and the kernels themselves. So ops that one kernel can
/// serve have contracts that are equal and print equally. Symbolic dimensions keep their bounds, and the target
/// stays. Ids that are not in the module are left out.
///
/// A product that another of the ops reads is f32, whatever it is where it is written: its sums are rounded when they are.
pub fn extract(module: &Module, ops: &[OpId]) -> Module {
    let mut out = Module { name: "contract".into(), target: module.target.clone(), ..Module::default() };
    let ops: Vec<_> = ops.iter().filter_map(|&op| module.func.ops.get(op)).collect();
    let ty = |v: &ValueId| module.func.values.get(*v).map(|v| v.ty.clone());
    out.func.name = ops.iter().map(|data| data.op.name()).collect::<Vec<_>>().join(".");

    let mut layers: BTreeMap<u32, u32> = BTreeMap::new();
    let mut uniform = |ty: Type| match ty {
        Type::Kv(mut kv) => {
            let next = layers.len() as u32;
            kv.layer = *layers.entry(kv.layer).or_insert(next);
            Type::Kv(kv)
        }
        other => other,
    };

    let unrounded = |ty: Type| match ty {
        Type::Tensor(TensorType { dims, elem: Elem::Plain(_) }) => {
            Type::Tensor(TensorType { dims, elem: Elem::Plain(DType::F32) })
        }
        other => other,
    };
    let made: BTreeSet<ValueId> = ops.iter().flat_map(|data| data.results.iter().copied()).collect();
    let read: BTreeSet<ValueId> = ops.iter().flat_map(|data| data.op.operands()).collect();
    let mut values: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for v in ops.iter().flat_map(|data| data.op.operands()).filter(|v| !made.contains(v)) {
        if let (false, Some(ty)) = (values.contains_key(&v), ty(&v)) {
            values.insert(v, out.func.add_param(&format!("a{}", values.len()), uniform(ty)));
        }
    }
    let mut weights: BTreeMap<WeightId, WeightId> = BTreeMap::new();
    for w in ops.iter().flat_map(|data| data.op.weights()) {
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
    let mut number = 0;
    for data in ops {
        let mut op = data.op.clone();
        let product = matches!(op, Op::Linear(_));
        for v in op.operands_mut() {
            *v = values.get(v).copied().unwrap_or(*v);
        }
        for w in op.weights_mut() {
            *w = weights.get(w).copied().unwrap_or(*w);
        }
        let results: Vec<(ValueId, String, Type)> = data
            .results
            .iter()
            .filter_map(|v| Some((*v, ty(v)?)))
            .map(|(v, ty)| (v, if product && read.contains(&v) { unrounded(ty) } else { uniform(ty) }))
            .zip(number..)
            .map(|((v, ty), i)| (v, format!("r{i}"), ty))
            .collect();
        number += results.len();
        let named: Vec<(&str, Type)> = results.iter().map(|(_, n, t)| (n.as_str(), t.clone())).collect();
        for ((v, _, ty), id) in results.iter().zip(out.func.append(op, &named, Loc::Unknown)) {
            values.insert(*v, id);
            if !read.contains(v) || ty.kv().is_some() {
                out.func.results.push(id);
            }
        }
    }

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
