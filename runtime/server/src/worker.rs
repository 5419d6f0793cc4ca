//! The thread that drives an engine: fetches requests from its desk between steps, and hands on what steps bring.
//!
//! Never waits for a client: each request's channel has room for all that it can bring. Knows nothing of HTTP.

use crate::desk::{Caller, Desk, Inbox, Job, Update};
use crate::error::ApiError;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use trtc_runtime::{Engine, Event, Events, Finish, Stats};

/// Steps in a row that fail before the engine counts as broken.
const PATIENCE: u32 = 3;

/// Why an answer that lost its grammar has no end.
const LOST: &str =
    "the grammar of the request cannot be followed any further: make it simpler, or less ambiguous";

/// Answers beyond a batch that are in the engine, so that a place that becomes free is taken in the same step.
pub fn surplus(max_batch: u32) -> u32 {
    (max_batch / 8).clamp(1, 16)
}

/// Signs of life of a worker, readable at any time.
#[derive(Debug)]
pub struct Pulse {
    epoch: Instant,
    /// When the step under way began, milliseconds after `epoch` and 1; 0 between steps.
    began: AtomicU64,
    /// Steps that failed since one succeeded.
    failures: AtomicU32,
    ended: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse {
            epoch: Instant::now(),
            began: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            ended: AtomicBool::new(false),
        }
    }
}

impl Pulse {
    fn begin(&self) {
        let now = self.epoch.elapsed().as_millis() as u64;
        self.began.store(now + 1, Ordering::Relaxed);
    }

    fn end(&self) {
        self.began.store(0, Ordering::Relaxed);
    }

    /// How long the step under way has taken so far.
    pub fn stepping(&self) -> Option<Duration> {
        let began = self.began.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.epoch.elapsed().saturating_sub(Duration::from_millis(began)))
    }

    /// What is wrong, if something is; a step may take as long as `watchdog` says.
    pub fn complaint(&self, watchdog: Option<Duration>) -> Option<String> {
        if self.ended.load(Ordering::Relaxed) {
            return Some("its thread has ended".to_owned());
        }
        let failures = self.failures.load(Ordering::Relaxed);
        if failures >= PATIENCE {
            return Some(format!("the last {failures} steps failed"));
        }
        let (step, most) = (self.stepping()?, watchdog?);
        (step > most).then(|| format!("a step has taken {:.1} s so far", step.as_secs_f64()))
    }
}

/// Tells that the thread has ended, however it did.
struct Obituary(Arc<Desk>, Arc<Pulse>);

impl Drop for Obituary {
    fn drop(&mut self) {
        self.1.end();
        // Who was told to end is missed by nobody.
        self.1.ended.store(!self.0.is_ending(), Ordering::Relaxed);
        self.0.close("the engine has stopped");
    }
}

/// A prompt whose answers the engine is computing.
struct Live {
    number: u64,
    part: u32,
    priority: i32,
    updates: mpsc::Sender<Update>,
    arrived: Instant,
    /// When each answer's last token came.
    last: Vec<Option<Instant>>,
    /// No token has come yet.
    waits: bool,
    /// Answers that have not ended.
    open: u32,
    tokens: u64,
}

struct Worker {
    engine: Engine,
    desk: Arc<Desk>,
    pulse: Arc<Pulse>,
    /// By the engine's number.
    live: FxHashMap<u64, Live>,
    /// The engine's number of each of the desk's.
    numbers: FxHashMap<u64, u64>,
    /// Answers that have not ended.
    inside: u32,
    events: Events,
}

/// Starts the thread of an engine.
///
/// # Errors
/// The system gives no thread.
pub fn spawn(
    name: &str,
    engine: Engine,
    desk: Arc<Desk>,
    pulse: Arc<Pulse>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("engine {name}")).spawn(move || {
        let obituary = Obituary(Arc::clone(&desk), Arc::clone(&pulse));
        let worker = Worker {
            engine,
            desk,
            pulse,
            live: FxHashMap::default(),
            numbers: FxHashMap::default(),
            inside: 0,
            events: Events::new(),
        };
        worker.run();
        drop(obituary);
    })
}

/// Steps that were computed.
fn steps(stats: &Stats) -> u64 {
    stats.prefill.steps + stats.decode.steps
}

impl Worker {
    fn run(mut self) {
        let mut inbox = Inbox::default();
        while self.desk.fetch(self.caller(), &mut inbox) {
            inbox.cancelled.drain(..).for_each(|number| self.cancel(number));
            inbox.jobs.drain(..).for_each(|(number, job)| self.begin(number, job));
            if self.engine.is_idle() {
                continue;
            }
            let before = steps(&self.engine.stats());
            self.pulse.begin();
            let done = self.engine.step_into(&mut self.events);
            self.pulse.end();
            self.deliver();
            match done {
                // The events of what was cancelled come without a step.
                Ok(()) if steps(&self.engine.stats()) == before => {}
                Ok(()) => self.pulse.failures.store(0, Ordering::Relaxed),
                Err(error) => self.fail(ApiError::broken(format!("a step failed: {error}"))),
            }
        }
        // None is left of a desk that was drained.
        self.fail_all(&ApiError::unavailable(self.desk.closed().unwrap_or("the engine has stopped")));
    }

    fn caller(&self) -> Caller {
        let stats: Stats = self.engine.stats();
        let batch = self.engine.manifest().dims.max_batch;
        // What the last step left outside the batch, for want of memory or of tokens in a step, waits in the engine.
        let crowded = stats.waiting > surplus(batch) as usize;
        let room = if crowded { 0 } else { self.desk.places().saturating_sub(self.inside) };
        Caller {
            idle: self.engine.is_idle(),
            inside: self.inside,
            room,
            lowest: self.live.values().map(|l| l.priority).min(),
            stats,
        }
    }

    fn begin(&mut self, number: u64, job: Job) {
        let Job { request, part, arrived, updates } = job;
        let (n, priority, prompt) = (request.n, request.priority, request.prompt.len() as u64);
        let id = match self.engine.submit(request) {
            Ok(id) => id,
            Err(error) => {
                self.desk.metrics.finish(Finish::Cancelled, u64::from(n));
                // A receiver that is gone needs no news.
                let _ = updates.try_send(Update::Failed(error.into()));
                return;
            }
        };
        let waited = arrived.elapsed();
        self.desk.count_taken(prompt, waited);
        let _ = updates.try_send(Update::Taken { waited });
        self.numbers.insert(number, id);
        self.inside += n;
        let last = vec![None; n as usize];
        self.live.insert(
            id,
            Live { number, part, priority, updates, arrived, last, waits: true, open: n, tokens: 0 },
        );
    }

    /// Forgets a prompt that nobody waits for; its pages are free before the next step.
    fn cancel(&mut self, number: u64) {
        let Some(id) = self.numbers.remove(&number) else {
            return;
        };
        self.engine.cancel(id);
        if let Some(live) = self.live.remove(&id) {
            self.inside -= live.open;
            self.desk.metrics.finish(Finish::Cancelled, u64::from(live.open));
        }
    }

    /// Hands on what a step has brought.
    fn deliver(&mut self) {
        let now = Instant::now();
        let metrics = &self.desk.metrics;
        // Counted before it is told: who has an answer finds it in the metrics.
        for event in self.events.drain() {
            let id = event.id();
            // The last events of what was cancelled.
            let Some(live) = self.live.get_mut(&id.request) else {
                continue;
            };
            let (part, index) = (live.part, id.index);
            let update = match event {
                Event::Prompt { logprobs, .. } => Update::Prompt { part, index, logprobs },
                Event::Token { token, text, logprob, .. } => {
                    metrics.generation_tokens.fetch_add(1, Ordering::Relaxed);
                    live.tokens += 1;
                    match live.last[index as usize].replace(now) {
                        Some(before) => metrics.inter_token.time(now - before),
                        None if live.waits => metrics.first_token.time(now - live.arrived),
                        None => {}
                    }
                    live.waits = false;
                    Update::Token { part, index, token, text: text.to_owned(), logprob }
                }
                Event::Done { finish, text, cached, .. } => {
                    live.open -= 1;
                    self.inside -= 1;
                    metrics.finish(finish, 1);
                    if live.open == 0 {
                        metrics.end_to_end.time(now - live.arrived);
                        metrics.generation_lengths.count(live.tokens);
                    }
                    match finish {
                        Finish::Lost => Update::Failed(ApiError::invalid(LOST)),
                        finish => Update::Done { part, index, finish, text: text.to_owned(), cached },
                    }
                }
            };
            // Room is never missing, and who is gone has the ticket that cancels.
            let _ = live.updates.try_send(update);
            if live.open == 0 {
                self.numbers.remove(&live.number);
                self.live.remove(&id.request);
            }
        }
    }

    /// A step failed: those who wait are told, and the engine begins anew with whoever comes next.
    fn fail(&mut self, error: ApiError) {
        self.pulse.failures.fetch_add(1, Ordering::Relaxed);
        self.desk.metrics.failed_steps.fetch_add(1, Ordering::Relaxed);
        self.fail_all(&error);
    }

    fn fail_all(&mut self, error: &ApiError) {
        for (id, live) in self.live.drain() {
            let _ = live.updates.try_send(Update::Failed(error.clone()));
            self.engine.cancel(id);
            self.desk.metrics.finish(Finish::Cancelled, u64::from(live.open));
        }
        self.numbers.clear();
        self.inside = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_complains_of_what_is_wrong() {
        let pulse = Pulse::default();
        let limit = Some(Duration::ZERO);
        assert_eq!((pulse.complaint(limit), pulse.stepping()), (None, None));
        pulse.begin();
        std::thread::sleep(Duration::from_millis(3));
        assert!(pulse.stepping().is_some_and(|d| d >= Duration::from_millis(1)));
        assert!(pulse.complaint(limit).is_some_and(|c| c.contains("a step has taken")));
        assert_eq!(pulse.complaint(Some(Duration::from_secs(60))), None);
        assert_eq!(pulse.complaint(None), None);
        pulse.end();
        assert_eq!(pulse.complaint(limit), None);
        pulse.failures.store(PATIENCE, Ordering::Relaxed);
        assert!(pulse.complaint(None).is_some_and(|c| c.contains("3 steps failed")));
        pulse.ended.store(true, Ordering::Relaxed);
        assert!(pulse.complaint(None).is_some_and(|c| c.contains("ended")));
    }

    #[test]
    fn the_surplus_is_small() {
        assert_eq!([1, 8, 64, 256, 4096].map(surplus), [1, 1, 8, 16, 16]);
    }
}
