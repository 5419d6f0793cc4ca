//! `fuse-gated-linear`: a linear makes the gated activation of its two halves, on targets whose products can.
//!
//! ```text
//! gated_act_packed(x W^T + b)   =   gated_linear(x, W, b)
//! ```
//! In f32, rounded once. Non-goals: a linear that anything else reads, or that adds a residual; weights whose kernels
//! have no such end.

use crate::Pass;
use crate::rewrite::{Res, Rewriter};
use trtc_ir::ops::GatedLinear;
use trtc_ir::target::MatrixUnit;
use trtc_ir::{DType, Elem, Loc, Op, OpId, Scheme, Target};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-gated-linear",
    summary: "makes a linear end in the gated activation of its two halves, where the target's products can",
    requires: &[],
    ensures: &[],
    run: |module, cx| {
        let mut rw = Rewriter::new(module);
        for id in rw.order() {
            if serves(cx.target) && rw.is_live(id) {
                fuse(&mut rw, id);
            }
        }
        Ok(rw.finish())
    },
};

/// True if products have both halves of a row at hand when they end.
fn serves(target: &Target) -> bool {
    target.gpu.as_ref().is_some_and(|gpu| gpu.matrix.contains(&MatrixUnit::Wgmma))
}

fn fuse(rw: &mut Rewriter<'_>, id: OpId) -> Option<()> {
    let Op::GatedActPacked(act) = rw.op(id).clone() else {
        return None;
    };
    let (linear_id, Op::Linear(linear)) = rw.def(act.x)? else {
        return None;
    };
    let linear = linear.clone();
    let stored = rw.weight(linear.weight).ty.elem;
    let plain = [Elem::Plain(DType::Bf16), Elem::Quant(Scheme::FP8)].contains(&stored);
    let result = rw.result(id, 0);
    if linear.residual.is_some()
        || rw.only_reader(act.x) != Some(id)
        || !plain
        || rw.ty(result).tensor()?.elem.plain().is_none()
    {
        return None;
    }
    let op = GatedLinear { x: linear.x, weight: linear.weight, bias: linear.bias, act: act.act };
    let loc = Loc::fuse([rw.loc(linear_id), rw.loc(id)]);
    rw.insert_before(id, op.into(), &[Res::Take(result)], loc);
    rw.erase(id);
    rw.erase(linear_id);
    Some(())
}
