//! OpenAI's API: bodies of requests to requests for an engine, and what an engine brings to bodies of responses.
//!
//! No sockets and no clock here: text in, text out.

pub mod answer;
pub mod calls;
pub mod chat;
pub mod chunks;
pub mod completions;
pub mod fields;
pub mod logprobs;
pub mod params;
pub mod responses;
pub mod schema;
pub mod structured;
pub mod tokenize;
pub mod tools;
pub mod whole;

use crate::error::ApiError;
use fields::Fields;
use params::{Facts, Wish};

/// Which of the ways to ask for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/completions`.
    Completions,
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/responses`.
    Responses,
}

impl Endpoint {
    /// Reads a body from which the model's name has been taken.
    pub fn parse(self, fields: Fields, facts: &Facts) -> Result<Wish, ApiError> {
        match self {
            Endpoint::Completions => completions::parse(fields, facts),
            Endpoint::Chat => chat::parse(fields, facts),
            Endpoint::Responses => responses::parse(fields, facts),
        }
    }

    /// What ids of its answers begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Endpoint::Completions => "cmpl-",
            Endpoint::Chat => "chatcmpl-",
            Endpoint::Responses => "resp_",
        }
    }

    /// What `object` says of a whole answer.
    pub fn object(self) -> &'static str {
        match self {
            Endpoint::Completions => "text_completion",
            Endpoint::Chat => "chat.completion",
            Endpoint::Responses => "response",
        }
    }
}
