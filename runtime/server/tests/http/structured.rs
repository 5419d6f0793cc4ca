//! Answers that must have a form: what is asked is what comes, whoever asks in whichever way.

use super::support::*;
use serde_json::{Value, json};

fn schema() -> Value {
    json!({ "type": "object", "additionalProperties": false, "required": ["ok", "tags"], "properties": {
        "ok": { "type": "boolean" }, "tags": { "type": "array", "maxItems": 2, "items": { "enum": ["red", "blue"] } } } })
}

fn fits(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let tags = value["tags"].as_array().unwrap();
    assert!(value["ok"].is_boolean() && tags.len() <= 2, "{value}");
    assert!(tags.iter().all(|t| *t == "red" || *t == "blue"), "{value}");
    assert_eq!(value.as_object().unwrap().len(), 2, "{value}");
}

fn chat(more: &Value) -> Value {
    let mut body =
        json!({ "messages": [{ "role": "user", "content": "w" }], "max_tokens": 400, "temperature": 1 });
    more.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
    body
}

#[test]
fn a_schema_is_kept_to_whole_and_streamed_alone_and_beside_others() {
    let server = start_that(Speaks::Bytes, config());
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema() } });
    for seed in 0..6 {
        let body = chat(&json!({ "response_format": format, "seed": seed, "n": 2 }));
        let whole = server.post("/v1/chat/completions", &body).json();
        let texts: Vec<String> = (0..2)
            .map(|i| {
                whole["choices"][i]["message"]["content"]
                    .as_str()
                    .unwrap_or_else(|| panic!("{whole}"))
                    .to_owned()
            })
            .collect();
        texts.iter().for_each(|t| fits(t));
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        let mut streamed = body.clone();
        streamed["stream"] = true.into();
        let mut parts = [String::new(), String::new()];
        for event in server.open("/v1/chat/completions", &streamed).events() {
            let choice = &event["choices"][0];
            parts[choice["index"].as_u64().unwrap() as usize]
                .push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        }
        assert_eq!(parts.as_slice(), texts.as_slice(), "the same seed gives the same answers");
    }
    server.is_empty();
}

#[test]
fn every_way_to_ask_is_understood() {
    let server = start_that(Speaks::Bytes, config());
    let choices = json!(["yes", "no, never"]);
    let is_choice = |t: &str| t == "yes" || t == "no, never";
    let is_number = |t: &str| t.len() == 3 && t.bytes().all(|b| b.is_ascii_digit());
    let is_object = |t: &str| serde_json::from_str::<Value>(t).is_ok_and(|v| v.is_object());
    let bounded =
        json!({ "type": "object", "additionalProperties": false, "properties": { "a": { "type": "null" } } });
    let ways: [(Value, &dyn Fn(&str) -> bool); 9] = [
        (json!({ "guided_choice": choices }), &is_choice),
        (json!({ "structured_outputs": { "choice": choices } }), &is_choice),
        (json!({ "guided_regex": "[0-9]{3}" }), &is_number),
        (json!({ "structured_outputs": { "regex": "[0-9]{3}" } }), &is_number),
        (json!({ "response_format": { "type": "regex", "regex": "^[0-9]{3}$" } }), &is_number),
        (
            json!({ "response_format": { "type": "grammar", "grammar": "start: D D D\nD: /[0-9]/" } }),
            &is_number,
        ),
        (json!({ "guided_grammar": "start: D D D\nD: /[0-9]/" }), &is_number),
        (json!({ "guided_json": bounded.to_string() }), &is_object),
        (json!({ "structured_outputs": { "json": bounded } }), &is_object),
    ];
    for (way, fits) in ways {
        let mut body = json!({ "prompt": "x", "max_tokens": 300, "temperature": 1.5, "seed": 3 });
        way.as_object().unwrap().iter().for_each(|(k, v)| body[k] = v.clone());
        let reply = server.post("/v1/completions", &body).json();
        let text = reply["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{way}: {reply}"));
        assert!(fits(text), "{way}: {text:?}");
        assert_eq!(reply["choices"][0]["finish_reason"], "stop", "{way}");
        // Penalties, biases and log-probabilities change what is chosen, and not what may be.
        body["frequency_penalty"] = json!(1);
        body["logit_bias"] = json!({ "50": 3 });
        body["logprobs"] = json!(2);
        let reply = server.post("/v1/completions", &body).json();
        assert!(fits(reply["choices"][0]["text"].as_str().unwrap()), "{way}: {reply}");
    }
    // The grammar says where an answer ends, also before the least tokens.
    let body = json!({ "prompt": "x", "max_tokens": 20, "min_tokens": 9, "guided_choice": ["yes"] });
    let reply = server.post("/v1/completions", &body).json();
    assert_eq!(
        (&reply["choices"][0]["text"], &reply["choices"][0]["finish_reason"]),
        (&json!("yes"), &json!("stop"))
    );
    assert_eq!(
        server
            .post("/v1/completions", &json!({ "prompt": "x", "max_tokens": 2, "guided_choice": ["yes"] }))
            .json()["choices"][0]["finish_reason"],
        "length"
    );
}

#[test]
fn what_cannot_be_kept_to_is_refused_by_its_name() {
    let server = start_that(Speaks::Bytes, config());
    let format = |f: Value| json!({ "response_format": f });
    for (more, param, words) in [
        (format(json!({ "type": "yaml" })), "response_format.type", "yaml"),
        (format(json!({ "type": "json_schema" })), "response_format.json_schema", "missing"),
        (
            format(json!({ "type": "json_schema", "json_schema": { "name": "x" } })),
            "response_format.json_schema.schema",
            "missing",
        ),
        (
            format(json!({ "type": "json_schema", "json_schema": { "schema": 1 } })),
            "response_format.json_schema.schema",
            "number",
        ),
        (
            format(
                json!({ "type": "json_schema", "json_schema": { "schema": { "type": "array", "uniqueItems": true } } }),
            ),
            "response_format",
            "uniqueItems",
        ),
        (format(json!({ "type": "text", "more": 1 })), "response_format.more", "more"),
        (json!({ "guided_regex": "(" }), "guided_regex", "regular expression"),
        (json!({ "guided_json": "{" }), "guided_json", "no JSON"),
        (json!({ "guided_choice": [] }), "guided_choice", "no text"),
        (json!({ "guided_choice": [1] }), "guided_choice", "list of strings"),
        (json!({ "structured_outputs": {} }), "structured_outputs", "empty"),
        (
            json!({ "structured_outputs": { "regex": "a", "structural_tag": "x" } }),
            "structured_outputs.structural_tag",
            "leave it out",
        ),
        (
            json!({ "guided_regex": "a", "response_format": { "type": "json_object" } }),
            "guided_regex",
            "one of them",
        ),
        (json!({ "guided_regex": "a", "ignore_eos": true }), "", "ignore_eos"),
    ] {
        let reply = server.post("/v1/chat/completions", &chat(&more));
        let error = &reply.json()["error"];
        assert_eq!(reply.status, 400, "{more}: {error}");
        assert_eq!(error["param"].as_str().unwrap_or_default(), param, "{more}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{more}: {error}");
    }
    // Tokens of words have spaces between them that no grammar sees.
    let words = start(config());
    let reply = words.post("/v1/completions", &json!({ "prompt": "w1", "guided_regex": "a" })).json();
    assert!(reply["error"]["message"].as_str().unwrap().contains("spaces between tokens"), "{reply}");
}
