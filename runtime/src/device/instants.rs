//! Events of a device that executes launches as they come: the time at which each was marked. The last ones are kept.

use super::Event;
use crate::error::Error;
use std::time::Instant;

/// Events that are remembered.
pub const EVENTS: usize = 4096;

/// Times by the number of their event.
#[derive(Debug, Default)]
pub struct Instants {
    /// Event `i` is at `i % EVENTS`.
    times: Vec<Instant>,
    next: u32,
}

impl Instants {
    /// Marks this moment.
    pub fn mark(&mut self) -> Event {
        let (event, now) = (self.next, Instant::now());
        match self.times.get_mut(event as usize % EVENTS) {
            Some(slot) => *slot = now,
            None => self.times.push(now),
        }
        self.next = event.wrapping_add(1);
        Event(event)
    }

    /// When an event was marked.
    ///
    /// # Errors
    /// It never was, or too many were after it.
    pub fn at(&self, event: Event) -> Result<Instant, Error> {
        let age = self.next.wrapping_sub(event.0);
        let known = age >= 1 && age as usize <= self.times.len();
        let at = self.times.get(event.0 as usize % EVENTS).filter(|_| known);
        at.copied().ok_or_else(|| Error::bug(format!("event {} is not among the last {EVENTS}", event.0)))
    }

    /// Seconds from one event to another; negative if the other came before.
    ///
    /// # Errors
    /// As [`Instants::at`].
    pub fn elapsed(&self, from: Event, to: Event) -> Result<f64, Error> {
        let (from, to) = (self.at(from)?, self.at(to)?);
        Ok(if to >= from { (to - from).as_secs_f64() } else { -(from - to).as_secs_f64() })
    }
}
