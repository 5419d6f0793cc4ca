//! Tokens to bytes to text, one token at a time.
//!
//! A `tokenizer.json` describes its decoder as a list of steps over strings. All steps that language models use work
//! on each token alone, but for what happens at the very beginning; so each token's bytes are computed once, when
//! the tokenizer is loaded, and decoding is appending bytes and reading them as UTF-8. That is the same whether
//! tokens come one by one or all at once.

use super::tokenizer::Tokenizer;
use crate::error::Error;
use rustc_hash::FxHashMap;
use serde::Deserialize;

/// The bytes of every token.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where token i ends in `bytes`; it begins where the one before ends. Special tokens have no bytes.
    ends: Vec<u32>,
    /// Bytes of the longest token.
    longest: usize,
    start: Start,
}

/// What is different at the beginning of a text.
#[derive(Clone, Debug, Default, PartialEq)]
struct Start {
    /// Up to so many of this character are left out before anything else.
    strip: Option<(char, usize)>,
    /// Every space of the first token is left out.
    spaceless: bool,
    /// Tokens but the first have a space before them.
    spaced: bool,
}

/// A step of a decoder, as `tokenizer.json` has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type")]
enum Step {
    Sequence { decoders: Vec<Step> },
    ByteLevel,
    ByteFallback,
    Fuse,
    Replace { pattern: Pattern, content: String },
    Strip { content: char, start: usize, stop: usize },
    Metaspace { replacement: char, prepend_scheme: String },
}

#[derive(Clone, Debug, Deserialize)]
enum Pattern {
    String(String),
    Regex(String),
}

/// A token on its way through the steps.
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

impl Pieces {
    /// Computes the bytes of all tokens. Refuses decoders that do not work token by token.
    pub fn new(inner: &tokenizers::Tokenizer) -> Result<Pieces, Error> {
        let mut steps = Vec::new();
        let mut start = Start::default();
        match inner.get_decoder() {
            None => start.spaced = true,
            Some(decoder) => {
                let odd = |e: serde_json::Error| Error::unsupported(format!("the tokenizer's decoder: {e}"));
                let step: Step =
                    serde_json::from_value(serde_json::to_value(decoder).map_err(odd)?).map_err(odd)?;
                flatten(step, &mut steps);
            }
        }
        let steps = split(steps, &mut start)?;
        let vocab = inner.get_vocab(true);
        // Ids of a real vocabulary are dense; a table that is mostly holes is not one.
        let count = vocab.values().max().map_or(0, |&id| id as usize + 1);
        if count > 4 * vocab.len() + 65536 {
            return Err(Error::user(format!(
                "the tokenizer has {} tokens and an id {}",
                vocab.len(),
                count - 1
            )));
        }
        let mut texts: Vec<Option<String>> = vec![None; count];
        for (text, id) in vocab {
            texts[id as usize] = Some(text);
        }
        for (&id, token) in inner.get_added_tokens_decoder().iter().filter(|(_, t)| t.special) {
            debug_assert!((id as usize) < count, "{token:?} is in the vocabulary");
            if let Some(text) = texts.get_mut(id as usize) {
                *text = None;
            }
        }
        let table = byte_level_table();
        let mut pieces = Pieces { start, ..Pieces::default() };
        for text in texts {
            if let Some(text) = text {
                let bytes = through(&steps, text, &table);
                pieces.longest = pieces.longest.max(bytes.len());
                pieces.bytes.extend_from_slice(&bytes);
            }
            let end = u32::try_from(pieces.bytes.len());
            pieces
                .ends
                .push(end.map_err(|_| Error::user("the tokenizer's tokens have more than 4 GiB of text"))?);
        }
        Ok(pieces)
    }

    /// True if tokens have spaces between them that belong to none.
    pub fn puts_spaces(&self) -> bool {
        self.start.spaced
    }

    /// Ids are below this.
    pub fn vocab(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Bytes of the longest token.
    pub fn longest(&self) -> usize {
        self.longest
    }

    pub fn get(&self, token: u32) -> &[u8] {
        let i = token as usize;
        let from = i.checked_sub(1).and_then(|i| self.ends.get(i)).map_or(0, |&e| e as usize);
        self.ends.get(i).map_or(&[], |&to| &self.bytes[from..to as usize])
    }
}

fn flatten(step: Step, steps: &mut Vec<Step>) {
    match step {
        Step::Sequence { decoders } => decoders.into_iter().for_each(|d| flatten(d, steps)),
        step => steps.push(step),
    }
}

/// Takes the steps out that are about the beginning of the text, and refuses what is about its end.
fn split(steps: Vec<Step>, start: &mut Start) -> Result<Vec<Step>, Error> {
    let mut each = Vec::new();
    let mut fused = false;
    for step in steps {
        match step {
            Step::Fuse => fused = true,
            Step::Strip { content, start: n, stop: 0 } if fused && start.strip.is_none() => {
                start.strip = Some((content, n));
            }
            Step::Metaspace { replacement, prepend_scheme } if !fused => {
                start.spaceless = prepend_scheme != "never";
                each.push(Step::Replace {
                    pattern: Pattern::String(replacement.into()),
                    content: " ".into(),
                });
            }
            Step::Replace { pattern: Pattern::Regex(regex), .. } => {
                return Err(Error::unsupported(format!(
                    "the tokenizer's decoder replaces by pattern: {regex}"
                )));
            }
            step if fused => {
                return Err(Error::unsupported(format!(
                    "the tokenizer's decoder works on the whole text: {step:?}"
                )));
            }
            step => each.push(step),
        }
    }
    Ok(each)
}

/// The bytes of one token.
fn through(steps: &[Step], token: String, table: &FxHashMap<char, u8>) -> Vec<u8> {
    let mut piece = Piece::Text(token);
    for step in steps {
        let Piece::Text(text) = piece else { break };
        piece = match step {
            Step::ByteLevel => {
                let bytes: Option<Vec<u8>> = text.chars().map(|c| table.get(&c).copied()).collect();
                bytes.map_or(Piece::Text(text), Piece::Bytes)
            }
            Step::ByteFallback => {
                let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|h| h.len() == 2);
                let byte = hex.and_then(|h| u8::from_str_radix(h, 16).ok());
                byte.map_or(Piece::Text(text), |b| Piece::Bytes(vec![b]))
            }
            Step::Replace { pattern: Pattern::String(from), content } if !from.is_empty() => {
                Piece::Text(text.replace(from, content))
            }
            Step::Strip { content, start, stop } => {
                let mut rest = text.as_str();
                for _ in 0..*start {
                    rest = rest.strip_prefix(*content).unwrap_or(rest);
                }
                for _ in 0..*stop {
                    rest = rest.strip_suffix(*content).unwrap_or(rest);
                }
                Piece::Text(rest.to_string())
            }
            // Sequences are flat, and the others were taken out.
            _ => Piece::Text(text),
        };
    }
    match piece {
        Piece::Text(text) => text.into_bytes(),
        Piece::Bytes(bytes) => bytes,
    }
}

/// Characters that stand for bytes in byte-level vocabularies: printable Latin-1 for itself, the others in order
/// from U+0100 on.
fn byte_level_table() -> FxHashMap<char, u8> {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut table: FxHashMap<char, u8> =
        (0..=255u8).filter(|&b| plain(b)).map(|b| (char::from(b), b)).collect();
    let others = (0..=255u8).filter(|&b| !plain(b));
    table.extend((0x100u32..).filter_map(char::from_u32).zip(others));
    table
}

/// Text of tokens as they come. What it gives never ends within a character; all of it together is
/// [`Tokenizer::decode`] of all tokens.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// The beginning of a character.
    held: Vec<u8>,
    /// True after the first token that is text.
    begun: bool,
    /// Characters left out at the beginning; `None` once something else has come.
    stripped: Option<usize>,
    /// True once something other than stripped characters has come.
    inside: bool,
}

impl Detokenizer {
    /// Tokens of up to `longest` bytes need no more memory than is taken here.
    pub(super) fn with_room(longest: usize) -> Detokenizer {
        // The beginning of a character of four bytes, a space, and the token.
        Detokenizer { held: Vec::with_capacity(longest + 4), ..Detokenizer::default() }
    }

    /// Appends the text that is complete with this token.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32, out: &mut String) {
        let pieces = tokenizer.pieces();
        let bytes = pieces.get(token);
        if bytes.is_empty() {
            return;
        }
        let begin = out.len();
        let spaceless = !self.begun && pieces.start.spaceless;
        let space = (self.begun && pieces.start.spaced).then_some(b' ');
        if self.held.is_empty()
            && !spaceless
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            // As a rule a token is whole characters.
            out.extend(space.map(char::from));
            out.push_str(text);
        } else {
            self.held.extend(space);
            self.held.extend(bytes.iter().filter(|&&b| !(spaceless && b == b' ')));
            self.take_complete(out);
        }
        self.begun = true;
        self.strip(&pieces.start, begin, out);
    }

    /// Appends what stands for a character that will not be completed.
    pub fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.held).is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }

    /// Moves all but an incomplete character at the end from `held` to `out`.
    fn take_complete(&mut self, out: &mut String) {
        let mut rest: &[u8] = &self.held;
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (text, after) = rest.split_at(e.valid_up_to());
                    out.push_str(std::str::from_utf8(text).unwrap_or_default());
                    rest = after;
                    let Some(bad) = e.error_len() else { break };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        let done = self.held.len() - rest.len();
        self.held.drain(..done);
    }

    /// Leaves out what the beginning of a text has too much; `out` from `begin` on is new.
    fn strip(&mut self, start: &Start, begin: usize, out: &mut String) {
        let Some((content, most)) = start.strip.filter(|_| !self.inside) else {
            return;
        };
        let done = self.stripped.unwrap_or(0);
        let new = &out[begin..];
        let count = new.chars().take(most - done.min(most)).take_while(|&c| c == content).count();
        let cut = count * content.len_utf8();
        self.inside = new.len() > cut || done + count == most;
        self.stripped = Some(done + count);
        out.drain(begin..begin + cut);
    }
}
