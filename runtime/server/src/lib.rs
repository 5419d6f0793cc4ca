//! The server of trtc: engines behind HTTP, as OpenAI's clients expect it.
//!
//! [`Listener::bind`] takes an address, [`Listener::serve`] gives it engines, [`Server::run`] serves until
//! [`Handle::drain`]. Inside: [`queue`] orders what waits, [`desk`] is where it waits and where each engine's thread
//! ([`worker`]) fetches it, [`api`] reads and writes bodies, `http` has the sockets, [`tls`] certificates. Arguments, environment, signals
//! and output are the caller's.
#![deny(missing_docs)]

pub mod api;
mod app;
pub mod auth;
pub mod config;
pub mod desk;
pub mod error;
pub mod histogram;
mod http;
mod library;
pub mod log;
pub mod metrics;
mod models;
pub mod openapi;
pub mod queue;
pub mod rate;
pub mod server;
mod ticket;
pub mod tls;
pub mod trace;
pub mod worker;

pub use auth::Keys;
pub use config::Config;
pub use desk::Bounds;
pub use error::ApiError;
pub use library::{Library, Open, Wish};
pub use log::{Entry, Log, Record};
pub use server::{Ended, Handle, Listener, Server, ServerError};
pub use tls::{Files, TlsError};
pub use trace::{Collector, Endpoint};
