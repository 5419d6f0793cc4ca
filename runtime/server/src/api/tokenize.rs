//! `POST /tokenize` and `POST /detokenize`: text to tokens and back, as prompts have them.

use super::fields::Fields;
use super::params::{self, Facts};
use super::{Endpoint, chat, tools};
use crate::error::ApiError;

/// The tokens of a text, or of messages up to where the answer begins; the model is known already.
pub fn tokens(mut fields: Fields, facts: &Facts) -> Result<Vec<u32>, ApiError> {
    if let Some(text) = fields.text("prompt")? {
        let special = fields.flag("add_special_tokens")?.unwrap_or(true);
        fields.finish()?;
        return params::encode(facts, &text, special);
    }
    let messages = chat::messages(&mut fields).map_err(|e| match e.param.as_deref() {
        Some("messages") => ApiError::invalid("give prompt, a string, or messages").param("prompt"),
        _ => e,
    })?;
    let answer = fields.flag("add_generation_prompt")?.unwrap_or(true);
    let tools = tools::take(&mut fields, facts, Endpoint::Chat)?;
    fields.finish()?;
    chat::prompt(&messages, tools.as_ref().map_or(&[], |t| &t.given), facts, answer)
}

/// The text of tokens; the model is known already.
pub fn text(mut fields: Fields, facts: &Facts) -> Result<String, ApiError> {
    let tokens = fields.ids("tokens")?;
    fields.finish()?;
    let tokens =
        tokens.ok_or_else(|| ApiError::invalid("tokens is missing: give a list of ids").param("tokens"))?;
    let vocab = facts.limits.vocab;
    if let Some(token) = tokens.iter().find(|&&t| t >= vocab) {
        let what = format!("tokens has {token}, the vocabulary has {vocab}");
        return Err(ApiError::invalid(what).param("tokens"));
    }
    let none = || ApiError::invalid("this model has no tokenizer");
    Ok(facts.tokenizer.as_ref().ok_or_else(none)?.decode(&tokens))
}
