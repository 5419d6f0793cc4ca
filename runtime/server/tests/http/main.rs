//! The server over real sockets, with a small engine behind it: what clients see, and what is left of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answers;
mod browser;
mod client;
mod clients;
mod device;
mod ending;
mod idle;
mod limits;
mod models;
mod openapi;
mod overload;
mod page;
mod refusals;
mod responses;
mod structured;
mod support;
mod tls;
mod tools;
mod traces;
mod vocabulary;
