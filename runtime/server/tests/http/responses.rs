//! `/v1/responses`: items whole and as typed events, conversations that go on, and what is refused by its name.

use super::support::*;
use serde_json::{Value, json};
use std::time::Duration;

fn weather() -> Value {
    json!({ "type": "function", "name": "weather", "description": "of a place", "parameters": {
        "type": "object", "additionalProperties": false, "required": ["where"], "properties": { "where": { "enum": ["here", "there"] } } } })
}

fn with(mut body: Value, more: &Value) -> Value {
    more.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
    body
}

/// Of a model that writes words.
fn words(more: &Value) -> Value {
    with(json!({ "input": "w1 w2", "max_output_tokens": 6, "temperature": 0, "ignore_eos": true }), more)
}

/// Of one that writes bytes and knows tools.
fn bytes(more: &Value) -> Value {
    with(json!({ "input": "?", "max_output_tokens": 200, "temperature": 1, "seed": 1 }), more)
}

/// The events of a stream, each as its name says, numbered, and with the same response around them.
fn events(server: &Running, body: &Value) -> Vec<Value> {
    let data = server.open("/v1/responses", &with(body.clone(), &json!({ "stream": true }))).data();
    let events: Vec<Value> = data.iter().map(|d| serde_json::from_str(d).unwrap()).collect();
    for (number, event) in events.iter().enumerate() {
        super::openapi::holds_event("/v1/responses", event);
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    assert_eq!(
        (&events[0]["type"], &events[1]["type"]),
        (&json!("response.created"), &json!("response.in_progress"))
    );
    let id = &events[0]["response"]["id"];
    assert!(events.iter().filter_map(|e| e.get("response")).all(|r| r["id"] == *id), "{events:?}");
    events
}

/// What clients make of events: items from deltas, held against what the events say at the end of each.
fn gathered(events: &[Value]) -> Vec<Value> {
    let mut items: Vec<Value> = Vec::new();
    for event in events {
        let at = event["output_index"].as_u64().unwrap_or_default() as usize;
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        let grown = |value: &Value, name: &str| json!(value.as_str().unwrap().to_owned() + &text(name));
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => {
                assert_eq!((at, &event["item"]["status"]), (items.len(), &json!("in_progress")));
                items.push(event["item"].clone());
            }
            "response.content_part.added" => {
                items[at]["content"].as_array_mut().unwrap().push(event["part"].clone())
            }
            "response.output_text.delta" => {
                let part = &mut items[at]["content"][0];
                part["text"] = grown(&part["text"], "delta");
                part["logprobs"]
                    .as_array_mut()
                    .unwrap()
                    .extend(event["logprobs"].as_array().unwrap().clone());
            }
            "response.output_text.done" => {
                assert_eq!(items[at]["content"][0]["text"], event["text"]);
                assert_eq!(items[at]["content"][0]["logprobs"], event["logprobs"]);
            }
            "response.content_part.done" => assert_eq!(items[at]["content"][0], event["part"]),
            "response.function_call_arguments.delta" => {
                items[at]["arguments"] = grown(&items[at]["arguments"], "delta");
            }
            "response.function_call_arguments.done" => assert_eq!(items[at]["arguments"], event["arguments"]),
            "response.output_item.done" => {
                items[at]["status"] = event["item"]["status"].clone();
                assert_eq!(items[at], event["item"]);
            }
            _ => continue,
        }
        if let Some(id) = event.get("item_id") {
            assert_eq!(*id, items[at]["id"]);
        }
    }
    items
}

/// The same but for names that each response has of its own.
fn nameless(items: &Value) -> Vec<Value> {
    let mut items = items.as_array().unwrap().clone();
    for item in &mut items {
        for name in ["id", "call_id"] {
            item.as_object_mut().unwrap().remove(name);
        }
    }
    items
}

#[test]
fn a_text_is_answered_whole_and_in_typed_events_that_add_up_to_it() {
    let server = start(config());
    let more = json!({ "instructions": "w3", "metadata": { "a": "b" }, "user": "me", "top_p": 0.7, "store": false,
                       "include": ["message.output_text.logprobs"], "top_logprobs": 2 });
    let body = words(&more);
    let reply = server.post("/v1/responses", &body);
    assert!(reply.header("x-trtc-total-ms").is_some());
    let whole = reply.ok();
    assert_eq!(
        (&whole["object"], &whole["model"], &whole["error"]),
        (&json!("response"), &json!("tiny"), &Value::Null)
    );
    assert!(whole["id"].as_str().unwrap().starts_with("resp_"));
    // The same conversation as a chat: same tokens.
    let messages = json!([{ "role": "system", "content": "w3" }, { "role": "user", "content": "w1 w2" }]);
    let chat = json!({ "messages": messages, "max_tokens": 6, "temperature": 0, "top_p": 0.7, "ignore_eos": true,
                       "logprobs": true, "top_logprobs": 2 });
    let chat = server.post("/v1/chat/completions", &chat).ok();
    let part = &whole["output"][0]["content"][0];
    assert_eq!(part["text"], chat["choices"][0]["message"]["content"]);
    assert_eq!(part["logprobs"], chat["choices"][0]["logprobs"]["content"]);
    assert_eq!(part["logprobs"].as_array().unwrap().len(), 6);
    let usage = &whole["usage"];
    assert_eq!(usage["input_tokens"], chat["usage"]["prompt_tokens"]);
    assert_eq!(
        (&usage["output_tokens"], &usage["total_tokens"]),
        (&json!(6), &chat["usage"]["total_tokens"])
    );
    // It was cut.
    assert_eq!(
        (&whole["status"], &whole["output"][0]["status"]),
        (&json!("incomplete"), &json!("incomplete"))
    );
    assert_eq!(whole["incomplete_details"], json!({ "reason": "max_output_tokens" }));
    for name in ["instructions", "metadata", "user", "top_p", "store", "max_output_tokens", "top_logprobs"] {
        assert_eq!(whole[name], body[name], "{name}");
    }
    assert_eq!(whole["temperature"].as_f64(), Some(0.0));
    assert_eq!((&whole["tools"], &whole["tool_choice"]), (&json!([]), &json!("auto")));

    let events = events(&server, &body);
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(json!(gathered(&events)), last["response"]["output"]);
    assert_eq!(nameless(&last["response"]["output"]), nameless(&whole["output"]));
    assert!(last["response"]["usage"]["timings"]["ttft_ms"].as_f64().unwrap() > 0.0);
    assert!(events.iter().filter(|e| e["type"] == "response.output_text.delta").count() > 3);
    server.is_empty();
    let reasons: Vec<_> = server.records().into_iter().filter(|r| r.path == "/v1/responses").collect();
    assert!(
        reasons.len() == 2
            && reasons.iter().all(|r| r.finish_reasons == ["length"] && r.completion_tokens == 6)
    );
}

#[test]
fn an_answer_that_ends_by_itself_is_complete_also_if_it_is_empty() {
    let server = start_that(Speaks::Bytes, config());
    let ended = |more: Value| {
        let body = bytes(&more);
        let whole = server.post("/v1/responses", &body).ok();
        let events = events(&server, &body);
        let last = events.last().unwrap();
        assert_eq!(
            (&whole["status"], &last["type"]),
            (&json!("completed"), &json!("response.completed")),
            "{whole}"
        );
        assert_eq!(json!(gathered(&events)), last["response"]["output"]);
        assert_eq!(nameless(&last["response"]["output"]), nameless(&whole["output"]));
        assert_eq!(whole["output"].as_array().unwrap().len(), 1);
        whole["output"][0]["content"][0]["text"].as_str().unwrap().to_owned()
    };
    // The end is preferred above all.
    assert_eq!(ended(json!({ "logit_bias": { "2": 100 } })), "");
    let schema = json!({ "type": "object", "additionalProperties": false, "required": ["ok"], "properties": { "ok": { "type": "boolean" } } });
    let format = json!({ "type": "json_schema", "name": "x", "strict": true, "schema": schema });
    let said: Value = serde_json::from_str(&ended(json!({ "text": { "format": format } }))).unwrap();
    assert!(said["ok"].is_boolean(), "{said}");
    assert_eq!(
        ended(
            json!({ "structured_outputs": { "choice": ["yes"] }, "text": { "format": { "type": "text" } } })
        ),
        "yes"
    );
    assert_eq!(
        ended(json!({ "text": { "format": { "type": "regex", "regex": "a{3}" }, "verbosity": "medium" } })),
        "aaa"
    );
    let object =
        ended(json!({ "text": { "format": { "type": "json_object" } }, "logit_bias": { "128": 20 } }));
    assert_eq!(object, "{}");
}

#[test]
fn calls_are_items_of_their_own_and_what_they_gave_goes_back() {
    let server = start_that(Speaks::Bytes, config());
    let named = json!({ "type": "function", "name": "weather" });
    for choice in [named, json!("required")] {
        let body =
            bytes(&json!({ "tools": [weather()], "tool_choice": choice, "parallel_tool_calls": false }));
        let whole = server.post("/v1/responses", &body).ok();
        let call = &whole["output"][0];
        assert_eq!(
            (&call["type"], &call["name"], &call["status"]),
            (&json!("function_call"), &json!("weather"), &json!("completed"))
        );
        assert!(call["call_id"].as_str().unwrap().starts_with("call_"), "{call}");
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["where"] == "here" || arguments["where"] == "there", "{arguments}");
        assert_eq!((&whole["tools"], &whole["tool_choice"]), (&body["tools"], &body["tool_choice"]));
        let events = events(&server, &body);
        let last = &events.last().unwrap()["response"];
        assert_eq!(
            (json!(gathered(&events)), &last["status"]),
            (last["output"].clone(), &json!("completed"))
        );
        assert_eq!(nameless(&last["output"]), nameless(&whole["output"]));

        // The conversation goes on with what the answer had.
        let input = json!([
            { "role": "user", "content": [{ "type": "input_text", "text": "?" }] },
            { "type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
              "content": [{ "type": "output_text", "text": "so", "annotations": [], "logprobs": [] }] },
            call,
            { "type": "function_call_output", "call_id": call["call_id"], "output": [{ "type": "input_text", "text": "rain" }] },
        ]);
        let next =
            server.post("/v1/responses", &bytes(&json!({ "input": input, "tools": [weather()] }))).ok();
        let id = call["call_id"].as_str().unwrap();
        let function = json!({ "name": "weather", "arguments": call["arguments"] });
        let messages = json!([
            { "role": "user", "content": "?" },
            { "role": "assistant", "content": "so", "tool_calls": [{ "id": id, "type": "function", "function": function }] },
            { "role": "tool", "tool_call_id": id, "content": "rain" },
        ]);
        let tool = json!({ "type": "function", "function": { "name": "weather" } });
        let tokens = server.post("/tokenize", &json!({ "messages": messages, "tools": [tool] })).ok();
        assert_eq!(next["usage"]["input_tokens"], tokens["count"]);
    }
    server.is_empty();
}

#[test]
fn with_tools_and_a_format_an_answer_is_a_call_or_of_the_format() {
    let server = start_that(Speaks::Bytes, config());
    let schema = json!({ "type": "object", "additionalProperties": false, "required": ["ok"], "properties": { "ok": { "type": "boolean" } } });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let tool = json!({ "type": "function", "function": { "name": "time", "strict": true } });
    let (mut calls, mut texts) = (0, 0);
    for seed in 0..6 {
        // Half of them lean to a call.
        let bias = json!({ "259": if seed % 2 == 0 { 100 } else { -100 } });
        let body = json!({ "messages": [{ "role": "user", "content": "?" }], "max_tokens": 300, "temperature": 1, "seed": seed,
                           "logit_bias": bias, "tools": [tool], "response_format": format, "parallel_tool_calls": false });
        let message = server.post("/v1/chat/completions", &body).ok()["choices"][0]["message"].clone();
        match message["tool_calls"].get(0) {
            Some(call) => {
                assert_eq!((&call["function"]["name"], &message["content"]), (&json!("time"), &Value::Null));
                calls += 1;
            }
            None => {
                let value: Value = serde_json::from_str(message["content"].as_str().unwrap()).unwrap();
                assert!(value["ok"].is_boolean() && value.as_object().unwrap().len() == 1, "{value}");
                texts += 1;
            }
        }
    }
    assert_eq!((calls, texts), (3, 3));
    // The same of a response; where a call is wanted there is one.
    let mut body = bytes(
        &json!({ "tools": [weather()], "text": { "format": { "type": "json_object" } }, "logit_bias": { "259": -100, "128": 20 } }),
    );
    assert_eq!(server.post("/v1/responses", &body).ok()["output"][0]["content"][0]["text"], "{}");
    body["tool_choice"] = "required".into();
    body["logit_bias"] = json!({});
    body["parallel_tool_calls"] = false.into();
    assert_eq!(server.post("/v1/responses", &body).ok()["output"][0]["type"], "function_call");
}

#[test]
fn what_a_response_cannot_have_is_refused_by_its_name() {
    let server = start_that(Speaks::Bytes, config());
    let item = |item: Value| json!({ "input": [item] });
    let unsupported = [
        (json!({ "previous_response_id": "resp_1" }), "previous_response_id"),
        (json!({ "conversation": "conv_1" }), "conversation"),
        (json!({ "background": true }), "background"),
        (json!({ "store": true }), "store"),
        (json!({ "truncation": "auto" }), "truncation"),
        (json!({ "max_tool_calls": 1 }), "max_tool_calls"),
        (json!({ "reasoning": { "effort": "low" } }), "reasoning"),
        (json!({ "prompt": { "id": "p" } }), "prompt"),
        (json!({ "include": ["reasoning.encrypted_content"] }), "include"),
        (json!({ "n": 2 }), "n"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "max_tokens": 1 }), "max_tokens"),
        (json!({ "response_format": { "type": "text" } }), "response_format"),
        (json!({ "text": { "verbosity": "low" } }), "text.verbosity"),
        (json!({ "text": { "format": { "type": "text" }, "more": 1 } }), "text.more"),
        (
            json!({ "stream": true, "stream_options": { "include_usage": true } }),
            "stream_options.include_usage",
        ),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (
            json!({ "tools": [{ "type": "function", "name": "a", "defer_loading": true }] }),
            "tools[0].defer_loading",
        ),
        (item(json!({ "type": "item_reference", "id": "msg_1" })), "input[0].type"),
        (item(json!({ "type": "reasoning", "summary": [] })), "input[0].type"),
        (item(json!({ "role": "user", "content": [{ "type": "input_image" }] })), "input[0].content[0].type"),
        (item(json!({ "role": "user", "content": "a", "more": 1 })), "input[0].more"),
    ];
    for (more, param) in unsupported {
        let reply = server.post("/v1/responses", &bytes(&more));
        reply.fails(400, "invalid_request_error", Some("unsupported_parameter"), Some(param));
    }
    let wrong = [
        (json!({ "input": null }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": 1 }), "input"),
        (json!({ "input": ["a"] }), "input[0]"),
        (json!({ "instructions": [] }), "instructions"),
        (json!({ "metadata": [] }), "metadata"),
        (json!({ "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "top_logprobs": 21, "include": ["message.output_text.logprobs"] }), "top_logprobs"),
        (json!({ "text": { "format": { "type": "json_schema", "name": "x" } } }), "text.format.schema"),
        (json!({ "text": { "format": { "type": "yaml" } } }), "text.format.type"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].name"),
        (json!({ "tools": [weather()], "tool_choice": { "type": "function", "name": "x" } }), "tool_choice"),
        (json!({ "tools": [weather()], "structured_outputs": { "regex": "a" } }), "tools"),
        (item(json!({ "role": "tool", "content": "a" })), "input[0].role"),
        (item(json!({ "role": "user" })), "input[0].content"),
        (item(json!({ "type": "function_call", "name": "a", "arguments": "{}" })), "input[0].call_id"),
        (item(json!({ "type": "function_call", "call_id": "1", "name": "a" })), "input[0].arguments"),
        (item(json!({ "type": "function_call_output", "call_id": "1" })), "input[0].output"),
    ];
    for (more, param) in wrong {
        let reply = server.post("/v1/responses", &bytes(&more));
        // What informs is refused by the table of what is not supported.
        let code = (param == "metadata").then_some("unsupported_parameter");
        reply.fails(400, "invalid_request_error", code, Some(param));
    }
    let long = server.post("/v1/responses", &bytes(&json!({ "max_output_tokens": 512 })));
    long.fails(400, "invalid_request_error", Some("context_length_exceeded"), Some("max_output_tokens"));
    assert_eq!(server.post("/v1/responses/resp_1", &json!({})).status, 404);
    server.is_empty();
}

#[test]
fn a_response_that_fails_ends_with_the_error_and_one_that_is_left_is_given_up() {
    let server = start(config());
    server.control.fails.store(true, std::sync::atomic::Ordering::Relaxed);
    let failed = events(&server, &words(&json!({})));
    let [.., error, last] = failed.as_slice() else { panic!("{failed:?}") };
    assert_eq!((&error["type"], &last["type"]), (&json!("error"), &json!("response.failed")));
    assert_eq!(
        (&last["response"]["status"], &last["response"]["error"]["code"]),
        (&json!("failed"), &json!("server_error"))
    );
    assert_eq!(last["response"]["error"]["message"], error["message"]);
    server.control.fails.store(false, std::sync::atomic::Ordering::Relaxed);

    server.control.pause(Duration::from_millis(20));
    let late = events(&server, &words(&json!({ "max_output_tokens": 100, "timeout": 0.3 })));
    let [.., error, last] = late.as_slice() else { panic!("{late:?}") };
    assert_eq!((&error["code"], &last["type"]), (&json!("timeout"), &json!("response.failed")));
    let late = server.post("/v1/responses", &words(&json!({ "max_output_tokens": 100, "timeout": 0.3 })));
    late.fails(504, "timeout_error", Some("timeout"), None);

    let body = words(&json!({ "max_output_tokens": 100, "stream": true }));
    let mut stream = server.open("/v1/responses", &body);
    stream.event(&mut 0).unwrap().unwrap();
    server.await_metric("trtc_num_requests_running{model=\"tiny\"}", 1.0);
    drop(stream);
    server.is_empty();
}
