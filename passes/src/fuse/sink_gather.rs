//! `sink-gather`: rows that no logits are wanted for are dropped as early as nothing else needs them: behind the last
//! layer's attention, not after the final norm.
//!
//! ```text
//! gather_rows(f(x, y), rows)   =   f(gather_rows(x, rows), gather_rows(y, rows))
//! ```
//! for every op f that makes a row of rows with the same number: norms, linears with their residuals, activations. Exact, for a row
//! depends on those only. A step of prompts wants one row of logits of each, so it computes all but one layer's products
//! for every token; a step that decodes wants every row, and copies one more.
//!
//! Non-goals: ops that anything else reads; attention of fewer queries than there are tokens.

use crate::Pass;
use crate::rewrite::{Res, Rewriter};
use std::collections::HashMap;
use trtc_ir::ops::GatherRows;
use trtc_ir::{Op, OpId, TensorType, Type, ValueId};

/// The pass.
pub const PASS: Pass = Pass {
    name: "sink-gather",
    summary: "picks the rows that logits are wanted for behind the last layer's attention",
    requires: &[],
    ensures: &[],
    run: |module, _| {
        let mut rw = Rewriter::new(module);
        for id in rw.order() {
            if rw.is_live(id) {
                sink(&mut rw, id);
            }
        }
        Ok(rw.finish())
    },
};

/// True for ops whose operands all have the rows of the results, of which each depends on that one alone.
fn is_of_rows(op: &Op) -> bool {
    match op {
        Op::Add(_)
        | Op::AddRmsNorm(_)
        | Op::GatedAct(_)
        | Op::GatedActPacked(_)
        | Op::GatedLinear(_)
        | Op::Linear(_)
        | Op::Quantize(_)
        | Op::RmsNorm(_) => true,
        Op::Attention(_)
        | Op::Embedding(_)
        | Op::Feed(_)
        | Op::GatherRows(_)
        | Op::KvAppend(_)
        | Op::Rope(_)
        | Op::RopeKvAppend(_)
        | Op::Sample(_)
        | Op::Slice(_) => false,
    }
}

fn sink(rw: &mut Rewriter<'_>, id: OpId) -> Option<()> {
    let Op::GatherRows(gather) = rw.op(id).clone() else {
        return None;
    };
    // Rows that an op makes may not be there yet where the gathers go.
    if rw.def(gather.rows).is_some() {
        return None;
    }
    let result = rw.result(id, 0);
    let rows = *rw.ty(result).tensor()?.dims.first()?;
    let of_rows = |ty: &Type| -> Option<Type> {
        let mut dims = ty.tensor()?.dims.clone();
        *dims.first_mut()? = rows;
        Some(TensorType { dims, ..ty.tensor()?.clone() }.into())
    };
    let sunk = only_for(rw, id);
    let mut picked: HashMap<ValueId, ValueId> = HashMap::new();
    for &at in &sunk {
        let mut op = rw.op(at).clone();
        for operand in op.operands_mut() {
            let made = rw.def(*operand).is_some_and(|(maker, _)| sunk.contains(&maker));
            if made {
                continue;
            }
            let x = *operand;
            let rows_of_x = match picked.get(&x) {
                Some(&found) => found,
                None => {
                    let (ty, loc) = (of_rows(rw.ty(x))?, rw.loc(id).clone());
                    let op = GatherRows { x, rows: gather.rows };
                    let name = format!("{}_picked", rw.module().func.values[x].name);
                    let op = rw.insert_before(at, op.into(), &[Res::New(&name, ty)], loc);
                    rw.result(op, 0)
                }
            };
            picked.insert(x, rows_of_x);
            *operand = rows_of_x;
        }
        rw.replace_op(at, op);
        for v in rw.results(at).to_vec() {
            let ty = of_rows(rw.ty(v))?;
            rw.retype(v, ty);
        }
    }
    if !sunk.is_empty() {
        rw.replace_value(result, gather.x);
        rw.erase(id);
    }
    Some(())
}

/// The ops of rows that nothing but the gather `id` needs, in order.
fn only_for(rw: &Rewriter<'_>, id: OpId) -> Vec<OpId> {
    let mut found = vec![];
    let order = rw.order();
    for &at in order.iter().take_while(|&&o| o != id).collect::<Vec<_>>().into_iter().rev() {
        let only = |&v: &ValueId| {
            !rw.is_returned(v)
                && rw.ty(v).tensor().is_some()
                && rw.readers(v).iter().all(|r| *r == id || found.contains(r))
        };
        let read = rw.results(at).iter().any(|&v| !rw.readers(v).is_empty());
        if is_of_rows(rw.op(at)) && read && rw.results(at).iter().all(only) {
            found.push(at);
        }
    }
    found.reverse();
    found
}
