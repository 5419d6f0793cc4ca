//! [`GrammarSpec`]: a grammar as callers write it, and how it is put to llguidance.

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

/// Whitespace between two tokens of JSON: enough for deep indentation, and not without end, which a model may fall into.
const WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// A grammar as callers write it.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarSpec {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes (<https://json-schema.org>, draft 2020-12 and before). Keywords that cannot be
    /// enforced are refused by name.
    JsonSchema(Value),
    /// A regular expression in the notation of Rust's `regex` that the whole text matches.
    Regex(String),
    /// A context-free grammar in Lark's notation, which is EBNF; it begins at `start`
    /// (<https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md>).
    Lark(String),
    /// One of several texts.
    Choice(Vec<String>),
}

impl GrammarSpec {
    /// What it is, for people.
    pub fn name(&self) -> &'static str {
        match self {
            GrammarSpec::JsonObject => "the JSON object",
            GrammarSpec::JsonSchema(_) => "the JSON schema",
            GrammarSpec::Regex(_) => "the regular expression",
            GrammarSpec::Lark(_) => "the grammar",
            GrammarSpec::Choice(_) => "the choice",
        }
    }

    pub(super) fn help(&self) -> &'static str {
        match self {
            GrammarSpec::JsonObject | GrammarSpec::JsonSchema(_) => {
                "give a JSON schema whose keywords can be enforced token by token"
            }
            GrammarSpec::Regex(_) => {
                "give a regular expression in the notation of Rust's regex, without anchors, look-around and back-references"
            }
            GrammarSpec::Lark(_) => "give a grammar in Lark's notation with a rule `start`",
            GrammarSpec::Choice(_) => "give at least one text, none of them empty",
        }
    }

    /// The grammar for llguidance, or what is wrong with it.
    pub(super) fn lower(&self) -> Result<TopLevelGrammar, String> {
        match self {
            GrammarSpec::JsonObject => schema(&json!({ "type": "object" })),
            GrammarSpec::JsonSchema(value) => schema(value),
            GrammarSpec::Regex(pattern) => Ok(TopLevelGrammar::from_regex(pattern)),
            GrammarSpec::Lark(text) => Ok(TopLevelGrammar::from_lark(text.clone())),
            GrammarSpec::Choice(texts) => {
                if texts.is_empty() || texts.iter().any(String::is_empty) {
                    return Err("it has no text, or an empty one".to_owned());
                }
                // Strings of JSON are strings of Lark.
                let texts: Vec<String> = texts.iter().map(|t| Value::from(t.as_str()).to_string()).collect();
                Ok(TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | "))))
            }
        }
    }
}

/// JSON of a schema as an element of a rule in Lark's notation.
///
/// # Errors
/// It is no schema.
pub fn lark_json(value: &Value) -> Result<String, String> {
    Ok(format!("%json {}", bounded(value)?))
}

fn schema(value: &Value) -> Result<TopLevelGrammar, String> {
    bounded(value).map(TopLevelGrammar::from_json_schema)
}

/// A schema with bounded whitespace. How llguidance writes JSON is not the client's to choose.
fn bounded(value: &Value) -> Result<Value, String> {
    let mut value = match value {
        Value::Bool(true) => json!({}),
        Value::Object(_) => value.clone(),
        _ => return Err("it is not an object".to_owned()),
    };
    value["x-guidance"] = json!({ "whitespace_pattern": WHITESPACE });
    Ok(value)
}
