//! Variants of the kernels of a module: their names, what they are, and what could be measured.

use super::{Tuning, Variant, of_tokens, product};
use crate::kernels::{Count, Recipe};
use crate::recipes::{Ranged, recipes};
use crate::signature::signature;
use std::collections::BTreeMap;
use trtc_ir::{Diag, Module, OpId, Sym, Target};

/// The name of an op's kernel without a variant.
pub(crate) fn name(module: &Module, id: OpId, target: &Target, r: &Ranged) -> Result<String, String> {
    let before = r.with.and_then(|v| module.func.def_op(v)).map(|id| &module.func.ops[id]);
    let before = before.map(|data| signature(module, data)).transpose()?;
    let own = signature(module, &module.func.ops[id])?;
    let suffix = r.suffix.to_string();
    let parts = [Some(target.name), before.as_deref(), Some(own.as_str()), Some(suffix.as_str())];
    let parts: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    Ok(parts.join("."))
}

/// The kernel called `kernel`, of which `r` is the one without a variant, called `name`.
pub(crate) fn named(kernel: &str, name: &str, r: &Ranged) -> Result<Recipe, String> {
    if kernel == name {
        return Ok(r.recipe);
    }
    let variant = kernel.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
    let variant: Variant = variant.ok_or_else(|| format!("{kernel} is no variant of {name}"))?.parse()?;
    variant.make(&r.recipe, r.to).map_err(|why| format!("{kernel}: {why}"))
}

/// Gives the kernels of a module for a GPU, after `select`, the variants that a tuning names, and says how many there are. Kernels that it does not
/// name stay as they are; a variant that cannot be is the user's fault.
pub fn tune(module: &mut Module, target: &Target, tuning: &Tuning) -> Result<usize, Diag> {
    let mut count = 0;
    for (id, ranges) in selected(module, target)? {
        for (i, (name, r)) in ranges.into_iter().enumerate() {
            let Some(variant) = tuning.get(&name) else { continue };
            let data = &mut module.func.ops[id];
            variant.make(&r.recipe, r.to).map_err(|why| {
                Diag::user(&data.loc, format!("{name} cannot be made as {variant}: {why}"))
                    .help("measure again by trtc tune, for this target and precision")
            })?;
            data.kernels[i].kernel = format!("{name}.{variant}");
            count += 1;
        }
    }
    Ok(count)
}

/// The kernels of a module for a GPU that can be made in several ways, by name: the greatest number of rows, and at most `most` ways that
/// are worth measuring, the one without a variant first. Of two that differ only in what their rows are, the one for tokens.
pub fn candidates(
    module: &Module,
    target: &Target,
    most: usize,
) -> Result<BTreeMap<String, (u64, Vec<Variant>)>, Diag> {
    let all = selected(module, target)?.into_iter().flat_map(|(_, ranges)| ranges);
    let logits = module.max_dim(Sym::L).unwrap_or(u64::MAX);
    let variants = all.map(|(name, r)| {
        let of_logits = product(&r.recipe).is_some_and(|(of, _)| of.rows == Count::Rows);
        let rows = if of_logits { r.to.min(logits) } else { r.to };
        (name, (rows, Variant::candidates(&r.recipe, rows, most)))
    });
    let mut all: BTreeMap<_, _> = variants.filter(|(_, (_, variants))| variants.len() > 1).collect();
    let twins = all.keys().filter(|name| of_tokens(name).is_some_and(|twin| all.contains_key(&twin)));
    let twins: Vec<String> = twins.cloned().collect();
    twins.iter().for_each(|name| drop(all.remove(name)));
    Ok(all)
}

/// The kernels of an op, with their names without variants.
type Named = Vec<(String, Ranged)>;

/// Every op that has kernels, with them.
fn selected(module: &Module, target: &Target) -> Result<Vec<(OpId, Named)>, Diag> {
    let Some(gpu) = &target.gpu else { return Ok(Vec::new()) };
    let ops = module.func.order.iter().filter(|&&id| !module.func.ops[id].kernels.is_empty());
    ops.map(|&id| {
        let data = &module.func.ops[id];
        let bug = |what: String| Diag::bug(&data.loc, format!("llm.{}: {what}", data.op.name()));
        let ranges = recipes(module, id, gpu).map_err(bug)?;
        if ranges.len() != data.kernels.len() {
            let (n, m) = (data.kernels.len(), ranges.len());
            return Err(bug(format!("{n} kernels were selected where {m} exist: run select again")));
        }
        let named = ranges.into_iter().map(|r| Ok((name(module, id, target, &r)?, r)));
        Ok((id, named.collect::<Result<_, String>>().map_err(bug)?))
    })
    .collect()
}

/// The chosen kernels by name. One name stands for one recipe.
pub(crate) fn chosen(module: &Module, target: &Target) -> Result<BTreeMap<String, Recipe>, Diag> {
    let mut chosen = BTreeMap::new();
    for (id, ranges) in selected(module, target)? {
        let data = &module.func.ops[id];
        let bug = |what: String| Diag::bug(&data.loc, format!("llm.{}: {what}", data.op.name()));
        for (choice, (name, r)) in data.kernels.iter().zip(ranges) {
            let recipe = named(&choice.kernel, &name, &r).map_err(bug)?;
            if chosen.insert(choice.kernel.clone(), recipe).is_some_and(|other| other != recipe) {
                return Err(bug(format!("two kernels are called {}", choice.kernel)));
            }
        }
    }
    Ok(chosen)
}
