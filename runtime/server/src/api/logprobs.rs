//! Log-probabilities in OpenAI's two formats, and vLLM's of prompts.

use serde::Serialize;
use serde_json::{Map, Value, json};
use trtc_runtime::TokenLogprob;
use trtc_runtime::text::Tokenizer;

/// What stands for minus infinity, which JSON has not.
const IMPOSSIBLE: f64 = -9999.0;

fn number(logprob: f32) -> f64 {
    if logprob.is_finite() { f64::from(logprob) } else { IMPOSSIBLE }
}

/// Bytes that a token adds to a text; of a special token those of its spelling.
fn bytes(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    match tokenizer.token_bytes(token) {
        [] => tokenizer.token(token).unwrap_or_default().into_bytes(),
        bytes => bytes.to_vec(),
    }
}

/// A token as chats have it; a part of a character becomes U+FFFD, and `bytes` tell which.
fn in_chat(tokenizer: Option<&Tokenizer>, token: u32, logprob: f32) -> Map<String, Value> {
    let bytes = tokenizer.map(|t| bytes(t, token));
    let text = bytes.as_ref().map_or_else(|| token.to_string(), |b| String::from_utf8_lossy(b).into_owned());
    let mut map = Map::new();
    map.insert("token".to_owned(), text.into());
    map.insert("logprob".to_owned(), number(logprob).into());
    map.insert("bytes".to_owned(), bytes.map_or(Value::Null, Value::from));
    map
}

/// An entry of `logprobs.content` of a chat.
pub fn chat(tokenizer: Option<&Tokenizer>, entry: &TokenLogprob, alternatives: u32) -> Value {
    let mut map = in_chat(tokenizer, entry.token, entry.logprob);
    let top: Vec<Value> = entry
        .top
        .iter()
        .take(alternatives as usize)
        .map(|&(token, logprob)| Value::Object(in_chat(tokenizer, token, logprob)))
        .collect();
    map.insert("top_logprobs".to_owned(), top.into());
    Value::Object(map)
}

/// A token as completions have it; a part of a character is spelled as its bytes.
fn in_completion(tokenizer: Option<&Tokenizer>, token: u32) -> String {
    let Some(tokenizer) = tokenizer else {
        return token.to_string();
    };
    match String::from_utf8(bytes(tokenizer, token)) {
        Ok(text) => text,
        Err(e) => {
            let spelled: String = e.as_bytes().iter().map(|b| format!("\\x{b:02x}")).collect();
            format!("bytes:{spelled}")
        }
    }
}

/// `logprobs` of a completion: lists with one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lists {
    tokens: Vec<String>,
    /// None for the first token of a prompt.
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each token begins in the text, characters.
    text_offset: Vec<usize>,
}

impl Lists {
    /// Appends a token that begins at `offset`, and moves it to where the next begins.
    pub fn push(
        &mut self,
        tokenizer: Option<&Tokenizer>,
        entry: &TokenLogprob,
        alternatives: u32,
        offset: &mut usize,
    ) {
        self.push_bare(tokenizer, entry.token, offset);
        let mut top = Map::new();
        let alternatives = entry.top.iter().take(alternatives as usize).copied();
        for (token, logprob) in alternatives.chain([(entry.token, entry.logprob)]) {
            top.entry(in_completion(tokenizer, token)).or_insert_with(|| number(logprob).into());
        }
        self.token_logprobs.push(Some(number(entry.logprob)));
        self.top_logprobs.push(Some(top));
    }

    /// Appends the first token of a prompt, of which no probability is known.
    pub fn push_first(&mut self, tokenizer: Option<&Tokenizer>, token: u32, offset: &mut usize) {
        self.push_bare(tokenizer, token, offset);
        self.token_logprobs.push(None);
        self.top_logprobs.push(None);
    }

    fn push_bare(&mut self, tokenizer: Option<&Tokenizer>, token: u32, offset: &mut usize) {
        self.tokens.push(in_completion(tokenizer, token));
        self.text_offset.push(*offset);
        // Each character has one byte that is no continuation.
        let begins = |b: &&u8| (**b & 0xc0) != 0x80;
        *offset += tokenizer.map_or(0, |t| t.token_bytes(token).iter().filter(begins).count());
    }
}

/// `prompt_logprobs` as vLLM has them: null for the first token, then objects by token id.
pub fn prompt(tokenizer: Option<&Tokenizer>, entries: &[TokenLogprob], alternatives: u32) -> Value {
    let one = |entry: &TokenLogprob| {
        let mut map = Map::new();
        let top = entry.top.iter().take(alternatives as usize).zip(1..);
        for (&(token, logprob), rank) in top {
            let text = in_completion(tokenizer, token);
            map.insert(
                token.to_string(),
                json!({ "logprob": number(logprob), "rank": rank, "decoded_token": text }),
            );
        }
        let text = in_completion(tokenizer, entry.token);
        // Its rank is known only if it is among the best.
        map.entry(entry.token.to_string()).or_insert_with(
            || json!({ "logprob": number(entry.logprob), "rank": null, "decoded_token": text }),
        );
        Value::Object(map)
    };
    std::iter::once(Value::Null).chain(entries.iter().map(one)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words, a token of half a character, and a special token.
    fn tokenizer() -> Tokenizer {
        let json = json!({
            "version": "1.0",
            "added_tokens": [{ "id": 3, "content": "<end>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false }],
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
            "model": { "type": "WordLevel", "vocab": { "a": 0, "Ġb": 1, "Ã": 2, "<end>": 3, "©": 4 }, "unk_token": "a" },
        });
        Tokenizer::new(json.to_string().as_bytes(), None).unwrap()
    }

    fn entry(token: u32, logprob: f32, top: &[(u32, f32)]) -> TokenLogprob {
        TokenLogprob { token, logprob, top: top.to_vec() }
    }

    #[test]
    fn chats_have_bytes() {
        let t = tokenizer();
        let value = chat(Some(&t), &entry(2, -0.5, &[(1, -0.25), (2, -0.5)]), 1);
        let want = json!({ "token": "\u{fffd}", "logprob": -0.5, "bytes": [0xc3],
            "top_logprobs": [{ "token": " b", "logprob": -0.25, "bytes": [32, 98] }] });
        assert_eq!(value, want);
        let value = chat(Some(&t), &entry(3, f32::NEG_INFINITY, &[]), 0);
        assert_eq!((&value["token"], &value["logprob"]), (&json!("<end>"), &json!(-9999.0)));
        assert_eq!(chat(None, &entry(7, 0.0, &[]), 0)["bytes"], Value::Null);
    }

    #[test]
    fn completions_have_lists_and_offsets_in_characters() {
        let t = tokenizer();
        let (mut lists, mut offset) = (Lists::default(), 0);
        lists.push_first(Some(&t), 0, &mut offset);
        for token in [2, 4, 3, 1] {
            lists.push(Some(&t), &entry(token, -1.0, &[(0, -0.5), (1, -0.75)]), 1, &mut offset);
        }
        assert_eq!(lists.tokens, ["a", "bytes:\\xc3", "bytes:\\xa9", "<end>", " b"]);
        assert_eq!(lists.text_offset, [0, 1, 2, 2, 2]);
        assert_eq!(lists.token_logprobs, [None, Some(-1.0), Some(-1.0), Some(-1.0), Some(-1.0)]);
        let top = lists.top_logprobs[4].as_ref().unwrap();
        assert_eq!(Value::Object(top.clone()), json!({ "a": -0.5, " b": -1.0 }));
    }

    #[test]
    fn prompts_have_objects_by_id() {
        let t = tokenizer();
        let value = prompt(Some(&t), &[entry(1, -2.0, &[(0, -0.5)]), entry(0, -0.5, &[(0, -0.5)])], 1);
        assert_eq!(value[0], Value::Null);
        assert_eq!(value[1]["0"], json!({ "logprob": -0.5, "rank": 1, "decoded_token": "a" }));
        assert_eq!(value[1]["1"]["rank"], Value::Null);
        assert_eq!(value[2].as_object().map(Map::len), Some(1));
    }
}
