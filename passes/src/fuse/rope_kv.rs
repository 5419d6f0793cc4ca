//! `fuse-rope-kv`: what happens between a merged q/k/v and attention becomes one op.
//!
//! ```text
//! q, k, v = slices of qkv
//! q' = rope(norm_q(q), pos),  kv' = append(kv, rope(norm_k(k), pos), v)
//!   =   q', kv' = rope_kv_append(qkv, pos, kv)
//! ```
//! The norms are per head, each may be missing. The fused op keeps f32 between them. Non-goals: layers that do not
//! rotate; q and k rotated by different tables; norms over all heads at once; a rotated key that anything but the
//! cache reads.

use crate::Pass;
use crate::rewrite::{Res, Rewriter};
use trtc_ir::ops::{RmsNormWeight, Rope, RopeKvAppend};
use trtc_ir::{Loc, Op, OpId, ValueId};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-rope-kv",
    summary: "fuses the split of q/k/v, per-head norms, rotary embedding and the cache's append",
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

/// A rotated run of columns of `x`: the ops on the way, the last first.
struct Rotated {
    rope: Rope,
    norm: Option<RmsNormWeight>,
    x: ValueId,
    start: u64,
    ops: Vec<OpId>,
}

fn fuse(rw: &mut Rewriter<'_>, id: OpId) -> Option<()> {
    let Op::Attention(attention) = rw.op(id).clone() else {
        return None;
    };
    let (append_id, Op::KvAppend(append)) = rw.def(attention.kv)? else {
        return None;
    };
    let append = append.clone();
    let q = rotated(rw, attention.q, id)?;
    let k = rotated(rw, append.k, append_id)?;
    let (v_id, Op::Slice(v)) = rw.def(append.v)? else {
        return None;
    };

    // `(T, heads, head_dim)` and `(T, kv_heads, head_dim)`.
    let &[heads, dim] = rw.inner(attention.q)?.as_slice() else {
        return None;
    };
    let &[kv_heads, kv_dim] = rw.inner(append.k)?.as_slice() else {
        return None;
    };
    let packed = q.start == 0
        && k.start == heads * dim
        && v.start == (heads + kv_heads) * dim
        && kv_dim == dim
        && rw.inner(append.v)? == [kv_heads, dim]
        && rw.inner(v.x)? == [(heads + 2 * kv_heads) * dim];
    let alike = q.x == v.x && k.x == v.x && q.rope.pos == k.rope.pos && q.rope.freqs == k.rope.freqs;
    if !packed || !alike {
        return None;
    }

    let op = RopeKvAppend {
        qkv: v.x,
        pos: q.rope.pos,
        kv: append.kv,
        batch: append.batch,
        heads: u32::try_from(heads).ok()?,
        freqs: q.rope.freqs,
        q_norm: q.norm,
        k_norm: k.norm,
    };
    // Readers before what they read; the append and the rope of q come first.
    let old: Vec<OpId> = [append_id].into_iter().chain(q.ops).chain(k.ops).chain([v_id]).collect();
    let mut in_order = old.clone();
    in_order.sort_by_key(|&o| rw.position(o));
    let loc = Loc::fuse(in_order.iter().map(|&o| rw.loc(o)));
    // Every operand is made before the append: qkv before the slice of v, the others are the append's and k's own.
    let results = [Res::Take(attention.q), Res::Take(attention.kv)];
    rw.insert_before(append_id, op.into(), &results, loc);
    // The makers of the two taken values go; what they read goes too unless something else reads it.
    rw.erase(old[0]);
    rw.erase(old[1]);
    rw.erase_unread(&old[2..]);
    Some(())
}

/// Follows a value with a single reader back through rotary embedding and a per-head norm to a slice.
fn rotated(rw: &Rewriter<'_>, value: ValueId, reader: OpId) -> Option<Rotated> {
    let (rope_id, Op::Rope(rope)) = rw.def(value)? else {
        return None;
    };
    if rw.only_reader(value) != Some(reader) {
        return None;
    }
    let mut ops = vec![rope_id];
    let mut x = rope.x;
    let mut norm = None;
    if let (norm_id, Op::RmsNorm(n)) = rw.def(x)? {
        ops.push(norm_id);
        norm = Some(n.norm);
        x = n.x;
    }
    let (slice_id, Op::Slice(slice)) = rw.def(x)? else {
        return None;
    };
    // A norm of another shape is not per head.
    if rw.inner(x) != rw.inner(value) {
        return None;
    }
    ops.push(slice_id);
    Some(Rotated { rope: rope.clone(), norm, x: slice.x, start: slice.start, ops })
}
