//! The scheduler: which tokens of which sequences go into the next step.
//!
//! A pure function of what waits, what runs, the pool and the limits. No clock, no device, no randomness; a step
//! in steady state does not allocate. What a token means (end, stop string, text) is the engine's business.
//!
//! The order of everything is *rank*: priority, then arrival. Per step:
//! 1. grow: running sequences get the page of their next token, in rank; if none is left, the last in rank is
//!    preempted: it gives up all its pages and waits until there is room to compute it again.
//! 2. admit: waiting sequences start, in rank, while the step has tokens left for them and the pool holds all
//!    pages of what is known of them. A sequence may push out running ones of strictly lower priority.
//! 3. fill: one token for each sequence that decodes, then chunks of prompts, in rank.
//!
//! A device can be a step behind: a token that it has not told yet is *pending*. It has its place and is planned like
//! any other, but pages are shared only once all their tokens are known.

mod fill;
mod plan;
mod sequence;

pub use plan::{Chunk, Plan};
pub use sequence::{NewSequence, SeqId, Sequence};

use crate::error::Error;
use crate::kv::KvPool;
use crate::limits;
use trtc_engine::manifest::{Dims, Steps};

/// Sequences, those that wait and those that run, and the pages they hold.
#[derive(Debug)]
pub struct Scheduler {
    limits: Dims,
    pool: KvPool,
    seqs: Vec<Option<Sequence>>,
    vacant: Vec<u32>,
    /// In rank.
    waiting: Vec<SeqId>,
    /// In rank.
    running: Vec<SeqId>,
    arrivals: u64,
    admissions: u64,
    deterministic: bool,
    /// Kind of the last step of a deterministic scheduler.
    last: Steps,
}

impl Scheduler {
    /// A scheduler for these limits, each at least 1.
    pub fn new(limits: Dims, pool: KvPool) -> Scheduler {
        let running = Vec::with_capacity(limits.max_batch as usize);
        Scheduler {
            limits,
            pool,
            seqs: Vec::new(),
            vacant: Vec::new(),
            waiting: Vec::new(),
            running,
            arrivals: 0,
            admissions: 0,
            deterministic: false,
            last: Steps::Decode,
        }
    }

    /// Computes each token by kernels of one kind, whatever else there is to do (see `fill.rs`), if that is asked for.
    pub fn deterministic(self, yes: bool) -> Scheduler {
        Scheduler { deterministic: yes, ..self }
    }

    /// The pool.
    pub fn pool(&self) -> &KvPool {
        &self.pool
    }

    /// Sequences that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that run, in rank.
    pub fn running(&self) -> &[SeqId] {
        &self.running
    }

    /// True if there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// A live sequence.
    pub fn sequence(&self, id: SeqId) -> Option<&Sequence> {
        self.seqs.get(id.index())?.as_ref()
    }

    /// Takes in a sequence; it waits. Refused if it could never run.
    pub fn add(&mut self, new: NewSequence) -> Result<SeqId, Error> {
        let (prompt, max) = (new.tokens.len() as u32, self.limits.max_seq_len);
        if new.tokens.is_empty() {
            return Err(Error::user("the prompt is empty").help("give at least one token"));
        }
        if new.max_len < prompt || new.max_len > max {
            return Err(Error::bug(format!(
                "sequence of {prompt}..{} tokens, the limit is {max}",
                new.max_len
            )));
        }
        limits::check_fits(prompt, new.max_len, self.pool.total(), self.pool.page_tokens())?;
        let leader = new.leader.filter(|&l| self.sequence(l).is_some_and(|l| !l.prompt_computed()));
        let id = match self.vacant.pop() {
            Some(index) => SeqId(index),
            None => {
                self.seqs.push(None);
                // Room for all of them to end at once.
                self.vacant.reserve(self.seqs.len());
                SeqId(self.seqs.len() as u32 - 1)
            }
        };
        self.arrivals += 1;
        self.seqs[id.index()] =
            Some(Sequence::new(new, leader, self.arrivals, &self.pool, self.deterministic));
        if let Some(leader) = leader {
            self.seq_mut(leader).followers += 1;
        }
        let at = self.place(&self.waiting, id);
        self.waiting.insert(at, id);
        Ok(id)
    }

    /// Appends the token that was chosen for a sequence whose tokens are all computed, or that was pending. Not for
    /// the last token of an answer, which nothing follows.
    pub fn push(&mut self, id: SeqId, token: u32) {
        let Some(seq) = self.seqs[id.index()].as_mut() else {
            return;
        };
        debug_assert!(seq.pending > 0 || seq.complete() && seq.goes_on());
        seq.pending = seq.pending.saturating_sub(1);
        seq.tokens.push(token);
        seq.publish(&mut self.pool);
    }

    /// Takes note that the device chooses the next token of a sequence whose tokens are all computed. It is told by
    /// [`Scheduler::push`] after the next step is planned and before the one after it.
    pub fn expect(&mut self, id: SeqId) {
        let seq = self.seq_mut(id);
        debug_assert!(seq.complete() && seq.pending <= 1 && seq.goes_on());
        seq.pending += 1;
    }

    /// Sends a running sequence back to wait, with the tokens that are known: what was computed is lost, and logits
    /// are wanted again from position `logits_from` on.
    pub fn restart(&mut self, id: SeqId, logits_from: u32) {
        if let Some(seq) = self.seqs.get_mut(id.index()).and_then(Option::as_mut) {
            seq.pending = 0;
            seq.logits_from = seq.logits_from.min(logits_from);
        }
        if let Some(at) = self.running.iter().position(|&r| r == id) {
            self.wait_again(at);
        }
    }

    /// Ends a sequence, wherever it is: finished or given up.
    pub fn remove(&mut self, id: SeqId) {
        if self.sequence(id).is_none() {
            return;
        }
        self.release_followers(id);
        if let Some(leader) = self.seq(id).leader {
            self.seq_mut(leader).followers -= 1;
        }
        self.release_pages(id);
        self.running.retain(|&r| r != id);
        self.waiting.retain(|&w| w != id);
        self.seqs[id.index()] = None;
        self.vacant.push(id.0);
    }

    /// Plans the next step into `plan`. The plan is empty only if there is nothing to do.
    pub fn schedule(&mut self, plan: &mut Plan) {
        plan.clear();
        self.grow(plan);
        self.admit(plan);
        self.fill(plan);
    }

    /// Takes note that a plan was computed, or started on a device that does things in order. A sequence with
    /// [`Sequence::complete`] is not planned again before it is given a token or expects one.
    pub fn commit(&mut self, plan: &Plan) {
        for chunk in &plan.chunks {
            let Some(seq) = self.seqs[chunk.seq.index()].as_mut() else {
                continue;
            };
            seq.advance(chunk, &mut self.pool);
            if seq.followers > 0 && seq.prompt_computed() {
                self.release_followers(chunk.seq);
            }
        }
    }

    /// Step 1: pages for the running.
    fn grow(&mut self, plan: &mut Plan) {
        let mut i = 0;
        while i < self.running.len() {
            let id = self.running[i];
            let need = self.pool.pages_for(self.seq(id).end()) as usize;
            while self.seq(id).pages.len() < need {
                if let Some(page) = self.pool.take() {
                    self.seq_mut(id).pages.push(page);
                    continue;
                }
                let last = self.running.len() - 1;
                self.preempt(last, plan);
                if last == i {
                    break;
                }
            }
            i += 1;
        }
    }

    /// Step 2: start what waits.
    fn admit(&mut self, plan: &mut Plan) {
        let mut w = 0;
        while w < self.waiting.len() {
            let id = self.waiting[w];
            if self.seq(id).leader.is_some() {
                w += 1;
                continue;
            }
            let barred = plan.barrier.is_some_and(|b| self.seq(id).priority <= b);
            if barred || !self.tokens_left_for(id) || !self.make_room(id, plan) {
                return;
            }
            self.waiting.remove(w);
            let at = self.place(&self.running, id);
            self.running.insert(at, id);
            self.take_pages(id, plan);
        }
    }

    /// True if the running that go before `id` leave tokens of the step to it.
    fn tokens_left_for(&self, id: SeqId) -> bool {
        let rank = self.seq(id).rank();
        let mut taken = 0;
        for &r in &self.running {
            let seq = self.seq(r);
            taken += if seq.rank() < rank { seq.remaining() } else { u32::from(seq.remaining() == 1) };
            if taken >= self.limits.max_step_tokens {
                return false;
            }
        }
        true
    }

    /// Sees that there is a place in the batch and pages for `id`, at the cost of lower priorities if need be.
    /// Nobody is pushed out unless that suffices.
    fn make_room(&mut self, id: SeqId, plan: &mut Plan) -> bool {
        if let Some(seq) = self.seqs[id.index()].as_mut() {
            seq.hash_pages(&self.pool);
        }
        let seq = self.seq(id);
        let priority = seq.priority;
        let lower = self.running.iter().rev().take_while(|&&r| self.seq(r).priority < priority).count();
        if self.running.len() - lower >= self.limits.max_batch as usize {
            return false;
        }
        let at_least = usize::from(self.running.len() == self.limits.max_batch as usize);
        let wanted = self.pages_wanted(seq);
        // Pages of the victims, last in rank first, that nobody else holds and `id` does not share. A shared page
        // has the same place in both: its key holds all that is before it.
        let mut freed = 0;
        for victims in 0..=lower {
            if victims > 0 {
                let pages = &self.seq(self.running[self.running.len() - victims]).pages;
                let alone = |&(i, &p): &(usize, &u32)| {
                    self.pool.refs(p) == 1 && seq.cached_page(i, &self.pool) != Some(p)
                };
                freed += pages.iter().enumerate().filter(alone).count() as u32;
            }
            // A spare page for each that stays: it will grow.
            let spare = (self.running.len() - victims) as u32;
            if victims >= at_least && wanted + spare <= self.pool.available() + freed {
                for _ in 0..victims {
                    self.preempt(self.running.len() - 1, plan);
                }
                return true;
            }
        }
        false
    }

    /// Pages that must be available for a waiting sequence to start: those without content, and idle ones with it.
    fn pages_wanted(&self, seq: &Sequence) -> u32 {
        let held = seq.cached_pages(&self.pool).filter(|&p| self.pool.refs(p) > 0).count() as u32;
        self.pool.pages_for(seq.tokens.len() as u32) - held
    }

    /// Gives an admitted sequence all pages of its tokens, cached ones first.
    fn take_pages(&mut self, id: SeqId, plan: &mut Plan) {
        let Some(seq) = self.seqs[id.index()].as_mut() else {
            return;
        };
        self.admissions += 1;
        seq.admission = self.admissions;
        let cached = seq.cached_pages(&self.pool).count();
        for i in 0..cached {
            let Some(page) = seq.cached_page(i, &self.pool) else {
                break;
            };
            self.pool.retain(page);
            seq.pages.push(page);
        }
        seq.published = seq.pages.len() as u32;
        seq.computed = seq.published * self.pool.page_tokens();
        plan.reused += seq.computed;
        let need = self.pool.pages_for(seq.tokens.len() as u32) as usize;
        while seq.pages.len() < need {
            let Some(page) = self.pool.take() else {
                debug_assert!(false, "room for {need} pages was made, {} came", seq.pages.len());
                break;
            };
            seq.pages.push(page);
        }
    }

    /// Sends a running sequence back to wait.
    fn preempt(&mut self, at: usize, plan: &mut Plan) {
        let id = self.wait_again(at);
        plan.preempted += 1;
        plan.barrier = plan.barrier.max(Some(self.seq(id).priority));
    }

    fn wait_again(&mut self, at: usize) -> SeqId {
        let id = self.running.remove(at);
        self.release_pages(id);
        let at = self.place(&self.waiting, id);
        self.waiting.insert(at, id);
        id
    }

    fn release_pages(&mut self, id: SeqId) {
        let Some(seq) = self.seqs[id.index()].as_mut() else {
            return;
        };
        // Back to front: the end of a prefix is of use to fewer, and is given up first.
        for page in seq.pages.drain(..).rev() {
            self.pool.release(page);
        }
        (seq.computed, seq.published) = (0, 0);
    }

    /// Lets those go ahead that wait for `leader`'s prompt.
    fn release_followers(&mut self, leader: SeqId) {
        for &w in &self.waiting {
            if let Some(seq) = self.seqs[w.index()].as_mut() {
                seq.leader = seq.leader.filter(|&l| l != leader);
            }
        }
        self.seq_mut(leader).followers = 0;
    }

    /// Where a sequence belongs in a list in rank.
    fn place(&self, list: &[SeqId], id: SeqId) -> usize {
        let rank = self.seq(id).rank();
        list.partition_point(|&other| self.seq(other).rank() < rank)
    }

    fn seq(&self, id: SeqId) -> &Sequence {
        self.seqs[id.index()].as_ref().expect("listed sequences are live")
    }

    fn seq_mut(&mut self, id: SeqId) -> &mut Sequence {
        self.seqs[id.index()].as_mut().expect("listed sequences are live")
    }
}

#[cfg(test)]
mod tests;
