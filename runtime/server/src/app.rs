//! What every request can see of the server: its models, its limits, and whether it is about to end.

use crate::api::params::Facts;
use crate::config::Config;
use crate::desk::Desk;
use crate::error::ApiError;
use crate::log::{Entry, Log};
use crate::metrics::ServerMetrics;
use crate::worker::Pulse;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// An engine under its name.
#[derive(Debug)]
pub struct Model {
    /// The name that requests give.
    pub name: Arc<str>,
    /// What parsing needs.
    pub facts: Facts,
    /// Where requests wait.
    pub desk: Arc<Desk>,
    /// Signs of life.
    pub pulse: Arc<Pulse>,
    /// A token that a prompt can begin with.
    pub first_token: u32,
    /// When it was loaded, seconds since 1970.
    pub created: u64,
}

/// The server's state.
pub struct App {
    /// Limits and switches.
    pub config: Config,
    /// All models, at least one.
    pub models: Vec<Arc<Model>>,
    /// Errors and connections.
    pub metrics: ServerMetrics,
    log: Log,
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
    pub fn new(config: Config, models: Vec<Arc<Model>>, log: Log) -> App {
        App {
            config,
            models,
            metrics: ServerMetrics::default(),
            log,
            draining: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            random: RandomState::new(),
            made: AtomicU64::new(0),
        }
    }

    /// The model of a name; the only one if no name is given.
    pub fn model(&self, name: Option<&str>) -> Result<&Arc<Model>, ApiError> {
        let names = || self.models.iter().map(|m| &*m.name).collect::<Vec<_>>().join(", ");
        let missing = |what: String| ApiError::refused(404, what).param("model").code("model_not_found");
        match (name, self.models.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(missing(format!("model is missing: give one of {}", names()))),
            (Some(name), models) => models
                .iter()
                .find(|m| *m.name == *name)
                .ok_or_else(|| missing(format!("the model {name:?} does not exist: there is {}", names()))),
        }
    }

    /// What is wrong with the engines, if something is.
    pub fn complaints(&self) -> Vec<String> {
        let of = |m: &Arc<Model>| Some(format!("{}: {}", m.name, m.pulse.complaint(self.config.watchdog)?));
        self.models.iter().filter_map(of).collect()
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

    /// Writes a line.
    pub fn log(&self, entry: &Entry) {
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
