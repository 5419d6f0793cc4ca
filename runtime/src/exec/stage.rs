//! A step's buffers on the host's side: what a plan says, laid out as the device reads it.

use crate::error::Error;
use crate::sched::{Plan, Scheduler};
use trtc_engine::manifest::{DRAW, Dims};

/// How a row of logits is sampled.
pub type Draw = [f32; DRAW as usize];

/// The lists that are copied for each step.
#[derive(Default)]
pub struct Stage {
    /// Token ids; below 0 for a token that is still on the device: -1 less its row in the step before.
    pub tokens: Vec<i32>,
    pub positions: Vec<i32>,
    pub rows: Vec<i32>,
    pub draws: Vec<Draw>,
    pub query_start: Vec<i32>,
    pub context: Vec<i32>,
    /// `(max_batch, table_width)`: what the device has, but for the entries of `changed`.
    pub table: Vec<i32>,
    pub changed: std::ops::Range<usize>,
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

    /// Writes an entry of the block table, and notes it if it is new there.
    fn set_page(&mut self, at: usize, page: i32) {
        if self.table[at] != page {
            self.table[at] = page;
            let c = &self.changed;
            self.changed = if c.is_empty() { at..at + 1 } else { c.start.min(at)..c.end.max(at + 1) };
        }
    }

    /// Lays out a plan: tokens of all chunks one after the other.
    pub fn fill(&mut self, plan: &Plan, sched: &Scheduler, draws: &[Draw]) -> Result<(), Error> {
        for list in
            [&mut self.tokens, &mut self.positions, &mut self.rows, &mut self.query_start, &mut self.context]
        {
            list.clear();
        }
        self.draws.clear();
        self.draws.extend_from_slice(draws);
        self.query_start.push(0);
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
            self.tokens.extend((start..end).map(token));
            self.positions.extend(chunk.start as i32..end as i32);
            let after = self.tokens.len() as i32;
            self.rows.extend(after - chunk.rows as i32..after);
            self.query_start.push(after);
            self.context.push(end as i32);
            let used = sched.pool().pages_for(end as u32) as usize;
            for (i, &page) in seq.pages().iter().take(used).enumerate() {
                self.set_page(s * self.table_width + i, page as i32);
            }
        }
        // For the next step, whose tokens may come from the last rows of these chunks.
        let mut row = 0;
        for chunk in &plan.chunks {
            row += chunk.rows as i32;
            let index = chunk.seq.index();
            if self.row_of.len() <= index {
                self.row_of.resize(index + 1, 0);
            }
            self.row_of[index] = row - 1;
        }
        Ok(())
    }

    /// Makes a decode step one of `to` requests: the new ones have one token each, in page `page`, which is nobody's.
    pub fn pad(&mut self, to: u32, page: i32) {
        for s in self.context.len() as i32..to as i32 {
            self.tokens.push(0);
            self.positions.push(0);
            self.rows.push(s);
            self.draws.push([0.0; DRAW as usize]);
            self.query_start.push(s + 1);
            self.context.push(1);
            self.set_page(s as usize * self.table_width, page);
        }
    }
}
