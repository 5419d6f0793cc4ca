//! `fuse-epilogue`: a linear adds the residual that would be added right after it.
//!
//! ```text
//! (x W^T + b) + r   =   linear(x, W, b, residual r)
//! ```
//! The sum is made in f32 and rounded once, to the type of the sum. If both terms are linears, the later one takes
//! the earlier as its residual. Non-goals: a linear that anything else reads; a second residual; a residual of
//! another type than the sum.

use crate::Pass;
use crate::rewrite::{Res, Rewriter};
use trtc_ir::ops::Linear;
use trtc_ir::{Loc, Op, OpId, ValueId};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-epilogue",
    summary: "makes a linear add the residual that is added right after it",
    requires: &[],
    ensures: &[],
    run: |module, _| {
        let mut rw = Rewriter::new(module);
        for id in rw.order() {
            if rw.is_live(id) {
                fuse(&mut rw, id);
            }
        }
        Ok(rw.finish())
    },
};

fn fuse(rw: &mut Rewriter<'_>, id: OpId) -> Option<()> {
    let Op::Add(add) = rw.op(id) else { return None };
    let (lhs, rhs) = (add.lhs, add.rhs);
    let mut terms = [(lhs, rhs), (rhs, lhs)];
    terms.sort_by_key(|&(linear, _)| std::cmp::Reverse(rw.made_at(linear)));
    let sum = rw.result(id, 0);
    let (linear_id, op) =
        terms.into_iter().find_map(|(term, other)| with_residual(rw, id, sum, term, other))?;
    let loc = Loc::fuse([rw.loc(linear_id), rw.loc(id)]);
    // At the add's place everything that the linear reads is made.
    rw.insert_before(id, op.into(), &[Res::Take(sum)], loc);
    rw.erase(id);
    rw.erase(linear_id);
    Some(())
}

/// The linear that makes `term`, with `other` as its residual.
fn with_residual(
    rw: &Rewriter<'_>,
    add: OpId,
    sum: ValueId,
    term: ValueId,
    other: ValueId,
) -> Option<(OpId, Linear)> {
    let (id, Op::Linear(linear)) = rw.def(term)? else {
        return None;
    };
    let same_shape = rw.ty(term).tensor()?.dims == rw.ty(sum).tensor()?.dims;
    if linear.residual.is_some()
        || rw.only_reader(term) != Some(add)
        || !same_shape
        || rw.ty(other) != rw.ty(sum)
    {
        return None;
    }
    Some((id, Linear { residual: Some(other), ..linear.clone() }))
}
