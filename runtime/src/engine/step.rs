//! Steps of an engine. One can be started while the one before is under way: the device has the tokens that it needs,
//! and the host reads them meanwhile. That goes as long as the device chooses every token of the step under way.
//!
//! A token of a grammar has a mask, which follows from the token before. Of a step with such tokens only the logits are
//! computed at first; what chooses tokens is started once those of the step before are read and the masks are made (`masks.rs`).

mod masks;

use super::Engine;
use super::answering::{Answering, Next, Wants};
use super::events::Events;
use crate::error::Error;
use crate::exec::{Draw, Started, Wanted};
use crate::metrics::Step;
use crate::request::{AnswerId, Event};
use crate::sched::{Chunk, Plan};
use std::ops::Range;
use std::time::Instant;

/// A chunk of a step under way.
#[derive(Clone, Copy)]
struct Asked {
    chunk: Chunk,
    /// Whose it is: numbers of sequences are used again.
    id: AnswerId,
    /// First row of logits.
    row: u32,
    /// True if its last row is that of a token to choose.
    chooses: bool,
    wants: Wants,
    /// Number of the mask that its token is chosen with.
    mask: Option<u32>,
}

/// A step under way.
pub(super) struct Flight {
    started: Started,
    asked: Vec<Asked>,
    step: Step,
    /// True if the next step can be planned before this one is read.
    ahead: bool,
}

/// What steps use in turn.
#[derive(Default)]
pub(super) struct Memory {
    draws: Vec<Draw>,
    /// Lists of flights that are over.
    lists: Vec<Vec<Asked>>,
    done: crate::exec::Done,
}

/// Whose a chunk is, if it has not ended.
fn live<'a>(answers: &'a mut [Option<Answering>], of: &Asked) -> Option<&'a mut Answering> {
    answers.get_mut(of.chunk.seq.index()).and_then(Option::as_mut).filter(|x| x.id() == of.id)
}

impl Engine {
    /// Starts what can be started, and gives what the earlier of the steps under way brings.
    pub(super) fn advance(&mut self, events: &mut Events) -> Result<(), Error> {
        if self.flight.is_none() {
            self.flight = self.depart()?;
        }
        let Some(flight) = self.flight.take() else {
            return Ok(());
        };
        let flight = self.choose(flight, events)?;
        let next = if flight.ahead { self.depart() } else { Ok(None) };
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                self.flight = Some(flight);
                return Err(error);
            }
        };
        if let Err(error) = self.land(flight, events) {
            // What was started after it rests on it.
            if let Some(next) = next {
                self.abandon(&next.asked);
            }
            return Err(error);
        }
        self.flight = next.map(|next| self.choose(next, events)).transpose()?;
        Ok(())
    }

    /// Plans a step and starts it; none if there is nothing to do.
    fn depart(&mut self) -> Result<Option<Flight>, Error> {
        let begin = Instant::now();
        let mut plan = std::mem::take(&mut self.plan);
        self.sched.schedule(&mut plan);
        let flight = if plan.chunks.is_empty() { Ok(None) } else { self.start(&plan, begin).map(Some) };
        self.plan = plan;
        flight
    }

    fn start(&mut self, plan: &Plan, begin: Instant) -> Result<Flight, Error> {
        self.stats.preemptions += u64::from(plan.preempted);
        self.stats.reused_tokens += u64::from(plan.reused);
        let mut asked = self.memory.lists.pop().unwrap_or_default();
        let wanted = self.ask(plan, &mut asked);
        let planned = Instant::now();
        let started = self.exec.start(plan, &self.sched, &self.memory.draws, wanted)?;
        self.sched.commit(plan);
        let mut ahead = true;
        for a in asked.iter().filter(|a| a.chooses) {
            match a.wants {
                Wants::Logits => ahead = false,
                Wants::Token if self.sched.sequence(a.chunk.seq).is_some_and(|s| s.goes_on()) => {
                    self.sched.expect(a.chunk.seq);
                }
                Wants::Token => {}
            }
        }
        let step = Step {
            tokens: plan.tokens,
            rows: plan.rows,
            seqs: plan.chunks.len() as u32,
            decode_only: plan.decode_only(),
            device: planned.elapsed(),
            host: planned - begin,
        };
        Ok(Flight { started, asked, step, ahead })
    }

    /// Finds out what is wanted of each chunk: draws for all rows, the range of rows whose logits are, and whether
    /// log-probabilities of tokens are.
    fn ask(&mut self, plan: &Plan, asked: &mut Vec<Asked>) -> Wanted {
        asked.clear();
        self.memory.draws.clear();
        let mut wanted: Option<Range<u32>> = None;
        let (mut logprobs, mut masks) = (false, 0..);
        for &chunk in &plan.chunks {
            let row = self.memory.draws.len() as u32;
            self.memory.draws.resize((row + chunk.rows) as usize, Draw::default());
            let end = chunk.start + chunk.len;
            let whole = self.sched.sequence(chunk.seq).is_some_and(|s| s.end() == end);
            let Some(answering) = self.answers.get_mut(chunk.seq.index()).and_then(Option::as_mut) else {
                continue;
            };
            answering.computes_from(chunk.start);
            let wants = if self.exec.samples() { answering.wants(end) } else { Wants::Logits };
            let chooses = whole && chunk.rows > 0;
            let masked = chooses && wants == Wants::Token && answering.constrained();
            let mask = if masked { masks.next() } else { None };
            match wants {
                Wants::Logits if chunk.rows > 0 => {
                    let rows = row..row + chunk.rows;
                    let all = wanted.get_or_insert(rows.clone());
                    *all = all.start.min(rows.start)..all.end.max(rows.end);
                }
                Wants::Token if chooses => {
                    if let Some(last) = self.memory.draws.last_mut() {
                        *last = answering.draw(end, mask);
                    }
                    logprobs |= answering.logprobs();
                }
                _ => {}
            }
            asked.push(Asked { chunk, id: answering.id(), row, chooses, wants, mask });
        }
        Wanted { logits: wanted.unwrap_or(0..0), logprobs, masks: masks.start > 0 }
    }

    /// Waits for a step and tells the answers what it brings.
    fn land(&mut self, flight: Flight, events: &mut Events) -> Result<(), Error> {
        let Flight { started, asked, mut step, .. } = flight;
        let begin = Instant::now();
        let mut done = std::mem::take(&mut self.memory.done);
        let finished = self.exec.finish(started, &mut done);
        let waited = begin.elapsed();
        if let Err(error) = finished {
            self.abandon(&asked);
            return Err(error);
        }
        if let Some(tokenizer) = &self.tokenizer {
            tokenizer.touch(&done.tokens);
        }
        let vocab = self.manifest.model.vocab as usize;
        for a in &asked {
            let Some(answering) = live(&mut self.answers, a) else {
                continue;
            };
            let next = match a.wants {
                Wants::Token if a.chooses => {
                    let row = (a.row + a.chunk.rows - 1) as usize;
                    let logprob = done.logprobs.get(row).copied().filter(|_| answering.logprobs());
                    let Some(&token) =
                        done.tokens.get(row).filter(|_| logprob.is_some() || !answering.logprobs())
                    else {
                        return Err(Error::bug(format!("row {row} of a step has no token")));
                    };
                    answering.take(token as u32, logprob, events)
                }
                Wants::Logits if a.chunk.rows > 0 => {
                    let at = (a.row - done.first) as usize * vocab;
                    let rows = &mut done.logits[at..at + a.chunk.rows as usize * vocab];
                    let first = (a.chunk.start + a.chunk.len - a.chunk.rows) as usize;
                    if let Some(report) = answering.take_prompt(first, rows, vocab) {
                        for index in 0..answering.answers() {
                            let id = AnswerId { index, ..a.id };
                            events.push(Event::<&str>::Prompt { id, logprobs: report.clone() });
                        }
                    }
                    if !a.chooses {
                        continue;
                    }
                    let last = rows.len() - vocab;
                    answering.next(&mut rows[last..], events, &mut self.scratch)
                }
                _ => continue,
            };
            self.settle(a, next);
        }
        self.memory.done = done;
        self.memory.lists.push(asked);
        step.device += waited;
        step.host += begin.elapsed().saturating_sub(waited);
        self.stats.step(step);
        Ok(())
    }

    /// Goes on with a sequence, or ends it.
    fn settle(&mut self, asked: &Asked, next: Next) {
        let seq = asked.chunk.seq;
        match next {
            Next::Token(token) => {
                self.sched.push(seq, token);
                self.stats.answer_tokens += 1;
            }
            Next::End { tokens } => {
                self.stats.answer_tokens += tokens;
                self.sched.remove(seq);
                self.answers[seq.index()] = None;
                if let Some(seqs) = self.requests.get_mut(&asked.id.request) {
                    seqs.retain(|&s| s != seq);
                    if seqs.is_empty() {
                        self.requests.remove(&asked.id.request);
                    }
                }
            }
        }
    }

    /// Sends the sequences of a step that was lost back to wait.
    fn abandon(&mut self, asked: &[Asked]) {
        for a in asked {
            if live(&mut self.answers, a).is_some() {
                self.sched.restart(a.chunk.seq, a.chunk.start + a.chunk.len - a.chunk.rows.max(1));
            }
        }
    }
}
