//! SentencePiece BPE: merges found again from the scores of pieces, and the parts of a `tokenizer.json`.
//!
//! SentencePiece joins the two neighbours whose joint piece has the best score. As a list of merges that is: every
//! way to cut a piece into two pieces, by the score of the whole, best first.

use super::json::{BpeModel, Numbered};
use super::{Kind, Parts, Vocabulary};
use serde_json::{Value, json};
use std::collections::HashMap;

/// What SentencePiece writes for a space.
pub const SPACE: char = '\u{2581}';

pub fn parts<'a>(v: &'a Vocabulary<'_>, scores: &[f64], add_space_prefix: bool) -> Parts<'a> {
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE.to_string()});
    let prefix = json!({"type": "Prepend", "prepend": SPACE.to_string()});
    let normalizer =
        if add_space_prefix { json!({"type": "Sequence", "normalizers": [prefix, spaces]}) } else { spaces };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE.to_string()}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_space_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Parts {
        normalizer,
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: BpeModel {
            ty: "BPE",
            dropout: (),
            unk_token: v.unknown.and_then(|id| v.tokens.get(id as usize)).map(|t| t.as_ref()),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: true,
            byte_fallback: v.kinds.contains(&Kind::Byte) || v.tokens.iter().any(|t| t == "<0x0A>"),
            ignore_merges: false,
            vocab: Numbered(&v.tokens),
            merges: merges(v, scores),
        },
    }
}

/// Only normal pieces are joined and are parts of others: special and user-defined tokens are found in the text
/// before, and bytes stand for what has no piece.
fn merges<'a>(v: &'a Vocabulary<'_>, scores: &[f64]) -> Vec<(&'a str, &'a str)> {
    let normal = |id: &usize| v.kinds[*id] == Kind::Normal;
    let ids: HashMap<&str, usize> =
        (0..v.tokens.len()).filter(normal).map(|i| (v.tokens[i].as_ref(), i)).collect();
    let mut by_score: Vec<usize> = (0..v.tokens.len()).filter(normal).collect();
    by_score.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut out = Vec::new();
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    for piece in by_score.into_iter().map(|i| v.tokens[i].as_ref()) {
        cuts.clear();
        for (at, _) in piece.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&piece[..at]), ids.get(&piece[at..])) {
                cuts.push((left, right));
            }
        }
        cuts.sort_unstable();
        out.extend(cuts.iter().map(|&(l, r)| (v.tokens[l].as_ref(), v.tokens[r].as_ref())));
    }
    out
}
