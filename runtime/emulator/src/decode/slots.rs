//! Places of registers: two whose values are never wanted at the same time share one (linear scan).

use super::flow::Flow;
use super::rows_of;
use crate::ptx::{Class, Kernel};
use crate::warp::Slot;
use std::collections::BTreeSet;

/// Places.
pub struct Places {
    /// Of each register.
    pub slots: Vec<Slot>,
    /// Rows that there are.
    pub rows: usize,
    /// Predicates that there are.
    pub preds: usize,
}

/// Gives every register a place. A value's place is free again after the last instruction that wants it.
pub fn give(kernel: &Kernel, flow: &Flow) -> Places {
    let used = flow.intervals.iter().enumerate().filter_map(|(r, i)| i.map(|(from, to)| (from, to, r)));
    let mut order: Vec<(usize, usize, usize)> = used.collect();
    order.sort_unstable();
    let mut slots = vec![Slot(0); kernel.registers.len()];
    // Free places by rows that they have: 0 stands for predicates.
    let mut free: [BTreeSet<u32>; 5] = Default::default();
    let mut active: BTreeSet<(usize, usize)> = BTreeSet::new();
    let (mut rows, mut preds) = (0u32, 0u32);
    for (from, to, r) in order {
        while let Some(&(end, old)) = active.first().filter(|(end, _)| *end < from) {
            active.remove(&(end, old));
            let size = rows_of(kernel.registers[old].class);
            free[size as usize].insert(slots[old].0);
        }
        let class = kernel.registers[r].class;
        let size = rows_of(class);
        let place = free[size as usize].pop_first().unwrap_or_else(|| {
            let end = if class == Class::Pred { &mut preds } else { &mut rows };
            *end += size.max(1);
            *end - size.max(1)
        });
        slots[r] = Slot(place);
        active.insert((to, r));
    }
    // Registers that are nowhere used still have a place, and one that is read as a wider one lies behind the last.
    Places { slots, rows: rows as usize + 8, preds: preds.max(1) as usize }
}
