//! `fuse-gated-act`: a gated activation of the two halves of one tensor reads that tensor.
//!
//! ```text
//! act(x[:, :w]) * x[:, w:]   =   gated_act_packed(x),  x of width 2 w
//! ```
//! Exact. Non-goals: halves in the other order; halves of a tensor that is wider than both.

use crate::Pass;
use crate::rewrite::{Res, Rewriter};
use trtc_ir::ops::GatedActPacked;
use trtc_ir::{Loc, Op, OpId};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-gated-act",
    summary: "makes a gated activation read the merged gate and up without slices",
    requires: &[],
    ensures: &[],
    run: |module, _| {
        let mut rw = Rewriter::new(module);
        for id in rw.order() {
            if rw.is_live(id) {
                pack(&mut rw, id);
            }
        }
        Ok(rw.finish())
    },
};

fn pack(rw: &mut Rewriter<'_>, id: OpId) -> Option<()> {
    let Op::GatedAct(act) = rw.op(id).clone() else {
        return None;
    };
    let (gate_id, Op::Slice(gate)) = rw.def(act.gate)? else {
        return None;
    };
    let (up_id, Op::Slice(up)) = rw.def(act.up)? else {
        return None;
    };
    let result = rw.result(id, 0);
    let &[width] = rw.inner(result)?.as_slice() else {
        return None;
    };
    let halves = gate.x == up.x && gate.start == 0 && up.start == width;
    if !halves || rw.inner(gate.x)? != [2 * width] {
        return None;
    }
    let op = GatedActPacked { x: gate.x, act: act.act };
    let loc = Loc::fuse([rw.loc(gate_id), rw.loc(up_id), rw.loc(id)]);
    rw.insert_before(id, op.into(), &[Res::Take(result)], loc);
    rw.erase(id);
    rw.erase_unread(&[gate_id, up_id]);
    Some(())
}
