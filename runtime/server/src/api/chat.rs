//! `POST /v1/chat/completions`: the body to a request for the engine.

use super::Endpoint;
use super::fields::Fields;
use super::params::{self, Common, Facts, Wish};
use super::tools::{self, Tools};
use crate::error::ApiError;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use trtc_runtime::text::Message;

/// Who may speak.
pub const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Reads a body; the model is known already.
pub fn parse(mut fields: Fields, facts: &Facts) -> Result<Wish, ApiError> {
    let messages = messages(&mut fields)?;
    let common = params::common(&mut fields, facts, Endpoint::Chat)?;
    let (older, newer) = (fields.count("max_tokens")?, fields.count("max_completion_tokens")?);
    if let (Some(older), Some(newer)) = (older, newer)
        && older != newer
    {
        let what = format!("max_tokens is {older} and max_completion_tokens is {newer}: give one of them");
        return Err(ApiError::invalid(what).param("max_tokens"));
    }
    let reports = fields.flag("logprobs")?.unwrap_or(false);
    let top = params::alternatives(&mut fields, "top_logprobs")?;
    if top.is_some_and(|k| k > 0) && !reports {
        let what = "top_logprobs is given and logprobs is not true: give logprobs true";
        return Err(ApiError::invalid(what).param("top_logprobs"));
    }
    let tools = tools::take(&mut fields, facts, Endpoint::Chat)?;
    params::finish(fields)?;
    wish(common, &messages, tools, newer.or(older), reports.then_some(top.unwrap_or(0)), facts)
}

/// The request for an answer to a conversation: of so many tokens at most, with so many alternatives to each.
pub fn wish(
    common: Common,
    messages: &[Message],
    tools: Option<Tools>,
    max_tokens: Option<u32>,
    logprobs: Option<u32>,
    facts: &Facts,
) -> Result<Wish, ApiError> {
    let Common { request: mut base, stream, timeout } = common;
    base.logprobs = logprobs;
    if let Some(tools) = &tools {
        base.grammar = tools.grammar(base.grammar.as_ref(), facts)?;
    }
    let given = tools.as_ref().map_or(&[][..], |t| &t.given);
    let ids = prompt(messages, given, facts, true)?;
    let request = params::complete(&base, ids, max_tokens, facts)?;
    Ok(Wish {
        requests: vec![request],
        echo: Vec::new(),
        stream,
        timeout,
        logprobs,
        prompt_logprobs: None,
        tools: tools.map(Arc::new),
        asked: Map::new(),
    })
}

/// The tokens of a conversation in which these tools may be called, up to where the answer begins.
pub fn prompt(
    messages: &[Message],
    tools: &[Value],
    facts: &Facts,
    answer: bool,
) -> Result<Vec<u32>, ApiError> {
    let Some(template) = &facts.template else {
        return Err(ApiError::invalid("this model has no chat template: use /v1/completions"));
    };
    let text = template.render(messages, tools, answer).map_err(|e| ApiError::from(e).param("messages"))?;
    // Templates write their own BOS token.
    params::encode(facts, &text, false)
}

/// Takes the messages of a chat.
pub fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let want = "a list of messages, such as [{\"role\": \"user\", \"content\": \"Hello\"}]";
    match fields.take("messages") {
        None => Err(ApiError::invalid(format!("messages is missing: give {want}")).param("messages")),
        Some(Value::Array(list)) if !list.is_empty() => {
            (0..).zip(list).map(|(i, value)| message(i, value)).collect()
        }
        Some(Value::Array(_)) => {
            Err(ApiError::invalid(format!("messages is empty: give {want}")).param("messages"))
        }
        Some(other) => Err(fields.wrong("messages", want, &other)),
    }
}

fn message(index: usize, value: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::of(value, format!("messages[{index}]."))?;
    let role = role(&mut fields, &ROLES)?;
    let mut more = Map::new();
    for name in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = fields.text(name)? {
            more.insert(name.to_owned(), text.into());
        }
    }
    let calls = tool_calls(&mut fields)?;
    let called = !calls.is_empty();
    if called {
        if role != "assistant" {
            let path = fields.path("tool_calls");
            return Err(ApiError::invalid(format!("{path}: {role} calls no tools")).param(path));
        }
        more.insert("tool_calls".to_owned(), calls.into());
    }
    // Who calls need not say anything.
    let content = content(&mut fields, "content", &["text"], called)?;
    no_annotations(&mut fields)?;
    fields.finish()?;
    Ok(Message { role, content, more })
}

/// Who speaks, one of these.
pub fn role(fields: &mut Fields, roles: &[&str]) -> Result<String, ApiError> {
    let role = fields.text("role")?.unwrap_or_default();
    if !roles.contains(&role.as_str()) {
        let what = format!("{} is {role:?}: give one of {}", fields.path("role"), roles.join(", "));
        return Err(ApiError::invalid(what).param(fields.path("role")));
    }
    Ok(role)
}

/// Takes what clients send back of an answer that had nothing of the kind.
fn no_annotations(fields: &mut Fields) -> Result<(), ApiError> {
    match fields.take("annotations") {
        Some(value) if value.as_array().is_none_or(|list| !list.is_empty()) => {
            Err(ApiError::unsupported(fields.path("annotations"), "it is not supported; leave it out"))
        }
        _ => Ok(()),
    }
}

/// A call for templates: arguments that are a JSON object in a text become that object. None if they are neither.
pub fn call(id: Option<String>, name: String, arguments: Option<Value>) -> Option<Value> {
    let arguments = match arguments {
        None => json!({}),
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(object @ Value::Object(_)) => object,
            _ => Value::String(text),
        },
        Some(object @ Value::Object(_)) => object,
        Some(_) => return None,
    };
    Some(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
}

/// Calls that an answer had.
fn tool_calls(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let path = fields.path("tool_calls");
    let want = "a list of calls, such as {\"id\": \"...\", \"type\": \"function\", \"function\": {\"name\": \"...\", \
                \"arguments\": \"{}\"}}";
    let list = match fields.take("tool_calls") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(fields.wrong("tool_calls", want, &other)),
    };
    let one = |(i, value): (usize, Value)| -> Result<Value, ApiError> {
        let wrong = || ApiError::invalid(format!("{path}[{i}] is no call: give {want}")).param(path.clone());
        let mut call = Fields::of(value, format!("{path}[{i}]."))?;
        let (id, kind) = (call.text("id")?, call.text("type")?);
        let mut function = call.object("function")?.ok_or_else(wrong)?;
        call.finish()?;
        let name = function.text("name")?.ok_or_else(wrong)?;
        let arguments = function.take("arguments");
        function.finish()?;
        if kind.is_some_and(|kind| kind != "function") {
            return Err(wrong());
        }
        self::call(id, name, arguments).ok_or_else(wrong)
    };
    list.into_iter().enumerate().map(one).collect()
}

/// Words in a field: a text, or parts of text of these types, which stand on lines of their own.
pub fn content(fields: &mut Fields, name: &str, types: &[&str], optional: bool) -> Result<String, ApiError> {
    let first = types.first().copied().unwrap_or_default();
    let want = format!("a string, or a list of parts such as {{\"type\": \"{first}\", \"text\": \"Hello\"}}");
    let path = fields.path(name);
    match fields.take(name) {
        None if optional => Ok(String::new()),
        None => Err(ApiError::invalid(format!("{path} is missing: give {want}")).param(path)),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            let part = |(i, value): (usize, Value)| -> Result<String, ApiError> {
                let mut part = Fields::of(value, format!("{path}[{i}]."))?;
                let kind = part.text("type")?.unwrap_or_default();
                if !types.contains(&kind.as_str()) {
                    let types = types.join(" or ");
                    let why = format!("parts of type {kind:?} are not supported; give parts of type {types}");
                    return Err(ApiError::unsupported(part.path("type"), &why));
                }
                let text = part.text("text")?;
                let text = text.ok_or_else(|| {
                    ApiError::invalid(format!("{} is missing: give a string", part.path("text")))
                })?;
                no_annotations(&mut part)?;
                // Reported with an answer that is sent back.
                if kind == "output_text" {
                    part.take("logprobs");
                }
                part.finish()?;
                Ok(text)
            };
            let texts: Vec<String> = parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?;
            Ok(texts.join("\n"))
        }
        Some(other) => Err(fields.wrong(name, &want, &other)),
    }
}
