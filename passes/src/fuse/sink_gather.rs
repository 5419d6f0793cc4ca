//! `sink-gather`: rows that no logits are wanted for are dropped before the final norm, not after it.
//!
//! ```text
//! gather_rows(rms_norm(x), rows)   =   rms_norm(gather_rows(x, rows))
//! ```
//! Exact: the norm of a row depends on that row only. Non-goals: gathering above the last layer's linears; a norm
//! that anything else reads.

use crate::Pass;
use crate::rewrite::{Res, Rewriter};
use trtc_ir::ops::{GatherRows, RmsNorm};
use trtc_ir::{Op, OpId, Type};

/// The pass.
pub const PASS: Pass = Pass {
    name: "sink-gather",
    summary: "picks the rows that logits are wanted for before the final norm",
    requires: &[],
    ensures: &[],
    run: |module, _| {
        let mut rw = Rewriter::new(module);
        for id in rw.order() {
            if rw.is_live(id) {
                swap(&mut rw, id);
            }
        }
        Ok(rw.finish())
    },
};

fn swap(rw: &mut Rewriter<'_>, id: OpId) -> Option<()> {
    let Op::GatherRows(gather) = rw.op(id).clone() else {
        return None;
    };
    let (norm_id, Op::RmsNorm(norm)) = rw.def(gather.x)? else {
        return None;
    };
    if rw.only_reader(gather.x) != Some(id) {
        return None;
    }
    let norm = norm.clone();
    let result = rw.result(id, 0);
    // The rows of the result, the columns and element type of x.
    let mut ty = rw.ty(norm.x).tensor()?.clone();
    *ty.dims.first_mut()? = *rw.ty(result).tensor()?.dims.first()?;
    let (loc, norm_loc) = (rw.loc(id).clone(), rw.loc(norm_id).clone());
    let picked = GatherRows { x: norm.x, rows: gather.rows };
    let picked = rw.insert_before(id, picked.into(), &[Res::New("picked", Type::Tensor(ty))], loc);
    let op = RmsNorm { x: rw.result(picked, 0), norm: norm.norm };
    rw.insert_before(id, op.into(), &[Res::Take(result)], norm_loc);
    rw.erase(id);
    rw.erase(norm_id);
    Some(())
}
