//! `fuse-gate-up`: the two projections that feed a gated activation become one.
//!
//! ```text
//! act(x G^T) * (x U^T)   =   act(y[:, :w]) * y[:, w:],  y = x [G; U]^T
//! ```
//! Leaves a `gated_act` of two slices, which `fuse-gated-act` packs. Non-goals: projections that anything but the
//! activation reads, and what `merge` lists.

use super::merge::merge_linears;
use crate::Pass;
use crate::rewrite::Rewriter;
use trtc_ir::{Op, OpId};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-gate-up",
    summary: "merges the gate and up projections of a feed-forward layer into one linear",
    requires: &[],
    ensures: &[],
    run: |module, _| {
        let mut rw = Rewriter::new(module);
        for id in rw.order() {
            if let Some(parts) = projections(&rw, id) {
                merge_linears(&mut rw, &parts, "gate_up");
            }
        }
        Ok(rw.finish())
    },
};

/// The linears of gate and up, if `id` is a gated activation and their only reader.
fn projections(rw: &Rewriter<'_>, id: OpId) -> Option<[OpId; 2]> {
    if !rw.is_live(id) {
        return None;
    }
    let Op::GatedAct(act) = rw.op(id) else { return None };
    let linear = |v| match rw.def(v)? {
        (l, Op::Linear(_)) if rw.only_reader(v) == Some(id) => Some(l),
        _ => None,
    };
    Some([linear(act.gate)?, linear(act.up)?])
}
