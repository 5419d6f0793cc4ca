//! The document of the API beside what the server does: routes, keys, and what every answer looks like.

use super::support::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use trtc_server::api::schema::Kind;
use trtc_server::openapi::operations::{Access, Answer, Events};
use trtc_server::{Config, Keys, Library, openapi};

/// Holds a value to a schema, and objects to the properties that it names: what the document does not say is wrong too.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let wrong = |what: String| Err(format!("{at} is {value}: {what}"));
    if let Some(pointer) = schema["$ref"].as_str() {
        return fits(document, document.pointer(&pointer[1..]).unwrap(), value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let tries: Vec<_> = any.iter().map(|s| fits(document, s, value, at)).collect();
        return match tries.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(tries.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; or ")),
        };
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return wrong(format!("none of {}", schema["enum"]));
    }
    if schema["const"].is_boolean() && schema["const"] != *value {
        return wrong(format!("not {}", schema["const"]));
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    assert!(!kinds.is_empty(), "{at} has no type: {schema}");
    let is = kinds.iter().any(|kind| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type: {other}"),
    });
    if !is {
        return wrong(format!("no {}", kinds.join(" or ")));
    }
    let number = value.as_f64();
    if number.zip(schema["minimum"].as_f64()).is_some_and(|(n, least)| n < least)
        || number.zip(schema["maximum"].as_f64()).is_some_and(|(n, most)| n > most)
    {
        return wrong("out of range".to_owned());
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        fits(document, &schema["items"], item, &format!("{at}[{i}]"))?;
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            return wrong(format!("it lacks {name}"));
        }
    }
    let open = schema.get("properties").or(schema.get("additionalProperties")).is_none();
    for (name, item) in value.as_object().filter(|_| !open).into_iter().flatten() {
        let of = schema["properties"].get(name).or(schema.get("additionalProperties"));
        let of = of.filter(|s| s.is_object()).ok_or_else(|| format!("{at}.{name} is in no table"))?;
        fits(document, of, item, &format!("{at}.{name}"))?;
    }
    Ok(())
}

/// Holds an answer to the schema of this name.
#[track_caller]
pub fn holds(name: &str, value: &Value) {
    let document = openapi::document();
    let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
    fits(&document, &schema, value, name).unwrap_or_else(|e| panic!("{e}"));
}

/// Holds the data of a typed event of a path to the kind that has its type; gives the type.
#[track_caller]
pub fn holds_event(path: &str, event: &Value) -> String {
    let document = openapi::document();
    let stream =
        &document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"];
    let kinds = stream["properties"]["data"]["contentSchema"]["anyOf"].as_array().unwrap();
    let of = |kind: &&Value| {
        let types = document.pointer(&kind["$ref"].as_str().unwrap()[1..]).unwrap();
        types["properties"]["type"]["enum"].as_array().unwrap().contains(&event["type"])
    };
    let kind = kinds.iter().find(of).unwrap_or_else(|| panic!("no event has the type {}", event["type"]));
    fits(&document, kind, event, "event").unwrap_or_else(|e| panic!("{e}"));
    event["type"].as_str().unwrap().to_owned()
}

/// All types of the events of a path.
fn types(events: &[Kind]) -> BTreeSet<String> {
    let objects = events.iter().map(|kind| match kind {
        Kind::Object(object) => object,
        other => panic!("{other:?}"),
    });
    let named = objects.map(|o| o.fields().find(|f| f.name == "type").unwrap().kind);
    let words = named.flat_map(|kind| match kind {
        Kind::Word(words) => words,
        other => panic!("{other:?}"),
    });
    words.map(|&word| word.to_owned()).collect()
}

/// The schema of an answer with this status.
fn schema_of(document: &Value, method: &str, path: &str, status: u16) -> Option<Value> {
    let mut response = document["paths"][path][method]["responses"].get(status.to_string())?;
    if let Some(pointer) = response["$ref"].as_str() {
        response = document.pointer(&pointer[1..]).unwrap();
    }
    Some(response["content"]["application/json"]["schema"].clone())
}

fn keys(text: &str) -> Keys {
    let mut keys = Keys::none();
    keys.add_lines(text).unwrap();
    keys
}

/// A server with keys and an empty folder of engines.
fn guarded() -> (Running, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let open = Box::new(|_: &std::path::Path, _| Err(trtc_runtime::Error::user("no engine")));
    let library = Library::new(keys("admin:sk-a"), dir.path(), open).unwrap();
    let control = Arc::default();
    let engines = vec![("tiny".to_owned(), engine(&control))];
    (start_engines(Config { keys: keys("alice:sk-1"), ..config() }, engines, Some(library), control), dir)
}

#[test]
fn the_document_is_served_to_everybody() {
    let (server, _dir) = guarded();
    let reply = server.get("/openapi.json");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    assert_eq!(reply.text, openapi::text());
    assert_eq!(start(Config { page: false, ..config() }).get("/openapi.json").status, 200);
}

#[test]
fn routes_methods_and_keys_are_those_of_the_document() {
    let (server, _dir) = guarded();
    let document = openapi::document();
    let paths = document["paths"].as_object().unwrap();
    let ask = |method: &str, path: &str, key: Option<&str>| {
        let key = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<(&str, &str)> = key.iter().map(|k| ("authorization", k.as_str())).collect();
        server.send(&method.to_uppercase(), &path.replace("{id}", "tiny"), &headers, "{}").whole()
    };
    assert!(paths.len() > 12);
    for (path, operations) in paths {
        for method in ["get", "post", "put", "delete", "patch"] {
            let reply = ask(method, path, Some("sk-a"));
            let (code, there) =
                (reply.json_or_null()["error"]["code"].clone(), operations.get(method).is_some());
            // `/v1/models/load` may be a model's name as well.
            let other = method == "get" && path.starts_with("/v1/models/");
            assert_eq!(reply.status == 405, !there && !other, "{method} {path}: {}", reply.text);
            assert_ne!(code, "unknown_url", "{method} {path}");
        }
    }
    for operation in trtc_server::openapi::all() {
        let status = |key| ask(operation.method, operation.path, key).status;
        let (open, admin) = (operation.access == Access::Open, operation.access == Access::Admin);
        assert_eq!(status(None) == 401, !open, "{}", operation.path);
        assert_eq!(status(Some("sk-1")) == 403, admin, "{}", operation.path);
        for key in [None, Some("sk-1"), Some("sk-a")] {
            let reply = ask(operation.method, operation.path, key);
            let schema = schema_of(&document, operation.method, operation.path, reply.status);
            let schema =
                schema.unwrap_or_else(|| panic!("{} {}: {}", operation.method, operation.path, reply.status));
            if !matches!(operation.answer, Answer::Document | Answer::Text(_)) {
                fits(&document, &schema, &reply.json(), operation.path).unwrap_or_else(|e| panic!("{e}"));
            }
        }
    }
}

#[test]
fn answers_look_as_the_document_says() {
    let server = start(config());
    let chat =
        json!({ "messages": [{ "role": "user", "content": "w1" }], "max_tokens": 3, "ignore_eos": true });
    let text = json!({ "prompt": "w1 w2", "max_tokens": 3, "ignore_eos": true });
    let both = |base: &Value, more: Value| {
        let mut body = base.clone();
        more.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
        body
    };
    for more in [json!({}), json!({ "n": 2 }), json!({ "logprobs": true, "top_logprobs": 2 })] {
        holds("ChatCompletion", &server.post("/v1/chat/completions", &both(&chat, more)).ok());
    }
    for more in [json!({}), json!({ "logprobs": 2, "echo": true }), json!({ "prompt_logprobs": 1 })] {
        holds("Completion", &server.post("/v1/completions", &both(&text, more)).ok());
    }
    let stream = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let lists = both(&stream, json!({ "logprobs": 1, "echo": true }));
    let tokens = both(&stream, json!({ "logprobs": true, "top_logprobs": 1 }));
    for (path, body, name) in [
        ("/v1/chat/completions", both(&chat, stream.clone()), "ChatCompletionChunk"),
        ("/v1/chat/completions", both(&chat, tokens), "ChatCompletionChunk"),
        ("/v1/completions", both(&text, stream.clone()), "CompletionChunk"),
        ("/v1/completions", both(&text, lists), "CompletionChunk"),
    ] {
        let events = server.open(path, &body).events();
        assert!(events.len() > 3);
        events.iter().for_each(|event| holds(name, event));
    }
    server.control.fails.store(true, std::sync::atomic::Ordering::Relaxed);
    let events = server.open("/v1/completions", &both(&text, stream)).events();
    holds("Error", events.last().unwrap());
    server.control.fails.store(false, std::sync::atomic::Ordering::Relaxed);
    holds("Models", &server.get("/v1/models").ok());
    holds("Model", &server.get("/v1/models/tiny").ok());
    holds("Tokens", &server.post("/tokenize", &json!({ "prompt": "w1" })).ok());
    holds("Text", &server.post("/detokenize", &json!({ "tokens": [1] })).ok());
    holds("Version", &server.get("/version").ok());
    holds("Ready", &server.get("/ready").ok());
    holds("Error", &server.get("/none").json());
    let tools = start_that(Speaks::Bytes, config());
    let tool = json!({ "type": "function", "function": { "name": "f" } });
    let call = json!({ "messages": chat["messages"], "tools": [tool], "tool_choice": "required" });
    let answer = tools.post("/v1/chat/completions", &call).ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
    holds("ChatCompletion", &answer);
    let events = tools.open("/v1/chat/completions", &both(&call, json!({ "stream": true }))).events();
    assert!(events.iter().any(|e| e["choices"][0]["delta"]["tool_calls"].is_array()), "{events:?}");
    events.iter().for_each(|event| holds("ChatCompletionChunk", event));
}

#[test]
fn responses_and_their_events_look_as_the_document_says() {
    const PATH: &str = "/v1/responses";
    let server = start(config());
    let tools = start_that(Speaks::Bytes, config());
    let body = json!({ "input": "w1", "max_output_tokens": 3, "ignore_eos": true, "metadata": { "a": "b" },
                       "include": ["message.output_text.logprobs"], "top_logprobs": 2 });
    let call = json!({ "input": "?", "max_output_tokens": 200, "tool_choice": "required", "text": { "format": { "type": "text" } },
                       "tools": [{ "type": "function", "name": "f", "parameters": null }], "parallel_tool_calls": false });
    let end = json!({ "input": "?", "logit_bias": { "2": 100 }, "temperature": 0 });
    let mut seen = BTreeSet::new();
    let mut stream = |server: &Running, body: &Value| {
        let mut body = body.clone();
        body["stream"] = true.into();
        for data in server.open(PATH, &body).data() {
            seen.insert(holds_event(PATH, &serde_json::from_str(&data).unwrap()));
        }
    };
    for (server, body) in [(&server, &body), (&tools, &call), (&tools, &end)] {
        holds("Response", &server.post(PATH, body).ok());
        stream(server, body);
    }
    server.control.fails.store(true, std::sync::atomic::Ordering::Relaxed);
    stream(&server, &body);
    let all = trtc_server::openapi::all().find(|o| o.path == PATH).unwrap();
    let Answer::Either(_, Events::Typed(events)) = all.answer else { panic!("{all:?}") };
    assert_eq!(seen, types(events));
}

#[test]
fn what_fits_no_table_is_told() {
    let document = openapi::document();
    let told = |value: Value| {
        let schema = json!({ "$ref": "#/components/schemas/Health" });
        fits(&document, &schema, &value, "it").unwrap_err()
    };
    assert!(told(json!({})).contains("lacks"));
    assert!(told(json!({ "status": "ill" })).contains("none of"));
    assert!(told(json!({ "status": "ok", "more": 1 })).contains("in no table"));
    assert!(told(json!([])).contains("no object"));
}
