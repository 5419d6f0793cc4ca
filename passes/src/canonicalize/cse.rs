//! Common subexpressions: of two ops that are equal (op, operands, weights, attributes, result types), the later
//! reads from the earlier.
//!
//! Every op is a pure function of its operands; a cache is threaded as a value, so two equal appends store the
//! same rows into the same cache and are one.

use crate::Changed;
use crate::rewrite::Rewriter;
use std::collections::HashMap;
use trtc_ir::{Module, OpId, ValueId};

/// Merges equal ops; one sweep, as merged operands come before their readers.
pub fn merge_equal(module: &mut Module) -> Changed {
    let mut rw = Rewriter::new(module);
    let mut seen: HashMap<(&'static str, Vec<ValueId>), Vec<OpId>> = HashMap::new();
    for id in rw.order() {
        let key = (rw.op(id).name(), rw.op(id).operands());
        let alike = seen.entry(key).or_default();
        match alike.iter().copied().find(|&o| equal(rw.module(), o, id)) {
            None => alike.push(id),
            Some(first) => {
                for n in 0..rw.module().func.ops[id].results.len() {
                    let (old, new) = (rw.result(id, n), rw.result(first, n));
                    rw.replace_value(old, new);
                }
                rw.erase(id);
            }
        }
    }
    rw.finish()
}

fn equal(module: &Module, a: OpId, b: OpId) -> bool {
    let func = &module.func;
    let (a, b) = (&func.ops[a], &func.ops[b]);
    let types = |r: &[ValueId]| r.iter().map(|&v| func.values[v].ty.clone()).collect::<Vec<_>>();
    a.op == b.op && types(&a.results) == types(&b.results)
}
