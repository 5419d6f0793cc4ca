//! What every request can see of the server: its models, its limits, and whether it is about to end.

use crate::config::Config;
use crate::error::ApiError;
use crate::library::Library;
use crate::log::{Entry, Log, Record};
use crate::metrics::ServerMetrics;
use crate::models::{self, Model, Models};
use crate::trace::{Finished, Trace, Tracer, span};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The server's state.
pub struct App {
    /// Limits and switches.
    pub config: Config,
    /// All models.
    pub models: Arc<Models>,
    /// What may be loaded later.
    pub later: Option<Library>,
    /// Errors and connections.
    pub metrics: ServerMetrics,
    log: Log,
    /// Takes spans, if somebody wants them.
    tracer: Option<Tracer>,
    draining: AtomicBool,
    active: AtomicUsize,
    random: RandomState,
    made: AtomicU64,
}

/// A request that the end of the server waits for.
pub struct Active(Arc<App>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl App {
    /// Before the first request.
    pub fn new(
        config: Config,
        models: Arc<Models>,
        later: Option<Library>,
        log: Log,
        tracer: Option<Tracer>,
    ) -> App {
        App {
            config,
            models,
            later,
            metrics: ServerMetrics::default(),
            log,
            tracer,
            draining: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            random: RandomState::new(),
            made: AtomicU64::new(0),
        }
    }

    /// The model of a name; the only one if no name is given.
    pub fn model(&self, name: Option<&str>) -> Result<Arc<Model>, ApiError> {
        let serving = self.models.serving();
        let found = match (name, &*serving) {
            (None, [only]) => Some(only),
            (None, all) => return Err(models::unnamed(all)),
            (Some(name), all) => all.iter().find(|m| *m.name == *name),
        };
        found.cloned().ok_or_else(|| models::missing(name.unwrap_or_default(), &serving))
    }

    /// What is wrong with the engines, if something is.
    pub fn complaints(&self) -> Vec<String> {
        let of = |m: &Arc<Model>| Some(format!("{}: {}", m.name, m.pulse.complaint(self.config.watchdog)?));
        self.models.serving().iter().filter_map(of).collect()
    }

    /// Takes no new requests from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// True once no new requests are taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Requests that are being answered.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Begins to answer a request, unless the server is about to end.
    pub fn begin(self: &Arc<App>) -> Result<Active, ApiError> {
        // Counted before the look, so that who drains sees it or it sees who drains.
        self.active.fetch_add(1, Ordering::SeqCst);
        let active = Active(Arc::clone(self));
        if self.draining.load(Ordering::SeqCst) {
            return Err(ApiError::unavailable("the server is shutting down: ask another one"));
        }
        Ok(active)
    }

    /// True if requests have places in traces.
    pub fn traces(&self) -> bool {
        self.tracer.is_some()
    }

    /// The end of a request: a line of the log, and a span in its trace.
    pub fn finish(&self, record: &Record, trace: Option<&Trace>) {
        if let Some((tracer, trace)) = self.tracer.as_ref().zip(trace.filter(|t| t.sampled)) {
            let spans = span::count(record);
            if !tracer.put(Finished { record: Box::new(record.clone()), trace: trace.clone() }) {
                self.metrics.spans_dropped.fetch_add(spans, Ordering::Relaxed);
            }
        }
        self.log(&Entry::Request(Box::new(record.clone())));
    }

    /// Writes a line.
    fn log(&self, entry: &Entry) {
        (self.log)(entry);
    }

    /// Writes a line of what the server does.
    pub fn note(&self, message: impl Into<String>) {
        self.log(&Entry::Note { time_ms: unix_ms(), message: message.into() });
    }

    /// A name that no other request has; 32 hexadecimal digits.
    pub fn make_id(&self) -> String {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}{:016x}", self.random.hash_one(n), self.random.hash_one(!n))
    }
}
