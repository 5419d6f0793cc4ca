//! The API as an OpenAPI 3.1 document, made of the tables of routes, requests and answers.
//!
//! It is the same for every server of a version: nothing of models, keys and limits is in it.

pub mod answers;
mod conversations;
mod logprobs;
pub mod operations;
pub mod requests;
pub mod responses;
#[cfg(test)]
mod tests;
pub mod turns;

use crate::api::schema::Kind;
pub use crate::http::operations as all;
use operations::{Access, Answer, Events, Operation};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// Every status of an error, and when it comes.
pub const STATUSES: &[(u16, &str)] = &[
    (400, "A parameter is wrong, not known or not supported, or the body is no JSON."),
    (401, "No key, or a wrong one."),
    (403, "A key for requests where an admin's is needed, or a server that loads nothing."),
    (404, "There is no such model, file or path."),
    (405, "The path does not take the method."),
    (408, "The body came too slowly."),
    (409, "The model's name is taken."),
    (413, "The body is too long."),
    (429, "Too many wait; retry-after says when to ask again."),
    (500, "A step failed, or a bug."),
    (503, "The server is ending, or an engine is not well: ask another one."),
    (504, "The request's time is over."),
];

/// Headers of answers: name, kind of their value, and what it is.
const HEADERS: &[(&str, &str, &str)] = &[
    ("x-request-id", "string", "The request's name, which is in the log."),
    ("retry-after", "integer", "Seconds until it makes sense to ask again."),
    ("x-trtc-queue-ms", "number", "Milliseconds until an engine took the request in."),
    ("x-trtc-ttft-ms", "number", "Milliseconds until the first token."),
    ("x-trtc-total-ms", "number", "Milliseconds in all."),
];

/// Headers that a request may have.
const ASKED_HEADERS: &[(&str, &str)] = &[
    ("x-request-id", "A name for the request: up to 128 letters, digits and -_.: are taken over."),
    ("traceparent", "The trace that the request belongs to, as W3C's Trace Context has it."),
];

const ABOUT: &str = "Engines of trtc behind OpenAI's API. A request is honoured as it stands or refused with a message that \
                     names the parameter. A path that is not here is answered with 404, and a method that its path does \
                     not take with 405; both with the body of every other error.";

/// The document as text, made once.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));
    &TEXT
}

/// The document.
pub fn document() -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for operation in all() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation, &mut schemas);
    }
    let error = Kind::Object(&answers::ERROR).schema(&mut schemas);
    let responses: Map<String, Value> = STATUSES
        .iter()
        .map(|(status, when)| {
            let headers = if *status == 429 { &HEADERS[..2] } else { &HEADERS[..1] };
            let body = json!({
                "description": when, "headers": referred(headers), "content": { "application/json": { "schema": error } },
            });
            (status.to_string(), body)
        })
        .collect();
    let headers: Map<String, Value> = HEADERS
        .iter()
        .map(|(name, kind, help)| {
            ((*name).to_owned(), json!({ "description": help, "schema": { "type": kind } }))
        })
        .collect();
    let parameters: Map<String, Value> = ASKED_HEADERS
        .iter()
        .map(|(name, help)| {
            let schema = json!({ "type": "string" });
            (
                (*name).to_owned(),
                json!({ "name": name, "in": "header", "description": help, "schema": schema }),
            )
        })
        .collect();
    let key = |what: &str| json!({ "type": "http", "scheme": "bearer", "description": what });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "trtc serve", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "The server that this document comes from." }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "headers": headers,
            "parameters": parameters,
            "securitySchemes": {
                "key": key("A client's key; a server without keys asks for none."),
                "adminKey": key("A key of who may load and unload models, which is good for everything."),
            },
        },
    })
}

fn referred(headers: &[(&str, &str, &str)]) -> Value {
    let one = |(name, ..): &(&str, &str, &str)| {
        ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }))
    };
    Value::Object(headers.iter().map(one).collect())
}

fn described(operation: &Operation, schemas: &mut Map<String, Value>) -> Value {
    let mut responses = Map::new();
    if let Some(content) = content(&operation.answer, schemas) {
        let headers: Vec<_> = match operation.answer {
            // Those that say how long things took.
            Answer::Either(..) => {
                HEADERS.iter().filter(|(name, ..)| *name != "retry-after").copied().collect()
            }
            _ => HEADERS[..1].to_vec(),
        };
        let answer =
            json!({ "description": operation.help, "headers": referred(&headers), "content": content });
        responses.insert("200".to_owned(), answer);
    }
    let keyed = (operation.access != Access::Open).then_some(401);
    let mut errors: Vec<u16> = keyed.into_iter().chain(operation.errors.iter().copied()).collect();
    errors.sort_unstable();
    for status in errors {
        let refers = json!({ "$ref": format!("#/components/responses/{status}") });
        responses.insert(status.to_string(), refers);
    }
    let mut parameters: Vec<Value> = ASKED_HEADERS
        .iter()
        .map(|(name, _)| json!({ "$ref": format!("#/components/parameters/{name}") }))
        .collect();
    let in_path = operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    parameters.extend(
        in_path.map(
            |name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }),
        ),
    );
    let mut value = json!({
        "operationId": operation.id,
        "summary": operation.help,
        "security": match operation.access {
            Access::Open => json!([]),
            Access::Admin => json!([{ "adminKey": [] }]),
            // The last one is nothing: a server without keys.
            Access::Key | Access::Metrics => json!([{ "key": [] }, { "adminKey": [] }, {}]),
        },
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = &operation.body {
        let schema = body.schema(schemas);
        let examples: Map<String, Value> = operation
            .examples
            .iter()
            .map(|(name, text)| {
                // A test parses all of them.
                let body: Value = serde_json::from_str(text).unwrap_or_default();
                ((*name).to_owned(), json!({ "value": body }))
            })
            .collect();
        let content = json!({ "application/json": { "schema": schema, "examples": examples } });
        value["requestBody"] = json!({ "required": true, "content": content });
    }
    value
}

/// What stands under `content` of an answer; none if there is no answer.
fn content(answer: &Answer, schemas: &mut Map<String, Value>) -> Option<Value> {
    Some(match answer {
        Answer::Never => return None,
        Answer::Object(object) => {
            json!({ "application/json": { "schema": Kind::Object(object).schema(schemas) } })
        }
        Answer::Either(whole, events) => {
            let whole = Kind::Object(whole).schema(schemas);
            let event = event(events, schemas);
            json!({ "application/json": { "schema": whole }, "text/event-stream": { "schema": event } })
        }
        Answer::Text(kind) => json!({ *kind: { "schema": { "type": "string" } } }),
        Answer::Document => json!({ "application/json": { "schema": { "type": "object" } } }),
    })
}

/// An event of a stream. OpenAPI 3.1 has no words for streams: by convention the schema is that of an event.
fn event(events: &Events, schemas: &mut Map<String, Value>) -> Value {
    let text = |schema: Value| json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": schema });
    match events {
        Events::Chunks(chunk) => {
            let (chunk, error) =
                (Kind::Object(chunk).schema(schemas), Kind::Object(&answers::ERROR).schema(schemas));
            let any = json!({ "anyOf": [chunk, error] });
            let done = json!({ "const": "[DONE]", "description": "The last data of a stream." });
            json!({
                "type": "object",
                "description": "One of the server-sent events. An Error ends the stream; lines that begin with a colon keep \
                                the connection open.",
                "properties": { "data": { "anyOf": [text(any), done] } },
                "required": ["data"],
            })
        }
        Events::Typed(kinds) => json!({
            "type": "object",
            "description": "One of the server-sent events; the last one has the response. Lines that begin with a colon keep \
                            the connection open.",
            "properties": {
                "event": { "type": "string", "description": "The type of the data." },
                "data": text(Kind::Any(kinds).schema(schemas)),
            },
            "required": ["event", "data"],
        }),
    }
}
