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
        let tokens: u64 = requests.iter().map(|r| r.prompt.len() as u64).sum();
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
        let free = u64::from(self.places.saturating_sub(state.inside));
        let beyond = (state.queue.places() + places).saturating_sub(free);
        let full = beyond > self.bounds.answers
            || (!state.queue.is_empty() && state.queue.tokens() + tokens > self.bounds.tokens);
        if full && !urgent {
            let (waiting, tokens) = (state.queue.places(), state.queue.tokens());
            return Err(ApiError::busy(
                format!("the queue is full: {waiting} answers with {tokens} tokens of prompts wait"),
                state.rate.retry_after(state.queue.len(), now),
            ));
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

    /// Fetches what there is to do; waits for it if the engine is idle. False if the thread is to end.
    pub fn fetch(&self, caller: Caller, inbox: &mut Inbox) -> bool {
        let mut state = self.state();
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
        let now = Instant::now();
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
            state.rate.event(now);
            inbox.jobs.push((number, entry.item));
        }
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
mod tests {
    use super::*;

    fn desk(answers: u64, tokens: u64) -> Arc<Desk> {
        Arc::new(Desk::new(Bounds { answers, tokens }, 2))
    }

    fn request(n: u32) -> Request {
        Request { n, ..Request::new(vec![1; 10]) }
    }

    fn caller(room: u32) -> Caller {
        Caller { idle: false, inside: 2 - room, room, lowest: None, stats: Stats::default() }
    }

    fn submit(desk: &Arc<Desk>, n: u32) -> Result<Ticket, ApiError> {
        desk.submit(&"client".into(), vec![request(n)], Instant::now(), false)
    }

    #[test]
    fn what_has_no_place_and_may_not_wait_is_refused_at_once() {
        let desk = desk(1, u64::MAX);
        let first: Vec<Ticket> = (0..3).map(|_| submit(&desk, 1).unwrap()).collect();
        let refused = submit(&desk, 1).unwrap_err();
        assert_eq!((refused.status, refused.retry_after), (429, Some(60)));
        assert_eq!(submit(&desk, 4).unwrap_err().status, 400, "it can never be taken");
        assert!(desk.submit(&"client".into(), vec![request(1)], Instant::now(), true).is_ok());
        let mut inbox = Inbox::default();
        assert!(desk.fetch(caller(2), &mut inbox));
        assert_eq!(inbox.jobs.len(), 2);
        drop(first);
        assert_eq!(desk.levels().queued, 0, "who gives up waits no longer");
        assert!(desk.fetch(caller(0), &mut inbox));
        assert!(inbox.cancelled.contains(&0) && inbox.cancelled.contains(&1), "{:?}", inbox.cancelled);
    }

    #[test]
    fn tokens_are_bounded_but_for_one_request() {
        let desk = desk(10, 15);
        let _first = submit(&desk, 1).unwrap();
        assert_eq!(submit(&desk, 1).unwrap_err().status, 429);
        let mut inbox = Inbox::default();
        desk.fetch(caller(2), &mut inbox);
        assert!(desk.submit(&"client".into(), vec![request(1), request(1)], Instant::now(), false).is_ok());
    }

    #[test]
    fn a_request_with_more_answers_than_places_waits_until_the_engine_is_empty() {
        let desk = desk(10, u64::MAX);
        let _ticket = submit(&desk, 5).unwrap();
        let mut inbox = Inbox::default();
        desk.fetch(caller(1), &mut inbox);
        assert!(inbox.jobs.is_empty());
        desk.fetch(caller(2), &mut inbox);
        assert_eq!(inbox.jobs.len(), 1);
    }

    #[test]
    fn higher_priority_goes_in_though_all_places_are_taken() {
        let desk = desk(10, u64::MAX);
        let urgent = Request { priority: 1, ..request(1) };
        let _tickets = [submit(&desk, 1), desk.submit(&"b".into(), vec![urgent], Instant::now(), false)];
        let mut inbox = Inbox::default();
        desk.fetch(Caller { lowest: Some(1), ..caller(0) }, &mut inbox);
        assert!(inbox.jobs.is_empty());
        desk.fetch(Caller { lowest: Some(0), ..caller(0) }, &mut inbox);
        assert_eq!(inbox.jobs.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn after_the_end_nothing_is_taken_in() {
        let desk = desk(10, u64::MAX);
        let mut ticket = submit(&desk, 1).unwrap();
        assert_eq!(desk.close("it is over"), 1);
        assert_eq!(desk.close("another reason"), 0);
        assert!(!desk.fetch(Caller { idle: true, ..caller(2) }, &mut Inbox::default()));
        let refused = submit(&desk, 1).unwrap_err();
        assert_eq!((refused.status, &*refused.message), (503, "it is over"));
        let mut news = Vec::new();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(ticket.receive(&mut news));
        assert_eq!(news, [Update::Failed(ApiError::unavailable("it is over"))]);
    }

    #[test]
    fn a_desk_that_drains_hands_out_what_it_has_and_takes_nothing() {
        let desk = desk(10, u64::MAX);
        let _tickets = [submit(&desk, 1).unwrap(), submit(&desk, 1).unwrap()];
        desk.drain();
        assert_eq!(submit(&desk, 1).unwrap_err().status, 503);
        assert!(desk.is_ending() && desk.closed().is_none());
        let mut inbox = Inbox::default();
        assert!(desk.fetch(Caller { idle: true, ..caller(2) }, &mut inbox));
        assert_eq!(inbox.jobs.len(), 2);
        assert!(desk.fetch(caller(0), &mut inbox), "its answers are not complete");
        assert!(!desk.fetch(Caller { idle: true, ..caller(2) }, &mut inbox));
    }
}
