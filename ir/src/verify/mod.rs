//! The verifier: what holds of every module between passes. It collects all findings and never panics, also where
//! ids point nowhere.
//!
//! What is checked:
//!
//! 1. Ids: every op in the order, every result, operand, weight, parameter and function result is in its arena; an
//!    op is in the order once; a value's `def` and the op or parameter list that it names agree.
//! 2. Names: those of weights, and those of the values of parameters and live ops, are unique and not empty.
//! 3. Header: symbolic dimensions are capital letters, unique, with `1 <= min <= max`; the target is a row of the
//!    table.
//! 4. Weights: extents are known, not 0, and their product fits; the quantisation scheme is sound; there is at least
//!    one source tensor; rotary tables have their `dim / 2` f32; panels are of matrices.
//! 5. Values: the symbols of tensors are bounded in the header and outermost; extents are not 0 and their product
//!    fits; quantised ones are `(rows, width)` with a scale for each row. Caches have heads, elements, a window and a page that are not 0, and a float type;
//!    parameters' caches have layers of their own.
//! 6. SSA: operands and function results are defined before.
//! 7. Ops: each op's own checks of its operands, weights, attributes, and the number and types of its results.
//! 8. Kernels: an op's ranges are in order, adjacent, not empty, and cover the bounds of `T`, together with those of chains
//!    that compute it too; what an op of a chain makes for the other is read by nobody else.
//! 9. Arena: with an arena planned, every tensor that a live op makes has an offset; without one, none has; values
//!    with offsets are tensors, lie within the arena, and do not overlap values that are needed at the same time.
//! 10. Locations: a fused location is flat.
//!
//! Not checked: that the target has the kernels, that checkpoint tensors exist, that code is live.
//!
//! Findings are the user's fault, as in a text file. A pass manager that finds them after a pass knows better.

mod kernels;
mod types;

use self::types::{cache, max_bytes, tensor, weight};
use crate::diag::Diag;
use crate::entity::{OpId, ValueId};
use crate::loc::Loc;
use crate::module::{Def, Func, Module, OpData};
use crate::ops::TypeCx;
use crate::target::{TARGETS, Target};
use crate::types::Type;
use crate::view::{Interval, liveness};
use std::collections::{BTreeMap, BTreeSet};

/// Checks a module; the module documentation of [`crate::verify`] lists what. The error has at least one finding.
pub fn verify(module: &Module) -> Result<(), Vec<Diag>> {
    let mut v = Verifier { module, found: Vec::new() };
    v.header();
    v.weights();
    v.params();
    let sound = v.ops();
    v.kernels();
    v.results();
    v.value_names();
    // Intervals mean something only if the ids do.
    if sound {
        v.arena();
    }
    if v.found.is_empty() { Ok(()) } else { Err(v.found) }
}

struct Verifier<'a> {
    module: &'a Module,
    found: Vec<Diag>,
}

impl Verifier<'_> {
    fn error(&mut self, loc: &Loc, message: impl Into<String>) {
        self.found.push(Diag::user(loc, message));
    }

    fn header(&mut self) {
        let here = Loc::Unknown;
        let mut seen = BTreeSet::new();
        for &(sym, min, max) in &self.module.dims {
            if !sym.0.is_ascii_uppercase() {
                self.error(&here, format!("dimension '{sym}' is not a capital letter"));
            }
            if !seen.insert(sym) {
                self.error(&here, format!("dimension {sym} is given twice"));
            }
            if min == 0 || min > max {
                self.error(
                    &here,
                    format!("dimension {sym} has the bounds {min}..{max}, expected 1 <= min <= max"),
                );
            }
        }
        if let Some(target) = &self.module.target
            && Target::named(target).is_none()
        {
            let known: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
            self.found.push(
                Diag::user(&here, format!("there is no target {target:?}"))
                    .help(format!("the targets are {}", known.join(", "))),
            );
        }
    }

    fn weights(&mut self) {
        let mut names = BTreeSet::new();
        for (_, w) in self.module.weights.iter() {
            let loc = Loc::name(format!("@{}", w.name));
            if w.name.is_empty() {
                self.error(&loc, "a weight has no name");
            } else if !names.insert(w.name.as_str()) {
                self.error(&loc, format!("there are two weights @{}", w.name));
            }
            if let Err(message) = weight(w) {
                self.error(&loc, format!("weight @{}: {message}", w.name));
            }
        }
    }

    fn params(&mut self) {
        let func = &self.module.func;
        let mut layers = BTreeSet::new();
        for (i, &id) in func.params.iter().enumerate() {
            let Some(value) = func.values.get(id) else {
                self.error(&Loc::Unknown, format!("parameter {i} is {id:?}, which does not exist"));
                continue;
            };
            let loc = Loc::name(format!("%{}", value.name));
            if value.def != Def::Param(i as u32) {
                let message = format!("parameter {i}, %{}, says that it is {:?}", value.name, value.def);
                self.error(&loc, message);
            }
            self.value_type(id, &loc);
            if let Type::Kv(kv) = &value.ty
                && !layers.insert(kv.layer)
            {
                self.error(
                    &loc,
                    format!("parameter %{} is a second cache of layer {}", value.name, kv.layer),
                );
            }
        }
    }

    /// A value's type on its own.
    fn value_type(&mut self, id: ValueId, loc: &Loc) {
        let Some(value) = self.module.func.values.get(id) else {
            return;
        };
        let checked = match &value.ty {
            Type::Tensor(t) => tensor(self.module, t),
            Type::Kv(kv) => cache(kv),
            Type::Batch => Ok(()),
        };
        if let Err(message) = checked {
            self.error(loc, format!("%{}: {message}", value.name));
        }
    }

    /// All live ops in order; false if some id is out of range or an op is in the order twice.
    fn ops(&mut self) -> bool {
        let func = &self.module.func;
        let mut sound = true;
        let mut defined: BTreeSet<ValueId> = func.params.iter().copied().collect();
        let mut seen: BTreeSet<OpId> = BTreeSet::new();
        for &id in &func.order {
            let Some(data) = func.ops.get(id) else {
                self.error(&Loc::Unknown, format!("the order has {id:?}, which does not exist"));
                sound = false;
                continue;
            };
            if !seen.insert(id) {
                self.error(&data.loc, format!("llm.{} ({id:?}) is in the order twice", data.op.name()));
                sound = false;
                continue;
            }
            let in_range = self.op_ids(id, data, &defined);
            if in_range {
                self.op_types(data);
            }
            sound &= in_range;
            if matches!(&data.loc, Loc::Fused(parts) if parts.iter().any(|l| matches!(l, Loc::Fused(_)))) {
                self.error(
                    &data.loc,
                    format!("the location of llm.{} has a fused location inside", data.op.name()),
                );
            }
            defined.extend(&data.results);
        }
        sound
    }

    /// Operands, weights and results exist and are defined once and before; true if all exist.
    fn op_ids(&mut self, id: OpId, data: &OpData, defined: &BTreeSet<ValueId>) -> bool {
        let func = &self.module.func;
        let name = data.op.name();
        let mut in_range = true;
        for v in data.op.operands() {
            match func.values.get(v) {
                None => {
                    self.error(&data.loc, format!("llm.{name} reads {v:?}, which does not exist"));
                    in_range = false;
                }
                Some(value) if !defined.contains(&v) => {
                    let message = format!("llm.{name} reads %{}, which is not defined before it", value.name);
                    self.error(&data.loc, message);
                }
                Some(_) => {}
            }
        }
        for w in data.op.weights() {
            if self.module.weights.get(w).is_none() {
                self.error(&data.loc, format!("llm.{name} reads {w:?}, which does not exist"));
                in_range = false;
            }
        }
        for (i, &v) in data.results.iter().enumerate() {
            let Some(value) = func.values.get(v) else {
                self.error(&data.loc, format!("result {i} of llm.{name} is {v:?}, which does not exist"));
                in_range = false;
                continue;
            };
            if value.def != Def::Op(id, i as u32) {
                let message =
                    format!("%{} is result {i} of llm.{name} ({id:?}) but says {:?}", value.name, value.def);
                self.error(&data.loc, message);
            }
            self.value_type(v, &data.loc);
        }
        in_range
    }

    fn op_types(&mut self, data: &OpData) {
        let types: Vec<Type> =
            data.results.iter().filter_map(|&v| Some(self.module.func.values.get(v)?.ty.clone())).collect();
        if let Err(message) = data.op.check(&TypeCx { module: self.module }, &types) {
            self.error(&data.loc, format!("llm.{}: {message}", data.op.name()));
        }
    }

    fn results(&mut self) {
        let func = &self.module.func;
        let made: BTreeSet<ValueId> = defined(func).collect();
        for (i, &id) in func.results.iter().enumerate() {
            match func.values.get(id) {
                None => {
                    self.error(&Loc::Unknown, format!("function result {i} is {id:?}, which does not exist"))
                }
                Some(value) if !made.contains(&id) => {
                    let message = format!("function result {i} is %{}, which nothing defines", value.name);
                    self.error(&Loc::name(format!("%{}", value.name)), message);
                }
                Some(_) => {}
            }
        }
    }

    fn value_names(&mut self) {
        let func = &self.module.func;
        let mut names: BTreeMap<&str, ValueId> = BTreeMap::new();
        for id in defined(func) {
            let Some(value) = func.values.get(id) else {
                continue;
            };
            let loc = match value.def {
                Def::Op(op, _) => func.ops.get(op).map_or(Loc::Unknown, |d| d.loc.clone()),
                Def::Param(_) => Loc::name(format!("%{}", value.name)),
            };
            if value.name.is_empty() {
                self.error(&loc, format!("the value {id:?} has no name"));
            } else if let Some(other) = names.insert(&value.name, id) {
                let what = if other == id { "is defined twice" } else { "is the name of two values" };
                self.error(&loc, format!("%{} {what}", value.name));
            }
        }
    }

    fn arena(&mut self) {
        let func = &self.module.func;
        let loc = |id: ValueId| match func.values[id].def {
            Def::Op(op, _) => func.ops.get(op).map_or(Loc::Unknown, |d| d.loc.clone()),
            Def::Param(_) => Loc::name(format!("%{}", func.values[id].name)),
        };
        let mut placed: Vec<(u64, u64, Interval)> = Vec::new();
        for interval in liveness(func) {
            let Some(value) = func.values.get(interval.value) else {
                continue;
            };
            let name = &value.name;
            let tensor = value.ty.tensor();
            match (self.module.arena, value.offset, tensor) {
                (None, None, _) | (Some(_), None, None) => {}
                (Some(_), None, Some(_)) => {
                    if matches!(value.def, Def::Op(..)) {
                        self.error(
                            &loc(interval.value),
                            format!("%{name} has no offset though the arena is planned"),
                        );
                    }
                }
                (None, Some(_), _) => {
                    self.error(&loc(interval.value), format!("%{name} has an offset but there is no arena"));
                }
                (Some(_), Some(_), None) => {
                    self.error(&loc(interval.value), format!("%{name} has an offset but is {}", value.ty));
                }
                (Some(arena), Some(offset), Some(t)) => {
                    let Some(bytes) = max_bytes(self.module, t) else {
                        continue;
                    };
                    match offset.checked_add(bytes) {
                        Some(end) if end <= arena => placed.push((offset, end, interval)),
                        _ => {
                            let message = format!(
                                "%{name} has {bytes} bytes at {offset:#x}, beyond the arena of {arena}"
                            );
                            self.error(&loc(interval.value), message);
                        }
                    }
                }
            }
        }
        placed.sort_by_key(|p| p.0);
        for (i, &(_, end, a)) in placed.iter().enumerate() {
            for &(_, _, b) in placed[i + 1..].iter().take_while(|p| p.0 < end).filter(|p| p.2.overlaps(&a)) {
                let (a, b) = (&func.values[a.value].name, (b.value, &func.values[b.value].name));
                let message =
                    format!("%{a} and %{} overlap in the arena and are needed at the same time", b.1);
                self.error(&loc(b.0), message);
            }
        }
    }
}

/// Parameters and results of live ops.
fn defined(func: &Func) -> impl Iterator<Item = ValueId> {
    let made = func.order.iter().filter_map(|&o| func.ops.get(o)).flat_map(|d| d.results.iter().copied());
    func.params.iter().copied().chain(made)
}
