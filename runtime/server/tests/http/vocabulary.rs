//! A tokenizer of bytes for an engine of 384 entries: it can write any text, and so follow any grammar.

use serde_json::{Value, json};

/// Bytes from id 3 on, then two tags, which are text, and words of no use.
pub fn bytes() -> Value {
    let mut vocab: serde_json::Map<String, Value> = (0..384)
        .map(|i: usize| match i.checked_sub(3) {
            None => (["<unk>", "<s>", "</s>"][i].to_owned(), json!(i)),
            Some(byte @ 0..256) => (format!("<0x{byte:02X}>"), json!(i)),
            Some(_) => (format!("w{i}"), json!(i)),
        })
        .collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special })
    };
    for (id, tag) in [(259, "<tool_call>"), (260, "</tool_call>")] {
        vocab.retain(|_, v| *v != json!(id));
        vocab.insert(tag.to_owned(), json!(id));
    }
    let tokens = [
        added(1, "<s>", true),
        added(2, "</s>", true),
        added(259, "<tool_call>", false),
        added(260, "</tool_call>", false),
    ];
    json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "pre_tokenizer": null,
        "normalizer": null, "added_tokens": tokens,
        "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }] },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
                   "vocab": vocab, "merges": [] },
    })
}
