//! Traces: a span for each request, given to a collector of OpenTelemetry over HTTP (OTLP, encoded as JSON).
//!
//! A request that ends puts its record into a queue and never waits: what finds no room is dropped and counted. One task
//! ([`export`]) takes from the queue and sends. [`context`] reads whose trace a request belongs to, [`span`] says what
//! a span has; nothing of a prompt, an answer or a key is in it.

pub mod context;
pub mod export;
pub mod span;

pub use context::Trace;
pub use export::Exporter;

use crate::log::Record;
use hyper::Uri;
use std::time::Duration;
use tokio::sync::mpsc;

/// Where spans go, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Requests that may wait to be sent.
    pub queue: usize,
    /// Most requests that are sent together.
    pub batch: usize,
    /// How long a request's span may wait for company.
    pub delay: Duration,
    /// How long the collector may take for one batch.
    pub timeout: Duration,
    /// How long to wait before the second attempt; before each one after it twice as long as before the last.
    pub pause: Duration,
}

impl Collector {
    /// With the limits that OpenTelemetry's own exporters have.
    pub fn new(endpoint: Endpoint) -> Collector {
        Collector {
            endpoint,
            queue: 2048,
            batch: 512,
            delay: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            pause: Duration::from_secs(1),
        }
    }
}

/// The address of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name, or an address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What the header `Host` says.
    pub authority: String,
    /// Where traces are posted.
    pub path: String,
}

/// Why a text is no address of a collector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; give one such as http://127.0.0.1:4318")]
pub struct BadEndpoint(String);

impl Endpoint {
    /// Reads `http://HOST[:PORT][/PATH]`, behind which `/v1/traces` is put.
    ///
    /// # Errors
    /// It is no such address. TLS is not spoken: a collector beside the server takes spans and sends them on.
    pub fn parse(text: &str) -> Result<Endpoint, BadEndpoint> {
        let wrong = |what: &str| BadEndpoint(format!("'{text}' is no address of a collector: {what}"));
        let uri: Uri = text.parse().map_err(|e| wrong(&format!("{e}")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(wrong("TLS is not spoken to collectors; run one here that sends spans on"));
            }
            _ => return Err(wrong("it does not begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?.as_str();
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(|| wrong("it names no host"))?;
        if authority.contains('@') || uri.query().is_some() {
            return Err(wrong("it has a user or a query"));
        }
        let port = match authority.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
            None => 80,
            Some(port) => port.parse().ok().filter(|&p| p > 0).ok_or_else(|| wrong("its port is none"))?,
        };
        Ok(Endpoint {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.to_owned(),
            path: format!("{}/v1/traces", uri.path().trim_end_matches('/')),
        })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// A request that is over, and its place in a trace.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What is known of it.
    pub record: Box<Record>,
    /// Its place.
    pub trace: Trace,
}

/// The way into the queue.
#[derive(Clone, Debug)]
pub struct Tracer(mpsc::Sender<Finished>);

impl Tracer {
    /// A queue, and who sends what is in it once it runs.
    pub fn new(collector: Collector) -> (Tracer, Exporter) {
        let (sender, receiver) = mpsc::channel(collector.queue.max(1));
        (Tracer(sender), Exporter::new(collector, receiver))
    }

    /// Puts a request into the queue; false if there is no room.
    pub fn put(&self, finished: Finished) -> bool {
        self.0.try_send(finished).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_collectors() {
        let of = |text: &str| Endpoint::parse(text).map(|e| (e.host.clone(), e.port, e.to_string()));
        let want = |host: &str, port, url: &str| Ok((host.to_owned(), port, url.to_owned()));
        assert_eq!(of("http://otel:4318"), want("otel", 4318, "http://otel:4318/v1/traces"));
        assert_eq!(of("http://[::1]:4318/"), want("::1", 4318, "http://[::1]:4318/v1/traces"));
        assert_eq!(of("http://a/base/"), want("a", 80, "http://a/base/v1/traces"));
        for text in
            ["", "otel:4318", "https://otel:4318", "http://", "http://a:0", "http://me@a", "http://a?x=1"]
        {
            assert!(of(text).is_err(), "{text:?}");
        }
    }
}
