//! A step's buffers on the host's side: what a plan says, laid out as the device reads it, and what the device has of it.
//!
//! From one decode step to the next little changes: positions, contexts, and a page now and then. Only that is copied.

use crate::error::Error;
use crate::sched::{Plan, Scheduler};
use std::ops::Range;
use trtc_engine::manifest::{DRAW, Dims};

/// How a row of logits is sampled.
pub type Draw = [f32; DRAW as usize];

/// Entries of the block table between two changes that are copied along with them: a copy of its own takes as long.
const GAP: usize = 4096;

/// A list that the device has a copy of.
#[derive(Default)]
pub struct List<T> {
    now: Vec<T>,
    /// What the device has, as far as it is known; it may be more than the list.
    there: Vec<T>,
}

impl<T: Copy + PartialEq> List<T> {
    fn reserve(&mut self, len: usize) {
        self.now.reserve(len);
        self.there.reserve(len);
    }

    /// The list if the device does not have it; counts on its being copied there.
    pub fn change(&mut self) -> Option<&[T]> {
        if self.there.starts_with(&self.now) {
            return None;
        }
        let both = self.there.len().min(self.now.len());
        self.there[..both].copy_from_slice(&self.now[..both]);
        self.there.extend_from_slice(&self.now[both..]);
        Some(&self.now)
    }
}

/// A row of the block table, as far as it is written.
#[derive(Clone, Copy, Default)]
struct Row {
    /// [`crate::sched::Sequence::admission`] of whose pages it has; 0 for nobody's.
    admission: u64,
    pages: usize,
}

/// The lists that are copied for each step.
#[derive(Default)]
pub struct Stage {
    /// Token ids; below 0 for a token that is still on the device: -1 less its row in the step before.
    pub tokens: List<i32>,
    pub positions: List<i32>,
    pub rows: List<i32>,
    pub draws: List<Draw>,
    pub query_start: List<i32>,
    pub context: List<i32>,
    /// `(max_batch, table_width)`: what the device has, but for the entries of `changed`.
    pub table: Vec<i32>,
    /// Runs of entries; few, as those that lie close together are one.
    pub changed: Vec<Range<usize>>,
    /// Rows of the table.
    written: Vec<Row>,
    /// The row from which each sequence's next token comes, by number of the sequence.
    row_of: Vec<i32>,
    table_width: usize,
}

impl Stage {
    /// Room for any step.
    pub fn new(d: &Dims, table_width: usize) -> Result<Stage, Error> {
        let mut stage = Stage { table_width, ..Stage::default() };
        let len = d.max_batch as usize * table_width;
        let short = |_| Error::user(format!("no memory for block tables of {len} entries"));
        stage.table.try_reserve_exact(len).map_err(short)?;
        stage.table.resize(len, 0);
        stage.written.resize(d.max_batch as usize, Row::default());
        stage.changed.reserve(len / GAP + 2);
        for list in [&mut stage.tokens, &mut stage.positions] {
            list.reserve(d.max_step_tokens as usize);
        }
        stage.rows.reserve(d.max_logit_rows as usize);
        stage.draws.reserve(d.max_logit_rows as usize);
        for list in [&mut stage.query_start, &mut stage.context] {
            list.reserve(d.max_batch as usize + 1);
        }
        Ok(stage)
    }

    /// Counts on nothing that was copied, but for the block table.
    pub fn forget_lists(&mut self) {
        for list in
            [&mut self.tokens, &mut self.positions, &mut self.rows, &mut self.query_start, &mut self.context]
        {
            list.there.clear();
        }
        self.draws.there.clear();
    }

    /// Writes an entry of the block table, and notes it if it is new there.
    fn set_page(&mut self, at: usize, page: i32) {
        if self.table[at] == page {
            return;
        }
        self.table[at] = page;
        if let Some(run) = self.changed.last_mut()
            && (run.start..=run.end + GAP).contains(&at)
        {
            run.end = run.end.max(at + 1);
            return;
        }
        self.changed.push(at..at + 1);
        // Entries come in order, so that there are not so many, except after a step that could not be started.
        if self.changed.len() > self.table.len() / GAP + 1 {
            let all = self.changed.drain(..).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
            self.changed.extend(all);
        }
    }

    /// Lays out a plan: tokens of all chunks one after the other.
    pub fn fill(&mut self, plan: &Plan, sched: &Scheduler, draws: &[Draw]) -> Result<(), Error> {
        for list in
            [&mut self.tokens, &mut self.positions, &mut self.rows, &mut self.query_start, &mut self.context]
        {
            list.now.clear();
        }
        self.draws.now.clear();
        self.draws.now.extend_from_slice(draws);
        self.query_start.now.push(0);
        for (s, chunk) in plan.chunks.iter().enumerate() {
            let gone = || Error::bug(format!("sequence {} of the plan is gone", chunk.seq.0));
            let seq = sched.sequence(chunk.seq).ok_or_else(gone)?;
            let (start, end) = (chunk.start as usize, (chunk.start + chunk.len) as usize);
            if end > seq.end() as usize {
                return Err(gone());
            }
            let known = seq.tokens();
            let last = self.row_of.get(chunk.seq.index()).copied().unwrap_or(0);
            let token = |p: usize| known.get(p).map_or(-1 - last, |&t| t as i32);
            self.tokens.now.extend((start..end).map(token));
            self.positions.now.extend(chunk.start as i32..end as i32);
            let after = self.tokens.now.len() as i32;
            self.rows.now.extend(after - chunk.rows as i32..after);
            self.query_start.now.push(after);
            self.context.now.push(end as i32);
            // Pages of one admission stay, and more come behind them.
            let used = (sched.pool().pages_for(end as u32) as usize).min(seq.pages().len());
            let row = self.written[s];
            let from = if row.admission == seq.admission() { row.pages.min(used) } else { 0 };
            for (i, &page) in seq.pages().iter().enumerate().take(used).skip(from) {
                self.set_page(s * self.table_width + i, page as i32);
            }
            self.written[s] = Row { admission: seq.admission(), pages: used };
        }
        Ok(())
    }

    /// Takes note that a plan was started: tokens of the next step may come from the last rows of its chunks. Before that, those
    /// of a step that is under way are still what a plan that is made again goes on with.
    pub fn started(&mut self, plan: &Plan) {
        let mut row = 0;
        for chunk in &plan.chunks {
            row += chunk.rows as i32;
            let index = chunk.seq.index();
            if self.row_of.len() <= index {
                self.row_of.resize(index + 1, 0);
            }
            self.row_of[index] = row - 1;
        }
    }

    /// Positions of the longest context.
    pub fn longest(&self) -> u32 {
        self.context.now.iter().copied().max().unwrap_or(0) as u32
    }

    /// Makes a decode step one of `to` requests: the new ones have one token each, in page `page`, which is nobody's.
    pub fn pad(&mut self, to: u32, page: i32) {
        for s in self.context.now.len() as i32..to as i32 {
            self.tokens.now.push(0);
            self.positions.now.push(0);
            self.rows.now.push(s);
            self.draws.now.push([0.0; DRAW as usize]);
            self.query_start.now.push(s + 1);
            self.context.now.push(1);
            self.written[s as usize] = Row::default();
            self.set_page(s as usize * self.table_width, page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_copied_when_the_device_does_not_have_it() {
        let mut list = List { now: vec![1, 2, 3], there: vec![] };
        assert_eq!(list.change(), Some(&[1, 2, 3][..]));
        assert_eq!(list.change(), None);
        // The beginning of what is there.
        list.now = vec![1, 2];
        assert_eq!(list.change(), None);
        list.now = vec![1, 7];
        assert_eq!(list.change(), Some(&[1, 7][..]));
        list.now = vec![1, 7, 3];
        assert_eq!(list.change(), None);
        list.now = vec![1, 7, 3, 4];
        assert_eq!(list.change(), Some(&[1, 7, 3, 4][..]));
        list.now = vec![];
        assert_eq!(list.change(), None);
    }

    #[test]
    fn changes_that_lie_apart_are_copied_apart() {
        let limits = Dims { max_batch: 10, max_seq_len: 1, max_step_tokens: 16, max_logit_rows: 16 };
        let mut stage = Stage::new(&limits, GAP).unwrap();
        let changes = |stage: &mut Stage| stage.changed.drain(..).collect::<Vec<_>>();
        for at in [5, 7, 7 + GAP, 3 * GAP, 4 * GAP] {
            stage.set_page(at, 1);
        }
        stage.set_page(6, 0);
        assert_eq!(changes(&mut stage), [5..8 + GAP, 3 * GAP..4 * GAP + 1]);
        // Out of order as well, and never more runs than there is room for.
        let room = stage.changed.capacity();
        for at in (0..10).rev().flat_map(|i| [i * GAP + 9, (9 - i) * GAP + 11]) {
            stage.set_page(at, 2);
        }
        assert_eq!(stage.changed.capacity(), room);
        let runs = changes(&mut stage);
        for at in 0..stage.table.len() {
            assert!(stage.table[at] != 2 || runs.iter().any(|r| r.contains(&at)), "{at} is not in {runs:?}");
        }
    }
}
