//! Folding: ops that are another, simpler op.
//!
//! ```text
//! slice(x, 0) : type of x             = x
//! slice(slice(x, a), b)               = slice(x, a + b)
//! ```
//! Not folded: a slice of all columns that splits them into other dimensions; it is how the IR reshapes.

use crate::Changed;
use crate::rewrite::Rewriter;
use trtc_ir::Module;
use trtc_ir::Op;
use trtc_ir::ops::Slice;

/// Folds every slice; one sweep is enough, as operands come before their readers.
pub fn fold(module: &mut Module) -> Changed {
    let mut rw = Rewriter::new(module);
    for id in rw.order() {
        let Op::Slice(outer) = rw.op(id).clone() else {
            continue;
        };
        let result = rw.result(id, 0);
        if outer.start == 0 && rw.ty(outer.x) == rw.ty(result) {
            rw.replace_value(result, outer.x);
            rw.erase(id);
        } else if let Some((_, Op::Slice(inner))) = rw.def(outer.x) {
            let op = Slice { x: inner.x, start: inner.start + outer.start };
            rw.replace_op(id, op.into());
        }
    }
    rw.finish()
}
