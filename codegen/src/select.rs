//! The `select` phase: which kernel serves which op for which token counts, and how its weights lie.
//!
//! On the host every op has a kernel, a function of the runtime named by the op's signature. On a GPU an op without a
//! kernel is left without one and reported; the others are still selected, so that their code can be made and read.

use crate::recipes::{Ranged, recipes};
use crate::signature::signature;
use crate::tuning::{Tuning, kernels};
use std::collections::BTreeMap;
use trtc_ir::{Diag, Elem, KernelChoice, Loc, Module, Op, OpId, Packing, Scheme, Steps, Sym, Target};

/// What `select` did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Selection {
    /// True if the module changed.
    pub changed: bool,
    /// Ops without a kernel, in execution order.
    pub missing: Vec<Missing>,
}

/// An op without a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Name of the op, without `llm.`.
    pub op: &'static str,
    /// Where it comes from.
    pub loc: Loc,
    /// Why there is none: half a sentence.
    pub why: String,
}

impl Selection {
    /// One error for all missing kernels: each op kind and reason once, with the number of ops and the first of them.
    pub fn unsupported(&self, target: &Target) -> Option<Diag> {
        let first = self.missing.first()?;
        let mut kinds: Vec<(&Missing, usize)> = Vec::new();
        for m in &self.missing {
            match kinds.iter_mut().find(|(k, _)| k.op == m.op && k.why == m.why) {
                Some((_, n)) => *n += 1,
                None => kinds.push((m, 1)),
            }
        }
        let mut names: Vec<&str> = Vec::new();
        for (m, _) in &kinds {
            if !names.contains(&m.op) {
                names.push(m.op);
            }
        }
        let message = format!("target {} has no kernel for: {}", target.name, names.join(", "));
        let diag = Diag::unsupported(&first.loc, message);
        let diag = kinds.into_iter().fold(diag, |diag, (m, n)| {
            let more = if n > 1 { format!(" ({n} ops)") } else { String::new() };
            diag.note(format!("llm.{} at {}: {}{more}", m.op, m.loc, m.why))
        });
        Some(diag.help("build for --target host, which serves every op"))
    }
}

/// Chooses kernels and packings. Deterministic; selecting again for the same target changes nothing.
pub fn select(module: &mut Module, target: &Target) -> Result<Selection, Diag> {
    let max = module
        .max_dim(Sym::T)
        .filter(|&max| max > 0)
        .ok_or_else(|| Diag::bug(&Loc::Unknown, "the module has no bound on the dimension T"))?;
    let tuning = Tuning::built_in(target.name)?;
    let mut selection = Selection::default();
    let mut chosen = Vec::new();
    for &id in &module.func.order {
        let data = &module.func.ops[id];
        let bug = |what: String| Diag::bug(&data.loc, format!("llm.{}: {what}", data.op.name()));
        let kernels = match choices(module, id, target, &tuning, max).map_err(bug)? {
            Ok(kernels) => kernels,
            Err(why) => {
                selection.missing.push(Missing { op: data.op.name(), loc: data.loc.clone(), why });
                Vec::new()
            }
        };
        chosen.push((id, kernels));
    }
    for (id, kernels) in chosen {
        let data = &mut module.func.ops[id];
        selection.changed |= data.kernels != kernels;
        data.kernels = kernels;
    }
    for (id, packing) in packings(module, target) {
        let weight = &mut module.weights[id];
        selection.changed |= weight.packing != Some(packing);
        weight.packing = Some(packing);
    }
    Ok(selection)
}

/// The kernels of an op. The outer error is an op whose types are not what its verifier demands.
fn choices(
    module: &Module,
    id: OpId,
    target: &Target,
    tuning: &Tuning,
    max: u64,
) -> Result<Result<Vec<KernelChoice>, String>, String> {
    let Some(gpu) = &target.gpu else {
        let kernel = format!("{}.{}", target.name, signature(module, &module.func.ops[id])?);
        return Ok(Ok(vec![KernelChoice { from: 1, to: max, steps: Steps::Any, with: None, kernel }]));
    };
    let choice = |r: Ranged| {
        let name = kernels::name(module, id, target, &r)?;
        // What was measured for a product may not be among the kernels of one whose order of sums is prescribed.
        let variant = tuning.get(&name).filter(|v| v.make(&r.recipe, r.to).is_ok());
        let kernel = variant.map_or(name.clone(), |variant| format!("{name}.{variant}"));
        Ok(KernelChoice { from: r.from, to: r.to, steps: r.steps, with: r.with, kernel })
    };
    match recipes(module, id, gpu) {
        Ok(ranges) => ranges.into_iter().map(choice).collect::<Result<_, String>>().map(Ok),
        Err(why) => Ok(Err(why)),
    }
}

/// Whatever is quantised lies in panels, on a GPU in the order of fragments but for FP8, which products read as they read
/// bf16; on the host the matrices of linear ops too; all else in rows.
fn packings(module: &Module, target: &Target) -> BTreeMap<trtc_ir::WeightId, Packing> {
    let mut packings: BTreeMap<_, _> = module.weights.ids().map(|id| (id, Packing::Rows)).collect();
    let rows =
        |elem: Elem| elem.plain().is_some() || (target.gpu.is_some() && elem == Elem::Quant(Scheme::FP8));
    let quantised = module.weights.iter().filter(|(_, w)| !rows(w.ty.elem)).map(|(id, _)| id);
    let panels = if target.gpu.is_some() { Packing::Fragment16 } else { Packing::Panel16 };
    packings.extend(quantised.map(|id| (id, panels)));
    if target.gpu.is_none() {
        let matrices = module.func.order.iter().filter_map(|&id| match &module.func.ops[id].op {
            Op::Linear(op) => Some(op.weight),
            _ => None,
        });
        packings.extend(matrices.map(|id| (id, Packing::Panel16)));
    }
    packings
}
