//! Byte-level BPE: the table of pre-tokenizers, and the parts of a `tokenizer.json` that follow from it.

use super::json::{BpeModel, Numbered};
use super::{Parts, Vocabulary};
use serde_json::{Value, json};
use std::collections::HashSet;
use trtc_ir::{Diag, Loc};

/// How a text is cut into words before merges apply.
pub struct Pre {
    /// Values of `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    split: Split,
    /// The text is brought into Unicode's NFC form first.
    nfc: bool,
    /// A word that is a token is that token, whatever the merges say.
    ignore_merges: bool,
    /// Prompts begin with the BOS token unless the file says otherwise.
    pub add_bos: bool,
}

enum Split {
    /// The pattern of GPT-2.
    Gpt2,
    /// Digits one by one, then the pattern of GPT-2.
    DigitsGpt2,
    /// One pattern, each match a word.
    Pattern(&'static str),
    /// Several patterns, one after the other.
    Patterns(&'static [&'static str]),
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &[&str] = &[
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

/// The table: one line a way of splitting.
const TABLE: [Pre; 8] = [
    Pre {
        names: &["default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4"],
        split: Split::Gpt2,
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"],
        split: Split::DigitsGpt2,
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"],
        split: Split::Pattern(LLAMA3),
        nfc: false,
        ignore_merges: true,
        add_bos: true,
    },
    Pre {
        names: &["dbrx", "smaug-bpe"],
        split: Split::Pattern(LLAMA3),
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2"],
        split: Split::Pattern(QWEN2),
        nfc: true,
        ignore_merges: false,
        add_bos: false,
    },
    Pre { names: &["tekken"], split: Split::Pattern(TEKKEN), nfc: false, ignore_merges: true, add_bos: true },
    Pre {
        names: &["gpt-4o", "llama4"],
        split: Split::Pattern(GPT4O),
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["deepseek-v3"],
        split: Split::Patterns(DEEPSEEK3),
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
];

/// The row that `tokenizer.ggml.pre` names; files from before that key are read as GPT-2.
pub fn pre(name: Option<&str>, loc: &Loc) -> Result<&'static Pre, Diag> {
    const ROWS: &[Pre] = &TABLE;
    let name = name.unwrap_or("default");
    ROWS.iter().find(|p| p.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = ROWS.iter().flat_map(|p| p.names).copied().collect();
        Diag::unsupported(loc, format!("`tokenizer.ggml.pre` is {name:?}, which is not supported"))
            .help(format!("supported: {}; or build from the model's Hugging Face folder", known.join(", ")))
    })
}

pub fn parts<'a>(v: &'a Vocabulary<'_>, pre: &Pre, merges: &[&'a str]) -> Result<Parts<'a>, Diag> {
    let known: HashSet<&str> = v.tokens.iter().map(|t| t.as_ref()).collect();
    let mut pairs = Vec::with_capacity(merges.len());
    for (i, merge) in merges.iter().enumerate() {
        // A part may begin with a space, so the separator is looked for behind the first character.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let cut = merge.get(first..).and_then(|rest| rest.find(' ')).map(|at| at + first);
        let pair = cut
            .map(|at| (&merge[..at], &merge[at + 1..]))
            .filter(|(l, r)| known.contains(l) && known.contains(r));
        let Some(pair) = pair else {
            return Err(Diag::user(
                &v.loc,
                format!("merge {i}, {merge:?}, is not of two tokens of the vocabulary"),
            )
            .help("convert the model again with a current converter"));
        };
        pairs.push(pair);
    }
    let mut whole = String::new();
    pairs.retain(|(l, r)| {
        whole.clear();
        whole.push_str(l);
        whole.push_str(r);
        known.contains(whole.as_str())
    });
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let sequence = |list: Vec<Value>| json!({"type": "Sequence", "pretokenizers": list});
    let pre_tokenizer = match pre.split {
        Split::Gpt2 => byte_level(true),
        Split::DigitsGpt2 => {
            sequence(vec![json!({"type": "Digits", "individual_digits": true}), byte_level(true)])
        }
        Split::Pattern(p) => sequence(vec![split(p), byte_level(false)]),
        Split::Patterns(list) => sequence(list.iter().map(|p| split(p)).chain([byte_level(false)]).collect()),
    };
    Ok(Parts {
        normalizer: if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer,
        decoder: byte_level(true),
        model: BpeModel {
            ty: "BPE",
            dropout: (),
            unk_token: None,
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: pre.ignore_merges,
            vocab: Numbered(&v.tokens),
            merges: pairs,
        },
    })
}
