//! Every step computes each op once: the ranges of all choices of all launches of an op, without gaps and overlaps.

use super::{bad, within};
use crate::error::EngineError;
use crate::manifest::{Choice, Manifest, Steps};
use std::collections::BTreeMap;

impl Manifest {
    /// Refuses launches that leave an op out of some steps, or compute it twice.
    pub(super) fn check_ops(&self) -> Result<(), EngineError> {
        // Launches of each op.
        let mut all: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, launch) in self.launches.iter().enumerate() {
            let wrong = |at: &str, found: &str| within(i, launch, bad(at, found));
            if launch.ops.is_empty() {
                return Err(wrong(", ops", "there are none"));
            }
            if launch.choices.is_empty() {
                return Err(wrong(", choices", "there are none"));
            }
            if launch.choices.iter().any(|c| c.steps == Steps::Single) {
                if !launch.choices.iter().any(|c| c.steps == Steps::Prefill) {
                    return Err(wrong(", choices", "one for single tokens, but none for prefill steps"));
                }
                self.check_ranges(&[i], Steps::Single)?;
            }
            launch.ops.iter().for_each(|&op| all.entry(op).or_default().push(i));
        }
        for (op, (&found, launches)) in (0..).zip(&all) {
            if op != found {
                return Err(bad("launches", format!("none computes op {op}, but one op {found}")));
            }
            Steps::KINDS.into_iter().try_for_each(|kind| self.check_ranges(launches, kind))?;
        }
        Ok(())
    }

    /// The choices for one kind of steps among the launches of an op.
    fn check_ranges(&self, launches: &[usize], kind: Steps) -> Result<(), EngineError> {
        let most = self.dims.max_step_tokens;
        let choices = launches.iter().flat_map(|&i| self.launches[i].choices.iter().map(move |c| (i, c)));
        let mut ranges: Vec<(usize, &Choice)> = choices.filter(|(_, c)| c.steps.serve(kind)).collect();
        ranges.sort_by_key(|(_, c)| c.from);
        let wrong = |i: usize, found| Err(within(i, &self.launches[i], bad(", choices", found)));
        let mut next = Some(1);
        for &(i, choice) in &ranges {
            if next != Some(choice.from) || choice.to < choice.from || choice.to > most {
                let found =
                    format!("the range {}..={} does not follow the one before", choice.from, choice.to);
                return wrong(i, found);
            }
            next = choice.to.checked_add(1);
        }
        if next == most.checked_add(1) {
            return Ok(());
        }
        let last = ranges.last().map_or(launches[0], |&(i, _)| i);
        wrong(last, format!("they do not cover 1..={most}{}", kind.suffix()))
    }
}
