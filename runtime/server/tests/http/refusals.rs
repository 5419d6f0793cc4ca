//! What is refused, and how it is said.

use super::client;
use super::support::*;
use serde_json::{Value, json};
use trtc_server::{Config, Keys};

const INVALID: &str = "invalid_request_error";

#[test]
fn what_is_not_understood_is_named() {
    let server = start(config());
    let completion = |more: Value| {
        let mut body = json!({ "prompt": "w1", "max_tokens": 4 });
        more.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
        server.post("/v1/completions", &body)
    };
    let unsupported = Some("unsupported_parameter");
    for (name, value) in [
        ("nonsense", json!(1)),
        ("tools", json!([{}])),
        ("tool_choice", json!("required")),
        ("suffix", json!("x")),
        ("best_of", json!(2)),
        ("store", json!(true)),
        ("service_tier", json!("flex")),
        ("logits_processors", json!(["x"])),
        ("top_logprobs", json!(2)),
        ("max_completion_tokens", json!(2)),
    ] {
        let message = completion(json!({ name: value })).fails(400, INVALID, unsupported, Some(name));
        assert!(message.contains(name), "{message}");
    }
    for (name, value) in [
        ("max_tokens", json!(-1)),
        ("max_tokens", json!("4")),
        ("temperature", json!("hot")),
        ("n", json!(1.5)),
        ("stop", json!(1)),
        ("stop", json!([1])),
        ("seed", json!("x")),
        ("logit_bias", json!([1])),
        ("logprobs", json!(21)),
        ("timeout", json!(0)),
        ("priority", json!(1u64 << 40)),
        ("stream_options", json!({})),
        ("prompt", json!({})),
        ("prompt", json!([])),
        ("prompt", json!([1, "x"])),
    ] {
        completion(json!({ name: value })).fails(400, INVALID, None, Some(name));
    }
    for (more, words) in [
        (json!({ "temperature": 101 }), "temperature"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "top_p": 1.5 }), "top_p"),
        (json!({ "n": 0 }), "n is 0"),
        (json!({ "min_tokens": 9 }), "min_tokens"),
        (json!({ "presence_penalty": 3 }), "presence_penalty"),
        (json!({ "logit_bias": { "1": 101 } }), "logit_bias"),
        (json!({ "logit_bias": { "999": 1 } }), "999"),
        (json!({ "stop_token_ids": [999] }), "999"),
        (json!({ "prompt": [999] }), "999"),
        (json!({ "prompt": "" }), "empty"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "stop": "" }), "stop"),
    ] {
        let reply = completion(more.clone());
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["type"]), (400, &json!(INVALID)), "{more}");
        assert!(error["message"].as_str().unwrap().contains(words), "{more}: {error}");
    }
    // What informs only is taken, and so is what says what is so anyway.
    let harmless = json!({
        "user": "u", "metadata": { "a": "b" }, "store": false, "service_tier": "auto", "suffix": null, "best_of": 1,
        "parallel_tool_calls": true, "tools": [], "tool_choice": "none", "response_format": { "type": "text" },
    });
    assert_eq!(completion(harmless).status, 200);
}

#[test]
fn what_is_too_long_is_told_by_openais_code() {
    let server = start(config());
    let code = Some("context_length_exceeded");
    let body = json!({ "prompt": vec![1; LONGEST], "max_tokens": 1 });
    let message = server.post("/v1/completions", &body).fails(400, INVALID, code, None);
    assert!(message.contains("128 tokens"), "{message}");
    let body = json!({ "prompt": vec![1; LONGEST - 10], "max_tokens": 11 });
    server.post("/v1/completions", &body).fails(400, INVALID, code, Some("max_tokens"));
    let body = json!({ "prompt": vec![1; LONGEST - 10], "max_tokens": 10, "ignore_eos": true });
    assert_eq!(server.post("/v1/completions", &body).ok()["usage"]["total_tokens"], LONGEST);
    let words = vec!["w1"; 200].join(" ");
    let body = json!({ "messages": [{ "role": "user", "content": words }] });
    server.post("/v1/chat/completions", &body).fails(400, INVALID, code, None);
    // A chat without a length goes on as long as there is room.
    let body = json!({ "messages": [{ "role": "user", "content": "w1" }], "ignore_eos": true });
    assert_eq!(server.post("/v1/chat/completions", &body).ok()["usage"]["total_tokens"], LONGEST);
}

#[test]
fn messages_that_are_none_are_told_by_their_place() {
    let server = start(config());
    let chat = |messages: Value| {
        server.post("/v1/chat/completions", &json!({ "messages": messages, "max_tokens": 1 }))
    };
    let user = |content: Value| json!([{ "role": "user", "content": content }]);
    for (messages, param) in [
        (json!(null), "messages"),
        (json!([]), "messages"),
        (json!("x"), "messages"),
        (json!([{ "role": "robot", "content": "w1" }]), "messages[0].role"),
        (json!([{ "content": "w1" }]), "messages[0].role"),
        (json!([{ "role": "user" }]), "messages[0].content"),
        (user(json!(1)), "messages[0].content"),
        (json!([{ "role": "assistant", "content": "w1", "tool_calls": [{}] }]), "messages[0].tool_calls"),
        // The template's own objection.
        (json!([{ "role": "tool", "content": "w1" }]), "messages"),
    ] {
        chat(messages).fails(400, INVALID, None, Some(param));
    }
    let unsupported = Some("unsupported_parameter");
    for (messages, param) in [
        (user(json!([{ "type": "image_url", "image_url": {} }])), "messages[0].content[0].type"),
        (user(json!([{ "type": "text", "text": "w1", "x": 1 }])), "messages[0].content[0].x"),
        (json!([{ "role": "user", "content": "w1", "weight": 1 }]), "messages[0].weight"),
    ] {
        chat(messages).fails(400, INVALID, unsupported, Some(param));
    }
    let sent_back = json!([
        { "role": "developer", "content": "w1" },
        { "role": "assistant", "content": "w2", "refusal": null, "annotations": [], "tool_calls": null },
        { "role": "user", "content": [] },
    ]);
    assert_eq!(chat(sent_back).status, 200);
}

#[test]
fn bodies_paths_and_methods_that_are_wrong() {
    let server = start(Config { max_body: 10_000, ..config() });
    for body in ["", "{", "[]", "null", "\u{1}", "{\"prompt\": \"w1\"} x", "{\"prompt\": \"\\ud800\"}"] {
        server.send("POST", "/v1/completions", &[], body).whole().fails(400, INVALID, None, None);
    }
    let raw = |bytes: &[u8]| {
        let mut request = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        )
        .into_bytes();
        request.extend_from_slice(bytes);
        client::send_raw(server.address, &request).unwrap().whole()
    };
    raw(b"\xff\xfe{}").fails(400, INVALID, None, None);
    let long = json!({ "prompt": "w1 ".repeat(100_000) }).to_string();
    server.send("POST", "/v1/completions", &[], &long).whole().fails(
        413,
        INVALID,
        Some("request_too_large"),
        None,
    );
    // The same without a length.
    let chunked = format!(
        "POST /tokenize HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        long.len()
    );
    let reply = client::send_raw(server.address, chunked.as_bytes()).unwrap().whole();
    reply.fails(413, INVALID, Some("request_too_large"), None);
    server.get("/v1/nothing").fails(404, INVALID, Some("unknown_url"), None);
    server.get("/v1/completions").fails(405, INVALID, Some("method_not_allowed"), None);
    server.post("/health", &json!({})).fails(405, INVALID, Some("method_not_allowed"), None);
    server.post("/v1/embeddings", &json!({ "input": "w1" })).fails(
        400,
        INVALID,
        Some("unsupported_endpoint"),
        None,
    );
    let reply = server.post("/v1/completions", &json!({ "model": "none", "prompt": "w1" }));
    let message = reply.fails(404, INVALID, Some("model_not_found"), Some("model"));
    assert!(message.contains("tiny"), "it says which there are: {message}");
    let garbage = client::send_raw(server.address, b"\x16\x03\x01 nonsense\r\n\r\n").unwrap();
    assert_eq!(garbage.status, 400);
    assert!(server.metric("trtc_request_error_total{kind=\"invalid_request_error\"}") >= 15.0);
    server.get("/health").ok();
}

#[test]
fn keys_are_asked_for_where_there_are_any() {
    let mut keys = Keys::none();
    keys.add_lines("alice:sk-1\nsk-2").unwrap();
    let server = start(Config { keys: keys.clone(), ..config() });
    let body = json!({ "prompt": "w1", "max_tokens": 1 }).to_string();
    let ask = |path: &str, key: Option<&str>| {
        let headers: Vec<(&str, &str)> = key.map(|k| ("authorization", k)).into_iter().collect();
        server.send(if path.starts_with("/v1/c") { "POST" } else { "GET" }, path, &headers, &body).whole()
    };
    for path in ["/v1/completions", "/v1/models", "/metrics", "/version", "/health_generate", "/nothing"] {
        for key in [None, Some("Bearer sk-3"), Some("sk-1"), Some("Basic sk-1"), Some("Bearer ")] {
            ask(path, key).fails(401, "authentication_error", Some("invalid_api_key"), None);
        }
    }
    for path in ["/health", "/ready"] {
        assert_eq!(ask(path, None).status, 200, "{path}");
    }
    for key in ["Bearer sk-1", "bearer sk-2"] {
        assert_eq!(ask("/v1/completions", Some(key)).status, 200);
        assert_eq!(ask("/metrics", Some(key)).status, 200);
    }
    let metrics = ask("/metrics", Some("Bearer sk-1")).text;
    assert!(
        metrics.contains("trtc_prompt_tokens_total{model=\"tiny\"} 2\n"),
        "no other request reached it: {metrics}"
    );
    let clients: Vec<String> =
        server.records().into_iter().filter(|r| r.model.is_some()).map(|r| r.client).collect();
    assert_eq!(clients, ["alice", "key-2"]);
    let public = start(Config { keys, public_metrics: true, ..config() });
    assert_eq!(public.get("/metrics").status, 200);
    assert_eq!(public.get("/v1/models").status, 401);
}

#[test]
fn pages_of_other_origins_read_nothing_unless_they_may() {
    let origin = "https://example.org";
    let server = start(config());
    let ask = |server: &Running, method: &str, from: &str| {
        server.send(method, "/v1/models", &[("origin", from)], "").whole()
    };
    assert_eq!(ask(&server, "GET", origin).header("access-control-allow-origin"), None);
    assert_eq!(ask(&server, "OPTIONS", origin).status, 405);
    let server = start(Config { cors_origins: vec![origin.to_owned()], ..config() });
    assert_eq!(ask(&server, "GET", origin).header("access-control-allow-origin"), Some(origin));
    assert_eq!(ask(&server, "GET", "https://else").header("access-control-allow-origin"), None);
    let preflight = ask(&server, "OPTIONS", origin);
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, Some(origin)));
    assert!(preflight.header("access-control-allow-headers").is_some_and(|h| h.contains("authorization")));
}

#[test]
fn requests_have_ids_and_logs_have_no_words() {
    let server = start(config());
    let body = json!({ "prompt": "w42 w43", "max_tokens": 2, "ignore_eos": true }).to_string();
    let reply = server.send("POST", "/v1/completions?secret", &[("x-request-id", "mine-1")], &body).whole();
    assert_eq!(reply.header("x-request-id"), Some("mine-1"));
    let answer = reply.json()["choices"][0]["text"].as_str().unwrap().to_owned();
    let reply = server.send("POST", "/v1/completions", &[("x-request-id", "not {sane}")], &body).whole();
    assert_eq!(reply.header("x-request-id").map(str::len), Some(32));
    server.await_metric("trtc_num_requests_running{model=\"tiny\"}", 0.0);
    let lines: Vec<String> = server.records().iter().map(|r| format!("{r} {}", json!(r))).collect();
    assert_eq!(lines.len(), 2);
    for line in lines {
        assert!(!line.contains("w42") && !line.contains(answer.trim()) && !line.contains("secret"), "{line}");
    }
}
