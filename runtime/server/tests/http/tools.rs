//! Functions that a model may call: held to their schemas, told apart from text, whole and streamed.

use super::support::*;
use serde_json::{Value, json};

fn weather(strict: bool) -> Value {
    json!({ "type": "function", "function": { "name": "weather", "description": "of a place", "strict": strict, "parameters": {
        "type": "object", "additionalProperties": false, "required": ["where", "days"], "$defs": { "n": { "type": "integer", "minimum": 1, "maximum": 9 } },
        "properties": { "where": { "enum": ["here", "there"] }, "days": { "$ref": "#/$defs/n" } } } } })
}

fn time() -> Value {
    json!({ "type": "function", "function": { "name": "time" } })
}

fn chat(more: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "?" }], "max_completion_tokens": 200, "temperature": 1,
                           "tools": [time()] });
    more.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
    body
}

fn is_call_of_weather(call: &Value) {
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")), "{call}");
    assert!(call["id"].as_str().unwrap().starts_with("call_"), "{call}");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["where"] == "here" || arguments["where"] == "there", "{arguments}");
    assert!((1..10).contains(&arguments["days"].as_i64().unwrap()), "{arguments}");
}

#[test]
fn a_call_that_is_wanted_comes_with_arguments_of_its_schema() {
    let server = start_that(Speaks::Bytes, config());
    let named = json!({ "type": "function", "function": { "name": "weather" } });
    for seed in 0..4 {
        let body = chat(
            &json!({ "tools": [time(), weather(false)], "tool_choice": named, "seed": seed, "parallel_tool_calls": false }),
        );
        let whole = server.post("/v1/chat/completions", &body).json();
        let choice = &whole["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &Value::Null),
            "{whole}"
        );
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1);
        is_call_of_weather(&calls[0]);
        let mut streamed = body.clone();
        streamed["stream"] = true.into();
        let events = server.open("/v1/chat/completions", &streamed).events();
        let deltas: Vec<&Value> = events.iter().filter_map(|e| e["choices"][0].get("delta")).collect();
        let streamed: Vec<&Value> = deltas.iter().filter_map(|d| d["tool_calls"].get(0)).collect();
        assert_eq!(streamed.len(), 1, "{events:?}");
        assert_eq!((&streamed[0]["function"], &streamed[0]["index"]), (&calls[0]["function"], &json!(0)));
        assert!(deltas.iter().all(|d| d["content"].as_str().unwrap_or_default().is_empty()), "{events:?}");
        assert!(events.iter().any(|e| e["choices"][0]["finish_reason"] == "tool_calls"), "{events:?}");
    }
    let body = chat(
        &json!({ "tool_choice": "required", "max_completion_tokens": 300, "seed": 1, "parallel_tool_calls": false }),
    );
    let reply = server.post("/v1/chat/completions", &body).json();
    assert_eq!(
        reply["choices"][0]["message"]["tool_calls"][0]["function"],
        json!({ "name": "time", "arguments": "{}" }),
        "{reply}"
    );
    server.is_empty();
}

#[test]
fn without_need_the_model_talks_and_strict_calls_keep_to_their_schemas() {
    let server = start_that(Speaks::Bytes, config());
    let text = |more: Value| {
        let reply = server.post("/v1/chat/completions", &chat(&more)).json();
        reply["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned()
    };
    for choice in ["none", "auto"] {
        // The model knows nothing and writes bytes at random.
        let said = text(json!({ "tool_choice": choice, "seed": 5, "max_completion_tokens": 30 }));
        assert!(!said.is_empty());
    }
    // A tag is preferred above all, and what follows it is a call or nothing.
    for seed in 0..3 {
        let more = json!({ "tools": [weather(true)], "seed": seed, "logit_bias": { "259": 100 }, "max_completion_tokens": 300 });
        let reply = server.post("/v1/chat/completions", &chat(&more)).json();
        let message = &reply["choices"][0]["message"];
        is_call_of_weather(message["tool_calls"].get(0).unwrap_or_else(|| panic!("{reply}")));
    }
}

#[test]
fn conversations_with_calls_go_to_the_template_as_they_are() {
    let server = start_that(Speaks::Bytes, config());
    let messages = json!([
        { "role": "user", "content": "?" },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": "{\"x\": 7}" } }] },
        { "role": "tool", "tool_call_id": "call_1", "content": "rain" },
    ]);
    let tokens = server.post("/tokenize", &json!({ "messages": messages, "tools": [time()] })).json();
    let text = server.post("/detokenize", &json!({ "tokens": tokens["tokens"] })).json();
    let text = text["prompt"].as_str().unwrap_or_else(|| panic!("{tokens} {text}"));
    assert!(text.starts_with("\"time\" as <tool_call>\n"), "{text}");
    assert!(text.ends_with("user: ?\nassistant: weather(7)\ntool: rain [call_1]\n"), "{text}");
    assert_eq!(
        server
            .post("/v1/chat/completions", &chat(&json!({ "messages": messages, "max_completion_tokens": 4 })))
            .status,
        200
    );
}

#[test]
fn what_is_no_tool_is_refused_by_its_name() {
    let server = start_that(Speaks::Bytes, config());
    let function = |f: Value| json!({ "tools": [{ "type": "function", "function": f }] });
    for (more, param) in [
        (json!({ "tools": {} }), "tools"),
        (json!({ "tools": [{}] }), "tools[0].type"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function"),
        (function(json!({})), "tools[0].function.name"),
        (function(json!({ "name": "a b" })), "tools[0].function.name"),
        (function(json!({ "name": "a", "parameters": 1 })), "tools[0].function.parameters"),
        (json!({ "tools": [time(), time()] }), "tools"),
        (json!({ "tool_choice": "always" }), "tool_choice"),
        (json!({ "tool_choice": {} }), "tool_choice"),
        (json!({ "tool_choice": { "type": "function", "function": { "name": "x" } } }), "tool_choice"),
        (json!({ "tools": [], "tool_choice": "required" }), "tool_choice"),
        (json!({ "functions": [{}] }), "functions"),
        (json!({ "guided_choice": ["a", "b"] }), "tools"),
        (
            json!({ "messages": [{ "role": "user", "content": "", "tool_calls": [{ "function": { "name": "a" } }] }] }),
            "messages[0].tool_calls",
        ),
        (json!({ "messages": [{ "role": "assistant", "tool_calls": [{}] }] }), "messages[0].tool_calls"),
        (json!({ "messages": [{ "role": "assistant" }] }), "messages[0].content"),
    ] {
        let reply = server.post("/v1/chat/completions", &chat(&more));
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status, error["param"].as_str().unwrap_or_default()),
            (400, param),
            "{more}: {error}"
        );
    }
    // A model whose template knows no tools.
    let words = start(config());
    let reply = words.post(
        "/v1/chat/completions",
        &json!({ "messages": [{ "role": "user", "content": "w1" }], "tools": [time()] }),
    );
    reply.fails(400, "invalid_request_error", Some("unsupported_parameter"), Some("tools"));
}
