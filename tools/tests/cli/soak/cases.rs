//! What clients ask for, and what of an answer must be the same whoever else is served.

use super::http::{Open, request};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Error, Result};

/// A request.
pub struct Case {
    pub path: &'static str,
    pub body: Value,
}

/// Of an answer: for each choice what came of it, and the counts.
#[derive(Debug, PartialEq)]
pub struct Answer {
    choices: BTreeMap<u64, Vec<Value>>,
    usage: Value,
}

/// Few prompts, many ways to ask: greedy and drawn, one answer and several, ends of all kinds, log-probabilities,
/// penalties, grammars; chats and completions; each whole and as a stream.
pub fn cases() -> Vec<Case> {
    let prefix: Vec<u32> = (0..80).map(|i| 3 + i * 7 % 250).collect();
    let chat = |text: &str| json!([{ "role": "user", "content": text }]);
    let schema = json!({ "type": "object", "additionalProperties": false, "required": ["ok"],
        "properties": { "ok": { "type": "boolean" }, "n": { "enum": [1, 22, 333] } } });
    let completions = [
        json!({ "prompt": "Once", "temperature": 0 }),
        json!({ "prompt": "Once upon a time", "temperature": 0, "logprobs": 3, "max_tokens": 20 }),
        json!({ "prompt": prefix, "temperature": 0.9, "seed": 7, "max_tokens": 60 }),
        json!({ "prompt": [prefix[..70], prefix[..33]], "temperature": 1, "seed": 3, "n": 3, "max_tokens": 25 }),
        json!({ "prompt": "abc", "temperature": 1.2, "top_p": 0.8, "top_k": 50, "seed": 11, "stop": ["e", "\n"] }),
        json!({ "prompt": "abc", "temperature": 1, "seed": 5, "presence_penalty": 1.0, "logit_bias": { "40": 3 } }),
        json!({ "prompt": "echo", "temperature": 0, "echo": true, "logprobs": 1, "max_tokens": 8 }),
        json!({ "prompt": "a number", "temperature": 1, "seed": 2, "guided_regex": "[0-9]{3,12}" }),
    ];
    let chats = [
        json!({ "messages": chat("Hello"), "temperature": 0, "max_tokens": 30 }),
        json!({ "messages": chat("Hello"), "temperature": 0.7, "seed": 1, "n": 2, "max_tokens": 40 }),
        json!({ "messages": chat("What?"), "temperature": 1, "seed": 9, "max_tokens": 30, "logprobs": true, "top_logprobs": 20 }),
        json!({ "messages": chat("Is it?"), "temperature": 1, "seed": 4, "max_tokens": 120, "response_format":
            { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } } }),
        json!({ "messages": chat("Long"), "temperature": 1, "seed": 8, "max_tokens": 140, "ignore_eos": true, "min_p": 0.01 }),
    ];
    let all = completions.into_iter().map(|b| ("/v1/completions", b));
    let all = all.chain(chats.into_iter().map(|b| ("/v1/chat/completions", b)));
    all.flat_map(|(path, body)| {
        let mut stream = body.clone();
        (stream["stream"], stream["stream_options"]) = (true.into(), json!({ "include_usage": true }));
        [Case { path, body }, Case { path, body: stream }]
    })
    .collect()
}

/// Bodies that are none, and one that is too long for 64 KiB; each with the status that it gets.
pub fn wrong() -> Vec<(&'static str, Vec<u8>, u16)> {
    let (completions, chat) = ("/v1/completions", "/v1/chat/completions");
    let long = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(100_000));
    let deep = format!(r#"{{"prompt":{}"#, "[".repeat(5000));
    let bodies: [(&str, Vec<u8>, u16); 10] = [
        (completions, b"{".to_vec(), 400),
        (completions, b"\xff\xfe\x00{}".to_vec(), 400),
        (completions, deep.into_bytes(), 400),
        (completions, br#"{"prompt":"a","n":0}"#.to_vec(), 400),
        (completions, br#"{"prompt":"a","mirostat":1}"#.to_vec(), 400),
        (completions, br#"{"prompt":[999999]}"#.to_vec(), 400),
        (completions, br#"{"prompt":"a","guided_regex":"("}"#.to_vec(), 400),
        (chat, br#"{"messages":"hello"}"#.to_vec(), 400),
        (chat, br#"{"model":"another","messages":[]}"#.to_vec(), 404),
        (completions, long.into_bytes(), 413),
    ];
    bodies.into()
}

impl Case {
    pub fn streams(&self) -> bool {
        self.body["stream"] == true
    }

    /// The request's bytes, with other fields besides.
    pub fn bytes(&self, more: &[(&str, Value)]) -> Vec<u8> {
        let mut body = self.body.clone();
        more.iter().for_each(|(name, value)| body[*name] = value.clone());
        request("POST", self.path, &[], &body.to_string())
    }
}

impl Answer {
    /// Reads an answer to its end. `pause` is called before each event.
    pub fn read(case: &Case, mut open: Open, mut pause: impl FnMut()) -> Result<Answer> {
        let mut answer = Answer { choices: BTreeMap::new(), usage: Value::Null };
        if !case.streams() {
            let reply = open.try_whole()?;
            answer.take(&serde_json::from_str(&reply.text)?);
            return Ok(answer);
        }
        loop {
            pause();
            match open.event(&mut 0)?.as_deref() {
                Some("[DONE]") => return Ok(answer),
                Some(data) => {
                    let event: Value = serde_json::from_str(data)?;
                    if event["error"].is_object() {
                        return Err(Error::other(event["error"].to_string()));
                    }
                    answer.take(&event);
                }
                None => return Err(Error::other("the stream broke off")),
            }
        }
    }

    fn take(&mut self, value: &Value) {
        for choice in value["choices"].as_array().into_iter().flatten() {
            let index = choice["index"].as_u64().unwrap_or(u64::MAX);
            self.choices.entry(index).or_default().push(choice.clone());
        }
        if let Some(usage) = value["usage"].as_object() {
            let mut usage = usage.clone();
            // What depends on who asked before.
            for field in ["timings", "prompt_tokens_details"] {
                usage.remove(field);
            }
            self.usage = usage.into();
        }
    }

    pub fn tokens(&self) -> u64 {
        self.usage["completion_tokens"].as_u64().unwrap_or(0)
    }

    /// The texts of all choices.
    pub fn texts(&self) -> Vec<String> {
        let text = |choice: &Value| {
            let fields = [&choice["text"], &choice["message"]["content"], &choice["delta"]["content"]];
            fields.into_iter().filter_map(Value::as_str).collect::<String>()
        };
        self.choices.values().map(|parts| parts.iter().map(text).collect()).collect()
    }
}
