//! HTTP: connections, what is the same for every request, and the routes.

mod admin;
mod body;
pub mod connection;
mod generate;
mod page;
mod respond;
mod routes;
mod serve;
mod timed;

pub use routes::{operations, router};

use crate::log::Record;
use crate::trace::Trace;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What is known of a request before its handler runs.
#[derive(Clone)]
pub struct Context {
    /// The name of the key, or the address.
    pub client: Arc<str>,
    /// Who asks may load and unload models.
    pub admin: bool,
    /// When it came.
    pub arrived: Instant,
    /// Its place in a trace, where there are traces.
    trace: Option<Arc<Trace>>,
    /// What will be logged of it.
    record: Arc<Mutex<Record>>,
}

impl Context {
    /// What will be logged; a thread that panicked left it as good as it was.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time as milliseconds.
fn ms(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
