//! `canonicalize`: fold, common subexpressions, dead code and weights, until nothing changes.
//!
//! Every rewrite here is exact, bit for bit. Not here: anything that depends on the target or the precision.

mod cse;
mod dce;
mod fold;

use crate::rewrite::tidy_weights;
use crate::{Changed, Pass, Property};
use trtc_ir::Module;

/// The pass.
pub const PASS: Pass = Pass {
    name: "canonicalize",
    summary: "folds slices, merges equal ops, drops dead ops and unused weights",
    requires: &[],
    ensures: &[Property::Canonical],
    run: |module, _| Ok(simplify(module)),
};

/// The canonical form of a module. Terminates: each round that changes something takes ops away, shortens a chain
/// of slices, or is the last.
pub fn simplify(module: &mut Module) -> Changed {
    let mut changed = tidy_weights(module);
    while (fold::fold(module) | cse::merge_equal(module) | dce::drop_dead(module)).yes() {
        changed = Changed::Yes;
    }
    changed
}
