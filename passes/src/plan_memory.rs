//! `plan-memory`: one arena for all activations, a fixed offset for each value, at the greatest `T` and `L`.
//!
//! Ops run one after another in the module's order, so a value is live from the op that makes it to the last op
//! that reads it, both included: a result never overlaps an operand. What the function returns is live to the end. Where
//! one kernel computes two ops, what the first reads is live up to the second; what is between them keeps its place, for
//! there are steps in which it is made.
//! Values are placed by falling size, each into the tightest gap between the values it is live together with.
//! Parameters, caches and the batch are the runtime's and get no offset, but for `%previous`: it is where the step before
//! left the tokens that it returned, so that they stay in one place from step to step. Not here: overlap of concurrent
//! launches.

use crate::{Changed, Pass, PassCx, Property};
use std::collections::HashMap;
use trtc_ir::{Bytes, Diag, Dim, Loc, Module, Op, TensorType, Type, ValueId, view};

/// The pass.
pub const PASS: Pass = Pass {
    name: "plan-memory",
    summary: "gives every activation a fixed offset in one arena",
    requires: &[Property::KvLaidOut],
    ensures: &[Property::Planned],
    run,
};

/// Alignment of every offset, bytes.
pub const ALIGN: u64 = Bytes::ALIGN;

/// A value that needs a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval {
    /// Position in the order of the op that makes it.
    pub from: usize,
    /// Position of the last op that reads it.
    pub to: usize,
    /// Bytes, a multiple of [`ALIGN`].
    pub bytes: u64,
}

impl Interval {
    /// True if there is an op during which both are live.
    pub fn meets(&self, other: &Interval) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

fn run(module: &mut Module, cx: &PassCx<'_>) -> Result<Changed, Diag> {
    if let Some(limits) = &cx.limits {
        for (sym, _, max) in limits.dims() {
            let bound = module.max_dim(sym);
            if bound.is_some_and(|b| b != max) {
                return Err(Diag::bug(
                    &Loc::name(&module.name),
                    format!("the module bounds {sym} by {}, the limits by {max}", bound.unwrap_or(0)),
                ));
            }
        }
    }
    let mut live = liveness(module)?;
    let carried = carried(module);
    if let Some((_, returned)) = carried {
        live.iter_mut().filter(|(v, _)| *v == returned).for_each(|(_, i)| i.from = 0);
    }
    let intervals: Vec<Interval> = live.iter().map(|&(_, i)| i).collect();
    let (offsets, arena) = place(&intervals).ok_or_else(|| {
        Diag::user(&Loc::name(&module.name), "the activations exceed the address space")
            .help("lower --max-step-tokens")
    })?;

    let mut changed = module.arena != Some(arena);
    module.arena = Some(arena);
    let mut planned: HashMap<ValueId, u64> = live.iter().map(|&(v, _)| v).zip(offsets).collect();
    if let Some((last, returned)) = carried
        && let Some(&at) = planned.get(&returned)
    {
        planned.insert(last, at);
    }
    for id in module.func.values.ids() {
        let offset = planned.get(&id).copied();
        changed |= module.func.values[id].offset != offset;
        module.func.values[id].offset = offset;
    }
    Ok(changed.into())
}

/// `%previous` and the tokens that it holds in the next step.
fn carried(module: &Module) -> Option<(ValueId, ValueId)> {
    let func = &module.func;
    let last = func.params.iter().copied().find(|&p| func.values[p].name == crate::sample::LAST)?;
    let tokens = |v: ValueId| func.def_op(v).is_some_and(|o| matches!(func.ops[o].op, Op::Sample(_)));
    Some((last, func.results.iter().copied().find(|&v| tokens(v))?))
}

/// The tensors that ops make, in order, with what [`place`] needs of them.
pub fn liveness(module: &Module) -> Result<Vec<(ValueId, Interval)>, Diag> {
    let func = &module.func;
    let mut live = Vec::new();
    for i in view::liveness(func) {
        let Some(maker) = func.def_op(i.value) else {
            continue;
        };
        if let Type::Tensor(ty) = &func.values[i.value].ty {
            let bytes = greatest_bytes(module, ty).map_err(|what| {
                Diag::user(
                    &func.ops[maker].loc,
                    format!("%{} has no size: {what}", func.values[i.value].name),
                )
            })?;
            live.push((i.value, Interval { from: i.from, to: i.to, bytes }));
        }
    }
    Ok(live)
}

/// Bytes of a tensor at the greatest symbolic dimensions, scales included, rounded up to [`ALIGN`].
fn greatest_bytes(module: &Module, ty: &TensorType) -> Result<u64, String> {
    for dim in &ty.dims {
        if let Dim::Sym(sym) = *dim
            && module.max_dim(sym).is_none()
        {
            return Err(format!("{sym} is not bounded in the module's header"));
        }
    }
    let bytes = ty.bytes(|sym| module.max_dim(sym)).and_then(|b| b.total());
    bytes.and_then(|b| b.checked_next_multiple_of(ALIGN)).ok_or_else(|| format!("{ty} exceeds 64 bits"))
}

/// Offsets such that no two intervals that meet overlap, and the bytes of the arena; `None` if that exceeds 64
/// bits. Greedy by falling size; each goes into the tightest gap that holds it, or after the last.
pub fn place(intervals: &[Interval]) -> Option<(Vec<u64>, u64)> {
    let mut by_size: Vec<usize> = (0..intervals.len()).collect();
    by_size.sort_by_key(|&i| (std::cmp::Reverse(intervals[i].bytes), intervals[i].from, i));
    let mut offsets = vec![0u64; intervals.len()];
    let mut placed: Vec<usize> = Vec::new(); // by offset
    let mut arena = 0u64;
    for i in by_size {
        let mine = &intervals[i];
        let mut best: Option<(u64, u64)> = None; // (size of the gap, its offset)
        let mut free = 0u64;
        for &p in placed.iter().filter(|&&p| intervals[p].meets(mine)) {
            let gap = offsets[p].saturating_sub(free);
            if gap >= mine.bytes && best.is_none_or(|(size, _)| gap < size) {
                best = Some((gap, free));
            }
            free = free.max(offsets[p] + intervals[p].bytes);
        }
        let offset = best.map_or(free, |(_, offset)| offset);
        offsets[i] = offset;
        arena = arena.max(offset.checked_add(mine.bytes)?);
        let at = placed.partition_point(|&p| offsets[p] <= offset);
        placed.insert(at, i);
    }
    Some((offsets, arena))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn interval(from: usize, to: usize, units: u64) -> Interval {
        Interval { from, to, bytes: units * ALIGN }
    }

    #[test]
    fn gaps_are_reused_and_the_tightest_is_taken() {
        // Two values that die leave gaps of 8 and 6 below ones that live on; the last fits both.
        let all =
            [interval(0, 1, 8), interval(0, 9, 7), interval(0, 1, 6), interval(0, 9, 5), interval(2, 3, 4)];
        let (offsets, arena) = place(&all).expect("fits");
        assert_eq!(offsets.iter().map(|o| o / ALIGN).collect::<Vec<_>>(), [0, 8, 15, 21, 15]);
        assert_eq!(arena, 26 * ALIGN);
        assert_eq!(place(&[]), Some((vec![], 0)));
        let huge = Interval { from: 0, to: 0, bytes: u64::MAX - 255 };
        assert_eq!(place(&[huge, huge]), None);
    }

    proptest! {
        #[test]
        fn values_live_together_never_overlap(
            raw in proptest::collection::vec((0usize..40, 0usize..12, 0u64..20), 0..60)
        ) {
            let all: Vec<Interval> = raw.iter().map(|&(from, len, units)| interval(from, from + len, units)).collect();
            let (offsets, arena) = place(&all).expect("fits");
            for (i, a) in all.iter().enumerate() {
                prop_assert_eq!(offsets[i] % ALIGN, 0);
                prop_assert!(offsets[i] + a.bytes <= arena);
                for (j, b) in all.iter().enumerate().skip(i + 1) {
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    prop_assert!(!a.meets(b) || apart || a.bytes == 0 || b.bytes == 0, "{i} and {j}: {offsets:?}");
                }
            }
            // Never worse than no sharing at all, never better than what is live at once.
            prop_assert!(arena <= all.iter().map(|a| a.bytes).sum());
            let at_once = |t: usize| all.iter().filter(|a| a.from <= t && t <= a.to).map(|a| a.bytes).sum::<u64>();
            prop_assert!(arena >= (0..60).map(at_once).max().unwrap_or(0));
        }
    }
}
