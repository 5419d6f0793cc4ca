//! An engine as the commands use it: opened from arguments, driven until every answer is complete.

use crate::options::EngineArgs;
use crate::render::Failure;
use std::collections::BTreeMap;
use trtc_engine::manifest::Manifest;
use trtc_runtime::request::{AnswerId, Event, Finish};
use trtc_runtime::{Answer, Engine, LoadOptions, Request};

/// An open engine.
pub struct Session {
    /// The engine itself.
    pub engine: Engine,
}

/// Whether to go on after an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    On,
    /// Give every request up; events end with it.
    Stop,
}

impl Session {
    /// Loads the engine of the arguments.
    pub fn open(args: &EngineArgs) -> Result<Session, Failure> {
        let options = LoadOptions {
            device: args.device.clone(),
            threads: args.threads,
            kv_memory: args.kv_memory,
            ..LoadOptions::default()
        };
        Ok(Session { engine: Engine::load(&args.engine, options)? })
    }

    /// The engine's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.engine.manifest()
    }

    /// Tokens of a text, begun as the model wants it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Failure> {
        match self.engine.tokenizer() {
            Some(tokenizer) => Ok(tokenizer.encode(text)?),
            None => Err(Failure::user("this engine has no tokenizer, so it takes no text")
                .help("give tokens: --prompt-ids 1,2,3")),
        }
    }

    /// Text of a single token, for tables; empty without a tokenizer.
    pub fn token_text(&self, token: u32) -> String {
        self.engine.tokenizer().and_then(|t| t.decode(&[token]).ok()).unwrap_or_default()
    }

    /// Submits requests and steps until all their answers are complete.
    ///
    /// A request that is refused is not submitted, nor is any after it, and nothing is executed.
    pub fn drive(
        &mut self,
        requests: &[Request],
        mut on: impl FnMut(&Event) -> Result<Flow, Failure>,
    ) -> Result<Collector, Failure> {
        let mut collector = Collector::default();
        let mut numbers = Vec::new();
        for request in requests {
            let number = self.engine.submit(request.clone())?;
            numbers.push(number);
            collector.expect(number, request.n);
        }
        while !collector.complete() {
            for event in self.engine.step()? {
                let flow = on(&event)?;
                collector.add(event);
                if flow == Flow::Stop {
                    numbers.drain(..).for_each(|n| self.engine.cancel(n));
                }
            }
        }
        Ok(collector)
    }

    /// Answers in the order of the requests, and of a request's own answers.
    pub fn answers(&mut self, requests: &[Request]) -> Result<Vec<Answer>, Failure> {
        let mut collector = self.drive(requests, |_| Ok(Flow::On))?;
        Ok(std::iter::from_fn(|| collector.next_ready()).collect())
    }
}

/// Puts events together into answers and gives them out in order.
#[derive(Default)]
pub struct Collector {
    /// Answers that are not given out yet, and whether each is complete.
    open: BTreeMap<AnswerId, (Answer, bool)>,
    /// Answers that are not complete.
    pending: usize,
}

impl Collector {
    /// A request whose answers will come.
    pub fn expect(&mut self, request: u64, answers: u32) {
        for index in 0..answers {
            let id = AnswerId { request, index };
            let answer = Answer {
                id,
                tokens: Vec::new(),
                text: String::new(),
                logprobs: Vec::new(),
                prompt_logprobs: Vec::new(),
                finish: Finish::Cancelled,
            };
            self.open.insert(id, (answer, false));
            self.pending += 1;
        }
    }

    /// One event; one of an unknown answer is dropped.
    pub fn add(&mut self, event: Event) {
        let id = match &event {
            Event::Prompt { id, .. } | Event::Token { id, .. } | Event::Done { id, .. } => *id,
        };
        let Some((answer, done)) = self.open.get_mut(&id) else { return };
        match event {
            Event::Prompt { logprobs, .. } => answer.prompt_logprobs = logprobs,
            Event::Token { token, text, logprob, .. } => {
                answer.tokens.push(token);
                answer.text.push_str(&text);
                answer.logprobs.extend(logprob);
            }
            Event::Done { finish, text, .. } => {
                answer.text.push_str(&text);
                answer.finish = finish;
                self.pending -= usize::from(!*done);
                *done = true;
            }
        }
    }

    /// True if no answer is pending.
    pub fn complete(&self) -> bool {
        self.pending == 0
    }

    /// The next answer in order, once it is complete.
    pub fn next_ready(&mut self) -> Option<Answer> {
        let entry = self.open.first_entry()?;
        entry.get().1.then(|| entry.remove().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(request: u64, token: u32) -> Event {
        let id = AnswerId { request, index: 0 };
        Event::Token { id, token, text: token.to_string(), logprob: None }
    }

    fn done(request: u64) -> Event {
        Event::Done { id: AnswerId { request, index: 0 }, finish: Finish::Length, text: "!".to_owned() }
    }

    #[test]
    fn answers_come_in_order_however_they_end() {
        let mut c = Collector::default();
        c.expect(3, 1);
        c.expect(5, 1);
        for event in [token(5, 1), token(3, 2), done(5), token(9, 9)] {
            c.add(event);
        }
        assert!(c.next_ready().is_none(), "3 is not complete");
        assert!(!c.complete());
        c.add(done(3));
        assert!(c.complete());
        let order: Vec<(u64, String)> =
            std::iter::from_fn(|| c.next_ready()).map(|a| (a.id.request, a.text)).collect();
        assert_eq!(order, [(3, "2!".to_owned()), (5, "1!".to_owned())]);
    }

    #[test]
    fn a_second_end_changes_nothing() {
        let mut c = Collector::default();
        c.expect(0, 1);
        c.add(done(0));
        c.add(done(0));
        assert!(c.complete());
    }
}
