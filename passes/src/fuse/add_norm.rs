//! `fuse-add-norm`: a sum and the norm of it become one op.
//!
//! ```text
//! h = x + r,  n = rms_norm(h)   =   h, n = add_rms_norm(x, r)
//! ```
//! `h` is rounded to its type before the norm reads it, as without fusion, so this is exact. Of several norms of
//! one sum the first is fused. Non-goals: norms per head (of a tensor with more than two dimensions).

use crate::Pass;
use crate::rewrite::{Res, Rewriter};
use trtc_ir::ops::AddRmsNorm;
use trtc_ir::{Loc, Op, OpId};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-add-norm",
    summary: "fuses a residual sum with the norm of it",
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
    let sum = rw.result(id, 0);
    // The residual is the older term: the stream that the layer's output is added to.
    let (x, residual) =
        if rw.made_at(add.lhs) < rw.made_at(add.rhs) { (add.rhs, add.lhs) } else { (add.lhs, add.rhs) };
    let norms = rw.readers(sum).iter().copied().filter(|&o| matches!(rw.op(o), Op::RmsNorm(_)));
    let norm_id = norms.min_by_key(|&o| rw.position(o))?;
    let Op::RmsNorm(norm) = rw.op(norm_id) else {
        return None;
    };
    if rw.inner(sum)?.len() != 1 {
        return None;
    }
    let op = AddRmsNorm { x, residual, norm: norm.norm };
    let loc = Loc::fuse([rw.loc(id), rw.loc(norm_id)]);
    let normed = rw.result(norm_id, 0);
    rw.insert_before(id, op.into(), &[Res::Take(sum), Res::Take(normed)], loc);
    rw.erase(id);
    rw.erase(norm_id);
    Some(())
}
