//! `POST /v1/responses`: the body to a request for the engine. Nothing is stored, so what refers to something that is gone
//! is refused.
//!
//! What a conversation is made of is `input.rs`; what an answer becomes is `turn.rs`.

mod input;
mod turn;

pub use input::ROLES;
pub use turn::Turn;

use super::Endpoint;
use super::chat;
use super::fields::Fields;
use super::params::{self, Facts, Wish};
use super::tools;
use crate::error::ApiError;
use serde_json::{Map, Value, json};

/// What asks for log-probabilities, in `include`.
pub const LOGPROBS: &str = "message.output_text.logprobs";

/// What answers repeat of a request as it was given, with what stands there if it was not.
fn repeated() -> [(&'static str, Value); 10] {
    [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", json!(true)),
        ("prompt_cache_key", Value::Null),
        ("safety_identifier", Value::Null),
        ("text", json!({ "format": { "type": "text" } })),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("user", Value::Null),
    ]
}

/// Reads a body; the model is known already.
pub fn parse(mut fields: Fields, facts: &Facts) -> Result<Wish, ApiError> {
    let mut asked: Map<String, Value> = Map::new();
    for (name, default) in repeated() {
        asked.insert(name.to_owned(), fields.peek(name).cloned().unwrap_or(default));
    }
    let messages = input::messages(&mut fields)?;
    let common = params::common(&mut fields, facts, Endpoint::Responses)?;
    let sampling = &common.request.sampling;
    asked.insert("temperature".to_owned(), decimal(sampling.temperature));
    asked.insert("top_p".to_owned(), decimal(sampling.top_p));
    let max_tokens = fields.count("max_output_tokens")?;
    let reports = include(&mut fields)?;
    let top = params::alternatives(&mut fields, "top_logprobs")?.unwrap_or(0);
    if top > 0 && !reports {
        let what = format!("top_logprobs is given and include has no {LOGPROBS:?}: add it");
        return Err(ApiError::invalid(what).param("top_logprobs"));
    }
    asked.insert("top_logprobs".to_owned(), top.into());
    let tools = tools::take(&mut fields, facts, Endpoint::Responses)?;
    params::finish(fields)?;
    let wish = chat::wish(common, &messages, tools, max_tokens, reports.then_some(top), facts);
    let wish = wish.map_err(|e| e.renamed("max_tokens", "max_output_tokens").renamed("messages", "input"))?;
    Ok(Wish { asked, ..wish })
}

/// A number as it is written, not as the nearest f64 of an f32.
fn decimal(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// True if log-probabilities are asked for.
fn include(fields: &mut Fields) -> Result<bool, ApiError> {
    let wanted = fields.texts("include")?.unwrap_or_default();
    match wanted.iter().find(|w| *w != LOGPROBS) {
        None => Ok(!wanted.is_empty()),
        Some(other) => {
            let why = format!("{other:?} is not supported; give {LOGPROBS:?}, or leave it out");
            Err(ApiError::unsupported("include", &why))
        }
    }
}
