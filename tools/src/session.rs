//! An engine as the commands use it: opened from arguments, driven until every answer is complete.

use crate::options::EngineArgs;
use crate::render::Failure;
use std::collections::BTreeMap;
use trtc_engine::EngineFile;
use trtc_engine::manifest::Manifest;
use trtc_runtime::device::Device;
use trtc_runtime::text::Message;
use trtc_runtime::{Answer, AnswerId, Engine, Event, LoadOptions, Request};

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
        Ok(Session::open_after(args, |_, _| Ok(()))?.0)
    }

    /// The same after something was done with the device, of which nothing is left in it.
    pub fn open_after<T>(
        args: &EngineArgs,
        first: impl FnOnce(&Manifest, &mut dyn Device) -> Result<T, Failure>,
    ) -> Result<(Session, T), Failure> {
        let file = EngineFile::open(&args.on.engine)?;
        let options = LoadOptions {
            device: args.on.place.device,
            threads: args.on.place.threads,
            cache: args.memory.cache(&file.manifest().target)?,
            ..LoadOptions::default()
        };
        let mut device = trtc_runtime::open_device(file.manifest(), &options)?;
        let done = first(file.manifest(), &mut *device)?;
        Ok((Session { engine: Engine::with_device(file, device, &options)? }, done))
    }

    /// The engine's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.engine.manifest()
    }

    /// True if the engine takes and gives text.
    pub fn has_text(&self) -> bool {
        self.engine.tokenizer().is_some()
    }

    /// The token that every prompt of text begins with, if the model wants one.
    pub fn bos(&self) -> Option<u32> {
        let m = self.manifest();
        m.model.bos.filter(|_| m.text.as_ref().is_some_and(|t| t.add_bos))
    }

    /// The tokens of a conversation of (role, words), up to where the answer begins.
    pub fn chat_ids(&self, turns: &[(&str, &str)]) -> Result<Vec<u32>, Failure> {
        let Some(template) = self.engine.chat_template() else {
            return Err(Failure::user("this engine has no chat template")
                .help("give the prompt as it is: trtc run ENGINE -p TEXT"));
        };
        let messages: Vec<Message> = turns.iter().map(|(role, words)| Message::new(*role, *words)).collect();
        Ok(self.engine.encode(&template.render(&messages, &[], true)?)?)
    }

    /// A token as the vocabulary spells it; empty without a tokenizer.
    pub fn piece(&self, token: u32) -> String {
        self.engine.tokenizer().and_then(|t| t.token(token)).unwrap_or_default()
    }

    /// Runs requests together, shows every event to `on`, and puts the events together. If one request is refused,
    /// none is run. Answers that [`Flow::Stop`] cuts off are there as far as they came.
    pub fn drive(
        &mut self,
        requests: Vec<Request>,
        mut on: impl FnMut(&Event) -> Result<Flow, Failure>,
    ) -> Result<Collector, Failure> {
        let mut collector = Collector::default();
        let counts: Vec<u32> = requests.iter().map(|r| r.n).collect();
        let mut stream = self.engine.generate(requests);
        for (number, answers) in stream.ids().zip(counts) {
            collector.expect(number, answers);
        }
        #[expect(clippy::while_let_on_iterator, reason = "the stream is used again in the loop")]
        while let Some(event) = stream.next() {
            let event = event?;
            let flow = on(&event)?;
            collector.add(event);
            if flow == Flow::Stop {
                break;
            }
        }
        Ok(collector)
    }
}

/// Puts events together into answers, in the order of the requests and then of a request's answers.
#[derive(Default)]
pub struct Collector {
    answers: BTreeMap<AnswerId, Answer>,
}

impl Collector {
    /// A request whose answers will come.
    fn expect(&mut self, request: u64, answers: u32) {
        for index in 0..answers {
            let id = AnswerId { request, index };
            self.answers.insert(id, Answer::new(id));
        }
    }

    /// One event; one of an unknown answer is dropped.
    fn add(&mut self, event: Event) {
        if let Some(answer) = self.answers.get_mut(&event.id()) {
            answer.add(event);
        }
    }

    /// All answers, in order.
    pub fn answers(self) -> Vec<Answer> {
        self.answers.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trtc_runtime::Finish;

    fn token(request: u64, token: u32) -> Event {
        let id = AnswerId { request, index: 0 };
        Event::Token { id, token, text: token.to_string(), logprob: None }
    }

    fn done(request: u64) -> Event {
        Event::Done {
            id: AnswerId { request, index: 0 },
            finish: Finish::Length,
            text: "!".to_owned(),
            cached: 0,
        }
    }

    #[test]
    fn answers_are_in_order_however_they_end() {
        let mut c = Collector::default();
        c.expect(3, 1);
        c.expect(5, 1);
        for event in [token(5, 1), token(3, 2), done(5), token(9, 9), done(3)] {
            c.add(event);
        }
        let order: Vec<(u64, String)> = c.answers().into_iter().map(|a| (a.id.request, a.text)).collect();
        assert_eq!(order, [(3, "2!".to_owned()), (5, "1!".to_owned())]);
    }

    #[test]
    fn an_answer_that_was_cut_off_is_there_as_far_as_it_came() {
        let mut c = Collector::default();
        c.expect(0, 1);
        c.add(token(0, 7));
        let answers = c.answers();
        assert_eq!((answers[0].tokens.as_slice(), answers[0].finish), (&[7][..], Finish::Cancelled));
    }
}
