//! `fuse-qkv`: the query, key and value projections of a layer become one.
//!
//! ```text
//! q = x Wq^T + bq, k = x Wk^T + bk, v = x Wv^T + bv
//!   =   slices of  x [Wq; Wk; Wv]^T + [bq; bk; bv]
//! ```
//! A layer is found from its attention: the cache it reads was appended k and v; q, k and v are followed back
//! through rotary embedding and per-head norms to their linears. Non-goals: layers without all three (a cache
//! shared with another layer, latent attention), and what `merge` lists.

use super::merge::merge_linears;
use crate::Pass;
use crate::rewrite::Rewriter;
use trtc_ir::{Op, OpId, ValueId};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-qkv",
    summary: "merges the query, key and value projections of a layer into one linear",
    requires: &[],
    ensures: &[],
    run: |module, _| {
        let mut rw = Rewriter::new(module);
        for id in rw.order() {
            if rw.is_live(id)
                && let Some(parts) = projections(&rw, id)
            {
                merge_linears(&mut rw, &parts, "qkv");
            }
        }
        Ok(rw.finish())
    },
};

/// The linears of q, k and v, if `id` is an attention that has all three.
fn projections(rw: &Rewriter<'_>, id: OpId) -> Option<[OpId; 3]> {
    let Op::Attention(attention) = rw.op(id) else {
        return None;
    };
    let (_, Op::KvAppend(append)) = rw.def(attention.kv)? else {
        return None;
    };
    Some([projection(rw, attention.q)?, projection(rw, append.k)?, projection(rw, append.v)?])
}

/// Follows a value back to the linear that it is a per-head function of.
fn projection(rw: &Rewriter<'_>, mut value: ValueId) -> Option<OpId> {
    loop {
        match rw.def(value)? {
            (_, Op::Rope(rope)) => value = rope.x,
            (_, Op::RmsNorm(norm)) => value = norm.x,
            (id, Op::Linear(_)) => return Some(id),
            _ => return None,
        }
    }
}
