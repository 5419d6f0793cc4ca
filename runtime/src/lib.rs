//! The runtime of trtc: loads an engine file and serves it.
//!
//! [`Engine`] is what an application uses; `examples/generate.rs` is the whole of it in ten lines. Below it:
//! [`device`] executes launches, [`kv`] and [`sched`] decide what each step computes, `exec` turns the decision into
//! a step's buffers, [`sample`] chooses tokens, those that a [`grammar`] allows, [`text`] turns them into text. Nothing of the
//! compiler is in here.
#![deny(missing_docs)]

pub mod device;
pub mod engine;
pub mod error;
mod exec;
pub mod grammar;
pub mod kv;
mod limits;
pub mod metrics;
pub mod request;
pub mod sample;
pub mod sched;
pub mod text;

pub use engine::{DeviceChoice, Engine, Events, Generate, LoadOptions, open_device};
pub use error::{Error, Fault};
pub use exec::{CACHE_SHARE, CacheSize, footprint};
pub use grammar::{Grammar, GrammarSpec, Grammars};
pub use limits::Limits;
pub use metrics::Stats;
pub use request::{Answer, AnswerId, Event, Finish, Request, Sampling, TokenLogprob};
