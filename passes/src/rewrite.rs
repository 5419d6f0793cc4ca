//! Edits of a step function with an index of readers, so that a pass stays linear in the number of ops.
//!
//! New ops take over the results of the ops they replace (same value, same name), so a rewrite disturbs neither
//! readers nor names. Not here: any knowledge of what a rewrite means.

use crate::Changed;
use std::collections::HashSet;
use trtc_ir::{Arena, Def, Id, Loc, Module, Op, OpData, OpId, Type, ValueId, Weight, WeightId};

/// A module being edited.
pub struct Rewriter<'m> {
    module: &'m mut Module,
    /// For each value, the ops that read it, once for each operand.
    readers: Vec<Vec<OpId>>,
    /// For each weight, how many operands name it.
    weight_reads: Vec<u32>,
    /// For each op, whether it is in the order.
    live: Vec<bool>,
    changed: bool,
}

/// A result of a new op.
pub enum Res<'a> {
    /// A value of an op that is about to be erased.
    Take(ValueId),
    /// A new value of this name and type.
    New(&'a str, Type),
}

impl<'m> Rewriter<'m> {
    /// Indexes a module.
    pub fn new(module: &'m mut Module) -> Rewriter<'m> {
        let mut readers = vec![Vec::new(); module.func.values.len()];
        let mut weight_reads = vec![0; module.weights.len()];
        let mut live = vec![false; module.func.ops.len()];
        for &id in &module.func.order {
            live[id.index()] = true;
            let op = &module.func.ops[id].op;
            op.operands().into_iter().for_each(|v| readers[v.index()].push(id));
            op.weights().into_iter().for_each(|w| weight_reads[w.index()] += 1);
        }
        Rewriter { module, readers, weight_reads, live, changed: false }
    }

    /// The module as it is now.
    pub fn module(&self) -> &Module {
        self.module
    }

    /// The ops as they were ordered when this was called; check [`Rewriter::is_live`] while editing.
    pub fn order(&self) -> Vec<OpId> {
        self.module.func.order.clone()
    }

    /// True if the op is in the order.
    pub fn is_live(&self, id: OpId) -> bool {
        self.live[id.index()]
    }

    /// An op.
    pub fn op(&self, id: OpId) -> &Op {
        &self.module.func.ops[id].op
    }

    /// An op's location.
    pub fn loc(&self, id: OpId) -> &Loc {
        &self.module.func.ops[id].loc
    }

    /// The n-th result of an op.
    pub fn result(&self, id: OpId, n: usize) -> ValueId {
        self.module.func.ops[id].results[n]
    }

    /// The results of an op.
    pub fn results(&self, id: OpId) -> &[ValueId] {
        &self.module.func.ops[id].results
    }

    /// A value's type.
    pub fn ty(&self, value: ValueId) -> &Type {
        &self.module.func.values[value].ty
    }

    /// Gives a value another type, with which its op has to agree.
    pub fn retype(&mut self, value: ValueId, ty: Type) {
        self.changed |= self.module.func.values[value].ty != ty;
        self.module.func.values[value].ty = ty;
    }

    /// A value's extents after the first, if it is a tensor of plain elements and all of them are known.
    pub fn inner(&self, value: ValueId) -> Option<Vec<u64>> {
        let mut t = self.ty(value).tensor()?.clone();
        t.elem.plain()?;
        t.dims.drain(..1.min(t.dims.len()));
        t.shape()
    }

    /// The op that makes a value, with its id.
    pub fn def(&self, value: ValueId) -> Option<(OpId, &Op)> {
        let id = self.module.func.def_op(value)?;
        Some((id, self.op(id)))
    }

    /// A weight.
    pub fn weight(&self, weight: WeightId) -> &Weight {
        &self.module.weights[weight]
    }

    /// The ops that read a value, once for each operand, in no order.
    pub fn readers(&self, value: ValueId) -> &[OpId] {
        &self.readers[value.index()]
    }

    /// True if the function returns the value.
    pub fn is_returned(&self, value: ValueId) -> bool {
        self.module.func.results.contains(&value)
    }

    /// The op with the only operand that reads the value, if the function does not return it too.
    pub fn only_reader(&self, value: ValueId) -> Option<OpId> {
        match self.readers(value) {
            [one] if !self.is_returned(value) => Some(*one),
            _ => None,
        }
    }

    /// How many operands name a weight.
    pub fn weight_reads(&self, weight: WeightId) -> u32 {
        self.weight_reads[weight.index()]
    }

    /// Where an op is in the order.
    pub fn position(&self, id: OpId) -> usize {
        self.module.func.order.iter().position(|&o| o == id).unwrap_or(usize::MAX)
    }

    /// Where a value is made; a parameter is made before everything else.
    pub fn made_at(&self, value: ValueId) -> Option<usize> {
        self.module.func.def_op(value).map(|o| self.position(o))
    }

    /// Adds a weight.
    pub fn add_weight(&mut self, weight: trtc_ir::Weight) -> WeightId {
        self.weight_reads.push(0);
        self.module.weights.push(weight)
    }

    /// `name`, or `name` with a number where a weight has it.
    pub fn free_weight_name(&self, name: &str) -> String {
        let free = |n: &String| self.module.weight_named(n).is_none();
        let numbered = (2..).map(|i| format!("{name}_{i}"));
        std::iter::once(name.to_owned()).chain(numbered).find(free).unwrap_or_else(|| name.to_owned())
    }

    /// Puts a new op before `at`; a value it takes loses its former maker, which the caller erases.
    pub fn insert_before(&mut self, at: OpId, op: Op, results: &[Res<'_>], loc: Loc) -> OpId {
        let fresh: Vec<(&str, Type)> = results
            .iter()
            .filter_map(|r| if let Res::New(n, t) = r { Some((*n, t.clone())) } else { None })
            .collect();
        let func = &mut self.module.func;
        let id = func.new_op(op, &fresh, loc);
        let mut made = std::mem::take(&mut func.ops[id].results).into_iter();
        let all: Vec<ValueId> = results
            .iter()
            .filter_map(|r| if let Res::Take(v) = r { Some(*v) } else { made.next() })
            .collect();
        for (i, &v) in all.iter().enumerate() {
            func.values[v].def = Def::Op(id, i as u32);
        }
        let place = func.order.iter().position(|&o| o == at).unwrap_or(func.order.len());
        func.order.insert(place, id);
        let data: &mut OpData = &mut func.ops[id];
        data.results = all;
        let (operands, weights) = (data.op.operands(), data.op.weights());
        self.live.push(true);
        self.readers.resize(self.module.func.values.len(), Vec::new());
        operands.into_iter().for_each(|v| self.readers[v.index()].push(id));
        weights.into_iter().for_each(|w| self.weight_reads[w.index()] += 1);
        self.changed = true;
        id
    }

    /// Puts another op in the place of one, with the same results.
    pub fn replace_op(&mut self, id: OpId, op: Op) {
        self.forget_reads(id);
        op.operands().into_iter().for_each(|v| self.readers[v.index()].push(id));
        op.weights().into_iter().for_each(|w| self.weight_reads[w.index()] += 1);
        self.module.func.ops[id].op = op;
        self.changed = true;
    }

    /// Makes every reader of `old` read `new`.
    pub fn replace_value(&mut self, old: ValueId, new: ValueId) {
        let readers = std::mem::take(&mut self.readers[old.index()]);
        for &id in &readers {
            for v in self.module.func.ops[id].op.operands_mut() {
                if *v == old {
                    *v = new;
                }
            }
        }
        self.readers[new.index()].extend(readers);
        for v in &mut self.module.func.results {
            if *v == old {
                *v = new;
            }
        }
        self.changed = true;
    }

    /// Takes an op out of the order. Results that no other op has taken must have no readers.
    pub fn erase(&mut self, id: OpId) {
        self.forget_reads(id);
        self.live[id.index()] = false;
        self.module.func.ops[id].results.clear();
        self.module.func.erase(id);
        self.changed = true;
    }

    /// Erases those of `ids` whose results nobody reads, in the order given.
    pub fn erase_unread(&mut self, ids: &[OpId]) {
        for &id in ids {
            if self.is_live(id) && self.is_unread(id) {
                self.erase(id);
            }
        }
    }

    /// True if no op reads a result of the op and the function returns none.
    pub fn is_unread(&self, id: OpId) -> bool {
        let results = &self.module.func.ops[id].results;
        results.iter().all(|&v| self.readers(v).is_empty() && !self.is_returned(v))
    }

    fn forget_reads(&mut self, id: OpId) {
        let op = &self.module.func.ops[id].op;
        let (operands, weights) = (op.operands(), op.weights());
        for v in operands {
            let list = &mut self.readers[v.index()];
            if let Some(i) = list.iter().position(|&o| o == id) {
                list.swap_remove(i);
            }
        }
        weights.into_iter().for_each(|w| self.weight_reads[w.index()] -= 1);
    }

    /// Ends the editing; if anything was edited, weights are put into the order of their first use, and those
    /// that nothing reads any more are dropped.
    pub fn finish(self) -> Changed {
        if self.changed {
            tidy_weights(self.module);
        }
        Changed::from(self.changed)
    }
}

/// Puts the weights into the order of their first use and drops those that no op reads.
pub fn tidy_weights(module: &mut Module) -> Changed {
    let mut seen = HashSet::new();
    let mut used: Vec<WeightId> = Vec::new();
    for &id in &module.func.order {
        used.extend(module.func.ops[id].op.weights().into_iter().filter(|w| seen.insert(*w)));
    }
    if used.iter().map(|w| w.index()).eq(0..module.weights.len()) {
        return Changed::No;
    }
    let mut renumbered = vec![None; module.weights.len()];
    let mut kept = Arena::default();
    for w in used {
        renumbered[w.index()] = Some(kept.push(module.weights[w].clone()));
    }
    module.weights = kept;
    for &id in &module.func.order {
        for w in module.func.ops[id].op.weights_mut() {
            if let Some(new) = renumbered[w.index()] {
                *w = new;
            }
        }
    }
    Changed::Yes
}
