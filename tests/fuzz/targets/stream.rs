//! What a model writes on its way to a client: cut anywhere, it has the same text and calls; as events it is read back as it was
//! sent, wherever the bytes are cut. Any bytes may come as events, and give the same however they are cut.
//!
//! The first byte chooses the notation of calls, the second how things are cut.
#![no_main]

#[path = "../../../tools/src/cmd/bench/serve/sse.rs"]
mod sse;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sse::Splitter;
use std::sync::{Arc, LazyLock};
use trtc_engine::manifest::Dims;
use trtc_runtime::text::ChatTemplate;
use trtc_runtime::{Finish, Limits, Sampling};
use trtc_server::api::Endpoint;
use trtc_server::api::answer::{Answer, Timings};
use trtc_server::api::calls::{Part, Reader};
use trtc_server::api::chunks::Chunks;
use trtc_server::api::fields::Fields;
use trtc_server::api::params::Facts;
use trtc_server::api::tools::{self, Tools};
use trtc_server::api::whole::Shape;
use trtc_server::desk::Update;

/// Functions `a` and `b` in each notation; the last takes one call only.
static TOOLS: LazyLock<Vec<Arc<Tools>>> = LazyLock::new(|| {
    let of = |mark: &str, parallel: bool| {
        let template = ChatTemplate::new(&format!("{{# tools {mark} #}}"), None, None).expect("a template");
        let dims = Dims { max_batch: 4, max_seq_len: 64, max_step_tokens: 64, max_logit_rows: 64 };
        let facts = Facts {
            limits: Limits { vocab: 16, dims, pages: 8, page_tokens: 16, text: true },
            sampling: Sampling::default(),
            tokenizer: None,
            template: Some(Arc::new(template)),
            grammars: None,
        };
        let function = |name| serde_json::json!({ "type": "function", "function": { "name": name } });
        let body =
            serde_json::json!({ "tools": [function("a"), function("b")], "parallel_tool_calls": parallel });
        let mut fields = Fields::parse(body.to_string().as_bytes()).expect("fields");
        Arc::new(tools::take(&mut fields, &facts, Endpoint::Chat).expect("tools").expect("some"))
    };
    vec![
        of("<tool_call>", true),
        of("[TOOL_CALLS]", true),
        of("\"parameters\"", true),
        of("<tool_call>", false),
    ]
});

/// Lengths of pieces, from a seed: often short, sometimes long.
struct Cuts(u32);

impl Cuts {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let short = (self.0 >> 24) as usize % 8;
        if self.0 >> 16 & 7 == 0 { short * 37 } else { short }
    }

    fn bytes<'a>(&mut self, mut rest: &'a [u8]) -> Vec<&'a [u8]> {
        let mut out = Vec::new();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(self.next().min(rest.len()));
            out.push(piece);
            rest = after;
        }
        out
    }

    fn text<'a>(&mut self, mut rest: &'a str) -> Vec<&'a str> {
        let mut out = Vec::new();
        while !rest.is_empty() {
            let mut at = self.next().min(rest.len());
            while !rest.is_char_boundary(at) {
                at += 1;
            }
            let (piece, after) = rest.split_at(at);
            out.push(piece);
            rest = after;
        }
        out
    }
}

/// An answer's text and its calls, in the order in which each comes.
type Told = (String, Vec<(String, String)>);

fn add(told: &mut Told, parts: Vec<Part>) {
    for part in parts {
        match part {
            Part::Text(text) => told.0.push_str(&text),
            Part::Call { name, arguments } => told.1.push((name, arguments)),
        }
    }
}

fn read(tools: &Arc<Tools>, pieces: &[&str]) -> Told {
    let (mut reader, mut told) = (Reader::new(Arc::clone(tools)), Told::default());
    for piece in pieces {
        let mut parts = Vec::new();
        reader.push(piece, &mut parts);
        add(&mut told, parts);
    }
    let mut parts = Vec::new();
    reader.finish(&mut parts);
    add(&mut told, parts);
    assert_eq!(reader.calls(), told.1.len());
    told
}

/// The data of the events of a stream.
fn events(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let (mut splitter, mut out) = (Splitter::default(), Vec::new());
    let mut take = |data: &[u8]| out.push(data.to_vec());
    for piece in pieces {
        splitter.feed(piece, &mut take).expect("inputs are shorter than an event may be");
    }
    splitter.finish(&mut take);
    out
}

/// What a client reads of an answer that is sent piece by piece.
fn sent(tools: &Arc<Tools>, pieces: &[&str], cuts: &mut Cuts) -> Told {
    let shape = Shape {
        endpoint: Endpoint::Chat,
        id: "chatcmpl-1".to_owned(),
        created: 1,
        model: "m\n\"".into(),
        tokenizer: None,
        n: 1,
        prompts: Vec::new(),
        prompt_tokens: 1,
        echo: Vec::new(),
        logprobs: None,
        prompt_logprobs: None,
        tools: Some(Arc::clone(tools)),
        asked: Default::default(),
    };
    let (mut chunks, mut out) = (Chunks::new(shape, 1, true), String::new());
    let (part, index, token) = (0, 0, 0);
    for piece in pieces {
        chunks.take(Update::Token { part, index, token, text: (*piece).to_owned(), logprob: None }, &mut out);
    }
    chunks.take(Update::Done { part, index, finish: Finish::Stop, text: String::new(), cached: 0 }, &mut out);
    chunks.finish(&Timings::default(), &mut out);
    let mut told = Told::default();
    let mut data = events(&cuts.bytes(out.as_bytes()));
    assert_eq!(data.pop().as_deref(), Some(&b"[DONE]"[..]));
    for event in data {
        let event: Value = serde_json::from_slice(&event).expect("an event is JSON");
        let Some(choice) = event["choices"].get(0) else { continue };
        told.0.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            assert_eq!(call["index"], told.1.len());
            told.1.push((text(&call["function"]["name"]), text(&call["function"]["arguments"])));
        }
    }
    told
}

fuzz_target!(|bytes: &[u8]| {
    let [which, seed, rest @ ..] = bytes else { return };
    let mut cuts = Cuts(u32::from(*seed));
    assert_eq!(events(&[rest]), events(&cuts.bytes(rest)), "bytes cut differently");

    let text = String::from_utf8_lossy(rest);
    let tools = &TOOLS[usize::from(*which) % TOOLS.len()];
    let whole = read(tools, &[&text]);
    let pieces = cuts.text(&text);
    assert_eq!(read(tools, &pieces), whole, "text cut differently");
    assert_eq!(sent(tools, &pieces, &mut cuts), whole, "as events");
    for (name, _) in &whole.1 {
        assert!(tools.has(name), "{name} is no function");
    }
    if whole.1.is_empty() {
        let bare = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(bare(&whole.0), bare(&text), "nothing is lost");
    }
});
