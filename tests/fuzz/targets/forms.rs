//! What is run for others: a model's chat template, and the grammars that requests bring. Whatever they are, they come to an end
//! or are refused, within bounds of work and memory, and what a grammar allows it takes.
//!
//! The first byte chooses. A template is text up to a zero byte, and what a message says behind it; a grammar is the body of a
//! request, and how its answer goes on behind a zero byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use trtc_engine::manifest::Dims;
use trtc_runtime::text::{ChatTemplate, Message, Tokenizer};
use trtc_runtime::{Grammars, Limits, Sampling};
use trtc_server::api::Endpoint;
use trtc_server::api::fields::Fields;
use trtc_server::api::params::Facts;
use trtc_server::api::structured;

/// Bytes from id 1 on, then a few words, then the end.
const END: u32 = 262;

static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    let mut vocab: serde_json::Map<String, Value> =
        (0..=255_u32).map(|byte| (format!("<0x{byte:02X}>"), json!(byte + 1))).collect();
    for (word, id) in
        [("<unk>", 0), ("true", 257), ("\":", 258), ("{\"", 259), ("00", 260), ("ä", 261), ("</s>", END)]
    {
        vocab.insert(word.to_owned(), json!(id));
    }
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "pre_tokenizer": null, "normalizer": null,
        "added_tokens": [{ "id": END, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true }],
        "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }] },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
                   "vocab": vocab, "merges": [] },
    });
    let tokenizer = Arc::new(Tokenizer::new(tokenizer.to_string().as_bytes(), None).expect("a tokenizer"));
    let dims = Dims { max_batch: 4, max_seq_len: 64, max_step_tokens: 64, max_logit_rows: 64 };
    Facts {
        limits: Limits { vocab: END + 1, dims, pages: 8, page_tokens: 16, text: true },
        sampling: Sampling::default(),
        tokenizer: Some(Arc::clone(&tokenizer)),
        template: None,
        grammars: Some(Arc::new(Grammars::new(tokenizer, END + 1, &[END]))),
    }
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, rest)) = bytes.split_first() else { return };
    let at = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
    let (form, more) = (&rest[..at], rest.get(at + 1..).unwrap_or_default());
    match which % 2 {
        0 => template(&String::from_utf8_lossy(form), &String::from_utf8_lossy(more)),
        _ => grammar(form, more),
    }
});

fn template(source: &str, content: &str) {
    let Ok(template) = ChatTemplate::new(source, Some("<s>"), Some("</s>")) else { return };
    let call = json!([{ "id": "c", "type": "function", "function": { "name": "f", "arguments": { "x": [1, null, "é"] } } }]);
    let mut called = Message::new("assistant", "");
    called.more.insert("tool_calls".to_owned(), call);
    let messages =
        [Message::new("system", "Be."), Message::new("user", content), called, Message::new("tool", "7")];
    let tools =
        [json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } })];
    // Only what it says of the time may differ, and it may have run out of work just before its end.
    let first = template.render(&messages, &tools, true);
    if !source.contains("strftime_now") {
        assert_eq!(template.render(&messages, &tools, true).ok(), first.ok());
    }
}

fn grammar(body: &[u8], walk: &[u8]) {
    let Ok(mut fields) = Fields::parse(body) else { return };
    let grammar = match structured::take(&mut fields, &FACTS, Endpoint::Chat) {
        Ok(Some(grammar)) => grammar,
        Ok(None) => return,
        Err(error) => return assert_eq!(error.status, 400, "{error}"),
    };
    let mut matcher = grammar.matcher();
    for step in walk.iter().chain(&[0; 8]).take(64) {
        let Ok(mask) = matcher.mask() else { return };
        let allowed: Vec<u32> = (0..=END).filter(|&t| mask[t as usize / 32] >> (t % 32) & 1 == 1).collect();
        assert!(!allowed.is_empty(), "an answer that cannot go on has ended");
        let token = allowed[usize::from(*step) % allowed.len()];
        let over = matcher.accept(token).and_then(|()| matcher.is_over());
        if token == END || over.unwrap_or(true) {
            return;
        }
    }
}
