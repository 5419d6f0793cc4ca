//! The text handling of a Hugging Face folder: tokenizer, chat template, special tokens, sampling defaults.

use super::read_object;
use crate::frontend::facts::Facts;
use crate::frontend::{Generation, TokenizerData};
use serde_json::Value;
use std::path::Path;
use tokenizers::Tokenizer;
use trtc_ir::{Diag, Loc};

/// Text handling with the ids that it resolves.
pub struct Text {
    /// What the engine keeps.
    pub data: TokenizerData,
    /// Id of the BOS token, where prompts begin with it.
    pub bos: Option<u32>,
    /// Id of the EOS token.
    pub eos: Option<u32>,
}

/// Files of tokenizers that are not read.
const OTHERS: [&str; 4] = ["tokenizer.model", "vocab.json", "spiece.model", "tekken.json"];

fn facts(path: &Path) -> Result<Option<Facts>, Diag> {
    if !path.is_file() {
        return Ok(None);
    }
    Ok(Some(Facts::new(Loc::name(path.display().to_string()), read_object(path)?)))
}

fn read_text(path: &Path) -> Result<String, Diag> {
    std::fs::read_to_string(path)
        .map_err(|e| Diag::user(&Loc::name(path.display().to_string()), format!("cannot be read: {e}")))
}

/// Reads the tokenizer of a folder. `bos` is the token that the configuration names.
pub fn read(folder: &Path, bos: Option<u32>) -> Result<Option<Text>, Diag> {
    let path = folder.join("tokenizer.json");
    if !path.is_file() {
        return match OTHERS.iter().find(|f| folder.join(f).is_file()) {
            None => Ok(None),
            Some(other) => Err(Diag::unsupported(
                &Loc::name(folder.display().to_string()),
                format!("has a tokenizer in {other}, but no tokenizer.json"),
            )
            .help("write one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)")),
        };
    }
    let loc = Loc::name(path.display().to_string());
    let json = read_text(&path)?;
    let tokenizer = Tokenizer::from_bytes(json.as_bytes()).map_err(|e| {
        Diag::user(&loc, format!("cannot be read as a tokenizer: {e}")).help("fetch the file again")
    })?;
    let config = facts(&folder.join("tokenizer_config.json"))?;
    let (mut bos_token, mut eos_token, mut stated) = (None, None, None);
    if let Some(c) = &config {
        bos_token = token(c, "bos_token")?;
        eos_token = token(c, "eos_token")?;
        stated = c.bool("add_bos_token")?;
    }
    let added = prepended(&tokenizer, &loc)?;
    let by_name = bos_token.as_deref().and_then(|t| tokenizer.token_to_id(t));
    let bos = added.or(by_name).or(bos);
    let add_bos = stated.unwrap_or(added.is_some());
    if add_bos && bos.is_none() {
        let c = config.unwrap_or_else(|| Facts::new(loc, serde_json::Map::new()));
        return Err(c.wrong("add_bos_token", "is true, and no file says which token that is"));
    }
    let bos_token = bos_token.or_else(|| bos.and_then(|id| tokenizer.id_to_token(id)));
    let eos = eos_token.as_deref().and_then(|t| tokenizer.token_to_id(t));
    let chat_template = chat_template(folder, config.as_ref())?;
    let data = TokenizerData { json, add_bos, chat_template, bos_token, eos_token };
    Ok(Some(Text { data, bos: bos.filter(|_| add_bos), eos }))
}

/// The token that the tokenizer's own post-processing puts before a text, if it does.
fn prepended(tokenizer: &Tokenizer, loc: &Loc) -> Result<Option<u32>, Diag> {
    let encode = |special| {
        tokenizer
            .encode("a", special)
            .map_err(|e| Diag::user(loc, format!("cannot encode a text: {e}")).help("fetch the file again"))
    };
    let (with, without) = (encode(true)?, encode(false)?);
    let (with, without) = (with.get_ids(), without.get_ids());
    Ok(with.first().copied().filter(|first| with.len() > without.len() && without.first() != Some(first)))
}

/// A special token: its text, or an object with it.
fn token(config: &Facts, key: &str) -> Result<Option<String>, Diag> {
    match config.get(key) {
        Some(Value::Object(_)) => {
            let object = config.object(key)?;
            Ok(object.as_ref().map(|o| o.str("content")).transpose()?.flatten().map(str::to_owned))
        }
        _ => Ok(config.str(key)?.map(str::to_owned)),
    }
}

/// The chat template: a file of its own, or an entry of the tokenizer's configuration, one or several with names.
fn chat_template(folder: &Path, config: Option<&Facts>) -> Result<Option<String>, Diag> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        return read_text(&file).map(Some);
    }
    if let Some(c) = facts(&folder.join("chat_template.json"))? {
        return template_of(&c);
    }
    config.map_or(Ok(None), template_of)
}

fn template_of(config: &Facts) -> Result<Option<String>, Diag> {
    const KEY: &str = "chat_template";
    let Some(Value::Array(list)) = config.get(KEY) else {
        return Ok(config.str(KEY)?.map(str::to_owned));
    };
    let part = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let named = |entry: &&Value| part(entry, "name").as_deref() == Some("default");
    let chosen = list.iter().find(named).or(list.first());
    match chosen.map(|entry| part(entry, "template")) {
        None => Ok(None),
        Some(Some(template)) => Ok(Some(template)),
        Some(None) => Err(config.wrong(KEY, "must be a string, or a list of objects with name and template")),
    }
}

/// Sampling defaults, and the tokens that end a sequence according to the same file.
pub fn generation(folder: &Path) -> Result<(Generation, Vec<u32>), Diag> {
    let Some(c) = facts(&folder.join("generation_config.json"))? else {
        return Ok((Generation::default(), Vec::new()));
    };
    let number = |key: &str, ok: fn(f64) -> bool, want: &str| match c.f64(key)? {
        Some(x) if !ok(x) => Err(c.wrong(key, format!("must be {want}, found {x}"))),
        x => Ok(x.map(|x| x as f32)),
    };
    let mut g = Generation {
        temperature: number("temperature", |x| x >= 0.0, "at least 0")?,
        top_k: c.u32("top_k")?,
        top_p: number("top_p", |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")?,
        min_p: number("min_p", |x| (0.0..=1.0).contains(&x), "from 0 to 1")?,
        repetition_penalty: number("repetition_penalty", |x| x > 0.0, "above 0")?,
    };
    // Without sampling the other settings mean nothing, and libraries leave their defaults in the file.
    if c.bool("do_sample")? == Some(false) {
        g = Generation {
            temperature: Some(0.0),
            repetition_penalty: g.repetition_penalty,
            ..Generation::default()
        };
    }
    Ok((g, c.ids("eos_token_id")?))
}
