//! The vocabulary of a GGUF file, and the `tokenizer.json` that is rebuilt from it.
//!
//! Two kinds: byte-level BPE ("gpt2", with merges) and SentencePiece BPE ("llama", with scores). What differs
//! between them is in a file each; the frame and the special tokens are here.

mod byte_level;
mod json;
mod sentencepiece;

use crate::frontend::TokenizerData;
use crate::frontend::gguf::{Array, Header, Meta};
use json::{Added, BpeModel, Frame};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use trtc_ir::{Diag, Loc};

/// What a token is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    fn of(number: f64) -> Kind {
        match number as i64 {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }
}

/// Which algorithm the vocabulary is for, with what that needs.
enum Model<'a> {
    ByteLevel { pre: &'static byte_level::Pre, merges: Vec<&'a str> },
    SentencePiece { scores: Vec<f64>, add_space_prefix: bool },
}

/// The vocabulary of a file.
pub struct Vocabulary<'a> {
    loc: Loc,
    model: Model<'a>,
    tokens: Vec<Cow<'a, str>>,
    kinds: Vec<Kind>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    /// Further tokens that end a turn or a message.
    ends: Vec<u32>,
    add_bos: bool,
    chat_template: Option<String>,
}

/// Control tokens that end an answer, by their text: converters do not state all of a model's.
const ENDS: [&str; 7] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
];

/// Metadata with typed access.
struct Keys<'a> {
    header: &'a Header,
    file: &'a [u8],
    loc: &'a Loc,
}

impl<'a> Keys<'a> {
    fn wrong(&self, key: &str, want: &str, found: &Meta) -> Diag {
        Diag::user(self.loc, format!("`{key}` must be {want}, found {found:?}"))
    }

    fn str(&self, key: &str) -> Result<Option<&'a str>, Diag> {
        match self.header.meta.get(key) {
            None => Ok(None),
            Some(Meta::Str(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, "a string", other)),
        }
    }

    fn bool(&self, key: &str) -> Result<Option<bool>, Diag> {
        match self.header.meta.get(key) {
            None => Ok(None),
            Some(Meta::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// A token id, which must be in the vocabulary.
    fn token(&self, key: &str, tokens: usize) -> Result<Option<u32>, Diag> {
        match self.header.meta.get(key) {
            None => Ok(None),
            Some(Meta::Uint(n)) if (*n as usize) < tokens => Ok(Some(*n as u32)),
            Some(Meta::Int(n)) if (0..tokens as i64).contains(n) => Ok(Some(*n as u32)),
            Some(other) => Err(self.wrong(key, &format!("a token id below {tokens}"), other)),
        }
    }

    fn array(&self, key: &str) -> Result<Option<&'a Array>, Diag> {
        match self.header.meta.get(key) {
            None => Ok(None),
            Some(Meta::Array(a)) => Ok(Some(a)),
            Some(other) => Err(self.wrong(key, "an array", other)),
        }
    }

    fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, Diag> {
        self.array(key)?.map(|a| a.strings(self.file, self.loc)).transpose()
    }

    /// Numbers, one for each token.
    fn numbers(&self, key: &str, tokens: usize) -> Result<Option<Vec<f64>>, Diag> {
        let Some(array) = self.array(key)? else {
            return Ok(None);
        };
        if array.count < tokens as u64 {
            return Err(Diag::user(
                self.loc,
                format!("`{key}` has {} entries for {tokens} tokens", array.count),
            ));
        }
        array.numbers(self.file, self.loc).map(Some)
    }
}

impl<'a> Vocabulary<'a> {
    /// Reads the vocabulary; `None` if the file has none.
    pub fn read(header: &'a Header, file: &'a [u8], loc: &'a Loc) -> Result<Option<Vocabulary<'a>>, Diag> {
        let keys = Keys { header, file, loc };
        let model = match keys.str("tokenizer.ggml.model")? {
            None | Some("none" | "no_vocab") => return Ok(None),
            Some(model) => model,
        };
        let words = keys
            .strings("tokenizer.ggml.tokens")?
            .ok_or_else(|| Diag::user(loc, "`tokenizer.ggml.tokens` is missing"))?;
        let kinds = match keys.numbers("tokenizer.ggml.token_type", words.len())? {
            Some(numbers) => numbers.into_iter().take(words.len()).map(Kind::of).collect(),
            None => vec![Kind::Normal; words.len()],
        };
        let id = |key: &str| keys.token(key, words.len());
        let mut bos = id("tokenizer.ggml.bos_token_id")?;
        let mut eos = id("tokenizer.ggml.eos_token_id")?;
        let mut unknown = id("tokenizer.ggml.unknown_token_id")?;
        let (model, add_bos) = match model {
            "gpt2" => {
                let pre = byte_level::pre(keys.str("tokenizer.ggml.pre")?, loc)?;
                let merges = keys
                    .strings("tokenizer.ggml.merges")?
                    .ok_or_else(|| Diag::user(loc, "`tokenizer.ggml.merges` is missing"))?;
                (Model::ByteLevel { pre, merges }, pre.add_bos)
            }
            "llama" => {
                // The numbers that SentencePiece gives these tokens unless told otherwise.
                let default = |n: u32| Some(n).filter(|&n| (n as usize) < words.len());
                (unknown, bos, eos) = (unknown.or(default(0)), bos.or(default(1)), eos.or(default(2)));
                let scores = match keys.numbers("tokenizer.ggml.scores", words.len())? {
                    Some(scores) => scores,
                    None => (0..words.len()).map(|i| -(i as f64)).collect(),
                };
                let add_space_prefix = keys.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                (Model::SentencePiece { scores, add_space_prefix }, true)
            }
            other => {
                return Err(Diag::unsupported(loc, format!("`tokenizer.ggml.model` is {other:?}"))
                    .help("supported: gpt2, llama"));
            }
        };
        let add_bos = keys.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        if add_bos && bos.is_none() {
            return Err(Diag::user(
                loc,
                "`tokenizer.ggml.add_bos_token` is true, and `tokenizer.ggml.bos_token_id` is missing",
            ));
        }
        let mut ends: Vec<u32> = Vec::new();
        for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
            ends.extend(id(key)?);
        }
        let chat_template = keys.str("tokenizer.chat_template")?.map(str::to_owned);
        let tokens = spell(&words, &kinds, matches!(model, Model::SentencePiece { .. }));
        distinct(&tokens, loc)?;
        Ok(Some(Vocabulary {
            loc: loc.clone(),
            model,
            tokens,
            kinds,
            bos,
            eos,
            unknown,
            ends,
            add_bos,
            chat_template,
        }))
    }

    /// Number of tokens.
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end a sequence, ascending.
    pub fn ends(&self) -> Vec<u32> {
        let by_text = (0..self.tokens.len() as u32).filter(|&i| {
            self.kinds[i as usize] == Kind::Control && ENDS.contains(&self.tokens[i as usize].as_ref())
        });
        let mut ends: Vec<u32> =
            self.eos.into_iter().chain(self.ends.iter().copied()).chain(by_text).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    /// The text handling of the model.
    pub fn tokenizer(&self) -> Result<TokenizerData, Diag> {
        let parts = match &self.model {
            Model::ByteLevel { pre, merges } => byte_level::parts(self, pre, merges)?,
            Model::SentencePiece { scores, add_space_prefix } => {
                sentencepiece::parts(self, scores, *add_space_prefix)
            }
        };
        let json = serde_json::to_string(&Frame {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: self.added_tokens(),
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
            post_processor: (),
            decoder: parts.decoder,
            model: parts.model,
        })
        .map_err(|e| Diag::bug(&self.loc, format!("the tokenizer cannot be written: {e}")))?;
        let text = |id: Option<u32>| id.and_then(|i| self.tokens.get(i as usize)).map(|t| t.to_string());
        Ok(TokenizerData {
            json,
            add_bos: self.add_bos,
            chat_template: self.chat_template.clone(),
            bos_token: text(self.bos),
            eos_token: text(self.eos),
        })
    }

    /// Tokens that are found in a text before anything else is done with it.
    fn added_tokens(&self) -> Vec<Added<'_>> {
        let named = [self.bos, self.eos, self.unknown];
        (0..self.tokens.len() as u32)
            .filter_map(|id| {
                let special = match self.kinds[id as usize] {
                    Kind::Control | Kind::Unknown => true,
                    Kind::UserDefined => false,
                    // Files without kinds still say which tokens these are.
                    Kind::Normal if named.contains(&Some(id)) => true,
                    Kind::Normal | Kind::Unused | Kind::Byte => return None,
                };
                Some(Added {
                    id,
                    content: &self.tokens[id as usize],
                    single_word: false,
                    lstrip: false,
                    rstrip: false,
                    normalized: false,
                    special,
                })
            })
            .collect()
    }
}

/// Token texts: a name for empty ones, and spaces in user-defined ones of SentencePiece, which are looked for in
/// the text as it was written.
fn spell<'a>(words: &[&'a str], kinds: &[Kind], sentencepiece: bool) -> Vec<Cow<'a, str>> {
    let spell = |(i, (word, kind)): (usize, (&&'a str, &Kind))| {
        if word.is_empty() {
            Cow::Owned(format!("[EMPTY_{i}]"))
        } else if sentencepiece && *kind == Kind::UserDefined && word.contains(sentencepiece::SPACE) {
            Cow::Owned(word.replace(sentencepiece::SPACE, " "))
        } else {
            Cow::Borrowed(*word)
        }
    };
    words.iter().zip(kinds).enumerate().map(spell).collect()
}

fn distinct(tokens: &[Cow<'_, str>], loc: &Loc) -> Result<(), Diag> {
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(tokens.len());
    for (i, token) in tokens.iter().enumerate() {
        if let Some(first) = seen.insert(token, i) {
            return Err(Diag::user(
                loc,
                format!("tokens {first} and {i} of the vocabulary are both {token:?}"),
            )
            .help("convert the model again with a current converter"));
        }
    }
    Ok(())
}

/// What the two kinds of vocabulary fill in differently.
struct Parts<'a> {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: BpeModel<'a>,
}

#[cfg(test)]
#[path = "../tokenizer_tests.rs"]
mod tests;
