//! What can be asked of the server: for each route its method, who may ask, what is sent, and what can come back.
//!
//! Handlers stand beside these rows in `http/routes.rs`.

use super::{answers, requests, responses, turns};
use crate::api::schema::{Kind, Object};

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Who has a key, where there are keys; everybody with `--public-metrics`.
    Metrics,
    /// Who has a key, where there are keys.
    Key,
    /// Who has an admin's key.
    Admin,
}

/// What an answer without an error is.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// There is none: the route only says why not.
    Never,
    /// An object.
    Object(&'static Object),
    /// An object; or, if the request says `stream`, events.
    Either(&'static Object, Events),
    /// A text, of this type.
    Text(&'static str),
    /// This document.
    Document,
}

/// What a stream has.
#[derive(Clone, Copy, Debug)]
pub enum Events {
    /// Objects without names, or an error; at the end `[DONE]`.
    Chunks(&'static Object),
    /// Objects of several kinds, each in an event that is named as the object's `type` says.
    Typed(&'static [Kind]),
}

/// One method of one path.
#[derive(Debug)]
pub struct Operation {
    /// Its name for generated clients.
    pub id: &'static str,
    /// Its method, as OpenAPI writes it.
    pub method: &'static str,
    /// Its path, with parameters in braces.
    pub path: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Who may ask.
    pub access: Access,
    /// What is sent.
    pub body: Option<Kind>,
    /// Bodies to begin with, as JSON: what each shows, and the body.
    pub examples: &'static [(&'static str, &'static str)],
    /// What comes back.
    pub answer: Answer,
    /// What a model does here, in the words of OpenTelemetry's conventions for spans.
    pub generates: Option<&'static str>,
    /// Statuses of errors, besides 401.
    pub errors: &'static [u16],
}

/// Of everything that has a body: it is wrong, or too long, or too slow, or cannot be read for a bug.
macro_rules! with_body {
    ($($more:literal),*) => { &[400, 408, 413, 500 $(, $more)*] };
}

const GET: Operation = Operation {
    id: "",
    method: "get",
    path: "",
    help: "",
    access: Access::Key,
    body: None,
    examples: &[],
    answer: Answer::Never,
    generates: None,
    errors: &[],
};

const POST: Operation = Operation { method: "post", errors: with_body!(404), ..GET };

/// Requests that an engine answers.
const GENERATE: Operation = Operation { errors: with_body!(404, 429, 503, 504), ..POST };

/// Requests of admins.
const ADMIN: Operation = Operation { access: Access::Admin, errors: with_body!(403, 404, 409, 503), ..POST };

/// `POST /v1/chat/completions`.
pub const CHAT: Operation = Operation {
    id: "createChatCompletion",
    path: "/v1/chat/completions",
    help: "Answers a conversation, if the model has a chat template.",
    body: Some(Kind::Object(&requests::CHAT)),
    examples: &[
        (
            "plain",
            r#"{"messages": [{"role": "user", "content": "Name three colours."}], "max_completion_tokens": 16, "temperature": 0.7, "top_p": 0.9, "seed": 1}"#,
        ),
        (
            "stream",
            r#"{"messages": [{"role": "user", "content": "Name three colours."}], "max_completion_tokens": 16, "stream": true, "stream_options": {"include_usage": true}}"#,
        ),
        (
            "logprobs",
            r#"{"messages": [{"role": "user", "content": "Name three colours."}], "max_completion_tokens": 8, "logprobs": true, "top_logprobs": 2, "n": 2}"#,
        ),
        (
            "form",
            r#"{"messages": [{"role": "user", "content": "Name three colours."}], "max_completion_tokens": 32, "response_format": {"type": "json_schema", "json_schema": {"name": "colour", "schema": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"], "additionalProperties": false}}}}"#,
        ),
    ],
    answer: Answer::Either(&answers::CHAT, Events::Chunks(&answers::CHAT_CHUNK)),
    generates: Some("chat"),
    ..GENERATE
};

/// `POST /v1/completions`.
pub const COMPLETION: Operation = Operation {
    id: "createCompletion",
    path: "/v1/completions",
    help: "Continues one text or several.",
    body: Some(Kind::Object(&requests::COMPLETION)),
    examples: &[
        (
            "plain",
            r#"{"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0, "stop": ["."]}"#,
        ),
        ("stream", r#"{"prompt": "The capital of France is", "max_tokens": 8, "stream": true}"#),
        ("logprobs", r#"{"prompt": ["One", "Two"], "max_tokens": 4, "logprobs": 2, "echo": true}"#),
        ("form", r#"{"prompt": "A digit: ", "max_tokens": 4, "structured_outputs": {"regex": "[0-9]"}}"#),
    ],
    answer: Answer::Either(&answers::COMPLETION, Events::Chunks(&answers::COMPLETION_CHUNK)),
    generates: Some("text_completion"),
    ..GENERATE
};

/// `POST /v1/responses`.
pub const RESPONSE: Operation = Operation {
    id: "createResponse",
    path: "/v1/responses",
    help: "Answers a conversation in the shape of OpenAI's Responses API; nothing is stored.",
    body: Some(Kind::Object(&responses::RESPONSE)),
    examples: &[
        (
            "plain",
            r#"{"instructions": "Be brief.", "input": "Name three colours.", "max_output_tokens": 16, "temperature": 0.7}"#,
        ),
        ("stream", r#"{"input": "Name three colours.", "max_output_tokens": 16, "stream": true}"#),
        (
            "logprobs",
            r#"{"input": "Name three colours.", "max_output_tokens": 8, "include": ["message.output_text.logprobs"], "top_logprobs": 2}"#,
        ),
        (
            "form",
            r#"{"input": "Name three colours.", "max_output_tokens": 32, "text": {"format": {"type": "json_schema", "name": "colour", "schema": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"], "additionalProperties": false}}}}"#,
        ),
        (
            "conversation",
            r#"{"input": [{"role": "user", "content": "Is it wet?"}, {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}, {"type": "function_call_output", "call_id": "call_1", "output": "rain"}], "tools": [{"type": "function", "name": "weather", "parameters": {"type": "object"}}], "max_output_tokens": 16}"#,
        ),
    ],
    answer: Answer::Either(&turns::RESPONSE, Events::Typed(turns::EVENTS)),
    generates: Some("chat"),
    ..GENERATE
};

/// `POST /v1/embeddings`.
pub const EMBEDDINGS: Operation = Operation {
    id: "createEmbedding",
    path: "/v1/embeddings",
    help: "There are no embeddings: whoever asks is told so.",
    errors: &[400],
    ..POST
};

/// `GET /v1/models`.
pub const MODELS: Operation = Operation {
    id: "listModels",
    path: "/v1/models",
    help: "The models that are served.",
    answer: Answer::Object(&answers::MODELS),
    ..GET
};

/// `GET /v1/models/{id}`.
pub const MODEL: Operation = Operation {
    id: "retrieveModel",
    path: "/v1/models/{id}",
    help: "A model that is served.",
    answer: Answer::Object(&answers::MODEL),
    errors: &[400, 404],
    ..GET
};

/// `POST /v1/models/load`.
pub const LOAD: Operation = Operation {
    id: "loadModel",
    path: "/v1/models/load",
    help: "Loads an engine and serves it; answered once it takes requests.",
    body: Some(Kind::Object(&requests::LOAD)),
    examples: &[("half", r#"{"model": "code", "engine": "code.engine", "kv_fraction": 0.5}"#)],
    answer: Answer::Object(&answers::LOADED),
    ..ADMIN
};

/// `POST /v1/models/unload`.
pub const UNLOAD: Operation = Operation {
    id: "unloadModel",
    path: "/v1/models/unload",
    help: "Takes a model out of those that are served; answered once its memory is given back.",
    body: Some(Kind::Object(&requests::UNLOAD)),
    examples: &[("plain", r#"{"model": "code"}"#)],
    answer: Answer::Object(&answers::UNLOADED),
    ..ADMIN
};

/// `POST /tokenize`.
pub const TOKENIZE: Operation = Operation {
    id: "tokenize",
    path: "/tokenize",
    help: "The tokens of a text, or of a conversation.",
    body: Some(requests::TOKENIZE),
    examples: &[
        ("text", r#"{"prompt": "Hello"}"#),
        ("conversation", r#"{"messages": [{"role": "user", "content": "Hello"}]}"#),
    ],
    answer: Answer::Object(&answers::TOKENS),
    ..POST
};

/// `POST /detokenize`.
pub const DETOKENIZE: Operation = Operation {
    id: "detokenize",
    path: "/detokenize",
    help: "The text of tokens.",
    body: Some(Kind::Object(&requests::DETOKENIZE)),
    examples: &[("plain", r#"{"tokens": [72, 73]}"#)],
    answer: Answer::Object(&answers::TEXT),
    ..POST
};

/// `GET /metrics`.
pub const METRICS: Operation = Operation {
    id: "metrics",
    path: "/metrics",
    help: "What is counted, as Prometheus reads it.",
    access: Access::Metrics,
    answer: Answer::Text("text/plain"),
    ..GET
};

/// `GET /health`.
pub const HEALTH: Operation = Operation {
    id: "health",
    path: "/health",
    help: "Whether all engines are well.",
    access: Access::Open,
    answer: Answer::Object(&answers::HEALTH),
    errors: &[503],
    ..GET
};

/// `GET /ready`.
pub const READY: Operation = Operation {
    id: "ready",
    path: "/ready",
    help: "The same, and whether requests are taken: the server is not ending, and has a model.",
    access: Access::Open,
    answer: Answer::Object(&answers::READY),
    errors: &[503],
    ..GET
};

/// `GET /health_generate`.
pub const HEALTH_GENERATE: Operation = Operation {
    id: "healthGenerate",
    path: "/health_generate",
    help: "Computes a token with each engine, ahead of everybody.",
    answer: Answer::Object(&answers::HEALTH),
    errors: &[503],
    ..GET
};

/// `GET /version`.
pub const VERSION: Operation = Operation {
    id: "version",
    path: "/version",
    help: "The server's version.",
    answer: Answer::Object(&answers::VERSION),
    ..GET
};

/// `GET /openapi.json`.
pub const OPENAPI: Operation = Operation {
    id: "openapi",
    path: "/openapi.json",
    help: "This document.",
    access: Access::Open,
    answer: Answer::Document,
    ..GET
};
