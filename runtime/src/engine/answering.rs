//! One answer in the making: chooses its tokens, makes its text, knows its end.
//!
//! Works on rows of logits, or on tokens that the device has chosen; where they come from is not its business.

use super::events::Events;
use crate::exec::Draw;
use crate::grammar::Matcher;
use crate::request::{AnswerId, Event, Finish, Request, TokenLogprob};
use crate::sample::{self, Sampler};
use crate::text::{TextStream, Tokenizer};
use std::sync::Arc;
use trtc_engine::manifest::{DRAW_MASK, Manifest};

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

/// One answer in the making. What every step looks at lies together; the rest is behind a pointer, so that a step of
/// many answers stays in the processor's caches.
pub(super) struct Answering {
    id: AnswerId,
    /// Tokens of the prompt.
    prompt: u32,
    /// Tokens so far.
    len: u32,
    /// Least tokens.
    least: u32,
    /// Most tokens: what was asked for, or what there is room for.
    most: u32,
    /// Tokens that end it.
    stops: Vec<u32>,
    /// Its tokens are reported with their log-probabilities.
    logprobs: bool,
    /// A penalty, a bias or alternatives to report take its rows to the host.
    by_hand: bool,
    /// A grammar says which tokens may be chosen.
    constrained: bool,
    /// A report on the prompt is being made: its rows are wanted too.
    reports: bool,
    /// Tokens of the prompt that were in the cache when it was begun.
    cached: Option<u32>,
    text: Option<TextStream>,
    cold: Box<Cold>,
}

/// What a token that the device has chosen is no reason to look at, but for how the next is drawn.
struct Cold {
    sampler: Sampler,
    /// Where it is in its grammar.
    matcher: Option<Matcher>,
    request: Arc<Request>,
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
        let alternatives = request.logprobs.is_some_and(|n| n > 0);
        let matcher = request.grammar.as_ref().map(|g| g.matcher());
        Answering {
            id,
            prompt: request.prompt.len() as u32,
            len: 0,
            least: request.min_tokens,
            most,
            stops,
            logprobs: request.logprobs.is_some(),
            by_hand: alternatives || sampler.has_penalties() || !request.sampling.logit_bias.is_empty(),
            constrained: matcher.is_some(),
            reports: report.is_some(),
            cached: None,
            text,
            cold: Box::new(Cold { sampler, matcher, request, report }),
        }
    }

    pub fn id(&self) -> AnswerId {
        self.id
    }

    /// It has tokens from position `start` on in a step. What is before those of its first step was in the cache.
    pub fn computes_from(&mut self, start: u32) {
        self.cached.get_or_insert(start);
    }

    /// Answers to the same request.
    pub fn answers(&self) -> u32 {
        self.cold.request.n
    }

    /// Takes the rows of positions `first..` of the prompt, each `vocab` long. Gives the report once it is whole.
    pub fn take_prompt(&mut self, first: usize, rows: &[f32], vocab: usize) -> Option<Vec<TokenLogprob>> {
        let Cold { request, report: slot, .. } = &mut *self.cold;
        let (top, report) = (request.prompt_logprobs?, slot.as_mut()?);
        // The row of a token tells of the next one.
        for (row, &token) in rows.chunks_exact(vocab).zip(request.prompt.get(first + 1..).unwrap_or_default())
        {
            report.push(sample::logprob(row, token, top));
        }
        if report.len() < request.prompt.len() - 1 {
            return None;
        }
        self.reports = false;
        slot.take()
    }

    /// What is needed of the row before position `position`.
    pub fn wants(&self, position: u32) -> Wants {
        let len = position.saturating_sub(self.prompt);
        let banned = len < self.least && !self.stops.is_empty();
        if self.by_hand || banned || self.reports { Wants::Logits } else { Wants::Token }
    }

    /// True if its tokens are chosen with a mask.
    pub fn constrained(&self) -> bool {
        self.constrained
    }

    /// Where it is in its grammar, to make masks elsewhere; it has to be given back before anything else is asked.
    pub fn matcher(&mut self) -> &mut Option<Matcher> {
        &mut self.cold.matcher
    }

    /// The tokens of which the device chooses the next one, if there is a grammar and a token to choose.
    ///
    /// # Errors
    /// How the answer ends.
    pub fn mask(&mut self) -> Result<Option<&[u32]>, Finish> {
        // The device is not asked while tokens are banned.
        if self.most == 0 { Ok(None) } else { allowed(&mut self.cold.matcher, &[]) }
    }

    /// How the device chooses the token at a position, with the mask of this number if there is one.
    pub fn draw(&self, position: u32, mask: Option<u32>) -> Draw {
        let mut draw = self.cold.sampler.draw(u64::from(position));
        draw[DRAW_MASK] = mask.map_or(0.0, |mask| (mask + 1) as f32);
        draw
    }

    /// True if its tokens are reported with their log-probabilities.
    pub fn logprobs(&self) -> bool {
        self.logprobs
    }

    /// Takes the token that the device has chosen; with its log-probability if that is to be reported.
    pub fn take(&mut self, token: u32, logprob: Option<f32>, events: &mut Events) -> Next {
        if self.most == 0 {
            self.end(Finish::Length, events);
            return Next::End { tokens: 0 };
        }
        let logprob = logprob.map(|logprob| TokenLogprob { token, logprob, top: Vec::new() });
        self.accept(token, logprob, events)
    }

    /// Chooses the next token from its logits, which are changed on the way.
    pub fn next(&mut self, logits: &mut [f32], events: &mut Events, scratch: &mut Scratch) -> Next {
        if self.most == 0 {
            self.end(Finish::Length, events);
            return Next::End { tokens: 0 };
        }
        // Stop tokens are not chosen before `min_tokens`.
        let banned: &[u32] = if self.len < self.least { &self.stops } else { &[] };
        if self.logprobs {
            // What is reported is of the row as it was.
            scratch.row.clear();
            scratch.row.extend_from_slice(logits);
        }
        let position = u64::from(self.prompt) + u64::from(self.len);
        let Cold { sampler, matcher, .. } = &mut *self.cold;
        let allowed = match allowed(matcher, banned) {
            Ok(allowed) => allowed,
            Err(finish) => {
                self.end(finish, events);
                return Next::End { tokens: 0 };
            }
        };
        let token = sampler.choose(logits, position, banned, allowed, &mut scratch.draw);
        let logprob = self.cold.request.logprobs.map(|top| sample::logprob(&scratch.row, token, top));
        self.accept(token, logprob, events)
    }

    /// Goes on with a token, or ends.
    #[inline]
    fn accept(&mut self, token: u32, logprob: Option<TokenLogprob>, events: &mut Events) -> Next {
        let id = self.id;
        if self.len >= self.least && self.stops.contains(&token) {
            self.end(Finish::Stop, events);
            return Next::End { tokens: 0 };
        }
        self.len += 1;
        let mut over = None;
        if self.by_hand || self.constrained {
            let Cold { sampler, matcher, .. } = &mut *self.cold;
            sampler.accept(token);
            if let Some(matcher) = matcher {
                // Whether it is over shows in the next mask, which other threads make, if there is to be one.
                let last = self.len == self.most;
                over = match matcher.accept(token).and_then(|()| Ok(last && matcher.is_over()?)) {
                    Ok(over) => over.then_some(Finish::Stop),
                    Err(_) => Some(Finish::Lost),
                };
            }
        }
        let (may_stop, stream) = (self.len >= self.least, &mut self.text);
        let stopped = events.write(
            |out| stream.as_mut().is_some_and(|stream| stream.push(token, may_stop, out)),
            |text| Event::Token { id, token, text, logprob },
        );
        let finish = match over {
            _ if stopped => Finish::Stop,
            Some(over) => over,
            None if self.len == self.most => Finish::Length,
            None => return Next::Token(token),
        };
        self.end(finish, events);
        Next::End { tokens: 1 }
    }

    /// The last event, with the text that was held back.
    pub fn end(&mut self, finish: Finish, events: &mut Events) {
        let (id, cached, stream) = (self.id, self.cached.unwrap_or(0), &mut self.text);
        let finish_text = |out: &mut String| stream.iter_mut().for_each(|stream| stream.finish(out));
        events.write(finish_text, |text| Event::Done { id, finish, text, cached });
    }
}

/// The mask of the next token, if there is a grammar; or how the answer ends, because nothing but the end is left, or the
/// grammar cannot be followed.
fn allowed<'a>(matcher: &'a mut Option<Matcher>, banned: &[u32]) -> Result<Option<&'a [u32]>, Finish> {
    let Some(matcher) = matcher else { return Ok(None) };
    match matcher.is_over().and_then(|over| Ok((over, matcher.mask()?))) {
        Ok((over, mask)) if over || only(mask, banned) => Err(Finish::Stop),
        Ok((_, mask)) => Ok(Some(mask)),
        Err(_) => Err(Finish::Lost),
    }
}

/// True if a mask has no other tokens than these.
fn only(mask: &[u32], tokens: &[u32]) -> bool {
    // Most masks have many, so the first words tell.
    let others = |(i, &word): (usize, &u32)| {
        let own = tokens.iter().filter(|&&t| t as usize / 32 == i).fold(0, |own, t| own | 1 << (t % 32));
        word & !own != 0
    };
    !mask.iter().enumerate().filter(|(_, word)| **word != 0).any(others)
}
