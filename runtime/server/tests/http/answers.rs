//! Right answers: the same whole, streamed, and by the engine alone.

use super::device::Control;
use super::support::*;
use serde_json::{Value, json};
use std::sync::Arc;
use trtc_runtime::{Answer, Request, Sampling};

fn alone(requests: Vec<Request>) -> Vec<Answer> {
    engine(&Arc::new(Control::default())).answers(requests).unwrap()
}

/// The text of each choice, and why it ended.
fn texts(reply: &Value) -> Vec<(String, String)> {
    let of = |c: &Value| {
        let text = c["text"].as_str().or(c["message"]["content"].as_str()).unwrap();
        (text.to_owned(), c["finish_reason"].as_str().unwrap().to_owned())
    };
    reply["choices"].as_array().unwrap().iter().map(of).collect()
}

/// The same of a stream's chunks.
fn streamed_texts(chunks: &[Value], choices: usize) -> Vec<(String, String)> {
    let mut out = vec![(String::new(), String::new()); choices];
    for choice in chunks.iter().flat_map(|c| c["choices"].as_array().unwrap()) {
        let (text, reason) = &mut out[choice["index"].as_u64().unwrap() as usize];
        assert!(reason.is_empty(), "nothing comes after the end: {choice}");
        text.push_str(choice["text"].as_str().or(choice["delta"]["content"].as_str()).unwrap_or_default());
        reason.push_str(choice["finish_reason"].as_str().unwrap_or_default());
    }
    out
}

#[test]
fn a_completion_is_the_same_whole_streamed_and_alone() {
    let server = start(config());
    let request = |prompt: Vec<u32>| Request {
        max_tokens: 24,
        n: 2,
        sampling: Sampling { seed: Some(7), temperature: 0.8, top_p: 0.9, ..Sampling::default() },
        ..Request::new(prompt)
    };
    let want: Vec<(String, String)> = alone(vec![request(vec![11, 12, 13]), request(vec![20, 21])])
        .into_iter()
        .map(|a| (a.text, a.finish.as_str().to_owned()))
        .collect();
    assert_eq!(want.len(), 4);
    assert_ne!(want[0], want[1], "each of several answers has a seed of its own");
    let mut body = json!({
        "model": "tiny", "prompt": ["w11 w12 w13", "w20 w21"], "max_tokens": 24, "n": 2, "seed": 7,
        "temperature": 0.8, "top_p": 0.9, "user": "somebody",
    });
    let whole = server.post("/v1/completions", &body);
    for header in ["x-trtc-queue-ms", "x-trtc-ttft-ms", "x-trtc-total-ms"] {
        assert!(
            whole.header(header).and_then(|v| v.parse::<f64>().ok()).is_some_and(|v| v >= 0.0),
            "{header}"
        );
    }
    let whole = whole.ok();
    assert_eq!(texts(&whole), want);
    assert_eq!((&whole["object"], &whole["model"]), (&json!("text_completion"), &json!("tiny")));
    let tokens: usize = want.iter().map(|(t, _)| t.split_whitespace().count()).sum();
    assert_eq!(
        whole["usage"],
        json!({ "prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": tokens + 5,
            "prompt_tokens_details": { "cached_tokens": 0 } })
    );
    body["stream"] = true.into();
    body["stream_options"] = json!({ "include_usage": true });
    let chunks = server.open("/v1/completions", &body).events();
    assert_eq!(streamed_texts(&chunks, 4), want);
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], tokens);
    assert!(last["usage"]["timings"]["ttft_ms"].as_f64().is_some());
    assert!(others.iter().all(|c| c["usage"].is_null() && c["id"] == last["id"]), "{others:?}");
    // Ids instead of texts are the same prompts.
    (body["prompt"], body["stream"]) = (json!([[11, 12, 13], [20, 21]]), false.into());
    body.as_object_mut().unwrap().remove("stream_options");
    assert_eq!(texts(&server.post("/v1/completions", &body).ok()), want);
}

#[test]
fn a_chat_is_the_same_whole_streamed_and_alone() {
    let server = start(config());
    // The template writes: system w3 user w4 w5 w9, of which two words are none.
    let request = Request {
        max_tokens: 20,
        sampling: Sampling::greedy(),
        ignore_eos: true,
        logprobs: Some(2),
        ..Request::new(vec![0, 3, 0, 4, 5, 9])
    };
    let want = alone(vec![request]).remove(0);
    let mut body = json!({
        "messages": [{ "role": "system", "content": "w3" },
                     { "role": "user", "content": [{ "type": "text", "text": "w4" }, { "type": "text", "text": "w5" }] }],
        "max_completion_tokens": 20, "temperature": 0, "ignore_eos": true, "logprobs": true, "top_logprobs": 2,
    });
    let whole = server.post("/v1/chat/completions", &body).ok();
    assert_eq!(texts(&whole), [(want.text.clone(), "length".to_owned())]);
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    assert_eq!(whole["usage"]["prompt_tokens"], 6);
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 20);
    for (entry, want) in content.iter().zip(&want.logprobs) {
        let word = format!("w{}", want.token);
        assert_eq!((&entry["token"], &entry["bytes"]), (&json!(word), &json!(word.as_bytes())));
        assert_eq!(entry["logprob"].as_f64().map(|x| x as f32), Some(want.logprob));
        assert_eq!(entry["top_logprobs"].as_array().map(Vec::len), Some(2));
        assert_eq!(entry["top_logprobs"][1]["token"], format!("w{}", want.top[1].0));
    }
    body["stream"] = true.into();
    let chunks = server.open("/v1/chat/completions", &body).events();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk" && c.get("usage").is_none()));
    assert_eq!(streamed_texts(&chunks, 1), [(want.text, "length".to_owned())]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["delta"], json!({}));
    let streamed: Vec<&Value> =
        chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(streamed, content.iter().collect::<Vec<_>>());
}

#[test]
fn parameters_are_honoured() {
    let server = start(config());
    let ask = |more: Value| {
        let mut body = json!({ "prompt": "w11 w12", "max_tokens": 12, "temperature": 0, "ignore_eos": true });
        more.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
        texts(&server.post("/v1/completions", &body).ok()).remove(0)
    };
    let (plain, _) = ask(json!({}));
    let words: Vec<&str> = plain.split_whitespace().collect();
    assert_eq!(words.len(), 12);
    let id = |word: &str| word[1..].to_owned();
    let (echoed, _) = ask(json!({ "echo": true }));
    assert_eq!(echoed, format!("w11 w12{plain}"));
    let stop = words[3];
    let first = words.iter().position(|w| *w == stop).unwrap();
    let (text, reason) = ask(json!({ "stop_token_ids": [id(stop).parse::<u32>().unwrap()] }));
    assert_eq!((text.split_whitespace().count(), reason.as_str()), (first, "stop"));
    let (text, reason) = ask(json!({ "stop": [format!(" {stop}")] }));
    assert_eq!(reason, "stop");
    assert!(plain.starts_with(&text) && !text.contains(&format!(" {stop}")), "{text:?} of {plain:?}");
    let banned = json!({ id(words[0]): -100 });
    assert_ne!(ask(json!({ "logit_bias": banned })).0.split_whitespace().next(), Some(words[0]));
    let drawn = |seed: i64| ask(json!({ "temperature": 2.0, "seed": seed })).0;
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(-2));
    assert_eq!(ask(json!({ "temperature": 2.0, "top_k": 1 })).0, plain);
    assert_eq!(ask(json!({ "temperature": 2.0, "top_p": 0 })).0, plain);
    let twice =
        ask(json!({ "repetition_penalty": 1.5, "presence_penalty": 1.0, "frequency_penalty": 1.0 })).0;
    let mut seen = twice.split_whitespace().collect::<Vec<_>>();
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    let distinct = words.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert!(seen.len() == all || seen.len() > distinct, "{twice}");
}

#[test]
fn log_probabilities_of_prompts_are_told() {
    let server = start(config());
    let mut body = json!({
        "prompt": [5, 6, 7], "max_tokens": 2, "temperature": 0, "ignore_eos": true, "echo": true, "logprobs": 1,
    });
    let request = Request {
        max_tokens: 2,
        sampling: Sampling::greedy(),
        ignore_eos: true,
        logprobs: Some(1),
        prompt_logprobs: Some(1),
        ..Request::new(vec![5, 6, 7])
    };
    let want = alone(vec![request]).remove(0);
    let numbers: Vec<Option<f32>> = std::iter::once(None)
        .chain(want.prompt_logprobs.iter().chain(&want.logprobs).map(|l| Some(l.logprob)))
        .collect();
    let got = |lists: &Value| -> Vec<Option<f32>> {
        lists["token_logprobs"].as_array().unwrap().iter().map(|v| v.as_f64().map(|x| x as f32)).collect()
    };
    let whole = server.post("/v1/completions", &body).ok();
    let lists = &whole["choices"][0]["logprobs"];
    assert_eq!(got(lists), numbers);
    assert_eq!(lists["tokens"][0], "w5");
    body["stream"] = true.into();
    let chunks = server.open("/v1/completions", &body).events();
    let streamed: Vec<Option<f32>> =
        chunks.iter().map(|c| &c["choices"][0]["logprobs"]).filter(|l| !l.is_null()).flat_map(got).collect();
    assert_eq!(streamed, numbers);
    let body = json!({ "prompt": [5, 6, 7], "max_tokens": 1, "prompt_logprobs": 1 });
    let reply = server.post("/v1/completions", &body).ok();
    let prompt = &reply["choices"][0]["prompt_logprobs"];
    assert_eq!((prompt[0].is_null(), prompt.as_array().map(Vec::len)), (true, Some(3)));
    let six = prompt[1]["6"]["logprob"].as_f64().map(|x| x as f32);
    assert_eq!(six, Some(want.prompt_logprobs[0].logprob));
    // The prompt alone, scored.
    let body = json!({ "prompt": [5, 6, 7], "max_tokens": 0, "echo": true, "logprobs": 0 });
    assert_eq!(got(&server.post("/v1/completions", &body).ok()["choices"][0]["logprobs"]), numbers[..3]);
}

#[test]
fn tokens_and_models_are_told() {
    let server = start_named(config(), &["tiny", "other/name"]);
    let body = |more: Value| {
        let mut body = json!({ "model": "tiny" });
        more.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
        body
    };
    let tokens = server.post("/tokenize", &body(json!({ "prompt": "w3 w4" }))).ok();
    assert_eq!(tokens, json!({ "count": 2, "max_model_len": LONGEST, "tokens": [3, 4] }));
    let chat =
        body(json!({ "messages": [{ "role": "user", "content": "w4" }], "add_generation_prompt": false }));
    assert_eq!(server.post("/tokenize", &chat).ok()["tokens"], json!([0, 4]));
    let text = server.post("/detokenize", &body(json!({ "tokens": [3, 4] }))).ok();
    assert_eq!(text, json!({ "prompt": "w3 w4" }));
    let models = server.get("/v1/models").ok();
    assert_eq!((&models["data"][0]["id"], &models["data"][1]["id"]), (&json!("tiny"), &json!("other/name")));
    let model = server.get("/v1/models/other/name").ok();
    assert_eq!((&model["max_model_len"], &model["meta"]["n_vocab"]), (&json!(LONGEST), &json!(384)));
    server.get("/v1/models/none").fails(404, "invalid_request_error", Some("model_not_found"), Some("model"));
    assert!(server.get("/version").ok()["version"].is_string());
    for path in ["/health", "/ready", "/health_generate"] {
        server.get(path).ok();
    }
    // With two engines one must be named; each has its own answers and counters.
    let ask = json!({ "prompt": "w1", "max_tokens": 1 });
    server.post("/v1/completions", &ask).fails(
        404,
        "invalid_request_error",
        Some("model_not_found"),
        Some("model"),
    );
    let mut ask = ask;
    ask["model"] = "other/name".into();
    assert_eq!(server.post("/v1/completions", &ask).ok()["model"], "other/name");
    assert_eq!(server.metric("trtc_generation_tokens_total{model=\"other/name\"}"), 2.0);
    assert_eq!(server.metric("trtc_generation_tokens_total{model=\"tiny\"}"), 1.0);
}

#[test]
fn usage_tells_what_of_a_prompt_was_cached() {
    let server = start(config());
    let prompt: Vec<u32> = (10..60).collect();
    let mut body = json!({ "prompt": prompt, "max_tokens": 3, "ignore_eos": true, "temperature": 0, "n": 2 });
    let cached = |usage: &Value| usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    // The second answer finds the prompt that the first had to have computed, which is no news to a client.
    assert_eq!(cached(&server.post("/v1/completions", &body).ok()["usage"]), 0);
    let again = cached(&server.post("/v1/completions", &body).ok()["usage"]);
    assert!((1..50).contains(&again), "{again}");
    body["stream"] = true.into();
    body["stream_options"] = json!({ "include_usage": true });
    let chunks = server.open("/v1/completions", &body).events();
    assert_eq!(cached(&chunks.last().unwrap()["usage"]), again);
    let text: Vec<String> = prompt.iter().map(|token| format!("w{token}")).collect();
    let body = json!({ "input": text.join(" "), "max_output_tokens": 3 });
    let details = |reply: Value| reply["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(details(server.post("/v1/responses", &body).ok()), 0);
    assert!(details(server.post("/v1/responses", &body).ok()) > 0);
}
