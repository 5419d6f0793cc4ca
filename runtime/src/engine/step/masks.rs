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

/// Makes the masks of a step on up to `threads` threads if there are many; each answer keeps its own.
fn prepare(answers: &mut [Option<Answering>], asked: &[Asked], threads: usize) {
    let masked = || asked.iter().filter(|a| a.mask.is_some());
    if threads < 2 || masked().count() <= FEW {
        return;
    }
    // Whoever cannot be followed says so when the mask is asked for.
    let make = |matchers: &mut [(usize, Matcher)]| {
        for (_, matcher) in matchers {
            let _ = matcher.mask();
        }
    };
    let take = |(i, a): (usize, &Asked)| Some((i, live(answers, a)?.matcher().take()?));
    let mut matchers: Vec<(usize, Matcher)> = asked.iter().enumerate().filter_map(take).collect();
    let share = matchers.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let mut shares = matchers.chunks_mut(share);
        let own = shares.next();
        for other in shares {
            scope.spawn(move || make(other));
        }
        make(own.unwrap_or_default());
    });
    for (i, matcher) in matchers {
        if let Some(answering) = live(answers, &asked[i]) {
            *answering.matcher() = Some(matcher);
        }
    }
}
