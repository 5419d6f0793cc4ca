//! Where requests wait for an engine, and where its thread fetches them between steps.
//!
//! One lock, held for a moment and never over a step. Refusals are told at once, without the engine's thread.

use crate::error::ApiError;
use crate::metrics::{EngineMetrics, Levels};
use crate::queue::{Entry, Queue};
use crate::rate::Rate;
pub use crate::ticket::{Ticket, Update};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use trtc_runtime::{Finish, Request, Stats};

/// A prompt on its way to the engine.
#[derive(Debug)]
pub struct Job {
    /// What is asked of the engine.
    pub request: Request,
    /// Which prompt of the client's request it is.
    pub part: u32,
    /// When the client's request came.
    pub arrived: Instant,
    /// Takes what becomes of it. Has room for everything: nobody waits for who does not read.
    pub updates: mpsc::Sender<Update>,
}

/// Bounds of what may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Answers that may wait beyond those for which the engine has a place.
    pub answers: u64,
    /// Tokens of prompts that may wait; a request that finds the queue empty may have more.
    pub tokens: u64,
    /// How long a request may be expected to wait.
    pub wait: Option<Duration>,
}

/// What the engine's thread fetches.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Prompts to begin with, with their numbers.
    pub jobs: Vec<(u64, Job)>,
    /// Numbers of prompts that nobody waits for any more.
    pub cancelled: Vec<u64>,
}

/// What the engine's thread tells of itself when it comes.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// True if the engine has nothing to do.
    pub idle: bool,
    /// Answers in the engine.
    pub inside: u32,
    /// Answers that may be added.
    pub room: u32,
    /// The lowest priority in the engine: who stands above it may go in though there is no room.
    pub lowest: Option<i32>,
    /// The engine's numbers.
    pub stats: Stats,
}

/// What the thread is to do when it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Hours {
    /// To go on.
    #[default]
    Open,
    /// To end once all that was taken in is answered.
    Draining,
    /// To end at once, or it has ended; why.
    Closed(&'static str),
}

#[derive(Debug, Default)]
struct State {
    queue: Queue<Job>,
    cancelled: Vec<u64>,
    next: u64,
    inside: u32,
    rate: Rate,
    stats: Stats,
    hours: Hours,
}

/// The desk of one engine.
#[derive(Debug)]
pub struct Desk {
    state: Mutex<State>,
    wake: Condvar,
    bounds: Bounds,
    /// Answers that the engine takes: its batch and a small surplus.
    places: u32,
    /// What is counted.
    pub metrics: EngineMetrics,
}

impl Desk {
    /// A desk before an engine with so many places.
    pub fn new(bounds: Bounds, places: u32) -> Desk {
        Desk {
            state: Mutex::default(),
            wake: Condvar::new(),
            bounds,
            places,
            metrics: EngineMetrics::default(),
        }
    }

    /// A thread that panicked left nothing half done: each change is one call on the queue.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places in the engine.
    pub fn places(&self) -> u32 {
        self.places
    }

    /// Takes in the prompts of one request, which came at `now`: all or none. `urgent` ones are not held to the
    /// bounds.
    pub fn submit(
        self: &Arc<Desk>,
        client: &Arc<str>,
        requests: Vec<Request>,
        now: Instant,
        urgent: bool,
    ) -> Result<Ticket, ApiError> {
        let places: u64 = requests.iter().map(|r| u64::from(r.n)).sum();
        let most = self.bounds.answers + u64::from(self.places);
        if places > most && !urgent {
            return Err(ApiError::invalid(format!(
                "the request asks for {places} answers, this server takes {most} at once: divide it"
            )));
        }
        // Each answer's tokens, its end and what is said of its prompt; each prompt's beginning and failure.
        let room: usize = requests.iter().map(|r| 2 + r.n as usize * (r.max_tokens as usize + 2)).sum();
        let (sender, updates) = mpsc::channel(room.min(tokio::sync::Semaphore::MAX_PERMITS));
        let mut state = self.state();
        match state.hours {
            Hours::Open => {}
            Hours::Draining => return Err(ApiError::unavailable("the model is being unloaded")),
            Hours::Closed(why) => return Err(ApiError::unavailable(why)),
        }
        if let Some(why) = self.crowd(&state, client, &requests).filter(|_| !urgent) {
            return Err(ApiError::busy(why, state.rate.retry_after(state.queue.places())));
        }
        let first = state.next;
        for (part, request) in (0..).zip(requests) {
            let number = state.next;
            state.next += 1;
            let entry = Entry {
                client: Arc::clone(client),
                priority: request.priority,
                tokens: request.prompt.len() as u64,
                places: request.n,
                item: Job { request, part, arrived: now, updates: sender.clone() },
            };
            state.queue.push(number, entry);
        }
        let numbers = first..state.next;
        drop(state);
        self.wake.notify_one();
        Ok(Ticket::new(Arc::clone(self), numbers, places, updates))
    }

    /// Why a request may not wait, if it has no place and may not.
    fn crowd(&self, state: &State, client: &str, requests: &[Request]) -> Option<String> {
        let places: u64 = requests.iter().map(|r| u64::from(r.n)).sum();
        let tokens: u64 = requests.iter().map(|r| r.prompt.len() as u64).sum();
        let (waiting, their_tokens) = (state.queue.places(), state.queue.tokens());
        let free = u64::from(self.places.saturating_sub(state.inside));
        if (waiting + places).saturating_sub(free) > self.bounds.answers
            || (waiting > 0 && their_tokens + tokens > self.bounds.tokens)
        {
            return Some(format!(
                "the queue is full: {waiting} answers with {their_tokens} tokens of prompts wait"
            ));
        }
        let most = self.bounds.wait?;
        let priority = requests.first().map_or(0, |r| r.priority);
        let ahead = state.queue.ahead(client, priority) as u64;
        // Entries have as many places as those that wait have in the mean.
        let ahead = (ahead * waiting).div_ceil((state.queue.len() as u64).max(1));
        let beyond = (ahead + places).saturating_sub(free);
        let wait = state.rate.time_for(beyond).filter(|wait| beyond > 0 && *wait > most)?;
        let (seconds, most) = (wait.as_secs_f64(), most.as_secs_f64());
        Some(format!(
            "the queue is too long: {ahead} answers wait before this one, for about {seconds:.0} s, and {most} s are the most"
        ))
    }

    /// Fetches what there is to do; waits for it if the engine is idle. False if the thread is to end.
    pub fn fetch(&self, caller: Caller, inbox: &mut Inbox) -> bool {
        let mut state = self.state();
        let left = state.inside.saturating_sub(caller.inside);
        state.inside = caller.inside;
        state.stats = caller.stats;
        let nothing = |s: &State| caller.idle && s.queue.is_empty() && s.cancelled.is_empty();
        while nothing(&state) && state.hours == Hours::Open {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.hours {
            Hours::Open => {}
            Hours::Draining if nothing(&state) => return false,
            Hours::Draining => {}
            Hours::Closed(_) => return false,
        }
        inbox.cancelled.append(&mut state.cancelled);
        let mut room = caller.room;
        // What goes in above others makes room for itself in the engine; as much again is the bound.
        let mut above = self.places;
        while let Some(front) = state.queue.front() {
            let alone = state.inside == 0;
            if front.places <= room || alone {
                room = room.saturating_sub(front.places);
            } else if front.places <= above
                && caller.lowest.is_some_and(|lowest| front.priority > lowest)
                && state.inside < 2 * self.places
            {
                above -= front.places;
            } else {
                break;
            }
            let Some((number, entry)) = state.queue.pop() else { break };
            state.inside += entry.places;
            inbox.jobs.push((number, entry.item));
        }
        let waits = !state.queue.is_empty();
        state.rate.count(left, waits, Instant::now());
        true
    }

    /// Takes in nothing more; the thread ends once all is answered.
    pub fn drain(&self) {
        let mut state = self.state();
        if state.hours == Hours::Open {
            state.hours = Hours::Draining;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Ends the thread: at once, what waits and what runs is given up, and told `why` if nobody said so before. Gives
    /// the number of answers that were given up.
    pub fn close(&self, why: &'static str) -> u64 {
        let mut state = self.state();
        if let Hours::Closed(_) = state.hours {
            return 0;
        }
        state.hours = Hours::Closed(why);
        let inside = u64::from(state.inside);
        // Their senders go with them: who waits is told.
        let waiting = std::mem::take(&mut state.queue);
        drop(state);
        self.metrics.finish(Finish::Cancelled, waiting.places());
        self.wake.notify_one();
        inside + waiting.places()
    }

    /// Why nothing is answered any more, once that is so.
    pub fn closed(&self) -> Option<&'static str> {
        match self.state().hours {
            Hours::Closed(why) => Some(why),
            _ => None,
        }
    }

    /// True once the thread was told to end.
    pub fn is_ending(&self) -> bool {
        self.state().hours != Hours::Open
    }

    /// Counts a prompt that the engine takes in.
    pub fn count_taken(&self, prompt: u64, waited: Duration) {
        self.metrics.prompt_tokens.fetch_add(prompt, Ordering::Relaxed);
        self.metrics.prompt_lengths.count(prompt);
        self.metrics.queued.time(waited);
    }

    /// How full the engine and the queue are.
    pub fn levels(&self) -> Levels {
        let state = self.state();
        Levels { stats: state.stats, queued: state.queue.places(), queued_tokens: state.queue.tokens() }
    }

    /// Gives prompts up: they wait no longer, or the engine's thread is told.
    pub(crate) fn cancel(&self, numbers: Range<u64>) {
        let mut state = self.state();
        let mut waited = 0;
        for number in numbers {
            match state.queue.remove(number) {
                Some(entry) => waited += u64::from(entry.places),
                None if !matches!(state.hours, Hours::Closed(_)) => state.cancelled.push(number),
                None => {}
            }
        }
        drop(state);
        self.metrics.finish(Finish::Cancelled, waited);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests;
