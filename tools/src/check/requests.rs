//! Requests of a check's step: how many tokens each has and had before, and the pages that these are on.

use super::memory::Memory;
use crate::render::Failure;
use std::rc::Rc;
use trtc_engine::manifest::{Manifest, Steps};
use trtc_ir::interp::{Batch, Segment};
use trtc_ir::random::Random;

/// Tokens that an append before an attention stores at once, if the engine's steps hold as many.
const APPEND: usize = 256;

/// A request's tokens in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Which request.
    seq: usize,
    /// Tokens before.
    past: usize,
    /// Tokens of the step.
    new: usize,
}

/// Requests of a step, and the pages of each by its number.
pub struct Requests {
    runs: Vec<Run>,
    pages: Rc<Vec<Vec<i32>>>,
}

/// Pages that the requests of a step of `tokens` tokens of either kind can need.
pub fn pages_for(tokens: usize, m: &Manifest) -> u64 {
    let page_tokens = m.kv.page_tokens.max(1) as usize;
    let pages = |steps: Steps| {
        let all = runs(steps, tokens, page_tokens, m.dims.max_seq_len as usize);
        all.iter().map(|r| (r.past + r.new).div_ceil(page_tokens) as u64).sum::<u64>()
    };
    pages(Steps::Decode).max(pages(Steps::Prefill))
}

/// Tokens of the largest step of a check of `tokens` tokens, appends included.
pub fn most_tokens(tokens: usize, m: &Manifest) -> usize {
    tokens.max(APPEND.min(m.dims.max_step_tokens as usize))
}

/// The requests of a step. Of a decode step one token each: one has a long context, others begin or end at the bounds
/// of pages or in the middle, and if there are many the contexts of the rest are short. Of any other step one long run, or as many as
/// the longest request demands, and from three tokens on a request with one token before and one behind. None is above `longest` tokens.
fn runs(steps: Steps, tokens: usize, page: usize, longest: usize) -> Vec<Run> {
    let all: Vec<(usize, usize)> = match (steps, tokens) {
        (_, 0) => vec![],
        (Steps::Decode | Steps::Single, _) => {
            let first = [33 * page, 0, 3 * page - 1, 2 * page + 3, 1, page / 2, 9 * page, page - 1];
            let rest = [1, 0, page / 2].into_iter().cycle();
            first.into_iter().chain(rest).take(tokens).map(|past| (past, 1)).collect()
        }
        (_, 1 | 2) => vec![(2 * page + 3, tokens)],
        _ => {
            let longest = longest.max(1);
            let long =
                (0..tokens - 2).step_by(longest).map(|at| (2 * page + 3, longest.min(tokens - 2 - at)));
            [(3 * page - 1, 1)].into_iter().chain(long).chain([(0, 1)]).collect()
        }
    };
    let run = |(seq, (past, new)): (usize, (usize, usize))| Run {
        seq,
        past: past.min(longest.saturating_sub(new)),
        new,
    };
    all.into_iter().enumerate().map(run).collect()
}

impl Requests {
    /// Those of a step of `tokens` tokens of a kind, as [`runs`] makes them up.
    pub fn new(memory: &Memory<'_>, steps: Steps, tokens: usize, random: &mut Random) -> Requests {
        let m = memory.manifest();
        let page_tokens = m.kv.page_tokens.max(1) as usize;
        let runs = runs(steps, tokens, page_tokens, m.dims.max_seq_len as usize);
        Requests::on_pages(runs, page_tokens, random)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.runs.len() as u32
    }

    /// The pages of each.
    pub fn tables(&self) -> &[Vec<i32>] {
        &self.pages
    }

    /// Positions of the longest context.
    pub fn longest(&self) -> usize {
        self.runs.iter().map(|run| run.past + run.new).max().unwrap_or(0)
    }

    /// How many requests at the beginning have one token.
    pub fn single(&self) -> u32 {
        self.runs.iter().take_while(|run| run.new == 1).count() as u32
    }

    /// The steps of at most `most` tokens that bring the same requests to where this one leaves them.
    pub fn steps_so_far(&self, most: usize) -> Vec<Requests> {
        self.steps_to(|run| run.past + run.new, most)
    }

    /// The steps that bring them to where this one finds them; the last of these decodes.
    pub fn steps_before(&self, most: usize) -> Vec<Requests> {
        let mut steps = self.steps_to(|run| run.past.saturating_sub(1), most);
        let last = |run: &Run| Some(Run { past: run.past.checked_sub(1)?, new: 1, ..*run });
        let runs: Vec<Run> = self.runs.iter().filter_map(last).collect();
        if !runs.is_empty() {
            steps.push(Requests { runs, pages: Rc::clone(&self.pages) });
        }
        steps
    }

    /// The steps of at most `most` tokens that bring each request to `end` tokens.
    fn steps_to(&self, end: impl Fn(&Run) -> usize, most: usize) -> Vec<Requests> {
        let mut steps: Vec<Vec<Run>> = vec![];
        let mut room = 0;
        for run in &self.runs {
            let (mut past, end) = (0, end(run));
            while past < end {
                if room == 0 {
                    steps.push(vec![]);
                    room = most.max(1);
                }
                let new = room.min(end - past);
                if let Some(step) = steps.last_mut() {
                    step.push(Run { past, new, ..*run });
                }
                (past, room) = (past + new, room - new);
            }
        }
        steps.into_iter().map(|runs| Requests { runs, pages: Rc::clone(&self.pages) }).collect()
    }

    /// Requests of `(tokens before, tokens of the step)` on pages in random order, counted from 0.
    pub fn of(sizes: Vec<(usize, usize)>, page_tokens: usize, random: &mut Random) -> Requests {
        let runs: Vec<Run> =
            sizes.into_iter().enumerate().map(|(seq, (past, new))| Run { seq, past, new }).collect();
        Requests::on_pages(runs, page_tokens, random)
    }

    fn on_pages(runs: Vec<Run>, page_tokens: usize, random: &mut Random) -> Requests {
        let need = |r: &Run| (r.past + r.new).div_ceil(page_tokens);
        let mut free: Vec<i32> = (0..runs.iter().map(need).sum::<usize>() as i32).collect();
        let take =
            |r| (0..need(r)).map(|_| free.swap_remove(random.below(free.len() as u64) as usize)).collect();
        let pages = runs.iter().map(take).collect();
        Requests { runs, pages: Rc::new(pages) }
    }

    /// `(tokens before, tokens of the step)` of each run.
    pub fn sizes(&self) -> Vec<(usize, usize)> {
        self.runs.iter().map(|r| (r.past, r.new)).collect()
    }

    /// Pages that they hold together.
    pub fn pages(&self) -> u64 {
        self.pages.iter().map(|p| p.len() as u64).sum()
    }

    /// Tokens of the step.
    pub fn tokens(&self) -> usize {
        self.runs.iter().map(|r| r.new).sum()
    }

    /// Position of each token.
    pub fn positions(&self) -> Vec<i32> {
        self.runs.iter().flat_map(|r| r.past as i32..(r.past + r.new) as i32).collect()
    }

    /// As the interpreter takes them.
    pub fn batch(&self) -> Batch {
        let segment = |r: &Run| Segment { seq: r.seq, start: r.past, len: r.new };
        Batch { segments: self.runs.iter().map(segment).collect() }
    }

    /// Stores the step's tables.
    pub fn upload(&self, memory: &mut Memory<'_>) -> Result<(), Failure> {
        let mut starts = vec![0];
        let mut table = vec![];
        let page_tokens = memory.manifest().kv.page_tokens.max(1) as usize;
        for run in &self.runs {
            starts.push(starts.last().copied().unwrap_or(0) + run.new as i32);
            // Behind the pages in use stands what no kernel may follow.
            let used = (run.past + run.new).div_ceil(page_tokens);
            let mut row: Vec<i32> = self.pages[run.seq].iter().copied().take(used).collect();
            row.resize(memory.bind.table_width as usize, -1);
            table.extend(row);
        }
        let contexts: Vec<i32> = self.runs.iter().map(|r| (r.past + r.new) as i32).collect();
        memory.ints(memory.bind.query_start, &starts)?;
        memory.ints(memory.bind.context, &contexts)?;
        memory.ints(memory.bind.block_table, &table)?;
        memory.ints(memory.bind.positions, &self.positions())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_to_the_engines_limits() {
        for steps in [Steps::Any, Steps::Decode, Steps::Prefill, Steps::Single] {
            for (tokens, longest) in (1..200).flat_map(|t| [2, 50, 200, 300, 4096].map(|l| (t, l))) {
                let all = runs(steps, tokens, 64, longest);
                assert_eq!(all.iter().map(|r| r.new).sum::<usize>(), tokens);
                assert!(all.iter().all(|r| r.past + r.new <= longest), "{tokens} {all:?}");
                if matches!(steps, Steps::Decode | Steps::Single) {
                    assert!(all.len() == tokens && all.iter().all(|r| r.new == 1));
                }
            }
        }
    }

    #[test]
    fn appends_store_every_token_once_and_in_order() {
        let all = Requests { runs: runs(Steps::Decode, 40, 16, 300), pages: Rc::new(vec![]) };
        for most in [1, 7, 256, 1000] {
            let mut stored = vec![0; all.runs.len()];
            for step in all.steps_so_far(most) {
                assert!((1..=most).contains(&step.tokens()));
                for run in step.runs {
                    assert_eq!(stored[run.seq], run.past);
                    stored[run.seq] += run.new;
                }
            }
            assert!(all.runs.iter().all(|r| stored[r.seq] == r.past + r.new));

            let mut stored = vec![0; all.runs.len()];
            let steps = all.steps_before(most);
            assert!(steps.last().is_some_and(|step| step.runs.iter().all(|r| r.new == 1)));
            for run in steps.into_iter().flat_map(|step| step.runs) {
                assert_eq!(stored[run.seq], run.past);
                stored[run.seq] += run.new;
            }
            assert!(all.runs.iter().all(|r| stored[r.seq] == r.past));
        }
    }
}
