//! Dead code: ops whose results nobody reads.
//!
//! An op that stores into a cache stays: the cache outlives the step, and later steps read it.

use crate::Changed;
use crate::rewrite::Rewriter;
use trtc_ir::{Module, Op};

/// Drops dead ops; one sweep from the end, as readers come after what they read.
pub fn drop_dead(module: &mut Module) -> Changed {
    let mut rw = Rewriter::new(module);
    for id in rw.order().into_iter().rev() {
        if rw.is_unread(id) && !stores(rw.op(id)) {
            rw.erase(id);
        }
    }
    rw.finish()
}

/// True if the op writes to what outlives the step.
fn stores(op: &Op) -> bool {
    matches!(op, Op::KvAppend(_) | Op::RopeKvAppend(_))
}
