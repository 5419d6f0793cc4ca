//! `fuse-quantize`: the op that makes a value stores it quantised, where nothing else reads it.
//!
//! ```text
//! quantize(rms_norm(x))                    =   rms_norm(x), in the quantised type
//! h, quantize(n)  of  h, n = add_rms_norm  =   add_rms_norm, with n in the quantised type
//! quantize(gated_act(g, u))                =   gated_act(g, u), in the quantised type
//! ```
//! The row is quantised as it was computed, in f32, without rounding to another type between, so the result is the more
//! exact one. Non-goals: ops whose kernels have no whole row at hand; norms per head, whose rows are not a token's.

use crate::Pass;
use crate::rewrite::{Res, Rewriter};
use trtc_ir::{Loc, Op, OpId};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-quantize",
    summary: "stores a value quantised where it is made",
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

/// The result of an op that can have a quantised type, by its index.
fn storable(op: &Op) -> Option<usize> {
    match op {
        Op::RmsNorm(_) | Op::GatedAct(_) | Op::GatedActPacked(_) => Some(0),
        Op::AddRmsNorm(_) => Some(1),
        _ => None,
    }
}

fn fuse(rw: &mut Rewriter<'_>, id: OpId) -> Option<()> {
    let Op::Quantize(quantize) = rw.op(id) else { return None };
    let x = quantize.x;
    let (maker, op) = rw.def(x)?;
    let op = op.clone();
    let index = storable(&op)?;
    let quantised = rw.result(id, 0);
    let same_shape = rw.ty(x).tensor()?.dims == rw.ty(quantised).tensor()?.dims;
    if rw.result(maker, index) != x || rw.only_reader(x) != Some(id) || !same_shape {
        return None;
    }
    let results: Vec<Res<'_>> = (0..rw.module().func.ops[maker].results.len())
        .map(|i| Res::Take(if i == index { quantised } else { rw.result(maker, i) }))
        .collect();
    let loc = Loc::fuse([rw.loc(maker), rw.loc(id)]);
    // At the maker's place: its other results may have readers before the quantised one has.
    rw.insert_before(maker, op, &results, loc);
    rw.erase(id);
    rw.erase(maker);
    Some(())
}
