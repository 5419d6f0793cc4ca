//! The form of a `tokenizer.json`, for writing.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use std::borrow::Cow;

/// A `tokenizer.json`.
#[derive(serde::Serialize)]
pub struct Frame<'a> {
    pub version: &'static str,
    pub truncation: (),
    pub padding: (),
    pub added_tokens: Vec<Added<'a>>,
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub post_processor: (),
    pub decoder: Value,
    pub model: BpeModel<'a>,
}

#[derive(serde::Serialize)]
pub struct Added<'a> {
    pub id: u32,
    pub content: &'a str,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
}

#[derive(serde::Serialize)]
pub struct BpeModel<'a> {
    #[serde(rename = "type")]
    pub ty: &'static str,
    pub dropout: (),
    pub unk_token: Option<&'a str>,
    pub continuing_subword_prefix: (),
    pub end_of_word_suffix: (),
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
    pub vocab: Numbered<'a>,
    pub merges: Vec<(&'a str, &'a str)>,
}

/// Tokens with their numbers, in order: equal input gives equal bytes.
pub struct Numbered<'a>(pub &'a [Cow<'a, str>]);

impl Serialize for Numbered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (i, token) in self.0.iter().enumerate() {
            map.serialize_entry(token.as_ref(), &i)?;
        }
        map.end()
    }
}
