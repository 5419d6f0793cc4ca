//! Checks of kernels: in every step each op is computed exactly once, by a kernel of its own or by that of a chain.

use super::Verifier;
use crate::entity::OpId;
use crate::module::{KernelChoice, OpData, Steps};
use crate::types::Sym;
use std::collections::{BTreeMap, BTreeSet};

impl Verifier<'_> {
    /// The kernels of all live ops; of a module whose ids point nowhere too.
    pub(super) fn kernels(&mut self) {
        let func = &self.module.func;
        let mut chains: BTreeMap<OpId, Vec<&KernelChoice>> = BTreeMap::new();
        func.chains().for_each(|(op, choice)| chains.entry(op).or_default().push(choice));
        for &id in &func.order {
            let Some(data) = func.ops.get(id) else {
                continue;
            };
            let chained = chains.get(&id).map(Vec::as_slice).unwrap_or_default();
            self.kernels_of(data, chained);
            for choice in data.kernels.iter().filter(|k| k.with.is_some()) {
                if let Err(message) = self.chain(id, data, choice) {
                    self.error(&data.loc, message);
                }
            }
        }
    }

    /// The kernels of one op, which those of `chained` compute too.
    fn kernels_of(&mut self, data: &OpData, chained: &[&KernelChoice]) {
        if data.kernels.is_empty() && chained.is_empty() {
            return;
        }
        let name = data.op.name();
        for k in &data.kernels {
            if k.from > k.to || k.kernel.is_empty() {
                let message =
                    format!("llm.{name} has the kernel @{:?} for the range {}..{}", k.kernel, k.from, k.to);
                self.error(&data.loc, message);
            }
        }
        // What serves any step is wrong for both kinds alike.
        let mut errors = BTreeSet::new();
        for kind in Steps::KINDS {
            let mut ranges: Vec<_> = data.kernels.iter().filter(|k| k.steps.serve(kind)).collect();
            for choice in chained.iter().filter(|k| k.steps.serve(kind)) {
                // Where it belongs, so that the op's own keep their order.
                ranges.insert(ranges.partition_point(|k| k.from < choice.from), choice);
            }
            errors.extend(self.ranges(name, kind, &ranges));
        }
        let single: Vec<_> = data.kernels.iter().filter(|k| k.steps == Steps::Single).collect();
        if !single.is_empty() {
            errors.extend(self.ranges(name, Steps::Single, &single));
            // They leave the rest to a kernel of the same op, by itself.
            let rest = |k: &KernelChoice| k.steps == Steps::Prefill && k.with.is_none();
            if single.iter().any(|k| k.with.is_some()) || !data.kernels.iter().any(rest) {
                errors.insert(format!(
                    "the kernels of llm.{name} for single tokens stand beside none for prefill steps"
                ));
            }
        }
        errors.into_iter().for_each(|message| self.error(&data.loc, message));
    }

    /// What is wrong with the ranges of the kernels that serve one kind of steps.
    fn ranges(&self, name: &str, kind: Steps, kernels: &[&KernelChoice]) -> Vec<String> {
        let (Some(first), Some(last)) = (kernels.first(), kernels.last()) else {
            return vec![format!("no kernel of llm.{name} serves {} steps", kind.name())];
        };
        let mut errors = Vec::new();
        for pair in kernels.windows(2) {
            if pair[0].to.checked_add(1) != Some(pair[1].from) {
                errors.push(format!(
                    "the kernel ranges of llm.{name} are not adjacent: {}..{} is followed by {}..{}",
                    pair[0].from, pair[0].to, pair[1].from, pair[1].to
                ));
            }
        }
        if let Some(&(_, min, max)) = self.module.dims.iter().find(|d| d.0 == Sym::T)
            && (first.from > min || last.to < max)
        {
            errors.push(format!(
                "the kernels of llm.{name} cover {}..{} but T is in {min}..{max}",
                first.from, last.to
            ));
        }
        errors
    }

    /// A choice that serves a chain: its op reads what the op before makes, and nobody else does. A cache is updated in
    /// place, so that it may be a result of the function.
    fn chain(&self, id: OpId, data: &OpData, choice: &KernelChoice) -> Result<(), String> {
        let func = &self.module.func;
        let named = |v| func.values.get(v).map_or("?", |v| v.name.as_str());
        let Some(with) = choice.with else { return Ok(()) };
        let what =
            format!("the kernel @{:?} of llm.{} is one with %{}", choice.kernel, data.op.name(), named(with));
        if !data.op.operands().contains(&with) {
            return Err(format!("{what}, which the op does not read"));
        }
        let maker = func.chained(choice).filter(|maker| func.order.contains(maker) && *maker != id);
        let Some(made) = maker.and_then(|maker| func.ops.get(maker)) else {
            return Err(format!("{what}, which no op makes"));
        };
        let others = func.order.iter().filter(|&&o| o != id).filter_map(|&o| func.ops.get(o));
        let read: BTreeSet<_> = others.flat_map(|d| d.op.operands()).collect();
        let returned =
            |v| func.results.contains(v) && func.values.get(*v).is_some_and(|v| v.ty.kv().is_none());
        match made.results.iter().find(|v| read.contains(v) || returned(v)) {
            Some(&v) => Err(format!("{what}, but %{} has other readers", named(v))),
            None => Ok(()),
        }
    }
}
