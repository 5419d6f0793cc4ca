//! One answer in the making: chooses its tokens, makes its text, knows its end.
//!
//! Works on rows of logits, or on tokens that the device has chosen; where they come from is not its business.

use crate::exec::Draw;
use crate::request::{AnswerId, Event, Finish, Request, TokenLogprob};
use crate::sample::{self, Sampler};
use crate::text::{TextStream, Tokenizer};
use std::sync::Arc;
use trtc_engine::manifest::Manifest;

/// What becomes of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on with this token.
    Token(u32),
    /// It has ended; so many tokens of its answer came with this step.
    End {
        /// 0 or 1.
        tokens: u64,
    },
}

/// What an answer needs of a row of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// A token, which the device chooses.
    Token,
    /// The logits.
    Logits,
}

/// Memory that all answers of an engine use in turn.
#[derive(Default)]
pub(super) struct Scratch {
    draw: sample::Scratch,
    row: Vec<f32>,
}

/// One answer in the making.
pub(super) struct Answering {
    id: AnswerId,
    request: Arc<Request>,
    sampler: Sampler,
    /// Tokens so far.
    len: u32,
    /// Most tokens: what was asked for, or what there is room for.
    most: u32,
    /// Tokens that end it.
    stops: Vec<u32>,
    text: Option<TextStream>,
    /// Log-probabilities of the prompt, as far as they came; `None` if they are not wanted or have been given.
    report: Option<Vec<TokenLogprob>>,
}

impl Answering {
    /// `most` is the room for tokens of the answer.
    pub fn new(
        id: AnswerId,
        request: Arc<Request>,
        most: u32,
        manifest: &Manifest,
        tokenizer: Option<&Arc<Tokenizer>>,
    ) -> Answering {
        let mut stops = request.stop_ids.clone();
        if !request.ignore_eos {
            stops.extend_from_slice(&manifest.model.eos);
        }
        let seed = request.sampling.seed.unwrap_or(id.request).wrapping_add(u64::from(id.index));
        let sampler = Sampler::new(request.sampling.clone(), seed, &request.prompt);
        let text = tokenizer.map(|t| TextStream::new(Arc::clone(t), request.stop.clone()));
        let report = request.prompt_logprobs.filter(|_| id.index == 0).map(|_| Vec::new());
        Answering { id, request, sampler, len: 0, most, stops, text, report }
    }

    pub fn id(&self) -> AnswerId {
        self.id
    }

    /// Answers to the same request.
    pub fn answers(&self) -> u32 {
        self.request.n
    }

    /// Takes the rows of positions `first..` of the prompt, each `vocab` long. Gives the report once it is whole.
    pub fn take_prompt(&mut self, first: usize, rows: &[f32], vocab: usize) -> Option<Vec<TokenLogprob>> {
        let top = self.request.prompt_logprobs.filter(|_| self.report.is_some())?;
        let report = self.report.as_mut()?;
        let wanted = self.request.prompt.len() - 1;
        // The row of a token tells of the next one.
        for (row, &token) in
            rows.chunks_exact(vocab).zip(self.request.prompt.get(first + 1..).unwrap_or_default())
        {
            report.push(sample::logprob(row, token, top));
        }
        if report.len() < wanted { None } else { self.report.take() }
    }

    /// What is needed of the row before position `position`.
    pub fn wants(&self, position: u32) -> Wants {
        let (request, s) = (&self.request, &self.request.sampling);
        let len = position.saturating_sub(request.prompt.len() as u32);
        let banned = len < request.min_tokens && !self.stops.is_empty();
        let reports = self.report.is_some() || request.logprobs.is_some_and(|n| n > 0);
        let plain = !self.sampler.has_penalties() && s.logit_bias.is_empty();
        if plain && !banned && !reports { Wants::Token } else { Wants::Logits }
    }

    /// How the device chooses the token at a position.
    pub fn draw(&self, position: u32) -> Draw {
        self.sampler.draw(u64::from(position))
    }

    /// Takes the token that the device has chosen, with its log-probability.
    pub fn take(&mut self, token: u32, logprob: f32, events: &mut Vec<Event>) -> Next {
        if self.most == 0 {
            events.push(self.end(Finish::Length));
            return Next::End { tokens: 0 };
        }
        let logprob = self.request.logprobs.map(|_| TokenLogprob { token, logprob, top: Vec::new() });
        self.accept(token, logprob, events)
    }

    /// Chooses the next token from its logits, which are changed on the way.
    pub fn next(&mut self, logits: &mut [f32], events: &mut Vec<Event>, scratch: &mut Scratch) -> Next {
        if self.most == 0 {
            events.push(self.end(Finish::Length));
            return Next::End { tokens: 0 };
        }
        let request = Arc::clone(&self.request);
        // Stop tokens are not chosen before `min_tokens`.
        let banned: &[u32] = if self.len < request.min_tokens { &self.stops } else { &[] };
        if request.logprobs.is_some() {
            // What is reported is of the row as it was.
            scratch.row.clear();
            scratch.row.extend_from_slice(logits);
        }
        let position = request.prompt.len() as u64 + u64::from(self.len);
        let token = self.sampler.choose(logits, position, banned, &mut scratch.draw);
        let logprob = request.logprobs.map(|top| sample::logprob(&scratch.row, token, top));
        self.accept(token, logprob, events)
    }

    /// Goes on with a token, or ends.
    fn accept(&mut self, token: u32, logprob: Option<TokenLogprob>, events: &mut Vec<Event>) -> Next {
        let (request, id) = (Arc::clone(&self.request), self.id);
        if self.len >= request.min_tokens && self.stops.contains(&token) {
            events.push(self.end(Finish::Stop));
            return Next::End { tokens: 0 };
        }
        self.len += 1;
        self.sampler.accept(token);
        let (text, stopped) = match &mut self.text {
            Some(stream) => stream.push(token, self.len >= request.min_tokens),
            None => (String::new(), false),
        };
        events.push(Event::Token { id, token, text, logprob });
        let finish = match stopped {
            true => Finish::Stop,
            false if self.len == self.most => Finish::Length,
            false => return Next::Token(token),
        };
        events.push(self.end(finish));
        Next::End { tokens: 1 }
    }

    /// The last event, with the text that was held back.
    pub fn end(&mut self, finish: Finish) -> Event {
        let text = self.text.as_mut().map(TextStream::finish).unwrap_or_default();
        Event::Done { id: self.id, finish, text }
    }
}
