//! Masks of a step whose tokens are held to grammars: made while the device computes the step's logits, for they follow from
//! the tokens of the step before.

use super::{Asked, Flight, live};
use crate::engine::Engine;
use crate::engine::answering::{Answering, Next};
use crate::engine::events::Events;
use crate::error::Error;
use crate::grammar::Matcher;
use std::time::Instant;

/// Masks that one thread makes: they take some 50 microseconds each, as starting a thread does.
const FEW: usize = 8;

impl Engine {
    /// Starts what was left of a step until its masks were known, if anything was. The answers have been told all tokens before
    /// it. One that cannot go on ends here.
    ///
    /// # Errors
    /// The device's; the step is lost.
    pub(super) fn choose(&mut self, mut flight: Flight, events: &mut Events) -> Result<Flight, Error> {
        if flight.started.is_whole() {
            return Ok(flight);
        }
        let begin = Instant::now();
        prepare(&mut self.answers, &flight.asked, self.threads);
        for a in &flight.asked {
            let (Some(index), Some(answering)) = (a.mask, live(&mut self.answers, a)) else {
                continue;
            };
            match answering.mask() {
                Ok(Some(mask)) => self.exec.set_mask(index, mask),
                Ok(None) => {}
                Err(finish) => {
                    answering.end(finish, events);
                    self.settle(a, Next::End { tokens: 0 });
                }
            }
        }
        flight.step.host += begin.elapsed();
        if let Err(error) = self.exec.choose(&mut flight.started) {
            self.abandon(&flight.asked);
            return Err(error);
        }
        Ok(flight)
    }
}

/// Makes the masks of a step on up to `threads` threads if there are many; each answer keeps its own. Matchers of one lane
/// are one thread's.
fn prepare(answers: &mut [Option<Answering>], asked: &[Asked], threads: usize) {
    let threads = threads.min(asked.iter().filter(|a| a.mask.is_some()).count().div_ceil(FEW));
    if threads < 2 {
        return;
    }
    let mut shares: Vec<Vec<(usize, Matcher)>> = Vec::new();
    shares.resize_with(threads, Vec::new);
    for (i, a) in asked.iter().enumerate() {
        if let Some(matcher) = live(answers, a).and_then(|answering| answering.matcher().take()) {
            shares[matcher.lane() % threads].push((i, matcher));
        }
    }
    // Whoever cannot be followed says so when the mask is asked for.
    let make = |matchers: &mut Vec<(usize, Matcher)>| {
        for (_, matcher) in matchers {
            let _ = matcher.mask();
        }
    };
    std::thread::scope(|scope| {
        let mut shares = shares.iter_mut().filter(|share| !share.is_empty());
        let own = shares.next();
        for other in shares {
            scope.spawn(move || make(other));
        }
        own.map(make);
    });
    for (i, matcher) in shares.into_iter().flatten() {
        if let Some(answering) = live(answers, &asked[i]) {
            *answering.matcher() = Some(matcher);
        }
    }
}
