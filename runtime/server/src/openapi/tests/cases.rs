//! Bodies that together reach all of the tables of requests, and who parses them.

use crate::api::fields::Fields;
use crate::api::params::{Facts, Wish};
use crate::api::schema::Kind;
use crate::api::{Endpoint, tokenize};
use crate::error::ApiError;
use crate::library::{Load, unloaded};
use crate::openapi::{requests, responses};
use serde_json::{Map, Value, json};
use std::sync::{Arc, LazyLock};
use trtc_engine::manifest::Dims;
use trtc_runtime::text::{ChatTemplate, Tokenizer};
use trtc_runtime::{Grammars, Limits, Sampling};

/// A model whose tokens are bytes, and which knows tools.
fn facts() -> &'static Facts {
    static FACTS: LazyLock<Facts> = LazyLock::new(|| {
        let mut vocab: Map<String, Value> = (0..256).map(|b| (format!("<0x{b:02X}>"), json!(b))).collect();
        vocab.insert("</s>".to_owned(), json!(256));
        let end = json!({ "id": 256, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true });
        let text = json!({
            "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "pre_tokenizer": null,
            "normalizer": null, "added_tokens": [end],
            "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }] },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
                       "vocab": vocab, "merges": [] },
        });
        let template =
            "{% if tools %}<tool_call>{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}";
        let tokenizer = Arc::new(Tokenizer::new(text.to_string().as_bytes(), None).unwrap());
        let dims = Dims { max_batch: 4, max_seq_len: 512, max_step_tokens: 64, max_logit_rows: 64 };
        Facts {
            limits: Limits { vocab: 257, dims, pages: 64, page_tokens: 16, text: true },
            sampling: Sampling::default(),
            tokenizer: Some(Arc::clone(&tokenizer)),
            template: Some(Arc::new(ChatTemplate::new(template, None, None).unwrap())),
            grammars: Some(Arc::new(Grammars::new(tokenizer, 257, &[256]))),
        }
    });
    &FACTS
}

pub fn wish(endpoint: Endpoint, body: &Value) -> Result<Wish, ApiError> {
    let mut fields = Fields::parse(body.to_string().as_bytes())?;
    // As whoever looks for the model does.
    fields.text("model")?;
    endpoint.parse(fields, facts())
}

/// A table, who parses it, and bodies that together reach all of it.
pub struct Case {
    pub kind: Kind,
    pub parse: fn(&Value) -> Result<(), ApiError>,
    pub bodies: Vec<Value>,
    /// Takes the table of what changes nothing.
    pub informed: bool,
}

pub fn tool() -> Value {
    json!({ "type": "function", "function": { "name": "f", "description": "d", "parameters": {}, "strict": false } })
}

/// Every way to say what an answer must look like, put into a body.
fn formed(base: &Value) -> Vec<Value> {
    let schema = json!({ "name": "n", "description": "d", "strict": true, "schema": { "type": "object" } });
    let formats = [
        json!({ "response_format": { "type": "text" } }),
        json!({ "response_format": { "type": "json_object" } }),
        json!({ "response_format": { "type": "json_schema", "json_schema": schema } }),
        json!({ "response_format": { "type": "regex", "regex": "a+" } }),
        json!({ "response_format": { "type": "grammar", "grammar": "start: \"a\"" } }),
        json!({ "structured_outputs": { "choice": ["a", "b"] } }),
        json!({ "guided_json": "{\"type\": \"object\"}" }),
        json!({ "stream": true, "stream_options": { "include_usage": true } }),
    ];
    formats.iter().map(|more| with(base, more)).collect()
}

pub fn with(base: &Value, more: &Value) -> Value {
    let mut body = base.clone();
    more.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
    body
}

/// The same of a response, and its items.
fn responded() -> Vec<Value> {
    let asked = json!({ "type": "input_text", "text": "a", "annotations": [] });
    let said = json!({ "type": "output_text", "text": "a", "annotations": [], "logprobs": [] });
    let input = json!([
        { "type": "message", "role": "user", "content": [asked] },
        { "id": "msg_1", "status": "completed", "role": "assistant", "content": [said] },
        { "type": "function_call", "id": "fc_1", "status": "completed", "call_id": "1", "name": "f", "arguments": "{}" },
        { "type": "function_call_output", "call_id": "1", "name": "f", "output": [asked] },
    ]);
    let tool =
        json!({ "type": "function", "name": "f", "description": "d", "parameters": {}, "strict": false });
    let formats = [
        json!({ "type": "text" }),
        json!({ "type": "json_object" }),
        json!({ "type": "json_schema", "name": "n", "description": "d", "strict": true, "schema": { "type": "object" } }),
        json!({ "type": "regex", "regex": "a+" }),
        json!({ "type": "grammar", "grammar": "start: \"a\"" }),
    ];
    let text = |format: &Value| json!({ "text": { "format": format, "verbosity": "medium" } });
    let mut more: Vec<Value> = formats.iter().map(text).collect();
    more.push(json!({ "structured_outputs": { "choice": ["a", "b"] } }));
    more.push(json!({ "stream": true, "stream_options": { "include_obfuscation": false } }));
    more.push(json!({ "input": input, "tools": [tool] }));
    more.iter().map(|more| with(&json!({ "input": "a" }), more)).collect()
}

pub fn chat() -> Value {
    json!({ "messages": [{ "role": "user", "content": "a" }] })
}

pub fn cases() -> Vec<Case> {
    let spoken = json!({ "messages": [
        { "role": "user", "content": [{ "type": "text", "text": "a", "annotations": [] }] },
        { "role": "assistant", "tool_calls": [{ "id": "1", "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
        { "role": "tool", "content": "b", "tool_call_id": "1" },
    ], "tools": [tool()] });
    let completion = json!({ "prompt": "a" });
    let tokenize = |v: &Value| {
        let mut fields = Fields::parse(v.to_string().as_bytes())?;
        fields.text("model")?;
        tokenize::tokens(fields, facts()).map(|_| ())
    };
    let detokenize = |v: &Value| {
        let mut fields = Fields::parse(v.to_string().as_bytes())?;
        fields.text("model")?;
        tokenize::text(fields, facts()).map(|_| ())
    };
    let case = |kind, parse, bodies| Case { kind, parse, bodies, informed: false };
    let object = |o| Kind::Object(o);
    vec![
        Case {
            informed: true,
            ..case(
                object(&requests::CHAT),
                |v| wish(Endpoint::Chat, v).map(|_| ()),
                [vec![spoken.clone()], formed(&chat())].concat(),
            )
        },
        Case {
            informed: true,
            ..case(
                object(&requests::COMPLETION),
                |v| wish(Endpoint::Completions, v).map(|_| ()),
                formed(&completion),
            )
        },
        Case {
            informed: true,
            ..case(object(&responses::RESPONSE), |v| wish(Endpoint::Responses, v).map(|_| ()), responded())
        },
        case(requests::TOKENIZE, tokenize, vec![completion, spoken]),
        case(object(&requests::DETOKENIZE), detokenize, vec![json!({ "tokens": [97] })]),
        case(
            object(&requests::LOAD),
            |v| Load::parse(v.to_string().as_bytes()).map(|_| ()),
            vec![json!({ "model": "m", "engine": "e" })],
        ),
        case(
            object(&requests::UNLOAD),
            |v| unloaded(v.to_string().as_bytes()).map(|_| ()),
            vec![json!({ "model": "m" })],
        ),
    ]
}
