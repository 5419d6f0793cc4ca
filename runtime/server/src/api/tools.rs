//! Functions that a model may call: what clients say of them, how models write calls, and grammars that hold them to it.
//!
//! Every family of models has its own notation, which its chat template teaches it; [`FORMATS`] lists those that are known.
//! Reading calls out of an answer is `calls.rs`.

use super::Endpoint;
use super::fields::Fields;
use super::params::Facts;
use super::structured;
use crate::error::ApiError;
use serde_json::{Value, json};
use std::fmt::Write;
use trtc_runtime::grammar::{GrammarSpec, lark_json};
use trtc_runtime::{Grammar, text::ChatTemplate};

/// How a model writes calls.
#[derive(Debug, PartialEq, Eq)]
pub struct Format {
    /// What its chat template has in it.
    mark: &'static str,
    /// What stands around each call; nothing where an answer is calls or text from its first character.
    pub tags: Option<(&'static str, &'static str)>,
    /// The calls of an answer are a list.
    pub list: bool,
    /// The field of the arguments.
    pub arguments: &'static str,
}

/// The notations, the first that fits counts.
pub const FORMATS: [Format; 3] = [
    // Hermes, Qwen 2.5 and 3, SmolLM3: https://github.com/NousResearch/Hermes-Function-Calling
    Format {
        mark: "<tool_call>",
        tags: Some(("<tool_call>", "</tool_call>")),
        list: false,
        arguments: "arguments",
    },
    // Mistral; the mark is a special token and no text: https://docs.mistral.ai/capabilities/function_calling
    Format { mark: "[TOOL_CALLS]", tags: None, list: true, arguments: "arguments" },
    // Llama 3.1 and later: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1
    Format { mark: "\"parameters\"", tags: None, list: false, arguments: "parameters" },
];

/// What the model may do.
#[derive(Clone, Debug, PartialEq)]
enum Choice {
    /// Answer, or call functions.
    Auto,
    /// Call some function.
    Required,
    /// Call this one.
    Named(String),
}

#[derive(Clone, Debug, PartialEq)]
struct Tool {
    name: String,
    /// A JSON schema.
    parameters: Value,
    /// Arguments are held to it also where the model need not call.
    strict: bool,
}

/// The functions of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    /// As the client described them: what templates are given.
    pub given: Vec<Value>,
    tools: Vec<Tool>,
    choice: Choice,
    /// An answer may have several calls.
    pub parallel: bool,
    /// The model's notation.
    pub format: &'static Format,
}

/// Takes the functions of a chat and what is to be done with them; none if there are none, or none may be called.
///
/// # Errors
/// They are not understood, contradict each other, or the model has no notation for calls.
pub fn take(fields: &mut Fields, facts: &Facts, endpoint: Endpoint) -> Result<Option<Tools>, ApiError> {
    let list = fields.take("tools");
    let choice = fields.take("tool_choice");
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    let list = match list {
        None => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(fields.wrong("tools", "a list of tools", &other)),
    };
    let (mut given, mut tools) = (Vec::new(), Vec::<Tool>::new());
    for (i, value) in list.into_iter().enumerate() {
        let function = function_of(value, &format!("tools[{i}]."), endpoint)?;
        tools.push(tool(function.clone(), endpoint)?);
        given.push(json!({ "type": "function", "function": Value::Object(function.into_map()) }));
    }
    for (i, tool) in tools.iter().enumerate() {
        if tools[..i].iter().any(|t| t.name == tool.name) {
            let what = format!("tools has two functions with the name {:?}", tool.name);
            return Err(ApiError::invalid(what).param("tools"));
        }
    }
    let choice = match choice_of(choice, &tools)? {
        Some(choice) if !tools.is_empty() => choice,
        _ => return Ok(None),
    };
    let none = |what: &str| {
        ApiError::unsupported(
            "tools",
            &format!("{what}; leave it out, or describe the functions in a message"),
        )
    };
    let template = facts.template.as_deref().ok_or_else(|| none("this model has no chat template"))?;
    let format = format_of(template).ok_or_else(|| none("this model's chat template knows no tools"))?;
    Ok(Some(Tools { given, tools, choice, parallel, format }))
}

/// The notation that a template teaches.
fn format_of(template: &ChatTemplate) -> Option<&'static Format> {
    FORMATS.iter().find(|f| template.mentions("tools") && template.mentions(f.mark))
}

/// What may be done; none for nothing.
fn choice_of(value: Option<Value>, tools: &[Tool]) -> Result<Option<Choice>, ApiError> {
    let wrong = |what: String| ApiError::invalid(what).param("tool_choice");
    let choice = match &value {
        None => Choice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(None),
            "auto" => Choice::Auto,
            "required" => Choice::Required,
            other => {
                return Err(wrong(format!(
                    "tool_choice is {other:?}: give none, auto, required or a function"
                )));
            }
        },
        Some(object) => {
            // As chats have it, or as responses do.
            let name = object["function"]["name"].as_str().or(object["name"].as_str());
            match name.filter(|_| object["type"] == "function") {
                Some(name) => Choice::Named(name.to_owned()),
                None => {
                    let want = "{\"type\": \"function\", \"function\": {\"name\": \"...\"}}";
                    return Err(wrong(format!(
                        "tool_choice is not understood: give none, auto, required or {want}"
                    )));
                }
            }
        }
    };
    match &choice {
        Choice::Auto => {}
        _ if tools.is_empty() => {
            return Err(wrong("tool_choice wants a call and tools has no function".to_owned()));
        }
        Choice::Named(name) if tools.iter().all(|t| t.name != *name) => {
            return Err(wrong(format!("tool_choice names {name:?}, which is none of tools")));
        }
        _ => {}
    }
    Ok(Some(choice))
}

/// What describes the function of `{"type": "function", "function": {"name", "description", "parameters", "strict"}}`; in
/// requests for responses it stands beside the type.
fn function_of(value: Value, at: &str, endpoint: Endpoint) -> Result<Fields, ApiError> {
    let mut outer = Fields::of(value, at.to_owned())?;
    let kind = outer.text("type")?.unwrap_or_default();
    if kind != "function" {
        let why = format!("tools of type {kind:?} are not supported; give functions");
        return Err(ApiError::unsupported(outer.path("type"), &why));
    }
    if endpoint == Endpoint::Responses {
        return Ok(outer);
    }
    let path = outer.path("function");
    let inner = outer.object("function")?.ok_or_else(|| {
        ApiError::invalid(format!("{path} is missing: give an object with a name")).param(path)
    })?;
    outer.finish()?;
    Ok(inner)
}

/// `name`, `description`, `parameters`, `strict`. Templates may know more of a chat's functions.
fn tool(mut fields: Fields, endpoint: Endpoint) -> Result<Tool, ApiError> {
    let path = fields.path("name");
    let name = fields.text("name")?.unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        let what = format!("{path} is {name:?}: give 1 to 64 letters, digits, underscores, dots and dashes");
        return Err(ApiError::invalid(what).param(path));
    }
    fields.text("description")?;
    let strict = fields.flag("strict")?.unwrap_or(false);
    let parameters = match fields.take("parameters") {
        None => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
        Some(schema @ Value::Object(_)) => schema,
        Some(other) => return Err(fields.wrong("parameters", "a JSON schema", &other)),
    };
    if endpoint == Endpoint::Responses {
        fields.finish()?;
    }
    Ok(Tool { name, parameters, strict })
}

impl Tools {
    /// Functions without arguments, one of which may be called.
    #[cfg(test)]
    pub fn of_names(names: &[&str], parallel: bool, format: &'static Format) -> Tools {
        let tool = |name: &&str| Tool { name: (*name).to_owned(), parameters: json!({}), strict: false };
        let tools = names.iter().map(tool).collect();
        Tools { given: Vec::new(), tools, choice: Choice::Auto, parallel, format }
    }

    /// True if there is a function of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tools.iter().any(|t| t.name == name)
    }

    /// The grammar of what the model may write, where text must have this format; none if it may write what it likes.
    pub fn grammar(&self, format: Option<&Grammar>, facts: &Facts) -> Result<Option<Grammar>, ApiError> {
        let spec = match self.lark(format.map(Grammar::spec))? {
            None => return Ok(None),
            Some(text) => GrammarSpec::Lark(text),
        };
        structured::compile(&spec, "tools", facts).map(Some)
    }

    /// A rule's right side for text of a format, where it can be told from a call by its first character: JSON, and calls
    /// in tags. The parser follows one of two grammars that begin alike, and not both.
    fn answer(&self, format: &GrammarSpec) -> Result<String, ApiError> {
        let json = match format {
            GrammarSpec::JsonObject => lark_json(&json!({ "type": "object" })),
            GrammarSpec::JsonSchema(schema) => lark_json(schema),
            _ => Err("it is not JSON".to_owned()),
        };
        let json = if self.format.tags.is_some() {
            json
        } else {
            Err("this model's calls begin as JSON does".to_owned())
        };
        json.map_err(|why| {
            let what = format!(
                "tools may be called and the answer must have a form, and nothing tells the two apart, for {why}: give \
                 tool_choice none or required, or leave out what describes the answer"
            );
            ApiError::invalid(what).param("tools")
        })
    }

    /// The same in Lark's notation.
    fn lark(&self, format: Option<&GrammarSpec>) -> Result<Option<String>, ApiError> {
        // Where a call is wanted there is no text that could have a format.
        let answer = match (format, &self.choice) {
            (Some(format), Choice::Auto) => Some(self.answer(format)?),
            _ => None,
        };
        let named = |tool: &&Tool| !matches!(&self.choice, Choice::Named(name) if tool.name != *name);
        let callable: Vec<&Tool> = self.tools.iter().filter(named).collect();
        if self.choice == Choice::Auto && answer.is_none() && !callable.iter().any(|t| t.strict) {
            return Ok(None);
        }
        let quoted = |text: &str| Value::from(text).to_string();
        let several = |rule: &str, between: &str| match self.parallel {
            true => format!("{rule} ({between} {rule})*"),
            false => rule.to_owned(),
        };
        let may_talk = self.choice == Choice::Auto;
        let mut text = match self.format.tags {
            Some((tag, close)) => {
                let close = quoted(&format!("\n{close}"));
                let calls = match (&answer, may_talk) {
                    (Some(json), _) => format!("{json} | {}", several("call", "\"\\n\"")),
                    // A text without the tag, or one that ends with it and goes on as a call.
                    (None, true) => format!(
                        "TEXT | head \"\\n\" body {close} (\"\\n\" call)*\nTEXT: ~/(?s:.*){tag}(?s:.*)/\n\
                         head[suffix={}]: /(?s:.*)/",
                        quoted(tag)
                    ),
                    (None, false) => several("call", "\"\\n\""),
                };
                format!("start: {calls}\ncall: {} body {close}\n", quoted(&format!("{tag}\n")))
            }
            None => {
                let calls = match self.format.list {
                    true => format!("\"[\" {} \"]\"", several("body", "\", \"")),
                    false => "body".to_owned(),
                };
                // What begins as a call is one.
                let opener = if self.format.list { "\\[" } else { "{" };
                match may_talk {
                    true => {
                        format!("start: TEXT | calls\nTEXT: /([^{opener}\\s](?s:.*))?/\ncalls: {calls}\n")
                    }
                    false => format!("start: {calls}\n"),
                }
            }
        };
        let names: Vec<String> = (0..callable.len()).map(|i| format!("f{i}")).collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "body: {}", names.join(" | "));
        for (tool, name) in callable.iter().zip(&names) {
            let begin = format!("{{\"name\": {}, {}: ", quoted(&tool.name), quoted(self.format.arguments));
            let schema = match tool.strict || !may_talk {
                true => lark_json(&tool.parameters),
                false => lark_json(&json!({ "type": "object" })),
            };
            let schema = schema.map_err(|e| {
                ApiError::invalid(format!("parameters of {:?}: {e}", tool.name)).param("tools")
            })?;
            let _ = writeln!(text, "{name}: {} {schema} \"}}\"", quoted(&begin));
        }
        Ok(Some(text))
    }
}
