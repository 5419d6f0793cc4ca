//! Whole uses of an engine on top of its steps: a stream of events, all answers at once, scores.

use super::Engine;
use crate::error::Error;
use crate::request::{Answer, AnswerId, Event, Request, TokenLogprob};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Events of some requests as they come; made by [`Engine::generate`]. Dropped early, it gives the requests up.
pub struct Generate<'a> {
    engine: &'a mut Engine,
    ids: Range<u64>,
    /// Answers that have not ended.
    open: usize,
    ready: VecDeque<Event>,
    failed: Option<Error>,
}

impl Generate<'_> {
    /// Numbers of the requests, in the order given.
    pub fn ids(&self) -> Range<u64> {
        self.ids.clone()
    }

    fn give_up(&mut self) {
        self.open = 0;
        for id in self.ids.clone() {
            self.engine.discard(id);
        }
    }

    /// One step; its events for these requests become ready, others stay with the engine.
    fn advance(&mut self) -> Result<(), Error> {
        if self.engine.is_idle() {
            return Err(Error::bug(format!("{} answers are open and the engine is idle", self.open)));
        }
        for event in self.engine.step()? {
            if !self.ids.contains(&event.id().request) {
                self.engine.backlog.push(event);
                continue;
            }
            self.open -= usize::from(matches!(event, Event::Done { .. }));
            self.ready.push_back(event);
        }
        Ok(())
    }
}

impl Iterator for Generate<'_> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Some(error) = self.failed.take() {
                self.give_up();
                return Some(Err(error));
            }
            if self.open == 0 {
                return None;
            }
            self.failed = self.advance().err();
        }
    }
}

impl Drop for Generate<'_> {
    fn drop(&mut self) {
        if self.open > 0 {
            self.give_up();
        }
    }
}

impl Engine {
    /// Runs requests together and gives their events as they come. If one is refused, the first item is the error,
    /// and none is run. Requests submitted before go on meanwhile; their events wait for [`Engine::step`].
    pub fn generate(&mut self, requests: impl IntoIterator<Item = Request>) -> Generate<'_> {
        let next = self.next_request;
        let mut stream =
            Generate { engine: self, ids: next..next, open: 0, ready: VecDeque::new(), failed: None };
        for request in requests {
            let answers = request.n as usize;
            match stream.engine.submit(request) {
                Ok(id) => {
                    stream.ids.end = id + 1;
                    stream.open += answers;
                }
                Err(error) => {
                    stream.failed = Some(error);
                    break;
                }
            }
        }
        stream
    }

    /// Runs requests together and gives all answers, in the order of the requests and then of their `n` answers.
    pub fn answers(&mut self, requests: impl IntoIterator<Item = Request>) -> Result<Vec<Answer>, Error> {
        let mut answers: BTreeMap<AnswerId, Answer> = BTreeMap::new();
        for event in self.generate(requests) {
            let event = event?;
            let id = event.id();
            answers.entry(id).or_insert_with(|| Answer::new(id)).add(event);
        }
        // Requests are numbered in the order in which they were given.
        Ok(answers.into_values().collect())
    }

    /// Log-probability of each token but the first, given those before it.
    pub fn score(&mut self, tokens: Vec<u32>) -> Result<Vec<TokenLogprob>, Error> {
        let request = Request { max_tokens: 0, prompt_logprobs: Some(0), ..Request::new(tokens) };
        let answers = self.answers([request])?;
        Ok(answers.into_iter().flat_map(|a| a.prompt_logprobs).collect())
    }
}
