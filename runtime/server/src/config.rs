//! How a server behaves: every limit in one place. Read from nowhere; the command line fills it in.

use crate::auth::Keys;
use crate::desk::Bounds;
use crate::tls::Files;
use crate::trace::Collector;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Limits and switches of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens; port 0 takes any that is free.
    pub address: SocketAddr,
    /// With a certificate it speaks TLS, and nothing else.
    pub tls: Option<Files>,
    /// Who may ask; none means everybody.
    pub keys: Keys,
    /// `/metrics` needs no key.
    pub public_metrics: bool,
    /// There is a page at `/`.
    pub page: bool,
    /// Pages of these origins may read answers; `*` is all.
    pub cors_origins: Vec<String>,
    /// What may wait for each engine.
    pub queue: Bounds,
    /// Longest body of a request, bytes.
    pub max_body: usize,
    /// Most connections; more wait until one is closed.
    pub max_connections: usize,
    /// How long a request may take in all.
    pub request_timeout: Option<Duration>,
    /// How long a client may take for the handshake of TLS, again to send a request's head, and again its body; also how
    /// long it may do nothing between two requests.
    pub read_timeout: Duration,
    /// How long a client may read nothing while an answer waits for it.
    pub write_timeout: Duration,
    /// How long a stream says nothing before a comment keeps it open.
    pub keep_alive: Duration,
    /// How long running requests may go on once the server is told to end.
    pub drain_timeout: Duration,
    /// How long a step may take before the server calls itself unhealthy.
    pub watchdog: Option<Duration>,
    /// Then it also ends.
    pub watchdog_exit: bool,
    /// Who is told of each request.
    pub collector: Option<Collector>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
            tls: None,
            keys: Keys::none(),
            public_metrics: false,
            page: true,
            cors_origins: Vec::new(),
            queue: Bounds { answers: 1024, tokens: 4 << 20, wait: Some(Duration::from_secs(10)) },
            max_body: 32 << 20,
            max_connections: 4096,
            request_timeout: None,
            read_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            watchdog: Some(Duration::from_secs(300)),
            watchdog_exit: false,
            collector: None,
        }
    }
}
