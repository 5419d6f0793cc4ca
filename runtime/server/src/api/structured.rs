//! What an answer must look like: `response_format` and `text` as OpenAI has them, `structured_outputs` and `guided_...` as vLLM has them.
//!
//! From fields to a grammar's description; compiling it is the runtime's business.

use super::Endpoint;
use super::fields::Fields;
use super::params::Facts;
use crate::error::ApiError;
use serde_json::Value;
use trtc_runtime::{Grammar, GrammarSpec};

/// A wanted grammar and the parameter that asked for it.
type Asked = (GrammarSpec, String);

/// Takes the parameters that describe an answer and compiles what they say; none if nothing is said.
///
/// # Errors
/// Two of them, one that is not understood, or a grammar that cannot be followed.
pub fn take(fields: &mut Fields, facts: &Facts, endpoint: Endpoint) -> Result<Option<Grammar>, ApiError> {
    let format = match endpoint {
        Endpoint::Responses => text_format(fields)?,
        _ => fields.object("response_format")?,
    };
    let format = format.map(|format| response_format(format, endpoint)).transpose()?;
    let mut asked: Vec<Asked> = format.flatten().into_iter().collect();
    if let Some(mut outputs) = fields.object("structured_outputs")? {
        let before = asked.len();
        guided(&mut outputs, "", &mut asked)?;
        if asked.len() == before {
            let what = "structured_outputs is empty: give json, json_object, regex, choice or grammar in it";
            return Err(ApiError::invalid(what).param("structured_outputs"));
        }
        outputs.finish()?;
    }
    guided(fields, "guided_", &mut asked)?;
    if let [(_, first), (_, second), ..] = asked.as_slice() {
        let what = format!("{first} and {second} both say what the answer must look like: give one of them");
        return Err(ApiError::invalid(what).param(second.clone()));
    }
    asked.pop().map(|(spec, param)| compile(&spec, &param, facts)).transpose()
}

/// Compiles a grammar for a model.
pub fn compile(spec: &GrammarSpec, param: &str, facts: &Facts) -> Result<Grammar, ApiError> {
    let none = || {
        ApiError::invalid("this model has no tokenizer, and answers cannot be held to a text's form")
            .param(param)
    };
    let grammars = facts.grammars.as_ref().ok_or_else(none)?;
    grammars.compile(spec).map_err(|e| ApiError::from(e).param(param))
}

/// The format in a response's `text`.
fn text_format(fields: &mut Fields) -> Result<Option<Fields>, ApiError> {
    let Some(mut text) = fields.object("text")? else { return Ok(None) };
    let format = text.object("format")?;
    if text.text("verbosity")?.is_some_and(|word| word != "medium") {
        let why = "models know no verbosity; give medium, or leave it out";
        return Err(ApiError::unsupported(text.path("verbosity"), why));
    }
    text.finish()?;
    Ok(format)
}

/// `{"type": "json_schema", "json_schema": {"name": "...", "schema": {...}}}`, and what else a type may be; nothing for text.
/// Responses have what describes the schema beside the type.
fn response_format(mut format: Fields, endpoint: Endpoint) -> Result<Option<Asked>, ApiError> {
    let path = format.path("type");
    let kind = format.text("type")?.unwrap_or_default();
    let missing =
        |name: String, want: &str| ApiError::invalid(format!("{name} is missing: give {want}")).param(name);
    let spec = match kind.as_str() {
        "text" => None,
        "json_object" => Some(GrammarSpec::JsonObject),
        "json_schema" if endpoint == Endpoint::Responses => Some(schema_of(&mut format)?),
        "json_schema" => {
            let name = format.path("json_schema");
            let mut inner = format
                .object("json_schema")?
                .ok_or_else(|| missing(name, "an object with a name and a schema"))?;
            let spec = schema_of(&mut inner)?;
            inner.finish()?;
            Some(spec)
        }
        "regex" => {
            let name = format.path("regex");
            Some(GrammarSpec::Regex(format.text("regex")?.ok_or_else(|| missing(name, "a string"))?))
        }
        "grammar" => {
            let name = format.path("grammar");
            Some(GrammarSpec::Lark(format.text("grammar")?.ok_or_else(|| missing(name, "a string"))?))
        }
        other => {
            let what = format!("{path} is {other:?}: give text, json_object, json_schema, regex or grammar");
            return Err(ApiError::invalid(what).param(path));
        }
    };
    format.finish()?;
    Ok(spec.map(|spec| (spec, path.trim_end_matches(".type").to_owned())))
}

/// The schema among `name`, `description`, `schema` and `strict`. Answers are held to it in any case.
fn schema_of(fields: &mut Fields) -> Result<GrammarSpec, ApiError> {
    let path = fields.path("schema");
    fields.text("name")?;
    fields.text("description")?;
    fields.flag("strict")?;
    let want = "a JSON schema";
    match fields.take("schema") {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(GrammarSpec::JsonSchema(schema)),
        Some(other) => Err(fields.wrong("schema", want, &other)),
        None => Err(ApiError::invalid(format!("{path} is missing: give {want}")).param(path)),
    }
}

/// vLLM's parameters, each behind `prefix`.
fn guided(fields: &mut Fields, prefix: &str, asked: &mut Vec<Asked>) -> Result<(), ApiError> {
    let name = |short: &str| format!("{prefix}{short}");
    if let Some(value) = fields.take(&name("json")) {
        let schema = match value {
            // Some clients send the schema as a text.
            Value::String(text) => serde_json::from_str(&text).map_err(|e| {
                let path = fields.path(&name("json"));
                ApiError::invalid(format!("{path} is a text that is no JSON: {e}")).param(path)
            })?,
            value => value,
        };
        asked.push((GrammarSpec::JsonSchema(schema), fields.path(&name("json"))));
    }
    if fields.flag(&name("json_object"))?.unwrap_or(false) {
        asked.push((GrammarSpec::JsonObject, fields.path(&name("json_object"))));
    }
    if let Some(pattern) = fields.text(&name("regex"))? {
        asked.push((GrammarSpec::Regex(pattern), fields.path(&name("regex"))));
    }
    if let Some(grammar) = fields.text(&name("grammar"))? {
        asked.push((GrammarSpec::Lark(grammar), fields.path(&name("grammar"))));
    }
    if let Some(texts) = fields.texts(&name("choice"))? {
        asked.push((GrammarSpec::Choice(texts), fields.path(&name("choice"))));
    }
    Ok(())
}
