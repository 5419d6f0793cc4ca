//! An answer on its way to a client: news of an engine become text, in the shape that was asked for.
//!
//! Each shape is a file of its own; which one it is is decided here.

use super::Endpoint;
use super::chunks::Chunks;
use super::params::Streaming;
use super::responses::Turn;
use super::whole::{Gathered, Shape};
use crate::desk::Update;
use crate::error::ApiError;
use serde::Serialize;

/// How long the parts of an answer took, milliseconds from the request's arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Until the engine took it in.
    pub queue_ms: Option<f64>,
    /// Until the first token.
    pub ttft_ms: Option<f64>,
    /// Until now.
    pub total_ms: f64,
}

/// What writes an answer. One that is sent whole appends nothing before its end.
pub trait Answer: Send {
    /// Appends what news are to the client.
    fn take(&mut self, update: Update, out: &mut String);

    /// Appends the end, once there are no news to come.
    fn finish(&mut self, timings: &Timings, out: &mut String);

    /// Appends an error, which is the end.
    fn fail(&mut self, error: &ApiError, out: &mut String);

    /// Tokens so far.
    fn tokens(&self) -> u64;

    /// Why answers ended.
    fn reasons(&self) -> Vec<&'static str>;
}

/// What writes an answer to so many prompts: as a stream, or whole.
pub fn writer(shape: Shape, prompts: usize, stream: Option<Streaming>) -> Box<dyn Answer> {
    match (shape.endpoint, stream) {
        (Endpoint::Responses, stream) => Box::new(Turn::new(shape, stream.is_some())),
        (_, Some(options)) => Box::new(Chunks::new(shape, prompts, options.usage)),
        (_, None) => Box::new(Gathered::new(shape, prompts)),
    }
}
